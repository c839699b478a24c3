"""Recurrent state-space models: what they are trained on, and their losses, by definition."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from advantage.models.latent_distributions import Categories, Normals
from advantage.models.pictures import decoder_of, doubled, picture_network
from advantage.models.recurrent_state_space import (
    Belief,
    LatentWorld,
    Numbers,
    RecurrentStateSpace,
    Weights,
    balanced_kl,
    sequence_loss,
)
from advantage.objectives.symlog import symexp, symlog
from advantage.policies.encoder import encoder
from advantage.policies.networks import MLP
from advantage.policies.recurrent import GRU
from advantage.replay.arrivals import Arrivals, arrivals, draw_arrivals
from advantage.replay.ring import replay_add, replay_init
from advantage.replay.sequences import ReplayedSequences, sequences_at
from advantage.types import Rollout

KEY = jax.random.key(0)
LATENTS = {"categories": Categories(3, 4), "normals": Normals(5)}
each_latent = pytest.mark.parametrize("latent", LATENTS.values(), ids=LATENTS)


# -- what a model is trained on ----------------------------------------------------------------------------------------


def experience(steps, envs, seed=0):
    """A rollout in which every observation has its own number; what follows an end has too."""
    rng = np.random.default_rng(seed)
    terminated, truncated = rng.uniform(size=(2, steps, envs)) < 0.15
    truncated &= ~terminated
    done = terminated | truncated
    obs, next_obs, count = np.zeros((steps, envs)), np.zeros((steps, envs)), np.arange(envs) * 1000.0
    for t in range(steps):
        obs[t] = count
        count = count + 1
        next_obs[t] = count
        count = count + done[t]  # the first observation of the next episode is another one
    as32 = lambda x: jnp.asarray(x[..., None], jnp.float32)  # noqa: E731
    return Rollout(
        as32(obs), as32(rng.normal(size=(steps, envs))), jnp.asarray(rng.normal(size=(steps, envs)), jnp.float32),
        as32(next_obs), jnp.asarray(terminated), jnp.asarray(truncated),
    )  # fmt: skip


def told(rollout, env, begin, stop, length):
    """The first observations of the story from a step on, in a plain loop."""
    story, first = [], True
    for t in range(begin, stop):
        if first:
            story.append((float(rollout.obs[t, env, 0]), None, 0.0, True, False))
        done = bool(rollout.terminated[t, env] | rollout.truncated[t, env])
        arrived = float(rollout.next_obs[t, env, 0]), float(rollout.action[t, env, 0])
        story.append((*arrived, float(rollout.reward[t, env]), False, bool(rollout.terminated[t, env])))
        first = done
    return story[:length]


def test_sequences_become_observations_in_their_order():
    rollout, length = experience(60, 3), 9
    one = jax.ShapeDtypeStruct((1,), jnp.float32)
    replay = replay_add(replay_init(one, one, capacity=180, num_envs=3), rollout)
    index, rollout = jnp.arange(180), jax.device_get(rollout)
    rows = jax.device_get(
        jax.jit(lambda replay: arrivals(sequences_at(replay, index, length=length)))(replay)
    )
    for i in range(180):
        begin, env = divmod(i, 3)
        story = told(rollout, env, begin, 60, length)
        for f, (obs, action, reward, first, terminated) in enumerate(story):
            if f == len(story) - 1 and begin + length > 60:
                continue  # the newest observation, which has no row of its own
            assert rows.mask[f, i]
            assert rows.obs[f, i, 0] == obs, (i, f)
            assert bool(rows.first[f, i]) == first and bool(rows.terminated[f, i]) == terminated
            np.testing.assert_allclose(rows.reward[f, i], reward, rtol=1e-6)
            if action is not None:
                np.testing.assert_allclose(rows.action[f, i, 0], action, rtol=1e-6)


def test_drawn_sequences_are_whole_where_there_is_enough():
    rollout = experience(40, 2)
    one = jax.ShapeDtypeStruct((1,), jnp.float32)
    replay = replay_add(replay_init(one, one, capacity=80, num_envs=2), rollout)
    draw = partial(jax.jit, static_argnums=(2,), static_argnames=("length",))(draw_arrivals)
    rows = jax.device_get(draw(replay, KEY, 500, length=30))
    assert rows.mask.all() and rows.first[0].all()
    assert {*np.asarray(rows.obs[0, :, 0] % 1000 < 30)} == {True}
    assert len({*np.asarray(rows.obs[0, :, 0]).tolist()}) > 15
    short = jax.tree.map(lambda x: x[:5], rollout)
    few = draw(replay_add(replay_init(one, one, capacity=80, num_envs=2), short), KEY, 500, length=30)
    assert not few.mask.all() and few.mask[0].all()


# -- networks ----------------------------------------------------------------------------------------------------------


def small(latent=LATENTS["categories"], space=None, limit=0, symlog=True):
    seen = encoder(space or spaces.Box(-1, 1, (3,), np.float32))
    layers = MLP((8,), "silu")
    network, decode = picture_network(seen, (8,), "silu"), decoder_of(seen, (8,), "silu")
    return RecurrentStateSpace(
        seen, network, decode, layers, GRU(6), latent, 0, 2, Numbers(limit, symlog), symlog
    )


def stories(steps=7, number=4, width=3, seed=0):
    rng = np.random.default_rng(seed)
    first = rng.uniform(size=(steps, number)) < 0.25
    first[0] = True
    as32 = lambda x: jnp.asarray(x, jnp.float32)  # noqa: E731
    return Arrivals(
        as32(rng.uniform(-1, 1, (steps, number, width))), as32(rng.normal(size=(steps, number, 2))),
        as32(rng.normal(size=(steps, number)) * ~first), jnp.asarray(first),
        jnp.asarray(rng.uniform(size=first.shape) < 0.1), jnp.ones(first.shape, bool),
    )  # fmt: skip


@each_latent
def test_a_sequence_is_its_steps_and_nothing_is_remembered_across_a_first_observation(latent):
    model, rows = small(latent), stories()
    params, noise = model.init(KEY), latent.noise(KEY, rows.reward.shape)
    unrolled = model.unroll(params, rows, noise)
    for n in range(4):
        belief = action = None
        for t in range(7):
            if rows.first[t, n]:
                belief, action = model.initial(1), jnp.zeros((1, 2))
            else:
                action = rows.action[t, n][None]
            embedding = model.embed(params, rows.obs[t, n][None])
            belief = model.observe(params, belief, action, embedding, noise[t, n][None])
            np.testing.assert_allclose(belief.memory[0], unrolled.belief.memory[t, n], atol=1e-5)
            np.testing.assert_allclose(belief.drawn[0], unrolled.belief.drawn[t, n], atol=1e-5)


def test_poison_before_a_first_observation_reaches_nothing_after_it():
    model, rows = small(), stories()
    params, noise = model.init(KEY), model.latent.noise(KEY, rows.reward.shape)
    last = np.where(np.asarray(rows.first), np.arange(7)[:, None], 0).max(0)
    before = np.arange(7)[:, None] < last
    assert before.any()
    poisoned = rows._replace(
        obs=jnp.where(before[..., None], 1e6, rows.obs),
        action=jnp.where(rows.first[..., None], 1e6, rows.action),
    )
    clean, dirty = (model.unroll(params, r, noise).belief.memory for r in (rows, poisoned))
    np.testing.assert_array_equal(clean[~before], dirty[~before])


def test_rewards_and_ends_are_unknown_at_first():
    for limit in (0, 10):
        model = small(limit=limit)
        params, features = model.init(KEY), jax.random.normal(KEY, (5, model.num_features))
        np.testing.assert_array_equal(model.numbers.mean(model.reward(params, features)), 0)
        np.testing.assert_array_equal(model.end(params, features), 0)


@pytest.mark.parametrize(
    "shape", [(3,), (10, 5, 1), (10, 10, 4), (32, 32, 1), (33, 40, 3), (84, 84, 4), (3, 3, 1)], ids=str
)
def test_what_is_decoded_has_the_form_of_what_was_encoded(shape):
    kind = (np.uint8, 0, 255) if len(shape) == 3 else (np.float32, -1, 1)
    space = spaces.Dict({"a": spaces.Box(*kind[1:], shape, kind[0]), "b": spaces.Discrete(3)})
    for one in (space["a"], space):
        model = small(space=one)
        params, x = model.init(KEY), model.inputs(model.encoder.example())
        decoded = model.decoded(params, jnp.zeros((1, model.num_features)))
        assert jax.tree.map(jnp.shape, decoded) == jax.tree.map(jnp.shape, x)
        assert model.decode.loss(decoded, x).shape == (1,)


def test_channels_become_pixels():
    x = jnp.arange(2 * 3 * 8.0).reshape(2, 3, 8)
    y = doubled(x)
    for i in range(4):
        for j in range(6):
            np.testing.assert_array_equal(y[i, j], x[i // 2, j // 2].reshape(2, 2, 2)[i % 2, j % 2])


def test_small_numbers_stay_and_large_ones_shrink():
    x = np.array([-1e4, -1.0, 0.0, 1e-3, 5.0], np.float32)
    np.testing.assert_allclose(symlog(x), np.sign(x) * np.log1p(np.abs(x)), rtol=1e-5)
    np.testing.assert_allclose(symexp(symlog(jnp.asarray(x))), x, rtol=1e-4)
    plain, shrunk = Numbers(0, False), Numbers(0, True)
    outputs = jnp.array([[2.0]])
    assert plain.mean(outputs) == 2 and np.isclose(shrunk.mean(outputs), np.expm1(2.0))
    assert plain.loss(outputs, jnp.array([5.0])) == 4.5
    np.testing.assert_allclose(shrunk.loss(outputs, jnp.array([5.0])), 0.5 * (2 - np.log(6)) ** 2, rtol=1e-5)


# -- random parts ------------------------------------------------------------------------------------------------------


def test_categories_are_mixed_and_their_gradient_is_that_of_probabilities():
    latent = Categories(2, 3)
    outputs = jax.random.normal(KEY, (6,))
    p = 0.99 * jax.nn.softmax(outputs.reshape(2, 3)) + 0.01 / 3
    noise = latent.noise(jax.random.key(1), (20_000,))
    drawn = latent.sample(jnp.broadcast_to(outputs, (20_000, 6)), noise)
    assert {*np.unique(np.round(np.asarray(drawn), 5))} == {0.0, 1.0}
    np.testing.assert_allclose(drawn.mean(0).reshape(2, 3), p, atol=0.015)
    weight = jnp.arange(6.0)
    slope = jax.grad(lambda o: (latent.sample(o, noise[0]) * weight).sum())(outputs)
    expected = jax.grad(lambda o: ((0.99 * jax.nn.softmax(o.reshape(2, 3))).ravel() * weight).sum())(outputs)
    np.testing.assert_allclose(slope, expected, atol=1e-6)
    q = jax.random.normal(jax.random.key(2), (6,))
    r = 0.99 * jax.nn.softmax(q.reshape(2, 3)) + 0.01 / 3
    np.testing.assert_allclose(latent.kl(outputs, q), (p * jnp.log(p / r)).sum(), rtol=1e-4)


@each_latent
def test_each_divergence_moves_one_side_and_none_below_the_free_nats(latent):
    """The gradient by definition: weights times the gradient of KL on its side, zero in states below the nats."""
    posterior, prior = jax.random.normal(KEY, (2, 6, latent.num_outputs)) * jnp.linspace(0.1, 2, 6)[:, None]
    kl = np.asarray(latent.kl(posterior, prior))
    free = float(np.sort(kl)[2:4].mean())
    weights = Weights(0.7, 0.2, free)
    loss = balanced_kl(latent, posterior, prior, weights)
    np.testing.assert_allclose(loss, 0.9 * np.maximum(kl, free), rtol=1e-5)
    found = jax.grad(lambda q, p: balanced_kl(latent, q, p, weights).sum(), (0, 1))(posterior, prior)
    whole = jax.grad(lambda q, p: latent.kl(q, p).sum(), (0, 1))(posterior, prior)
    over = (kl > free)[:, None]
    assert 0 < over.sum() < 6
    np.testing.assert_allclose(found[0], 0.2 * whole[0] * over, atol=1e-6)
    np.testing.assert_allclose(found[1], 0.7 * whole[1] * over, atol=1e-6)


def test_what_does_not_count_has_no_gradient():
    """Rewards of first observations, and everything beyond the newest step."""
    model, rows = small(), stories()
    mask = rows.mask.at[5:, 1].set(False)
    rows = rows._replace(mask=mask)
    poison = rows._replace(
        reward=jnp.where(mask & ~rows.first, rows.reward, 1e3),
        obs=jnp.where(mask[..., None], rows.obs, 7.0),
        terminated=rows.terminated & mask,
    )
    params, noise = model.init(KEY), model.latent.noise(KEY, rows.reward.shape)
    params = jax.tree.map(lambda x: x + 0.1, params)
    loss = lambda p, r: sequence_loss(model, p, r, noise, Weights(1.0, 0.1, 0.0))[0]  # noqa: E731
    gradients = [jax.jit(jax.grad(loss))(params, r) for r in (rows, poison)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), *gradients)


def test_the_loss_is_the_sum_of_its_parts_over_observations():
    model, rows = small(limit=4), stories()
    params, noise = model.init(KEY), model.latent.noise(KEY, rows.reward.shape)
    params = jax.tree.map(lambda x: x + 0.05, params)
    weights = Weights(1.0, 0.1, 0.01)
    loss, (beliefs, metrics) = sequence_loss(model, params, rows, noise, weights)
    unrolled, total = model.unroll(params, rows, noise), 0.0
    for t in range(7):
        for n in range(4):
            features = beliefs.features[t, n]
            x = np.asarray(symlog(rows.obs[t, n]))
            total += 0.5 * np.square(np.asarray(model.decoded(params, features)) - x).sum()
            end = 1 / (1 + np.exp(-float(model.end(params, features))))
            total -= np.log(end if rows.terminated[t, n] else 1 - end)
            if not rows.first[t, n]:
                total += float(model.numbers.loss(model.reward(params, features), rows.reward[t, n]))
            total += float(balanced_kl(model.latent, unrolled.posterior[t, n], unrolled.prior[t, n], weights))
    np.testing.assert_allclose(loss, total / 28, rtol=1e-4)
    assert loss == metrics["model_loss"]


def test_a_belief_is_a_state_of_a_model():
    """`begin` is the belief after one observation, and a step is what the networks imagine."""
    networks = dataclasses.replace(small(limit=4), choices=2)
    model = LatentWorld(networks, networks.init(KEY))
    obs = jax.random.uniform(KEY, (5, 3))
    state = model.begin(obs)
    embedding = networks.embed(model.params, obs)
    again = networks.observe(model.params, networks.initial(5), jnp.zeros((5, 2)), embedding, None)
    jax.tree.map(np.testing.assert_array_equal, state, again)
    action = jnp.array([0, 1, 1, 0, 1])
    after = model.step(state, action, KEY)
    noise = networks.latent.noise(KEY, (5,))
    imagined = networks.imagine(model.params, state, jax.nn.one_hot(action, 2), noise)
    jax.tree.map(np.testing.assert_array_equal, after.state, imagined)
    assert isinstance(after.state, Belief) and after.terminated.dtype == bool
    assert model.observation(state).shape == (5, 3) and model.allowed(state) is None and model.sign == 1


def test_sequences_of_the_replay_have_their_type():
    assert {*Arrivals._fields} < {*ReplayedSequences._fields, "first"}
