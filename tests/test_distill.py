"""Distillation: the answers are the planner's own, and the policy learns them."""

import dataclasses
import shutil
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probe_learners import same_bits

import advantage as adv
from advantage.algorithms.planning.shared.teachers import Teacher
from advantage.environments.worlds.pendulum import Pendulum
from advantage.policies.distributions import Categorical, Gaussian
from advantage.runs.folder import RunFolder
from advantage.runs.log import read_progress
from advantage.types import Rollout

KEY = jax.random.key(0)
SMALL = adv.Distill(teacher="gradient-planning", n_steps=16, gradient_steps=8, batch_size=16, hidden=(16,))


def train(algorithm, environment, out, **options):
    options = dict(total_timesteps=64, eval_episodes=0, tensorboard=False, num_envs=2) | options
    return adv.train(algorithm, environment, out=out, **options)


def test_answers_are_the_planners_in_each_state_alone():
    """Each from the planner's initial memory: an answer depends on nothing but the state."""
    world = Pendulum()
    spec = adv.Spec(world.observation_space, world.action_space, 2, 100, world=world)
    state = SMALL.init(KEY, spec)
    planner, actor = adv.GradientPlanning(), state.teacher
    obs = jax.vmap(lambda key: world.reset(key)[1])(jax.random.split(KEY, 10)).reshape(5, 2, 3)
    obs = obs.at[4, 0].set(obs[0, 1])
    done = np.array([[0, 0], [0, 1], [0, 0], [1, 0], [0, 0]], bool)
    rollout = Rollout(obs, jnp.zeros((5, 2, 1)), jnp.zeros((5, 2)), obs, ~done & False, jnp.asarray(done))
    found, memory = jax.jit(SMALL.answers)(state.teacher, rollout, state.memory)
    same_bits(memory, state.memory)
    decide = jax.jit(planner.greedy)
    first = jax.tree.map(lambda x: jnp.asarray(x)[None], planner.initial_memory(actor))
    for b in range(2):
        for t in range(5):
            action, _ = decide(actor, obs[t, b][None], first)
            np.testing.assert_allclose(found[t, b], action[0], atol=1e-4)
    np.testing.assert_array_equal(found[4, 0], found[0, 1])


def test_a_teacher_remembers_where_a_rollout_cuts_an_episode():
    spec = adv.Spec(Pendulum().observation_space, Pendulum().action_space, 2, 100)
    teacher = adv.PPO(network="gru", hidden=(4,), n_steps=4, batch_size=8)
    actor = jax.jit(lambda key: teacher.actor(teacher.init(key, spec)))(KEY)
    agent = dataclasses.replace(SMALL, teacher="some/run", taught_by=Teacher(teacher, actor))
    obs, done = jax.random.normal(KEY, (4, 2, 3)), jnp.zeros((4, 2), bool).at[2, 1].set(True)
    rollout = Rollout(obs, jnp.zeros((4, 2, 1)), jnp.zeros((4, 2)), obs, done, done & False)
    whole, after = agent.answers(actor, rollout, jnp.zeros((2, 4)))
    begun, memory = agent.answers(actor, jax.tree.map(lambda x: x[:2], rollout), jnp.zeros((2, 4)))
    found, memory = agent.answers(actor, jax.tree.map(lambda x: x[2:], rollout), memory)
    np.testing.assert_array_equal(whole, jnp.concatenate([begun, found]))
    same_bits(after, memory)
    new, _ = jax.jit(teacher.greedy)(actor, obs[3], jnp.zeros((2, 4)))  # where the second episode has ended
    old, _ = jax.jit(teacher.greedy)(actor, obs[3, 0][None], jnp.zeros((1, 4)))
    np.testing.assert_allclose(whole[3, 1], new[1], atol=1e-6)
    assert abs(whole[3, 0] - old[0]).max() > 1e-6


@pytest.mark.parametrize(
    ("teacher", "environment"),
    [("gradient-planning", "Pendulum-v1"), ("exhaustive-search", "jax/GridWorld4x4-v0")],
)
def test_a_policy_is_trained_saved_and_resumed(teacher, environment, tmp_path):
    algorithm = dataclasses.replace(SMALL, teacher=teacher)
    whole = train(algorithm, environment, tmp_path / "whole", eval_episodes=1)
    train(algorithm, environment, tmp_path / "part", total_timesteps=32)
    part = adv.resume(tmp_path / "part", total_timesteps=64)
    same_bits(whole.agent.state.params, part.agent.state.params)
    same_bits(whole.agent.state.replay, part.agent.state.replay)
    same_bits(whole.agent.state.memory, part.agent.state.memory)
    agent = adv.load(tmp_path / "whole")
    assert agent.initial_memory() == ()


def test_the_policy_of_a_small_world_becomes_the_planners(tmp_path):
    """In every state of the grid but the ends the policy does what is best by a search of four steps."""
    algorithm = adv.Distill(
        teacher="exhaustive-search",
        n_steps=32,
        gradient_steps=200,
        batch_size=64,
        hidden=(32,),
        learning_rate=1e-2,
    )
    run = train(algorithm, "jax/GridWorld4x4-v0", tmp_path / "run", total_timesteps=512, num_envs=4)
    mdp = adv.make("jax/GridWorld4x4-v0").mdp
    value = np.zeros(mdp.n_states)
    for _ in range(4):
        q = mdp.expected_reward + 0.99 * mdp.expected(np.where(mdp.terminal, 0, value))
        value = q.max(1)
    chosen = [q[s, run.agent.act(int(s))] for s in np.flatnonzero(~mdp.terminal)]
    np.testing.assert_allclose(chosen, value[~mdp.terminal], atol=1e-5)


@pytest.mark.parametrize(
    "change",
    [dict(aggregate=False), dict(learning_rate=1e-2), dict(log_std=0.5), dict(gradient_steps=4)],
    ids=str,
)
def test_every_option_makes_a_difference(change, tmp_path):
    found = []
    for algorithm in (SMALL, dataclasses.replace(SMALL, **change)):
        run = train(algorithm, "jax/Pendulum-v1", tmp_path / str(len(found)))
        found.append(np.concatenate([np.ravel(x) for x in jax.tree.leaves(run.agent.state.params)]))
    assert (found[0] != found[1]).any()


@pytest.mark.parametrize(("newest", "among"), [(3, {5, 6, 7}), (20, set(range(8)))])
def test_without_aggregate_each_of_the_newest_states_is_as_likely(newest, among):
    """Also where the buffer holds no multiple of them, or fewer."""
    agent = dataclasses.replace(SMALL, aggregate=False, batch_size=20_000)
    replay = SimpleNamespace(stored=jnp.int32(8))
    found, count = np.unique(agent.drawn(replay, KEY, newest), return_counts=True)
    assert set(found) == among
    np.testing.assert_allclose(count / 20_000, 1 / len(among), atol=0.02)


@pytest.fixture(scope="module")
def ppo(tmp_path_factory):
    """A stochastic policy for the grid, hardly trained."""
    agent = adv.PPO(n_steps=16, batch_size=32, hidden=(16,), n_epochs=2)
    return train(agent, "jax/GridWorld4x4-v0", tmp_path_factory.mktemp("ppo") / "run").path


def states_of(name):
    mdp = adv.make(name).mdp
    return np.flatnonzero(~mdp.terminal)


def probabilities(agent, states):
    return np.asarray(
        jax.nn.softmax(agent.algorithm.actor(agent.state).distribution(states).logits), np.float64
    )


def test_a_student_gets_the_probabilities_of_its_teacher():
    """One update on every state of a grid; its answers are the teacher's distributions, which it then has."""
    world = adv.make("jax/GridWorld4x4-v0")
    spec = adv.Spec(world.observation_space, world.action_space, 16, 1000, world=world)
    teacher = adv.PPO(hidden=(8,))
    actor = teacher.actor(teacher.init(jax.random.key(5), spec))
    actor = actor._replace(params=jax.tree.map(lambda x: 100 * x, actor.params))  # nearly uniform before
    agent = adv.Distill(
        teacher="some/run", taught_by=Teacher(teacher, actor), loss="kl", n_steps=1, gradient_steps=400, batch_size=64,
        hidden=(32,), learning_rate=1e-2,
    )  # fmt: skip
    state, states, none = agent.init(KEY, spec), jnp.arange(16)[None], jnp.zeros((1, 16), bool)
    rollout = Rollout(states, states % 4, jnp.zeros((1, 16)), states, none, none)
    p = np.asarray(jax.nn.softmax(actor.distribution(states[0]).logits))
    answers, _ = agent.answers(state.teacher, rollout, state.memory)
    np.testing.assert_allclose(jax.nn.softmax(answers.logits)[0], p, rtol=1e-5)
    assert p.max() > 0.3
    state, metrics = jax.jit(agent.update)(state, rollout, KEY)
    assert float(metrics["distillation_loss"].total) > 0
    found = jax.nn.softmax(agent.actor(state).distribution(states[0]).logits)
    np.testing.assert_allclose(found, p, atol=0.02)


@pytest.mark.slow
def test_the_student_of_a_policy_has_its_probabilities_and_needs_it_no_more(ppo, tmp_path):
    """Of a copy of the teacher's run, which is removed before the student is loaded and goes on."""
    teacher, states = adv.load(ppo), states_of("jax/GridWorld4x4-v0")
    shutil.copytree(ppo, tmp_path / "teacher")
    agent = adv.Distill(
        teacher=str(tmp_path / "teacher"), loss="kl", n_steps=32, gradient_steps=300, batch_size=64, hidden=(32,),
        learning_rate=3e-3,
    )  # fmt: skip
    run = train(agent, "jax/GridWorld4x4-v0", tmp_path / "student", total_timesteps=256, num_envs=4)
    shutil.rmtree(tmp_path / "teacher")
    student = adv.load(run.path)
    p, q = probabilities(teacher, states), probabilities(student, states)
    np.testing.assert_allclose(q, p, atol=0.03)
    assert [student.act(int(s)) for s in states] == [teacher.act(int(s)) for s in states]
    assert adv.resume(run.path, total_timesteps=384).step == 384


@pytest.mark.slow
@pytest.mark.parametrize(
    ("teacher", "world"),
    [
        (adv.DQN(hidden=(16,), learning_starts=32), "jax/CartPole-v1"),
        (adv.SAC(hidden=(16,), learning_starts=100), "jax/Pendulum-v1"),
    ],
    ids=["dqn", "sac"],
)
def test_the_student_of_any_agent_does_what_it_does(teacher, world, tmp_path):
    """Where the student goes, its actions are those of the teacher."""
    run = train(teacher, world, tmp_path / "teacher", total_timesteps=512)
    agent = adv.Distill(teacher=str(run.path), n_steps=100, gradient_steps=400, hidden=(64, 64))
    student = train(agent, world, tmp_path / "student", total_timesteps=3_200, num_envs=8)
    assert read_progress(RunFolder(student.path))["train/difference"][-1] < 0.1


def test_the_gradient_of_the_divergence_by_its_definition():
    """By logits `q - p`; by means `(m - m*) / s^2`, by log-deviations `1 - (s*^2 + (m - m*)^2) / s^2`, in float64."""
    agent, rng = dataclasses.replace(SMALL, teacher="some/run", loss="kl"), np.random.default_rng(0)
    wanted, logits = np.float32(rng.normal(size=(2, 5, 4)))
    found = jax.grad(lambda x: agent._loss(Categorical(x), Categorical(jnp.asarray(wanted)))[0])(
        jnp.asarray(logits)
    )
    p, q = (np.exp(np.float64(x)) / np.exp(np.float64(x)).sum(1, keepdims=True) for x in (wanted, logits))
    np.testing.assert_allclose(found, (q - p) / 5, atol=1e-6)
    m0, l0, m, l = np.float32(rng.normal(size=(4, 5, 2)))
    teacher = Gaussian(jnp.asarray(m0), jnp.asarray(l0))
    by_mean, by_log = jax.grad(lambda m, l: agent._loss(Gaussian(m, l), teacher)[0], (0, 1))(
        jnp.asarray(m), jnp.asarray(l)
    )
    s2, d = np.exp(2 * np.float64(l)), np.float64(m) - m0
    np.testing.assert_allclose(by_mean, d / s2 / 5, rtol=1e-4)
    np.testing.assert_allclose(by_log, (1 - (np.exp(2 * np.float64(l0)) + d**2) / s2) / 5, rtol=1e-4)


@pytest.mark.slow
def test_a_run_of_another_world_does_not_teach(ppo, tmp_path):
    agent = dataclasses.replace(SMALL, teacher=str(ppo))
    with pytest.raises(ValueError, match="A teacher and its student need the same"):
        train(agent, "jax/CartPole-v1", tmp_path / "other")


def test_what_does_not_teach(tmp_path):
    with pytest.raises(ValueError, match="There is no such folder"):
        train(dataclasses.replace(SMALL, teacher="no/run"), "jax/CartPole-v1", tmp_path / "none")
    with pytest.raises(ValueError, match="loss='kl' needs a teacher whose probabilities"):
        train(dataclasses.replace(SMALL, loss="kl"), "jax/Pendulum-v1", tmp_path / "kl")


def test_what_cannot_be_distilled():
    world = adv.make("jax/CartPole-v1")
    spec = adv.Spec(world.observation_space, world.action_space, world=world)
    with pytest.raises(ValueError, match="needs a Box of floats"):
        SMALL.init(KEY, spec)
    with pytest.raises(ValueError, match=r"recurrent network \(GRU\) needs a method that learns from whole"):
        jax.eval_shape(lambda: adv.Distill(teacher="shooting", network="gru").init(KEY, spec))
    with pytest.raises(
        ValueError, match="has no rules that a planner could use. Train a planner that learns a model"
    ):
        adv.Distill().init(KEY, dataclasses.replace(spec, world=None))
