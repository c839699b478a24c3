"""A replay buffer of past transitions: part of an algorithm's state, pure functions of arrays.

Rows are time steps, columns are environments, and each observation is stored once: the successor of a transition is
the observation of the next row, except where an episode ended. There the next row begins another episode, and the true
successor lies apart, in `finals`. Of stacked observations only the newest frame is stored: see `frames`.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from advantage.machine import free_device_bytes, refuse_large
from advantage.replay.frames import Frames
from advantage.rows import choose
from advantage.types import Array, Key, Pytree, Rollout

STEPS_PER_END = 16  # there is room for the ends of episodes of at least this average length,
STEPS_PER_END_OF_FRAMES = (
    64  # and of this one if observations are stacked: games are longer, and their frames larger,
)
FEWEST_ENDS = 256  # and for so many ends in any case


class Transition(NamedTuple):
    """One transition over one or several steps, or many `[N, ...]`.

    Attributes:
        obs, action: where it begins, and the action taken there.
        reward: the discounted sum of its rewards.
        discount: of the value of `next_obs`: `gamma^k` after k steps, and 0 where the episode terminated.
        next_obs: the true successor of its last step.
    """

    obs: Pytree
    action: Pytree
    reward: Array
    discount: Array
    next_obs: Pytree


class Replay(NamedTuple):
    """The last rows of all environments.

    Attributes:
        obs, action, reward: `[R, B, ...]`, a row a step, a column an environment; of stacks the newest frame.
        terminated, truncated: bool `[R, B]`.
        final: int32 `[R, B]`, the place in `finals` of the true successor of a step that ended an episode.
        finals: `[F, ...]`, the last observations of episodes, a ring of its own; of stacks the newest frame.
        final_rows: uint32 `[F]`, one more than the number of the row that each of `finals` belongs to; 0 if unused.
        ends: uint32, how many finals were written in all.
        newest: `[B, ...]`, the successors of the newest row, whole stacks.
        head: uint32, how many rows were written in all; row r lies at place `r mod R`.
        oldest: uint32, the number of the oldest row that can be drawn.
        extras: `[R, B, ...]`, what else a method keeps of each step, such as the acting policy's log-probability.
        frames: which leaves of an observation are stacks.
    """

    obs: Pytree
    action: Pytree
    reward: Array
    terminated: Array
    truncated: Array
    final: Array
    finals: Pytree
    final_rows: Array
    ends: Array
    newest: Pytree
    head: Array
    oldest: Array
    extras: Pytree = ()
    frames: Frames = Frames()

    @property
    def num_rows(self) -> int:
        """R."""
        return self.reward.shape[0]

    @property
    def num_envs(self) -> int:
        """B."""
        return self.reward.shape[1]

    @property
    def added(self) -> Array:
        """How many transitions were stored in all, uint32."""
        return self.head * jnp.uint32(self.num_envs)

    @property
    def stored(self) -> Array:
        """How many transitions can be drawn, int32."""
        return (self.head - self.oldest).astype(jnp.int32) * self.num_envs


def replay_init(
    obs: Pytree,
    action: Pytree,
    *,
    capacity: int,
    num_envs: int,
    extras: Pytree = (),
    frames: Frames = Frames(),  # noqa: B008
    longest_episode: int | None = None,
) -> Replay:
    """An empty buffer.

    Args:
        obs, action, extras: of one transition, without batch axes, arrays or `jax.ShapeDtypeStruct`; every leaf keeps
            its dtype. Without `extras`, those of rollouts are not stored.
        capacity: transitions; the buffer holds a whole number of rows, at most this many transitions.
        num_envs: B.
        frames: which leaves of an observation are stacks. The oldest rows then only complete the stacks of later ones.
        longest_episode: steps after which an episode has ended in any case, if that is known: there is room for these
            ends besides.

    Raises:
        ValueError: a capacity below one row, or below the rows of a stack, or one that does not fit into memory.
    """
    rows, fewest = capacity // num_envs, num_envs * frames.depth
    if rows < frames.depth:
        stacks = f" and stacks of {frames.depth} observations" if frames.depth > 1 else ""
        raise ValueError(
            f"A replay buffer of {capacity} transitions is not allowed with {num_envs} environments{stacks}; use "
            f"{fewest} or more."
        )
    transitions, stack, obs = rows * num_envs, obs, frames.newest(obs)
    steps_per_end = STEPS_PER_END if frames.depth == 1 else STEPS_PER_END_OF_FRAMES
    ends = max(-(-transitions // steps_per_end), FEWEST_ENDS, 4 * num_envs)
    if longest_episode is not None:
        ends += -(-transitions // longest_episode)
    ends = min(transitions, ends)
    size, of_stack, flags = (
        sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(part))
        for part in (obs, stack, (action, extras))
    )
    flags = flags + 4 + 1 + 1 + 4
    nbytes = transitions * (size + flags) + ends * size + num_envs * of_stack
    with jax.ensure_compile_time_eval():  # buffers are made inside compiled programs too
        what = f"A replay buffer of {transitions:_} transitions of {size + flags} bytes each"
        refuse_large(what, nbytes, "make it smaller: buffer_size (--buffer-size)", free_device_bytes())

    def empty(*axes: int) -> Any:
        return lambda leaf: jnp.zeros((*axes, *leaf.shape), leaf.dtype)

    def column(dtype: Any) -> Array:
        return jnp.zeros((rows, num_envs), dtype)

    return Replay(
        obs=jax.tree.map(empty(rows, num_envs), obs),
        action=jax.tree.map(empty(rows, num_envs), action),
        reward=column(jnp.float32),
        terminated=column(bool),
        truncated=column(bool),
        final=column(jnp.int32),
        finals=jax.tree.map(empty(ends), obs),
        final_rows=jnp.zeros(ends, jnp.uint32),
        ends=jnp.uint32(0),
        newest=jax.tree.map(empty(num_envs), stack),
        head=jnp.uint32(0),
        oldest=jnp.uint32(0),
        extras=jax.tree.map(empty(rows, num_envs), extras),
        frames=frames,
    )


def replay_add(replay: Replay, rollout: Rollout) -> Replay:
    """Store a rollout `[T, B, ...]`; the oldest rows make room.

    Of a rollout with more rows than the buffer the last R stay. If episodes are so short that their last observations
    do not all fit, the oldest rows make room for them too. If the buffer keeps `extras`, the rollout's must
    have the same structure.

    Where the rollout does not begin with the successor of the newest row, the environment has begun another episode
    between the two, as some do when a run is resumed: the newest row then counts as truncated.
    """
    steps = rollout.reward.shape[0]
    kept = min(steps, replay.num_rows)
    replay = _truncate_where_torn(replay, jax.tree.map(lambda x: jnp.asarray(x)[0], rollout.obs))
    extras = rollout.extras if jax.tree.leaves(replay.extras) else replay.extras
    facts = jax.tree.map(lambda x: jnp.asarray(x)[steps - kept :], rollout._replace(memory=(), extras=extras))
    first = replay.head + jnp.uint32(steps - kept)
    numbers = first + jnp.arange(kept, dtype=jnp.uint32)
    head = replay.head + jnp.uint32(steps)
    done = jnp.logical_or(facts.terminated, facts.truncated)
    replay, final, oldest = _add_finals(replay, done, replay.frames.newest(facts.next_obs, axis=2), numbers)
    place = place_of(replay, numbers)

    def write(ring: Array, new: Array) -> Array:
        return ring.at[place].set(new.astype(ring.dtype), unique_indices=True)

    only_frames = jnp.uint32(replay.frames.depth - 1)  # the oldest rows there are
    oldest = jnp.maximum(oldest, head - jnp.minimum(head, jnp.uint32(replay.num_rows)) + only_frames)
    return replay._replace(
        obs=jax.tree.map(write, replay.obs, replay.frames.newest(facts.obs, axis=2)),
        action=jax.tree.map(write, replay.action, facts.action),
        reward=write(replay.reward, facts.reward),
        terminated=write(replay.terminated, facts.terminated),
        truncated=write(replay.truncated, facts.truncated),
        final=write(replay.final, final),
        extras=jax.tree.map(write, replay.extras, facts.extras),
        newest=jax.tree.map(lambda old, x: x[-1].astype(old.dtype), replay.newest, facts.next_obs),
        head=head,
        oldest=jnp.minimum(oldest, head),
    )


def _truncate_where_torn(replay: Replay, obs: Pytree) -> Replay:
    """Mark the newest row as truncated where `obs`, `[B, ...]`, is not its successor."""
    number = replay.head - 1
    place = place_of(replay, number)

    def differs(known: Array, new: Array) -> Array:
        other = (known != new.astype(known.dtype)) & ((known == known) | (new == new))  # two NaN are equal
        return other.reshape(len(known), -1).any(1)

    apart = jax.tree.leaves(jax.tree.map(differs, replay.newest, obs))
    done = jnp.logical_or(replay.terminated[place], replay.truncated[place])
    torn = jnp.stack(apart).any(0) & ~done & (replay.head > 0)

    def mark(_: Array, replay: Replay) -> Replay:
        successors = replay.frames.newest(replay.newest, axis=1)
        replay, final, oldest = _add_finals(replay, torn[None], successors, number[None])
        # `terminated` stays as it is; with a write here the compiler orders all writes, and copies nothing
        return replay._replace(
            terminated=replay.terminated.at[place].min(~torn),
            truncated=replay.truncated.at[place].max(torn),
            final=replay.final.at[place].set(jnp.where(torn, final[0], replay.final[place])),
            oldest=jnp.minimum(oldest, replay.head),
        )

    # a loop of no step or of one: a write that only sometimes happens would have the compiler copy the buffer
    return jax.lax.fori_loop(0, torn.any().astype(jnp.int32), mark, replay)


def _add_finals(
    replay: Replay, done: Array, successors: Pytree, numbers: Array
) -> tuple[Replay, Array, Array]:
    """Store the successors of the steps that ended episodes: `-> replay, their places [T, B], the oldest row`.

    Args:
        replay: without these steps.
        done: bool `[T, B]`, which steps ended episodes.
        successors: `[T, B, ...]`.
        numbers: uint32 `[T]`, those of the rows.
    """
    size, shape, done = len(replay.final_rows), done.shape, done.ravel()
    count = jnp.cumsum(done, dtype=jnp.uint32)
    total, rank = count[-1], count - done
    lost = done & (total - rank > size)  # more ends than there is room for
    place = ((replay.ends + rank) % jnp.uint32(size)).astype(jnp.int32)
    target = jnp.where(done & ~lost, place, size)  # out of bounds: dropped
    row = jnp.repeat(numbers, replay.num_envs) + 1

    def write(ring: Array, new: Array) -> Array:
        return ring.at[target].set(new.reshape(-1, *ring.shape[1:]).astype(ring.dtype), mode="drop")

    replaced = replay.final_rows.at[target].get(mode="fill", fill_value=0)
    oldest = jnp.maximum(replay.oldest, jnp.maximum(replaced.max(), jnp.where(lost, row, 0).max()))
    stored = replay._replace(
        finals=jax.tree.map(write, replay.finals, successors),
        final_rows=replay.final_rows.at[target].set(row, mode="drop"),
        ends=replay.ends + total,
    )
    return stored, place.reshape(shape), oldest


def replay_sample(replay: Replay, key: Key, size: int, *, gamma: Array | float, n: int = 1) -> Transition:
    """`size` transitions over n steps, each begun at a step drawn uniformly from all that are stored, with replacement.

    See `transitions_at`. From an empty buffer they are zeros.

    Source: Lin 1992, "Self-improving reactive agents based on reinforcement learning, planning and teaching"; Mnih et
    al. 2015, "Human-level control through deep reinforcement learning", algorithm 1.
    """
    return transitions_at(replay, uniform_draw(replay, key, size), gamma=gamma, n=n)


def uniform_draw(replay: Replay, key: Key, size: int) -> Array:
    """Steps drawn uniformly from all that are stored, with replacement, int32 `[size]`, counted from the oldest."""
    return jax.random.randint(key, (size,), 0, jnp.maximum(replay.stored, 1))


def transitions_at(replay: Replay, index: Array, *, gamma: Array | float, n: int = 1) -> Transition:
    """The transitions that begin at steps `index`, `[N]`, counted from the oldest, row by row.

        reward    sum over k < m of gamma^k r_{t+k}
        discount  gamma^m (1 - terminated_{t+m-1})
        next_obs  the true successor of step t+m-1

    with m = n, or fewer steps if the episode ends before or the newest row is reached.
    """
    num_envs, row = replay.num_envs, replay.oldest + (index // replay.num_envs).astype(jnp.uint32)
    env = index % num_envs
    rows = row[:, None] + jnp.arange(n, dtype=jnp.uint32)
    place = place_of(replay, rows)
    reward, terminated, truncated = (
        x[place, env[:, None]] for x in (replay.reward, replay.terminated, replay.truncated)
    )
    done = jnp.logical_or(terminated, truncated)
    ended = jnp.cumsum(done, axis=1) - done
    counts = (ended == 0) & (rows < jnp.maximum(replay.head, 1))
    steps = counts.sum(1)
    power = jnp.asarray(gamma, jnp.float32) ** jnp.arange(n)
    last = row + (steps - 1).astype(jnp.uint32)
    here = place_of(replay, row), env
    stopped = replay.terminated[place_of(replay, last), env]
    return Transition(
        obs=observations(replay, row, env),
        action=jax.tree.map(lambda x: x[here], replay.action),
        reward=jnp.where(counts, power * reward, 0).sum(1),
        discount=jnp.asarray(gamma, jnp.float32) ** steps * (1 - stopped),
        next_obs=successors(replay, last, env),
    )


def observations(replay: Replay, row: Array, env: Array) -> Pytree:
    """The observations of the steps `(row, env)`, `[N]`, with their stacks."""
    frames = replay.frames
    before = place_of(replay, row[:, None] - jnp.arange(1, frames.depth, dtype=jnp.uint32)), env[:, None]
    back = frames.rows_back(replay.terminated[before] | replay.truncated[before])
    return frames.gather(replay.obs, place_of(replay, row[:, None] - back.astype(jnp.uint32)), env)


def successors(replay: Replay, row: Array, env: Array) -> Pytree:
    """The true successor of each of the steps `(row, env)`, `[N]`."""
    place, following = place_of(replay, row), place_of(replay, row + 1)
    ended = jnp.logical_or(replay.terminated[place, env], replay.truncated[place, env])
    newest, final = row + 1 == replay.head, replay.final[place, env]

    def leaf(ring: Array, finals: Array, last: Array) -> Array:
        return choose(ended, finals[final], choose(newest, last[env], ring[following, env]))

    frame = jax.tree.map(leaf, replay.obs, replay.finals, replay.frames.newest(replay.newest, axis=1))
    return replay.frames.after(observations(replay, row, env), frame)


def place_of(replay: Replay, row: Array) -> Array:
    """Where rows lie, by their numbers."""
    return (row % jnp.uint32(replay.num_rows)).astype(jnp.int32)
