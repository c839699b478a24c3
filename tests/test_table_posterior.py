"""Dirichlet posteriors of tables: moments, coverage, and the agent that acts by draws from them."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from probe_learners import same_bits

import advantage as adv
from advantage.models.table_posterior import table_posterior
from advantage.types import Rollout

KEY = jax.random.key(0)
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
SPEC = adv.Spec(spaces.Discrete(3), spaces.Discrete(2), 2, 100)
AGENT = adv.PosteriorSampling(n_steps=4, gamma=0.9, sweeps=60, prior_count=0.5, reward_std=2.0)


@quick_jit
def first_drawn(agent):
    """The action values that an agent begins with; compiled once for all its numbers."""
    return agent.init(KEY, SPEC).drawn


def counted():
    """Six steps of a world of two states and one action: rows (s, a, r, s')."""
    steps = np.array(
        [[0, 0, 1.0, 1], [0, 0, 2.0, 1], [0, 0, -1.0, 2], [1, 0, 4.0, 0], [0, 0, 0.5, 0], [0, 0, 1.0, 1]]
    )
    s, a, successor = (jnp.int32(steps[:, i]) for i in (0, 1, 3))
    return table_posterior(2, 1, prior_count=0.6, reward_std=0.5).observed(
        s, a, jnp.float32(steps[:, 2]), successor
    )


def test_mean_and_covariance_are_those_of_the_dirichlet_distribution():
    posterior = counted()
    concentration = np.array([[[1.2, 3.2, 1.2]], [[1.2, 0.2, 0.2]]])
    np.testing.assert_allclose(posterior.concentration, concentration, rtol=1e-6)
    total = concentration.sum(-1)
    mean = posterior.mean()
    np.testing.assert_allclose(mean.reward[:, 0], [3.5 / 6, 4.0 / 2], rtol=1e-6)
    covariance = np.asarray(posterior.covariance())
    for s in range(2):
        c, c0 = concentration[s, 0], total[s, 0]
        np.testing.assert_allclose(mean.probability[s, 0], c / c0, rtol=1e-6)
        for i in range(3):
            for j in range(3):
                expected = c[i] * (c0 - c[i]) if i == j else -c[i] * c[j]
                np.testing.assert_allclose(covariance[s, 0, i, j], expected / (c0**2 * (c0 + 1)), rtol=1e-5)


def test_draws_have_the_moments_of_the_posterior():
    posterior = counted()
    drawn = quick_jit(jax.vmap(posterior.draw))(jax.random.split(KEY, 20_000))
    probability, reward = np.float64(drawn.probability), np.float64(drawn.reward)
    np.testing.assert_allclose(probability.sum(-1), 1, atol=1e-5)
    np.testing.assert_allclose(probability.mean(0), posterior.mean().probability, atol=0.01)
    np.testing.assert_allclose(reward.mean(0), posterior.mean().reward, atol=0.01)
    np.testing.assert_allclose(reward.std(0)[:, 0], [0.5 / np.sqrt(6), 0.5 / np.sqrt(2)], rtol=0.03)
    for s in range(2):
        found = np.cov(probability[:, s, 0].T)
        np.testing.assert_allclose(found, posterior.covariance()[s, 0], atol=0.003)


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_credible_intervals_cover_at_their_rate(level):
    """2,000 tables drawn from the prior, ten steps from each: the true probability lies inside at the stated rate."""
    rng, states, actions = np.random.default_rng(0), 2, 2000
    true = rng.dirichlet(np.full(states + 1, 1.5 / (states + 1)), (states, actions))
    s, a = (np.repeat(part, 10) for part in np.indices((states, actions)).reshape(2, -1))
    successor = (rng.random((len(s), 1)) > true[s, a].cumsum(-1)[:, :-1]).sum(-1)
    posterior = table_posterior(states, actions, prior_count=1.5).observed(
        s, a, np.zeros(len(s), np.float32), successor
    )
    lowest, highest = posterior.interval(level)
    assert (lowest <= highest).all()
    np.testing.assert_allclose(((lowest < true) & (true < highest)).mean((0, 1)), level, atol=0.03)
    np.testing.assert_allclose((true <= lowest).mean(), (1 - level) / 2, atol=0.02)
    with pytest.raises(ValueError, match="level=1.5 is not allowed"):
        posterior.interval(1.5)


def test_an_update_counts_draws_and_solves():
    """Two environments, a termination and a truncation: counts by a loop, values by value iteration in float64."""
    rng = np.random.default_rng(1)
    s, a, after = (np.int32(rng.integers(n, size=(4, 2))) for n in (3, 2, 3))
    reward = np.float32(rng.normal(size=(4, 2)))
    terminated, truncated = np.zeros((2, 4, 2), bool)
    terminated[1, 0], truncated[2, 1] = True, True
    before = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(lambda key: AGENT.init(key, SPEC), KEY)
    )
    before = before._replace(posterior=table_posterior(3, 2, prior_count=0.5, reward_std=2.0))
    key = jax.random.key(7)
    state, metrics = quick_jit(AGENT.update)(before, Rollout(s, a, reward, after, terminated, truncated), key)
    count, total = np.zeros((3, 2, 4)), np.zeros((3, 2))
    for t in range(4):
        for b in range(2):
            count[s[t, b], a[t, b], 3 if terminated[t, b] else after[t, b]] += 1
            total[s[t, b], a[t, b]] += reward[t, b]
    np.testing.assert_array_equal(state.posterior.count, count)
    np.testing.assert_allclose(state.posterior.total_reward, total, rtol=1e-5)
    assert float(metrics["tried"]) == pytest.approx((count.sum(-1) > 0).mean())
    for found, (p, r), start in (
        (state.drawn, quick_jit(state.posterior.draw)(key), before.drawn),
        (state.table.q, state.posterior.mean(), before.table.q),
    ):
        q, p, r = np.float64(start), np.float64(p), np.float64(r)
        for _ in range(60):
            value = q.max(1)
            q = np.array(
                [
                    [r[i, j] + 0.9 * sum(p[i, j, k] * value[k] for k in range(3)) for j in range(2)]
                    for i in range(3)
                ]
            )
        np.testing.assert_allclose(found, q, rtol=1e-4, atol=1e-4)
    actor, states = AGENT.actor(state), np.arange(3)
    np.testing.assert_array_equal(
        AGENT.act(actor, states, (), np.zeros(3))[0], np.asarray(state.drawn).argmax(1)
    )
    np.testing.assert_array_equal(AGENT.greedy(actor, states, ())[0], np.asarray(state.table.q).argmax(1))


@pytest.mark.slow
def test_the_river_is_swum(tmp_path):
    """Rewards of 10,000 at the far end are found, and the policy is the best one where it was needed."""
    agent = adv.PosteriorSampling(gamma=0.95, reward_std=10_000.0)
    options = dict(total_timesteps=2_000, num_envs=1, tensorboard=False)
    run = adv.train(agent, "jax/RiverSwim-v0", out=tmp_path / "run", **options)
    mdp = adv.make("jax/RiverSwim-v0").mdp
    best = adv.solve(mdp).policy
    np.testing.assert_array_equal([run.agent.act(s) for s in range(mdp.n_states)], best)
    part = adv.train(agent, "jax/RiverSwim-v0", out=tmp_path / "part", **options | {"total_timesteps": 1_000})
    assert part.step == 1_000
    resumed = adv.resume(tmp_path / "part", total_timesteps=2_000)
    same_bits(run.agent.state.posterior, resumed.agent.state.posterior)


@pytest.mark.parametrize(
    "change", [dict(prior_count=3.0), dict(reward_std=0.1), dict(sweeps=2), dict(gamma=0.5)], ids=str
)
def test_every_option_makes_a_difference(change):
    drawn = [first_drawn(agent) for agent in (AGENT, dataclasses.replace(AGENT, **change))]
    assert (np.asarray(drawn[0]) != np.asarray(drawn[1])).any()


def test_what_it_cannot_count():
    with pytest.raises(ValueError, match="finite observation space"):
        AGENT.init(KEY, adv.Spec(spaces.Box(-1, 1, (2,)), spaces.Discrete(2)))
    with pytest.raises(ValueError, match="memory are free.*dyna with --model last"):
        AGENT.init(KEY, adv.Spec(spaces.Discrete(1_000_000), spaces.Discrete(2)))
