"""Which ends of episodes are goals."""

from __future__ import annotations

import numpy as np
import scipy

from advantage.environments.tables.mdp import MDP


def goals(mdp: MDP) -> np.ndarray:
    """Which terminal states are goals, bool `[S]`: those that earn most when they are entered; the others are holes.

    Where reward is known by state and action only, it counts for every state that the action may lead to.
    """
    earned = np.full(mdp.n_states, -np.inf)
    state, successor, reward = _transitions(mdp)
    entering = ~mdp.terminal[state]
    np.maximum.at(earned, successor[entering], reward[entering])
    best = earned[mdp.terminal].max(initial=-np.inf)
    return mdp.terminal & (earned == best)


def _transitions(mdp: MDP) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """State, successor and reward of every possible transition."""
    if scipy.sparse.issparse(mdp.transition):
        rows = np.repeat(np.arange(mdp.transition.shape[0]), np.diff(mdp.transition.indptr))
        action, state = np.divmod(rows, mdp.n_states)
        possible, successor = mdp.transition.data > 0, mdp.transition.indices
        by_entry = mdp.reward.data if scipy.sparse.issparse(mdp.reward) else mdp.reward[state, action]
        return state[possible], successor[possible], by_entry[possible]
    state, action, successor = np.nonzero(mdp.transition)
    by_place = mdp.reward[state, action, successor] if mdp.reward.ndim == 3 else mdp.reward[state, action]
    return state, successor, by_place
