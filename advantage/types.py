"""The contract: what every environment, algorithm and driver agrees on.

Data flows one way: environment -> rollout -> estimator -> objective -> update -> evaluation.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:  # worker processes import this file and must start without JAX
    import gymnasium
    import jax
    import numpy as np

    Key = jax.Array
else:
    Key = Any

Pytree = Any
Array = Any  # NumPy's or JAX's: the same code serves both
ActionUnits = Literal["bounds", "raw"]  # of a Box: 0 is its middle and 1 its upper bound, or its own numbers


class Rollout(NamedTuple):
    """Facts about what happened, time-major: every field but `memory` is `[T, B, ...]`.

    Attributes:
        obs: what the policy saw, in the environment's own structure and dtype.
        action: what the policy chose, in its own units and not clipped; a tuple when the space is a product.
        reward: what `action` earned.
        next_obs: the true successor of `obs`, never the first observation after a reset.
        terminated: bool, the MDP ended here.
        truncated: bool, the clock ended here; the MDP would have gone on.
        extras: what `act` returned beside the action.
        memory: the policy's memory before the first step, `[B, ...]`; `()` for a policy without memory.
    """

    obs: Pytree
    action: Pytree
    reward: Array
    next_obs: Pytree
    terminated: Array
    truncated: Array
    extras: Pytree = ()
    memory: Pytree = ()


class Clock(NamedTuple):
    """How much of the budget is spent.

    Attributes:
        step: environment steps so far, uint32.
        total_timesteps: the budget, uint32.
    """

    step: Array
    total_timesteps: Array


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
    """A frozen dataclass of hyperparameters and seven pure functions.

    The state is one pytree with a field `clock: Clock` and holds everything the algorithm knows; the actor is the
    small part of it that acting needs. `act` and `greedy` take NumPy or JAX arrays and a leading batch axis.
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

    def initial_memory(self, actor: Pytree) -> Pytree:
        """What a policy remembers when an episode begins, without a batch axis; `()` for a policy without memory."""
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


def no_memory(algorithm: Algorithm, actor: Pytree) -> Pytree:
    """The `initial_memory` of an algorithm whose policy remembers nothing."""
    return ()


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


class Episodes(NamedTuple):
    """Finished episodes in the order of their ends, one row each.

    Attributes:
        returns: undiscounted sum of the environment's own rewards.
        lengths: in steps.
        steps: global step at the end.
        envs: index of the environment.
        numbers: which episode of that environment, from 0.
    """

    returns: np.ndarray
    lengths: np.ndarray
    steps: np.ndarray
    envs: np.ndarray
    numbers: np.ndarray


class Span(NamedTuple):
    """Some iterations of a run.

    Attributes:
        iteration: number of the first, from 0.
        count: how many, 1 or more.
        first_step: environment steps that were taken before.
        n_steps: steps of each iteration in each environment.
    """

    iteration: int
    count: int
    first_step: int
    n_steps: int


class Mean(NamedTuple):
    """A metric that an update may lack, `total / count`; rows of iterations that all lack it leave it out.

    Attributes:
        total: the sum of what was measured; 0 where nothing was.
        count: how many measurements it sums.
    """

    total: Array
    count: Array


class Iterated(NamedTuple):
    """What a driver brings back from a span: rows of metrics, each the mean over some iterations.

    Attributes:
        state: the algorithm's, of all seeds, in the driver's own form.
        metrics: `[S, rows]` by name; masked where an iteration lacks one.
        episodes: those that ended, one record a seed.
        iterations, steps: of each row, how many iterations and environment steps of the span had been taken at its
            end, `[rows]`. No row: nothing was learned, and the state is as it was.
    """

    state: Pytree
    metrics: dict[str, np.ndarray]
    episodes: list[Episodes]
    iterations: np.ndarray
    steps: np.ndarray


@dataclasses.dataclass(frozen=True)
class DriverFacts:
    """What people are told about a driver.

    Attributes:
        where: what steps or plays: `in this process`, `on cpu`.
        unit: what the budget counts.
        nbytes: of a rollout, or of the table that is solved.
        candidates, parameters: of a search's generation; 0 for other algorithms.
    """

    where: str
    unit: Literal["steps", "iterations"] = "steps"
    nbytes: int = 0
    candidates: int = 0
    parameters: int = 0


class Driver(Protocol):
    """Lets an algorithm meet its environment: all that the training loop knows of where and how that happens.

    How it keeps the states of its seeds is its own business: `start` is given them with a leading axis of seeds and
    returns what `iterate` takes and returns; `state_of` takes one seed's out.
    """

    @property
    def facts(self) -> DriverFacts:
        """For people."""
        ...

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to do although the budget is not spent."""
        ...

    def start(self, states: Pytree, keys: Key) -> Pytree:
        """Begin the first episodes, from one key a seed; the states in the driver's own form."""
        ...

    def state_of(self, state: Pytree, seed: int) -> Pytree:
        """One seed's state, without an axis of seeds."""
        ...

    def span(self, iteration: int, step: int, until: int) -> Span:
        """As many iterations from here as one call takes, at least one, and not beyond `until` where that is due."""
        ...

    def iterate(self, state: Pytree, run_keys: Key, span: Span) -> Iterated:
        """Act and learn."""
        ...

    def conclusion(self, step: int) -> list[str]:
        """Sentences about how the run ended, for people."""
        ...

    def records(self, seed: int) -> dict[str, np.ndarray]:
        """What a checkpoint needs, beside the state, to go on with one seed's environments exactly."""
        ...

    def restore(self, state: Pytree, keys: Key, records: dict[str, np.ndarray]) -> tuple[Pytree, list[str]]:
        """In place of `start`, with the state of the one seed: put its environments where `records` says.

        `-> the state in the driver's own form, notices of what did not come back`.
        """
        ...

    def close(self) -> None:
        """Give back what was opened."""
        ...


@runtime_checkable
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
