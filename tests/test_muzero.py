"""MuZero: categories, targets and losses by their definitions, and a run that goes on."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probe_learners import same_bits

import advantage as adv
from advantage.algorithms.planning.muzero import returns_to_the_end
from advantage.models.latent import unit_scaled
from advantage.objectives.value_categories import category_loss, category_mean, squashed, two_hot, unsquashed
from advantage.replay.sequences import ReplayedSequences

pytest.importorskip("mctx")
KEY = jax.random.key(0)
SMALL = adv.MuZero(
    n_steps=4,
    simulations=4,
    batch_size=8,
    unroll_steps=3,
    td_steps=2,
    latent_size=8,
    hidden=(16,),
    value_limit=5,
    learning_starts=16,
    buffer_size=200,
)


# -- categories --------------------------------------------------------------------------------------------------------


def test_numbers_are_squashed_and_back():
    x = np.array([-1000.0, -3.0, -0.1, 0.0, 0.5, 7.0, 640.0], np.float32)
    expected = np.sign(x) * (np.sqrt(np.abs(x) + 1) - 1) + 0.001 * x
    np.testing.assert_allclose(squashed(x), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(unsquashed(squashed(jnp.asarray(x))), x, rtol=2e-3, atol=1e-3)


def test_two_neighbours_share_a_number():
    """Exactly two categories, mass one, mean the squashed number; the limit where it is beyond."""
    x = jnp.array([-1e6, -2.3, 0.0, 0.4, 3.0, 1e6])
    p = np.asarray(two_hot(x, 4))
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-6)
    assert ((p > 0).sum(1) <= 2).all() and (p >= 0).all()
    np.testing.assert_allclose(p @ np.arange(-4, 5), np.clip(squashed(x), -4, 4), atol=1e-6)
    np.testing.assert_allclose(category_mean(jnp.log(p[1:5] + 1e-30)), x[1:5], atol=1e-3)
    np.testing.assert_array_equal(category_mean(jnp.zeros(9)), 0)


def test_the_loss_of_categories():
    logits = np.random.default_rng(0).normal(size=(3, 9))
    x = np.array([0.3, -1.0, 2.0])
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    expected = -(np.asarray(two_hot(jnp.float32(x), 4)) * log_p).sum(1)
    np.testing.assert_allclose(category_loss(jnp.float32(logits), jnp.float32(x)), expected, rtol=1e-5)


def test_states_are_scaled_to_the_unit_interval():
    state = unit_scaled(jnp.array([[1.0, 3.0, 2.0], [5.0, 5.0, 5.0]]))
    np.testing.assert_allclose(state, [[0, 1, 0.5], [0, 0, 0]])


# -- targets -----------------------------------------------------------------------------------------------------------


def sequences(steps=7, size=40, seed=0):
    """Any rewards, ends of both kinds, and sequences that reach beyond the newest step."""
    rng = np.random.default_rng(seed)
    terminated, truncated = rng.uniform(size=(2, steps, size)) < 0.12
    truncated &= ~terminated
    mask = np.arange(steps)[:, None] < rng.integers(3, steps + 1, size)
    reward = rng.normal(size=(steps, size))
    obs = rng.normal(size=(steps, size, 4))
    extras = {"policy": rng.dirichlet(np.ones(2), (steps, size)), "value": rng.normal(size=(steps, size))}
    action = rng.integers(0, 2, (steps, size))
    as32 = lambda x: jnp.asarray(x, jnp.float32)  # noqa: E731
    return ReplayedSequences(
        as32(obs), jnp.asarray(action, jnp.int32), as32(reward), jnp.asarray(terminated), jnp.asarray(truncated),
        as32(obs + 1), jax.tree.map(as32, extras), jnp.asarray(mask),
    )  # fmt: skip


def test_returns_stop_at_ends_and_at_the_newest_step():
    rows, gamma = sequences(), 0.9
    value = np.random.default_rng(1).normal(size=rows.reward.shape)
    found = returns_to_the_end(rows, jnp.float32(value), gamma)
    steps, size = rows.reward.shape
    for n in range(size):
        for t in range(steps):
            if not rows.mask[t, n]:
                continue
            total, weight = 0.0, 1.0
            for i in range(t, steps):
                total += weight * float(rows.reward[i, n])
                weight *= gamma
                last = i == steps - 1 or not rows.mask[i + 1, n]
                if rows.terminated[i, n]:
                    break
                if rows.truncated[i, n] or last:
                    total += weight * value[i, n]
                    break
            np.testing.assert_allclose(found[t, n], total, atol=1e-5)


def small_state(algorithm=SMALL):
    world = adv.make("jax/CartPole-v1")
    spec = adv.Spec(world.observation_space, world.action_space, 2, 1000, world=world)
    return algorithm.init(KEY, spec)


def test_what_counts_beyond_an_end():
    """After a termination rewards and values are 0 and count, the policy does not; after a truncation nothing does."""
    algorithm = dataclasses.replace(SMALL, unroll_steps=5)
    state, rows = small_state(algorithm), sequences()
    targets = algorithm._targets(algorithm.actor(state), rows, KEY)
    for n in range(rows.reward.shape[1]):
        ended = cut = False
        for k in range(6):
            known = bool(rows.mask[k, n]) or ended
            assert bool(targets.going[k, n]) == (not ended and not cut and known), (k, n)
            assert bool(targets.counts[k, n]) == (known and not cut), (k, n)
            if ended:
                assert targets.value[k, n] == 0 and (k == 5 or targets.reward[k, n] == 0)
            cut |= bool(rows.truncated[k, n]) and not ended
            ended |= bool(rows.terminated[k, n]) and not cut


def test_what_does_not_count_has_no_gradient():
    """Poison in targets that do not count changes no gradient."""
    algorithm = dataclasses.replace(SMALL, unroll_steps=5)
    state, rows = small_state(algorithm), sequences()
    actor = algorithm.actor(state)
    targets = algorithm._targets(actor, rows, KEY)
    x = state.networks.encoder.policy_input(rows.obs[0], actor.model.scale)
    poisoned = targets._replace(
        policy=jnp.where(targets.going[..., None], targets.policy, 1e3),
        value=jnp.where(targets.counts, targets.value, 1e3),
        reward=jnp.where(targets.counts[:5], targets.reward, -1e3),
    )
    gradients = [
        jax.grad(lambda params, t=t: algorithm._loss(state.networks, params, x, t)[0])(state.params)
        for t in (targets, poisoned)
    ]
    jax.tree.map(np.testing.assert_array_equal, *gradients)


def test_the_loss_unrolls_the_model():
    """The same by hand, without a scan: h once, then g and f; of its gradient g passes back one half to each state."""
    state, rows = small_state(), sequences(steps=5)
    actor = SMALL.actor(state)
    targets = SMALL._targets(actor, rows, KEY)
    networks, x = state.networks, state.networks.encoder.policy_input(rows.obs[0], actor.model.scale)

    def by_hand(params):
        latent, policy, value, reward = networks.represent(params, x), 0.0, 0.0, 0.0
        for k in range(4):
            predicted = networks.predict(params, latent)
            log_p = jax.nn.log_softmax(predicted.policy)
            policy += jnp.where(targets.going[k], -(targets.policy[k] * log_p).sum(-1), 0).mean() / 4
            value += (
                jnp.where(targets.counts[k], category_loss(predicted.value, targets.value[k]), 0).mean() / 4
            )
            if k < 3:
                half = 0.5 * latent + 0.5 * jax.lax.stop_gradient(latent)
                latent, logits = networks.advance(params, half, targets.action[k])
                reward += jnp.where(targets.counts[k], category_loss(logits, targets.reward[k]), 0).mean() / 3
        return policy + 0.25 * value + reward, (policy, value, reward)

    def ours(params):
        loss, metrics = SMALL._loss(networks, params, x, targets)
        return loss, tuple(metrics[f"{name}_loss"] for name in ("policy", "value", "reward"))

    params = jax.tree.map(
        lambda leaf: leaf + 0.1, state.params
    )  # heads begin at 0 and would pass nothing back
    expected, found = (jax.value_and_grad(f, has_aux=True)(params) for f in (by_hand, ours))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), found, expected)


def train(algorithm, environment, out, **options):
    options = dict(total_timesteps=64, eval_episodes=0, tensorboard=False, num_envs=2) | options
    return adv.train(algorithm, environment, out=out, **options)


@pytest.mark.parametrize("environment", ["CartPole-v1", "jax/CartPole-v1"])
def test_a_stopped_run_goes_on_to_the_same_numbers(environment, tmp_path):
    whole = train(SMALL, environment, tmp_path / "whole", eval_episodes=1)
    train(SMALL, environment, tmp_path / "part", total_timesteps=32)
    part = adv.resume(tmp_path / "part", total_timesteps=64)
    same_bits(whole.agent.state.params, part.agent.state.params)
    assert int(whole.agent.state.gradient_steps) == 2 * 2 * 7  # of eight rollouts the first is too early
    assert np.isfinite(adv.evaluate(tmp_path / "whole", episodes=1).mean)


CHANGES = [
    dict(search="puct"), dict(simulations=2), dict(gradient_steps=1), dict(unroll_steps=2), dict(td_steps=4),
    dict(gamma=0.5), dict(learning_rate=1e-2), dict(vf_coef=1.0), dict(weight_decay=0.5), dict(max_grad_norm=1e-3),
    dict(latent_size=4), dict(value_limit=7), dict(reanalyse=True), dict(learning_starts=40),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_every_option_makes_a_difference(change, tmp_path):
    found = []
    for algorithm in (SMALL, dataclasses.replace(SMALL, **change)):
        run = train(algorithm, "jax/CartPole-v1", tmp_path / str(len(found)))
        found.append(np.concatenate([np.ravel(x) for x in jax.tree.leaves(run.agent.state.params)]))
    assert found[0].shape != found[1].shape or (found[0] != found[1]).any()


def test_what_it_cannot_play():
    for name, words in (("jax/Pendulum-v1", "the action space Box"), ("jax/TicTacToe-v0", "an action mask")):
        world = adv.make(name)
        with pytest.raises(ValueError, match=f"MuZero needs Discrete actions.*{words}"):
            SMALL.init(KEY, adv.Spec(world.observation_space, world.action_space, 1, 100))
    with pytest.raises(ValueError, match=r"buffer_size=4 is below unroll_steps \+ td_steps = 5"):
        dataclasses.replace(SMALL, buffer_size=4)
