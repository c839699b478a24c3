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
LastPart = Literal["action", "reward"]  # of the last step, in an observation
ActionUnits = Literal["bounds", "raw", "unclipped"]  # 1 is the bound; a Box's own, clipped or not


class Rollout(NamedTuple):
    """What happened in T steps of B environments: every field but `memory` is `[T, B, ...]`.

    Attributes:
        obs: what the policy saw, in the environment's own structure and dtype.
        action: what the policy chose, in its own units and not clipped; a tuple when the space is a product.
        reward: the reward of `action`.
        next_obs: the true successor of `obs`, never the first observation after a reset.
        terminated: bool, the MDP ended here.
        truncated: bool, a time limit ended the episode here; the MDP itself did not end.
        extras: what `act` returned besides the action and the memory.
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
        step, total_timesteps: environment steps so far, and the budget, uint32.
    """

    step: Array
    total_timesteps: Array


@dataclasses.dataclass(frozen=True)
class Spec:
    """What an algorithm must know about a training run before it starts.

    Attributes:
        observation_space, action_space: the spaces of one observation and of one action.
        num_envs: number of environments stepped together, the `B` of every rollout.
        total_timesteps: the budget in environment steps; schedules run from 0 to 1 over it.
        action_units: units of the policy's actions in a bounded Box.
        observe_last, frame_stack: what of the last step an observation has, and how many observations it stacks.
        world: the environment's own rules, for planners; None where they are not known.
    """

    observation_space: gymnasium.Space
    action_space: gymnasium.Space
    num_envs: int = 1
    total_timesteps: int = 1
    action_units: ActionUnits = "bounds"
    observe_last: tuple[LastPart, ...] = ()
    frame_stack: int = 1
    world: World | None = None


@runtime_checkable
class Algorithm(Protocol):
    """A frozen dataclass of hyperparameters and seven pure functions.

    The state is one pytree with a field `clock: Clock` and holds everything the algorithm knows; the actor is the
    small part of it that acting needs. `act` and `greedy` take NumPy or JAX arrays with a leading batch axis.
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
        """Choose actions: `-> action, memory, extras`."""
        ...

    def greedy(self, actor: Pytree, obs: Pytree, memory: Pytree) -> tuple[Pytree, Pytree]:
        """Choose the most likely actions: `-> action, memory`."""
        ...

    def update(self, state: Pytree, rollout: Rollout, key: Key) -> tuple[Pytree, dict[str, Array]]:
        """Learn from a rollout: `-> state, metrics`; a pure function, compiled as one program."""
        ...


class Gradient(NamedTuple):
    """The gradient of an update that is one step down the gradient of a mean over a rollout's steps.

    Attributes:
        vector: of all parameters, flat, `[P]`.
        critic_memory: a recurrent critic's memory for the next rollout; else `()`.
        metrics: numbers of the rollout, as an update returns them.
    """

    vector: Array
    critic_memory: Pytree
    metrics: dict[str, Array]


class GradientAlgorithm(Algorithm, Protocol):
    """An algorithm whose `update(state, rollout, key)` is `descend(state, rollout, gradient(state, rollout))`."""

    def gradient(self, state: Pytree, rollout: Rollout) -> Gradient:
        """The gradient at the state's parameters; reads nothing of the optimiser's state."""
        ...

    def descend(self, state: Pytree, rollout: Rollout, gradient: Gradient) -> tuple[Pytree, dict[str, Array]]:
        """A step down a gradient, and the rollout entered into the statistics: `-> state, metrics`."""
        ...


def no_memory(algorithm: Algorithm, actor: Pytree) -> Pytree:
    """The `initial_memory` of an algorithm whose policy remembers nothing."""
    return ()


class Played(NamedTuple):
    """Results of a generation of candidates, each of which played whole episodes.

    Attributes:
        returns: mean return of each candidate, undiscounted, `[n]`; not finite if a reward or an observation was not.
        episodes, steps: numbers of episodes and steps of all candidates together, uint32.
        seen, seen_mean, seen_variance: count, mean and variance `[c]` of `Search.seen` over their observations.
    """

    returns: Array
    episodes: Array
    steps: Array
    seen: Array
    seen_mean: Array
    seen_variance: Array


class Search(Protocol):
    """An algorithm that learns only from the returns of whole episodes, without `update` and rollouts.

    `init`, `actor`, `noise`, `act` and `greedy` are those of `Algorithm`.
    """

    @property
    def episodes(self) -> int:
        """Number of episodes that each candidate plays."""
        ...

    @property
    def common_random_numbers(self) -> bool:
        """Whether all candidates of a generation play with the same random numbers."""
        ...

    @property
    def reevaluate(self) -> int:
        """How many of a generation's best candidates play the same number of episodes again."""
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
        """Features of a batch of observations, `[m, c]`; the search keeps their statistics."""
        ...

    def learn(self, state: Pytree, candidates: Array, played: Played) -> tuple[Pytree, dict[str, Array]]:
        """Learn from the candidates' returns: `-> state, metrics`."""
        ...


class Episodes(NamedTuple):
    """Finished episodes in the order of their ends, one row each.

    Attributes:
        returns: undiscounted sum of the environment's own rewards.
        lengths: number of steps.
        steps: global step at the end.
        envs: index of the environment.
        numbers: index of the episode in that environment, from 0.
    """

    returns: np.ndarray
    lengths: np.ndarray
    steps: np.ndarray
    envs: np.ndarray
    numbers: np.ndarray


class Span(NamedTuple):
    """Consecutive iterations of a run.

    Attributes:
        iteration: index of the first iteration, from 0.
        count: number of iterations, 1 or more.
        first_step: environment steps taken before the first iteration.
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
    """What a driver returns for a span. A row of metrics is the mean over some iterations.

    Attributes:
        state: the algorithm's state of all seeds, in the driver's own form.
        metrics: `[S, rows]` by name; masked where an iteration lacks one.
        episodes: the episodes that ended, one record for each seed.
        iterations, steps: number of iterations and of environment steps of the span up to the end of each row,
            `[rows]`. If there is no row, nothing was learned and the state is unchanged.
        logged: whether the rows are written to the logs; callbacks get all rows.
    """

    state: Pytree
    metrics: dict[str, np.ndarray]
    episodes: list[Episodes]
    iterations: np.ndarray
    steps: np.ndarray
    logged: bool = True


@dataclasses.dataclass(frozen=True)
class DriverFacts:
    """Facts about a driver for the user.

    Attributes:
        where: where environments are stepped: `in this process`, `on cpu`.
        unit: what the budget counts.
        nbytes: size of a rollout, or of the table that is solved.
        candidates, parameters: a search's candidates per generation and the size of each; 0 for other algorithms.
    """

    where: str
    unit: Literal["steps", "iterations", "recorded steps"] = "steps"
    nbytes: int = 0
    candidates: int = 0
    parameters: int = 0


class Driver(Protocol):
    """Runs an algorithm in its environment. The training loop does not know where and how this happens.

    A driver may store the states of its seeds in any form: `start` takes them with a leading axis of seeds and returns
    the form that `iterate` takes and returns; `state_of` extracts the state of one seed.
    """

    @property
    def facts(self) -> DriverFacts:
        """Facts for the user."""
        ...

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do, although the budget may not be spent."""
        ...

    def start(self, states: Pytree, keys: Key) -> Pytree:
        """Begin the first episodes, with one key for each seed: `-> the states in the driver's own form`."""
        ...

    def state_of(self, state: Pytree, seed: int) -> Pytree:
        """One seed's state, without an axis of seeds."""
        ...

    def span(self, iteration: int, step: int, until: int) -> Span:
        """The iterations of the next call: at least one, and no more than are needed to reach step `until`."""
        ...

    def iterate(self, state: Pytree, run_keys: Key, span: Span) -> Iterated:
        """Act and learn in the iterations of a span."""
        ...

    def conclusion(self, step: int) -> list[str]:
        """Sentences about how the run ended, for the user."""
        ...

    def records(self, seed: int) -> dict[str, np.ndarray]:
        """What a checkpoint needs, besides the state, to continue one seed's environments exactly."""
        ...

    def restore(self, state: Pytree, keys: Key, records: dict[str, np.ndarray]) -> tuple[Pytree, list[str]]:
        """Resume a run of one seed, in place of `start`: restore its environments from `records`.

        `-> the state in the driver's own form, notices of what could not be restored`.
        """
        ...

    def close(self) -> None:
        """Close what the driver has opened."""
        ...


@runtime_checkable
class World(Protocol):
    """An environment on the device: pure functions of arrays. Its name begins with `jax/`.

    A world is a frozen, hashable dataclass; its state is a pytree. The driver counts steps and truncates at
    `max_episode_steps`, so a world does not count steps.
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
        """Draw a start state: `-> state, obs`."""
        ...

    def step(self, state: Pytree, action: Pytree, key: Key) -> tuple[Pytree, Pytree, Array, Array]:
        """One step: `-> state, obs, reward (float32 scalar), terminated (bool scalar)`."""
        ...


@runtime_checkable
class ObservedWorld(World, Protocol):
    """A world whose observations determine its state, so that one can plan with it from what is seen."""

    def state_of(self, obs: Pytree) -> Pytree:
        """The state in which the world shows this observation."""
        ...


@runtime_checkable
class Game(ObservedWorld, Protocol):
    """Two players who move in turn, as one world: each step is a move, seen and rewarded from the mover's side."""

    @property
    def players(self) -> int:
        """2."""
        ...
