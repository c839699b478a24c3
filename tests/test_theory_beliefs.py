"""Beliefs and alpha vectors on the tiger problem, against histories and policy trees written out one by one."""

import itertools

import numpy as np
import pytest
from random_tables import random_mdp

from advantage import machine as memory
from advantage.environments.tables.mdp import MDP, POMDP
from advantage.environments.tables.tiger import tiger as environments_tiger
from advantage.theory.beliefs import (
    alpha_vectors,
    belief_mdp,
    belief_of_history,
    observation_probabilities,
    prune,
    update_belief,
)
from advantage.theory.objectives import finite_horizon_values
from advantage.theory.policy_evaluation import action_values, performance

LISTEN, LEFT, RIGHT = range(3)
GRID = np.column_stack([np.linspace(0, 1, 201), 1 - np.linspace(0, 1, 201)])  # P(tiger left), P(tiger right)


def tiger(gamma=1.0):
    """The problem of Kaelbling et al. 1998: listening is right with 0.85 and costs 1; doors bring 10, or the tiger."""
    transition = np.full((2, 3, 2), 0.5)
    transition[:, LISTEN] = np.eye(2)
    reward = np.array([[-1.0, -100, 10], [-1, 10, -100]])
    emission = np.full((2, 3, 2), 0.5)
    emission[:, LISTEN] = [[0.85, 0.15], [0.15, 0.85]]
    return POMDP(MDP(transition, reward, gamma=gamma), emission)


def random_pomdp(seed, n_states=3, n_actions=2, n_observations=3, gamma=0.8, **kind):
    rng = np.random.default_rng(seed)
    emission = rng.dirichlet(np.ones(n_observations), (n_states, n_actions))
    first = rng.dirichlet(np.ones(n_observations), n_states)
    return POMDP(random_mdp(rng, n_states, n_actions, gamma, **kind), emission, first)


def best_by_recursion(pomdp, belief, horizon):
    """`max_a r(b, a) + γ Σ_o P(o | b, a) V(b')`, through every history."""
    if horizon == 0:
        return 0.0
    mdp, options = pomdp.mdp, []
    for action in range(mdp.n_actions):
        total = belief @ mdp.expected_reward[:, action]
        joint = (belief @ mdp.transition[:, action])[:, None] * pomdp.emission[:, action]
        for part in joint.T:
            if part.sum() > 0:
                total += mdp.gamma * part.sum() * best_by_recursion(pomdp, part / part.sum(), horizon - 1)
        options.append(total)
    return max(options)


def all_trees(pomdp, horizon):
    """What every policy tree is worth from each state, `[trees, S]`; alike ones once."""
    mdp, trees = pomdp.mdp, np.zeros((1, pomdp.mdp.n_states))
    for _ in range(horizon):
        grown = []
        for action in range(mdp.n_actions):
            for chosen in itertools.product(range(len(trees)), repeat=pomdp.n_observations):
                later = (pomdp.emission[:, action] * trees[list(chosen)].T).sum(axis=1)
                grown.append(mdp.expected_reward[:, action] + mdp.gamma * mdp.transition[:, action] @ later)
        trees = np.unique(np.round(grown, 12), axis=0)
    return trees


def upper_envelope(lines):
    """How many lines `[K, 2]` over [0, 1] are the highest on a stretch, by their crossings."""
    left, slope = lines[:, 1], lines[:, 0] - lines[:, 1]
    crossings = {0.0, 1.0}
    for i, j in itertools.combinations(range(len(lines)), 2):
        if abs(slope[i] - slope[j]) > 1e-12:
            place = (left[j] - left[i]) / (slope[i] - slope[j])
            if 0 < place < 1:
                crossings.add(place)
    places = np.array(sorted(crossings))
    middles = ((places[1:] + places[:-1]) / 2)[np.diff(places) > 1e-9]
    return len(np.unique((left + np.outer(middles, slope)).argmax(axis=1)))


def test_hearing_the_tiger_moves_the_belief():
    pomdp, belief = tiger(), np.array([0.5, 0.5])
    np.testing.assert_allclose(observation_probabilities(pomdp, belief, LISTEN), [0.5, 0.5])
    once = update_belief(pomdp, belief, LISTEN, 0)
    np.testing.assert_allclose(once, [0.85, 0.15], rtol=1e-14)
    twice = update_belief(pomdp, once, LISTEN, 0)
    np.testing.assert_allclose(twice, np.array([0.85**2, 0.15**2]) / (0.85**2 + 0.15**2), rtol=1e-14)
    np.testing.assert_allclose(update_belief(pomdp, once, LISTEN, 1), belief, rtol=1e-14)
    np.testing.assert_allclose(update_belief(pomdp, twice, LEFT, 1), belief, rtol=1e-14)
    np.testing.assert_allclose(observation_probabilities(pomdp, twice, RIGHT), [0.5, 0.5])


@pytest.mark.parametrize("as_sparse", [False, True])
def test_a_belief_is_the_conditional_distribution_of_the_state(as_sparse):
    """Against the sum over all trajectories of hidden states."""
    pomdp, dense = random_pomdp(0, as_sparse=as_sparse), random_pomdp(0)
    table, observations, actions = dense.mdp.transition, [2, 0, 1, 1], [1, 0, 1]
    weight = np.zeros(3)
    for states in itertools.product(range(3), repeat=4):
        probability = dense.mdp.start[states[0]] * dense.first_emission[states[0], observations[0]]
        for t, action in enumerate(actions):
            probability *= table[states[t], action, states[t + 1]]
            probability *= dense.emission[states[t + 1], action, observations[t + 1]]
        weight[states[-1]] += probability
    belief = belief_of_history(pomdp, observations, actions)
    np.testing.assert_allclose(belief, weight / weight.sum(), rtol=1e-13)
    before = belief_of_history(pomdp, observations[:3], actions[:2])
    shares = observation_probabilities(pomdp, before, 1)
    assert shares.sum() == pytest.approx(1, rel=1e-14)
    mixed = sum(p * update_belief(pomdp, before, 1, o) for o, p in enumerate(shares))
    np.testing.assert_allclose(mixed, before @ table[:, 1], rtol=1e-13)  # what is seen is right on average


def test_what_cannot_be_is_refused():
    pomdp = tiger()
    certain = POMDP(pomdp.mdp, np.eye(2)[:, None].repeat(3, axis=1))
    with pytest.raises(
        ValueError, match=r"Observation 1 is impossible after this belief and action 0; possible are \[0\]"
    ):
        update_belief(certain, np.array([1.0, 0.0]), LISTEN, 1)
    told = POMDP(pomdp.mdp, pomdp.emission, [[1.0, 0.0], [1.0, 0.0]])
    with pytest.raises(ValueError, match="Observation 1 is impossible at the start"):
        belief_of_history(told, [1], [])
    with pytest.raises(ValueError, match="1 observations and 1 actions"):
        belief_of_history(pomdp, [0], [0])
    with pytest.raises(ValueError, match="observation=2"):
        update_belief(pomdp, np.array([0.5, 0.5]), LISTEN, 2)
    with pytest.raises(ValueError, match="action=3"):
        update_belief(pomdp, np.array([0.5, 0.5]), 3, 0)
    for belief in ([0.5, 0.6], [1.5, -0.5], [1.0], [np.nan, 1.0]):
        with pytest.raises(ValueError, match="give a distribution over the 2 states"):
            update_belief(pomdp, np.array(belief), LISTEN, 0)
    for function in (alpha_vectors, belief_mdp):
        with pytest.raises(ValueError, match="horizon=0"):
            function(pomdp, 0)


def test_one_step_of_the_tiger():
    """Open where the tiger is behind the other door with 0.9 or more: 10 p - 100 (1 - p) >= -1."""
    solution = alpha_vectors(tiger(), 1)[1]
    order = solution.actions.argsort()
    np.testing.assert_array_equal(solution.actions[order], [LISTEN, LEFT, RIGHT])
    np.testing.assert_array_equal(solution.vectors[order], [[-1, -1], [-100, 10], [10, -100]])
    left = np.array([0.0, 0.09, 0.11, 0.5, 0.89, 0.91, 1.0])
    beliefs = np.column_stack([left, 1 - left])
    expected = [LEFT, LEFT, LISTEN, LISTEN, LISTEN, RIGHT, RIGHT]
    np.testing.assert_array_equal(solution.action(beliefs), expected)
    assert solution.value(np.array([0.5, 0.5])) == -1


@pytest.mark.parametrize("gamma", [1.0, 0.95, 0.75])
def test_the_tiger_by_all_policy_trees(gamma):
    pomdp = tiger(gamma)
    solutions = alpha_vectors(pomdp, 3)
    np.testing.assert_array_equal(solutions[0].vectors, [[0, 0]])
    for horizon in (1, 2, 3):
        trees = all_trees(pomdp, horizon)
        solution = solutions[horizon]
        np.testing.assert_allclose(solution.value(GRID), (GRID @ trees.T).max(axis=1), atol=1e-11)
        assert len(solution.vectors) == upper_envelope(trees)
        assert {tuple(v) for v in np.round(solution.vectors, 9)} <= {tuple(v) for v in np.round(trees, 9)}


def test_the_tiger_at_longer_horizons():
    pomdp = tiger(0.95)
    solutions = alpha_vectors(pomdp, 5)
    assert [len(solution.vectors) for solution in solutions] == [1, 3, 5, 9, 7, 13]
    for horizon in (4, 5):
        for belief in GRID[::25]:
            expected = best_by_recursion(pomdp, belief, horizon)
            assert solutions[horizon].value(belief) == pytest.approx(expected, abs=1e-11)
    for solution in solutions:  # the doors are alike
        np.testing.assert_allclose(solution.value(GRID), solution.value(GRID[:, ::-1]), atol=1e-11)
        mirrored = solution.vectors[:, ::-1]
        distance = np.abs(solution.vectors[:, None] - mirrored).max(axis=2).min(axis=0)
        np.testing.assert_allclose(distance, 0, atol=1e-11)


@pytest.mark.parametrize(("gamma", "published", "horizon"), [(0.95, 19.371, 80), (0.75, 1.933, 50)])
def test_the_tiger_forever(gamma, published, horizon):
    """Listen until one side is heard twice more than the other, then open the other door: the known optimum.

    V0 = -1 + γ V1,  V1 = -1 + γ (p V2 + (1 - p) V0),  V2 = 10 q - 100 (1 - q) + γ V0 with p = .85² + .15² the
    probability that the next growl agrees, and q = .85² / p the trust in two that agree.
    """
    p = 0.85**2 + 0.15**2
    q = 0.85**2 / p
    system = np.array([[1, -gamma, 0], [-gamma * (1 - p), 1, -gamma * p], [-gamma, 0, 1]])
    forever = np.linalg.solve(system, [-1, -1, 10 * q - 100 * (1 - q)])
    assert forever[0] == pytest.approx(published, abs=5e-4)
    found = belief_mdp(tiger(gamma), horizon)
    value = np.zeros(found.mdp.n_states)
    for _ in range(horizon):
        table = action_values(found.mdp, value)
        value = table.max(axis=1)
    # What is left undone at the end is worth at most the best value of any belief.
    assert abs(found.mdp.start @ value - forever[0]) <= gamma**horizon * forever[2]
    certainty, choice = found.beliefs.max(axis=1), table.argmax(axis=1)
    early = found.depth < horizon // 2
    np.testing.assert_array_equal(choice[early & (certainty < q - 1e-6)], LISTEN)
    decided = early & (certainty > q - 1e-6)
    np.testing.assert_array_equal(choice[decided], np.where(found.beliefs[decided, 0] > 0.5, RIGHT, LEFT))


def test_vectors_that_do_not_fit_are_refused(monkeypatch):
    monkeypatch.setattr(memory, "free_host_bytes", lambda: 16)
    with pytest.raises(ValueError, match=r"Γ has shape .*16 bytes of memory are free; use a shorter horizon"):
        alpha_vectors(tiger(), 3)


def test_the_tiger_of_the_environments_is_this_one():
    mine, theirs = tiger(0.95), environments_tiger()
    for name in ("transition", "expected_reward", "gamma"):
        np.testing.assert_array_equal(getattr(mine.mdp, name), getattr(theirs.mdp, name))
    np.testing.assert_allclose(mine.emission, theirs.emission, rtol=1e-15)


def test_with_two_steps_to_go_listening_is_never_wrong():
    """To open and listen is worth what it is worth to listen and open: before the discount counts."""
    pomdp, (_, one, two, three) = tiger(), alpha_vectors(tiger(), 3)
    listened = [
        -1
        + sum(
            p * one.value(update_belief(pomdp, belief, LISTEN, o))
            for o, p in enumerate(observation_probabilities(pomdp, belief, LISTEN))
        )
        for belief in GRID
    ]
    np.testing.assert_allclose(two.value(GRID), listened, atol=1e-12)
    even = np.array([0.5, 0.5])
    assert two.value(even) == pytest.approx(-2, abs=1e-12)
    # With three: listen twice, and open if both agree.
    assert three.value(even) == pytest.approx(-2 + 0.85**2 * 10 - 0.15**2 * 100 - 2 * 0.85 * 0.15, abs=1e-12)
    assert three.action(even) == LISTEN


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", [{}, {"as_sparse": True}, {"ends": True}], ids=str)
def test_random_hidden_worlds_by_recursion(seed, kind):
    pomdp = random_pomdp(seed, **kind)
    dense = random_pomdp(seed, **(kind | {"as_sparse": False}))
    solutions = alpha_vectors(pomdp, 3)
    rng = np.random.default_rng(seed)
    for belief in (*np.eye(3), *rng.dirichlet(np.ones(3), 6)):
        for horizon in (1, 2, 3):
            expected = best_by_recursion(dense, belief, horizon)
            assert solutions[horizon].value(belief) == pytest.approx(expected, abs=1e-8)


def test_pruning_keeps_what_is_ahead_somewhere():
    vectors = np.array(
        [
            [0.0, 4.0],
            [4.0, 0.0],
            [1.0, 1.0],  # nowhere below nothing, but below the first two together
            [2.0, 2.0],  # touches where those cross, and is ahead nowhere
            [0.0, 3.0],  # dominated by the first
            [4.0, 0.0],  # the same again
            [3.0, 3.0],
        ]
    )
    kept = prune(vectors)
    assert {tuple(v) for v in vectors[kept]} == {(0, 4), (4, 0), (3, 3)}
    assert len(kept) == 3
    assert {tuple(v) for v in vectors[:6][prune(vectors[:6])]} == {(0, 4), (4, 0)}
    assert len(prune(np.ones((3, 2)))) == 1


@pytest.mark.parametrize("scale", [1.0, 1e6])
def test_pruning_leaves_out_what_is_ahead_by_rounding_alone(scale):
    """What rounding makes of equal vectors is one vector, and what is ahead by a little more is kept."""
    for ahead, more in ((1e-11, 0), (1e-5, 1)):
        alike = np.array([[0.0, 4.0], [ahead, 4.0 - ahead]])
        crossing = np.array([[0.0, 4.0], [4.0, 0.0], [2.0 + ahead, 2.0 + ahead]])
        assert len(prune(scale * alike)) == 1 + more
        assert len(prune(scale * crossing)) == 2 + more


@pytest.mark.parametrize("gamma", [1.0, 0.75])
def test_the_tiger_as_an_mdp_of_beliefs(gamma):
    pomdp, horizon = tiger(gamma), 4
    found, solutions = belief_mdp(pomdp, horizon), alpha_vectors(tiger(gamma), horizon)
    # After n steps the belief is one of the counts "left less right" that n or fewer listenings can give.
    np.testing.assert_array_equal(np.bincount(found.depth), [1, 3, 5, 7, 9])
    np.testing.assert_allclose(found.beliefs.sum(axis=1), 1, rtol=1e-12)
    np.testing.assert_array_equal(found.mdp.terminal, found.depth == horizon)
    assert found.mdp.gamma == gamma
    plan = np.array(
        [solutions[max(horizon - d, 0)].action(b) for b, d in zip(found.beliefs, found.depth, strict=True)]
    ).clip(min=0)
    expected = solutions[horizon].value(np.array([0.5, 0.5]))
    assert performance(found.mdp, plan) == pytest.approx(expected, rel=1e-12)
    if gamma == 1:
        total = finite_horizon_values(found.mdp, plan, horizon)[0]
        assert found.mdp.start @ total == pytest.approx(expected, rel=1e-12)


def test_beliefs_of_a_random_world_begin_after_the_first_observation():
    pomdp = random_pomdp(1)
    found = belief_mdp(pomdp, 2)
    first = pomdp.mdp.start @ pomdp.first_emission
    np.testing.assert_allclose(found.mdp.start[:3], first, rtol=1e-13)
    for observation in range(3):
        np.testing.assert_allclose(found.beliefs[observation], belief_of_history(pomdp, [observation], []))
    assert np.bincount(found.depth).tolist() == [3, 18, 108]
    best = sum(p * best_by_recursion(pomdp, b, 2) for p, b in zip(first, found.beliefs[:3], strict=True))
    plans = itertools.product(range(2), repeat=3)
    solutions = alpha_vectors(pomdp, 2)
    plan = np.array(
        [solutions[max(2 - d, 0)].action(b) for b, d in zip(found.beliefs, found.depth, strict=True)]
    ).clip(min=0)
    assert performance(found.mdp, plan) == pytest.approx(best, rel=1e-12)
    for actions in plans:  # nothing that begins otherwise is better
        other = plan.copy()
        other[:3] = actions
        assert performance(found.mdp, other) <= best + 1e-12
