"""Deep recurrent Q-learning: its targets and gradients against definitions, step by step, and the promises."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from probe_learners import (
    CONTINUOUS,
    WORLD,
    a_stopped_run_goes_on_bit_for_bit,
    begin,
    both_drivers_and_every_seed_learn_the_same,
    differs,
    learn,
    on_host,
    play,
    same_bits,
    seeds_side_by_side_are_each_alone,
    update,
)

import advantage as adv
from advantage.algorithms.value.drqn import DRQN, memory_batch, values_after_burn_in
from advantage.algorithms.value.shared.gradient_steps import Learning
from advantage.replay.ring import replay_add, uniform_draw

BASE = dict(
    n_steps=4,
    hidden=(8, 4),
    gradient_steps=3,
    batch_size=4,
    replay_length=3,
    burn_in=2,
    buffer_size=64,
    learning_starts=0,
    target_update_interval=5,
    learning_rate=3e-2,
)


def tiny(**changes):
    return DRQN(**{**BASE, **changes})


@functools.cache
def course(algorithm, updates=4):
    """The state after some updates."""
    return learn(algorithm, begin(algorithm), updates)[0][-1]


class Replayed:
    """A buffer after some rollouts, sequences drawn from it, and networks other than the one that acted."""

    def __init__(self, algorithm, *, num_envs, rollouts):
        self.algorithm, self.head = algorithm, sum(rollouts)
        self.state = begin(algorithm, num_envs=num_envs)
        self.facts = play(algorithm, self.state, 0, self.head)
        replay, start = self.state.replay, 0
        for steps in rollouts:
            piece = jax.tree.map(lambda x, a=start, b=start + steps: x[a:b], self.facts)
            replay, start = replay_add(replay, piece), start + steps
        rng = np.random.default_rng(1)
        moved = [
            jax.tree.map(lambda x: x + np.float32(0.3 * rng.normal(size=x.shape)), self.state.params)
            for _ in range(2)
        ]
        self.learning = Learning(moved[0], (), moved[1], jnp.uint32(0))
        self.network, key = algorithm._network(self.state.policy), jax.random.key(3)
        self.batch = jax.jit(memory_batch)(algorithm, self.state, replay, key)
        with jax.debug_key_reuse(False):  # the same draw again
            drawn = np.asarray(uniform_draw(replay, key, algorithm.batch_size))
        self.begun = list(zip(int(replay.oldest) + drawn // num_envs, drawn % num_envs, strict=True))

    def walked(self, params, row, env):
        """`-> Q(h_t, .), Q(h_{t+1}, .)` of each step of one sequence, one step at a time."""
        memory = jax.tree.map(lambda x: jnp.asarray(x[row, env])[None], self.facts.extras)
        here, there = [], []
        for t in range(row, min(row + self.algorithm.burn_in + self.algorithm.replay_length, self.head)):
            if t > row and (self.facts.terminated[t - 1, env] or self.facts.truncated[t - 1, env]):
                memory = jax.tree.map(lambda x: x[None], self.network.initial_memory())
            z, memory = step(self.network, params, self.facts.obs[t, env][None], memory)
            following, _ = step(self.network, params, self.facts.next_obs[t, env][None], memory)
            here.append(z[0, :, 0])
            there.append(following[0, :, 0])
        return np.array(here, np.float64), np.array(there, np.float64)

    def definition(self):
        """`y_t` of each step that is learned from, by sums over rewards; NaN where a sequence has no step."""
        algorithm, facts = self.algorithm, self.facts
        result = np.full((algorithm.replay_length, algorithm.batch_size), np.nan)
        for i, (row, env) in enumerate(self.begun):
            _, chosen = self.walked(
                self.learning.params if algorithm.double else self.learning.target, row, env
            )
            _, judged = self.walked(self.learning.target, row, env)
            for t in range(row + algorithm.burn_in, row + len(judged)):
                total, k = 0.0, t
                while True:
                    total += algorithm.gamma ** (k - t) * facts.reward[k, env]
                    last = k == min(t + algorithm.n, row + len(judged)) - 1
                    if last or facts.terminated[k, env] or facts.truncated[k, env]:
                        break
                    k += 1
                if not facts.terminated[k, env]:
                    total += algorithm.gamma ** (k - t + 1) * judged[k - row][chosen[k - row].argmax()]
                result[t - row - algorithm.burn_in, i] = total
        return result


@functools.partial(jax.jit, static_argnums=0)
def step(network, params, x, memory):
    return network.step(params, x, memory)


SIZES = {
    "the newest step inside": dict(num_envs=3, buffer_size=60, rollouts=[7, 3]),
    "a full buffer": dict(num_envs=6, buffer_size=48, rollouts=[4, 4]),
    "a wrapped write head": dict(num_envs=3, buffer_size=36, rollouts=[5, 5, 7]),
}
SWITCHES = [
    ("the newest step inside", {}),
    ("the newest step inside", {"network": "lstm", "n": 3}),
    ("a full buffer", {"double": False}),
    ("a wrapped write head", {"n": 3}),
]


@pytest.mark.parametrize(("case", "switches"), SWITCHES)
def test_targets_are_those_of_the_definition(case, switches):
    sizes = dict(SIZES[case])
    algorithm = tiny(
        buffer_size=sizes.pop("buffer_size"), replay_length=4, batch_size=24, gamma=0.9, **switches
    )
    replayed = Replayed(algorithm, **sizes)
    expected, there = replayed.definition(), np.asarray(replayed.batch.mask)[algorithm.burn_in :]
    np.testing.assert_array_equal(there, np.isfinite(expected))
    if "newest" in case:
        assert not there.all() and there.any()
    target = jax.jit(lambda learning, batch: algorithm._target(replayed.network, learning, batch))
    found = np.asarray(target(replayed.learning, replayed.batch))
    np.testing.assert_allclose(found[there], expected[there], rtol=1e-4, atol=1e-4)
    facts = replayed.facts
    cut = [  # a step that is learned from, whose episode is cut off, and that another one follows
        facts.truncated[t, env] and not facts.terminated[t, env]
        for row, env in replayed.begun
        for t in range(row + 2, min(row + 5, replayed.head - 1))
    ]
    assert any(cut) and facts.terminated.any()


def test_values_are_those_of_walking_and_no_gradient_goes_through_the_burn_in():
    """The gradient is that of walking on from the memory after the burn-in, as if it were given."""
    algorithm = tiny(batch_size=6, replay_length=3, burn_in=3)
    replayed = Replayed(algorithm, num_envs=2, rollouts=[12])
    network, batch, params = replayed.network, replayed.batch, replayed.learning.params
    assert np.asarray(batch.begins)[1:4].any() and np.asarray(batch.begins)[4:].any()
    found, _ = values_after_burn_in(network, params, batch, algorithm.burn_in)
    for i, (row, env) in enumerate(replayed.begun):
        walked, _ = replayed.walked(params, row, env)
        np.testing.assert_allclose(found[: len(walked) - 3, i], walked[3:], rtol=1e-4, atol=1e-5)

    def total(params, burn_in, batch):
        return (values_after_burn_in(network, params, batch, burn_in)[0] ** 2).sum()

    _, renewed = network.unroll(params, batch.x[:3], batch.begins[:3], batch.memory)
    late = jax.tree.map(lambda leaf: leaf[3:], batch._replace(memory=()))
    late = late._replace(memory=jax.tree.map(lambda leaf: leaf[-1], renewed))
    cut, given = (jax.grad(total)(params, *arguments) for arguments in ((3, batch), (0, late)))
    assert not differs(cut, given, 1e-3)
    whole = jax.grad(lambda params: (values_after_burn_in(network, params, batch, 0)[0][3:] ** 2).sum())(
        params
    )
    assert differs(cut, whole, 1e-3)


def test_a_gradient_step_goes_down_the_mean_huber_loss_of_the_steps_there_are():
    """The first step of Adam has the size of the learning rate, and here the sign of minus the gradient by a bias."""
    algorithm = tiny(gradient_steps=1, n_steps=12, batch_size=16, gamma=0.9, max_grad_norm=None)
    state, key = begin(algorithm, num_envs=1), jax.random.key(5)
    rollout = play(algorithm, state, 3)
    after, metrics = update(algorithm, state, rollout, key)
    replay, network = replay_add(state.replay, rollout), algorithm._network(state.policy)
    batch = memory_batch(algorithm, state, replay, jax.random.fold_in(key, 0))
    learning = Learning(state.params, (), state.target, jnp.uint32(0))
    error = np.float64(algorithm._target(network, learning, batch))
    values = np.float64(values_after_burn_in(network, state.params, batch, algorithm.burn_in)[0])
    there, action = (np.asarray(x)[algorithm.burn_in :] for x in (batch.mask, batch.action))
    losses, slope, steps = 0.0, np.zeros(3), 0
    for t, i in np.argwhere(there):
        e = error[t, i] - values[t, i, action[t, i]]
        losses += e * e / 2 if abs(e) <= 1 else abs(e) - 0.5
        slope[action[t, i]] -= np.clip(e, -1, 1)
        steps += 1
    assert 0 < steps < there.size
    np.testing.assert_allclose(metrics["action_value_loss"].total, losses / steps, rtol=1e-4)
    moved = np.asarray(after.params["advantage"]["bias"] - state.params["advantage"]["bias"])
    assert (slope != 0).sum() >= 2
    np.testing.assert_allclose(moved, -3e-2 * np.sign(slope), rtol=1e-3, atol=1e-7)


def test_the_memory_that_is_stored_is_the_one_that_acted():
    """On the device, in a world with ends: that of playing each episode alone, from the initial one."""
    from advantage.drivers.device import rollout_on_device, start

    algorithm = tiny(n_steps=30)
    spec = adv.Spec(WORLD.observation_space, WORLD.action_space, 2, 60)
    state = algorithm.init(jax.random.key(0), spec)
    actor, key = algorithm.actor(state), jax.random.key(1)
    worlds = start(WORLD, key, 2, algorithm.initial_memory(actor))
    noise = algorithm.noise(actor, key, (30, 2))
    _, rollout = jax.jit(functools.partial(rollout_on_device, algorithm, WORLD))(actor, worlds, noise, key)
    stored = replay_add(state.replay, rollout).extras
    x = np.eye(8, dtype=np.float32)[np.asarray(rollout.obs)]
    done = np.asarray(rollout.terminated | rollout.truncated)
    assert done.any()
    for env in range(2):
        memory = actor.network.initial_memory()
        for t in range(30):
            np.testing.assert_allclose(stored[t, env], memory, atol=1e-6)
            _, after = actor.network.step(state.params, x[t, env][None], memory[None])
            memory = actor.network.initial_memory() if done[t, env] else after[0]


def test_what_came_before_an_end_does_not_reach_the_steps_after_it():
    replayed = Replayed(tiny(batch_size=16, replay_length=6, burn_in=0), num_envs=2, rollouts=[14])
    batch, network, params = replayed.batch, replayed.network, replayed.learning.params
    begins = np.asarray(batch.begins)
    place, column = np.argwhere(begins)[0]
    poisoned = batch._replace(x=batch.x.at[place - 1, column].set(1e6))
    clean, spoilt = (np.asarray(values_after_burn_in(network, params, b, 0)[0]) for b in (batch, poisoned))
    assert differs(clean[place - 1, column], spoilt[place - 1, column])
    np.testing.assert_array_equal(clean[place:, column], spoilt[place:, column])


def ignores_its_memory():
    def init(key, x):
        return {"weight": jax.random.normal(key, (x.shape[-1], 5))}

    def apply(params, x, memory):
        return x @ params["weight"], memory

    return init, apply, lambda: jnp.zeros(2)


def test_without_use_of_the_memory_it_has_the_targets_of_dqn():
    algorithm = tiny(network=ignores_its_memory(), burn_in=0, n=1, gamma=0.9, batch_size=12)
    replayed = Replayed(algorithm, num_envs=2, rollouts=[12])
    batch, (online, target) = replayed.batch, (replayed.learning.params, replayed.learning.target)
    here = adv.DQN(hidden=(), double=True, learning_starts=0)
    plain = here._network(begin(here).policy)
    outputs = {}
    for name, params in (("online", online), ("target", target)):
        folded = {
            name: params["network"]["cell"]["weight"] @ value if name == "weight" else value
            for name, value in params["advantage"].items()
        }
        empty = begin(here).params["network"]
        outputs[name] = plain.outputs({"network": empty, "advantage": folded}, batch.next_x)[..., 0]
    best = np.asarray(outputs["online"]).argmax(-1)
    judged = np.take_along_axis(np.asarray(outputs["target"]), best[..., None], -1)[..., 0]
    expected = np.asarray(batch.reward + batch.discount * judged)
    found = np.asarray(algorithm._target(replayed.network, replayed.learning, batch))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_steps_that_a_sequence_lacks_count_nothing():
    """Two steps of each environment are stored: longer sequences learn from them what short ones do."""
    learned = []
    for length in (2, 9):
        algorithm = tiny(replay_length=length, burn_in=0, n_steps=2, batch_size=64, gradient_steps=1)
        state = begin(algorithm)
        learned.append(update(algorithm, state, play(algorithm, state, 0), jax.random.key(0))[0].params)
    assert not differs(*learned, 1e-5)
    assert differs(learned[0], state.params, 1e-4)


def test_nothing_is_learned_from_sequences_that_end_in_the_burn_in():
    algorithm = tiny(burn_in=9, n_steps=2, replay_length=1)
    state = begin(algorithm)
    after, metrics = update(algorithm, state, play(algorithm, state, 0), jax.random.key(0))
    same_bits(after.params, state.params)
    assert float(metrics["action_value_loss"].total) == 0 and int(after.gradient_steps) > 0


OPTIONS = dict(
    network="lstm",
    memory_span=9,
    double=False,
    dueling=True,
    replay_length=5,
    burn_in=0,
    target_update_interval=1,
    tau=0.5,
    max_grad_norm=1e-3,
    gradient_steps=1,
    batch_size=9,
    buffer_size=12,
    learning_starts=24,
    learning_rate=1e-2,
    gamma=0.5,
    n=2,
    epsilon=1.0,
    epsilon_start=0.0,
    epsilon_fraction=1.0,
    hidden=(4,),
    activation="tanh",
    initialisation="normal",
    normalize_observation=True,
    normalize_reward=True,
)


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_of_learning_makes_a_difference(name):
    beside: dict = {}
    if name == "double":  # with a target that stays behind
        beside = {"target_update_interval": 500, "gradient_steps": 40}
    changed = course(tiny(**beside | {name: OPTIONS[name]}))
    assert differs(changed.params, course(tiny(**beside)).params, 1e-6)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match=r"DRQN needs Discrete actions.*use ppo with network='gru'"):
        begin(tiny(), CONTINUOUS)
    with pytest.raises(ValueError, match=r"network=None has no memory.*use dqn, or network='gru'"):
        begin(tiny(network=None))
    with pytest.raises(ValueError, match=r"burn_in \+ replay_length = 9 is longer than the 8 steps .* of 2"):
        begin(tiny(replay_length=6, burn_in=3, buffer_size=17))
    begin(tiny(replay_length=6, burn_in=2, buffer_size=17))
    with pytest.raises(ValueError, match=r"n=4 is above replay_length=3"):
        tiny(n=4)
    with pytest.raises(ValueError, match=r"learning_starts=500 is above total_timesteps=160"):
        begin(tiny(learning_starts=500))
    with pytest.raises(ValueError, match=r"'r2d2'.*use drqn"):
        adv.train("r2d2", "CartPole-v1")


def test_seeds_side_by_side_are_each_alone():
    seeds_side_by_side_are_each_alone(tiny(), spaces.Discrete(3))


def test_both_drivers_and_every_seed_learn_the_same(tmp_path):
    both_drivers_and_every_seed_learn_the_same(tiny(learning_rate=1e-2), tmp_path)


@pytest.mark.parametrize("environment", [on_host, WORLD], ids=["host", "device"])
def test_a_stopped_run_goes_on_to_the_same_numbers_its_buffer_included(tmp_path, environment):
    a_stopped_run_goes_on_bit_for_bit(tiny(), environment, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_it_learns_where_velocities_are_hidden(tmp_path):
    chosen = adv.preset("drqn", "StatelessCartPole-v1")
    run = adv.train(
        chosen.algorithm,
        "jax/StatelessCartPole-v1",
        out=tmp_path / "run",
        eval_episodes=100,
        **chosen.options,
    )
    assert run.evaluation is not None and run.evaluation.mean >= 475
