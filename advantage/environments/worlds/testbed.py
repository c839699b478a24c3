"""Bandits whose means are drawn at the start of each episode: the testbed on which bandit methods are compared."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from advantage.plain_values import require_whole
from advantage.types import Array, Key

Kind = Literal["gaussian", "bernoulli"]


@dataclasses.dataclass(frozen=True)
class Testbed:
    """Pull one of `n_arms` arms at every step.

    Each episode is one bandit problem, whose means `q` are drawn at its start. Gaussian: `q[a] ~ N(0, 1)` and
    `R ~ N(q[a], reward_std²)`. Bernoulli: `q[a]` uniform in [0, 1], and `R` is 1 with probability `q[a]`, else 0.

    State: float32 `[n_arms]`, the means `q`, so that regret, `max q - q[a]`, and the share of best actions,
    `a = argmax q`, can be computed. Observation: always 0, int32. Episodes never terminate and are
    truncated.

    Attributes:
        n_arms: the number of actions, 1 or more.
        reward_std: the standard deviation of a Gaussian reward, 0 or more; a Bernoulli reward does not use it.
        kind: the distribution of rewards.
        max_episode_steps: steps after which the driver truncates an episode.

    Raises:
        ValueError: a value that is not allowed.

    Source: Sutton & Barto 2018, "Reinforcement learning", section 2.3.
    """

    n_arms: int = 10
    reward_std: float = 1.0
    kind: Kind = "gaussian"
    max_episode_steps: int = 1000

    __test__ = False  # its name begins with Test, but it is not a test for pytest to collect

    def __post_init__(self):
        n_arms = _checked_arms(self.n_arms, self.reward_std, self.kind)
        object.__setattr__(self, "n_arms", n_arms)

    @property
    def observation_space(self) -> gymnasium.spaces.Discrete:
        """One observation, which has no information."""
        return gymnasium.spaces.Discrete(1)

    @property
    def action_space(self) -> gymnasium.spaces.Discrete:
        """One of the arms."""
        return gymnasium.spaces.Discrete(self.n_arms)

    @property
    def gymnasium_id(self) -> str:
        """The name of the same world in Gymnasium."""
        return "advantage/Testbed-v0"

    def reset(self, key: Key) -> tuple[Array, Array]:
        """Draw the means: `-> state [n_arms], obs`."""
        draw = jax.random.normal if self.kind == "gaussian" else jax.random.uniform
        return draw(key, (self.n_arms,), jnp.float32), jnp.int32(0)

    def step(self, state: Array, action: Array, key: Key) -> tuple[Array, Array, Array, Array]:
        """Pull: `-> state [n_arms], obs, reward, terminated`."""
        mean = state[action]
        if self.kind == "gaussian":
            reward = mean + self.reward_std * jax.random.normal(key, (), jnp.float32)
        else:
            reward = (jax.random.uniform(key) < mean).astype(jnp.float32)
        return state, jnp.int32(0), reward, jnp.bool_(False)


class TestbedEnv(gymnasium.Env):
    """`Testbed` in Gymnasium's interface; `info["means"]` are the means `[n_arms]`."""

    __test__ = False

    def __init__(
        self,
        n_arms: int = 10,
        reward_std: float = 1.0,
        kind: Kind = "gaussian",
        render_mode: str | None = None,
    ):
        n_arms = _checked_arms(n_arms, reward_std, kind)
        self.observation_space = gymnasium.spaces.Discrete(1)
        self.action_space = gymnasium.spaces.Discrete(n_arms)
        self.n_arms, self.reward_std, self.kind = n_arms, reward_std, kind
        self.render_mode = render_mode
        self.means = np.zeros(n_arms)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        rng = self.np_random
        self.means = rng.normal(size=self.n_arms) if self.kind == "gaussian" else rng.random(self.n_arms)
        return 0, {"means": self.means.copy()}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        mean = self.means[action]
        if self.kind == "gaussian":
            reward = float(self.np_random.normal(mean, self.reward_std))
        else:
            reward = float(self.np_random.random() < mean)
        return 0, reward, False, False, {"means": self.means.copy()}


def _checked_arms(n_arms: int, reward_std: float, kind: str) -> int:
    """The number of arms as an int. Raises ValueError for an argument that is not allowed."""
    if not 0 <= reward_std < float("inf"):
        raise ValueError(f"reward_std={reward_std!r} is not allowed; use a finite number of 0 or more.")
    if kind not in ("gaussian", "bernoulli"):
        raise ValueError(f"kind={kind!r} is not allowed; use 'gaussian' or 'bernoulli'.")
    return require_whole("n_arms", n_arms, 1)
