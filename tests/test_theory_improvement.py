"""The identity, the surrogate and the bound on random worlds; the argmax step against a general optimiser."""

import jax
import numpy as np
import pytest
from random_tables import random_mdp, random_policy
from scipy.optimize import minimize
from scipy.special import rel_entr

from advantage.environments.tables.mdp import MDP
from advantage.theory.improvement import (
    guaranteed_policy_iteration,
    lower_bound,
    max_kl,
    maximise_within_kl,
    penalised_improvement,
    penalty_constant,
    performance_difference,
    surrogate,
)
from advantage.theory.policy_evaluation import advantages, expected_visits, performance
from advantage.theory.policy_gradient import policy_gradient, probabilities

SEEDS = pytest.mark.parametrize("seed", range(10))


def pair(rng, mdp):
    return random_policy(rng, mdp.n_states, mdp.n_actions), random_policy(rng, mdp.n_states, mdp.n_actions)


@SEEDS
def test_the_performance_difference_is_an_identity(seed):
    rng = np.random.default_rng(seed)
    gamma = [0.0, 0.9, 0.99, 1.0][seed % 4]
    mdp = random_mdp(
        rng, gamma=gamma, ends=gamma == 1 or seed > 5, as_sparse=seed % 3 == 0, by_successor=seed > 7
    )
    policy, new = pair(rng, mdp)
    difference = performance(mdp, new) - performance(mdp, policy)
    assert performance_difference(mdp, policy, new) == pytest.approx(difference, abs=1e-11)
    assert abs(difference) > 1e-4
    assert performance_difference(mdp, policy, policy) == pytest.approx(0, abs=1e-12)
    actions = rng.integers(0, mdp.n_actions, mdp.n_states)
    difference = performance(mdp, actions) - performance(mdp, policy)
    assert performance_difference(mdp, policy, actions) == pytest.approx(difference, abs=1e-11)


def test_states_beyond_reach_have_no_say():
    """With γ = 1, state 2 goes on forever and has no value; only policies that the start never sees lead there."""
    transition = np.zeros((4, 2, 4))
    transition[0] = [[0, 0.5, 0, 0.5], [0, 0, 0, 1]]
    transition[1] = [[0.2, 0, 0, 0.8], [0.5, 0, 0, 0.5]]
    transition[2], transition[3] = np.eye(4)[2], np.eye(4)[3]
    reward = np.array([[1.0, 2], [3, 4], [5, 6], [0, 0]])
    mdp = MDP(transition, reward, np.eye(4)[0], np.arange(4) == 3, gamma=1.0)
    policy, new = pair(np.random.default_rng(0), mdp)
    difference = performance(mdp, new) - performance(mdp, policy)
    assert performance_difference(mdp, policy, new) == pytest.approx(difference, rel=1e-12)
    assert surrogate(mdp, policy, policy) == pytest.approx(performance(mdp, policy), rel=1e-12)


def test_policies_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"policies has shape .*TiB.*use fewer iterations"):
        guaranteed_policy_iteration(random_mdp(np.random.default_rng(0)), iterations=10**15)


@SEEDS
def test_the_surrogate_meets_the_performance_in_value_and_gradient(seed):
    rng = np.random.default_rng(seed)
    mdp = random_mdp(rng, ends=seed % 2 == 0, gamma=1.0 if seed == 0 else 0.9)
    theta = rng.normal(size=(mdp.n_states, mdp.n_actions))
    pi = probabilities(jax.nn.softmax, theta)
    assert surrogate(mdp, pi, pi) == pytest.approx(performance(mdp, pi), abs=1e-12)
    gradient = policy_gradient(mdp, jax.nn.softmax, theta)
    slopes = np.zeros_like(theta)
    for place in np.ndindex(theta.shape):
        moved = theta.copy(), theta.copy()
        moved[0][place] += 1e-5
        moved[1][place] -= 1e-5
        ahead, behind = (surrogate(mdp, pi, probabilities(jax.nn.softmax, x)) for x in moved)
        slopes[place] = (ahead - behind) / 2e-5
    np.testing.assert_allclose(slopes, gradient, rtol=0, atol=1e-7 * max(1, np.abs(gradient).max()))


def test_the_surrogate_is_no_identity():
    rng = np.random.default_rng(0)
    mdp = random_mdp(rng)
    policy, new = pair(rng, mdp)
    visits, advantage = expected_visits(mdp, policy), advantages(mdp, policy)
    expected = performance(mdp, policy) + sum(
        visits[s] * new[s, a] * advantage[s, a] for s in range(6) for a in range(3)
    )
    assert surrogate(mdp, policy, new) == pytest.approx(expected, rel=1e-13)
    assert abs(surrogate(mdp, policy, new) - performance(mdp, new)) > 1e-3


def test_the_largest_divergence():
    policy, new = np.array([[0.5, 0.5], [1.0, 0.0]]), np.array([[0.25, 0.75], [0.9, 0.1]])
    assert max_kl(policy, new) == pytest.approx(0.5 * np.log(2) + 0.5 * np.log(2 / 3), rel=1e-14)
    assert max_kl(policy[1:], new[1:]) == pytest.approx(-np.log(0.9), rel=1e-14)
    assert max_kl(new, policy) == np.inf
    assert max_kl(new, new) == 0


def test_the_penalty_constant():
    """One state, rewards 0 and 1, uniform policy: advantages of a half."""
    mdp = MDP(np.ones((1, 2, 1)), np.array([[0.0, 1.0]]), gamma=0.8)
    assert penalty_constant(mdp, np.array([[0.5, 0.5]])) == pytest.approx(4 * 0.5 * 0.8 / 0.2**2, rel=1e-13)
    with pytest.raises(ValueError, match="gamma=1"):
        penalty_constant(random_mdp(np.random.default_rng(0), gamma=1.0, ends=True), np.zeros(6, int))


@pytest.mark.parametrize("seed", range(100))
def test_the_bound_holds(seed):
    """For policies near and far, whose advantages are as unequal as they may be."""
    rng = np.random.default_rng(seed)
    gamma = rng.choice([0.0, 0.01, 0.1, 0.5, 0.9, 0.99])
    mdp = random_mdp(rng, int(rng.integers(2, 6)), int(rng.integers(2, 4)), gamma, concentration=0.2)
    policy, other = pair(rng, mdp)
    assert lower_bound(mdp, policy, policy) == pytest.approx(performance(mdp, policy), abs=1e-10)
    for step in (1e-3, 1e-2, 0.1, 0.5, 1.0):
        new = (1 - step) * policy + step * other
        assert lower_bound(mdp, policy, new) <= performance(mdp, new) + 1e-10


def test_the_bound_is_useless_for_a_policy_that_rules_out_what_was_done():
    mdp = random_mdp(np.random.default_rng(0))
    assert lower_bound(mdp, np.full((6, 3), 1 / 3), np.zeros(6, int)) == -np.inf


def untaken(rng, policy):
    """The same policy without one action in each state."""
    policy = policy.copy()
    policy[np.arange(len(policy)), rng.integers(0, policy.shape[1], len(policy))] = 0
    return policy / policy.sum(axis=1, keepdims=True)


@SEEDS
@pytest.mark.parametrize("radius", [1e-12, 1e-6, 1e-3, 0.1, 1.0, 8.0])
def test_the_best_policy_within_a_radius(seed, radius):
    rng = np.random.default_rng(seed)
    policy = random_policy(rng, 40, 4, 4.0)
    policy = untaken(rng, policy) if seed % 2 else policy
    advantage = rng.normal(size=(40, 4))
    advantage -= (policy * advantage).sum(axis=1, keepdims=True)
    new, price = maximise_within_kl(policy, advantage, radius)
    np.testing.assert_allclose(new.sum(axis=1), 1, rtol=1e-14)
    assert new.min() >= 0
    change = np.divide(new - policy, policy, out=np.zeros_like(new), where=policy > 0)
    exact = policy * (change - np.log1p(np.maximum(change, -0.5))) + np.where(
        policy > 0, 0, new
    )  # for small changes
    divergence = (exact if radius <= 1e-3 else rel_entr(policy, new)).sum(axis=1)
    np.testing.assert_allclose(divergence, radius, rtol=1e-5 if radius < 1e-9 else 1e-8)
    # The problem is concave, so what satisfies its first-order conditions is the best: A - ν + λ π / π' is 0 where
    # π' > 0 and not above 0 elsewhere.
    ratio = np.divide(policy, new, out=np.zeros_like(new), where=new > 0)
    slope = advantage + price[:, None] * ratio
    limit = slope.max(axis=1, keepdims=True)
    np.testing.assert_allclose(np.where(new > 0, slope - limit, 0) / limit, 0, atol=1e-9)
    assert (price > 0).all()
    # Nearby policies within the radius are no better; and the price is the slope of the best.
    best = (new * advantage).sum(axis=1)
    wider, narrower = (maximise_within_kl(policy, advantage, radius * scale)[0] for scale in (1.01, 0.99))
    rise = ((wider - narrower) * advantage).sum(axis=1) / (0.02 * radius)
    np.testing.assert_allclose(rise, price, rtol=2e-3 * max(1, radius**2))
    assert (best > 0).all()


def test_a_radius_beyond_what_float64_tells_apart_gives_the_best_action():
    policy = np.array([[0.999, 0.001], [0.5, 0.5]])
    new, price = maximise_within_kl(policy, np.array([[0.001, -0.999], [-1.0, 1.0]]), 1000.0)
    np.testing.assert_allclose(new, [[1, 0], [0, 1]], atol=1e-200)
    np.testing.assert_allclose(price, 0, atol=1e-200)


def test_a_state_with_nothing_to_gain_is_left_alone():
    policy = np.array([[0.2, 0.8], [1.0, 0.0], [0.5, 0.5]])
    advantage = np.array([[0.0, 0.0], [0.0, -1.0], [1.0, -1.0]])
    new, price = maximise_within_kl(policy, advantage, 0.1)
    np.testing.assert_array_equal(new[:2], policy[:2])
    np.testing.assert_array_equal(price[:2], 0)
    assert new[2, 0] > 0.5
    np.testing.assert_array_equal(maximise_within_kl(policy, 0 * advantage, 0.1)[0], policy)


@SEEDS
def test_the_step_is_the_best_of_all_tables(seed):
    """Against sequential quadratic programming on logits and the largest divergence, from three beginnings."""
    rng = np.random.default_rng(seed)
    gamma = [0.02, 0.1, 0.3, 0.5, 0.7][seed % 5]
    mdp = random_mdp(rng, 3, 3, gamma, ends=seed > 7)
    policy = random_policy(rng, 3, 3, 3.0)
    visits, advantage, constant = (
        expected_visits(mdp, policy),
        advantages(mdp, policy),
        penalty_constant(mdp, policy),
    )
    found = penalised_improvement(mdp, policy)
    reached = (visits[:, None] * found * advantage).sum() - constant * max_kl(policy, found)

    def table(x):
        weights = np.exp(x[1:].reshape(3, 3))
        return weights / weights.sum(axis=1, keepdims=True)

    def loss(x):
        return -(visits[:, None] * table(x) * advantage).sum() / constant + x[0]

    def slack(x):
        return x[0] - (policy * np.log(policy / table(x))).sum(axis=1)

    best = -np.inf
    for spread in (0.0, 0.05, 0.5):
        begin = np.append(0.1, (np.log(policy) + spread * rng.normal(size=(3, 3))).ravel())
        done = minimize(
            loss,
            begin,
            method="SLSQP",
            constraints={"type": "ineq", "fun": slack},
            options=dict(ftol=1e-14, maxiter=500),
        )
        new = table(done.x)
        best = max(best, (visits[:, None] * new * advantage).sum() - constant * max_kl(policy, new))
    assert best > 0
    assert reached >= best - 1e-9
    assert reached == pytest.approx(best, rel=2e-3)
    assert lower_bound(mdp, policy, found) == pytest.approx(performance(mdp, policy) + reached, abs=1e-12)
    for _ in range(200):  # and no nearby table is better
        other = found * np.exp(rng.choice([1e-4, 1e-2, 1]) * rng.normal(size=(3, 3)))
        other /= other.sum(axis=1, keepdims=True)
        assert lower_bound(mdp, policy, other) <= lower_bound(mdp, policy, found) + 1e-12


def test_a_deterministic_policy_steps_where_that_pays():
    """One state, π takes action 0, A = (0, 1): ρ (1 - e^-δ) - C δ is largest at δ = log(ρ / C)."""
    mdp = MDP(np.ones((1, 2, 1)), np.array([[0.0, 1.0]]), gamma=0.1)
    new = penalised_improvement(mdp, np.array([0]))
    ratio = (1 / 0.9) / (4 * 0.1 / 0.81)
    np.testing.assert_allclose(new, [[1 / ratio, 1 - 1 / ratio]], rtol=1e-10)
    # With γ = 0.9 the penalty outweighs any step.
    mdp = MDP(np.ones((1, 2, 1)), np.array([[0.0, 1.0]]), gamma=0.9)
    np.testing.assert_array_equal(penalised_improvement(mdp, np.array([0])), [[1, 0]])


def test_an_optimal_policy_stays_and_gamma_zero_is_greedy():
    mdp = MDP(np.ones((1, 2, 1)), np.array([[0.0, 1.0]]), gamma=0.5)
    np.testing.assert_array_equal(penalised_improvement(mdp, np.array([1])), [[0, 1]])
    mdp = random_mdp(np.random.default_rng(0), gamma=0.0)
    greedy = np.eye(3)[mdp.expected_reward.argmax(axis=1)]
    np.testing.assert_allclose(penalised_improvement(mdp, np.full((6, 3), 1 / 3)), greedy, atol=1e-12)
    assert lower_bound(mdp, greedy, np.zeros(6, int)) == pytest.approx(performance(mdp, np.zeros(6, int)))


@pytest.mark.parametrize("seed", range(100))
def test_guaranteed_iteration_never_falls_and_the_bound_holds(seed):
    rng = np.random.default_rng(seed)
    gamma = rng.choice([0.05, 0.2, 0.5, 0.9, 0.99])
    mdp = random_mdp(
        rng,
        int(rng.integers(2, 8)),
        int(rng.integers(2, 5)),
        gamma,
        ends=seed % 3 == 0,
        as_sparse=seed % 4 == 0,
        by_successor=seed % 5 == 0,
    )
    first = [None, random_policy(rng, mdp.n_states, mdp.n_actions, 0.3), np.zeros(mdp.n_states, int)][
        seed % 3
    ]
    policies, eta = guaranteed_policy_iteration(mdp, first, 2)
    assert policies.shape == (3, mdp.n_states, mdp.n_actions)
    begin = np.full(policies.shape[1:], 1 / mdp.n_actions) if first is None else first
    assert eta[0] == pytest.approx(performance(mdp, begin), rel=1e-12)
    for k in range(2):
        bound = lower_bound(mdp, policies[k], policies[k + 1])
        assert bound >= eta[k] - 1e-11
        assert eta[k + 1] >= bound - 1e-11
        assert eta[k + 1] >= eta[k] - 1e-11
    if first is None:
        assert eta[2] > eta[1] > eta[0]


def test_guaranteed_iteration_climbs_to_the_optimum():
    mdp = random_mdp(np.random.default_rng(1), 3, 2, gamma=0.1)
    eta = guaranteed_policy_iteration(mdp, iterations=60).performance
    best = max(performance(mdp, np.array(actions)) for actions in np.ndindex(2, 2, 2))
    assert eta[-1] == pytest.approx(best, abs=2e-3)
    assert eta[-1] <= best + 1e-12
