"""How much better another policy is: performance difference, surrogate, lower bound, and guaranteed iteration."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit, rel_entr

from advantage.environments.tables.mdp import MDP
from advantage.machine import refuse_array
from advantage.theory.policy_evaluation import advantages, expected_visits, performance

SMALLEST_RADIUS, LARGEST_RADIUS = 1e-24, 300.0  # of the KL divergence; beyond these float64 sees no change
SMALLEST = float(np.finfo(float).tiny)
LARGEST_Y = 600.0  # sigmoid(-y) is still a number then
BISECTIONS = 64
NOTHING = 1e-12  # share of the largest advantage that counts as zero


def performance_difference(mdp: MDP, policy: Any, new: Any) -> float:
    """`Σ_s ρ_π'(s) Σ_a π'(a | s) A_π(s, a)`, which equals `J(π') - J(π)`.

    Args:
        mdp: any with γ < 1, or one in which episodes end under both policies.
        policy: `π`, int `[S]` or `[S, A]`.
        new: `π'`, likewise.

    Source: Kakade & Langford 2002, "Approximately optimal approximate reinforcement learning", lemma 6.1.
    """
    return _expected_advantage(mdp, policy, new, expected_visits(mdp, new))


def surrogate(mdp: MDP, policy: Any, new: Any) -> float:
    """`L_π(π') = J(π) + Σ_s ρ_π(s) Σ_a π'(a | s) A_π(s, a)`; equals `J` in value and gradient at `π' = π`.

    Source: Schulman et al. 2015, "Trust region policy optimization", eq. 3.
    """
    return performance(mdp, policy) + _expected_advantage(mdp, policy, new, expected_visits(mdp, policy))


def max_kl(policy: np.ndarray, new: np.ndarray) -> float:
    """`max_s KL(π(.|s) || π'(.|s))` for two tables `[S, A]`; infinite if `π'` excludes an action of `π`.

    Source: Schulman et al. 2015, "Trust region policy optimization", section 3.
    """
    return float(rel_entr(policy, new).sum(axis=1).max())


def penalty_constant(mdp: MDP, policy: Any) -> float:
    """`C = 4 ε γ / (1 - γ)²`, `ε = max |A_π(s, a)|`.

    Raises:
        ValueError: γ = 1.

    Source: Schulman et al. 2015, "Trust region policy optimization", theorem 1.
    """
    if mdp.gamma == 1:
        raise ValueError("gamma=1 makes the penalty infinite; the bound needs gamma below 1.")
    return 4 * float(np.abs(advantages(mdp, policy)).max()) * mdp.gamma / (1 - mdp.gamma) ** 2


def lower_bound(mdp: MDP, policy: Any, new: Any) -> float:
    """`L_π(π') - C max_s KL(π || π') <= J(π')`, with equality at `π' = π`.

    Source: Schulman et al. 2015, "Trust region policy optimization", theorem 1.
    """
    constant = penalty_constant(mdp, policy)
    distance = max_kl(mdp.probabilities(policy), mdp.probabilities(new))
    return surrogate(mdp, policy, new) - (constant * distance if constant else 0.0)


def maximise_within_kl(
    policy: np.ndarray, advantage: np.ndarray, radius: float
) -> tuple[np.ndarray, np.ndarray]:
    """For each state, `max_π' Σ_a π'(a) A(a)` such that `KL(π || π') <= radius`.

    Where the derivative of the Lagrangian vanishes,

        π'(a) = λ π(a) / (ν - A(a)),    λ = 1 / Σ_a π(a) / (ν - A(a)),    ν > max A,

    and the divergence grows from 0 to infinity as ν falls from infinity to the largest advantage: a bisection finds ν.
    If the largest advantage belongs to an action `u` which `π` never takes, then ν stops at `A(u)`, where the
    divergence is finite, and `u` gets the probability `1 - exp(KL - radius)`.

    Args:
        policy: `π`, `[S, A]`.
        advantage: `A`, `[S, A]`.
        radius: 0 or more.

    Returns:
        `π'`, `[S, A]`, and the multipliers `λ`, `[S]`: the derivative of each maximum with respect to the radius.
    """
    advantage = advantage - (policy * advantage).sum(axis=1, keepdims=True)
    largest = advantage.max(axis=1)
    gains = largest > NOTHING * np.abs(advantage).max()
    relative = np.where(gains[:, None], advantage / np.where(gains, largest, 1.0)[:, None], 0.0)

    def at(y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`π'`, `λ` and the divergence for `ν = max A / sigmoid(y)`, exact for large and for small y."""
        x = relative * expit(y)[:, None]
        gap = 1 - relative + relative * expit(-y)[:, None]  # 1 - x = 1 - A / ν
        excess = (policy * x**2 / gap).sum(axis=1)  # Σ_a π / gap, less 1, as Σ_a π A = 0
        log_gap = np.where(x < 0.5, np.log1p(-np.minimum(x, 0.5)), np.log(gap))
        kl = np.log1p(excess) + (policy * (log_gap + x)).sum(axis=1)
        return policy / gap / (1 + excess)[:, None], largest / expit(y) / (1 + excess), kl

    low, high = np.full(len(policy), -LARGEST_Y / 10), np.full(len(policy), LARGEST_Y)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        inside = at(middle)[2] <= radius
        low, high = np.where(inside, middle, low), np.where(inside, high, middle)
    new, price, kl = at(low)

    states, favourite = np.arange(len(policy)), advantage.argmax(axis=1)
    buys = gains & (policy[states, favourite] == 0) & (high == LARGEST_Y)
    kept = np.where(buys, np.exp(np.minimum(kl - radius, 0)), 1.0)
    new = kept[:, None] * new
    new[states, favourite] += 1 - kept
    new = np.where(gains[:, None], new / new.sum(axis=1, keepdims=True), policy)
    return new, np.where(gains, kept * price, 0.0)


def penalised_improvement(mdp: MDP, policy: Any) -> np.ndarray:
    """`argmax_π' L_π(π') - C max_s KL(π || π')` over all tables, `[S, A]`: one step of algorithm 1.

    For a given radius of the divergence the states are independent, see `maximise_within_kl`. The maximum `f(radius)`
    is concave, and its slope is the weighted sum of the multipliers: the best radius is where `Σ_s ρ_π(s) λ_s = C`.

    Raises:
        ValueError: γ = 1.

    Source: Schulman et al. 2015, "Trust region policy optimization", algorithm 1.
    """
    pi = mdp.probabilities(policy)
    constant, advantage, visits = penalty_constant(mdp, pi), advantages(mdp, pi), expected_visits(mdp, pi)

    def price(log_radius: float) -> float:
        prices = maximise_within_kl(pi, advantage, np.exp(log_radius))[1]
        return max(float(visits @ prices), SMALLEST)

    low, high = np.log(SMALLEST_RADIUS), np.log(LARGEST_RADIUS)
    if price(low) <= constant:
        return pi
    best: Any = high
    if price(high) < constant:
        best = brentq(lambda x: np.log(price(x) / constant), low, high, xtol=1e-13)
    return maximise_within_kl(pi, advantage, np.exp(best))[0]


class Improvement(NamedTuple):
    """The policies of an iteration, `[N + 1, S, A]`, and `J` of each, `[N + 1]`, the first one included."""

    policies: np.ndarray
    performance: np.ndarray


def guaranteed_policy_iteration(mdp: MDP, policy: Any = None, iterations: int = 100) -> Improvement:
    """Repeats `penalised_improvement`. `J` never falls, as `J(π') >= L_π(π') - C KL >= L_π(π) = J(π)`.

    The penalty is so large that steps are short; the method is useful for its guarantee only.

    Args:
        mdp: with γ < 1.
        policy: the first, int `[S]` or `[S, A]`; uniform if not given.
        iterations: N, 0 or more.

    Raises:
        ValueError: γ = 1, or policies that would not fit into memory.

    Source: Schulman et al. 2015, "Trust region policy optimization", algorithm 1.
    """
    refuse_array("policies", (iterations + 1, mdp.n_states, mdp.n_actions), "use fewer iterations")
    uniform = np.full((mdp.n_states, mdp.n_actions), 1 / mdp.n_actions)
    policies = [mdp.probabilities(uniform if policy is None else policy)]
    for _ in range(iterations):
        policies.append(penalised_improvement(mdp, policies[-1]))
    return Improvement(np.array(policies), np.array([performance(mdp, pi) for pi in policies]))


def _expected_advantage(mdp: MDP, policy: Any, new: Any, visits: np.ndarray) -> float:
    """`Σ_s visits(s) Σ_a π'(a | s) A_π(s, a)` over the visited pairs."""
    joint = visits[:, None] * mdp.probabilities(new)
    visited = joint > 0
    return float(joint[visited] @ advantages(mdp, policy)[visited])
