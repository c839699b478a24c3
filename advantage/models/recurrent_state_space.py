"""A recurrent state-space model: what happens next, in a space of its own with a remembered and a random part.

Source: Hafner et al. 2019, "Learning latent dynamics for planning from pixels", section 3; Hafner et al. 2023,
"Mastering diverse domains through world models", for categories, the weights of the divergences and `symlog`.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from advantage.models.interface import Imagined
from advantage.models.latent_distributions import Latent
from advantage.models.pictures import Decoder
from advantage.objectives.symlog import symexp, symlog
from advantage.objectives.value_categories import category_loss, category_mean
from advantage.policies.encoder import Encoder
from advantage.policies.networks import MLP, Network, activate, linear, linear_init
from advantage.policies.recurrent import GRU
from advantage.replay.arrivals import Arrivals
from advantage.rows import choose
from advantage.types import Array, Key, Pytree


class Belief(NamedTuple):
    """A latent state of N environments: what is remembered `[N, h]`, and what was drawn `[N, z]`."""

    memory: Array
    drawn: Array

    @property
    def features(self) -> Array:
        """Both as one vector, `[N, h + z]`."""
        return jnp.concatenate([self.memory, self.drawn], axis=-1)


class Unrolled(NamedTuple):
    """Beliefs of sequences and the outputs of both distributions, `[L, N, ...]`: with the observation, and before."""

    belief: Belief
    posterior: Array
    prior: Array


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Numbers:
    """How rewards and values are predicted.

    Attributes:
        limit: categories of `squashed` numbers from -limit to limit; 0 predicts a number by squared error.
        symlog: whether that number is `symlog` of what it stands for.
    """

    limit: int
    symlog: bool

    @property
    def num_outputs(self) -> int:
        return 2 * self.limit + 1

    def mean(self, outputs: Array) -> Array:
        """The number that outputs stand for, `[..., num_outputs] -> [...]`."""
        if self.limit:
            return category_mean(outputs)
        return symexp(outputs[..., 0]) if self.symlog else outputs[..., 0]

    def loss(self, outputs: Array, x: Array) -> Array:
        """The cross-entropy of categories, or half the squared error, `[...]`."""
        if self.limit:
            return category_loss(outputs, x)
        return 0.5 * jnp.square(outputs[..., 0] - (symlog(x) if self.symlog else x))


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class RecurrentStateSpace:
    """The networks.

        h' = GRU(h; W [z, a]),   prior p(z' | h'),   posterior q(z' | h', e(x')),   x', r, end <- heads of [h', z']

    Parameters are `{"encode", "input", "cell", "prior", "posterior", "decode", "reward", "end"}`.

    Attributes:
        encoder: from observations to inputs.
        encode: e.
        decode: its opposite.
        layers: the hidden layers of the other networks.
        cell: the recurrence.
        latent: the kind of z.
        choices: the number of Discrete actions; 0 for a Box.
        action_size: the length of an action's vector.
        numbers: how rewards are predicted.
        symlog: whether numbers of observations are `symlog` of themselves.
    """

    encoder: Encoder
    encode: Network
    decode: Decoder
    layers: MLP
    cell: GRU
    latent: Latent
    choices: int
    action_size: int
    numbers: Numbers
    symlog: bool

    @property
    def num_features(self) -> int:
        """h + z."""
        return self.cell.size + self.latent.size

    def init(self, key: Key) -> Pytree:
        """Draw parameters. Rewards and reconstructed numbers are 0 at first."""
        keys, size = iter(jax.random.split(key, 12)), self.latent.size
        x = self.inputs(self.encoder.example())
        encode = self.encode.init(next(keys), x)
        seen = jax.eval_shape(self.encode.apply, encode, x).shape[-1]
        width, outputs = self.layers.hidden[-1], self.latent.num_outputs
        features = jnp.zeros((1, self.num_features))

        def head(x: Array, outputs: int, gain: float) -> Pytree:
            layers = self.layers.init(next(keys), x)
            return [*layers, *linear_init(next(keys), [(width, outputs)], [gain])]

        return {
            "encode": encode,
            "input": linear_init(next(keys), [(size + self.action_size, width)], [2**0.5])[0],
            "cell": self.cell.init(next(keys), jnp.zeros((1, width))),
            "prior": head(jnp.zeros((1, self.cell.size)), outputs, 1.0),
            "posterior": head(jnp.zeros((1, self.cell.size + seen)), outputs, 1.0),
            "decode": self.decode.init(next(keys), features),
            "reward": head(features, self.numbers.num_outputs, 0.0),
            "end": head(features, 1, 0.0),
        }

    def inputs(self, obs: Pytree) -> Pytree:
        """What is encoded and reconstructed."""
        return self.encoder.encode(obs, symlog) if self.symlog else self.encoder.encode(obs)

    def action_vector(self, action: Array) -> Array:
        """One action as a vector, `[..., k]`."""
        if self.choices:
            return jax.nn.one_hot(action, self.choices)
        return action.reshape(*action.shape[: action.ndim - 1], self.action_size).astype(jnp.float32)

    def initial(self, number: int) -> Belief:
        """Before the first observation."""
        return Belief(jnp.zeros((number, self.cell.size)), jnp.zeros((number, self.latent.size)))

    def embed(self, params: Pytree, obs: Pytree) -> Array:
        """e(x), `[..., k]`."""
        return self.encode.apply(params["encode"], self.inputs(obs))

    def prior(self, params: Pytree, belief: Belief, action: Array) -> tuple[Array, Array]:
        """After an action `[N, k]` and before the observation: `-> h', outputs of the prior`."""
        x = linear(params["input"], jnp.concatenate([belief.drawn, action], axis=-1))
        _, memory = self.cell.apply(params["cell"], activate(self.layers.activation, x), belief.memory)
        return memory, self._head(params["prior"], memory)

    def posterior(self, params: Pytree, memory: Array, embedding: Array) -> Array:
        """The outputs of the posterior."""
        return self._head(params["posterior"], jnp.concatenate([memory, embedding], axis=-1))

    def imagine(self, params: Pytree, belief: Belief, action: Array, noise: Array) -> Belief:
        """One step without an observation."""
        memory, prior = self.prior(params, belief, action)
        return Belief(memory, self.latent.sample(prior, noise))

    def observe(
        self, params: Pytree, belief: Belief, action: Array, embedding: Array, noise: Array | None
    ) -> Belief:
        """One step with an observation; without noise the most likely belief."""
        memory, _ = self.prior(params, belief, action)
        outputs = self.posterior(params, memory, embedding)
        drawn = self.latent.mode(outputs) if noise is None else self.latent.sample(outputs, noise)
        return Belief(memory, drawn)

    def unroll(self, params: Pytree, rows: Arrivals, noise: Array) -> Unrolled:
        """Beliefs along sequences `[L, N, ...]`, from nothing at each first observation."""
        embeddings = self.embed(params, rows.obs)
        actions = jnp.where(rows.first[..., None], 0.0, self.action_vector(rows.action))
        number = rows.reward.shape[1]

        def step(belief: Belief, now: tuple[Array, Array, Array, Array]) -> tuple[Belief, Unrolled]:
            first, action, embedding, noise = now
            begin = self.initial(number)
            belief = Belief(*(choose(first, b, x) for b, x in zip(begin, belief, strict=True)))
            memory, prior = self.prior(params, belief, action)
            posterior = self.posterior(params, memory, embedding)
            belief = Belief(memory, self.latent.sample(posterior, noise))
            return belief, Unrolled(belief, posterior, prior)

        return jax.lax.scan(step, self.initial(number), (rows.first, actions, embeddings, noise))[1]

    def decoded(self, params: Pytree, features: Array) -> Pytree:
        """The input that features stand for."""
        return self.decode.apply(params["decode"], features)

    def reward(self, params: Pytree, features: Array) -> Array:
        """Outputs for the reward of arriving."""
        return self._head(params["reward"], features)

    def end(self, params: Pytree, features: Array) -> Array:
        """Log-odds of the MDP having ended, `[...]`."""
        return self._head(params["end"], features)[..., 0]

    def _head(self, layers: Pytree, x: Array) -> Array:
        return linear(layers[-1], self.layers.apply(layers[:-1], x))


class Weights(NamedTuple):
    """What the parts of the loss weigh.

    Attributes:
        dynamics: the divergence that moves the prior to the posterior.
        representation: the divergence that moves the posterior to the prior.
        free_nats: a divergence below so many nats has no gradient, in each state.
    """

    dynamics: Array | float
    representation: Array | float
    free_nats: Array | float


def balanced_kl(latent: Latent, posterior: Array, prior: Array, weights: Weights) -> Array:
    """Both divergences, each at least the free nats, `[...]`.

        dynamics max(f, KL(sg(q) || p)) + representation max(f, KL(q || sg(p)))

    with sg the value without gradient. The maximum is taken in each state, before any mean.

    Source: Hafner et al. 2023, "Mastering diverse domains through world models", eq. 3.
    """
    stop = jax.lax.stop_gradient
    to_prior = jnp.maximum(weights.free_nats, latent.kl(stop(posterior), prior))
    to_posterior = jnp.maximum(weights.free_nats, latent.kl(posterior, stop(prior)))
    return weights.dynamics * to_prior + weights.representation * to_posterior


def sequence_loss(
    model: RecurrentStateSpace, params: Pytree, rows: Arrivals, noise: Array, weights: Weights
) -> tuple[Array, tuple[Belief, dict[str, Array]]]:
    """The mean over observations of what the model loses: `-> loss, (beliefs [L, N], metrics)`.

        |x - x'|^2 / 2 + loss of r + cross-entropy of the end + `balanced_kl`

    Rewards do not count at first observations, which nothing has earned.
    """
    unrolled = model.unroll(params, rows, noise)
    features, count = unrolled.belief.features, jnp.maximum(rows.mask.sum(), 1)

    def mean(x: Array, counts: Array = rows.mask) -> Array:
        return jnp.where(counts, x, 0.0).sum() / count

    parts = {
        "reconstruction_loss": mean(
            model.decode.loss(model.decoded(params, features), model.inputs(rows.obs))
        ),
        "reward_loss": mean(
            model.numbers.loss(model.reward(params, features), rows.reward), rows.mask & ~rows.first
        ),
        "end_loss": mean(
            optax.sigmoid_binary_cross_entropy(model.end(params, features), rows.terminated.astype(float))
        ),
        "kl_loss": mean(balanced_kl(model.latent, unrolled.posterior, unrolled.prior, weights)),
    }
    loss = jnp.sum(jnp.stack(list(parts.values())))
    kl = mean(model.latent.kl(unrolled.posterior, unrolled.prior))
    return loss, (unrolled.belief, {"model_loss": loss, **parts, "kl": kl})


class LatentWorld(NamedTuple):
    """The networks with their parameters as a model whose states are beliefs.

    Attributes:
        networks: shapes; static.
        params: parameters.
    """

    networks: RecurrentStateSpace
    params: Pytree

    @property
    def sign(self) -> float:
        """1: one player."""
        return 1.0

    def begin(self, obs: Pytree) -> Belief:
        """The beliefs after first observations."""
        networks = self.networks
        embedding = networks.embed(self.params, obs)
        action = jnp.zeros((len(embedding), networks.action_size))
        return networks.observe(self.params, networks.initial(len(embedding)), action, embedding, None)

    def step(self, state: Belief, action: Array, key: Key) -> Imagined:
        networks = self.networks
        noise = networks.latent.noise(key, (len(state.memory),))
        after = networks.imagine(self.params, state, networks.action_vector(action), noise)
        features = after.features
        reward = networks.numbers.mean(networks.reward(self.params, features))
        return Imagined(after, reward, networks.end(self.params, features) > 0)

    def observation(self, state: Belief) -> Pytree:
        """What the encoder would make of the observation."""
        return self.networks.decoded(self.params, state.features)

    def allowed(self, state: Belief) -> None:
        return None
