"""Monte-Carlo tree search: grow a tree of what can happen where it promises most.

A node is a state. An action leads from it to one child for each successor that was seen, so moves of chance are part of
the tree.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from advantage.models.ensemble import reordered
from advantage.models.interface import Model
from advantage.planners.imagination import PlanningProblem
from advantage.types import Array, Key, Pytree

NONE = -1


class Tree(NamedTuple):
    """M nodes, of which the first `size` are in use; node 0 is the root.

    Attributes:
        state: `[M, ...]`.
        reward: float32 `[M]`, of the step that leads to the node.
        ended: bool `[M]`, the step terminated.
        parent, action: int32 `[M]`, where the step began and what was done; `NONE` for the root.
        child: int32 `[M, A, W]`, one for each successor that was seen, else `NONE`.
        visits: int32 `[M, A]`, how often an action was taken.
        total: float32 `[M, A]`, the sum of the returns from it.
        lowest, highest: of all returns from nodes.
        size: int32.
    """

    state: Pytree
    reward: Array
    ended: Array
    parent: Array
    action: Array
    child: Array
    visits: Array
    total: Array
    lowest: Array
    highest: Array
    size: Array

    @property
    def action_value(self) -> Array:
        """The mean return of each action, `[M, A]`; 0 where it was never taken."""
        return self.total / jnp.maximum(self.visits, 1)


class Leaf(NamedTuple):
    """Where a simulation leaves the tree: an action of a node, and where it leads; `found` is a node that ended."""

    node: Array
    action: Array
    slot: Array
    state: Pytree
    reward: Array
    ended: Array
    found: Array


def tree_search(
    problem: PlanningProblem,
    state: Pytree,
    key: Key,
    value: Callable[[Pytree, Key], Array],
    *,
    simulations: int,
    successors: int,
    exploration: Array | float,
) -> Tree:
    """Upper confidence bounds applied to trees (UCT).

    A simulation goes down from the root by

        a = argmax_a Q(s, a) + c sqrt(log sum_b n(s, b) / n(s, a))

    with untried actions first and Q scaled to [0, 1] by the lowest and highest return in the tree. A successor that is
    not in the tree becomes a new node; its value is estimated once, and the returns

        G = r + gamma sign (1 - terminated) G'       sign is that of the model

    are added to the actions on the way back to the root. A simulation in an ensemble of models steps in one member,
    drawn at random.

    Args:
        problem: model, Discrete actions and discount.
        state: the root, one state.
        key: draws moves of chance and breaks ties.
        value: estimates a new node's value, from one state and a key.
        simulations: how many; the tree has one node more.
        successors: W, how many successors of a node's action the tree holds; 1 for a world without chance. If more
            are seen, one of those it holds stands in for the new one.
        exploration: c.

    Source: Kocsis & Szepesvári 2006, "Bandit based Monte-Carlo planning".
    """
    nodes, choices = simulations + 1, problem.actions.choices

    def simulate(i: Array, tree: Tree) -> Tree:
        key_down, key_value = jax.random.split(jax.random.fold_in(key, i))
        model = reordered(problem.model, jax.random.fold_in(key, simulations + i))
        leaf = _descend(model, tree, key_down, exploration)
        tree, node = _grown(tree, leaf)
        estimate = jnp.where(tree.ended[node], 0.0, value(_at(tree.state, node), key_value))
        return _backed_up(tree, node, estimate, problem.gamma, problem.model.sign)

    def rows(x: Array) -> Array:
        return jnp.zeros((nodes, *x.shape), x.dtype).at[0].set(x)

    none = jnp.full(nodes, NONE)
    tree = Tree(
        state=jax.tree.map(lambda x: rows(jnp.asarray(x)), state),
        reward=jnp.zeros(nodes),
        ended=jnp.zeros(nodes, bool),
        parent=none,
        action=none,
        child=jnp.full((nodes, choices, successors), NONE),
        visits=jnp.zeros((nodes, choices), jnp.int32),
        total=jnp.zeros((nodes, choices)),
        lowest=jnp.float32(jnp.inf),
        highest=jnp.float32(-jnp.inf),
        size=jnp.int32(1),
    )
    return jax.lax.fori_loop(0, simulations, simulate, tree)


def most_visited(tree: Tree) -> Array:
    """The action that was taken most often at the root, of several the one with the highest mean return."""
    visits, value = tree.visits[0], tree.action_value[0]
    return jnp.where(visits == visits.max(), value, -jnp.inf).argmax()


def _descend(model: Model, tree: Tree, key: Key, exploration: Array | float) -> Leaf:
    """Go down by the bounds until a step leads out of the tree or into an end."""

    def step(carry: tuple[Leaf, Array]) -> tuple[Leaf, Array]:
        leaf, depth = carry
        node = leaf.found
        key_choice, key_step, key_slot = jax.random.split(jax.random.fold_in(key, depth), 3)
        one = jax.tree.map(lambda x: x[node][None], tree.state)
        action = _chosen(tree, node, key_choice, exploration, model.allowed(one))
        after = jax.tree.map(lambda x: x[0], model.step(one, action[None], key_step))
        slot, found = _child(tree, node, action, after.state, key_slot)
        new = Leaf(node, action, slot, after.state, after.reward, after.terminated, found)
        return new, depth + 1

    def goes_on(carry: tuple[Leaf, Array]) -> Array:
        found = carry[0].found
        return (found != NONE) & ~tree.ended[found]

    none = jnp.int32(NONE)
    root = Leaf(none, none, none, _at(tree.state, 0), jnp.float32(0), jnp.bool_(False), jnp.int32(0))
    return jax.lax.while_loop(goes_on, step, (root, jnp.int32(0)))[0]


def _chosen(tree: Tree, node: Array, key: Key, exploration: Array | float, allowed: Array | None) -> Array:
    """The possible action with the highest bound; untried ones first, in random order."""
    visits, value = tree.visits[node], tree.action_value[node]
    width = tree.highest - tree.lowest
    relative = (value - tree.lowest) / jnp.where(width > 0, width, 1.0)
    bonus = exploration * jnp.sqrt(jnp.log(jnp.maximum(visits.sum(), 1)) / jnp.maximum(visits, 1))
    chance = jax.random.uniform(key, visits.shape)
    bound = jnp.where(width > 0, relative, 0.0) + bonus + 1e-6 * chance
    highest = exploration * jnp.sqrt(jnp.log(jnp.maximum(visits.sum(), 1))) + 2.0  # no bound is above it
    score = jnp.where(visits > 0, bound, highest + chance)
    return (score if allowed is None else jnp.where(allowed[0], score, -jnp.inf)).argmax().astype(jnp.int32)


def _child(tree: Tree, node: Array, action: Array, state: Pytree, key: Key) -> tuple[Array, Array]:
    """The place among an action's children that belongs to a successor, and the child there, or `NONE`."""
    children = tree.child[node, action]
    free = children == NONE

    def equal(stored: Array, new: Array) -> Array:
        same = stored[children] == new
        return same.reshape(len(children), -1).all(1)

    if len(children) == 1:  # without chance, the only child is the successor
        return jnp.int32(0), children[0]
    parts = jax.tree.leaves(jax.tree.map(equal, tree.state, state))
    same = jnp.stack(parts).all(0) & ~free
    taken = jnp.where(free, 0, tree.visits[jnp.maximum(children, 0)].sum(-1) + 1)
    stand_in = jax.random.categorical(key, jnp.log(taken))
    slot = jnp.where(same.any(), same.argmax(), jnp.where(free.any(), free.argmax(), stand_in))
    return slot.astype(jnp.int32), children[slot]


def _grown(tree: Tree, leaf: Leaf) -> tuple[Tree, Array]:
    """The tree with a node for the leaf, unless it is an end that is there already: `-> tree, its node`."""
    is_new, node = leaf.found == NONE, jnp.where(leaf.found == NONE, tree.size, leaf.found)

    def put(old: Array, new: Array) -> Array:
        return old.at[node].set(jnp.where(is_new, new, old[node]))

    parts: Any = dict(
        state=jax.tree.map(put, tree.state, leaf.state),
        reward=put(tree.reward, leaf.reward),
        ended=put(tree.ended, leaf.ended),
        parent=put(tree.parent, leaf.node),
        action=put(tree.action, leaf.action),
        child=tree.child.at[leaf.node, leaf.action, leaf.slot].set(node),
    )
    return tree._replace(**parts, size=tree.size + is_new), node


def _backed_up(tree: Tree, node: Array, estimate: Array, gamma: Array | float, sign: float) -> Tree:
    """Add the returns that follow from a node's estimate to the actions on the way to the root."""

    def goes_on(carry: tuple[Tree, Array, Array]) -> Array:
        return tree.parent[carry[1]] != NONE

    def step(carry: tuple[Tree, Array, Array]) -> tuple[Tree, Array, Array]:
        at, node, below = carry
        value = tree.reward[node] + gamma * sign * below
        place = tree.parent[node], tree.action[node]
        at = at._replace(
            visits=at.visits.at[place].add(1),
            total=at.total.at[place].add(value),
            lowest=jnp.minimum(at.lowest, value),
            highest=jnp.maximum(at.highest, value),
        )
        return at, tree.parent[node], value

    return jax.lax.while_loop(goes_on, step, (tree, node, estimate))[0]


def _at(tree: Pytree, node: Array | int) -> Pytree:
    return jax.tree.map(lambda x: x[node], tree)
