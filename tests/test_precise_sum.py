"""Returns of long episodes are summed in more than single precision, wherever a return is reported."""

from __future__ import annotations

import dataclasses

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import advantage as adv
from advantage.algorithms.search.policy_search import PolicySearch
from advantage.precise_sum import precise_add, precise_value, precise_zero


@jax.jit
def summed(numbers):
    return jax.lax.scan(lambda total, x: (precise_add(total, x), None), precise_zero(), numbers)[0]


@pytest.mark.parametrize("seed", range(3))
def test_a_sum_is_that_of_float64(seed):
    rng = np.random.default_rng(seed)
    numbers = (rng.normal(size=5000) * 10.0 ** rng.integers(-6, 7, 5000)).astype(np.float32)
    exact = numbers.astype(np.float64).sum()
    assert precise_value(summed(numbers)) == pytest.approx(exact, rel=1e-9)


def test_a_sum_goes_on_where_float32_stands_still():
    many = jax.jit(
        lambda n: jax.lax.fori_loop(0, n, lambda i, s: precise_add(s, jnp.float32(1)), precise_zero())
    )
    assert precise_value(many(2**24 + 1000)) == 2**24 + 1000


@pytest.mark.parametrize("wrong", [np.inf, -np.inf, np.nan])
def test_what_is_not_finite_stays_so(wrong):
    np.testing.assert_equal(precise_value(summed(np.array([1, wrong, 1], np.float32))), wrong)


@dataclasses.dataclass(frozen=True)
class ManySmallRewards:
    """A tenth of a reward for each of many steps."""

    max_episode_steps: int = 300_000
    gymnasium_id: None = None

    observation_space = property(lambda self: gymnasium.spaces.Box(0, 1, (1,), np.float32))
    action_space = property(lambda self: gymnasium.spaces.Discrete(2))

    def reset(self, key):
        return jnp.int32(0), jnp.zeros(1)

    def step(self, state, action, key):
        return state, jnp.zeros(1), jnp.float32(0.1), jnp.bool_(False)


@pytest.mark.parametrize("kind", ["policy", "search"])
def test_evaluation_reports_the_sum_of_many_small_rewards(tmp_path, kind):
    world = ManySmallRewards()
    policy, search = adv.PPO(n_steps=8, batch_size=8, hidden=(2,)), PolicySearch(adv.CEM())
    algorithm = policy if kind == "policy" else search
    options = {"total_timesteps": 1024, "eval_episodes": 0, "tensorboard": False}
    run = adv.train(algorithm, ManySmallRewards(max_episode_steps=1), out=tmp_path / "run", **options)
    agent = adv.load(run.path)
    returns = adv.evaluate(agent, world, episodes=1).returns
    np.testing.assert_allclose(returns, 300_000 * np.float64(np.float32(0.1)), rtol=1e-9)
