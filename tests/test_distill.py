"""Distillation: the answers are the planner's own, and the policy learns them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probe_learners import same_bits

import advantage as adv
from advantage.environments.worlds.pendulum import Pendulum
from advantage.types import Rollout

KEY = jax.random.key(0)
SMALL = adv.Distill(teacher="gradient-planning", n_steps=16, gradient_steps=8, batch_size=16, hidden=(16,))


def train(algorithm, environment, out, **options):
    options = dict(total_timesteps=64, eval_episodes=0, tensorboard=False, num_envs=2) | options
    return adv.train(algorithm, environment, out=out, **options)


def test_answers_are_the_planners_and_its_plans_end_with_episodes():
    """Each environment alone, each episode from the planner's initial memory."""
    world = Pendulum()
    spec = adv.Spec(world.observation_space, world.action_space, 2, 100, world=world)
    state = SMALL.init(KEY, spec)
    planner = adv.GradientPlanning()
    actor = planner.actor(state.teacher)
    obs = jax.vmap(lambda key: world.reset(key)[1])(jax.random.split(KEY, 10)).reshape(5, 2, 3)
    done = np.array([[0, 0], [0, 1], [0, 0], [1, 0], [0, 0]], bool)
    rollout = Rollout(obs, jnp.zeros((5, 2, 1)), jnp.zeros((5, 2)), obs, ~done & False, jnp.asarray(done))
    found = jax.jit(SMALL.answers)(state.teacher, rollout)
    decide = jax.jit(planner.greedy)
    for b in range(2):
        memory = first = jax.tree.map(lambda x: jnp.asarray(x)[None], planner.initial_memory(actor))
        for t in range(5):
            action, memory = decide(actor, obs[t, b][None], memory)
            np.testing.assert_allclose(found[t, b], action[0], atol=1e-4)
            memory = first if done[t, b] else memory


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


def test_what_cannot_be_distilled():
    world = adv.make("jax/CartPole-v1")
    spec = adv.Spec(world.observation_space, world.action_space, world=world)
    with pytest.raises(ValueError, match="needs a Box of floats"):
        SMALL.init(KEY, spec)
    with pytest.raises(ValueError, match="has no rules that a planner could use"):
        adv.Distill().init(KEY, dataclasses.replace(spec, world=None))
