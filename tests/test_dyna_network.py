"""Imagined experience: rollouts in a model in the form of real ones, and learners that see nothing else."""

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probe_learners import same_bits
from probe_models import StateModel

import advantage as adv
from advantage.algorithms.actors import action_probabilities
from advantage.algorithms.planning.shared.imagined_rollout import imagined_rollout, mean_metrics
from advantage.environments.frame_stack import stacked_space
from advantage.environments.worlds.cartpole import CartPole
from advantage.environments.worlds.pendulum import Pendulum
from advantage.models.interface import Imagined
from advantage.models.true_world import TrueModel
from advantage.replay.ring import replay_add, replay_init
from advantage.types import Mean, Rollout

KEY = jax.random.key(0)
SMALL = adv.DynaNetwork(
    n_steps=20,
    members=2,
    model_hidden=(16,),
    model_epochs=2,
    buffer_size=200,
    imagined_envs=8,
    imagined_steps=3,
    imagined_buffer_size=500,
    gradient_steps=2,
    batch_size=16,
    hidden=(16,),
    learning_starts=20,
)


def stored(observations):
    """A buffer with these observations as beginnings of steps."""
    obs = jnp.asarray(observations)[None]
    number = obs.shape[1]
    one = jax.ShapeDtypeStruct(obs.shape[2:], obs.dtype)
    flags = jnp.zeros((1, number), bool)
    rollout = Rollout(obs, jnp.zeros((1, number), jnp.int32), jnp.zeros((1, number)), obs, flags, ~flags)
    empty = replay_init(one, jax.ShapeDtypeStruct((), jnp.int32), capacity=number, num_envs=number)
    return replay_add(empty, rollout)


def test_with_true_rules_imagined_steps_are_the_worlds():
    """Every row follows from the one before by the world's own step; columns begin at stored observations."""
    begin = jax.vmap(Pendulum().reset)(jax.random.split(KEY, 10))[1]
    spec = adv.Spec(Pendulum().observation_space, Pendulum().action_space, 6, 1000)
    algorithm = adv.SAC(hidden=(8,))
    state = algorithm.init(KEY, spec)
    model = TrueModel(Pendulum())
    found = jax.jit(
        lambda: imagined_rollout(algorithm, algorithm.actor(state), model, stored(begin), KEY, (4, 6))
    )()
    for b in range(6):
        assert (np.abs(np.asarray(begin) - found.obs[0, b]).max(1) < 1e-6).any()
        for t in range(4):
            s = Pendulum().state_of(found.obs[t, b])
            _, obs, reward, _ = Pendulum().step(s, 2 * found.action[t, b], KEY)
            np.testing.assert_allclose(found.next_obs[t, b], obs, atol=1e-5)
            np.testing.assert_allclose(found.reward[t, b], reward, atol=1e-4)
            if t < 3:
                np.testing.assert_allclose(found.obs[t + 1, b], found.next_obs[t, b], atol=1e-6)
    np.testing.assert_array_equal(found.truncated, np.arange(4)[:, None] == np.full((4, 6), 3))
    assert not found.terminated.any()


@dataclasses.dataclass(frozen=True)
class EndsAtTwo(StateModel):
    """A model whose state counts steps; it ends at 2, and what comes after an end is poison."""

    def step(self, state, action, key):
        after = jnp.where(state >= 2, jnp.nan, state + 1)
        return Imagined(after, after[:, 0], (after == 2)[:, 0])


def test_nothing_is_imagined_beyond_an_end():
    """A column whose step terminates goes on from another stored observation."""
    algorithm = adv.DQN(hidden=(8,))
    space = Pendulum().observation_space
    spec = adv.Spec(type(space)(-5, 5, (1,)), CartPole().action_space, 5, 1000)
    actor = algorithm.actor(algorithm.init(KEY, spec))
    replay = stored(jnp.zeros((4, 1)))
    found = jax.jit(lambda: imagined_rollout(algorithm, actor, EndsAtTwo(), replay, KEY, (5, 5)))()
    np.testing.assert_array_equal(found.obs[:, :, 0], np.array([0, 1, 0, 1, 0])[:, None] * np.ones(5))
    np.testing.assert_array_equal(found.next_obs[:, :, 0], np.array([1, 2, 1, 2, 1])[:, None] * np.ones(5))
    np.testing.assert_array_equal(found.terminated[:, 0], [False, True, False, True, False])
    np.testing.assert_array_equal(found.truncated[:, 0], [False, False, False, False, True])


def test_metrics_of_turns():
    found = mean_metrics(
        {"a": jnp.array([1.0, 3.0]), "b": Mean(jnp.array([2.0, 4.0]), jnp.array([1.0, 0.0]))}
    )
    assert found["a"] == 2 and found["b"] == Mean(6.0, 1.0)


def train(algorithm, environment, out, **options):
    options = dict(total_timesteps=40, eval_episodes=0, tensorboard=False) | options
    return adv.train(algorithm, environment, out=out, **options)


@pytest.mark.parametrize(("learner", "environment"), [("sac", "Pendulum-v1"), ("dqn", "jax/CartPole-v1")])
def test_it_learns_is_loaded_and_resumed(learner, environment, tmp_path):
    algorithm = dataclasses.replace(SMALL, learner=learner)
    whole = train(algorithm, environment, tmp_path / "whole", eval_episodes=1, checkpoint_every=20)
    shutil.copytree(tmp_path / "whole", tmp_path / "part", symlinks=True)
    (begun,) = (tmp_path / "part" / "checkpoints").glob("step_*20")
    part = adv.resume(begun)
    same_bits(whole.agent.state.learner.params, part.agent.state.learner.params)
    again = adv.evaluate(tmp_path / "whole", episodes=1)
    assert np.isfinite(again.mean)


def test_the_learner_takes_the_steps_it_is_told_to(tmp_path):
    """For each real step of the second rollout, with which learning starts, one turn of gradient_steps steps.

    Its buffer holds what was imagined, no real transition.
    """
    run = train(dataclasses.replace(SMALL, learning_starts=40), "jax/Pendulum-v1", tmp_path / "run")
    learner = run.agent.state.learner
    assert int(learner.gradient_steps) == 20 * 2
    assert int(learner.replay.head) == 20 * 3 and learner.replay.num_envs == 8
    assert int(learner.clock.step) == 40 == int(learner.clock.total_timesteps)
    assert int(run.agent.state.learning.replay.stored) == 40


def test_exploration_falls_with_the_real_steps_however_many_are_imagined():
    """400 x 15 steps are imagined for each of a million: more than 32 bits count."""
    algorithm = dataclasses.replace(SMALL, learner="dqn", imagined_envs=400, imagined_steps=15)
    space = CartPole().observation_space
    spec = adv.Spec(space, CartPole().action_space, 1, 1_000_000)
    state = jax.jit(lambda key: algorithm.init(key, spec))(KEY)
    epsilon = []
    for step in (0, 50_000, 100_000, 1_000_000):
        clock = state.clock._replace(step=jnp.uint32(step))
        now = dataclasses.replace(state, clock=clock, learner=dataclasses.replace(state.learner, clock=clock))
        actor = algorithm.actor(now)
        epsilon.append(float(actor.learner.epsilon))
        chances = action_probabilities(algorithm, actor, np.zeros((1, 4), np.float32), deterministic=False)
        assert chances is None if step == 0 else np.isclose(chances.min(), epsilon[-1] / 2)
    np.testing.assert_allclose(epsilon, [1, 0.525, 0.05, 0.05], rtol=1e-5)


def test_the_learner_keeps_imagined_stacks_as_they_are():
    """What the model makes of a stack is no shifted stack, so the learner's buffer stores all of it."""
    space = stacked_space(Pendulum().observation_space, 3)
    spec = adv.Spec(space, Pendulum().action_space, 1, 1000, frame_stack=3)
    replay = jax.eval_shape(lambda key: SMALL.init(key, spec), KEY).learner.replay
    assert replay.frames.depth == 1 and replay.obs.shape[2:] == (3, 3)


def test_it_acts_at_random_until_learning_starts():
    """Actions are spread over the whole range, in units of its bounds."""
    spec = adv.Spec(Pendulum().observation_space, Pendulum().action_space, 10, 1000)
    algorithm = dataclasses.replace(SMALL, model_hidden=(4,), hidden=(4,), learning_starts=200)

    @jax.jit
    def acted(step):
        state = algorithm.init(KEY, spec)
        state = dataclasses.replace(state, clock=state.clock._replace(step=step))
        actor = algorithm.actor(state)
        noise = algorithm.noise(actor, KEY, (10,))
        return algorithm.act(actor, jnp.zeros((10, 3)), (), noise)[0], noise[1]

    for step, random in ((0, True), (199, True), (200, False)):
        action, uniform = acted(jnp.uint32(step))
        assert (action == uniform).all() == random and np.abs(uniform).max() > 0.7


def test_the_buffer_has_room_for_the_ends_of_imagined_columns():
    """Each column of 5 steps ends, so 20,000 of 100,000 transitions are the last ones of theirs."""
    algorithm = adv.DynaNetwork(imagined_steps=5, hidden=(4,), model_hidden=(4,))
    spec = adv.Spec(Pendulum().observation_space, Pendulum().action_space, 1, 1000)
    replay = jax.eval_shape(lambda key: algorithm.init(key, spec), KEY).learner.replay
    assert replay.num_rows * replay.num_envs > 99_900 and len(replay.final_rows) > 20_000


@pytest.mark.parametrize(
    "change",
    [
        dict(imagined_envs=4),
        dict(imagined_steps=2),
        dict(gradient_steps=1),
        dict(learning_rate=1e-2),
        dict(gamma=0.5),
        dict(tau=0.5),
        pytest.param(dict(batch_size=8), marks=pytest.mark.slow),
        pytest.param(dict(activation="tanh"), marks=pytest.mark.slow),
        pytest.param(dict(n_steps=10), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_every_option_makes_a_difference(change, tmp_path):
    found = []
    for algorithm in (SMALL, dataclasses.replace(SMALL, **change)):
        run = train(algorithm, "jax/Pendulum-v1", tmp_path / str(len(found)))
        found.append(np.concatenate([np.ravel(x) for x in jax.tree.leaves(run.agent.state.learner.params)]))
    assert found[0].shape != found[1].shape or (found[0] != found[1]).any()


def test_what_it_refuses():
    spec = adv.Spec(Pendulum().observation_space, Pendulum().action_space, 1, 100)
    with pytest.raises(ValueError, match="DQN needs Discrete actions"):
        dataclasses.replace(SMALL, learner="dqn").init(KEY, spec)
    with pytest.raises(ValueError, match="imagined_buffer_size=5 is below batch_size=16"):
        dataclasses.replace(SMALL, imagined_buffer_size=5)
    world = adv.make("jax/Catch-v0")
    with pytest.raises(ValueError, match="the observation has an image"):
        SMALL.init(KEY, adv.Spec(world.observation_space, world.action_space, 1, 100))
