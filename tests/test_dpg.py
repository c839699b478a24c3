"""The deterministic policy gradient with compatible features: definitions, the exact gradient, the promises."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from probe_continuous import Slide, SlideOnHost
from probe_learners import (
    CONTINUOUS,
    DISCRETE,
    a_stopped_run_goes_on_bit_for_bit,
    begin,
    both_drivers_and_every_seed_learn_the_same,
    differs,
    learn,
    play,
    same_bits,
    seeds_side_by_side_are_each_alone,
    update,
)
from probe_linear_quadratic import ascent_of, assert_exact, learning_of, linear_quadratic, points, truth

from advantage.algorithms.policy_gradient.shared.replayed_critic import ReplayBatch
from advantage.algorithms.value.dpg import DPG, compatible_value, mu_and_slope
from advantage.policies.action_value import action_value
from advantage.types import Rollout

BASE = dict(
    n_steps=4, hidden=(8,), gradient_steps=3, batch_size=4, buffer_size=64, learning_starts=0, tau=0.1
)


def tiny(**changes):
    return DPG(**{**BASE, "learning_rate": 3e-3, "critic_learning_rate": 3e-3, **changes})


@functools.cache
def course(algorithm, updates=3):
    """The state after some updates."""
    return learn(algorithm, begin(algorithm, CONTINUOUS), updates)[0][-1]


def random_like(tree, seed):
    leaves, structure = jax.tree.flatten(tree)
    rng = np.random.default_rng(seed)
    return structure.unflatten([np.float32(rng.normal(size=leaf.shape)) for leaf in leaves])


# The critic


def test_the_compatible_value_is_that_of_theorem_3():
    """`(a - mu(s))^T J w + V(s)`, with the Jacobian J of mu in all parameters, one after the other."""
    state, rng = begin(tiny(), CONTINUOUS), np.random.default_rng(0)
    policy, actor = state.policy, state.params["actor"]
    critic = {"w": random_like(actor, 1), "critic": state.params["action_value"]["critic"]}
    x, action = (rng.normal(size=(5, size)).astype(np.float32) for size in (3, 2))

    def mu(actor):
        return policy.distribution(actor, x).mode()

    jacobian = jax.tree.leaves(jax.jacobian(mu)(actor))
    slope = sum(
        np.einsum("ndk,k->nd", leaf.reshape(5, 2, -1), w.ravel())
        for leaf, w in zip(jacobian, jax.tree.leaves(critic["w"]), strict=True)
    )
    found, found_slope = mu_and_slope(policy, actor, critic["w"], x)
    np.testing.assert_allclose(found, mu(actor), rtol=1e-6)
    np.testing.assert_allclose(found_slope, slope, rtol=1e-4, atol=1e-6)
    value = ((action - mu(actor)) * slope).sum(-1) + policy.value(critic, x)
    np.testing.assert_allclose(compatible_value(policy, actor, critic, x, action), value, rtol=1e-4)
    gradient = jax.vmap(jax.grad(lambda a, x: compatible_value(policy, actor, critic, x, a[None])[0]))(
        action, x[:, None]
    )
    np.testing.assert_allclose(gradient, slope, rtol=1e-4, atol=1e-6)


def test_the_gradient_is_that_of_the_cost_in_a_linear_quadratic_world():
    """With w by least squares from values of noisy actions: a quadratic Q is not linear, yet nothing is lost."""
    world = linear_quadratic()
    with jax.enable_x64(True):
        policy, params = truth(world)
        actor, noise = params["actor"], np.array([[0.5, 0.1], [0.1, 0.3]])
        x, e = map(jnp.asarray, points(world.states, noise))
        action = policy.distribution(actor, x).mode() + e
        value = action_value(policy).value(params["action_value"], x, action)
        flat, unflatten = jax.flatten_util.ravel_pytree(actor)

        def advantage(w):
            critic = {"w": unflatten(w), "critic": jax.tree.map(jnp.zeros_like, params["critic"])}
            return compatible_value(policy, actor, critic, x, action)

        features = np.asarray(jax.jacobian(advantage)(jnp.zeros_like(flat)))
        squares = np.asarray([np.outer(s, s).ravel() for s in x])  # all that V can be
        basis = np.hstack([features, squares, np.ones((len(x), 1))])
        w = unflatten(jnp.asarray(np.linalg.lstsq(basis, value, rcond=None)[0][: flat.size]))
        fitted = {"actor": actor, "action_value": {"w": w, "critic": params["critic"]}}
        before = learning_of(fitted, fitted)
        batch = ReplayBatch(x, action, value, jnp.zeros(len(x)), x)
        after = tiny(learning_rate=0.0)._actor_step(policy, before, batch, 0.0)
        assert_exact(ascent_of(after), world)


@pytest.mark.parametrize("terminated", [True, False])
def test_the_critics_loss_is_that_of_the_definition(terminated):
    """One transition in the buffer, which the clock may have cut: it bootstraps unless it terminated."""
    algorithm = tiny(
        n_steps=1, gradient_steps=1, gamma=0.5, learning_rate=0.0, critic_learning_rate=0.0, tau=1.0
    )
    state, rng = begin(algorithm, CONTINUOUS, num_envs=1), np.random.default_rng(0)
    actor, critic = state.params["actor"], state.params["action_value"]["critic"]
    critics = {"w": random_like(actor, 1), "critic": critic}
    target = {"w": critics["w"], "critic": jax.tree.map(lambda leaf: leaf + 0.1, critic)}
    params, slow = ({"actor": actor, "action_value": value} for value in (critics, target))
    state = dataclasses.replace(state, params=params, target=slow)
    obs, next_obs = rng.normal(size=(2, 1, 1, 3)).astype(np.float32)
    action = np.float32([[[0.3, -0.6]]])
    flags = np.array([[terminated]]), np.array([[not terminated]])
    rollout = Rollout(obs, action, np.float32([[1.7]]), next_obs, *flags)
    here = float(compatible_value(state.policy, actor, critics, obs[0], action[0])[0])
    following = float(state.policy.value(target, next_obs[0])[0])
    assert following != pytest.approx(float(state.policy.value(critics, next_obs[0])[0]), rel=1e-2)
    y = 1.7 + (0.0 if terminated else 0.5 * following)
    after, metrics = update(algorithm, state, rollout, jax.random.key(0))
    total, count = metrics["action_value_loss"]
    assert total / count == pytest.approx((here - y) ** 2 / 2, rel=1e-3)
    same_bits(after.params, state.params)


def test_w_and_v_are_found_where_they_exist():
    """Rewards that are linear in the action, without a discount: w's gradient in the action is theirs."""
    algorithm = tiny(
        n_steps=256, hidden=(16,), gradient_steps=3000, batch_size=64, buffer_size=512, gamma=0.0,
        learning_rate=0.0, critic_learning_rate=1e-2,
    )  # fmt: skip
    state, rng = begin(algorithm, CONTINUOUS, num_envs=2), np.random.default_rng(0)
    obs = rng.normal(size=(256, 2, 3)).astype(np.float32)
    action = rng.uniform(-1, 1, (256, 2, 2)).astype(np.float32)
    reward = (action @ np.float32([2.0, -1.0]) + obs[..., 0]).astype(np.float32)
    never = np.zeros((256, 2), bool)
    state, _ = update(algorithm, state, Rollout(obs, action, reward, obs, never, never), jax.random.key(0))
    critic = state.params["action_value"]
    _, slope = mu_and_slope(state.policy, state.params["actor"], critic["w"], obs[:, 0])
    assert np.sqrt(((np.asarray(slope) - [2.0, -1.0]) ** 2).mean()) < 0.3


# On and off policy


def test_on_policy_it_learns_from_the_last_rollout_and_never_acts_at_random():
    algorithm = tiny(behaviour="on-policy", learning_starts=24, exploration_std=0.01, batch_size=8)
    states, rollouts, reports = learn(algorithm, begin(algorithm, CONTINUOUS), 4)
    assert [row["gradient_steps"] for row in reports] == [0, 0, 6, 6]
    np.testing.assert_array_equal(states[-1].replay.obs, rollouts[-1].obs)
    for state, rollout in zip(states, rollouts, strict=False):
        assert abs(rollout.action - algorithm.actor(state).mu(rollout.obs)).max() < 0.06
    off = tiny(learning_starts=24, exploration_std=0.01)
    rollout = play(off, begin(off, CONTINUOUS), 0, num_steps=200)
    assert np.asarray(rollout.action).var() == pytest.approx(1 / 3, rel=0.1)


# Promises


def test_promise_8_updates_per_transition_do_not_depend_on_the_number_of_environments():
    counts = []
    for num_envs in (1, 4):
        state = begin(tiny(), CONTINUOUS, num_envs=num_envs)
        state, metrics = update(tiny(), state, play(tiny(), state, 0), jax.random.key(0))
        counts.append((float(metrics["gradient_steps"]), int(state.gradient_steps)))
    assert counts == [(3, 3), (12, 12)], "three for each four transitions"


def test_nothing_is_learned_before_learning_starts():
    algorithm = tiny(learning_starts=24)
    state, first = course(algorithm, updates=2), begin(algorithm, CONTINUOUS)
    same_bits((state.params, state.target), (first.params, first.target))
    assert differs(course(algorithm, updates=3).params, first.params)


OPTIONS = dict(
    learning_rate=1e-2,
    critic_learning_rate=1e-2,
    behaviour="on-policy",
    n=3,
    batch_size=5,
    gradient_steps=2,
    buffer_size=9,
    learning_starts=24,
    tau=0.5,
    gamma=0.5,
    exploration_std=0.3,
    normalize_observation=True,
    normalize_reward=True,
)


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_of_learning_makes_a_difference(name):
    changed = course(tiny(**{name: OPTIONS[name]})).params["actor"]
    assert differs(changed, course(tiny()).params["actor"], 1e-6)


def test_what_it_cannot_do_is_refused():
    with pytest.raises(
        ValueError, match=r"needs a bounded Box of floats.*Discrete\(3\); use dqn, sac or ppo"
    ):
        begin(tiny(), DISCRETE)
    with pytest.raises(ValueError, match="needs finite bounds"):
        begin(tiny(), spaces.Box(-np.inf, np.inf, (2,), np.float32))
    with pytest.raises(ValueError, match="A recurrent network"):
        begin(tiny(network="gru"), CONTINUOUS)
    with pytest.raises(ValueError, match="behaviour='both' is not allowed"):
        tiny(behaviour="both")
    small = tiny(behaviour="on-policy", n_steps=2, batch_size=8, buffer_size=8)
    with pytest.raises(
        ValueError, match="learns from n_steps=2 in 2 environments, which is below batch_size=8"
    ):
        begin(small, CONTINUOUS)


@pytest.mark.parametrize("behaviour", ["off-policy", "on-policy"])
def test_seeds_side_by_side_are_each_alone(behaviour):
    seeds_side_by_side_are_each_alone(tiny(behaviour=behaviour), CONTINUOUS)


@pytest.mark.parametrize("behaviour", ["off-policy", "on-policy"])
def test_both_drivers_and_every_seed_learn_the_same(tmp_path, behaviour):
    algorithm = tiny(behaviour=behaviour, learning_rate=1e-2, critic_learning_rate=1e-2)
    both_drivers_and_every_seed_learn_the_same(algorithm, tmp_path, on_host=SlideOnHost, world=Slide())


@pytest.mark.parametrize("environment", [SlideOnHost, Slide()], ids=["host", "device"])
def test_a_stopped_run_goes_on_to_the_same_numbers_its_buffer_included(tmp_path, environment):
    a_stopped_run_goes_on_bit_for_bit(tiny(), environment, tmp_path)
