"""Turn a network's outputs into a distribution over any action space."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, Protocol

import gymnasium
import jax
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
from advantage.types import ActionUnits, Array, Key, Pytree

Bounds = Literal["clip", "squash", "none"]
Spread = Literal["state-independent", "state-dependent"]
LOG_STD_RANGE = (-5.0, 2.0)  # a state-dependent log_std is clipped to it


class Head(Protocol):
    """Turns the network's outputs into a distribution over one action space."""

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
    """A Gaussian over `size` numbers: squashed to `bounds`, or unbounded if there are none."""

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
        ValueError: a space without a distribution, or a squashed Gaussian over an unbounded Box.
    """
    if isinstance(space, spaces.Discrete):
        return CategoricalHead(int(space.n))
    if isinstance(space, spaces.MultiDiscrete):
        return ProductHead(tuple(CategoricalHead(int(n)) for n in space.nvec.ravel()))
    if isinstance(space, spaces.MultiBinary):
        return BernoulliHead(int(np.prod(space.shape)))
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
        if bounds != "squash":
            return GaussianHead(int(np.prod(space.shape)), spread)
        if space.is_bounded():
            low, high = (tuple(bound.ravel().tolist()) for bound in policy_bounds(space, units))
            return GaussianHead(len(low), spread, (low, high))
        raise ValueError(
            f"action_bounds='squash' needs finite bounds, but the action space is {space}; use "
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


def log_std_outputs(part: Head) -> list[float]:
    """1 for each output that is a state-dependent log standard deviation, 0 for the others."""
    if isinstance(part, ProductHead):
        return [flag for inner in part.parts for flag in log_std_outputs(inner)]
    spread = part.num_outputs - part.size if isinstance(part, GaussianHead) else 0
    return [0.0] * (part.num_outputs - spread) + [1.0] * spread
