"""The contract: what every environment, algorithm and driver agrees on.

Data flows one way: environment -> rollout -> estimator -> objective -> update -> evaluation.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

if TYPE_CHECKING:  # worker processes import this file and must start without JAX
    import gymnasium
    import jax

    Key = jax.Array
else:
    Key = Any

Pytree = Any
Array = Any  # NumPy's or JAX's: the same code serves both
ActionUnits = Literal["bounds", "raw"]  # of a Box: 0 is its middle and 1 its upper bound, or its own numbers


class Rollout(NamedTuple):
    """Facts about what happened, time-major: every field is `[T, B, ...]`.

    Attributes:
        obs: what the policy saw, in the environment's own structure and dtype.
        action: what the policy chose, in its own units and not clipped; a tuple when the space is a product.
        reward: what `action` earned.
        next_obs: the true successor of `obs`, never the first observation after a reset.
        terminated: bool, the MDP ended here.
        truncated: bool, the clock ended here; the MDP would have gone on.
        extras: what `act` returned beside the action.
    """

    obs: Pytree
    action: Pytree
    reward: Array
    next_obs: Pytree
    terminated: Array
    truncated: Array
    extras: Pytree = ()


@dataclasses.dataclass(frozen=True)
class Spec:
    """What an algorithm must know about a training run before it starts.

    Attributes:
        observation_space: the space of one observation.
        action_space: the space of one action.
        num_envs: environments stepped side by side, the `B` of every rollout.
        total_timesteps: the budget in environment steps; schedules run from 0 to 1 over it.
        action_units: in which units a policy acts where a Box of actions is bounded.
    """

    observation_space: gymnasium.Space
    action_space: gymnasium.Space
    num_envs: int = 1
    total_timesteps: int = 1
    action_units: ActionUnits = "bounds"


class Algorithm(Protocol):
    """A frozen dataclass of hyperparameters and six pure functions.

    The state is one pytree and holds everything the algorithm knows; the actor is the small part of it that
    acting needs. `act` and `greedy` take NumPy or JAX arrays and a leading batch axis.
    """

    @property
    def n_steps(self) -> int:
        """Steps in each environment for one rollout."""
        ...

    def init(self, key: Key, spec: Spec) -> Pytree:
        """Validate the hyperparameters against the run and draw the first state."""
        ...

    def actor(self, state: Pytree) -> Pytree:
        """The part of the state that acting needs."""
        ...

    def noise(self, actor: Pytree, key: Key, shape: tuple[int, ...]) -> Pytree:
        """All the randomness that acting will consume, `[*shape, ...]`."""
        ...

    def act(self, actor: Pytree, obs: Pytree, memory: Pytree, noise: Pytree) -> tuple[Pytree, Pytree, Pytree]:
        """Choose: `-> action, memory, extras`."""
        ...

    def greedy(self, actor: Pytree, obs: Pytree, memory: Pytree) -> tuple[Pytree, Pytree]:
        """Choose the most likely action: `-> action, memory`."""
        ...

    def update(self, state: Pytree, rollout: Rollout, key: Key) -> tuple[Pytree, dict[str, Array]]:
        """Learn: `-> state, metrics`; pure, one compiled program."""
        ...


class Played(NamedTuple):
    """What a generation of candidates did, each in whole episodes.

    Attributes:
        returns: mean return of each candidate, undiscounted, `[n]`; not finite where an environment broke.
        episodes, steps: how many there were of all candidates together, uint32.
        seen, seen_mean, seen_variance: count, mean and variance `[c]` of what `seen` took of their observations.
    """

    returns: Array
    episodes: Array
    steps: Array
    seen: Array
    seen_mean: Array
    seen_variance: Array


class Search(Protocol):
    """An algorithm that is told returns of whole episodes and nothing else, in place of `update` and rollouts.

    `init`, `actor`, `noise`, `act` and `greedy` are those of `Algorithm`.
    """

    @property
    def episodes(self) -> int:
        """That each candidate plays."""
        ...

    @property
    def common_random_numbers(self) -> bool:
        """Whether all candidates of a generation meet the same chance."""
        ...

    @property
    def reevaluate(self) -> int:
        """How many of a generation's best play as many episodes again."""
        ...

    def actor(self, state: Pytree) -> Pytree: ...

    def greedy(self, actor: Pytree, obs: Pytree, memory: Pytree) -> tuple[Pytree, Pytree]: ...

    def propose(self, state: Pytree, key: Key) -> Array:
        """The candidates of a generation, `[n, d]`."""
        ...

    def candidate(self, actor: Pytree, vector: Array) -> Pytree:
        """The same actor with a candidate's parameters."""
        ...

    def seen(self, actor: Pytree, obs: Pytree) -> Array:
        """What statistics take of a batch of observations, `[m, c]`."""
        ...

    def learn(self, state: Pytree, candidates: Array, played: Played) -> tuple[Pytree, dict[str, Array]]:
        """Learn from what they earned: `-> state, metrics`."""
        ...


class World(Protocol):
    """An environment that lives on the device: pure functions of arrays, `jax/...` by name.

    A world is a frozen, hashable dataclass; its state is a pytree. The driver counts steps and truncates at
    `max_episode_steps`, so a world knows nothing about clocks.
    """

    @property
    def max_episode_steps(self) -> int: ...

    @property
    def observation_space(self) -> gymnasium.Space: ...

    @property
    def action_space(self) -> gymnasium.Space: ...

    @property
    def gymnasium_id(self) -> str | None:
        """The Gymnasium environment with the same dynamics, used to render; None where there is none."""
        ...

    def reset(self, key: Key) -> tuple[Pytree, Pytree]:
        """Draw a start: `-> state, obs`."""
        ...

    def step(self, state: Pytree, action: Pytree, key: Key) -> tuple[Pytree, Pytree, Array, Array]:
        """One step: `-> state, obs, reward (float32 scalar), terminated (bool scalar)`."""
        ...
