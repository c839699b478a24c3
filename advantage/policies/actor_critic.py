"""A policy and a value function over any observation and action space."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, Protocol

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from advantage.environments.spaces import policy_bounds
from advantage.policies.distributions import (
    Bernoulli,
    Categorical,
    Gaussian,
    Product,
    SquashedGaussian,
)
from advantage.policies.encoder import LARGE, Encoder, encoder
from advantage.policies.networks import (
    CNN,
    MLP,
    NATURE_LAYERS,
    SMALL_IMAGE_LAYERS,
    Activation,
    Initialisation,
    Network,
    as_network,
    linear,
    linear_init,
)
from advantage.types import ActionUnits, Array, Key, Pytree

Bounds = Literal["clip", "squash"]
Spread = Literal["state-independent", "state-dependent"]
LOG_STD_RANGE = (-5.0, 2.0)  # a state-dependent spread is held inside it


class Head(Protocol):
    """From the network's outputs to a distribution over one action space."""

    @property
    def num_outputs(self) -> int: ...

    @property
    def num_log_std(self) -> int: ...

    def noise(self, key: Key, shape: tuple[int, ...]) -> Pytree: ...

    def distribution(self, outputs: Array, log_std: Array) -> Any: ...


@dataclasses.dataclass(frozen=True)
class CategoricalHead:
    """One of `size` actions."""

    size: int
    num_log_std: int = 0

    @property
    def num_outputs(self) -> int:
        return self.size

    def noise(self, key: Key, shape: tuple[int, ...]) -> Array:
        return Categorical.noise(key, shape, self.size)

    def distribution(self, outputs: Array, log_std: Array) -> Categorical:
        return Categorical(outputs)


@dataclasses.dataclass(frozen=True)
class BernoulliHead:
    """`size` switches, each on or off."""

    size: int
    num_log_std: int = 0

    @property
    def num_outputs(self) -> int:
        return self.size

    def noise(self, key: Key, shape: tuple[int, ...]) -> Array:
        return Bernoulli.noise(key, shape, self.size)

    def distribution(self, outputs: Array, log_std: Array) -> Bernoulli:
        return Bernoulli(outputs)


@dataclasses.dataclass(frozen=True)
class GaussianHead:
    """`bounds` are those a squashed Gaussian fills; without them the Gaussian is unbounded."""

    size: int
    spread: Spread = "state-independent"
    bounds: tuple[tuple[float, ...], tuple[float, ...]] | None = None

    @property
    def num_outputs(self) -> int:
        return self.size if self.spread == "state-independent" else 2 * self.size

    @property
    def num_log_std(self) -> int:
        return self.size if self.spread == "state-independent" else 0

    def noise(self, key: Key, shape: tuple[int, ...]) -> Array:
        return Gaussian.noise(key, shape, self.size)

    def distribution(self, outputs: Array, log_std: Array) -> Gaussian | SquashedGaussian:
        mean = outputs
        if self.spread == "state-dependent":
            xp = outputs.__array_namespace__()
            mean, log_std = outputs[..., : self.size], outputs[..., self.size :]
            log_std = xp.clip(log_std, *LOG_STD_RANGE)
        if self.bounds is None:
            return Gaussian(mean, log_std)
        return SquashedGaussian(mean, log_std, *(np.array(bound, np.float32) for bound in self.bounds))


@dataclasses.dataclass(frozen=True)
class ProductHead:
    """Several actions at once, chosen independently."""

    parts: tuple[Head, ...]

    @property
    def num_outputs(self) -> int:
        return sum(part.num_outputs for part in self.parts)

    @property
    def num_log_std(self) -> int:
        return sum(part.num_log_std for part in self.parts)

    def noise(self, key: Key, shape: tuple[int, ...]) -> tuple[Pytree, ...]:
        keys = jax.random.split(key, len(self.parts))
        return tuple(part.noise(keys[i], shape) for i, part in enumerate(self.parts))

    def distribution(self, outputs: Array, log_std: Array) -> Product:
        parts, i, j = [], 0, 0
        for part in self.parts:
            slices = outputs[..., i : i + part.num_outputs], log_std[..., j : j + part.num_log_std]
            parts.append(part.distribution(*slices))
            i, j = i + part.num_outputs, j + part.num_log_std
        return Product(tuple(parts))


def head(
    space: gymnasium.Space,
    bounds: Bounds = "clip",
    spread: Spread = "state-independent",
    units: ActionUnits = "bounds",
) -> Head:
    """The head of an action space.

    Raises:
        ValueError: a space that no distribution covers, or a squashed Gaussian over an unbounded box.
    """
    if isinstance(space, spaces.Discrete):
        return CategoricalHead(int(space.n))
    if isinstance(space, spaces.MultiDiscrete):
        return ProductHead(tuple(CategoricalHead(int(n)) for n in space.nvec.ravel()))
    if isinstance(space, spaces.MultiBinary):
        return BernoulliHead(int(np.prod(space.shape)))
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
        if bounds == "clip":
            return GaussianHead(int(np.prod(space.shape)), spread)
        if space.is_bounded():
            low, high = (tuple(bound.ravel().tolist()) for bound in policy_bounds(space, units))
            return GaussianHead(len(low), spread, (low, high))
        raise ValueError(
            f"action_bounds='squash' needs finite bounds, and the action space is {space}; use "
            "action_bounds='clip', or rescale the actions with gymnasium.wrappers.RescaleAction."
        )
    if isinstance(space, spaces.Tuple):
        return ProductHead(tuple(head(part, bounds, spread, units) for part in space.spaces))
    if isinstance(space, spaces.Dict):
        return ProductHead(tuple(head(part, bounds, spread, units) for part in space.spaces.values()))
    raise ValueError(
        f"The action space {space} has no policy; allowed are Discrete, MultiDiscrete, MultiBinary, Box of floats, "
        "and Dict and Tuple of these. Wrap the environment with gymnasium.wrappers.TransformAction."
    )


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class ActorCritic:
    """`pi(a|s)` and `V(s)`: an encoder, a network each (or one shared), and a linear head each.

    Parameters are `{"actor": {"network", "head", "log_std"}, "critic": {"network", "head"}}`; a shared network is
    the actor's.
    """

    encoder: Encoder
    head: Head
    network: Network
    shared: bool = False
    initialisation: Initialisation = "orthogonal"

    def init(self, key: Key, log_std: Array | float) -> Pytree:
        """Draw parameters; the last layers get gain 0.01 (actor, nearly uniform) and 1 (critic)."""
        key_networks, key_heads = jax.random.split(key)
        x = self.encoder.encode(self.encoder.example())
        count = 1 if self.shared else 2
        keys = jax.random.split(key_networks, count)
        first, *others = (self.network.init(keys[n], x) for n in range(count))
        width = jax.eval_shape(self.network.apply, first, x).shape[-1]
        shapes = [(width, self.head.num_outputs), (width, 1)]
        actor_head, critic_head = linear_init(key_heads, shapes, [0.01, 1.0], self.initialisation)
        actor_head["bias"] = actor_head["bias"] + log_std * self.log_std_outputs()
        spread = jnp.full(self.head.num_log_std, log_std, jnp.float32)
        actor = {"network": first, "head": actor_head, "log_std": spread}
        critic = {"head": critic_head} if self.shared else {"network": others[0], "head": critic_head}
        return {"actor": actor, "critic": critic}

    def log_std_outputs(self) -> Array:
        """1 for each output that is a state-dependent log standard deviation, 0 for the others."""
        return np.array(_log_std_outputs(self.head), np.float32)

    def distribution(self, actor: Pytree, x: Pytree) -> Any:
        """`pi(.|s)` from the actor's parameters."""
        features = self.network.apply(actor["network"], x)
        return self.head.distribution(linear(actor["head"], features), actor["log_std"])

    def value(self, params: Pytree, x: Pytree) -> Array:
        """`V(s)`, `[...]`."""
        network = params["actor" if self.shared else "critic"]["network"]
        return linear(params["critic"]["head"], self.network.apply(network, x))[..., 0]


def _log_std_outputs(part: Head) -> list[float]:
    if isinstance(part, ProductHead):
        return [flag for inner in part.parts for flag in _log_std_outputs(inner)]
    spread = part.num_outputs - part.size if isinstance(part, GaussianHead) else 0
    return [0.0] * (part.num_outputs - spread) + [1.0] * spread


def choose_network(
    network: Any,
    observation_space: gymnasium.Space,
    hidden: tuple[int, ...],
    activation: Activation,
    initialisation: Initialisation,
) -> Network:
    """The user's network, else an MLP, or convolutions where the observation holds an image."""
    if network is not None:
        return as_network(network)
    images = encoder(observation_space).images
    if not images:
        return MLP(hidden, activation, initialisation)
    small = min(min(image.height_width) for image in images) < LARGE
    return CNN(SMALL_IMAGE_LAYERS if small else NATURE_LAYERS, initialisation=initialisation)


def actor_critic(
    observation_space: gymnasium.Space,
    action_space: gymnasium.Space,
    network: Network,
    *,
    shared: bool,
    initialisation: Initialisation,
    bounds: Bounds,
    spread: Spread,
    units: ActionUnits = "bounds",
) -> ActorCritic:
    """The actor and critic for a pair of spaces. Raises ValueError for a space that is not covered."""
    parts = encoder(observation_space), head(action_space, bounds, spread, units)
    return ActorCritic(*parts, network, shared, initialisation)
