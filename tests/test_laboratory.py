"""The laboratory: its exact answers by other ways, its intervals by repetition, and its claims."""

import csv
import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_tables import random_mdp as ending_mdp

import advantage as adv
from advantage.cli import main
from advantage.cli.commands.lab import Lab, _experiments, _problem
from advantage.environments.make import resolve, table_of
from advantage.environments.tables.random_mdp import random_mdp
from advantage.laboratory import tables_and_pictures
from advantage.laboratory.advantage_bias import expected_gae, measure_credit
from advantage.laboratory.estimate_quality import measured
from advantage.laboratory.gradient_variance import WEIGHTS, estimates, facts, gae_weight, measure_gradients
from advantage.laboratory.importance_sampling import behaviour, divergence, measure_importance, measure_traces
from advantage.laboratory.problem import Problem, softmax
from advantage.laboratory.quadratic import example, measure_quadratic
from advantage.laboratory.tables_and_pictures import errors
from advantage.theory.policy_gradient import policy_gradient


def problem(seed=0, n_states=6, n_actions=3, horizon=8, **options):
    mdp = random_mdp(n_states, n_actions, 3, seed, gamma=0.9, **options)
    return Problem(mdp, np.random.default_rng(seed).normal(size=(n_states, n_actions)), horizon)


# --- exact answers ------------------------------------------------------------------------------------------


def test_the_gradient_is_the_slope_of_the_performance():
    one, h = problem(), 1e-6
    gradient = one.gradient()
    for place in itertools.product(range(6), range(3)):
        ends = []
        for side in (h, -h):
            logits = one.logits.copy()
            logits[place] += side
            ends.append(Problem(one.mdp, logits, one.horizon).performance)
        assert gradient[place] == pytest.approx((ends[0] - ends[1]) / (2 * h), abs=1e-8)


def test_with_a_long_horizon_it_is_that_of_the_exact_room():
    mdp = ending_mdp(np.random.default_rng(0))
    logits = np.random.default_rng(1).normal(size=(mdp.n_states, mdp.n_actions))
    exact = np.asarray(policy_gradient(mdp, jax.nn.softmax, logits))
    np.testing.assert_allclose(Problem(mdp, logits, 600).gradient(), exact, atol=1e-7)


def test_both_gradients_by_every_trajectory():
    """`E[Σ_t (gamma^t) ∇log pi(a_t|s_t) Σ_{k>=t} gamma^{k-t} r_k]`, over all trajectories of three steps."""
    one = problem(n_states=3, n_actions=2, horizon=3, reward="transition")
    score = one.score().reshape(3, 2, -1)
    for weighted in (True, False):
        total = np.zeros(6)
        for path in itertools.product(range(3), *[range(2), range(3)] * 3):
            states, actions = path[::2], path[1::2]
            p, rewards = one.mdp.start[states[0]], []
            for s, a, following in zip(states[:-1], actions, states[1:], strict=True):
                p *= one.policy[s, a] * one.transition[s, a, following]
                rewards.append(one.earned[s, a, following])
            for t in range(3):
                to_go = sum(0.9 ** (k - t) * rewards[k] for k in range(t, 3))
                total += p * (0.9**t if weighted else 1) * to_go * score[states[t], actions[t]]
        np.testing.assert_allclose(one.gradient(weighted).ravel(), total, atol=1e-12)


def test_sparse_tables_and_rewards_have_the_same_answers():
    dense, thin = (problem(as_sparse=kind, reward="transition") for kind in (False, True))
    np.testing.assert_allclose(dense.gradient(), thin.gradient(), atol=1e-14)


def test_episodes_are_drawn_from_the_policy_and_end_where_they_end():
    mdp = table_of(resolve("jax/RandomWalk-v0"))
    one = Problem(mdp, np.zeros((mdp.n_states, mdp.n_actions)), 12)
    drawn = one.sample(np.random.default_rng(0), 20_000)
    for t in (0, 3, 11):
        seen = np.bincount(drawn.state[t][drawn.alive[t]], minlength=mdp.n_states) / 20_000
        assert (np.abs(seen - one.visits[t]) < 5 * np.sqrt(one.visits[t] / 20_000) + 1e-9).all()
    assert (drawn.done.sum(axis=0) == 1).all()
    assert (drawn.alive.sum(axis=0) == drawn.done.argmax(axis=0) + 1).all()
    ended = drawn.done & (np.arange(12)[:, None] < 11)
    assert mdp.terminal[drawn.next_state[ended]].all() and ended.sum() > 1000
    discounted = (mdp.gamma ** np.arange(12)[:, None] * drawn.reward * drawn.alive).sum(axis=0)
    assert abs(discounted.mean() - one.performance) < 4 * discounted.std() / np.sqrt(20_000)


# --- intervals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [0.0, 0.3])
def test_intervals_hold_what_they_should(bias):
    rng, truth = np.random.default_rng(0), np.array([2.0, -1.0, 0.5])
    root = rng.normal(size=(3, 3))
    size = np.linalg.norm(truth)
    covered, spread, nothing = [], [], []
    for _ in range(300):
        samples = truth + bias * np.array([1, 0, 0]) + rng.normal(size=(400, 3)) @ root.T
        one = measured(samples, truth)
        nothing.append(one.bias.figure == 0)
        covered.append(one.bias.low <= bias / size <= one.bias.high)
        spread.append(one.variance.low <= np.trace(root @ root.T) / size**2 <= one.variance.high)
    assert np.mean(covered) >= 0.91  # where there is no bias, more
    assert bias == 0 or np.mean(covered) <= 0.995
    assert bias > 0 or 0.3 < np.mean(nothing) < 0.8  # as often below as above
    assert 0.91 <= np.mean(spread) <= 0.99, np.mean(spread)


def test_a_cosine_is_of_a_hundred_episodes():
    truth = np.array([1.0, 0.0])
    samples = np.tile([[1.0, 1.0]], (400, 1))
    assert measured(samples, truth).cosine.figure == pytest.approx(np.sqrt(0.5))


def test_too_few_and_nothing_to_measure_are_refused():
    with pytest.raises(ValueError, match="150 episodes are too few for an interval; use 200 or more"):
        measured(np.ones((150, 2)), np.ones(2))
    with pytest.raises(ValueError, match="The exact gradient is zero"):
        measured(np.ones((200, 2)), np.zeros(2))


# --- credit -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lam", [0.0, 0.7, 1.0])
def test_the_expected_advantage_is_the_mean_of_the_sampled_ones(lam):
    one = problem(horizon=4)
    value = one.value + errors(one, 1.0, 0)
    drawn, expected = one.sample(np.random.default_rng(0), 40_000), expected_gae(one, value, lam)
    f = facts(one, drawn, value)
    found = np.asarray(jax.jit(gae_weight(lam))(f), float)
    for t, s, a in itertools.product((0, 2), range(6), range(3)):
        here = (drawn.state[t] == s) & (drawn.action[t] == a)
        error = found[t][here].std() / np.sqrt(here.sum())
        assert abs(found[t][here].mean() - expected[t, s, a]) < 5 * error + 1e-5


def test_every_lambda_is_just_with_an_exact_critic_and_only_one_without():
    one = problem()
    advantage = one.action_value - one.value[:-1, :, None]
    for lam in (0.0, 0.5, 1.0):
        np.testing.assert_allclose(expected_gae(one, one.value, lam), advantage, atol=1e-12)
    value, biases = one.value + errors(one, 1.0, 0), []
    for lam in (0.0, 0.3, 0.6, 0.9, 1.0):
        off = expected_gae(one, value, lam) - advantage
        off -= (one.policy * off).sum(axis=2, keepdims=True)
        biases.append(np.sqrt((one.visits[..., None] * one.policy * off**2).sum()))
    assert biases[-1] < 1e-12 and (np.diff(biases) < 0).all()
    drawn = one.sample(np.random.default_rng(0), 3_000)
    found = [measure_credit(one, drawn, lam, errors(one, 1.0, 0)) for lam in (0.0, 0.5, 1.0)]
    assert found[0].gradient_bias.low > 0 and found[-1].gradient_bias.low == 0
    assert (
        found[0].deviation.high < found[1].deviation.low and found[1].deviation.high < found[2].deviation.low
    )
    assert found[0].bias > found[1].bias > found[2].bias == pytest.approx(0, abs=1e-12)


# --- gradients ----------------------------------------------------------------------------------------------


def claims(one, episodes, seed):
    """Which estimators show a bias with an exact critic, and what else the theory says."""
    drawn = one.sample(np.random.default_rng(seed), episodes)
    found = measure_gradients(one, drawn)
    variance = {name: result.variance.figure for name, result in found.items()}
    plain = [variance[f"total return{end}"] for end in (" - optimal", " - mean", "")]
    assert plain[0] <= plain[1] * 1.001 and plain[0] <= plain[2] * 1.001, plain
    assert variance["Q - V"] < variance["reward to go - V"] < variance["reward to go"] * 1.01
    assert variance["GAE, lambda 0.5"] < variance["GAE, lambda 0.95"]
    return [name for name, result in found.items() if result.is_biased], len(found)


def rich(seed):
    """Rewards above zero, so that baselines have something to do."""
    mdp = random_mdp(6, 3, 3, seed, gamma=0.9)
    mdp = adv.MDP(mdp.transition, np.asarray(mdp.reward) + 2, gamma=0.9)
    return Problem(mdp, np.random.default_rng(seed).normal(size=(6, 3)), 8)


def test_what_should_be_unbiased_is_and_the_optimal_baseline_varies_least():
    one = rich(0)
    biased, count = claims(one, 4_000, 0)
    assert len(biased) <= 2 < count
    drawn = one.sample(np.random.default_rng(1), 4_000)
    off = measure_gradients(one, drawn, errors(one, 1.0, 0))
    assert off["TD residual"].is_biased and not off["reward to go - V"].is_biased
    alone, beside = (off[f"total return{end}"].variance for end in ("", " - optimal"))
    assert beside.high < alone.low


@pytest.mark.slow
def test_the_claims_hold_on_ten_worlds():
    found = [claims(rich(seed), 20_000, seed) for seed in range(10)]
    biased, count = sum(len(names) for names, _ in found), sum(count for _, count in found)
    assert biased <= 0.08 * count, found  # of 95 % intervals, for zero on one side


def test_without_discount_weighting_the_target_is_the_other_gradient():
    one = rich(1)
    drawn = one.sample(np.random.default_rng(0), 4_000)
    found = measure_gradients(one, drawn, discount_weighting=False)
    assert sum(result.is_biased for result in found.values()) <= 2
    f = facts(one, drawn, one.value)
    samples = estimates(one, drawn, np.asarray(WEIGHTS["Q - V"](f)), discount_weighting=True)
    assert measured(samples, one.gradient(False).ravel()).is_biased


# --- another policy -----------------------------------------------------------------------------------------


def test_the_variance_of_whole_trajectories_explodes_with_their_length():
    variance = {}
    for horizon in (4, 16):
        one = problem(horizon=horizon)
        mu = behaviour(one, 0.5)
        found = measure_importance(one, mu, 3_000)
        variance[horizon] = {name: result.variance.figure for name, result in found.items()}
        assert not found["per decision"].is_biased
        assert found["trajectory"].effective < found["per decision"].effective < found["action"].effective
    grows = {name: variance[16][name] / variance[4][name] for name in variance[4]}
    assert grows["trajectory"] > 3 and grows["trajectory, <= 5"] < 1.5 and grows["action"] < 1.5, grows
    assert divergence(one, one.policy) == 0 < divergence(one, behaviour(one, 0.1)) < divergence(one, mu)


def test_corrected_targets_contract_and_the_uncorrected_one_does_not():
    one = problem(horizon=10)
    off = np.random.default_rng(0).normal(size=(6, 3)) * one.action_value[0].std()
    on_policy = measure_traces(one, one.policy, 4_000, off)
    assert on_policy["importance sampling"].bias.low < 0.1 and on_policy["one step"].bias.figure > 0.2
    away = measure_traces(one, behaviour(one, 0.7), 8_000, off)
    for name in ("one step", "tree backup", "Retrace"):
        assert away[name].bias.high < 1
    assert away["importance sampling"].deviation > 2 * away["Retrace"].deviation
    assert away["Q(lambda), uncorrected"].bias.low > away["Retrace"].bias.high


def test_what_noise_adds_to_a_bias_is_taken_off():
    """Ten small samples of an unbiased target: in some of them none is seen."""
    one = problem(horizon=6)
    off = np.random.default_rng(0).normal(size=(6, 3)) * one.action_value[0].std()
    found = [
        measure_traces(one, one.policy, 300, off, seed=seed)["importance sampling"] for seed in range(10)
    ]
    assert sum(result.bias.figure == 0 for result in found) >= 2


def test_a_behaviour_without_all_actions_is_refused():
    with pytest.raises(ValueError, match=r"distance=1.0 is not allowed; use 0 .* and less than 1"):
        behaviour(problem(), 1.0)


# --- a linear-quadratic world -------------------------------------------------------------------------------


def test_the_quadratic_worlds_performance_is_the_mean_of_its_episodes():
    world = example()
    keys = jax.random.split(jax.random.key(0), 20_000)
    reward = np.asarray(jax.jit(jax.vmap(lambda key: world.roll(world.theta, key)[2]))(keys), float)
    returns = reward @ world.gamma ** np.arange(world.horizon)
    exact = float(world.performance(jnp.asarray(world.theta)))
    assert abs(returns.mean() - exact) < 4 * returns.std() / np.sqrt(20_000)


def test_the_quadratic_worlds_values_are_those_of_its_performance():
    """`E V_0(s_0) = J` with `s_0 ~ N(0, I)`: the values of the unit vectors, less that of the origin."""
    world = dataclasses.replace(example(), horizon=6)
    starts = np.concatenate([np.eye(2), np.zeros((1, 2))])
    first = [float(world._value(world.theta, jnp.tile(s, (6, 1)))[0]) for s in starts]
    assert first[0] + first[1] - first[2] == pytest.approx(float(world.performance(world.theta)), rel=1e-4)


def test_the_path_beats_the_score_function():
    found = measure_quadratic(dataclasses.replace(example(), horizon=8), 4_000)
    assert not any(result.is_biased for result in found.values())
    score, less, path = (result.variance for result in found.values())
    assert path.high < less.low and less.high < score.low
    assert found["pathwise"].bias.high < 0.1


# --- the command --------------------------------------------------------------------------------------------

SMALL = ["--episodes", "400", "--n-states", "5", "--horizon", "5"]


@pytest.mark.parametrize(
    ("section", "files", "words"),
    [
        ("gradient", {"gradient"}, ["reward to go - V", "GAE, lambda 0.5"]),
        pytest.param(
            "report",
            {"gradient", "advantage", "distance", "horizon", "traces", "quadratic"},
            ["reward to go - V", "Retrace", "pathwise"],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_report_from_the_command_line(section, files, words, tmp_path, capsys):
    out = tmp_path / "lab"
    assert main(["lab", section, *SMALL, "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in words)
    assert {path.name for path in out.iterdir()} == {
        f"{name}.{kind}" for name in files for kind in ("csv", "png")
    }
    for name in files:
        assert (out / f"{name}.png").stat().st_size > 10_000
        with (out / f"{name}.csv").open() as file:
            head, *rows = csv.reader(file)
        assert "bias" in head and len(rows) >= 3 and all(len(row) == len(head) for row in rows)


def test_any_finite_world_and_a_trained_policy(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    quiet = ["--total-timesteps", "512", "--n-steps", "128", "--eval-episodes", "0", "--quiet"]
    assert main(["train", "vpg", "jax/GridWorld4x4-v0", *quiet, "--out", "run"]) == 0
    arguments = [
        "lab",
        "advantage",
        "--world",
        "jax/GridWorld4x4-v0",
        "--policy",
        "run",
        *SMALL[:2],
        "--horizon",
        "9",
    ]
    assert main(arguments) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gradients"], "There is no section 'gradients'; there are gradient, advantage, off-policy"),
        ([], "needs SECTION"),
        (["gradient", "--world", "CartPole-v1"], "CartPole-v1"),
        (["gradient", "--episodes", "50"], "50 episodes are too few"),
        (["gradient", "--horizon", "0"], "horizon=0 is not allowed"),
        (["gradient", "--policy", "nowhere"], "nowhere does not exist"),
    ],
)
def test_wrong_input_is_explained(arguments, message, capsys):
    assert main(["lab", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_the_flags_reach_the_problem():
    """The discount and the horizon are the world's unless they are given."""
    own = _problem(Lab(world="jax/RandomWalk-v0"))
    assert (own.mdp.gamma, own.horizon) == (1.0, 50)
    asked = _problem(Lab(world="jax/RandomWalk-v0", gamma=0.5, horizon=7))
    assert (asked.mdp.gamma, asked.horizon) == (0.5, 7)
    assert asked.performance != pytest.approx(own.performance, rel=0.1)
    assert np.ptp(_problem(Lab(policy="uniform", n_states=6)).logits) == 0


def test_the_flags_reach_the_measurement(monkeypatch):
    seen = []

    def measure(problem, episodes, value_error, discount_weighting):
        seen.append((episodes.state, np.ptp(value_error), discount_weighting))
        return {}

    monkeypatch.setattr(tables_and_pictures, "measure_gradients", measure)
    flags = Lab(world="jax/GridWorld4x4-v0", policy="uniform", episodes=30, horizon=6)
    for change in ({}, {"seed": 1}, {"value_error": 0.0}, {"discount_weighting": False}):
        (experiment,) = _experiments("gradient", dataclasses.replace(flags, **change))
        experiment()
    (state, error, weighting), (other_state, *_), (_, no_error, _), (_, _, no_weighting) = seen
    assert state.shape == (6, 30) and (state != other_state).any()
    assert error > 0 and no_error == 0
    assert weighting and not no_weighting


def test_a_policy_is_a_table_of_its_world():
    one = problem()
    np.testing.assert_allclose(softmax(one.logits).sum(axis=1), 1)
    with pytest.raises(ValueError, match=r"logits has shape \(2, 2\); the table needs \(6, 3\)"):
        Problem(one.mdp, np.zeros((2, 2)), 3)
