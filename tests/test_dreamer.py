"""Dreamer and PlaNet: what they imagine, by definition, what they remember while acting, and runs that go on."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from probe_learners import same_bits

import advantage as adv
from advantage.algorithms.planning.dreamer import DreamerLearning
from advantage.algorithms.planning.shared.imagined_policy import (
    ImaginedPolicy,
    imagine,
    running_spread,
    starts,
)
from advantage.algorithms.planning.shared.latent_learning import believed
from advantage.models.recurrent_state_space import Belief
from advantage.replay.arrivals import Arrivals
from advantage.types import Clock

KEY = jax.random.key(0)
MODEL = dict(
    n_steps=4, gradient_steps=1, batch_size=3, sequence_length=5, latent_size=6, latent_classes=3, memory_size=6,
    model_hidden=(8,),
    value_limit=5, learning_starts=16, buffer_size=200,
)  # fmt: skip
DREAMER = adv.Dreamer(**MODEL, horizon=3, imagined_starts=7, hidden=(8,))
PLANET = adv.PlaNet(**MODEL, horizon=3, candidates=5, elites=2, iterations=2)
AGENTS = {"dreamer": DREAMER, "planet": PLANET}
WORLDS = ["jax/CartPole-v1", "jax/Pendulum-v1"]
each_agent = pytest.mark.parametrize("agent", AGENTS.values(), ids=AGENTS)
each_world = pytest.mark.parametrize("world", WORLDS)


def first_state(agent, name="jax/Pendulum-v1", **changes):
    world = adv.make(name)
    spec = adv.Spec(world.observation_space, world.action_space, 2, 1000, world=world)
    return agent.init(KEY, dataclasses.replace(spec, **changes))


def shaken(tree, size=0.1):
    return jax.tree.map(
        lambda x: x + size * jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape), tree
    )


def beliefs_of(state, number=7):
    networks = state.world.networks
    keys = jax.random.split(KEY)
    drawn = networks.latent.sample(
        jax.random.normal(keys[0], (number, networks.latent.num_outputs)), networks.latent.noise(keys[1], (number,))
    )  # fmt: skip
    return Belief(jax.random.normal(KEY, (number, networks.cell.size)), drawn)


def played(agent, state, begin, pathwise):
    model = state.world.model._replace(params=shaken(state.world.learned.params))
    actor = shaken(state.params["actor"])
    imagined = imagine(model, state.policy, actor, begin, KEY, agent.horizon, pathwise=pathwise)
    return model, actor, imagined


# -- imagination -------------------------------------------------------------------------------------------------------


@each_world
def test_imagination_is_the_model_step_by_step(world):
    state = first_state(DREAMER, world)
    begin, pathwise = beliefs_of(state), "Pendulum" in world
    model, actor, imagined = played(DREAMER, state, begin, pathwise)
    belief = begin
    for t, key in enumerate(jax.random.split(KEY, 3)):
        key_action, key_belief = jax.random.split(key)
        np.testing.assert_allclose(imagined.features[t], belief.features, atol=1e-5)
        distribution = state.policy.distribution(actor, belief.features)
        action = distribution.sample(state.policy.head.noise(key_action, (7,)))
        np.testing.assert_allclose(imagined.log_prob[t], distribution.log_prob(action), atol=1e-4)
        networks = model.networks
        drawn = networks.latent.noise(key_belief, (7,))
        belief = networks.imagine(model.params, belief, networks.action_vector(action), drawn)
    np.testing.assert_allclose(imagined.features[3], belief.features, atol=1e-5)


def update_once(agent, state, begin, weight):
    """One step of actor and critic, from these beliefs."""
    before = DreamerLearning(
        state.world.learned, state.params, state.optimiser, state.target, jnp.float32(0.0)
    )
    return agent._behave(state.world.model, state.policy, before, begin, weight, KEY, 1.0)


@each_world
def test_actor_and_critic_follow_the_returns_of_the_definition(world):
    """The gradients by a plain float64 recursion over what was imagined; Adam's first step is their sign."""
    agent = dataclasses.replace(DREAMER, ent_coef=0.03, max_grad_norm=None)
    state = first_state(agent, world)
    state = dataclasses.replace(
        state,
        params=shaken(state.params, 0.3),
        target=shaken(state.target, 0.5),
        world=dataclasses.replace(
            state.world, learned=state.world.learned._replace(params=shaken(state.world.learned.params, 0.3))
        ),
    )
    begin, weight, pathwise = beliefs_of(state), jnp.array([1, 1, 0, 1, 1, 1, 0.0]), "Pendulum" in world
    networks, numbers, model = state.world.networks, state.world.networks.numbers, state.world.model
    stop = jax.lax.stop_gradient

    def recursion(features):
        reached = features[1:]
        reward = numbers.mean(networks.reward(model.params, reached))
        value = numbers.mean(state.policy.value(state.target, reached))
        discount = 0.99 * (1 - jax.nn.sigmoid(networks.end(model.params, reached)))
        total, returns = value[2], []
        for t in (2, 1, 0):
            total = reward[t] + discount[t] * (0.05 * value[t] + 0.95 * total)
            returns.insert(0, total)
        return jnp.stack(returns), jnp.stack(
            [weight, weight * discount[0], weight * discount[0] * discount[1]]
        )

    def objective(actor):
        imagined = imagine(model, state.policy, actor, begin, KEY, 3, pathwise=pathwise)
        returns, alive = recursion(imagined.features)
        low, high = np.percentile(np.asarray(stop(returns)), [5, 95])
        scale = max(1.0, high - low)
        value = numbers.mean(state.policy.value(state.params["value"], imagined.features[:3]))
        gain = returns if pathwise else stop(returns - value) * imagined.log_prob
        alive = stop(alive)
        return (alive * (gain / scale + 0.03 * imagined.entropy)).sum() / alive.sum()

    def loss(value):
        imagined = imagine(model, state.policy, state.params["actor"], begin, KEY, 3, pathwise=pathwise)
        returns, alive = (stop(x) for x in recursion(imagined.features))
        predicted = state.policy.value(value, imagined.features[:3])
        return (alive * numbers.loss(predicted, returns)).sum() / alive.sum()

    after, metrics = update_once(agent, state, begin, weight)
    up, down = jax.grad(objective)(state.params["actor"]), jax.grad(loss)(state.params["value"])
    for name, expected in (("actor", jax.tree.map(jnp.negative, up)), ("value", down)):
        found = after.optimiser[name].mu  # of Adam, a tenth of the gradient after one step
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(10 * a, b, rtol=2e-3, atol=2e-5), found, expected
        )
    np.testing.assert_allclose(metrics["value_loss"], loss(state.params["value"]), rtol=1e-4)
    moved = jax.tree.map(lambda old, new: old + 0.02 * (new - old), state.target, after.params["value"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), after.target, moved)


def test_both_gradients_agree_on_average():
    """Score function and pathwise estimate the same gradient, for one step with a smooth reward."""
    state = first_state(DREAMER)
    policy: ImaginedPolicy = state.policy
    features, actor = jnp.ones((1, state.world.networks.num_features)), shaken(state.params["actor"], 0.3)
    many = jax.random.split(KEY, 40_000)

    def reward(action):
        return jnp.sin(2 * action).sum(-1)

    def pathwise(actor, key):
        return reward(policy.distribution(actor, features).sample(policy.head.noise(key, (1,))))[0]

    def score(actor, key):
        distribution = policy.distribution(actor, features)
        action = jax.lax.stop_gradient(distribution.sample(policy.head.noise(key, (1,))))
        return ((reward(action) - 0.2) * distribution.log_prob(action))[0]

    means = [
        jax.tree.map(lambda x: x.mean(0), jax.vmap(jax.grad(f), (None, 0))(actor, many))[-1]["bias"]
        for f in (pathwise, score)
    ]
    np.testing.assert_allclose(*means, atol=0.02)


def test_imagination_begins_where_nothing_had_ended():
    flags = jnp.array([[True, False], [False, False]])
    mask = jnp.array([[True, True], [True, False]])
    rows = Arrivals((), (), (), (), flags, mask)
    beliefs = Belief(jnp.arange(4.0).reshape(2, 2, 1), jnp.zeros((2, 2, 1)))
    begin, weight = starts(beliefs, rows, KEY, 200)
    expected = {0.0: 0.0, 1.0: 1.0, 2.0: 1.0, 3.0: 0.0}
    assert {float(m): float(w) for m, w in zip(begin.memory[:, 0], weight, strict=True)} == expected


def test_the_spread_of_returns_is_a_running_mean():
    returns = jnp.arange(101.0)
    assert running_spread(jnp.float32(0), returns) == 90
    np.testing.assert_allclose(running_spread(jnp.float32(10), returns), 0.99 * 10 + 0.9, rtol=1e-6)


# -- acting ------------------------------------------------------------------------------------------------------------


@each_agent
@each_world
def test_what_is_believed_while_acting_is_what_learning_unrolls(agent, world):
    """The memory after a few steps is the belief of the sequence, with the same observations, actions and noise."""
    state = dataclasses.replace(first_state(agent, world), clock=Clock(jnp.uint32(500), jnp.uint32(1000)))
    actor, networks, rng = agent.actor(state), state.world.networks, np.random.default_rng(0)
    space = adv.make(world).observation_space
    obs = rng.uniform(-1, 1, (4, 2, *space.shape)).astype(np.float32)
    memory = jax.tree.map(lambda x: jnp.broadcast_to(x, (2, *jnp.shape(x))), agent.initial_memory(actor))
    noise = agent.noise(actor, KEY, (4, 2))
    actions, memories = [], []
    for t in range(4):
        action, memory, _ = agent.act(actor, obs[t], memory, jax.tree.map(lambda x, t=t: x[t], noise))
        actions.append(action)
        memories.append(memory.belief if agent is DREAMER else memory.seen.belief)
    if agent is DREAMER:
        latent = noise[0]
    else:
        keys = jax.vmap(jax.vmap(lambda key: jax.random.split(key, 4)[0]))(jax.random.wrap_key_data(noise))
        latent = jax.vmap(jax.vmap(lambda key: networks.latent.noise(key, ())))(keys)
    first = jnp.arange(4)[:, None] + jnp.zeros((1, 2)) == 0
    before = jnp.stack([jnp.zeros_like(actions[0]), *actions[:3]])
    rows = Arrivals(jnp.asarray(obs), before, jnp.zeros((4, 2)), first, first, first)
    unrolled = networks.unroll(state.world.learned.params, rows, latent).belief
    for t in range(4):
        jax.tree.map(lambda a, b, t=t: np.testing.assert_allclose(a, b[t], atol=1e-4), memories[t], unrolled)


@each_agent
def test_actions_are_random_until_the_model_is_learned(agent):
    for name in WORLDS:
        state = first_state(agent, name)
        actor = agent.actor(state)
        memory = jax.tree.map(
            lambda x: jnp.broadcast_to(x, (300, *jnp.shape(x))), agent.initial_memory(actor)
        )
        obs = np.zeros((300, *adv.make(name).observation_space.shape), np.float32)
        noise = jax.tree.map(lambda x: x[0], agent.noise(actor, KEY, (1, 300)))
        action, _, _ = agent.act(actor, obs, memory, noise)
        mean, low = (0.5, 0) if "CartPole" in name else (0.0, -1)
        assert abs(np.asarray(action).mean() - mean) < 0.12 and np.asarray(action).min() >= low
        assert len(np.unique(np.asarray(action))) == (2 if "CartPole" in name else 300)


def test_planet_explores_around_its_plan():
    state = dataclasses.replace(first_state(PLANET), clock=Clock(jnp.uint32(500), jnp.uint32(1000)))
    actor = PLANET.actor(state)
    memory = jax.tree.map(lambda x: jnp.broadcast_to(x, (200, *jnp.shape(x))), PLANET.initial_memory(actor))
    noise = jax.tree.map(lambda x: x[0], PLANET.noise(actor, KEY, (1, 200)))
    obs = np.zeros((200, 3), np.float32)
    noisy, plain = (
        np.asarray(dataclasses.replace(PLANET, exploration=x).act(actor, obs, memory, noise)[0]) for x in (0.3, 0.0)
    )  # fmt: skip
    inside = np.abs(noisy) < 1
    difference = (noisy - plain)[inside]
    assert np.abs(plain).max() <= 1 and 0.15 < difference.std() < 0.45


@each_agent
def test_evaluation_is_deterministic_and_needs_no_noise(agent):
    state = first_state(agent)
    actor = agent.actor(state)
    memory = jax.tree.map(lambda x: jnp.broadcast_to(x, (1, *jnp.shape(x))), agent.initial_memory(actor))
    obs = np.array([[1.0, 0.0, 0.5]], np.float32)
    one, two = (agent.greedy(actor, obs, memory) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, one, two)
    seen = one[1] if agent is DREAMER else one[1].seen
    before = memory if agent is DREAMER else memory.seen
    jax.tree.map(np.testing.assert_array_equal, seen.belief, believed(state.world.model, obs, before, None))
    np.testing.assert_array_equal(seen.action, one[0])


# -- runs --------------------------------------------------------------------------------------------------------------


def train(algorithm, environment, out, **options):
    options = dict(total_timesteps=48, eval_episodes=0, tensorboard=False, num_envs=2) | options
    return adv.train(algorithm, environment, out=out, **options)


@each_agent
@pytest.mark.parametrize("environment", ["CartPole-v1", "jax/PendulumPixels-v0"])
def test_a_stopped_run_goes_on_to_the_same_numbers(agent, environment, tmp_path):
    whole = train(agent, environment, tmp_path / "whole", eval_episodes=1)
    train(agent, environment, tmp_path / "part", total_timesteps=24)
    part = adv.resume(tmp_path / "part", total_timesteps=48)
    same_bits(whole.agent.state.world.learned.params, part.agent.state.world.learned.params)
    assert int(whole.agent.state.world.gradient_steps) == 2 * 5  # of six rollouts the first is too early
    if agent is DREAMER:
        same_bits(whole.agent.state.params, part.agent.state.params)


CHANGES = {
    "both": [
        dict(gradient_steps=2), dict(batch_size=4), dict(sequence_length=4), dict(latent="normals"), dict(gamma=0.5),
        dict(latent_size=9), dict(latent_classes=2), dict(memory_size=5), dict(model_hidden=(7,)),
        dict(activation="tanh"), dict(model_learning_rate=1e-2), dict(max_grad_norm=1e-3), dict(kl_dynamics=0.3),
        dict(kl_representation=0.7), dict(free_nats=0.0), dict(symlog=False), dict(two_hot=False), dict(value_limit=6),
        dict(learning_starts=30), dict(action_units="raw"),
    ],
    "dreamer": [
        dict(horizon=4), dict(imagined_starts=5), dict(actor_gradient="score"), dict(gae_lambda=0.5),
        dict(ent_coef=0.1), dict(learning_rate=1e-2), dict(tau=0.5), dict(hidden=(7,)),
    ],
    "planet": [dict(exploration=0.8), dict(iterations=3), dict(candidates=6), dict(horizon=4)],
}  # fmt: skip
CASES = [(name, change) for name in AGENTS for change in [*CHANGES["both"], *CHANGES[name]]]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "change"), CASES, ids=str)
def test_every_option_makes_a_difference(name, change, tmp_path):
    found = []
    for algorithm in (AGENTS[name], dataclasses.replace(AGENTS[name], **change)):
        run = train(algorithm, "jax/Pendulum-v1", tmp_path / str(len(found)))
        leaves = jax.tree.leaves(
            (run.agent.state.world.learned.params, getattr(run.agent.state, "params", ()))
        )
        found.append(np.concatenate([np.ravel(x) for x in leaves]))
    assert found[0].shape != found[1].shape or (found[0] != found[1]).any()


@pytest.mark.slow
@pytest.mark.parametrize(("environment", "steps", "score"), [("jax/Pendulum-v1", 8_000, -250)])
def test_dreamer_learns(environment, steps, score, tmp_path):
    adv.train("dreamer", environment, out=tmp_path / "run", total_timesteps=steps, eval_episodes=0)
    assert adv.evaluate(tmp_path / "run", episodes=20).mean >= score


def test_an_actor_and_a_critic_without_hidden_layers():
    agent = dataclasses.replace(DREAMER, hidden=())
    state = jax.eval_shape(lambda: first_state(agent))
    assert [layer["weight"].shape for layer in state.params["actor"]] == [(DREAMER.memory_size + 6, 2)]
    jax.eval_shape(state.policy.distribution, state.params["actor"], jnp.ones((5, 12)))


def test_what_they_refuse():
    for agent in AGENTS.values():
        with pytest.raises(ValueError, match="latent_size=7 is no multiple of latent_classes=3; use 6"):
            dataclasses.replace(agent, latent_size=7)
        with pytest.raises(ValueError, match="has an action mask, which a latent model does not predict"):
            first_state(agent, "jax/TicTacToe-v0")
        with pytest.raises(
            ValueError, match="A planner chooses among Discrete actions, or within the bounds"
        ):
            first_state(agent, action_space=spaces.Box(-np.inf, np.inf, (1,), np.float32))
        with pytest.raises(ValueError, match=r"model_hidden=\(\) is not allowed.*such as \(128,\)"):
            first_state(dataclasses.replace(agent, model_hidden=()))
    with pytest.raises(ValueError, match="actor_gradient=pathwise needs a Box.*use score"):
        first_state(dataclasses.replace(DREAMER, actor_gradient="pathwise"), "jax/CartPole-v1")
    with pytest.raises(ValueError, match="elites=9 is above candidates=5"):
        dataclasses.replace(PLANET, elites=9)
