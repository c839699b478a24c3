"""What tabular methods share: spaces as one index, exploration, step sizes, the start of a table."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from advantage.algorithms.hyperparameters import schedule_value
from advantage.types import Array, Key, Pytree, Rollout, Spec


class Sizes(NamedTuple):
    """How large the tables are. A pytree without leaves, so that it may lie in a state.

    Attributes:
        states: of each part of the observation; one where it is Discrete.
        first: the smallest number of each part.
        actions: A.
    """

    states: tuple[int, ...]
    first: tuple[int, ...]
    actions: int

    @property
    def n_states(self) -> int:
        return math.prod(self.states)

    def index(self, obs: Pytree) -> Array:
        """The row of a table that an observation stands for, int32 `[...]`; parts are counted as digits."""
        parts = obs if isinstance(obs, tuple) else (obs,) if len(self.states) == 1 else _unstack(obs)
        index = None
        for part, size, first in zip(parts, self.states, self.first, strict=True):
            digit = part.astype(np.int32) - np.int32(first)
            index = digit if index is None else index * np.int32(size) + digit
        assert index is not None
        return index


jax.tree_util.register_pytree_node(Sizes, lambda sizes: ((), sizes), lambda sizes, _: sizes)


def _unstack(obs: Array) -> list[Array]:
    return [obs[..., i] for i in range(obs.shape[-1])]


def sizes_of(spec: Spec) -> Sizes:
    """The sizes of the tables for a run.

    Raises:
        ValueError: a space that is not finite; names it and says what to use instead.
    """
    observation, action = spec.observation_space, spec.action_space
    if not isinstance(action, gymnasium.spaces.Discrete):
        raise ValueError(
            f"A table needs a Discrete action space, and this one is {action}; use a method with a network."
        )
    parts: Any = None
    if isinstance(observation, gymnasium.spaces.Discrete):
        parts = (observation,)
    elif isinstance(observation, gymnasium.spaces.Tuple):
        parts = observation.spaces
    elif isinstance(observation, gymnasium.spaces.MultiDiscrete) and observation.nvec.ndim == 1:
        parts = [
            gymnasium.spaces.Discrete(int(n), start=int(first))
            for n, first in zip(observation.nvec, observation.start, strict=True)
        ]
    if parts is None or not all(isinstance(part, gymnasium.spaces.Discrete) for part in parts):
        raise ValueError(
            f"A table needs a finite observation space: Discrete, MultiDiscrete, or a Tuple of Discrete. This one is "
            f"{observation}; use a method with a network, or an environment whose observations are binned."
        )
    return Sizes(tuple(int(p.n) for p in parts), tuple(int(p.start) for p in parts), int(action.n))


class EpsilonGreedy(NamedTuple):
    """An actor: a table of action values `[S, A]`, and how much it explores, one number or `[S]`."""

    sizes: Sizes
    q: Array
    epsilon: Array | float

    def sample(self, obs: Pytree, noise: Array) -> Array:
        """Explore with probability epsilon, else take the best action."""
        s = self.sizes.index(obs)
        return epsilon_greedy(self.q[s], self._epsilon_at(s), noise)

    def best(self, obs: Pytree) -> Array:
        """The action of the largest value, the first of several."""
        return self.q[self.sizes.index(obs)].argmax(-1)

    def probabilities(self, s: Array) -> Array:
        """`pi(. | s)` for rows of the table: `[...] -> [..., A]`."""
        return epsilon_greedy_probabilities(self.q[s], self._epsilon_at(s))

    def expected(self, s: Array) -> Array:
        """`sum_a pi(a | s) Q(s, a)` for rows of the table: `[...] -> [...]`."""
        return (self.probabilities(s) * self.q[s]).sum(-1)

    def _epsilon_at(self, s: Array) -> Array:
        epsilon = jnp.asarray(self.epsilon)
        return epsilon[s] if epsilon.ndim else epsilon


def progress_of(state: Any) -> Array:
    """The share of the budget spent, in [0, 1], of a state with `step` and `total_timesteps`."""
    return state.step.astype(jnp.float32) / state.total_timesteps.astype(jnp.float32)


def uniform_noise(key: Key, shape: tuple[int, ...]) -> Array:
    """One number in [0, 1) for each choice, float32 `shape`: enough to explore and to break ties."""
    return jax.random.uniform(key, shape)


def exploring_actor(algorithm: Any, state: Any) -> EpsilonGreedy:
    """The table `q` and how much to explore; the `actor` of a method with `epsilon` and `epsilon_power`."""
    epsilon = schedule_value(algorithm.epsilon, progress_of(state))
    return EpsilonGreedy(
        state.sizes, state.q, decayed(epsilon, state.visits.sum(-1), algorithm.epsilon_power)
    )


def noise_of_choices(algorithm: Any, actor: Any, key: Key, shape: tuple[int, ...]) -> Array:
    """What `act_by_table` will consume; an algorithm's `noise`."""
    return uniform_noise(key, shape)


def act_by_table(
    algorithm: Any, actor: Any, obs: Pytree, memory: Pytree, noise: Array
) -> tuple[Array, Pytree, Pytree]:
    """Draw from the actor's policy: `-> action, memory, extras`; an algorithm's `act`."""
    return actor.sample(obs, noise), memory, ()


def greedy_by_table(algorithm: Any, actor: Any, obs: Pytree, memory: Pytree) -> tuple[Array, Pytree]:
    """The actor's best or most probable action: `-> action, memory`; an algorithm's `greedy`."""
    return actor.best(obs), memory


class Step(NamedTuple):
    """One step in each environment, `[B]`: the row of the table, the action, the reward, the successor's row."""

    s: Array
    a: Array
    r: Array
    next_s: Array


def one_step(sizes: Sizes, rollout: Rollout) -> Step:
    """What a method with `n_steps = 1` learns from."""
    index = sizes.index
    return Step(
        index(rollout.obs)[0],
        rollout.action[0],
        rollout.reward[0].astype(jnp.float32),
        index(rollout.next_obs)[0],
    )


def epsilon_greedy(q: Array, epsilon: Array | float, noise: Array) -> Array:
    """`argmax_a q` with probability `1 - epsilon`, ties by chance, else any action with the same probability.

    Args:
        q: `[..., A]`.
        epsilon: `[...]`, in [0, 1].
        noise: `[...]`, uniform in [0, 1): below `epsilon` it explores; what is left of it draws the action.

    Returns:
        Actions, int32 `[...]`.

    Source: Sutton & Barto 2018, "Reinforcement learning", section 2.2.
    """
    explores = noise < epsilon
    share = jnp.where(
        explores, noise / jnp.maximum(epsilon, 1e-9), (noise - epsilon) / jnp.maximum(1 - epsilon, 1e-9)
    )
    candidates = (q == q.max(-1, keepdims=True)) | explores[..., None]
    until = np.tri(q.shape[-1], dtype=bool)
    order = (candidates[..., None, :] & until).sum(
        -1, dtype=jnp.int32
    )  # a cumulative sum, faster for few actions
    wanted = (share * order[..., -1]).astype(jnp.int32)
    return jnp.minimum((order <= wanted[..., None]).sum(-1, dtype=jnp.int32), q.shape[-1] - 1)


def epsilon_greedy_probabilities(q: Array, epsilon: Array | float) -> Array:
    """What `epsilon_greedy` draws from: `[..., A] -> [..., A]`."""
    best = (q == q.max(-1, keepdims=True)).astype(jnp.float32)
    greedy = best / best.sum(-1, keepdims=True)
    epsilon = jnp.asarray(epsilon)[..., None]
    return (1 - epsilon) * greedy + epsilon / q.shape[-1]


def counted(visits: Array, s: Array, a: Array, *powers: Array | float | None) -> Array:
    """`visits` with (s, a) counted, once for each of `[B]`; as it was where every power is None and nobody asks."""
    return visits if all(power is None for power in powers) else visits.at[s, a].add(1)


def decayed(value: Array | float, count: Array, power: Array | float | None) -> Array | float:
    """`value / count^power`: no power is constant, 1 is harmonic and makes a running mean, between is polynomial.

    Args:
        value: the step size or exploration at the first visit.
        count: visits, this one included; below 1 counts as 1.
        power: in [0, 1]; step sizes of powers in (1/2, 1] converge with probability one.

    Source: Robbins & Monro 1951, "A stochastic approximation method", eq. 6 and 27.
    """
    if power is None:
        return value
    return value / jnp.maximum(count, 1).astype(jnp.float32) ** power
