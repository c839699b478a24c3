"""Priorities of the transitions in a replay buffer: those with large errors are replayed more often.

They lie beside the buffer, in a tree with a leaf for each of its places: transition `(row, env)` has leaf
`(row mod R) B + env`.

Source: Schaul et al. 2016, "Prioritized experience replay", the proportional variant, section 3.3 and algorithm 1.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from advantage.machine import free_device_bytes, refuse_large
from advantage.replay.loop_count import largest_of_seeds
from advantage.replay.ring import Replay, place_of
from advantage.replay.sum_tree import (
    sum_tree_draw,
    sum_tree_init,
    sum_tree_largest,
    sum_tree_leaves,
    sum_tree_set,
    sum_tree_total,
    sum_tree_width,
)
from advantage.types import Array, Key


class Priorities(NamedTuple):
    """The priorities of all transitions in a buffer.

    Attributes:
        tree: `[2P, 2]`, see `sum_tree`. A leaf's value is the priority of its transition, 0 where none can be drawn;
            its second number is the same if the priority was measured, and 0 if it was assumed.
    """

    tree: Array

    @property
    def total(self) -> Array:
        """The sum of all priorities."""
        return sum_tree_total(self.tree)

    @property
    def assumed(self) -> Array:
        """The priority that a new transition gets: the largest that was measured of those in the buffer; 1 without."""
        largest = sum_tree_largest(self.tree)
        return jnp.where(largest > 0, largest, 1.0)


class PrioritisedDraw(NamedTuple):
    """Transitions drawn in proportion to their priorities, `[N]`.

    Attributes:
        index: int32, for `transitions_at`: counted from the oldest, row by row.
        places: int32, for `priorities_update`.
        weights: importance weights in (0, 1].
    """

    index: Array
    places: Array
    weights: Array


def priorities_init(replay: Replay) -> Priorities:
    """The priorities of an empty buffer.

    Raises:
        ValueError: they do not fit into memory.
    """
    leaves = replay.num_rows * replay.num_envs
    with jax.ensure_compile_time_eval():
        what, size = f"The tree of priorities of {leaves:_} transitions", 16 * sum_tree_width(leaves)
        refuse_large(what, size, "make the replay buffer smaller", free_device_bytes())
    return Priorities(sum_tree_init(leaves))


def priorities_add(priorities: Priorities, before: Replay, after: Replay, *, steps: int) -> Priorities:
    """The priorities after `after = replay_add(before, rollout)` of a rollout of `steps` steps.

    Each new transition gets the largest priority, so that it is replayed soon: algorithm 1, line 6. The maximum is over
    the transitions in the buffer whose priority was measured. Over all that ever were, or over assumed priorities too,
    it would never shrink: a new transition would hand on to the next what it was given itself.

    Transitions that can no longer be drawn get priority 0. Usually new ones stand in their places. If the buffer was
    shortened for want of room for the ends of episodes, each row takes `B log P` operations, once.
    """
    rows, num_envs = after.num_rows, after.num_envs

    def leaves(row: Array) -> Array:
        return (place_of(after, row)[..., None] * num_envs + jnp.arange(num_envs)).ravel()

    overwritten = after.head - jnp.minimum(after.head, jnp.uint32(rows))
    first, until = jnp.maximum(before.oldest, overwritten), jnp.minimum(after.oldest, before.head)

    def forget(i: Array, tree: Array) -> Array:
        row = first + i
        kept = jnp.where(row < until, 0.0, sum_tree_leaves(tree, leaves(row)))
        return sum_tree_set(tree, leaves(row), kept[:, 0], ranked=kept[:, 1])

    count = largest_of_seeds(jnp.maximum(until, first) - first)
    tree = jax.lax.fori_loop(jnp.uint32(0), count, forget, priorities.tree)
    assumed = Priorities(tree).assumed  # read before the loop, it would make the loop copy the tree
    kept = min(steps, rows)
    new = after.head - jnp.uint32(kept) + jnp.arange(kept, dtype=jnp.uint32)
    value = jnp.repeat(jnp.where(new >= after.oldest, assumed, 0.0), num_envs)
    return Priorities(sum_tree_set(tree, leaves(new), value, ranked=jnp.zeros_like(value)))


def priorities_sample(
    priorities: Priorities, replay: Replay, key: Key, size: int, *, beta: Array | float
) -> PrioritisedDraw:
    """Draw transitions with probabilities `P(i) = p_i / sum_k p_k`, one in each of `size` equal parts of the sum.

        w_i = (N P(i))^-beta / max_j (N P(j))^-beta = (min_j p_j / p_i)^beta

    with the maximum over the transitions drawn, not over the buffer; N and the sum cancel. At `beta = 1` the weights
    correct for the priorities in full, except for a factor of each batch.

    Args:
        priorities, replay: the buffer, with its priorities up to date. From an empty one it is transition 0.
        key: draws one uniform number for each part.
        size: N.
        beta: in [0, 1], annealed to 1.

    Source: Schaul et al. 2016, eq. 1, section 3.4, and appendix B.2.1 for the parts.
    """
    part = jnp.arange(size, dtype=jnp.float32) / size
    places = sum_tree_draw(priorities.tree, part, jax.random.uniform(key, (size,)) / size)
    value = sum_tree_leaves(priorities.tree, places)[:, 0]
    weights = jnp.where(value > 0, (value.min() / value) ** beta, 1.0)
    row, env = places // replay.num_envs, places % replay.num_envs
    row = (row - place_of(replay, replay.oldest)) % replay.num_rows
    return PrioritisedDraw(row * replay.num_envs + env, places, weights)


def priorities_update(
    priorities: Priorities,
    places: Array,
    td_error: Array,
    *,
    alpha: Array | float,
    epsilon: Array | float = 1e-6,
) -> Priorities:
    """Set the priorities of drawn transitions, `p_i = (|delta_i| + epsilon)^alpha`.

    Of a transition that was drawn several times the largest stays. Where there is no transition there is no priority.

    Args:
        priorities: those that `priorities_sample` drew from.
        places: int32 `[N]`, from `priorities_sample`.
        td_error: `[N]`, delta, not multiplied by importance weights.
        alpha: from 0, uniform draws, to 1.
        epsilon: above 0, so that a transition without error can be drawn again.

    Source: Schaul et al. 2016, section 3.3 and eq. 1; the tree holds `p^alpha`.
    """
    value = (jnp.abs(td_error) + epsilon) ** alpha
    value = jnp.where(sum_tree_leaves(priorities.tree, places)[:, 0] > 0, value, 0.0)
    return Priorities(sum_tree_set(priorities.tree, places, value))
