"""Gradients that actors compute, without a cluster: late ones, and means over shares, by their definitions."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from probe_learners import DISCRETE, OBS, made_up_rollout

import advantage as adv
from advantage.algorithms.policy_gradient.shared.acting import encode, statistics_of
from advantage.drivers.cluster.gradients import descended, for_gradients, gradient_of, mean_gradient
from advantage.types import Rollout

ALGORITHM = adv.A2C(hidden=(4,), n_steps=8, learning_rate=0.03, ent_coef=0.02, normalize_observation=True)
SPEC = adv.Spec(OBS, DISCRETE, num_envs=4, total_timesteps=64)


@pytest.fixture(scope="module")
def states():
    """The state of a run before and after an update, and a rollout of the first."""
    old = ALGORITHM.init(jax.random.key(0), SPEC)
    rollouts = [made_up_rollout(ALGORITHM, old, OBS, seed, (8, 4)) for seed in (1, 2)]
    new, _ = jax.jit(ALGORITHM.update)(old, rollouts[0], jax.random.key(0))
    return old, new, rollouts[1]


def a2c_loss(vector, state, rollout):
    """The loss of the box in its docstring, step by step; advantages by the sum of rewards to the rollout's end."""
    policy, params = state.policy, ravel_pytree(state.params)[1](vector)
    normalise = statistics_of(ALGORITHM, state)
    scale = functools.partial(encode, policy, normalise)
    fixed = state.params
    total, count = 0.0, rollout.reward.size
    for env in range(rollout.reward.shape[1]):
        target = policy.value(fixed, scale(rollout.next_obs[-1:, env]))[0]
        for t in reversed(range(rollout.reward.shape[0])):
            ended = bool(rollout.terminated[t, env] | rollout.truncated[t, env])
            after = policy.value(fixed, scale(rollout.next_obs[t : t + 1, env]))[0] if ended else target
            target = rollout.reward[t, env] + 0.99 * after * (1 - rollout.terminated[t, env])
            x = scale(rollout.obs[t : t + 1, env])
            advantage = target - policy.value(fixed, x)[0]
            distribution = policy.distribution(params["actor"], x)
            log_prob = distribution.log_prob(rollout.action[t : t + 1, env])[0]
            miss = policy.value(params, x)[0] - target
            total += -advantage * log_prob + 0.5 * miss**2 / 2 - 0.02 * distribution.entropy()[0]
    return total / count


def test_a_late_gradient_is_that_of_the_old_parameters_applied_to_the_new_ones(states):
    """RMSProp's step by hand from the new parameters and its new mean squares, with the clock of the new state."""
    old, new, rollout = states
    sent = jax.tree.map(jnp.asarray, for_gradients(old))
    late = gradient_of(ALGORITHM, sent, rollout)
    expected = jax.grad(a2c_loss)(ravel_pytree(old.params)[0], old, rollout)
    np.testing.assert_allclose(late.vector, expected, rtol=1e-4, atol=1e-4)
    fresh = gradient_of(ALGORITHM, jax.tree.map(jnp.asarray, for_gradients(new)), rollout)
    assert np.abs(fresh.vector - late.vector).max() > 0.1  # the two are not the same
    learned, metrics = jax.jit(descended)(ALGORITHM, new, rollout, late)
    g = np.asarray(late.vector, np.float64)
    norm = np.linalg.norm(g)
    np.testing.assert_allclose(metrics["gradient_norm"], norm, rtol=1e-5)
    assert norm > 0.5
    g *= 0.5 / norm
    (mean_square,) = (x for x in jax.tree.leaves(new.optimiser) if x.shape == g.shape)
    mean_square = 0.99 * np.asarray(mean_square, np.float64) + 0.01 * g**2
    step = 0.03 * g / np.sqrt(mean_square + 1e-5)
    stepped = np.asarray(ravel_pytree(new.params)[0], np.float64) - step
    np.testing.assert_allclose(ravel_pytree(learned.params)[0], stepped, rtol=1e-5, atol=1e-6)
    assert int(learned.clock.step) == int(new.clock.step) + 32
    assert learned.observations.count.value == new.observations.count.value + 32


def test_the_mean_of_shares_is_the_gradient_of_all(states):
    """Shares of unequal size; a plain mean of the three would be another vector."""
    old, _, rollout = states
    whole = gradient_of(ALGORITHM, old, rollout)
    shares = slice(0, 2), slice(2, 3), slice(3, 4)
    columns = [jax.tree.map(lambda x, share=share: x[:, share], rollout) for share in shares]
    parts = [jax.device_get(gradient_of(ALGORITHM, old, Rollout(*each))) for each in columns]
    mean = mean_gradient(parts, [2, 1, 1])
    scale = np.abs(whole.vector).max()
    np.testing.assert_allclose(mean.vector, whole.vector, rtol=1e-5, atol=1e-6 * scale)
    assert np.abs(np.mean([part.vector for part in parts], axis=0) - whole.vector).max() > 1e-2 * scale
    for name in ("loss", "entropy", "value_loss"):
        np.testing.assert_allclose(mean.metrics[name], whole.metrics[name], rtol=1e-4)


def test_an_update_is_a_gradient_and_a_step(states):
    old, _, rollout = states
    whole, _ = jax.jit(ALGORITHM.update)(old, rollout, jax.random.key(0))
    apart, _ = jax.jit(descended)(ALGORITHM, old, rollout, gradient_of(ALGORITHM, old, rollout))
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(apart), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    assert dataclasses.replace(old, optimiser=()).optimiser == for_gradients(old).optimiser
