"""Agents that plan: with the world's own rules and with a model that they learn, on both drivers."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from probe_learners import same_bits
from probe_models import StateModel

import advantage as adv
from advantage.algorithms.planning.shared.acting import PlanMemory, PlanningActor, act_by_planning
from advantage.drivers.host.host_actor import actor_of
from advantage.environments.worlds.pendulum import Pendulum
from advantage.planners.action_sequences import PlannedActions

SMALL = dict(horizon=5, n_steps=40)
LEARNED = dict(members=2, model_hidden=(16,), model_epochs=2, learning_starts=40, buffer_size=200)
AGENTS = {
    "shooting": adv.Shooting(**SMALL, candidates=20),
    "cem-planning": adv.CEMPlanning(**SMALL, candidates=20, elites=4, iterations=2),
    "gradient-planning": adv.GradientPlanning(**SMALL, iterations=3),
    "mcts": adv.MCTS(n_steps=40, simulations=10, rollouts=1, rollout_steps=15),
    "pets": adv.PETS(**SMALL, **LEARNED, candidates=20, elites=4, iterations=2, particles=4),
}
DISCRETE = {"mcts"}


def world_for(name):
    return "CartPole-v1" if name in DISCRETE else "Pendulum-v1"


def train(algorithm, environment, out, **options):
    options = dict(total_timesteps=80, eval_episodes=0, tensorboard=False) | options
    return adv.train(algorithm, environment, out=out, **options)


def plays(agent, environment, steps=4):
    """The first greedy actions of an episode."""
    env = adv.make(environment)
    obs, memory, actions = env.reset(seed=0)[0], agent.initial_memory(), []
    for _ in range(steps):
        action, memory = agent.act(obs, memory=memory)
        actions.append(action)
        obs = env.step(action)[0]
    return np.array(actions)


@pytest.mark.parametrize("name", AGENTS)
def test_every_agent_plans_on_both_drivers(name, tmp_path):
    """Trained on the device and on the host, loaded again, it plans; without a model to learn, alike."""
    world = world_for(name)
    agents = {}
    for place in ("device", "host"):
        environment = world if place == "host" else f"jax/{world}"
        train(AGENTS[name], environment, tmp_path / place)
        agents[place] = adv.load(tmp_path / place)
    found = {place: plays(agent, world) for place, agent in agents.items()}
    if name != "pets":
        same_bits(*found.values())
    assert np.isfinite(found["host"]).all()


def test_every_decision_of_a_learner_without_a_model_to_learn_is_the_planners(tmp_path):
    """Exhaustive search in a finite world: the policy that is evaluated is that of backward induction."""
    agent = train(adv.ExhaustiveSearch(depth=3, gamma=0.9), "jax/GridWorld4x4-v0", tmp_path / "run").agent
    mdp = adv.make("jax/GridWorld4x4-v0").mdp
    values = np.zeros(mdp.n_states)
    for _ in range(3):
        q = mdp.expected_reward + 0.9 * mdp.expected(np.where(mdp.terminal, 0, values))
        values = q.max(1)
    for state in np.flatnonzero(~mdp.terminal):
        action, _ = agent.act(int(state), memory=agent.initial_memory())
        assert q[state, action] > values[state] - 1e-5


@pytest.mark.parametrize("environment", ["jax/Pendulum-v1", "Pendulum-v1"])
def test_a_stopped_run_goes_on_to_the_same_numbers_its_model_and_buffer_included(environment, tmp_path):
    algorithm = AGENTS["pets"]
    whole = train(algorithm, environment, tmp_path / "whole", total_timesteps=160, checkpoint_every=80)
    train(algorithm, environment, tmp_path / "part", total_timesteps=80)
    part = adv.resume(tmp_path / "part", total_timesteps=160)
    same_bits(whole.agent.state.learning, part.agent.state.learning)


def test_seeds_side_by_side_are_each_what_they_are_alone(tmp_path):
    algorithm = AGENTS["pets"]
    train(algorithm, "jax/Pendulum-v1", tmp_path / "both", num_seeds=2)
    for seed in (0, 1):
        alone = train(algorithm, "jax/Pendulum-v1", tmp_path / f"alone{seed}", seed=seed)
        other = adv.load(tmp_path / "both" / f"seed_{seed}")
        for left, right in zip(
            jax.tree.leaves(alone.agent.state.learning.learned),
            jax.tree.leaves(other.state.learning.learned),
            strict=True,
        ):
            np.testing.assert_allclose(left, right, rtol=2e-4, atol=2e-5)


def test_the_first_actions_of_a_learner_are_random_and_a_plan_follows(tmp_path):
    """Until `learning_starts` actions are spread over the whole range."""
    algorithm = dataclasses.replace(AGENTS["pets"], learning_starts=80)
    state = algorithm.init(
        jax.random.key(0), adv.Spec(Pendulum().observation_space, Pendulum().action_space, 1, 100)
    )
    obs = np.repeat(np.array([[1.0, 0.0, 0.0]], np.float32), 200, axis=0)
    for step, random in ((0, True), (79, True), (80, False)):
        now = dataclasses.replace(state, clock=state.clock._replace(step=jnp.uint32(step)))
        actor = actor_of(algorithm, now)
        memory = jax.tree.map(lambda x: jnp.stack([x] * 200), algorithm.initial_memory(actor))
        noise = algorithm.noise(actor, jax.random.key(1), (200,))
        action, _, _ = jax.jit(algorithm.act)(actor, obs, memory, noise)
        spread = np.histogram(action, bins=4, range=(-1, 1))[0]
        assert (spread.min() > 30) == random, (step, spread)


def test_nothing_is_planned_while_actions_are_random():
    decisions = []

    class Counted:
        def decide(self, actor, state, plan, key):
            jax.debug.callback(lambda: decisions.append(1))
            return jnp.int32(0), plan

    for random in (True, False):
        actor = PlanningActor(StateModel(), PlannedActions(choices=2), None, jnp.bool_(random))
        memory, noise = PlanMemory((), jnp.zeros(3, jnp.int32)), jnp.zeros((3, 2), jnp.uint32)
        _, memory, _ = act_by_planning(Counted(), actor, jnp.zeros((3, 1)), memory, noise)
        jax.effects_barrier()
        assert bool(decisions) != random and (memory.decisions == 1).all()


def test_a_plan_is_remembered_within_an_episode():
    """The second decision begins with the plan of the first, one step later; without `remember` it does not."""
    spec = adv.Spec(Pendulum().observation_space, Pendulum().action_space, world=Pendulum())
    obs = jnp.array([[1.0, 0.0, 0.0]])
    for remember in (True, False):
        algorithm = dataclasses.replace(AGENTS["cem-planning"], remember=remember)
        actor = algorithm.actor(algorithm.init(jax.random.key(0), spec))
        begin = jax.tree.map(lambda x: x[None], algorithm.initial_memory(actor))
        _, memory = algorithm.greedy(actor, obs, begin)
        assert memory.decisions == 1
        if remember:
            assert (memory.plan.mean != begin.plan.mean).any()
            np.testing.assert_array_equal(memory.plan.mean[0, -1], memory.plan.mean[0, -2])
            np.testing.assert_array_equal(memory.plan.std, begin.plan.std)
        else:
            assert memory.plan == ()


def decisions(algorithm, environment="jax/Pendulum-v1"):
    world = adv.make(environment)
    spec = adv.Spec(world.observation_space, world.action_space, world=world)
    actor = algorithm.actor(algorithm.init(jax.random.key(3), spec))
    obs = jax.vmap(world.reset)(jax.random.split(jax.random.key(4), 6))[1]
    memory = jax.tree.map(lambda x: jnp.stack([jnp.asarray(x)] * 6), algorithm.initial_memory(actor))
    action, memory = algorithm.greedy(actor, obs, memory)
    return np.concatenate([np.ravel(action), np.ravel(algorithm.greedy(actor, obs, memory)[0])])


CHANGES = [
    ("shooting", dict(candidates=21)),
    ("shooting", dict(horizon=6)),
    ("shooting", dict(gamma=0.5)),
    ("cem-planning", dict(elites=5)),
    ("cem-planning", dict(iterations=3)),
    ("cem-planning", dict(spread=0.5)),
    ("cem-planning", dict(keep=0.5)),
    ("cem-planning", dict(noise_beta=2.0)),
    ("cem-planning", dict(keep_elites=True)),
    ("cem-planning", dict(remember=False)),
    ("gradient-planning", dict(iterations=5)),
    ("gradient-planning", dict(step_size=0.05)),
    ("mcts", dict(simulations=50)),
    ("mcts", dict(exploration=0.01)),
    ("mcts", dict(rollouts=3)),
    ("mcts", dict(rollout_steps=25)),
]


@pytest.mark.parametrize(("name", "change"), CHANGES, ids=str)
def test_every_option_of_planning_changes_what_is_done(name, change):
    environment, before = f"jax/{world_for(name)}", AGENTS[name]
    if name == "mcts" and set(change) != {"simulations"}:
        before = dataclasses.replace(before, simulations=50)
    after = dataclasses.replace(before, **change)
    assert (decisions(before, environment) != decisions(after, environment)).any()


@pytest.mark.parametrize(
    "change",
    [
        dict(members=3),
        pytest.param(dict(model_kind="deterministic"), marks=pytest.mark.slow),
        pytest.param(dict(model_hidden=(8,)), marks=pytest.mark.slow),
        pytest.param(dict(model_learning_rate=1e-4), marks=pytest.mark.slow),
        pytest.param(dict(model_batch_size=32), marks=pytest.mark.slow),
        pytest.param(dict(buffer_size=40), marks=pytest.mark.slow),
        dict(n_steps=20),
    ],
    ids=str,
)
def test_every_option_of_learning_a_model_changes_the_model(change, tmp_path):
    models = []
    for i, algorithm in enumerate((AGENTS["pets"], dataclasses.replace(AGENTS["pets"], **change))):
        run = train(algorithm, "jax/Pendulum-v1", tmp_path / str(i))
        models.append(jax.tree.leaves(run.agent.state.learning.learned))
    same = all(a.shape == b.shape and (a == b).all() for a, b in zip(*models, strict=False))
    assert not same


def spec_of(environment="jax/Pendulum-v1", **fields):
    world = adv.make(environment)
    return dataclasses.replace(
        adv.Spec(world.observation_space, world.action_space, 1, 1000, world=world), **fields
    )


@pytest.mark.parametrize(
    ("algorithm", "spec", "words"),
    [
        (adv.Shooting(), spec_of(world=None), "has no rules that a planner could use.*--model learned"),
        (
            adv.ExhaustiveSearch(),
            spec_of(world=None),
            "no rules that a planner could use. Use mcts with a model",
        ),
        (adv.CEMPlanning(), spec_of("jax/StatelessPendulum-v1"), "does not show its whole state"),
        (adv.MCTS(), spec_of(), "needs Discrete ones.*cem-planning"),
        (adv.GradientPlanning(), spec_of("jax/CartPole-v1"), "needs a Box of floats.*mcts"),
        (adv.ExhaustiveSearch(), spec_of("jax/CartPole-v1"), "finite world whose table is known"),
        (
            adv.ExhaustiveSearch(depth=12),
            spec_of("jax/Blackjack-v0"),
            "successors at once, which takes .*--depth",
        ),
        (adv.PETS(), spec_of("jax/Catch-v0"), "the observation has an image"),
        (adv.PETS(), spec_of("jax/Cliff-v0"), "has indices.*--model true"),
        (adv.Shooting(), spec_of(action_space=spaces.MultiBinary(3)), "planner chooses among Discrete"),
        (adv.CEMPlanning(), spec_of("jax/TicTacToe-v0"), "has an action mask; use mcts or alphazero"),
    ],
    ids=lambda value: type(value).__name__ if dataclasses.is_dataclass(value) else "",
)
def test_what_cannot_be_planned_is_refused(algorithm, spec, words):
    with pytest.raises(ValueError, match=words):
        algorithm.init(jax.random.key(0), spec)


def test_options_that_contradict():
    with pytest.raises(ValueError, match="elites=11 is above candidates=10"):
        adv.CEMPlanning(candidates=10, elites=11)


def test_a_planner_in_an_environment_without_rules_says_how_to_learn_one(tmp_path):
    with pytest.raises(ValueError, match="--model learned"):
        train(AGENTS["cem-planning"], "MountainCarContinuous-v0", tmp_path / "run", frame_stack=2)
    assert not (tmp_path / "run").exists()


def test_an_agent_is_loaded_with_the_rules_of_its_world(tmp_path):
    train(AGENTS["cem-planning"], "Pendulum-v1", tmp_path / "run", total_timesteps=40)
    agent = adv.load(tmp_path / "run")
    assert isinstance(agent.spec.world, Pendulum)
    assert math.isfinite(float(plays(agent, "Pendulum-v1", 1)[0, 0]))


@pytest.mark.slow
def test_planning_reaches_the_optimum_of_pendulum(tmp_path):
    """-137.9 is the optimum of Pendulum-v1 from its start states; 100 episodes have a standard error of 8."""
    run = train(adv.CEMPlanning(), "jax/Pendulum-v1", tmp_path / "run", total_timesteps=200)
    assert adv.evaluate(run.agent, episodes=100).mean > -150


def test_the_agent_of_a_table_without_a_name_is_loaded_with_its_rules(tmp_path):
    table = adv.MDP(
        np.array([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]]),
        np.array([[0.0, 1.0], [2.0, 0.0]]),
        gamma=0.9,
        max_episode_steps=4,
    )
    agent = adv.ExhaustiveSearch(depth=2, n_steps=4)
    run = adv.train(agent, table, out=tmp_path / "run", total_timesteps=4, eval_episodes=1, tensorboard=False)
    for loaded in (run.agent, adv.load(run.path, environment=table)):
        action, _ = loaded.act(0, memory=loaded.initial_memory())
        assert action == adv.solve(table).policy[0]
    with pytest.raises(adv.CheckpointError, match="model"):
        adv.load(run.path)
    assert adv.resume(run.path, environment=table, total_timesteps=8).finished


@pytest.mark.parametrize(
    "algorithm",
    [
        adv.PETS(), adv.MCTS(model="learned"), adv.DynaNetwork(learner="dqn"), adv.PlaNet(), adv.Dreamer(),
        adv.MuZero(), adv.AutoencoderPolicy(), adv.RetraceAC(), adv.OffPolicyActorCritic(),
    ],
    ids=lambda algorithm: type(algorithm).__name__,
)  # fmt: skip
def test_learning_that_starts_after_the_budget_is_refused(algorithm):
    late = spec_of("jax/CartPole-v1", total_timesteps=algorithm.learning_starts - 1)
    words = f"learning_starts={algorithm.learning_starts} is above total_timesteps={late.total_timesteps}"
    with pytest.raises(ValueError, match=words):
        algorithm.init(jax.random.key(0), late)
    jax.eval_shape(
        lambda: algorithm.init(jax.random.key(0), spec_of("jax/CartPole-v1", total_timesteps=5000))
    )
