"""Autoencoders against principal components and the definition, and policies on their codes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from probe_learners import same_bits

import advantage as adv
from advantage.algorithms.policy_gradient.shared.acting import Actor
from advantage.algorithms.value.shared.gradient_steps import adam_init, adam_step
from advantage.models.autoencoder import Autoencoder, autoencoder
from advantage.models.pictures import Decoder
from advantage.policies.encoder import encoder
from advantage.policies.networks import MLP
from advantage.types import Rollout

KEY = jax.random.key(0)
SMALL = adv.AutoencoderPolicy(
    latent_size=4, pretraining_steps=5, autoencoder_steps=2, autoencoder_batch_size=8, autoencoder_hidden=(8,),
    learning_starts=16, buffer_size=64, n_steps=8, batch_size=8, hidden=(8,),
)  # fmt: skip
SOFT = dataclasses.replace(SMALL, learner="sac", autoencoder_steps=0, gradient_steps=3)


def shaken(tree):
    return jax.tree.map(lambda p: p + 0.1 * jnp.cos(jnp.arange(p.size * 1.0)).reshape(p.shape), tree)


def test_a_linear_autoencoder_finds_the_principal_components():
    """Its best reconstruction is that of the two largest components, and its code spans them."""
    rng = np.random.default_rng(0)
    mixed = rng.normal(size=(400, 5)) * [3.0, 2.0, 0.5, 0.3, 0.1] @ np.linalg.qr(rng.normal(size=(5, 5)))[0]
    x = jnp.asarray(mixed - mixed.mean(0), jnp.float32)
    space = spaces.Box(-np.inf, np.inf, (5,), np.float32)
    linear = Autoencoder(encoder(space), MLP(()), Decoder(MLP(()), 5), 2, False)
    params = linear.init(KEY)
    params["decode"] = shaken(params["decode"])
    optimiser = adam_init(params)

    @jax.jit
    def step(params, optimiser):
        return adam_step(lambda p: linear.loss(p, x, KEY, 1.0), params, optimiser, 0.01)[:2]

    for _ in range(2000):
        params, optimiser = step(params, optimiser)
    left = np.linalg.svd(np.asarray(x), compute_uv=False)[2:]
    best = 0.5 * np.square(left).sum() / len(x)
    assert best <= linear.loss(params, x, KEY, 1.0)[0] < 1.01 * best
    components = np.linalg.svd(np.asarray(x), full_matrices=False)[2][:2]
    code = np.asarray(linear.code(params, x))
    scores = np.asarray(x) @ components.T
    residual = code - scores @ np.linalg.lstsq(scores, code - code.mean(0), rcond=None)[0] - code.mean(0)
    assert np.square(residual).mean() < 1e-3 * np.square(code).mean()


def test_the_variational_loss_is_its_definition():
    space = spaces.Box(-1, 1, (3,), np.float32)
    one = autoencoder(space, (6,), "tanh", 2, variational=True)
    params = jax.tree.map(
        lambda p: p + 0.1 * jnp.cos(jnp.arange(p.size * 1.0)).reshape(p.shape), one.init(KEY)
    )
    x = jax.random.uniform(KEY, (5, 3))
    loss, metrics = one.loss(params, x, KEY, 0.3)
    hidden = one.network.apply(params["encode"], x) @ params["code"]["weight"] + params["code"]["bias"]
    mean, log_std = hidden[:, :2], hidden[:, 2:]
    z = mean + jnp.exp(log_std) * jax.random.normal(KEY, (5, 2))
    squared = 0.5 * jnp.square(one.decode.apply(params["decode"], z) - x).sum(1).mean()
    kl = (0.5 * (mean**2 + jnp.exp(2 * log_std) - 1) - log_std).sum(1).mean()
    np.testing.assert_allclose(metrics["kl"], kl, rtol=1e-4)
    np.testing.assert_allclose(loss, squared + 0.3 * kl, rtol=1e-5)
    np.testing.assert_array_equal(one.code(params, x), mean)


def state_of(algorithm, steps=0):
    world = adv.make("jax/Catch-v0")
    spec = adv.Spec(world.observation_space, world.action_space, 2, 1000, world=world)
    state = algorithm.init(KEY, spec)
    clock = state.clock._replace(step=jnp.uint32(steps))
    return dataclasses.replace(state, clock=clock)


def rollout_of(algorithm, state, seed=0):
    """Random pictures, and what the policy does."""
    rng = np.random.default_rng(seed)
    actor = algorithm.actor(state)
    obs = 255 * rng.integers(0, 2, (9, 2, 10, 5, 1)).astype(np.uint8)
    noise = algorithm.noise(actor, jax.random.key(seed), (8, 2))
    action, _, extras = algorithm.act(actor, jnp.asarray(obs[:8]), (), noise)
    done = jnp.zeros((8, 2), bool)
    reward = jnp.asarray(rng.normal(size=(8, 2)), jnp.float32)
    return Rollout(jnp.asarray(obs[:8]), action, reward, jnp.asarray(obs[1:]), done, done, extras)


def changed(before, after):
    pairs = zip(*map(jax.tree.leaves, (before, after)), strict=True)
    return any((np.asarray(a) != np.asarray(b)).any() for a, b in pairs)


@pytest.mark.parametrize("algorithm", [SMALL, SOFT], ids=["ppo", "sac"])
def test_first_nothing_then_the_code_then_the_policy(algorithm):
    """Nothing before learning_starts, pretraining once, and then the learner, with the code of acting."""
    expected = [(False, False), (True, False), (algorithm.autoencoder_steps > 0, True)]
    for step, (coded, acts) in zip((-16, 0, 16), expected, strict=True):
        state = state_of(dataclasses.replace(algorithm, learning_starts=32), step + 16)
        algorithm_ = dataclasses.replace(algorithm, learning_starts=32)
        after, metrics = algorithm_.update(state, rollout_of(algorithm_, state), KEY)
        assert changed(state.params, after.params) == coded
        assert changed(state.learner.params, after.learner.params) == acts
        assert float(metrics["reconstruction_loss"].count) == (5 if step == 0 else 2 if coded else 0)


def test_the_learner_sees_the_codes_it_acted_on():
    """The first ratio is one: with one epoch in one minibatch no KL is left."""
    algorithm = dataclasses.replace(SMALL, batch_size=16, learning_starts=0, autoencoder_steps=50)
    state = state_of(algorithm, 100)
    rollout = rollout_of(algorithm, state)
    after, _ = algorithm.update(state, rollout, KEY)
    ppo = algorithm._learner()
    codes = [state.networks.code(state.params, part) for part in (rollout.obs, rollout.next_obs)]
    alone, _ = ppo.update(
        state.learner, rollout._replace(obs=codes[0], next_obs=codes[1]), jax.random.split(KEY)[1]
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), after.learner.params, alone.params)
    assert isinstance(algorithm.actor(after).learner, Actor)


def train(algorithm, out, environment="Catch-v0", **options):
    options = dict(total_timesteps=64, eval_episodes=0, tensorboard=False, num_envs=2) | options
    return adv.train(algorithm, environment, out=out, **options)


@pytest.mark.parametrize("algorithm", [SMALL, SOFT], ids=["ppo", "sac"])
@pytest.mark.parametrize("environment", ["advantage/Catch-v0", "jax/Catch-v0"])
def test_a_stopped_run_goes_on_to_the_same_numbers(algorithm, environment, tmp_path):
    whole = train(algorithm, tmp_path / "whole", environment, eval_episodes=1)
    train(algorithm, tmp_path / "part", environment, total_timesteps=32)
    part = adv.resume(tmp_path / "part", total_timesteps=64)
    same_bits(whole.agent.state.params, part.agent.state.params)
    same_bits(whole.agent.state.learner.params, part.agent.state.learner.params)


CHANGES = [
    dict(latent_size=5), dict(variational=True), dict(pretraining_steps=4), dict(autoencoder_steps=1),
    dict(autoencoder_batch_size=7), dict(autoencoder_learning_rate=1e-2), dict(autoencoder_hidden=(7,)),
    dict(learning_starts=48), dict(gamma=0.5), dict(learning_rate=1e-2), dict(batch_size=16), dict(hidden=(7,)),
    dict(activation="tanh"), dict(learner="sac", autoencoder_steps=0),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_every_option_makes_a_difference(change, tmp_path):
    found = []
    for algorithm in (SMALL, dataclasses.replace(SMALL, **change)):
        run = train(algorithm, tmp_path / str(len(found)), "jax/Catch-v0")
        leaves = jax.tree.leaves((run.agent.state.params, run.agent.state.learner.params))
        found.append(np.concatenate([np.ravel(x) for x in leaves]))
    assert found[0].shape != found[1].shape or (found[0] != found[1]).any()


@pytest.mark.slow
@pytest.mark.parametrize("variational", [False, True])
def test_the_code_is_enough_to_catch(variational, tmp_path):
    algorithm = adv.AutoencoderPolicy(variational=variational, beta=0.1)
    train(algorithm, tmp_path / "run", "jax/Catch-v0", total_timesteps=65_536, num_envs=16)
    assert adv.evaluate(tmp_path / "run", episodes=50).mean >= 0.9


def test_what_is_refused():
    with pytest.raises(ValueError, match="autoencoder_steps=2 is not allowed with learner=sac"):
        dataclasses.replace(SMALL, learner="sac")
    with pytest.raises(ValueError, match="pretraining_steps=0 and autoencoder_steps=0 never learn a code"):
        dataclasses.replace(SMALL, pretraining_steps=0, autoencoder_steps=0)
    world = adv.make("jax/Catch-v0")
    with pytest.raises(ValueError, match="has an image, and no hidden layers are given.*such as"):
        dataclasses.replace(SMALL, autoencoder_hidden=()).init(
            KEY, adv.Spec(world.observation_space, world.action_space, 1, 100)
        )
    world = adv.make("jax/TicTacToe-v0")
    with pytest.raises(ValueError, match="action mask, which is no part of what an autoencoder draws again"):
        SMALL.init(KEY, adv.Spec(world.observation_space, world.action_space, 1, 100))
