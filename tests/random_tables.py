"""Random finite worlds and policies, dense and sparse."""

import numpy as np
from scipy import sparse

from advantage.environments.tables.mdp import MDP


def random_policy(rng, n_states, n_actions, concentration=1.0):
    return rng.dirichlet(np.full(n_actions, concentration), n_states)


def random_mdp(
    rng,
    n_states=6,
    n_actions=3,
    gamma=0.9,
    *,
    as_sparse=False,
    ends=False,
    by_successor=False,
    concentration=0.5,
):
    """A random table. With `ends`, the last state is terminal, and any state leads there with some probability."""
    transition = rng.dirichlet(np.full(n_states, concentration), (n_states, n_actions))
    reward = rng.normal(size=(n_states, n_actions, n_states))
    start = rng.dirichlet(np.ones(n_states))
    terminal = np.zeros(n_states, bool)
    if ends:
        transition = 0.8 * transition
        transition[..., -1] += 0.2
        transition[-1] = np.eye(n_states)[-1]
        reward[-1] = 0
        terminal[-1] = True
        start[-1] = 0
        start /= start.sum()
    if not by_successor:
        reward = np.einsum("ijk,ijk->ij", transition, reward)
    if as_sparse:
        transition, reward = as_rows(transition, reward)
    return MDP(transition, reward, start=start, terminal=terminal, gamma=gamma)


def as_rows(transition, reward):
    """Dense tables as sparse ones: row `a * S + s`."""
    n_states, n_actions, _ = transition.shape
    rows = transition.swapaxes(0, 1).reshape(n_actions * n_states, n_states)
    table = sparse.csr_array(rows)
    if reward.ndim == 2:
        return table, reward
    earned = reward.swapaxes(0, 1).reshape(rows.shape)
    places = np.repeat(np.arange(len(rows)), np.diff(table.indptr)), table.indices
    return table, sparse.csr_array((earned[places], table.indices, table.indptr), shape=table.shape)


def dense_reward(mdp):
    """`R(s, a, s')` of a dense table, `[S, A, S]`."""
    reward = mdp.reward if mdp.reward.ndim == 3 else mdp.reward[:, :, None]
    return np.broadcast_to(reward, mdp.transition.shape)
