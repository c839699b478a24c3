"""Retrace actor-critic: its targets against definitions in float64, what they converge to, and the promises."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from probe_learners import (
    CONTINUOUS,
    DISCRETE,
    OBS,
    ROW,
    WORLD,
    a_stopped_run_goes_on_bit_for_bit,
    begin,
    both_drivers_and_every_seed_learn_the_same,
    differs,
    learn,
    made_up_rollout,
    on_host,
    play,
    same_bits,
    seeds_side_by_side_are_each_alone,
    update,
)

import advantage as adv
from advantage.algorithms.value.retrace_ac import RetraceAC, retrace_targets, sequence_batch
from advantage.estimators.off_policy_corrections import corrected_action_values, trace_coefficients
from advantage.estimators.returns import lambda_returns
from advantage.policies.action_value import action_value
from advantage.policies.distributions import Categorical
from advantage.replay.ring import replay_add, uniform_draw
from advantage.theory.policy_evaluation import action_values, values
from advantage.types import Rollout, Spec

BASE = dict(
    n_steps=4,
    hidden=(8,),
    gradient_steps=3,
    batch_size=4,
    replay_length=3,
    buffer_size=64,
    learning_starts=0,
    tau=0.1,
)


def tiny(**changes):
    return RetraceAC(**{**BASE, "learning_rate": 3e-3, **changes})


@functools.cache
def course(algorithm, box=False, updates=3):
    """The state after some updates."""
    return learn(algorithm, begin(algorithm, CONTINUOUS if box else DISCRETE), updates)[0][-1]


# --- targets ------------------------------------------------------------------------------------------------


class Replayed:
    """A buffer after some rollouts of one policy, sequences drawn from it, and another policy that they teach."""

    def __init__(self, algorithm, *, num_envs, rollouts, box=False, shift=0.5):
        self.algorithm, self.num_envs = algorithm, num_envs
        first = begin(algorithm, CONTINUOUS if box else DISCRETE, num_envs=num_envs)
        self.facts = made_up_rollout(algorithm, first, OBS, 0, (sum(rollouts), num_envs))
        self.head, replay, start = sum(rollouts), first.replay, 0
        for steps in rollouts:
            piece = jax.tree.map(lambda x, a=start, b=start + steps: x[a:b], self.facts)
            replay, start = replay_add(replay, piece), start + steps
        rng = np.random.default_rng(1)
        moved = jax.tree.map(
            lambda x: x + np.float32(shift * rng.normal(size=x.shape)), first.params["actor"]
        )
        self.policy, self.actor, self.critic = first.policy, moved, first.target
        key, size = jax.random.key(3), algorithm.batch_size
        self.batch = jax.jit(sequence_batch)(algorithm, first, replay, key)
        drawn = np.asarray(uniform_draw(replay, key, size))
        self.begun = int(replay.oldest) + drawn // num_envs, drawn % num_envs
        self.noise = first.policy.head.noise(
            jax.random.key(4), (algorithm.action_samples, algorithm.replay_length * size)
        )

    def targets(self):
        given = self.actor, self.critic, self.batch, self.noise
        return np.asarray(jax.jit(functools.partial(retrace_targets, self.policy))(*given)[0])

    def looked(self):
        """`rho`, `Q'(s, a)`, and the expectation of Q' in the successor, of every step played, `[T, B]`."""
        q, flat = action_value(self.policy), jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), self.facts)
        here, there = (self.policy.distribution(self.actor, x) for x in (flat.obs, flat.next_obs))
        rho = np.exp(np.float64(here.log_prob(flat.action)) - np.float64(flat.extras))
        value = np.float64(q.value(self.critic, flat.obs, flat.action))
        expected = np.float64(q.expected(self.critic, flat.next_obs, there, None)) if q.is_discrete else None
        shape = self.head, self.num_envs
        return (
            rho.reshape(shape),
            value.reshape(shape),
            expected if expected is None else expected.reshape(shape),
        )

    def sampled(self, row, env, place):
        """The mean of Q' over the actions that the noise at this place selects in a successor."""
        x, q = jnp.asarray(self.facts.next_obs[row, env])[None], action_value(self.policy)
        distribution = self.policy.distribution(self.actor, x)
        return np.mean(
            [float(q.value(self.critic, x, distribution.sample(z[None]))[0]) for z in self.noise[:, place]]
        )

    def definition(self):
        """Munos et al. 2016, eq. 3 and 4, step by step; NaN where a sequence has no step."""
        length, size, gamma = self.algorithm.replay_length, self.algorithm.batch_size, self.algorithm.gamma
        rho, value, expected = self.looked()
        result = np.full((length, size), np.nan)
        for i, (first, env) in enumerate(zip(*self.begun, strict=True)):
            last = min(first + length, self.head)
            for t in range(first, last):
                total, weight = value[t, env], 1.0
                for k in range(t, last):
                    if k > t:
                        weight *= gamma * self.algorithm.lam * min(1.0, rho[k, env])
                    following = (
                        self.sampled(k, env, (k - first) * size + i) if expected is None else expected[k, env]
                    )
                    ended = bool(self.facts.terminated[k, env])
                    future = 0.0 if ended else gamma * following
                    total += weight * (np.float64(self.facts.reward[k, env]) + future - value[k, env])
                    if ended or self.facts.truncated[k, env]:
                        break
                result[t - first, i] = total
        return result


SIZES = {
    "part of the buffer, the newest step inside": dict(num_envs=3, buffer_size=60, rollouts=[5, 2]),
    "a full buffer": dict(num_envs=2, buffer_size=16, rollouts=[4, 4]),
    "a wrapped write head": dict(num_envs=1, buffer_size=12, rollouts=[5, 5, 7]),
}


@pytest.mark.parametrize("case", SIZES)
def test_targets_are_those_of_the_definition(case):
    sizes = dict(SIZES[case])
    algorithm = tiny(buffer_size=sizes.pop("buffer_size"), replay_length=6, batch_size=40, gamma=0.9, lam=0.8)
    replayed = Replayed(algorithm, **sizes)
    expected, there = replayed.definition(), np.asarray(replayed.batch.mask)
    np.testing.assert_array_equal(there, np.isfinite(expected))
    if "part" in case:
        assert not there.all()
    np.testing.assert_allclose(replayed.targets()[there], expected[there], rtol=1e-4, atol=1e-4)
    rho = replayed.looked()[0]
    assert rho.min() < 0.8 and rho.max() > 1.25, "the policies differ"
    assert replayed.facts.truncated.any() and replayed.facts.terminated.any()


def test_targets_of_continuous_actions_are_those_of_the_definition_for_the_sampled_successors():
    algorithm = tiny(replay_length=4, batch_size=8, buffer_size=16, gamma=0.9, action_samples=2)
    replayed = Replayed(algorithm, num_envs=2, rollouts=[6, 5], box=True)
    expected, there = replayed.definition(), np.asarray(replayed.batch.mask)
    np.testing.assert_allclose(replayed.targets()[there], expected[there], rtol=1e-3, atol=1e-3)


def test_on_policy_with_lambda_1_they_are_the_return_to_the_end_of_the_sequence():
    """Where the value of the next action is its expectation: here Q gives all actions the same."""
    replayed = Replayed(
        tiny(lam=1.0, gamma=0.9, replay_length=6, batch_size=20), num_envs=2, rollouts=[9, 4], shift=0.0
    )
    level = jax.tree.map(lambda x: x - x + x.mean(-1, keepdims=True), replayed.critic["head"])
    replayed.critic = replayed.critic | {"head": level}
    batch, q = replayed.batch, action_value(replayed.policy)
    next_value = np.asarray(q.all(replayed.critic, batch.next_x)[:, 0]).reshape(batch.reward.shape)
    expected = lambda_returns(batch.reward, batch.discount, next_value, batch.trace)
    there = np.asarray(batch.mask)
    np.testing.assert_allclose(replayed.targets()[there], np.asarray(expected)[there], rtol=1e-4, atol=1e-4)


def test_with_lambda_0_they_are_the_expected_value_of_one_step():
    replayed = Replayed(tiny(lam=0.0, gamma=0.9, batch_size=20), num_envs=2, rollouts=[9, 4])
    batch, q = replayed.batch, action_value(replayed.policy)
    pi = jax.nn.softmax(replayed.policy.distribution(replayed.actor, batch.next_x).logits)
    following = (pi * q.all(replayed.critic, batch.next_x)).sum(-1).reshape(batch.reward.shape)
    expected = batch.reward + 0.9 * following * (batch.discount > 0)
    np.testing.assert_allclose(replayed.targets(), expected, rtol=1e-4, atol=1e-4)


def test_steps_that_a_sequence_lacks_count_nothing():
    """One step of each environment is stored: longer sequences learn from it what sequences of one step do."""
    learned = []
    for length in (1, 8):
        algorithm = tiny(replay_length=length, n_steps=1, lam=1.0)
        state = begin(algorithm)
        learned.append(update(algorithm, state, play(algorithm, state, 0), jax.random.key(0))[0].params)
    assert not differs(*learned, 1e-5)
    assert differs(learned[0], state.params)


def test_the_gradient_of_the_expectation_is_the_sum_over_actions():
    """`sum_a ∇pi(a|s) (Q(s, a) - V(s))`, of the logits: `pi(b) (Q(b) - V)`."""
    state, rng = begin(tiny()), np.random.default_rng(0)
    x, logits = (rng.normal(size=(5, 3)).astype(np.float32) for _ in range(2))
    q, critic = action_value(state.policy), state.params["action_value"]
    found = jax.grad(lambda logits: q.expected(critic, x, Categorical(logits), None).sum())(
        jnp.asarray(logits)
    )
    value, pi = np.float64(q.all(critic, x)), np.float64(jax.nn.softmax(logits))
    np.testing.assert_allclose(found, pi * (value - (pi * value).sum(1, keepdims=True)), rtol=1e-4, atol=1e-6)


# --- what they converge to ----------------------------------------------------------------------------------


def test_from_the_data_of_another_policy_q_converges_to_the_exact_values_of_the_policy():
    """A linear network over numbered states is a table; the policy is put back after every gradient step."""
    mdp, steps, num_envs, turns = dataclasses.replace(ROW, gamma=0.9), 2, 4, 4000
    pi = np.random.default_rng(0).dirichlet(np.ones(2), 8)
    algorithm = tiny(
        hidden=(), n_steps=steps * num_envs, gradient_steps=1, gamma=0.9, lam=1.0, tau=0.05, batch_size=16,
        replay_length=8, buffer_size=4000, learning_rate=adv.Linear(0.1, 1e-3), normalize_observation=False,
    )  # fmt: skip
    spec = Spec(spaces.Discrete(8), spaces.Discrete(2), num_envs, turns * steps * num_envs)
    state = algorithm.init(jax.random.key(0), spec)
    logits = jnp.asarray(np.log(pi), jnp.float32)
    fixed = state.params["actor"] | {"head": {"weight": logits, "bias": jnp.zeros(2)}}
    assert jax.tree.structure(fixed) == jax.tree.structure(state.params["actor"])

    def turn(state, given):
        rollout, key = given
        learned = algorithm.update(state, rollout, key)[0]
        return dataclasses.replace(learned, params=learned.params | {"actor": fixed}), None

    state = dataclasses.replace(state, params=state.params | {"actor": fixed})
    keys = jax.random.split(jax.random.key(1), turns)
    state, _ = jax.jit(functools.partial(jax.lax.scan, turn))(
        state, (at_random(turns, steps, num_envs), keys)
    )
    q = action_value(state.policy)
    learned = q.all(state.params["action_value"], state.policy.encoder.encode(np.arange(8)))
    exact = action_values(mdp, values(mdp, pi))
    np.testing.assert_allclose(learned[:7], exact[:7], atol=0.02)
    assert np.ptp(exact[:7]) > 3


def at_random(turns, steps, num_envs):
    """Rollouts of the uniform policy in the row of eight states, in which episodes end by the clock after 20 steps."""
    rng = np.random.default_rng(2)
    rows, state, length = [], np.full(num_envs, 2), np.zeros(num_envs, int)
    for _ in range(turns * steps):
        action = rng.integers(2, size=num_envs)
        following = np.clip(state + 2 * action - 1, 0, 7)
        reward = np.where((action == 0) & (state == 0), -2.0, -1.0)
        terminated, length = following == 7, length + 1
        truncated = (length == 20) & ~terminated
        rows.append((state, action, reward, following, terminated, truncated))
        ended = terminated | truncated
        state, length = np.where(ended, 2, following), np.where(ended, 0, length)
    kinds = np.int32, np.int32, np.float32, np.int32, bool, bool
    columns = [np.array(x, kind) for x, kind in zip(zip(*rows, strict=True), kinds, strict=True)]
    shaped = [x.reshape(turns, steps, num_envs) for x in columns]
    return Rollout(*shaped, np.full(shaped[0].shape, np.log(0.5), np.float32))


GAMMA = 0.99


class Baird:
    """Baird's star with linear action values, sampled from mu: sequences `[T, N]`, and what targets do to weights.

    The action "solid" leads to the last state, "dashed" to one of the other six; pi always takes the first, mu takes it
    with probability p. Rewards are 0, and so is every action's value. Values of solid have Baird's features, those of
    dashed a weight for each state. Sequences are so long that what follows them hardly counts.

    Source: Baird 1995, "Residual algorithms"; Sutton & Barto 2018, "Reinforcement learning", example 11.1.
    """

    def __init__(self, p, steps=40, runs=2000):
        rng = np.random.default_rng(0)
        solid = (
            rng.uniform(size=(steps + 1, runs)) < p
        )  # row 0 is the action before, which leads to the first state
        state = np.where(solid, 6, rng.integers(6, size=solid.shape))
        self.here, self.there = 2 * state[:steps] + solid[1:], 2 * state[1 : steps + 1] + 1
        self.rho = np.where(solid[1:], 1 / p, 0.0)
        self.features = np.zeros((7, 2, 15))
        self.features[:6, 1, :6], self.features[:6, 1, 7], self.features[6, 1, 6:8] = 2 * np.eye(6), 1, [1, 2]
        self.features[:, 0, 8:] = np.eye(7)
        self.features = self.features.reshape(14, 15)

    def gradients(self, kind, lam, features):
        """`B, C` with `E[(y - q) ∇q] = B w' - C w`: w' are the weights in the target y, w those that learn."""

        def step(held, w, rho, here, there):
            q_held = here @ held
            c = trace_coefficients(kind, rho, jnp.full_like(rho, lam))
            discount, none = jnp.full_like(q_held, GAMMA), jnp.zeros_like(q_held)
            y = corrected_action_values(none, discount, q_held, there @ held, c)
            return (y[0] - here[0] @ w) @ here[0] / here.shape[1]

        with jax.enable_x64(True):
            zero = jnp.zeros(features.shape[1])
            given = self.rho, features[self.here], features[self.there]
            found = jax.jit(jax.jacfwd(step, (0, 1)))(zero, zero, *given)
        return np.asarray(found[0]), -np.asarray(found[1])

    def largest(self, kind, lam, *, tabular=False, tau=1.0, rate=0.05, steps=20_000):
        """The largest |q| after so many gradient steps at this rate, from values of 1 or Sutton & Barto's weights.

        The weights in the target follow as a target network's: `w' <- (1 - tau) w' + tau w`.
        """
        features = np.eye(14) if tabular else self.features
        b, c = self.gradients(kind, lam, features)
        size = features.shape[1]
        learns = np.hstack([np.eye(size) - rate * c, rate * b])
        follows = tau * learns + (1 - tau) * np.hstack([np.zeros((size, size)), np.eye(size)])
        w = np.ones(14) if tabular else np.r_[np.ones(6), 10.0, np.ones(8)]
        with np.errstate(over="ignore", invalid="ignore"):
            w = np.linalg.matrix_power(np.vstack([learns, follows]), steps) @ np.r_[w, w]
            return np.nan_to_num(np.abs(features @ w[:size]).max(), nan=np.inf)


def test_off_policy_td_diverges_on_bairds_counterexample_and_retrace_does_not_where_the_policies_are_near():
    near = Baird(0.7)
    assert near.largest("one-step", 0.0) > 1e6
    assert near.largest("lambda", 0.95) > 1e6
    assert near.largest("retrace", 1.0) < 1e-2
    assert near.largest("lambda", 0.95, tabular=True) > 1e6, "traces without rho diverge even in a table"
    assert near.largest("retrace", 1.0, tabular=True) < 1e-2


def test_with_bairds_own_policy_retrace_needs_the_target_network_as_td_does():
    """Linear semi-gradient Retrace is not safe: Touati et al. 2018, "Convergent tree backup and Retrace"."""
    far = Baird(1 / 7)
    for kind, lam in (("one-step", 0.0), ("retrace", 1.0)):
        assert far.largest(kind, lam) > 1e6
        assert far.largest(kind, lam, tau=0.01, steps=100_000) < 1e-2
    assert far.largest("lambda", 0.5, tau=0.01, steps=100_000) > 1e6


# --- learning -----------------------------------------------------------------------------------------------


def test_the_log_probability_that_act_returns_is_that_of_the_policy_and_is_stored():
    for space in (DISCRETE, CONTINUOUS):
        state = begin(tiny(), space)
        rollout = play(tiny(), state, 0)
        flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), rollout)
        expected = state.policy.distribution(state.params["actor"], flat.obs).log_prob(flat.action)
        np.testing.assert_allclose(flat.extras, expected, rtol=1e-4, atol=1e-5)
        stored = update(tiny(), state, rollout, jax.random.key(0))[0].replay.extras
        np.testing.assert_array_equal(stored[:4], rollout.extras)


def test_promise_8_updates_per_transition_do_not_depend_on_the_number_of_environments():
    counts = []
    for num_envs in (1, 4):
        state = begin(tiny(), num_envs=num_envs)
        learned, metrics = update(tiny(), state, play(tiny(), state, 0), jax.random.key(0))
        assert metrics["gradient_steps"] == learned.gradient_steps
        counts.append(float(metrics["gradient_steps"]))
    assert counts == [3, 12], "three for each four transitions"


def test_nothing_is_learned_before_learning_starts():
    algorithm = tiny(learning_starts=24)
    state, first = course(algorithm, updates=2), begin(algorithm)
    same_bits((state.params, state.target), (first.params, first.target))
    assert differs(course(algorithm, updates=3).params, first.params)


OPTIONS = dict(
    learning_rate=1e-2,
    lam=0.2,
    replay_length=2,
    batch_size=5,
    gradient_steps=2,
    buffer_size=9,
    learning_starts=24,
    tau=0.5,
    gamma=0.5,
    ent_coef=1.0,
    normalize_observation=True,
    normalize_reward=True,
)
OF_CONTINUOUS = dict(
    action_samples=3, action_bounds="clip", action_spread="state-independent", log_std_init=-1.0
)


@pytest.mark.parametrize("name", [*OPTIONS, *OF_CONTINUOUS])
def test_every_option_of_learning_makes_a_difference(name):
    box = name in OF_CONTINUOUS
    changed = course(tiny(**{name: (OPTIONS | OF_CONTINUOUS)[name]}), box=box)
    assert differs(changed.params, course(tiny(), box=box).params, 1e-6)


def test_what_cannot_be_is_refused():
    several = spaces.MultiDiscrete([2, 3])
    with pytest.raises(
        ValueError, match=r"Retrace needs Discrete actions or a Box of floats.*use off-policy-ac"
    ):
        begin(tiny(), several)
    unbounded = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    with pytest.raises(ValueError, match="needs finite bounds"):
        begin(tiny(), unbounded)
    begin(tiny(action_bounds="clip"), unbounded)
    with pytest.raises(ValueError, match=r"A recurrent network \(GRU\)"):
        begin(tiny(network="gru"))
    match = (
        r"replay_length=9 is longer than the 8 steps .* each of 2 environments; use buffer_size=18 or more"
    )
    with pytest.raises(ValueError, match=match):
        begin(tiny(replay_length=9, buffer_size=17))
    begin(tiny(replay_length=8, buffer_size=17))


def test_seeds_side_by_side_are_each_alone():
    seeds_side_by_side_are_each_alone(tiny(), CONTINUOUS)


def test_both_drivers_and_every_seed_learn_the_same(tmp_path):
    both_drivers_and_every_seed_learn_the_same(tiny(learning_rate=1e-2), tmp_path)


@pytest.mark.parametrize("environment", [on_host, WORLD], ids=["host", "device"])
def test_a_stopped_run_goes_on_to_the_same_numbers_its_buffer_included(tmp_path, environment):
    a_stopped_run_goes_on_bit_for_bit(tiny(), environment, tmp_path)


@pytest.mark.parametrize("box", [False, True])
def test_the_actor_climbs_to_the_better_action(box):
    """One state, one step an episode: the first action earns 1 and the others 0, or the reward falls with distance."""
    algorithm = tiny(gradient_steps=60, learning_rate=1e-2, ent_coef=0.01, batch_size=16, replay_length=1)
    state, rng = begin(algorithm, CONTINUOUS if box else DISCRETE), np.random.default_rng(0)
    obs, ended = np.zeros((4, 2, 3), np.float32), np.ones((4, 2), bool)

    def quality(state):
        distribution = algorithm.actor(state).distribution(obs[0])
        if not box:
            return float(jax.nn.softmax(distribution.logits)[0, 0])
        return -float(np.abs(np.asarray(distribution.mode()) - 0.5).max())

    before = quality(state)
    for i in range(3):
        action = (
            rng.uniform(-1, 1, (4, 2, 2)).astype(np.float32)
            if box
            else np.int32(rng.integers(3, size=(4, 2)))
        )
        reward = -((action - 0.5) ** 2).sum(-1) if box else (action == 0) * 1.0
        log_prob = np.full((4, 2), -1.0, np.float32)
        rollout = Rollout(obs, action, np.float32(reward), obs, ended, ~ended, log_prob)
        state, _ = update(algorithm, state, rollout, jax.random.key(i))
    assert quality(state) > before + 0.1
