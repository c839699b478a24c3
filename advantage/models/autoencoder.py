"""Autoencoders: a short vector from which an observation can be drawn again.

Source: Hinton & Salakhutdinov 2006, "Reducing the dimensionality of data with neural networks"; Kingma & Welling 2014,
"Auto-encoding variational Bayes", eq. 10, for the variational form.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from gymnasium import spaces

from advantage.models.pictures import Decoder, decoder_of, picture_network
from advantage.policies.distributions import Gaussian
from advantage.policies.encoder import Encoder, encoder
from advantage.policies.networks import Activation, Network, linear, linear_init
from advantage.types import Array, Key, Pytree


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Autoencoder:
    """The networks; parameters are `{"encode", "code", "decode"}`.

        z = W e(x)                                  plain
        z ~ N(m, s^2),   m, log s = W e(x)          variational; m is used wherever nothing is learned

    Attributes:
        encoder: from observations to inputs x.
        network: e.
        decode: from z to x.
        size: the length of z.
        variational: the kind.
    """

    encoder: Encoder
    network: Network
    decode: Decoder
    size: int
    variational: bool

    @property
    def space(self) -> spaces.Box:
        """The space of z."""
        return spaces.Box(-float("inf"), float("inf"), (self.size,))

    def init(self, key: Key) -> Pytree:
        """Draw parameters."""
        key_encode, key_code, key_decode = jax.random.split(key, 3)
        x = self.inputs(self.encoder.example())
        encode = self.network.init(key_encode, x)
        width = jax.eval_shape(self.network.apply, encode, x).shape[-1]
        (code,) = linear_init(key_code, [(width, (1 + self.variational) * self.size)], [1.0])
        decode = self.decode.init(key_decode, jnp.zeros((1, self.size)))
        return {"encode": encode, "code": code, "decode": decode}

    def inputs(self, obs: Pytree) -> Pytree:
        """x."""
        return self.encoder.encode(obs)

    def code(self, params: Pytree, obs: Pytree) -> Array:
        """z of observations, or its mean, `[..., size]`."""
        return self._distribution(params, self.inputs(obs)).mean

    def loss(
        self, params: Pytree, obs: Pytree, key: Key, beta: Array | float
    ) -> tuple[Array, dict[str, Array]]:
        """The mean over observations of |x - d(z)|^2 / 2, and of beta KL(N(m, s^2) || N(0, 1)): `-> loss, metrics`."""
        x: Any = self.inputs(obs)
        z = self._distribution(params, x)
        code = z.sample(z.noise(key, z.mean.shape[:-1], self.size)) if self.variational else z.mean
        squared = self.decode.loss(self.decode.apply(params["decode"], code), x).mean()
        metrics = {"reconstruction_loss": squared}
        if not self.variational:
            return squared, metrics
        kl = z.kl(Gaussian(jnp.zeros(self.size), jnp.zeros(self.size))).mean()
        return squared + beta * kl, metrics | {"kl": kl}

    def _distribution(self, params: Pytree, x: Pytree) -> Gaussian:
        outputs = linear(params["code"], self.network.apply(params["encode"], x))
        mean = outputs[..., : self.size]
        return Gaussian(mean, outputs[..., self.size :] if self.variational else jnp.zeros(self.size))


def autoencoder(
    space: spaces.Space, hidden: tuple[int, ...], activation: Activation, size: int, *, variational: bool
) -> Autoencoder:
    """The autoencoder of an observation space.

    Raises:
        ValueError: observations with an action mask, or that no network takes.
    """
    seen = encoder(space)
    if seen.has_mask:
        raise ValueError(
            "The observation has an action mask, which is no part of what an autoencoder draws again; use ppo or dqn, "
            "which obey it."
        )
    network, decode = picture_network(seen, hidden, activation), decoder_of(seen, hidden, activation)
    return Autoencoder(seen, network, decode, size, variational)
