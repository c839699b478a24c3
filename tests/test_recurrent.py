"""Policies with memory: when it begins, when it is forgotten, and what learns from it."""

import dataclasses
import functools

import equinox as eqx
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import advantage as adv
from advantage.algorithms.policy_gradient.shared.experience import experience
from advantage.drivers.device import rollout_on_device, start
from advantage.environments.worlds.cartpole import CartPole
from advantage.policies.recurrent import GRU, LSTM, Recurrent
from advantage.types import Rollout, Spec

QUIET = {"eval_episodes": 0, "tensorboard": False}
SMALL = {"network": "gru", "hidden": (8, 4), "normalize_observation": False, "normalize_reward": False}
METHODS = {
    "ppo": adv.PPO(n_steps=16, batch_size=16, n_epochs=2, memory_span=6, **SMALL),
    "a2c": adv.A2C(n_steps=8, **SMALL),
    "reinforce": adv.Reinforce(n_steps=16, critic_epochs=2, **SMALL),
    "vpg": adv.VPG(n_steps=16, critic_epochs=2, **SMALL),
    "trpo": adv.TRPO(n_steps=16, critic_epochs=2, critic_batch_size=16, **SMALL),
    "npg": adv.NPG(n_steps=16, critic_epochs=2, critic_batch_size=16, **SMALL),
    "impala": adv.Impala(n_steps=8, **SMALL),
}


@dataclasses.dataclass(frozen=True)
class Short:
    """CartPole whose clock ends an episode after seven steps."""

    world: CartPole = CartPole()
    max_episode_steps: int = 7
    gymnasium_id: None = None

    @property
    def observation_space(self):
        return self.world.observation_space

    @property
    def action_space(self):
        return self.world.action_space

    def reset(self, key):
        return self.world.reset(key)

    def step(self, state, action, key):
        return self.world.step(state, action, key)


class Ends(gymnasium.Env):
    """Episodes of one to five steps, drawn when they begin, half of them cut by a clock."""

    observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.start = 0, self.np_random.normal()
        self.length, self.is_cut = self.np_random.integers(1, 6), bool(self.np_random.integers(2))
        return self._obs(), {}

    def step(self, action):
        self.t += 1
        ended = bool(self.t >= self.length)
        return self._obs(), float(action), ended and not self.is_cut, ended and self.is_cut, {}

    def _obs(self):
        return np.array([self.t, self.start, np.sin(self.t)], np.float32)


def first(algorithm, world, num_envs):
    spec = Spec(world.observation_space, world.action_space, num_envs, 10_000)
    return algorithm.init(jax.random.key(1), spec)


def played(algorithm, world=Short(), num_envs=3, n_steps=24):
    """A rollout on the device that begins after another one, so that memories are under way: `-> state, rollout`."""
    state = first(algorithm, world, num_envs)

    @jax.jit
    def play(state, keys):
        actor = algorithm.actor(state)
        worlds, rollout = start(world, keys[0], num_envs, algorithm.initial_memory(actor)), None
        for n in (1, 2):
            noise = algorithm.noise(actor, jax.random.fold_in(keys[1], n), (n_steps, num_envs))
            key = jax.random.fold_in(keys[2], n)
            worlds, rollout = rollout_on_device(algorithm, world, actor, worlds, noise, key)
        return rollout

    return state, jax.device_get(play(state, jax.random.split(jax.random.key(2), 3)))


def alone(network, params, x, begins, memory):
    """The features of one environment's steps, one after the other: `[T, k]`."""
    features = []
    for t in range(len(begins)):
        if begins[t]:
            memory = jax.tree.map(lambda leaf: leaf[None], network.initial())
        out, memory = network.apply(params, x[t][None], memory)
        features.append(out[0])
    return np.stack(features)


@pytest.mark.parametrize("kind", [GRU, LSTM])
def test_a_span_says_how_long_units_remember_at_first(kind):
    """Without other input a unit keeps the share u / (1 + u) of its memory, u from 1 to span - 1."""
    x, memory = np.zeros((1, 2), np.float32), np.full((1, 500), 0.5, np.float32)
    cell = kind(500, span=30)
    params = jax.tree.map(np.asarray, cell.init(jax.random.key(0), x))
    weights = {"weight": np.zeros_like(params["input"]["weight"])}
    quiet = {"input": params["input"] | weights, "memory": jax.tree.map(np.zeros_like, params["memory"])}
    after = cell.apply(quiet, x, memory if kind is GRU else (memory, memory))[1]
    kept = (after if kind is GRU else after[1]) / 0.5
    u = kept / (1 - kept)
    assert 0.99 < u.min() < 1.5 and 28 < u.max() < 29.01 and abs(u.mean() - 15) < 1.5
    if kind is LSTM:  # what keeps much takes little
        bias = params["input"]["bias"]
        np.testing.assert_array_equal(bias[:500], -bias[500:1000])
    plain = kind(500).init(jax.random.key(0), x)
    np.testing.assert_array_equal(plain["input"]["weight"], params["input"]["weight"])
    assert not np.array_equal(plain["input"]["bias"], params["input"]["bias"])


@pytest.mark.parametrize("cell", [GRU(4), LSTM(4)])
def test_a_sequence_is_its_episodes_one_after_the_other_and_each_alone(cell):
    network, rng = Recurrent(cell), np.random.default_rng(0)
    x = rng.normal(size=(20, 3, 2)).astype(np.float32)
    begins = rng.random((20, 3)) < 0.3
    params = network.init(jax.random.key(0), x[0])
    memory = jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), network.initial())
    found = network.unroll(params, x, jnp.asarray(begins), memory)
    for env in range(3):
        own = jax.tree.map(lambda leaf: leaf[env : env + 1], memory)  # noqa: B023
        expected = alone(network, params, x[:, env], begins[:, env], own)
        np.testing.assert_allclose(found.features[:, env], expected, atol=1e-5)
    poisoned = x.copy()
    poisoned[:, 1] = 100.0
    other = network.unroll(params, poisoned, jnp.asarray(begins), memory).features
    np.testing.assert_array_equal(other[:, [0, 2]], found.features[:, [0, 2]])
    early = np.flatnonzero(begins[:, 0])[-1]
    poisoned = x.copy()
    poisoned[:early, 0] = 100.0
    other = network.unroll(params, poisoned, jnp.asarray(begins), memory).features
    np.testing.assert_array_equal(other[early:, 0], found.features[early:, 0])

    def late(first_rows):
        rows = jnp.concatenate([first_rows, x[early:]])
        return network.unroll(params, rows, jnp.asarray(begins), memory).features[early:, 0].sum()

    assert not np.asarray(jax.grad(late)(jnp.asarray(x[:early])))[:, 0].any()


def test_the_cells_are_their_equations():
    rng = np.random.default_rng(0)
    x, h, c = (rng.normal(size=(5, 4)).astype(np.float32) for _ in range(3))
    sigmoid = lambda a: 1 / (1 + np.exp(-a))  # noqa: E731
    params = jax.device_get(GRU(4).init(jax.random.key(0), x))
    given, kept = x @ params["input"]["weight"], h @ params["memory"]["weight"]
    r, z = sigmoid(given[:, :4] + kept[:, :4]), sigmoid(given[:, 4:8] + kept[:, 4:8])
    n = np.tanh(given[:, 8:] + r * kept[:, 8:])
    np.testing.assert_allclose(GRU(4).apply(params, x, h)[0], (1 - z) * n + z * h, atol=1e-5)
    params = jax.device_get(LSTM(4).init(jax.random.key(0), x))
    gates = x @ params["input"]["weight"] + h @ params["memory"]["weight"]
    i, f, o = sigmoid(gates[:, :4]), sigmoid(gates[:, 4:8] + 1), sigmoid(gates[:, 8:12])
    after = f * c + i * np.tanh(gates[:, 12:])
    out, (_, cell) = LSTM(4).apply(params, x, (h, c))
    np.testing.assert_allclose(cell, after, atol=1e-5)
    np.testing.assert_allclose(out, o * np.tanh(after), atol=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_the_first_ratio_is_one_and_values_see_the_memory_after_their_step(name):
    algorithm = METHODS[name]
    state, rollout = played(algorithm)
    seen = jax.device_get(jax.jit(functools.partial(experience, algorithm))(state, rollout))
    actor = algorithm.actor(state)
    actor = getattr(actor, "newest", actor)
    done = rollout.terminated | rollout.truncated
    assert done.any() and np.abs(rollout.memory).max() > 0
    memory, initial = jnp.asarray(rollout.memory), algorithm.initial_memory(algorithm.actor(state))
    for t in range(len(done)):
        distribution, memory = actor.step(rollout.obs[t], memory)
        expected = distribution.log_prob(rollout.action[t])
        np.testing.assert_allclose(seen.log_prob[t], expected, atol=2e-5)
        memory = jnp.where(done[t][:, None], initial, memory)
    going = ~done[:-1]
    np.testing.assert_allclose(seen.next_value[:-1][going], seen.value[1:][going], atol=1e-5)
    assert (np.abs(seen.next_value[:-1] - seen.value[1:])[done[:-1]] > 1e-6).any()


@pytest.mark.parametrize(
    "algorithm",
    [
        adv.VPG(critic="none", weight="reward-to-go", n_steps=6, **SMALL),
        adv.Reinforce(baseline="none", n_steps=6, **SMALL),
        adv.Reinforce(baseline="mean", n_steps=6, **SMALL | {"network": "lstm"}),
        adv.OffPolicyPG(baseline="none", n_steps=6, **SMALL),
    ],
    ids=["vpg", "reinforce", "reinforce mean", "off-policy-pg"],
)
def test_memory_without_a_critic(algorithm):
    """The actor alone is unrolled, and there are no values."""

    def learned(key):
        state = first(algorithm, Short(), 2)
        memory = jax.tree.map(lambda x: jnp.stack([x] * 2), algorithm.initial_memory(algorithm.actor(state)))
        obs, no = jnp.ones((6, 2, 4)), jnp.zeros((6, 2), bool)
        rollout = Rollout(obs, jnp.zeros((6, 2), jnp.int32), jnp.zeros((6, 2)), obs, no, no, memory=memory)
        return experience(algorithm, state, rollout), algorithm.update(state, rollout, key)

    if algorithm.network != "lstm":
        jax.eval_shape(learned, jax.random.key(0))
        return
    seen, (state, _) = jax.jit(learned)(jax.random.key(0))
    assert not seen.value.any() and not seen.next_value.any()
    assert seen.critic_memory == () == state.critic_memory and set(state.params) == {"actor"}
    assert np.isfinite(seen.log_prob).all()


@pytest.mark.parametrize("name", METHODS)
def test_every_method_learns_on_both_drivers_and_resumes_in_the_middle_of_an_episode(name, tmp_path):
    algorithm = METHODS[name]
    for environment in ("jax/CartPole-v1", Ends):
        options = dict(num_envs=2, eval_environment=environment, **QUIET)
        whole = adv.train(algorithm, environment, total_timesteps=128, out=tmp_path / "a", **options)
        adv.train(
            algorithm,
            environment,
            total_timesteps=128,
            out=tmp_path / "b",
            callback=lambda progress: progress.step < 64,
            **options,
        )
        named = {} if isinstance(environment, str) else {"environment": environment}
        resumed = adv.resume(tmp_path / "b", **named)
        for a, b in zip(*(jax.tree.leaves(run.agent.state) for run in (whole, resumed)), strict=True):
            np.testing.assert_array_equal(a, b)
        for path in ("a", "b"):
            (tmp_path / path).rename(
                tmp_path
                / f"{path}_{environment if isinstance(environment, str) else 'host'}".replace("/", "_")
            )


def test_workers_change_nothing(tmp_path):
    runs = [
        adv.train(
            METHODS["ppo"], Ends, num_envs=3, total_timesteps=144, workers=n, out=tmp_path / str(n), **QUIET
        )
        for n in (0, 2)
    ]
    for a, b in zip(*(jax.tree.leaves(run.agent.state) for run in runs), strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_agent_acts_with_its_memory_or_says_that_it_needs_it(tmp_path):
    agent = adv.train(
        METHODS["ppo"], "jax/CartPole-v1", total_timesteps=32, num_envs=2, out=tmp_path / "a", **QUIET
    ).agent
    obs = np.array([0.1, 0.0, 0.05, 0.0], np.float32)
    with pytest.raises(ValueError, match=r"memory = agent\.initial_memory\(\)"):
        agent.act(obs)
    agent.initial_memory()[...] = 1  # it is the caller's own
    memory = agent.initial_memory()
    assert not memory.any()
    action, after = agent.act(obs, memory=memory)
    assert agent.spec.action_space.contains(action) and np.abs(after - memory).max() > 0
    assert adv.evaluate(agent, "jax/CartPole-v1", episodes=2).lengths.min() > 0
    assert adv.evaluate(agent, "CartPole-v1", episodes=2).lengths.min() > 0


def test_shorter_sequences_begin_with_the_memory_that_was_there():
    algorithm = adv.PPO(n_steps=24, batch_size=12, sequence_length=6, **SMALL)
    state, rollout = played(algorithm)
    seen = jax.jit(lambda s, r: (lambda e: (e.x, e.samples(e.log_prob)[0]))(experience(algorithm, s, r)))
    x, log_prob = seen(state, rollout)
    (action,) = experience(algorithm, state, rollout).samples(rollout.action)
    found = state.policy.distribution(state.params["actor"], x).log_prob(action)
    assert x.begins.shape == (6, 12)
    np.testing.assert_allclose(found, log_prob, atol=1e-5)
    whole = dataclasses.replace(algorithm, sequence_length=24, batch_size=72)
    cut = dataclasses.replace(whole, sequence_length=6)
    after = [jax.jit(a.update)(state, rollout, jax.random.key(0))[0].params for a in (whole, cut)]
    pairs = zip(*map(jax.tree.leaves, after), strict=True)
    gaps = [np.abs(a - b).max() for a, b in pairs if a.size]
    assert max(gaps) > 1e-6  # a gradient that is cut is another one


def test_a_network_without_recurrence_is_the_feed_forward_one():
    weight = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    init = lambda key, x: {"weight": jnp.asarray(weight)}  # noqa: E731
    plain = (init, lambda params, x: jnp.tanh(x @ params["weight"]))
    remembering = (
        init,
        lambda params, x, memory: (jnp.tanh(x @ params["weight"]), memory),
        lambda: jnp.zeros(2),
    )
    after = []
    for network in (plain, remembering):
        algorithm = adv.A2C(n_steps=24, **SMALL | {"network": network})
        state, rollout = played(algorithm)
        learned, _ = jax.jit(algorithm.update)(state, rollout, jax.random.key(0))
        after.append((rollout.action, learned.params))
    (one, p), (other, q) = after
    np.testing.assert_array_equal(one, other)
    for a, b in zip(jax.tree.leaves(p["actor"]["head"]), jax.tree.leaves(q["actor"]["head"]), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize(
    ("algorithm", "parts"),
    [
        (adv.OffPolicyActorCritic(network="gru"), ("recurrent", "ppo, trpo", "frame_stack")),
        (adv.PPO(network="gru", sequence_length=48), ("sequence_length=48", "does not divide", "n_steps")),
        (adv.PPO(sequence_length=64), ("sequence_length=64", "network='gru'")),
        (adv.PPO(memory_span=64), ("memory_span=64", "network='gru'")),
        (adv.PPO(network="gru", hidden=()), ("network='gru'", "hidden")),
        (
            adv.PPO(
                network=(
                    lambda key, x: {},
                    lambda params, x, memory: (x, (memory, memory)),
                    lambda: jnp.zeros(2),
                )
            ),
            ("memory", "same structure"),
        ),
    ],
)
def test_what_cannot_be_is_told_before_training(algorithm, parts, tmp_path):
    with pytest.raises(ValueError) as error:
        adv.train(algorithm, "jax/CartPole-v1", total_timesteps=4096, out=tmp_path / "run", **QUIET)
    for part in parts:
        assert part in str(error.value)
    assert not (tmp_path / "run").exists()


def test_sequences_that_cut_no_gradient_learn_what_whole_ones_do():
    """Each episode has six steps, and each sequence begins with one."""
    after = []
    for length in (24, 6):
        algorithm = adv.PPO(n_steps=24, batch_size=72, sequence_length=length, **SMALL)
        state, rollout = played(algorithm, Short(max_episode_steps=6))
        assert (rollout.truncated | rollout.terminated)[5::6].all()
        after.append(jax.jit(algorithm.update)(state, rollout, jax.random.key(0))[0].params)
    for a, b in zip(*map(jax.tree.leaves, after), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


@pytest.mark.parametrize("name", METHODS)
def test_one_seed_alone_and_among_others(name, tmp_path):
    options = dict(num_envs=2, total_timesteps=64, **QUIET)
    several = adv.train(METHODS[name], "jax/CartPole-v1", num_seeds=2, out=tmp_path / "a", **options)
    alone = adv.train(METHODS[name], "jax/CartPole-v1", seed=1, out=tmp_path / "b", **options)
    for a, b in zip(*(jax.tree.leaves(run.agent.state) for run in (several[1], alone)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_vector_environments_forget_when_their_episodes_end(tmp_path):
    """In each autoreset mode, as when the environments are stepped one by one."""
    options = dict(total_timesteps=144, **QUIET)
    plain = adv.train(METHODS["ppo"], Ends, num_envs=3, workers=0, out=tmp_path / "plain", **options)
    for mode in AutoresetMode:
        envs = SyncVectorEnv([Ends] * 3, autoreset_mode=mode)
        run = adv.train(METHODS["ppo"], envs, out=tmp_path / mode.name, **options)
        same = [
            np.array_equal(a, b)
            for a, b in zip(*(jax.tree.leaves(r.agent.state) for r in (plain, run)), strict=True)
        ]
        assert all(same) or mode is AutoresetMode.SAME_STEP  # which draws its episodes' seeds itself
        assert np.isfinite(run.agent.state.params["actor"]["head"]["bias"]).all()


class LinenGRU(linen.Module):
    """Flax's own cell, which takes its memory first and returns it first."""

    @linen.compact
    def __call__(self, x, memory):
        memory, features = linen.GRUCell(5)(memory, x)
        return features, memory


class NNXLSTM(nnx.Module):
    def __init__(self, rngs, x):
        self.cell = nnx.OptimizedLSTMCell(x.shape[-1], 5, rngs=rngs)

    def __call__(self, x, memory):
        memory, features = self.cell(memory, x)
        return features, memory


class EquinoxGRU(eqx.Module):
    cell: eqx.nn.GRUCell

    def __init__(self, key, x):
        self.cell = eqx.nn.GRUCell(x.size, 5, key=key)

    def __call__(self, x, memory):
        memory = self.cell(x, memory)
        return memory, memory


class Forgets(EquinoxGRU):
    def __call__(self, x, memory):
        return self.cell(x, memory)


LIBRARY = {
    "linen": lambda: adv.from_flax(LinenGRU(), initial=zeros),
    "nnx": lambda: adv.from_flax(NNXLSTM, initial=two_zeros),
    "equinox": lambda: adv.from_equinox(lambda key, x: EquinoxGRU(key, x), initial=zeros),
}


def zeros():
    return jnp.zeros(5)


def two_zeros():
    return zeros(), zeros()


@pytest.mark.parametrize("name", LIBRARY)
def test_networks_of_other_libraries_remember(name, tmp_path):
    """On both drivers, in a resumed run, and in a sequence as step by step."""
    algorithm = adv.PPO(n_steps=16, batch_size=16, n_epochs=2, **SMALL | {"network": LIBRARY[name]()})
    for environment in ("jax/CartPole-v1", "CartPole-v1"):
        options = dict(num_envs=2, out=tmp_path / environment.replace("/", "_"), **QUIET)
        run = adv.train(algorithm, environment, total_timesteps=64, **options)
        run = adv.resume(run.path, total_timesteps=96, algorithm=algorithm)
        agent = adv.load(run.path, algorithm=algorithm)
        _, after = agent.act(np.full(4, 0.1, np.float32), memory=agent.initial_memory())
        assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(after))
        assert adv.evaluate(agent, environment, episodes=2).lengths.min() > 0
    state, rollout = played(algorithm)
    seen = jax.device_get(jax.jit(functools.partial(experience, algorithm))(state, rollout))
    distribution, _ = algorithm.actor(state).step(rollout.obs[0], rollout.memory)
    np.testing.assert_allclose(seen.log_prob[0], distribution.log_prob(rollout.action[0]), atol=2e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: adv.from_flax(linen.Dense(5), initial=zeros),
            r"module\(x, memory\) with a memory of \[1, 5\]",
        ),
        (
            lambda: adv.from_equinox(Forgets, initial=zeros),
            "must return a tuple of two, features and the next memory",
        ),
    ],
)
def test_a_module_that_is_no_recurrent_one_is_refused(make, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        adv.train(
            adv.PPO(network=make()), "jax/CartPole-v1", total_timesteps=2048, out=tmp_path / "a", **QUIET
        )
