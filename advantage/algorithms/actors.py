"""The policy and the state values of an actor in a finite environment, as tables over its states."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import numpy as np

from advantage.algorithms.dynamic_programming.planner import PlannedPolicy
from advantage.algorithms.planning.dyna_network import DynaActor
from advantage.algorithms.playable import Playable
from advantage.algorithms.policy_gradient.impala import LaggingActor
from advantage.algorithms.policy_gradient.shared.acting import Actor, encode
from advantage.algorithms.tabular.acting import EpsilonGreedy
from advantage.algorithms.tabular.action_values import greedy_value
from advantage.algorithms.tabular.monte_carlo_control import ExploringStarts
from advantage.algorithms.tabular.posterior_sampling import PosteriorActor
from advantage.algorithms.value.shared.q_acting import QActor, best_action
from advantage.environments.tables.mdp import MDP
from advantage.laboratory.problem import softmax
from advantage.policies.encoder import split_input
from advantage.policies.heads import CategoricalHead
from advantage.types import Algorithm, Array, Pytree

if TYPE_CHECKING:  # the exact solutions take a quarter of the time that all imports of `advantage train` take
    from advantage.theory.policy_gradient import Policy

ROWS_AT_ONCE = 4096  # observations that a network sees together


def actor_probabilities(mdp: MDP, actor: Pytree) -> np.ndarray:
    """`π(a | s)` of an actor in every state of a table, float64 `[S, A]`; rows sum to one as far as float64 can.

    Args:
        mdp: its state number is what the actor observes, as in an environment made from a table.
        actor: `algorithm.actor(state)` of a method with a policy network, or with a table of action values.

    Raises:
        ValueError: an actor of another kind, or one for another number of actions.
    """
    states, actor = np.arange(mdp.n_states, dtype=np.int32), _evaluated(actor)
    if isinstance(actor, Actor):
        distribution, actions = actor.distribution(states), np.arange(mdp.n_actions, dtype=np.int32)
        table = np.exp([np.asarray(distribution.log_prob(np.full_like(states, a)), float) for a in actions]).T
    elif isinstance(actor, EpsilonGreedy):
        table = np.asarray(actor.probabilities(states), float)
    else:
        raise ValueError(
            f"{type(actor).__name__} gives no probabilities: it has neither a policy network nor a table of action "
            "values; use greedy_actions, or a table of your own."
        )
    sums = table.sum(axis=1, keepdims=True)
    if table.shape != (mdp.n_states, mdp.n_actions) or not (np.abs(sums - 1) < 1e-4).all():
        raise ValueError(
            f"The actor's probabilities have shape {table.shape} and sum to {sums.min():.6g} or more; they must be "
            f"distributions over {mdp.n_actions} actions for each of {mdp.n_states} states. The actor was made for "
            "another environment."
        )
    return table / sums


def action_probabilities(
    algorithm: Playable, actor: Pytree, obs: Pytree, *, deterministic: bool
) -> np.ndarray | None:
    """`π(a | s)` of a policy over Discrete actions, float64 `[N, A]`; None if it is not known from one observation.

    It is not for a policy with a memory, with noise on its weights, or of a planner.

    Args:
        algorithm, actor: the method, and `algorithm.actor(state)`.
        obs: N observations.
        deterministic: the policy that takes the most likely action, as evaluation does; otherwise the one that draws.
    """
    tables = []
    for begin in range(0, len(jax.tree.leaves(obs)[0]), ROWS_AT_ONCE):
        rows = jax.tree.map(lambda leaf, begin=begin: leaf[begin : begin + ROWS_AT_ONCE], obs)
        table = _drawn_from(actor, rows)
        if table is None:
            return None
        choice = algorithm.greedy(actor, rows, ())[0] if deterministic else None
        tables.append(table if choice is None else np.eye(table.shape[-1])[np.asarray(choice)])
    return np.concatenate(tables)


def _drawn_from(actor: Pytree, obs: Pytree) -> np.ndarray | None:
    """The probabilities that a known kind of actor draws actions from."""
    if isinstance(actor, DynaActor) and not actor.random:
        actor = actor.learner
    if isinstance(actor, Actor) and not actor.policy.is_recurrent:
        if not isinstance(actor.policy.head, CategoricalHead):
            return None
        return softmax(np.asarray(actor.distribution(obs).logits, np.float64))
    if isinstance(actor, QActor) and not actor.network.noisy and not actor.network.is_recurrent:
        x = encode(actor.policy, actor.normaliser, obs)
        mask = split_input(x)[1]
        values, _ = actor.values(x)
        allowed = np.ones(values.shape) if mask is None else np.asarray(mask, float)
        random = allowed / allowed.sum(-1, keepdims=True)
        best = np.eye(values.shape[-1])[np.asarray(best_action(values, x))]
        return best + float(actor.epsilon) * (random - best)
    if isinstance(actor, EpsilonGreedy):
        table = np.asarray(actor.chances(obs), np.float64)
        return table / table.sum(axis=1, keepdims=True)
    return None


def greedy_actions(mdp: MDP, algorithm: Algorithm, actor: Pytree) -> np.ndarray:
    """The action that `algorithm.greedy` chooses in every state of a table, int `[S]`: the policy that is evaluated.

    Raises:
        ValueError: an algorithm whose greedy choice depends on more than the state.
    """
    action, _ = algorithm.greedy(actor, np.arange(mdp.n_states, dtype=np.int32), ())
    action = np.asarray(action)
    if action.shape != (mdp.n_states,) or action.dtype.kind not in "iu":
        raise ValueError(
            f"greedy returned {action.dtype} {action.shape} for {mdp.n_states} states; one whole number for each is "
            "a policy of a table."
        )
    return action.astype(np.int64)


def actor_policy(mdp: MDP, actor: Pytree) -> tuple[Policy, Pytree]:
    """An actor with a network as `policy, theta` for the functions of `theory`: `policy(theta) -> π`, `[S, A]`.

    What processes its observations, such as normalisation statistics, stays constant.

    Args:
        mdp: as for `actor_probabilities`.
        actor: `algorithm.actor(state)` of a method with a policy network, whose actions are Discrete.

    Raises:
        ValueError: an actor of another kind.
    """
    actor = _evaluated(actor)
    if not isinstance(actor, Actor):
        raise ValueError(
            f"{type(actor).__name__} has no parameters and distribution to differentiate; give the actor of a "
            "method with a policy network."
        )
    states = np.arange(mdp.n_states, dtype=np.int32)

    def policy(theta: Pytree) -> Array:
        return jax.nn.softmax(actor._replace(params=theta).distribution(states).logits)

    return policy, actor.params


def actor_values(actor: Pytree) -> np.ndarray | None:
    """State values of an actor with a plan or a table of action values, float64 `[S]`; None for any other actor."""
    actor = _evaluated(actor)
    if isinstance(actor, PlannedPolicy):
        return np.asarray(actor.value, np.float64)
    if isinstance(actor, EpsilonGreedy):
        return np.asarray(greedy_value(actor.q, np.arange(actor.sizes.n_states), actor.allowed), np.float64)
    return None


def _evaluated(actor: Pytree) -> Pytree:
    """The part of an actor that evaluation plays; in training it may act differently."""
    if isinstance(actor, LaggingActor):
        return actor.newest
    if isinstance(actor, DynaActor):
        return actor.learner
    return actor.usual if isinstance(actor, ExploringStarts | PosteriorActor) else actor
