"""What an algorithm has learned as a policy that the exact solutions take: a table, or a differentiable function."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from advantage.environments.tables.mdp import MDP
from advantage.theory.policy_gradient import Policy
from advantage.types import Algorithm, Pytree


def actor_probabilities(mdp: MDP, actor: Any) -> np.ndarray:
    """`π(a | s)` of an actor in every state of a table, float64 `[S, A]`; rows sum to one as far as float64 can.

    Args:
        mdp: whose state's number is what the actor observes, as where a table is played.
        actor: `algorithm.actor(state)`, with a method `distribution(obs)` (networks) or `probabilities(s)` (tables).

    Raises:
        ValueError: an actor with neither, or one for another number of actions.
    """
    states = np.arange(mdp.n_states, dtype=np.int32)
    if hasattr(actor, "distribution"):
        distribution, actions = actor.distribution(states), np.arange(mdp.n_actions, dtype=np.int32)
        table = np.exp([np.asarray(distribution.log_prob(np.full_like(states, a)), float) for a in actions]).T
    elif hasattr(actor, "probabilities"):
        table = np.asarray(actor.probabilities(states), float)
    else:
        raise ValueError(
            f"{type(actor).__name__} gives no probabilities: it has no distribution(obs) and no probabilities(s); use "
            "greedy_actions, or a table of your own."
        )
    sums = table.sum(axis=1, keepdims=True)
    if table.shape != (mdp.n_states, mdp.n_actions) or not (np.abs(sums - 1) < 1e-4).all():
        raise ValueError(
            f"The actor's probabilities have shape {table.shape} and sum to {sums.min():.6g} or more; they must be "
            f"distributions over {mdp.n_actions} actions for each of {mdp.n_states} states: it was made for another "
            "world."
        )
    return table / sums


def greedy_actions(mdp: MDP, algorithm: Algorithm, actor: Any) -> np.ndarray:
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


def actor_policy(mdp: MDP, actor: Any) -> tuple[Policy, Pytree]:
    """An actor with a network as `policy, theta` for the functions of `gradient`: `policy(theta) -> π`, `[S, A]`.

    What it observes with (statistics, say) stays as it is.

    Args:
        mdp: as for `actor_probabilities`.
        actor: a named tuple with `params` and `distribution(obs)`, a categorical one.

    Raises:
        ValueError: an actor of another kind.
    """
    if not (hasattr(actor, "distribution") and hasattr(actor, "params") and hasattr(actor, "_replace")):
        raise ValueError(
            f"{type(actor).__name__} has no parameters and distribution to differentiate; give the actor of a "
            "method with a policy network."
        )
    states = np.arange(mdp.n_states, dtype=np.int32)

    def policy(theta: Pytree) -> Any:
        return jax.nn.softmax(actor._replace(params=theta).distribution(states).logits)

    return policy, actor.params
