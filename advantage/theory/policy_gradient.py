"""The exact gradient of each objective, and the natural gradient, for any differentiable policy.

A policy here is a JAX function `policy(theta) -> π`, `[S, A]`, of a pytree of parameters: probabilities, one row for
each state. Everything is computed in float64. A table of logits:

    policy = jax.nn.softmax

A network of this library, which sees states as one-hot vectors:

    body, states = MLP(hidden=(16,)), jnp.eye(mdp.n_states)
    theta = {"body": body.init(key, states), "head": linear_init(key_head, [(16, mdp.n_actions)], [0.01])[0]}

    def policy(theta):
        return jax.nn.softmax(linear(theta["head"], body.apply(theta["body"], states)))
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from advantage.environments.tables.arrays import refuse_dense
from advantage.environments.tables.mdp import MDP
from advantage.machine import refuse_array
from advantage.theory.chains import stationary_distribution
from advantage.theory.objectives import (
    differential_action_values,
    finite_horizon_action_values,
    finite_horizon_values,
    gain_and_bias,
)
from advantage.theory.policy_evaluation import action_values, ending, expected_visits, values
from advantage.types import Array, Pytree

Policy = Callable[[Pytree], Array]


def probabilities(policy: Policy, theta: Pytree) -> np.ndarray:
    """The table `π(a | s)`, float64 `[S, A]`, for the functions of `policy_evaluation`, `objectives` and `improvement`.

    Raises:
        ValueError: a policy that computes in less than float64 although its parameters are float64.
    """
    with jax.enable_x64(True):
        table = _table(policy, _float64(theta))
    if table.dtype != np.float64:
        raise ValueError(
            f"policy returned {table.dtype} for parameters in float64; let it keep the type of its parameters."
        )
    return np.asarray(table)


def performance_gradient(mdp: MDP, policy: Policy, theta: Pytree) -> Pytree:
    """`∇J` by differentiating `J = μ0^T (I - γ P_π)^{-1} r_π` through the solution of the linear system.

    Returns:
        The gradient, float64, in the structure of `theta`.

    Raises:
        ValueError: as `values` and `probabilities`; or a sparse table that is too large as a dense one; then use
            `policy_gradient`.
    """
    pi = probabilities(policy, theta)
    ends = ending(mdp, mdp.rows(pi))
    transition = _dense(mdp)[ends][:, :, ends]
    system = np.flatnonzero(ends), mdp.start[ends], mdp.gamma, transition, mdp.expected_reward[ends]
    with jax.enable_x64(True):
        return _arrays(_slope_through_solve(policy, _float64(theta), *system))


def policy_gradient(mdp: MDP, policy: Policy, theta: Pytree) -> Pytree:
    """`∇J = Σ_s ρ_π(s) Σ_a ∇π(a | s) Q(s, a)`, with `ρ_π = d_π / (1 - γ)`: the policy gradient theorem.

    It also holds with γ = 1, where `ρ_π` counts the visits of an episode.

    Returns:
        The gradient, float64, in the structure of `theta`.

    Raises:
        ValueError: as `values` and `probabilities`.

    Source: Sutton et al. 2000, "Policy gradient methods for reinforcement learning with function approximation",
    theorem 1.
    """
    pi = probabilities(policy, theta)
    visits = expected_visits(mdp, pi)[:, None]
    weight = np.where(visits > 0, visits * action_values(mdp, values(mdp, pi)), 0.0)
    return _weighted_gradient(policy, theta, weight)


def finite_horizon_gradient(mdp: MDP, policy: Policy, theta: Pytree, horizon: int) -> Pytree:
    """`∇ Σ_{t<T} E[R_t] = Σ_t Σ_s P(s_t = s) Σ_a ∇π(a | s) Q_t(s, a)`, for the undiscounted sum of T rewards.

    Returns:
        The gradient, float64, in the structure of `theta`.

    Raises:
        ValueError: as `finite_horizon_values` and `probabilities`.

    Source: Williams 1992, "Simple statistical gradient-following algorithms for connectionist reinforcement learning",
    theorem 2, in expectation.
    """
    pi = probabilities(policy, theta)
    transition, mu, weight = mdp.rows(pi), np.array(mdp.start), np.zeros_like(pi)
    for q in finite_horizon_action_values(mdp, finite_horizon_values(mdp, pi, horizon)):
        weight += mu[:, None] * q
        mu = mu @ transition
    return _weighted_gradient(policy, theta, weight)


def gain_gradient(mdp: MDP, policy: Policy, theta: Pytree) -> Pytree:
    """`∇g = Σ_s μ(s) Σ_a ∇π(a | s) Q(s, a)`, for the average reward `g`; `μ` is stationary, `Q` differential.

    Returns:
        The gradient, float64, in the structure of `theta`.

    Raises:
        ValueError: as `gain_and_bias` and `probabilities`.

    Source: Sutton et al. 2000, "Policy gradient methods for reinforcement learning with function approximation",
    theorem 1.
    """
    pi = probabilities(policy, theta)
    weight = stationary_distribution(mdp.chain(pi))[:, None] * differential_action_values(
        mdp, *gain_and_bias(mdp, pi)
    )
    return _weighted_gradient(policy, theta, weight)


def fisher_matrix(mdp: MDP, policy: Policy, theta: Pytree) -> np.ndarray:
    """`F = Σ_s d_π(s) Σ_a π(a | s) ∇log π(a | s) ∇log π(a | s)^T`, `[N, N]` over all N parameters as one vector.

    Terminal states, where no action is chosen, do not count. With γ = 1, `ρ_π` replaces `d_π`.

    Args:
        mdp, policy: as for `policy_gradient`.
        theta: N numbers, in the order of `jax.flatten_util.ravel_pytree`.

    Raises:
        ValueError: as `policy_gradient`; or N so large that `F` or `∇π` would not fit into memory.

    Source: Kakade 2001, "A natural policy gradient", section 2, with the discounted visitation.
    """
    pi = probabilities(policy, theta)
    count = sum(np.size(leaf) for leaf in jax.tree.leaves(theta))
    for what, shape in (("∇π", (*pi.shape, count)), ("F", (count, count))):
        refuse_array(what, shape, "use fewer parameters")
    weight = ((1 - mdp.gamma) or 1.0) * expected_visits(mdp, pi)
    with jax.enable_x64(True):
        slope = np.asarray(_jacobian(policy, _float64(theta)))
    possible = (pi > 0) & (weight > 0)[:, None]
    slope, weight = slope[possible], np.broadcast_to(weight[:, None], pi.shape)[possible]
    return slope.T @ (slope * (weight / pi[possible])[:, None])


def natural_gradient(mdp: MDP, policy: Policy, theta: Pytree) -> Pytree:
    """`F^+ ∇J`: the steepest ascent per KL divergence; where `F` is singular, the shortest such direction.

    For a softmax over a table of logits it is `A(s, a) / (1 - γ)` plus a constant for each visited state (the same
    without `1 - γ` if γ = 1).

    Returns:
        The direction, float64, in the structure of `theta`.

    Source: Kakade 2001, "A natural policy gradient", section 2; Agarwal et al. 2021, "On the theory of policy gradient
    methods", section 5.3.
    """
    matrix = fisher_matrix(mdp, policy, theta)
    with jax.enable_x64(True):
        flat, unravel = ravel_pytree(policy_gradient(mdp, policy, theta))
        direction = np.linalg.lstsq(matrix, np.asarray(flat), rcond=None)[0]
        return _arrays(unravel(jnp.asarray(direction)))


def _weighted_gradient(policy: Policy, theta: Pytree, weight: np.ndarray) -> Pytree:
    with jax.enable_x64(True):
        return _arrays(_pull_back(policy, _float64(theta), weight))


@partial(jax.jit, static_argnums=0)
def _table(policy: Policy, theta: Pytree) -> Array:
    return policy(theta)


@partial(jax.jit, static_argnums=0)
def _slope_through_solve(
    policy: Policy, theta: Pytree, states: Array, start: Array, gamma: Array, transition: Array, reward: Array
) -> Pytree:
    def performance(theta: Pytree) -> Array:
        pi = policy(theta)[states]
        system = jnp.eye(len(start)) - gamma * jnp.einsum("sa,sat->st", pi, transition)
        return start @ jnp.linalg.solve(system, (pi * reward).sum(axis=1))

    return jax.grad(performance)(theta)


@partial(jax.jit, static_argnums=0)
def _pull_back(policy: Policy, theta: Pytree, weight: Array) -> Pytree:
    """`Σ_s Σ_a weight(s, a) ∇π(a | s)`."""
    return jax.vjp(policy, theta)[1](weight)[0]


@partial(jax.jit, static_argnums=0)
def _jacobian(policy: Policy, theta: Pytree) -> Array:
    """`∇π(a | s)`, `[S, A, N]`."""
    flat, unravel = ravel_pytree(theta)
    return jax.jacrev(lambda flat: policy(unravel(flat)))(flat)


def _float64(theta: Pytree) -> Pytree:
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), theta)


def _arrays(tree: Pytree) -> Pytree:
    return jax.tree.map(np.asarray, tree)


def _dense(mdp: MDP) -> Any:
    if not mdp.is_sparse:
        return mdp.transition
    refuse_dense(mdp.n_states, mdp.n_actions)
    return mdp.transition.toarray().reshape(mdp.n_actions, mdp.n_states, mdp.n_states).swapaxes(0, 1)
