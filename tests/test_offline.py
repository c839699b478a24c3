"""Recorded episodes: their files, recording, off-policy evaluation against exact values, cloning, filled buffers."""

import dataclasses
import itertools
import json
import sys
import types

import gymnasium
import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from gymnasium import spaces
from probe_learners import same_bits
from random_tables import random_mdp, random_policy

import advantage as adv
from advantage import recording
from advantage.algorithms.actors import action_probabilities
from advantage.cli import main
from advantage.datasets.dataset import DatasetError, arrays_of
from advantage.datasets.rollouts import in_columns, recording_of
from advantage.environments.spaces import environment_action, policy_action, space_to_json
from advantage.estimators.off_policy_evaluation import (
    Transitions,
    bootstrapped,
    doubly_robust_terms,
    effective_episodes,
    fitted_q_table,
    ordinary_terms,
    per_decision_terms,
    weighted_terms,
)
from advantage.laboratory.problem import Problem
from advantage.replay.prioritised import priorities_sample
from advantage.replay.ring import transitions_at
from advantage.training.first_state import FirstState
from advantage.training.recorded_data import begin_with, recorded_data, said_share
from advantage.types import Spec

NESTED = spaces.Dict(
    {"a": spaces.Box(-1, 1, (2,), np.float32), "b": spaces.Tuple([spaces.Discrete(3, start=1)])}
)
CHOICES = spaces.Tuple([spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(2)])


def made_up(observation_space=NESTED, action_space=CHOICES, lengths=(3, 1, 4), seed=0, **changes):
    """Episodes of samples; every second one is truncated."""
    rng, steps = np.random.default_rng(seed), sum(lengths)
    for space in (observation_space, action_space):
        space.seed(seed)

    def samples(space, number):
        rows = [space.sample() for _ in range(number)]
        return jax.tree.map(lambda *leaves: np.stack(leaves), *rows)

    ends = np.zeros(steps, bool)
    ends[np.cumsum(lengths) - 1] = True
    flags = np.zeros(steps, bool)
    flags[(np.cumsum(lengths) - 1)[1::2]] = True
    values = {
        "observation": samples(observation_space, steps + len(lengths)),
        "action": samples(action_space, steps),
        "reward": rng.normal(size=steps),
        "terminated": ends & ~flags,
        "truncated": flags,
        "log_prob": -rng.random(steps),
        "environment": "Made-up-v0",
        "policy": "samples",
    }
    return adv.Dataset(observation_space, action_space, **values | changes)


# Files


def test_a_file_gives_back_what_was_written(tmp_path):
    dataset = made_up()
    assert dataset.lengths.tolist() == [3, 1, 4] and dataset.row.tolist() == [0, 1, 2, 4, 6, 7, 8, 9]
    path = adv.save_dataset(dataset, tmp_path / "folder" / "data.safetensors")
    found = adv.load_dataset(path)
    assert (found.observation_space, found.action_space) == (NESTED, CHOICES)
    assert (found.environment, found.policy) == ("Made-up-v0", "samples")
    assert found.fingerprint == dataset.fingerprint != made_up(seed=1).fingerprint
    same_bits(arrays_of(found), arrays_of(dataset))
    np.testing.assert_allclose(found.returns, [sum(x) for x in np.split(dataset.reward, [3, 4])])
    with pytest.raises(FileExistsError, match="exists already"):
        adv.save_dataset(dataset, path)
    assert [file.name for file in path.parent.iterdir()] == ["data.safetensors"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(reward=np.zeros(7)), "reward: found float64 of shape|terminated: found bool of shape"),
        (dict(reward=np.full(8, np.nan)), "reward: found a number that is not finite"),
        (dict(reward=np.zeros(8, np.float32)), "reward: found float32"),
        (dict(terminated=np.zeros(8, bool), truncated=np.zeros(8, bool)), "last step of the dataset ends no"),
        (dict(terminated=np.zeros(8)), "terminated: found float64 of shape"),
        (dict(reward=np.float64(3)), "reward: found a float64"),
        (dict(reward=np.zeros(())), r"reward: found float64 of shape \(\)"),
        (dict(truncated=[False] * 7 + [True]), "truncated: found a list"),
        (dict(truncated=np.ones(3, bool)), r"truncated: found bool of shape \(3,\)"),
        (dict(log_prob=np.ones(8)), "log_prob: found 1, expected logarithms"),
        (dict(action=(np.full((8, 2), 2), np.zeros((8, 2), np.int8))), "action/0: found 2, which is not in"),
        (
            dict(observation={"a": np.zeros((11, 2), np.float32), "b": (np.zeros(11, int),)}),
            "observation/b/0: found 0",
        ),
        (
            dict(observation={"a": np.zeros((10, 2), np.float32), "b": (np.ones(11, int),)}),
            "observation/a: found",
        ),
    ],
)
def test_arrays_that_do_not_belong_together(change, message):
    with pytest.raises(adv.DatasetError, match=message):
        made_up(**change)


def test_what_is_no_file_of_ours(tmp_path):
    whole = adv.save_dataset(made_up(), tmp_path / "whole").read_bytes()
    header = {"format": "advantage dataset", "format_version": 1, "environment": "", "policy": ""}
    header["spaces"] = {"observation": space_to_json(NESTED), "action": space_to_json(CHOICES)}
    tensors = {name: np.ascontiguousarray(x) for name, x in arrays_of(made_up()).items()}

    def written(header, **changes):
        kept = {name: x for name, x in (tensors | changes).items() if x is not None}
        return safetensors.numpy.save(kept, metadata={"dataset": json.dumps(header)})

    contents = {
        "not readable as safetensors": whole[:-9],
        "holds tensors, but no recorded episodes": safetensors.numpy.save(tensors),
        "format_version: found 2": written(header | {"format_version": 2}),
        "reward: found nothing": written(header, reward=None),
        "observation/a: found nothing": written(header, **{"observation/a": None}),
        "more: found a tensor of no use": written(header, more=np.zeros(1)),
        "policy: found": written(header | {"policy": "\x1b[2J"}),
        "terminated: found float64": written(header, terminated=np.zeros(8)),
        r"reward: found float64 of shape \(\)": written(header, reward=np.zeros(())),
        "truncated: found bool of shape": written(header, truncated=np.ones(3, bool)),
        "spaces: list": written(header | {"spaces": []}),
        "spaces: ": written(header | {"spaces": {"observation": {"type": "os.system"}}}),
    }
    assert safetensors.numpy.load(written(header)).keys() == tensors.keys()
    for number, (message, content) in enumerate(contents.items()):
        path = tmp_path / str(number)
        path.write_bytes(content)
        with pytest.raises(adv.DatasetError, match=message) as error:
            adv.load_dataset(path)
        assert str(path) in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        adv.load_dataset(tmp_path / "nothing")
    with pytest.raises(adv.DatasetError, match="a folder without main_data.hdf5"):
        adv.load_dataset(tmp_path)


# Minari's files

BOX = {
    "type": "Box",
    "dtype": "float32",
    "shape": [2],
    "low": [-1.0, -float("inf")],
    "high": [1.0, float("inf")],
}
MINARI_SPACES = {
    "observation_space": {
        "type": "Dict",
        "subspaces": {
            "b": {"type": "Tuple", "subspaces": [{"type": "Discrete", "dtype": "int64", "start": 1, "n": 3}]},
            "a": BOX,
        },
    },
    "action_space": {"type": "MultiDiscrete", "dtype": "int64", "nvec": [2, 3], "start": [0, 0]},
}


def write_minari(folder, lengths=(2, 3) * 6):
    """A dataset in the layout of Minari 0.5, and what its arrays are: twelve episodes, so that names sort by number."""
    rng, rows = np.random.default_rng(0), []
    folder.mkdir(parents=True, exist_ok=True)
    with h5py.File(folder / "main_data.hdf5", "w", track_order=True) as file:
        for number, steps in enumerate(lengths):
            group = file.create_group(f"episode_{number}")
            group.attrs["total_steps"] = steps
            row = {
                "a": rng.normal(size=(steps + 1, 2)).astype(np.float32),
                "b": rng.integers(1, 4, steps + 1),
                "actions": rng.integers(0, 2, (steps, 2)),
                "rewards": rng.normal(size=steps),
                "terminations": np.arange(steps) == (steps - 1 if number % 3 else -1),
            }
            group["observations/a"], group["observations/b/_index_0"] = row["a"], row["b"]
            group["truncations"] = np.zeros(steps, bool)
            group["infos/more"] = np.zeros(steps)
            for name in ("actions", "rewards", "terminations"):
                group.create_dataset(name, data=row[name], chunks=True, maxshape=(None, *row[name].shape[1:]))
            rows.append(row)
    metadata = {name: json.dumps(space) for name, space in MINARI_SPACES.items()}
    spec = {"id": "Unknown-v0", "entry_point": "a_stranger:Env", "kwargs": {}}
    metadata |= {"env_spec": json.dumps(spec), "data_format": "hdf5", "algorithm_name": "expert"}
    (folder / "metadata.json").write_text(json.dumps(metadata))
    return rows


def test_a_minari_dataset_is_read_and_its_environment_is_not_made(tmp_path):
    (tmp_path / "a_stranger.py").write_text("raise SystemExit('executed')")
    rows = write_minari(tmp_path / "set" / "data")
    sys.path.insert(0, str(tmp_path))
    try:
        dataset = adv.load_dataset(tmp_path / "set")
    finally:
        sys.path.remove(str(tmp_path))
    assert "a_stranger" not in sys.modules
    same_bits(arrays_of(dataset), arrays_of(adv.load_dataset(tmp_path / "set" / "data" / "main_data.hdf5")))
    np.testing.assert_array_equal(dataset.observation["a"], np.concatenate([row["a"] for row in rows]))
    np.testing.assert_array_equal(dataset.observation["b"][0], np.concatenate([row["b"] for row in rows]))
    for ours, name in {"action": "actions", "reward": "rewards", "terminated": "terminations"}.items():
        np.testing.assert_array_equal(getattr(dataset, ours), np.concatenate([row[name] for row in rows]))
    assert dataset.lengths.tolist() == [2, 3] * 6 and dataset.log_prob is None
    assert dataset.truncated.sum() == 4  # those without a flag
    assert dataset.observation_space["a"] == spaces.Box(np.array(BOX["low"], "f"), np.array(BOX["high"], "f"))
    assert dataset.action_space == spaces.MultiDiscrete([2, 3])
    assert (dataset.environment, dataset.policy) == ("Unknown-v0", "expert")


def _with_link(file):
    file["episode_1/rewards_"] = file["episode_1/rewards"]
    del file["episode_1/rewards"]
    file["episode_1/rewards"] = h5py.ExternalLink("other.hdf5", "rewards")


def _with_text(file):
    del file["episode_0/rewards"]
    file["episode_0/rewards"] = np.array([b"one", b"two"], object)


def _with_early_end(file):
    file["episode_1/truncations"][0] = True


def _without_last(file):
    kept = file["episode_1/actions"][:-1]
    del file["episode_1/actions"]
    file["episode_1/actions"] = kept


def _with(name, values):
    def damage(file):
        del file[name]
        file[name] = values

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_with("episode_0", np.zeros(3)), "episode_0/rewards: found nothing"),
        (
            _with("episode_1/actions", [[0, 0.7], [1, 0], [1, 1.9]]),
            "episode_1/actions: found 0.7, which is no value",
        ),
        (_with("episode_1/actions", [[0, 0], [2**40, 0], [1, 1]]), "found 1099511627776, which is not in"),
        (
            _with("episode_0/terminations", [0.0, 0.5]),
            "episode_0/terminations: found 0.5, which is no value of type",
        ),
        (
            _with("episode_0/terminations", h5py.Empty("f")),
            "episode_0/terminations: found .*expected an array",
        ),
        (
            _with("episode_0/observations/a", np.zeros((3, 4))),
            r"found shape \(3, 4\), expected 3 rows of shape \(2,",
        ),
        (_with("episode_0/rewards", 1.0), r"episode_0/rewards: found shape \(\), expected 1 rows"),
        (_with("episode_0/rewards", np.zeros((2, 1))), r"episode_0/rewards: found shape \(2, 1\)"),
        (_with_link, "episode_1/rewards: found a link, which may lead to another file"),
        (_with_text, "episode_0/rewards: found .*expected an array of numbers"),
        (_with_early_end, "episode_1: a step before the last one ends the episode"),
        (_without_last, r"episode_1/actions: found shape \(2, 2\), expected 3 rows"),
        (lambda file: [file.__delitem__(name) for name in list(file)], "found no group episode_0"),
        (lambda file: file["episode_0"].__delitem__("observations"), "episode_0/observations: found nothing"),
    ],
)
def test_a_damaged_minari_dataset(damage, message, tmp_path):
    write_minari(tmp_path)
    with h5py.File(tmp_path / "main_data.hdf5", "r+") as file:
        damage(file)
    with pytest.raises(adv.DatasetError, match=message) as error:
        adv.load_dataset(tmp_path)
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


def test_a_truncated_hdf5_file_and_metadata_that_say_too_little(tmp_path, monkeypatch, capsys):
    write_minari(tmp_path)
    file, metadata = tmp_path / "main_data.hdf5", tmp_path / "metadata.json"
    whole, facts = file.read_bytes(), json.loads(metadata.read_text())
    for share in (0.1, 0.5, 0.99):
        file.write_bytes(whole[: int(share * len(whole))])
        assert main(["train", "behaviour-cloning", "CartPole-v1", "--data", str(tmp_path)]) in (1, 2)
        said = capsys.readouterr().err
        assert "not readable as HDF5" in said and said.count("\n") == 1
    file.write_bytes(whole)
    wrong = {
        "data_format: found 'arrow'": facts | {"data_format": "arrow"},
        "observation_space: found nothing; .* environment is not made": {
            "action_space": facts["action_space"]
        },
        "action_space: .*does not describe a space": facts | {"action_space": json.dumps({"type": "Text"})},
    }
    for message, given in wrong.items():
        metadata.write_text(json.dumps(given))
        with pytest.raises(adv.DatasetError, match=message):
            adv.load_dataset(tmp_path)
    metadata.unlink()
    with pytest.raises(adv.DatasetError, match="metadata.json does not exist"):
        adv.load_dataset(tmp_path)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(adv.MissingExtra, match=r'pip install "advantage\[offline\]"'):
        adv.load_dataset(tmp_path)


# Actions in the units of a policy


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(4, start=-1),
        spaces.MultiDiscrete(np.array([[2, 3], [4, 5]]), start=np.array([[1, 0], [0, 2]])),
        spaces.MultiBinary((2, 2)),
        spaces.Box(np.float32([[-2], [0]]), np.float32([[2], [10]])),
        spaces.Box(np.float32([-np.inf, -1]), np.float32([np.inf, 3])),
        spaces.Dict(
            {"x": spaces.Box(-3, 5, (2,), np.float32), "y": spaces.Tuple([spaces.Discrete(3, start=7)])}
        ),
    ],
    ids=str,
)
@pytest.mark.parametrize("units", ["bounds", "raw"])
def test_an_action_in_the_policys_units_is_the_environments_again(space, units):
    space.seed(0)
    batch = jax.tree.map(lambda *leaves: np.stack(leaves), *[space.sample() for _ in range(5)])
    given = environment_action(space, policy_action(space, batch, units), units)
    for found, expected in zip(jax.tree.leaves(given), jax.tree.leaves(batch), strict=True):
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


# Off-policy evaluation


def every_episode(problem, mu):
    """All episodes of a small world, `[T, N]` each, and their probabilities under mu, `[N]`."""
    states, actions = mu.shape
    rows = []
    for path in itertools.product(range(states), *[range(actions), range(states)] * problem.horizon):
        s, a = np.array(path[::2]), np.array(path[1::2])
        steps = s[:-1], a, s[1:]
        chance = problem.mdp.start[s[0]] * (mu[steps[:2]] * problem.transition[steps]).prod()
        rows.append((s[:-1], a, problem.earned[steps], s[1:], chance))
    *columns, chance = (np.array(column) for column in zip(*rows, strict=True))
    return *(column.T for column in columns), chance


@pytest.fixture(scope="module")
def small():
    """A world of two states and two actions, three steps, and all its episodes."""
    rng = np.random.default_rng(0)
    problem = Problem(random_mdp(rng, 2, 2, 0.9, by_successor=True), rng.normal(size=(2, 2)), 3)
    mu = random_policy(rng, 2, 2)
    state, action, reward, following, chance = every_episode(problem, mu)
    assert abs(chance.sum() - 1) < 1e-9
    return problem, state, action, reward, following, np.log(problem.policy / mu)[state, action], chance


def test_unbiased_estimators_have_the_exact_value_as_their_mean(small):
    """Over all episodes with their probabilities; doubly robust for any action values, good and bad."""
    problem, state, action, reward, _, ratio, chance = small
    truth = problem.performance
    assert abs(chance @ ordinary_terms(reward, ratio, 0.9) - truth) < 1e-5
    assert abs(chance @ per_decision_terms(reward, ratio, 0.9) - truth) < 1e-5
    top, bottom = (chance @ x for x in weighted_terms(reward, ratio, 0.9))
    assert abs(top / bottom - truth) < 1e-5
    rng = np.random.default_rng(1)
    t = np.arange(3)[:, None]
    for table in (rng.normal(size=(3, 2, 2)), problem.action_value):
        v = (problem.policy * table).sum(2)[t, state]
        terms = doubly_robust_terms(reward, ratio, 0.9, table[t, state, action], v)
        assert abs(chance @ terms - truth) < 1e-5
        errors = chance @ np.square(terms - truth)
    assert errors < chance @ np.square(per_decision_terms(reward, ratio, 0.9) - truth)  # with the exact Q


def test_terms_equal_loops_over_the_definition():
    """Episodes of different lengths; one has an action that the policy never takes."""
    rng, gamma = np.random.default_rng(0), 0.8
    lengths = [5, 2, 4, 1]
    reward, ratio, q, v = (np.zeros((5, 4)) for _ in range(4))
    for n, length in enumerate(lengths):
        for x in (reward, ratio, q, v):
            x[:length, n] = rng.normal(size=length)
    ratio[2, 2] = -np.inf
    found = {
        "ordinary": ordinary_terms(reward, ratio, gamma),
        "per decision": per_decision_terms(reward, ratio, gamma),
        "robust": doubly_robust_terms(reward, ratio, gamma, q, v),
    }
    weighted, weight = weighted_terms(reward, ratio, gamma)
    totals = []
    for n, length in enumerate(lengths):
        total, product, decisions, robust = 0.0, 1.0, 0.0, 0.0
        for t in range(length):
            before, product = product, product * np.exp(ratio[t, n])
            total += gamma**t * reward[t, n]
            decisions += gamma**t * product * reward[t, n]
            robust += gamma**t * (before * v[t, n] + product * (reward[t, n] - q[t, n]))
        totals.append((total, product))
        expected = {"ordinary": product * total, "per decision": decisions, "robust": robust}
        for name, value in expected.items():
            np.testing.assert_allclose(found[name][n], value, rtol=1e-4, atol=1e-5, err_msg=name)
    returns, products = np.array(totals).T
    np.testing.assert_allclose(weight, products / products.max(), rtol=1e-4)
    np.testing.assert_allclose(weighted, returns * products / products.max(), rtol=1e-4, atol=1e-6)
    assert abs(effective_episodes(ratio) - products.sum() ** 2 / (products**2).sum()) < 1e-3
    far = np.full((900, 2), -1.0)  # weights of e^-900, which no float holds
    far[0, 0] = 0.0
    assert weighted_terms(np.ones((900, 2)), far, 1.0)[1].tolist() == pytest.approx([1, np.exp(-1)])


def test_fitted_q_of_all_transitions_is_the_exact_value_of_so_many_steps(small):
    problem, state, action, reward, following, _, chance = small
    steps = Transitions(*(x[0] for x in (state, action, reward, following)), np.ones(len(chance)))
    for horizon in (1, 3):
        exact = Problem(problem.mdp, problem.logits, horizon).action_value[0]
        np.testing.assert_allclose(
            fitted_q_table(steps, problem.policy, 0.9, horizon, chance), exact, atol=1e-9
        )
    ended = fitted_q_table(steps._replace(goes_on=np.zeros(len(chance))), problem.policy, 0.9, 3, chance)
    np.testing.assert_allclose(ended, Problem(problem.mdp, problem.logits, 1).action_value[0], atol=1e-9)


def test_a_bootstrap_interval_is_that_of_the_normal_distribution():
    x = np.random.default_rng(0).normal(2, 3, 2000)
    found = bootstrapped(x)
    error = 1.96 * x.std() / np.sqrt(2000)
    np.testing.assert_allclose(found, [x.mean(), x.mean() - error, x.mean() + error], atol=0.1 * error)
    ratio = bootstrapped(2 * np.abs(x), np.abs(x))
    np.testing.assert_allclose(ratio, 2)
    assert np.isnan(bootstrapped(x, 0 * x)).all()


def recorded_in(problem, mu, number, seed):
    """Episodes of mu as a dataset."""
    episodes = problem.sample(np.random.default_rng(seed), number, mu)
    alive = episodes.alive.T
    state, action, reward, following, done = (x.T[alive] for x in episodes[:5])
    ends = np.flatnonzero(done)
    observation = np.insert(state, ends + 1, following[ends])
    over = done & problem.mdp.terminal[following]
    return adv.Dataset(
        spaces.Discrete(problem.mdp.n_states),
        spaces.Discrete(problem.mdp.n_actions),
        observation,
        action,
        reward.astype(np.float64),
        over,
        done & ~over,
        np.log(mu[state, action]),
    )


def covered(number, repetitions):
    """Whether each interval holds the exact value, in ten random worlds: by estimator, `[10, repetitions]`."""
    found = {}
    for world, repetition in itertools.product(range(10), range(repetitions)):
        rng = np.random.default_rng(world)
        mdp = random_mdp(rng, 6, 3, 0.95, ends=world % 2 == 1, by_successor=True)
        problem = Problem(mdp, rng.normal(size=(6, 3)), 8)
        mu = 0.5 * problem.policy + 0.5 * random_policy(rng, 6, 3)
        dataset = recorded_in(problem, mu, number, 100 * world + repetition)
        result = adv.policy_estimates(
            dataset, problem.policy[dataset.observation], gamma=0.95, seed=repetition
        )
        for name, (_, low, high) in result.estimates.items():
            found.setdefault(name, []).append(low <= problem.performance <= high)
    return {name: np.reshape(inside, (10, repetitions)) for name, inside in found.items()}


def test_every_estimator_is_within_its_interval_in_ten_worlds():
    """95 % intervals: 10 of 10 are expected most often, 8 of 10 once in a hundred times."""
    found = covered(1000, 1)
    assert set(found) == {"importance-sampling", "weighted", "per-decision", "doubly-robust", "fitted-q"}
    assert all(inside.sum() >= 9 for inside in found.values()), found


@pytest.mark.slow
def test_intervals_hold_the_exact_value_as_often_as_they_say():
    """400 datasets: the standard error of a share of 95 % is 1.1 %."""
    shares = {name: inside.mean() for name, inside in covered(1000, 40).items()}
    assert all(0.91 <= share <= 0.99 for share in shares.values()), shares


def test_what_cannot_be_judged(small):
    dataset = made_up(spaces.Discrete(3), spaces.Discrete(2), (2, 2))
    policy = np.full((6, 2), 0.5)
    assert np.isfinite(adv.policy_estimates(dataset, policy).estimates["fitted-q"]).all()
    never = np.eye(2)[1 - np.insert(dataset.action, [2, 4], 0)]
    found = adv.policy_estimates(dataset, never)
    assert np.isnan(found.estimates["weighted"].value) and np.isnan(
        found.estimates["importance-sampling"].value
    )
    assert found.effective == 0
    unknown = made_up(spaces.Discrete(3), spaces.Discrete(2), (2, 2), log_prob=None)
    assert set(adv.policy_estimates(unknown, policy).estimates) == {"fitted-q"}
    with pytest.raises(ValueError, match=r"gamma=1.5 is not allowed"):
        adv.policy_estimates(dataset, policy, gamma=1.5)
    with pytest.raises(
        ValueError, match=r"has shape \(5, 2\); give a distribution over 2 actions for each of 6"
    ):
        adv.policy_estimates(dataset, policy[:5])
    with pytest.raises(ValueError, match="needs Discrete actions"):
        adv.policy_estimates(made_up(), policy)


# A cloned policy, recorded and judged


def small_network(**changes):
    return adv.BehaviourCloning(**dict(hidden=(16,), n_steps=64, learning_rate=1e-2) | changes)


def expert(angle, speed):
    """Balances a pole well enough."""
    return (angle + 0.5 * speed > 0).astype(np.int64)


@pytest.fixture(scope="module")
def cloned(tmp_path_factory):
    """A file of pole positions with what an expert would do there, and a run that was cloned from it."""
    folder = tmp_path_factory.mktemp("cloned")
    dataset = adv.record("random", "CartPole-v1", episodes=40)
    action = expert(*dataset.observation[dataset.row][:, 2:].T)
    data = adv.Dataset(
        dataset.observation_space,
        dataset.action_space,
        dataset.observation,
        action,
        dataset.reward,
        dataset.terminated,
        dataset.truncated,
    )
    path = adv.save_dataset(data, folder / "expert.safetensors")
    run = train(small_network(), "CartPole-v1", folder / "run", path, total_timesteps=30_000, eval_episodes=5)
    return run, path


def train(algorithm, environment, out, data, **options):
    options = dict(total_timesteps=640, eval_episodes=0, tensorboard=False, workers=0) | options
    return adv.train(algorithm, environment, out=out, data=str(data), **options)


def test_a_cloned_policy_does_what_the_expert_does(cloned):
    run, path = cloned
    assert run.evaluation.mean > 400  # random: 22
    assert json.loads((run.path / "config.json").read_text())["training"]["data"] == str(path)
    dataset, agent = adv.load_dataset(path), run.agent
    chosen = [agent.act(obs) for obs in dataset.observation[dataset.row][:200]]
    assert np.mean(chosen == dataset.action[:200]) > 0.9
    assert not adv.diagnose(run.path)[run.path]
    exported = adv.export(agent, run.path / "export")
    assert (exported / "policy.py").exists()


def test_recorded_episodes_are_those_of_an_evaluation(cloned, tmp_path):
    agent = cloned[0].agent
    for deterministic in (True, False):
        dataset = adv.record(agent, episodes=3, seed=5, deterministic=deterministic)
        played = adv.evaluate(agent, episodes=3, seed=5, deterministic=deterministic)
        np.testing.assert_array_equal(dataset.returns, played.returns)
        np.testing.assert_array_equal(dataset.lengths, played.lengths)
        seen = dataset.observation[dataset.row]
        logits = np.asarray(agent.actor.actor.distribution(seen).logits, np.float64)
        log_prob = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        chosen = log_prob[np.arange(len(seen)), dataset.action]
        np.testing.assert_allclose(dataset.log_prob, 0 * chosen if deterministic else chosen, atol=1e-6)
    env = gymnasium.make("CartPole-v1")  # the transitions are the environment's
    for start in dataset.starts:
        env.reset(seed=0)
        env.unwrapped.state = dataset.observation[dataset.row[start]]
        obs = env.step(dataset.action[start])[0]
        np.testing.assert_allclose(obs, dataset.observation[dataset.row[start] + 1], atol=1e-6)
    assert adv.record(agent, steps=50).num_steps >= 50
    assert "behaviour-cloning after 30_000 steps" in dataset.policy


def test_a_policy_is_judged_by_the_command(cloned, tmp_path, capsys, monkeypatch):
    """Short episodes whose actions have the policy's own probabilities: every ratio is 1."""
    monkeypatch.setattr("advantage.algorithms.value.shared.fitted_q.LEAST_STEPS", 0)
    run, path = cloned[0], str(tmp_path / "own.safetensors")
    agent = run.agent
    dataset = made_up(agent.spec.observation_space, agent.spec.action_space, (3, 2) * 10)
    seen = dataset.observation[dataset.row]
    table = action_probabilities(agent.algorithm, agent.actor.actor, seen, deterministic=False)
    log_prob = np.log(table[np.arange(50), dataset.action])
    adv.save_dataset(dataclasses.replace(dataset, log_prob=log_prob), path)
    assert main(["ope", str(run.path), path, "--stochastic", "--gamma", "0.9", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    for name in ("importance-sampling", "weighted", "per-decision"):
        np.testing.assert_allclose(
            list(found["estimates"][name].values()), list(found["recorded"].values()), rtol=1e-3, atol=1e-5
        )
    assert found["effective_episodes"] == pytest.approx(20, rel=1e-3)
    assert found["estimates"]["fitted-q"]["low"] is None and found["episodes"] == 20
    assert main(["ope", str(run.path), path]) == 0
    said = capsys.readouterr().out
    assert "fitted-q" in said and "is worth" in said and "which is below 30" in said
    file = str(tmp_path / "data.safetensors")
    record = ["record", str(run.path), "--steps", "20", "--stochastic", "--out", file]
    assert main(record) == 0 and "(drawn actions)" in capsys.readouterr().out
    assert main(record) == 2 and "exists already" in capsys.readouterr().err


def test_fitted_q_with_a_network_finds_the_reward_of_each_action():
    """Episodes of one step, in which action 1 earns 2 and 3 more where the first number is positive."""
    space = spaces.Box(-1, 1, (2,), np.float32)
    dataset = made_up(space, spaces.Discrete(2), (1,) * 400)
    seen = dataset.observation[dataset.row]
    reward = dataset.action * (2.0 + 3.0 * (seen[:, 0] > 0))
    dataset = dataclasses.replace(dataset, reward=reward, log_prob=None)
    always = np.tile([[0.0, 1.0]], (800, 1))
    found = adv.policy_estimates(dataset, always).estimates["fitted-q"]
    assert abs(found.value - 2 - 3 * (seen[:, 0] > 0).mean()) < 0.1


def test_a_cloning_run_goes_on_bit_for_bit_with_its_own_data_only(cloned, tmp_path):
    path = tmp_path / "data.safetensors"
    path.write_bytes(cloned[1].read_bytes())
    algorithm = small_network(sequence_length=4, network="gru")
    whole = train(algorithm, "CartPole-v1", tmp_path / "whole", path)
    train(algorithm, "CartPole-v1", tmp_path / "part", path, total_timesteps=320)
    part = adv.resume(tmp_path / "part", total_timesteps=640)
    same_bits(whole.agent.state, part.agent.state)
    path.unlink()
    adv.save_dataset(adv.record("random", "CartPole-v1", episodes=2), path)
    with pytest.raises(adv.CheckpointError, match="the checksum of other recorded episodes"):
        adv.resume(tmp_path / "part", total_timesteps=1280)


def test_one_step_of_cloning_is_adam_on_the_loss_of_the_paper():
    """The first step of Adam moves every weight by the learning rate against the sign of its gradient."""
    box = spaces.Box(-2, 2, (2,), np.float32)
    for space, sequence in ((box, 1), (spaces.Discrete(3), 1), (spaces.Tuple([box, spaces.Discrete(3)]), 1)):
        algorithm = small_network(sequence_length=sequence, normalize_observation=False)
        observation = spaces.Box(-1, 1, (3,), np.float32)
        spec = adv.Spec(observation, space)
        state = algorithm.init(jax.random.key(0), spec)
        dataset = made_up(observation, space, (5, 3))
        rollout = recording_of(dataset, spec).rollout(jnp.arange(8)[:, None])

        def loss(actor, state=state, dataset=dataset, space=space):
            out = state.policy.distribution(actor, jnp.asarray(dataset.observation[dataset.row]))
            parts = out.parts if isinstance(space, spaces.Tuple) else (out,)
            actions = dataset.action if isinstance(space, spaces.Tuple) else (dataset.action,)
            total = 0.0
            for part, action in zip(parts, actions, strict=True):
                if action.dtype.kind == "f":
                    total += jnp.mean(jnp.sum((part.mean - action / 2) ** 2, 1))
                else:
                    total -= jnp.mean(jax.nn.log_softmax(part.logits)[jnp.arange(8), action])
            return total

        gradient = jax.grad(loss)(state.params["actor"])
        after, metrics = algorithm.update(state, rollout, jax.random.key(1))
        np.testing.assert_allclose(metrics["imitation_loss"], loss(state.params["actor"]), rtol=1e-5)
        for new, old, slope in zip(
            *map(jax.tree.leaves, (after.params["actor"], state.params["actor"], gradient)), strict=True
        ):
            sure = np.abs(slope) > 1e-5
            np.testing.assert_allclose((new - old)[sure], -0.01 * np.sign(slope)[sure], rtol=1e-2)
        assert int(after.clock.step) == 8


def test_what_cannot_be_cloned(cloned, tmp_path, capsys):
    path = str(cloned[1])
    cases = {
        "behaviour-cloning learns from recorded episodes; give their file": [
            "behaviour-cloning",
            "CartPole-v1",
        ],
        "was recorded with observation space": ["behaviour-cloning", "Pendulum-v1", "--data", path],
        "does not exist": ["behaviour-cloning", "CartPole-v1", "--data", "nothing"],
        "ppo does not learn from single transitions": ["ppo", "CartPole-v1", "--data", path],
        "retrace-ac does not learn from single transitions": ["retrace-ac", "CartPole-v1", "--data", path],
        "sequence_length=1 gives it single ones": [
            *("behaviour-cloning", "CartPole-v1", "--data", path, "--network", "gru")
        ],
        "sequence_length=7 does not divide the 256 steps of a gradient step": [
            *(
                "behaviour-cloning",
                "CartPole-v1",
                "--data",
                path,
                "--network",
                "gru",
                "--sequence-length",
                "7",
            )
        ],
    }
    for message, words in cases.items():
        assert main(["train", *words, "--out", str(tmp_path / "run")]) == 2
        said = capsys.readouterr().err
        assert message in said and said.count("\n") == 1
    assert not (tmp_path / "run").exists()
    assert main(["record", "random"]) == 2 and "needs ENVIRONMENT" in capsys.readouterr().err
    with pytest.raises(ValueError, match="both given"):
        adv.record("random", "CartPole-v1", episodes=1, steps=1)


def test_a_near_tie_does_not_lose_a_recording(monkeypatch):
    """What a deterministic policy did had probability one, also where its values in a batch say another action."""
    dataset = made_up(spaces.Box(-1, 1, (2,), np.float32), spaces.Discrete(2), (3, 2))
    other = np.eye(2)[1 - dataset.action]
    monkeypatch.setattr(recording, "action_probabilities", lambda *_, deterministic: other)
    agent = types.SimpleNamespace(algorithm=None, actor=types.SimpleNamespace(actor=None))
    np.testing.assert_array_equal(recording._with_log_prob(dataset, agent, True).log_prob, np.zeros(5))


# A random policy


class Masked(gymnasium.Env):
    """Of six choices in two components, masks allow three."""

    observation_space = spaces.Dict({"x": spaces.Discrete(2), "action_mask": spaces.MultiBinary(5)})
    action_space = spaces.MultiDiscrete([2, 3])

    def _observe(self):
        return {"x": self.x, "action_mask": np.array([[0, 1, 1, 1, 1], [1, 1, 0, 1, 0]][self.x], np.int8)}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.left = 0, 6
        return self._observe(), {}

    def step(self, action):
        assert self._observe()["action_mask"][[action[0], 2 + action[1]]].all()
        self.x, self.left = 1 - self.x, self.left - 1
        return self._observe(), 1.0, self.left == 0, False, {}


class Switches(gymnasium.Env):
    """An action is 12 bits."""

    observation_space, action_space = spaces.Discrete(1), spaces.MultiBinary((3, 4))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return 0, {}

    def step(self, action):
        return 0, 1.0, True, False, {}


def test_every_bit_of_a_random_action_counts():
    np.testing.assert_allclose(adv.record("random", Switches, episodes=2).log_prob, -12 * np.log(2))


def test_a_random_policy_draws_uniformly_from_what_is_allowed():
    dataset = adv.record("random", Masked, episodes=100)
    first = dataset.observation["x"][dataset.row] == 0
    np.testing.assert_allclose(dataset.log_prob, np.where(first, -np.log(3), -np.log(2)))
    counts = np.bincount(dataset.action[first, 1], minlength=3)
    assert counts.min() > 70 and counts.sum() == 300 and set(dataset.action[first, 0]) == {1}
    again = adv.record("random", Masked, episodes=100)
    assert again.fingerprint == dataset.fingerprint
    assert adv.record("random", Masked, episodes=100, seed=1).fingerprint != dataset.fingerprint
    continuous = adv.record("random", "Pendulum-v1", episodes=1)
    assert continuous.log_prob is None and continuous.truncated.tolist() == [False] * 199 + [True]
    assert abs(continuous.action.mean()) < 0.3 and np.abs(continuous.action).max() > 1.9
    world = adv.record("random", "jax/GridWorld4x4-v0", episodes=3)
    mdp = adv.make("jax/GridWorld4x4-v0").mdp
    before, after = world.observation[world.row], world.observation[world.row + 1]
    assert (mdp.transition[before, world.action, after] > 0).all() and mdp.terminal[
        after[world.terminated]
    ].all()
    np.testing.assert_allclose(world.log_prob, -np.log(4))


# Learners from replay


def begun(algorithm, dataset, num_envs, seeds=1):
    """The first states of a learner with recorded episodes, and what was said."""
    spec = adv.Spec(dataset.observation_space, dataset.action_space, num_envs, 10_000)
    states = jax.vmap(lambda key: algorithm.init(key, spec))(jax.random.split(jax.random.key(0), seeds))
    said = []
    first = begin_with(dataset, algorithm, spec, FirstState(states, (), ()), said.append)
    return first.state, said


@pytest.mark.parametrize("num_envs", [1, 3])
def test_a_replay_buffer_begins_with_every_recorded_transition(num_envs):
    """What can be drawn is what was recorded, with true successors; the clock stands at 0."""
    space, action = spaces.Box(-1, 1, (2,), np.float32), spaces.Box(-2, 2, (1,), np.float32)
    dataset = made_up(space, action, (4, 1, 5, 2))
    state, said = begun(
        adv.SAC(hidden=(4,), buffer_size=60, batch_size=4, normalize_observation=True), dataset, num_envs, 2
    )
    assert said == [f"The replay buffer begins with {dataset}: all of them."]
    assert state.clock.step.tolist() == [0, 0]
    for seed in range(2):
        one = jax.tree.map(lambda leaf, seed=seed: leaf[seed], state)
        assert int(one.replay.stored) == 12 and int(one.replay.added) == 12
        found = transitions_at(one.replay, jnp.arange(12), gamma=0.5)
        order = in_columns(dataset, num_envs).ravel()
        row = dataset.row[order]
        np.testing.assert_array_equal(found.obs, dataset.observation[row])
        np.testing.assert_array_equal(found.next_obs, dataset.observation[row + 1])
        np.testing.assert_allclose(found.action, dataset.action[order] / 2, rtol=1e-6)
        np.testing.assert_allclose(found.reward, dataset.reward[order], rtol=1e-6)
        np.testing.assert_array_equal(found.discount, 0.5 * ~dataset.terminated[order])
        seen = dataset.observation[dataset.row]
        np.testing.assert_allclose(one.observations.mean.value, seen.mean(0), atol=1e-6)
        np.testing.assert_allclose(one.observations.variance.value, seen.var(0), atol=1e-6)


def test_steps_that_the_environments_cannot_share(tmp_path):
    space, action = spaces.Box(-1, 1, (2,), np.float32), spaces.Discrete(2)
    dataset, algorithm = made_up(space, action, (4, 3)), adv.DQN(hidden=(4,), buffer_size=60, batch_size=4)
    taken = in_columns(dataset, 3).size
    assert said_share(7, taken, 60) == "all but the last 1 of them" and said_share(7, 7, 60) == "all of them"
    path = adv.save_dataset(dataset, tmp_path / "data")
    with pytest.raises(DatasetError, match=r"data has 7 steps, .* 8 environments.*at most 7"):
        recorded_data(str(path), algorithm, Spec(space, action, 8, 10_000))


def test_a_small_buffer_keeps_the_last_steps_and_their_priorities():
    dataset = made_up(spaces.Box(-1, 1, (2,), np.float32), spaces.Discrete(2), (40, 60))
    algorithm = adv.DQN(hidden=(4,), buffer_size=64, prioritised=True)
    state, said = begun(algorithm, dataset, 1)
    assert said[0].endswith("64 of them, the last ones of each environment.")
    one = jax.tree.map(lambda leaf: leaf[0], state)
    found = transitions_at(one.replay, jnp.arange(64), gamma=1.0)
    np.testing.assert_allclose(found.reward, dataset.reward[-64:], rtol=1e-6)
    drawn = priorities_sample(one.priorities, one.replay, jax.random.key(0), 64, beta=1.0)
    assert len(np.unique(drawn.index)) > 60


def test_a_learner_learns_from_recorded_episodes_at_once(cloned, tmp_path):
    """With steps enough in the file, gradient steps begin in the first rollout; resuming does not need the file."""
    path = tmp_path / "data.safetensors"
    path.write_bytes(cloned[1].read_bytes())
    algorithm = adv.DQN(hidden=(8,), learning_starts=500, batch_size=8, buffer_size=2000)
    run = train(algorithm, "CartPole-v1", tmp_path / "run", path, total_timesteps=512)
    recorded = adv.load_dataset(path)
    assert int(run.agent.state.replay.added) == 512 + recorded.num_steps
    assert int(run.agent.state.gradient_steps) == 128  # all that 512 steps bring
    path.unlink()
    assert adv.resume(run.path, total_timesteps=1024).step == 1024
    config = json.loads((run.path / "config.json").read_text())
    assert config["training"]["data"] == str(path)


def test_probabilities_of_an_epsilon_greedy_network_are_those_of_its_draws():
    spec = adv.Spec(spaces.Box(-1, 1, (2,), np.float32), spaces.Discrete(3))
    algorithm = adv.DQN(hidden=(8,), epsilon_start=0.3)
    actor = algorithm.actor(
        algorithm.init(jax.random.key(0), dataclasses.replace(spec, total_timesteps=10_000))
    )
    obs = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)
    table = action_probabilities(algorithm, actor, obs, deterministic=False)
    noise = algorithm.noise(actor, jax.random.key(1), (4000, 3))
    drawn = jax.vmap(lambda n: algorithm.act(actor, obs, (), n)[0])(noise)
    shares = np.stack([(np.asarray(drawn) == a).mean(0) for a in range(3)], 1)
    np.testing.assert_allclose(table, shares, atol=0.03)
    best = action_probabilities(algorithm, actor, obs, deterministic=True)
    np.testing.assert_array_equal(best.argmax(1), table.argmax(1))
    assert set(best.ravel()) == {0.0, 1.0}


def test_a_masked_action_has_no_probability_under_a_policy_of_action_values():
    space = spaces.Dict(
        {"x": spaces.Box(-1, 1, (2,), np.float32), "action_mask": spaces.Box(0, 1, (3,), np.int8)}
    )
    algorithm = adv.DQN(hidden=(4,), buffer_size=64, batch_size=8)
    spec = Spec(space, spaces.Discrete(3), num_envs=1, total_timesteps=10_000)
    actor = algorithm.actor(algorithm.init(jax.random.key(0), spec))
    obs = {"x": np.zeros((2, 2), np.float32), "action_mask": np.array([[1, 0, 1], [0, 1, 0]], np.int8)}
    table = action_probabilities(algorithm, actor, obs, deterministic=False)
    np.testing.assert_allclose(table, [[0.5, 0, 0.5], [0, 1, 0]])  # all actions are random at first
