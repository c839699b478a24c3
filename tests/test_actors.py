"""What an algorithm does in each state, read from its actor, is what it does when it acts."""

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from jax.flatten_util import ravel_pytree
from random_tables import random_mdp

import advantage as adv
from advantage.algorithms.actors import actor_policy, actor_probabilities, actor_values, greedy_actions
from advantage.algorithms.playable import playable
from advantage.algorithms.tabular.sarsa import Sarsa
from advantage.theory.policy_evaluation import performance
from advantage.theory.policy_gradient import performance_gradient, policy_gradient, probabilities

N_STATES, N_ACTIONS = 6, 3
SPEC = adv.Spec(spaces.Discrete(N_STATES), spaces.Discrete(N_ACTIONS))
MDP = random_mdp(np.random.default_rng(0), N_STATES, N_ACTIONS)


def ppo():
    algorithm = adv.PPO(n_steps=4, batch_size=4, hidden=(8,))
    actor = algorithm.actor(algorithm.init(jax.random.key(0), SPEC))
    head = actor.params["head"]
    weights = 3 * jax.random.normal(jax.random.key(1), head["weight"].shape)  # far from uniform
    return algorithm, actor._replace(params=actor.params | {"head": head | {"weight": weights}})


def sarsa():
    algorithm = Sarsa(epsilon=0.3)
    state = algorithm.init(jax.random.key(0), SPEC)
    q = jax.random.normal(jax.random.key(1), state.table.q.shape).at[0].set(0.0)  # a tie in state 0
    return algorithm, algorithm.actor(state._replace(table=state.table._replace(q=q)))


@pytest.mark.parametrize("make", [ppo, sarsa])
def test_actions_come_as_often_as_their_probabilities_say(make):
    algorithm, actor = make()
    table = actor_probabilities(MDP, actor)
    assert table.dtype == np.float64
    np.testing.assert_allclose(table.sum(axis=1), 1, rtol=1e-15)
    assert np.ptp(table[1:]) > 0.3
    draws = 20_000
    states = np.arange(N_STATES, dtype=np.int32)
    noise = algorithm.noise(actor, jax.random.key(2), (draws, N_STATES))
    action = np.asarray(jax.vmap(lambda noise: algorithm.act(actor, states, (), noise)[0])(noise))
    shares = (action[..., None] == np.arange(N_ACTIONS)).mean(axis=0)
    np.testing.assert_allclose(shares, table, atol=4.5 * 0.5 / np.sqrt(draws))
    assert np.isfinite(performance(MDP, table))


@pytest.mark.parametrize("make", [ppo, sarsa])
def test_the_greedy_policy_is_the_most_likely_action(make):
    algorithm, actor = make()
    actions = greedy_actions(MDP, algorithm, actor)
    assert actions.dtype == np.int64
    np.testing.assert_array_equal(actions, actor_probabilities(MDP, actor).argmax(axis=1))
    assert len(set(actions)) > 1
    assert np.isfinite(performance(MDP, actions))


def test_an_actor_knows_what_states_are_worth_if_it_has_action_values_or_a_plan():
    key, q = (
        jax.random.key(0),
        np.arange(2 * N_STATES * N_ACTIONS, dtype=np.float32).reshape(2, N_STATES, -1) ** 2,
    )

    def worth(algorithm, **table):
        state = algorithm.init(key, SPEC)
        return actor_values(algorithm.actor(state._replace(table=state.table._replace(**table))))

    np.testing.assert_array_equal(worth(Sarsa(), q=q[0]), q[0].max(axis=1))
    np.testing.assert_array_equal(worth(adv.DoubleQLearning(), q=q), q.mean(axis=0).max(axis=1))
    starts = adv.MonteCarloControl(exploring_starts=True, n_steps=1)
    np.testing.assert_array_equal(worth(starts, q=q[0]), q[0].max(axis=1))
    planner, plan = playable(adv.ValueIteration()), adv.solve(MDP)
    state = planner.init(key, SPEC)._replace(value=plan.value)
    np.testing.assert_array_equal(actor_values(planner.actor(state)), plan.value)
    assert actor_values(ppo()[1]) is None and worth(adv.TD()) is None


def test_an_actor_that_acts_otherwise_in_training_is_read_as_it_is_evaluated():
    impala = adv.Impala(n_steps=4, hidden=(8,))
    lagging = impala.actor(impala.init(jax.random.key(0), SPEC))
    lagging = lagging._replace(newest=ppo()[1])
    np.testing.assert_array_equal(actor_probabilities(MDP, lagging), actor_probabilities(MDP, ppo()[1]))
    assert actor_policy(MDP, lagging)[1] is lagging.newest.params
    starts = adv.MonteCarloControl(exploring_starts=True, n_steps=1, epsilon=0.3)
    actor = starts.actor(starts.init(jax.random.key(0), SPEC))
    np.testing.assert_array_equal(actor_probabilities(MDP, actor), actor_probabilities(MDP, actor.usual))


def test_a_network_of_an_algorithm_has_an_exact_gradient():
    _, actor = ppo()
    policy, theta = actor_policy(MDP, actor)
    np.testing.assert_allclose(probabilities(policy, theta), actor_probabilities(MDP, actor), atol=1e-6)
    by_solve, by_theorem = performance_gradient(MDP, policy, theta), policy_gradient(MDP, policy, theta)
    assert jax.tree.structure(by_solve) == jax.tree.structure(actor.params)
    assert max(np.abs(leaf).max(initial=0) for leaf in jax.tree.leaves(by_solve)) > 1e-3
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), by_solve, by_theorem)
    # along its own direction the objective rises by the gradient's square
    step = 1e-5
    with jax.enable_x64(True):
        place, unravel = ravel_pytree(jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), theta))
        direction = ravel_pytree(by_solve)[0]
        moved = [unravel(place + sign * step * direction) for sign in (1, -1)]
    ahead, behind = (performance(MDP, probabilities(policy, theta)) for theta in moved)
    square = sum((leaf**2).sum() for leaf in jax.tree.leaves(by_solve))
    assert (ahead - behind) / (2 * step) == pytest.approx(square, rel=1e-6)


def test_what_is_no_policy_of_this_table_is_refused():
    _, actor = ppo()
    with pytest.raises(ValueError, match="tuple gives no probabilities.*greedy_actions"):
        actor_probabilities(MDP, ())
    with pytest.raises(ValueError, match="no parameters and distribution"):
        actor_policy(MDP, sarsa()[1])
    other = random_mdp(np.random.default_rng(0), N_STATES, 2)
    with pytest.raises(
        ValueError, match=r"2 actions for each of 6 states. The actor was made for another env"
    ):
        actor_probabilities(other, actor)
    with pytest.raises(
        ValueError, match=r"2 actions for each of 6 states. The actor was made for another env"
    ):
        actor_probabilities(other, sarsa()[1])

    continuous: Any = SimpleNamespace(greedy=lambda actor, obs, memory: (np.zeros((len(obs), 2)), memory))
    with pytest.raises(ValueError, match=r"greedy returned float64 \(6, 2\) for 6 states"):
        greedy_actions(MDP, continuous, ())
