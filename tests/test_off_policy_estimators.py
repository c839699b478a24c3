"""Off-policy estimators against their definitions in float64, their identities, and what they converge to."""

import copy
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from random_tables import random_mdp, random_policy

from advantage.algorithms.tabular.tree_backup import TreeBackup
from advantage.estimators.off_policy_corrections import (
    corrected_action_values,
    effective_sample_size,
    importance_sampled_returns,
    importance_weights,
    past_sums,
    retrace,
    trace_coefficients,
    vtrace,
)
from advantage.estimators.returns import lambda_returns, td_errors
from advantage.theory.policy_evaluation import action_values, values
from advantage.theory.policy_gradient import finite_horizon_gradient
from advantage.types import Rollout, Spec

SHAPES = [(1, 1), (2, 3), (9, 2), (25, 4)]
CASES = 8  # rollouts of each shape, each with its own pattern of ends
GAMMA, LAM = 0.95, 0.8
KINDS = ["one-step", "lambda", "importance", "tree-backup", "retrace"]
FORMS = ["trajectory", "per-decision", "action"]


class Facts:
    """Random rollouts `[T, CASES, B]`; case 0 has no end, case 1 ends nearly everywhere, a step may end twice over."""

    def __init__(self, shape, seed=0):
        rng = np.random.default_rng(seed)
        steps, envs = shape
        self.shape = (steps, CASES, envs)
        rates = rng.uniform(0, 0.4, (2, 1, CASES, 1))
        rates[:, :, 0], rates[:, :, 1] = 0, 0.7
        self.terminated, self.truncated = rng.uniform(size=(2, *self.shape)) < rates
        self.done = self.terminated | self.truncated
        self.reward, self.value, successor = rng.normal(size=(3, *self.shape)).astype(np.float32)
        later = np.concatenate([self.value[1:], successor[-1:]])
        self.next_value = np.where(self.done, successor, later)
        self.log_ratio = (0.6 * rng.normal(size=self.shape)).astype(np.float32)
        self.rho = np.exp(self.log_ratio)
        self.probability = rng.uniform(size=self.shape).astype(np.float32)
        self.discount = np.float32(GAMMA) * (1 - self.terminated.astype(np.float32))
        self.goes_on = 1 - self.done.astype(np.float32)

    def episodes(self):
        """Each episode of each column: its steps, as an index into `[T, CASES, B]`."""
        for case, env in np.ndindex(self.shape[1:]):
            ends = [*(np.flatnonzero(self.done[:, case, env]) + 1).tolist(), self.shape[0]]
            first = 0
            for end in ends:
                if end > first:
                    yield (slice(first, end), case, env)
                first = end

    def define(self, definition, *names):
        """`definition(t, terminated, *rows)` for each step t of each episode, in float64."""
        result = np.full(self.shape, np.nan)
        for place in self.episodes():
            rows = [np.asarray(getattr(self, name)[place], np.float64) for name in names]
            final = bool(self.terminated[place][-1])
            result[place] = [definition(t, final, *rows) for t in range(len(result[place]))]
        assert np.isfinite(result).all()
        return result


@pytest.fixture(params=SHAPES, ids=lambda shape: f"T={shape[0]},B={shape[1]}")
def facts(request):
    return Facts(request.param)


def close(actual, expected, tolerance=5e-5):
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


def td_error(k, final, reward, value, next_value):
    """r + gamma V(s') - V(s), without V(s') where the episode was terminated."""
    ended = final and k == len(reward) - 1
    return reward[k] + (0.0 if ended else GAMMA * next_value[k]) - value[k]


def factor(kind, rho, probability):
    return {
        "one-step": 0.0,
        "lambda": LAM,
        "importance": LAM * rho,
        "tree-backup": LAM * probability,
        "retrace": LAM * min(1.0, rho),
    }[kind]


# --- definitions --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_trace_coefficients_are_the_next_steps_and_end_with_the_episode(facts, kind):
    def definition(t, final, rho, probability):
        return factor(kind, rho[t + 1], probability[t + 1]) if t + 1 < len(rho) else 0.0

    expected = facts.define(definition, "rho", "probability")
    actual = trace_coefficients(kind, facts.rho, LAM * facts.goes_on, facts.probability)
    inside = np.ones(facts.shape, bool)
    inside[-1] = facts.done[-1]  # beyond the last row nothing is known, and `credit` uses nothing
    close(np.where(inside, actual, 0), expected, 1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_corrected_action_values_are_sums_of_td_errors_times_the_traces_between(facts, kind):
    def definition(t, final, reward, value, next_value, rho, probability):
        total, weight = value[t], 1.0
        for k in range(t, len(reward)):
            if k > t:
                weight *= GAMMA * factor(kind, rho[k], probability[k])
            total += weight * td_error(k, final, reward, value, next_value)
        return total

    names = "reward", "value", "next_value"
    expected = facts.define(definition, *names, "rho", "probability")
    c = trace_coefficients(kind, facts.rho, LAM * facts.goes_on, facts.probability)
    given = facts.reward, facts.discount, facts.value, facts.next_value
    close(corrected_action_values(*given, c), expected)
    if kind == "retrace":
        close(retrace(*given, facts.rho, LAM * facts.goes_on), expected)


@pytest.mark.parametrize(
    ("rho_clip", "c_clip", "lam"), [(1.0, 1.0, 1.0), (2.0, 1.0, 0.8), (0.7, 0.4, 1.0), (1.5, 1.2, 0.0)]
)
def test_vtrace_is_the_papers_sum_and_its_advantage_looks_at_the_next_target(facts, rho_clip, c_clip, lam):
    def target(t, final, reward, value, next_value, rho):
        total, weight = value[t], 1.0
        for k in range(t, len(reward)):
            total += weight * min(rho_clip, rho[k]) * td_error(k, final, reward, value, next_value)
            weight *= GAMMA * lam * min(c_clip, rho[k])
        return total

    def advantage(t, final, reward, value, next_value, rho):
        last = t == len(reward) - 1
        following = next_value[t] if last else target(t + 1, final, reward, value, next_value, rho)
        future = 0.0 if last and final else GAMMA * following
        return min(rho_clip, rho[t]) * (reward[t] + future - value[t])

    names = "reward", "value", "next_value", "rho"
    given = facts.reward, facts.discount, facts.value, facts.next_value, facts.rho, facts.goes_on
    actual = vtrace(*given, lam, rho_clip, c_clip)
    close(actual.target, facts.define(target, *names))
    close(actual.advantage, facts.define(advantage, *names))


def weight_of(form, t, log_ratio, largest):
    chosen = {"trajectory": log_ratio, "per-decision": log_ratio[: t + 1], "action": log_ratio[t : t + 1]}
    return min(np.prod(np.exp(chosen[form])), largest)


@pytest.mark.parametrize("largest", [np.inf, 1.5])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("never", [0.0, 0.2], ids=["every action is possible", "some actions are not"])
def test_importance_sampled_returns_are_products_of_ratios_times_rewards(facts, form, largest, never):
    """A product with an action that the target policy never takes is 0, and touches no other episode."""
    facts = copy.copy(facts)
    impossible = np.random.default_rng(1).uniform(size=facts.shape) < never
    facts.log_ratio = np.where(impossible, -np.inf, facts.log_ratio).astype(np.float32)

    def definition(t, final, reward, value, next_value, log_ratio):
        total = 0.0
        for u in range(t, len(reward)):
            at = u if form == "per-decision" else t
            error = td_error(u, final, reward, value, next_value)
            total += GAMMA ** (u - t) * weight_of(form, at, log_ratio, largest) * error
        return total

    expected = facts.define(definition, "reward", "value", "next_value", "log_ratio")
    given = facts.reward, facts.discount, facts.value, facts.next_value, facts.log_ratio, facts.goes_on
    size = max(np.abs(expected).max(), 1e-6)
    close(importance_sampled_returns(*given, form, largest) / size, expected / size)
    weights = facts.define(lambda t, _, log_ratio: weight_of(form, t, log_ratio, largest), "log_ratio")
    actual = importance_weights(facts.log_ratio, facts.goes_on, form, largest)
    np.testing.assert_allclose(actual, weights, rtol=1e-4)


def test_past_sums_begin_anew_with_each_episode(facts):
    expected = facts.define(lambda t, _, x: x[: t + 1].sum(), "reward")
    close(past_sums(facts.reward, facts.goes_on), expected)


def test_the_effective_sample_size_counts_equal_weights_and_no_others():
    rng = np.random.default_rng(0)
    weight = rng.exponential(size=(7, 5))
    np.testing.assert_allclose(
        effective_sample_size(jnp.asarray(weight)), weight.sum() ** 2 / (weight**2).sum(), rtol=1e-5
    )
    for scale in (1e-30, 1.0, 1e30):  # whose squares float32 does not hold
        np.testing.assert_allclose(effective_sample_size(jnp.full(20, scale)), 20, rtol=1e-5)
        one = jnp.zeros(20).at[3].set(scale)
        np.testing.assert_allclose(effective_sample_size(one), 1, rtol=1e-6)
    assert effective_sample_size(jnp.zeros(4)) == 0


def test_wrong_names_are_errors_that_say_which_there_are():
    one = jnp.ones((2, 1))
    with pytest.raises(ValueError, match=r"kind='retrac' is not a trace; use one of one-step, .*retrace"):
        trace_coefficients("retrac", one, one)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"kind='tree-backup' needs probability"):
        trace_coefficients("tree-backup", one, one)
    with pytest.raises(ValueError, match=r"form='step' is not allowed; use 'trajectory', 'per-decision' or"):
        importance_sampled_returns(one, one, one, one, one, one, "step")  # pyright: ignore[reportArgumentType]


# --- identities ---------------------------------------------------------------------------------------------


def test_on_policy_vtrace_is_the_lambda_return_and_one_step_of_it(facts):
    given = facts.reward, facts.discount, facts.value, facts.next_value
    for lam in (1.0, LAM, 0.0):
        trace = np.float32(lam) * facts.goes_on
        target, advantage = vtrace(*given, np.ones_like(facts.rho), facts.goes_on, lam)
        expected = np.asarray(lambda_returns(facts.reward, facts.discount, facts.next_value, trace))
        close(target, expected)
        following = np.where(facts.done, facts.next_value, np.roll(expected, -1, axis=0))
        following[-1] = facts.next_value[-1]
        close(advantage, facts.reward + facts.discount * following - facts.value)


def test_on_policy_retrace_is_the_lambda_return_of_action_values(facts):
    """Where the next action's value is its expectation, as under a policy that always takes the same."""
    trace = np.float32(LAM) * facts.goes_on
    expected = lambda_returns(facts.reward, facts.discount, facts.next_value, trace)
    given = facts.reward, facts.discount, facts.value, facts.next_value
    close(retrace(*given, np.ones_like(facts.rho), trace), np.asarray(expected))
    for kind in ("lambda", "importance"):
        c = trace_coefficients(kind, np.ones_like(facts.rho), trace)
        close(corrected_action_values(*given, c), np.asarray(expected))


@pytest.mark.parametrize("kind", KINDS)
def test_without_traces_every_kind_is_the_td_error(facts, kind):
    given = facts.reward, facts.discount, facts.value, facts.next_value
    c = trace_coefficients(kind, facts.rho, 0 * facts.goes_on, facts.probability)
    np.testing.assert_array_equal(c, 0)
    expected = facts.value + td_errors(*given)
    np.testing.assert_array_equal(corrected_action_values(*given, c), expected)
    one_step = trace_coefficients("one-step", facts.rho, facts.goes_on)
    np.testing.assert_array_equal(corrected_action_values(*given, one_step), expected)


@pytest.mark.parametrize("terminated", [True, False])
def test_tree_backup_is_what_the_tabular_method_learns(terminated):
    """An episode of four steps through different states, at step size one: each Q(s, a) becomes its target."""
    n, actions, epsilon = 4, 3, 0.3
    rng = np.random.default_rng(1)
    q = rng.normal(size=(n + 1, actions)).astype(np.float32)
    action, reward = rng.integers(actions, size=n), rng.normal(size=n).astype(np.float32)
    pi = np.full_like(q, epsilon / actions)
    pi[np.arange(n + 1), q.argmax(1)] += 1 - epsilon

    method = TreeBackup(n=n, target_epsilon=epsilon, learning_rate=1.0, gamma=GAMMA)
    state = method.init(jax.random.key(0), Spec(spaces.Discrete(n + 1), spaces.Discrete(actions)))
    state, update = state._replace(table=state.table._replace(q=jnp.asarray(q))), jax.jit(method.update)
    for t in range(n):
        ends = np.array([[t == n - 1]])
        row = (np.array([[x]], dtype) for x, dtype in ((t, int), (action[t], int), (reward[t], np.float32)))
        ended, cut = (ends, np.zeros_like(ends)) if terminated else (np.zeros_like(ends), ends)
        state, _ = update(state, Rollout(*row, np.array([[t + 1]]), ended, cut), jax.random.key(0))

    taken, trace = np.arange(n), np.ones(n, np.float32)
    trace[-1] = 0
    discount = np.full(n, GAMMA, np.float32)
    discount[-1] *= not terminated
    c = trace_coefficients("tree-backup", np.ones(n, np.float32), trace, pi[taken, action])
    target = corrected_action_values(reward, discount, q[taken, action], (pi * q).sum(1)[1:], c)
    np.testing.assert_allclose(state.table.q[taken, action], target, rtol=1e-5)
    assert np.abs(target - q[taken, action]).min() > 1e-2


# --- what they converge to ----------------------------------------------------------------------------------

STATES, ACTIONS, STEPS = 3, 2, 4


@functools.partial(jax.jit, static_argnums=0)
def corrected(kind, reward, discount, q, expected, rho, trace, probability):
    c = trace_coefficients(kind, rho, trace, probability)
    return corrected_action_values(reward, discount, q, expected, c)[0]


first_target = jax.jit(lambda *given: vtrace(*given).target[0])
weights_of_scores = jax.jit(importance_sampled_returns, static_argnums=6)


class Trajectories:
    """Every way that `STEPS` steps in a random world can go, `[T, N]`, and how probable each is under mu.

    Rows after a trajectory's end go on from the terminal state, as another episode would; only the first counts.
    """

    def __init__(self, seed, ends=True):
        rng = np.random.default_rng(seed)
        self.mdp = random_mdp(rng, STATES, ACTIONS, 0.9, ends=ends)
        self.pi, self.mu = (random_policy(rng, STATES, ACTIONS) for _ in range(2))
        grid = np.indices((STATES, ACTIONS) * STEPS + (STATES,)).reshape(2 * STEPS + 1, -1)
        self.s, self.a, self.next_s = grid[0:-1:2], grid[1::2], grid[2::2]
        moves = self.mdp.transition[self.s, self.a, self.next_s]
        self.chosen = self.mu[self.s, self.a]
        self.by_action = moves.prod(0) * self.chosen[1:].prod(0)  # given the first state and action
        self.by_state = moves.prod(0) * self.chosen.prod(0)  # given the first state
        self.probability = self.pi[self.s, self.a]
        self.rho = self.probability / self.chosen
        self.reward = self.mdp.expected_reward[self.s, self.a]
        terminated = self.mdp.terminal[self.next_s]
        self.discount, self.goes_on = self.mdp.gamma * (1.0 - terminated), 1.0 - terminated

    def action_operator(self, q, kind, lam):
        """The expected target of every Q(s, a), `[S, A]`."""
        with jax.enable_x64(True):
            given = self.reward, self.discount, q[self.s, self.a], (self.pi * q).sum(1)[self.next_s]
            target = corrected(kind, *given, self.rho, lam * self.goes_on, self.probability)
        result = np.zeros_like(q)
        np.add.at(result, (self.s[0], self.a[0]), self.by_action * np.asarray(target))
        return result

    def value_operator(self, v, rho_clip, c_clip, lam):
        """The expected V-trace target of every V(s), `[S]`."""
        with jax.enable_x64(True):
            given = self.reward, self.discount, v[self.s], v[self.next_s], self.rho, self.goes_on
            target = first_target(*given, lam, rho_clip, c_clip)
        return np.bincount(self.s[0], self.by_state * np.asarray(target), STATES)


@pytest.mark.parametrize("ends", [True, False])
@pytest.mark.parametrize("kind", ["one-step", "tree-backup", "retrace", "importance"])
def test_the_expected_operator_contracts_to_the_values_of_pi(kind, ends):
    """Munos et al. 2016, theorem 1: by gamma at least, for every c between 0 and rho."""
    for seed in range(3):
        world = Trajectories(seed, ends)
        exact = action_values(world.mdp, values(world.mdp, world.pi))
        for lam in (1.0, 0.7):
            close(world.action_operator(exact, kind, lam), exact, 1e-12)
            q = exact + np.random.default_rng(seed).choice([-1.0, 1.0], exact.shape)
            q[world.mdp.terminal] = 0
            for _ in range(5):
                new = world.action_operator(q, kind, lam)
                before, after = np.abs(q - exact).max(), np.abs(new - exact).max()
                assert after <= world.mdp.gamma * before + 1e-12
                q = new


def test_where_both_policies_agree_longer_traces_contract_faster():
    world = Trajectories(0, ends=False)
    world.mu, world.rho = world.pi, np.ones_like(world.rho)
    world.by_action *= (world.probability[1:] / world.chosen[1:]).prod(0)
    exact = action_values(world.mdp, values(world.mdp, world.pi))
    error = {kind: np.abs(world.action_operator(exact + 1, kind, 1.0) - exact).max() for kind in KINDS}
    np.testing.assert_allclose(error["one-step"], 0.9, rtol=1e-6)
    np.testing.assert_allclose(error["retrace"], 0.9**STEPS, rtol=1e-6)
    assert error["retrace"] < error["tree-backup"] - 0.1 < error["one-step"] - 0.1


@pytest.mark.parametrize(("rho_clip", "c_clip"), [(1.0, 1.0), (0.6, 0.5), (3.0, 1.0), (1e9, 1e9)])
def test_the_expected_vtrace_operator_contracts_to_the_values_of_the_policy_between(rho_clip, c_clip):
    """Espeholt et al. 2018, theorem 1."""
    for seed in range(3):
        world = Trajectories(seed, ends=seed != 1)
        between = np.minimum(rho_clip * world.mu, world.pi)
        least = between.sum(1).min()  # of E_mu min(rho, rho_clip) over the states
        exact = values(world.mdp, between / between.sum(1, keepdims=True))
        for lam in (1.0, 0.7):
            close(world.value_operator(exact, rho_clip, c_clip, lam), exact, 1e-11)
            v = np.where(world.mdp.terminal, 0, exact + np.random.default_rng(seed).choice([-1, 1], STATES))
            for _ in range(5):
                new = world.value_operator(v, rho_clip, c_clip, lam)
                before, after = np.abs(v - exact).max(), np.abs(new - exact).max()
                assert after <= (1 - (1 - world.mdp.gamma) * least) * before + 1e-11
                v = new
    if rho_clip > 1e6:
        np.testing.assert_allclose(exact, values(world.mdp, world.pi), rtol=1e-9)


# --- the policy gradient of one policy from another's episodes ----------------------------------------------


class Episodes:
    """Every episode of `STEPS` steps, `[T, N]`, and the exact gradient of a softmax over a table of logits."""

    def __init__(self, gamma):
        rng = np.random.default_rng(5)
        self.gamma, self.mdp = gamma, random_mdp(rng, STATES, ACTIONS, 0.9)
        self.theta, self.direction = rng.normal(size=(2, STATES, ACTIONS))
        self.value = rng.normal(size=(STEPS + 1, STATES))
        grid = np.indices((STATES, ACTIONS) * STEPS).reshape(2 * STEPS, -1)
        self.s, self.a = grid[0::2], grid[1::2]
        moves = self.mdp.transition[self.s[:-1], self.a[:-1], self.s[1:]].prod(0)
        self.possible = self.mdp.start[self.s[0]] * moves
        self.reward = self.mdp.expected_reward[self.s, self.a]

    def policy(self, distance=0.0):
        theta = self.theta + distance * self.direction
        return np.exp(theta) / np.exp(theta).sum(1, keepdims=True)

    def exact(self):
        """`∇ E Σ_t gamma^t r_t`, by differentiating the recursion."""
        if self.gamma == 1:
            return finite_horizon_gradient(self.mdp, jax.nn.softmax, self.theta, STEPS)

        def performance(theta):
            pi, value = jax.nn.softmax(theta), jnp.zeros(STATES)
            for _ in range(STEPS):
                value = (pi * (self.mdp.expected_reward + self.gamma * (self.mdp.transition @ value))).sum(1)
            return self.mdp.start @ value

        with jax.enable_x64(True):
            return np.asarray(jax.grad(performance)(jnp.asarray(self.theta)))

    def estimates(self, form, distance, with_value=False, largest=np.inf):
        """`Σ_t gamma^t Psi_t ∇log pi(a_t | s_t)` of every episode, `[N, S, A]`, and the probabilities under mu."""
        pi, mu = self.policy(), self.policy(distance)
        log_ratio = np.log(pi[self.s, self.a] / mu[self.s, self.a])
        trace = np.ones_like(self.reward)
        trace[-1] = 0
        value = with_value * np.take_along_axis(self.value[:-1], self.s, 1)
        values = value, np.concatenate([value[1:], value[-1:]])  # of the last successor, nothing counts
        with jax.enable_x64(True):
            given = self.reward, self.gamma * trace, *values, log_ratio, trace
            psi = weights_of_scores(*given, form, largest)
        psi = np.asarray(psi) * self.gamma ** np.arange(STEPS)[:, None]
        result = np.zeros((psi.shape[1], STATES, ACTIONS))
        for t in range(STEPS):
            score = -pi[self.s[t]]
            score[np.arange(len(score)), self.a[t]] += 1
            result[np.arange(len(score)), self.s[t]] += psi[t][:, None] * score
        return result, self.possible * mu[self.s, self.a].prod(0)

    def error(self, *options):
        """How far the expectation is from the exact gradient, as a share of it."""
        estimates, probability = self.estimates(*options)
        exact = self.exact()
        return np.abs(np.tensordot(probability, estimates, 1) - exact).max() / np.abs(exact).max()


@pytest.fixture(scope="module", params=[1.0, 0.8], ids=lambda gamma: f"gamma={gamma}")
def world(request):
    return Episodes(request.param)


@pytest.mark.parametrize("with_value", [False, True])
@pytest.mark.parametrize("form", ["trajectory", "per-decision"])
def test_two_forms_are_the_exact_gradient_of_pi_whatever_mu_was(world, form, with_value):
    for distance in (0.0, 0.5, 1.0, 2.0):
        assert world.error(form, distance, with_value) < 1e-10
    assert world.error(form, 1.0, with_value, 1.2) > 1e-3  # the cut has a price


def test_the_ratio_of_the_action_alone_errs_by_how_far_the_policies_are_apart(world):
    errors = [world.error("action", distance) for distance in (0.0, 0.1, 0.3, 1.0, 2.0)]
    assert errors[0] < 1e-10
    assert errors[1] > 1e-3
    assert (np.diff(errors) > 0).all()
    moved = [np.tensordot(p, e, 1) for e, p in (world.estimates("action", 1.0, b) for b in (False, True))]
    np.testing.assert_allclose(*moved, atol=1e-12)  # V does not change what is expected


def test_what_comes_later_than_a_reward_only_adds_variance(world):
    def variance(form):
        estimates, probability = world.estimates(form, 1.0)
        return (probability @ (estimates**2).reshape(len(probability), -1)).sum() - (world.exact() ** 2).sum()

    assert variance("per-decision") < variance("trajectory")
