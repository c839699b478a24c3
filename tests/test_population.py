"""Population-based training: copies of the best members with other settings, which their next updates have."""

import dataclasses
import json
import shutil
import sys
import types
from collections import deque
from functools import partial
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from probe_learners import same_bits
from safetensors.numpy import load_file

import advantage as adv
from advantage.cells import Cell
from advantage.cli import main
from advantage.cli.commands import population
from advantage.comparison.compare import number
from advantage.drivers.device import DeviceDriver, iterate_on_device, stack_settings
from advantage.drivers.draws import draw
from advantage.environments.defect import MissingExtra
from advantage.environments.worlds.cartpole import CartPole
from advantage.runs.checkpoint import list_checkpoints
from advantage.runs.folder import RunFolder, write_config
from advantage.runs.log import read_episodes
from advantage.training.options import Options, options_from
from advantage.tuning import generations
from advantage.tuning.next_generation import next_generation
from advantage.tuning.population import Evolution, changing_space
from advantage.tuning.space import read_space

TINY = adv.PPO(n_steps=32, batch_size=32, n_epochs=1, hidden=(8,))
DEVICE = "jax/CartPole-v1"
POPULATION = {"learning_rate": {"log": [1e-3, 1e-1]}, "gamma": {"log_below_one": [0.5, 0.99]}}


def test_the_worst_become_copies_of_the_best_with_other_settings():
    """Against a loop in NumPy: every leaf is copied, values change by a factor inside of their domain."""
    space = read_space(TINY, Options(), POPULATION)
    rates, gammas = (
        np.float32([1e-3, 2e-3, 4e-3, 8e-3, 0.05, 0.03]),
        np.float32([0.5, 0.9, 0.95, 0.7, 0.6, 0.8]),
    )
    settings = dataclasses.replace(TINY, learning_rate=jnp.array(rates), gamma=jnp.array(gammas))
    settings = jax.tree.map(lambda x: x if np.ndim(x) else jnp.full(6, x), settings)
    state = {"weights": jnp.arange(12.0).reshape(6, 2), "count": jnp.arange(6)}
    score = np.array([3.0, -1.0, 9.0, 2.0, 7.0, -np.inf])
    seen = set()
    step = jax.jit(partial(next_generation, space=space, share=1 / 3))
    for seed in range(40):
        made = step(state, settings, score, jax.random.key(seed))
        parent = np.asarray(made.parent)
        assert set(parent[[1, 5]]) <= {2, 4} and list(parent[[0, 2, 3, 4]]) == [0, 2, 3, 4]
        np.testing.assert_array_equal(made.state["weights"], np.asarray(state["weights"])[parent])
        np.testing.assert_array_equal(made.state["count"], parent)
        for place in range(6):
            rate, gamma = (float(getattr(made.settings, name)[place]) for name in ("learning_rate", "gamma"))
            if place not in (1, 5):
                assert (rate, gamma) == (rates[place], gammas[place])
                continue
            rate_of, gamma_of = rates[parent[place]], gammas[parent[place]]
            assert min(abs(rate - np.clip(rate_of * f, 1e-3, 0.1)) for f in (0.8, 1.25)) < 1e-7
            assert min(abs(gamma - (1 - np.clip((1 - gamma_of) * f, 0.01, 0.5))) for f in (0.8, 1.25)) < 1e-6
            seen.add((parent[place], rate > rate_of, gamma > gamma_of))
        np.testing.assert_array_equal(made.settings.gae_lambda, np.float32([TINY.gae_lambda] * 6))
    assert len(seen) == 8  # both parents, and all pairs of factors
    edge = dataclasses.replace(settings, learning_rate=jnp.full(6, 0.1), gamma=jnp.full(6, 0.99))
    for seed in range(8):
        made = step(state, edge, score, jax.random.key(seed))
        assert made.settings.learning_rate.max() <= np.float32(
            0.1
        ) and made.settings.gamma.max() <= np.float32(0.99)


def test_a_population_learns_with_its_new_settings(tmp_path, monkeypatch):
    """The first update after a change of generation is that of a lone run with the copied state and the new settings.

    And the new settings are those that the member's config.json and checkpoint have, so `resume` takes them.
    """
    updates = []
    iterate = DeviceDriver.iterate

    def watched(driver, state, run_keys, span):
        before = driver.settings, state, driver.worlds
        result = iterate(driver, state, run_keys, span)
        updates.append((*before, run_keys, span, result.state))
        return result

    monkeypatch.setattr(DeviceDriver, "iterate", watched)
    out = tmp_path / "population"
    small = dict(num_envs=2, eval_episodes=0, tensorboard=False, keep_checkpoints=9)
    runs = adv.train_population(
        TINY, DEVICE, members=3, every=128, space=POPULATION, out=out, total_timesteps=384, **small
    )
    rows = [json.loads(line) for line in (out / "population.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [128] * 3 + [256] * 3
    (copy,) = [row for row in rows[:3] if row["parent"] != row["member"]]
    place = copy["member"]
    assert copy["parent"] == max(rows[:3], key=lambda row: row["score"])["member"]
    assert copy["score"] == min(row["score"] for row in rows[:3])
    settings, state, worlds, run_keys, span, after = next(row for row in updates if row[4].first_step == 128)
    np.testing.assert_allclose(settings.learning_rate[place], copy["learning_rate"], rtol=1e-6)
    for leaf in jax.tree.leaves(state.params):
        np.testing.assert_array_equal(leaf[place], leaf[copy["parent"]])

    state, worlds, key = jax.tree.map(lambda leaf: leaf[place], (state, worlds, run_keys))

    @jax.jit
    def alone(algorithm):
        now = state, worlds
        for n in range(span.iteration, span.iteration + span.count):
            actor, draws = draw(algorithm, now[0], key, n, (32, 2))
            now = iterate_on_device(algorithm, CartPole(), *now, actor, draws)[:2]
        return ravel_pytree(now[0].params)[0]

    new, old = (
        alone(dataclasses.replace(TINY, **{name: rows[member][name] for name in POPULATION}))
        for member in (place, copy["parent"])
    )
    found = ravel_pytree(jax.tree.map(lambda leaf: leaf[place], after.params))[0]
    np.testing.assert_allclose(found, new, rtol=1e-4, atol=1e-5)
    assert np.abs(found - old).max() > 1e-3
    assert sorted(run.path.name for run in runs) == ["member_0", "member_1", "member_2"]
    last = {row["member"]: row for row in rows}
    for run in runs:
        number = int(run.path.name[-1])
        written = json.loads((run.path / "config.json").read_text())["hyperparameters"]
        told = adv.load(run.path)  # which compares config.json with the checkpoint
        for name in POPULATION:
            assert written[name] == pytest.approx(last[number][name], rel=1e-6)
            assert getattr(told.algorithm, name) == written[name] == getattr(run.algorithm, name)
        saved = {agent.step: agent for agent in map(adv.load, list_checkpoints(run.path / "checkpoints"))}
        assert sorted(saved) == [0, 128, 256, 384]  # also those that are older than the newest settings
        for row in rows:
            if row["member"] == number:
                for name in POPULATION:
                    assert getattr(saved[row["step"]].algorithm, name) == pytest.approx(row[name], rel=1e-6)
    member = out / f"member_{place}"
    begun = adv.load(member / "checkpoints" / f"step_{0:012d}").algorithm
    assert begun != adv.load(member).algorithm
    assert adv.resume(member / "checkpoints" / f"step_{0:012d}", total_timesteps=64).algorithm == begun
    assert adv.load(member).algorithm == begun and adv.compare(member)


def test_a_copy_has_the_latest_episodes_of_what_it_was_copied_from(tmp_path):
    """They are its score, by which the next generation is made."""
    folders = [RunFolder(tmp_path / name) for name in "ab"]
    journals = [
        types.SimpleNamespace(folder=folder, recent=deque([n], 3)) for n, folder in enumerate(folders)
    ]
    config = {"hyperparameters": {}, "training": {}, "seed": 0, "environment": DEVICE}
    for folder in folders:
        folder.path.mkdir()
        write_config(folder, config)
    loop = types.SimpleNamespace(
        journals=journals, algorithms=[TINY, TINY], driver=object.__new__(DeviceDriver), options=Options()
    )
    evolution = Evolution(loop, read_space(TINY, Options(), POPULATION), 64, tmp_path / "log", print)
    evolution.driver.settings = types.SimpleNamespace(**{name: np.full(2, 0.9) for name in POPULATION})
    evolution._tell_members(np.array([0, 0]))
    assert [list(journal.recent) for journal in journals] == [[0], [0]]
    assert journals[0].recent is not journals[1].recent


@pytest.mark.slow
def test_a_member_is_resumed_with_its_newest_settings(tmp_path):
    small = dict(num_envs=2, eval_episodes=1, tensorboard=False, total_timesteps=384)
    out = tmp_path / "population"
    runs = adv.train_population(TINY, DEVICE, members=3, every=128, space=POPULATION, out=out, **small)
    rows = [json.loads(line) for line in (out / "population.jsonl").read_text().splitlines()]
    last = {f"member_{row['member']}": row for row in rows}
    means = [run.evaluation.mean for run in runs]
    assert means == sorted(means, reverse=True)
    for run in runs:
        longer = adv.resume(run.path, total_timesteps=448)
        assert longer.step == 448
        assert longer.algorithm.learning_rate == pytest.approx(last[run.path.name]["learning_rate"], rel=1e-6)


SEED = 1  # one whose two generations have different factors
HOST: dict[str, Any] = dict(seed=SEED, members=2, every=64, space=POPULATION, num_envs=2, total_timesteps=192)


def population_of_runs(out, **options):
    rest: dict[str, Any] = dict(eval_episodes=2, eval_every=64, tensorboard=False, keep_checkpoints=9)
    return adv.train_population(TINY, "CartPole-v1", out=out, **HOST | rest | options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A population that was not stopped: its folder, what it said, its runs in the order of their seeds."""
    out, said = tmp_path_factory.mktemp("population") / "whole", []
    runs = population_of_runs(out, say=said.append)
    return out, said, sorted(runs, key=lambda run: run.seed)


def test_runs_on_disk_become_copies_and_learn_with_their_new_settings(whole, tmp_path):
    """After a generation a copy has its parent's state, its own environments and new settings, and learns with them."""
    out, said, runs = whole
    rows = [json.loads(line) for line in (out / "population.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [64] * 2 + [128] * 2 and len(said) == 2
    (copy,) = [row for row in rows[:2] if row["parent"] != row["member"]]
    best = max(rows[:2], key=lambda row: row["score"])
    assert copy["parent"] == best["member"] and copy["score"] == min(row["score"] for row in rows[:2])
    name, parent = f"member_{copy['member']}", f"member_{copy['parent']}"
    assert f"{name} copies {parent}" in said[0]
    for place, step in ((copy["member"], 64), (copy["parent"], 64), (copy["parent"], 128)):
        played = read_episodes(RunFolder(out / f"member_{place}"))  # fewer than 100 episodes
        mean = played["r"][played["step"] <= step].mean()
        (row,) = (row for row in rows if (row["member"], row["step"]) == (place, step))
        assert row["score"] == pytest.approx(mean)
    before = [dataclasses.replace(TINY, **{each: row[each] for each in POPULATION}) for row in rows[:2]]
    score, space = np.array([row["score"] for row in rows[2:]]), read_space(TINY, Options(), POPULATION)
    key = jax.random.fold_in(jax.random.key(SEED), 2)
    made = next_generation({}, stack_settings(before), score, key, space)
    assert list(made.parent) == [row["parent"] for row in rows[2:]]
    for each in POPULATION:
        np.testing.assert_allclose(getattr(made.settings, each), [row[each] for row in rows[2:]], rtol=1e-6)
    at = f"checkpoints/step_{64:012d}"
    copied, source = (adv.load(out / each / at) for each in (name, parent))
    same_bits(copied.state, source.state)
    assert copied.algorithm.learning_rate == copy["learning_rate"]
    assert source.algorithm.learning_rate != copy["learning_rate"]
    records = [load_file(out / each / at / "state.safetensors") for each in (name, parent)]
    assert any(not np.array_equal(records[0][key], records[1][key]) for key in records[0].keys() & records[1])
    for key in ("records/recent/returns", "records/recent/lengths"):
        np.testing.assert_array_equal(*(each[key] for each in records))
    # the population's next update of the copy is that of a resumed run, which takes its settings from the checkpoint
    shutil.copytree(out / name, tmp_path / "lone", symlinks=True)
    again = adv.resume(tmp_path / "lone" / at, total_timesteps=128)
    now = adv.load(out / name / f"checkpoints/step_{128:012d}")
    if rows[2 + copy["member"]]["parent"] == copy["member"]:  # it was not replaced a second time
        same_bits(again.agent.state.params, now.state.params)
    assert all(run.finished and run.step == 192 for run in runs)
    for run, row in zip(runs, rows[2:], strict=True):
        assert run.algorithm.gamma == pytest.approx(row["gamma"], rel=1e-6)


def test_a_generation_comes_only_after_its_members_have_learned(tmp_path, monkeypatch):
    """An iteration of more than `every` steps is followed by one generation, and the last one by none."""
    log, step, made = tmp_path / "log", [0, 0], []

    def train(cell, callback):
        while callback(types.SimpleNamespace(step=step[cell.seed])) and step[cell.seed] < 1000:
            step[cell.seed] = min(step[cell.seed] + 256, 1000)

    def make(runs, number, until):
        made.append((number, until, *step))
        with log.open("a") as file:
            file.write(json.dumps({"step": until}) + "\n")
        return ""

    monkeypatch.setattr(generations, "carry_on", train)
    monkeypatch.setattr(generations, "_step", lambda cell: step[cell.seed])
    monkeypatch.setattr(generations, "make_generation", make)
    cells: Any = [
        types.SimpleNamespace(seed=seed, finished=False, options=Options(total_timesteps=1000))
        for seed in (0, 1)
    ]
    for _ in range(2):  # the second call finds everything done
        generations.train_runs(generations.Runs(cells, {}, 100, 0, log), 1, lambda text: None)
        assert made == [(2, 200, 256, 256), (5, 500, 512, 512), (7, 700, 768, 768)]


def test_a_copy_has_no_best_checkpoint_of_what_it_was_before(tmp_path):
    """Its best one was of its own policy, at the step where it became a copy; the next evaluation is its best then."""
    options = dict(num_envs=2, total_timesteps=64, eval_episodes=2, tensorboard=False)
    cells = []
    for seed in (0, 1):
        run = adv.train(TINY, "CartPole-v1", out=tmp_path / f"member_{seed}", seed=seed, **options)
        cells.append(Cell(TINY, "CartPole-v1", options_from(options | {"seed": seed}), run.path))
    settings = dataclasses.replace(TINY, gamma=0.75)
    best, last = (cells[1].path / name for name in ("best", "last"))
    assert best.resolve() == last.resolve()
    generations.copy_member(cells[0], cells[1], settings, ["gamma"])
    source, copied = (adv.load(cell.path) for cell in cells)
    same_bits(source.state, copied.state)
    assert copied.algorithm == settings and not best.exists()
    adv.resume(cells[1].path, total_timesteps=128)
    assert best.resolve() == last.resolve()


@pytest.mark.parametrize("when", ["training", "copying"])
def test_a_population_that_was_stopped_goes_on_to_the_same_numbers(when, whole, tmp_path, monkeypatch):
    """Stopped while a member trains, and between two steps of a copy."""
    name, last, calls = *{"training": ("carry_on", 3), "copying": ("point", 1)}[when], []
    original = getattr(generations, name)

    def stops(*arguments):
        calls.append(arguments)
        if len(calls) == last:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(generations, name, stops)
    with pytest.raises(KeyboardInterrupt):
        population_of_runs(tmp_path / "stopped")
    monkeypatch.setattr(generations, name, original)
    with pytest.raises(ValueError, match="holds another population, which differs in training.num_envs"):
        population_of_runs(tmp_path / "stopped", num_envs=4)
    runs = population_of_runs(tmp_path / "stopped")
    logs = [(folder / "population.jsonl").read_text() for folder in (whole[0], tmp_path / "stopped")]
    assert logs[0] == logs[1]
    for here, there in zip(whole[2], sorted(runs, key=lambda run: run.seed), strict=True):
        assert here.algorithm == there.algorithm
        same_bits(here.agent.state, there.agent.state)


def test_the_command_goes_on_with_the_population_and_shows_its_members(whole, tmp_path, capsys):
    """The same options are the same population, whether from Python or from the command line."""
    out, _, runs = whole
    (tmp_path / "space.json").write_text(json.dumps(POPULATION))
    words = "ppo CartPole-v1 --preset none --n-steps 32 --batch-size 32 --n-epochs 1 --hidden 8 --processes 1"
    words += " --members 2 --every 64 --num-envs 2 --total-timesteps 192 --eval-episodes 2 --eval-every 64"
    words += f" --keep-checkpoints 9 --seed {SEED}"
    words += f" --no-tensorboard --space {tmp_path / 'space.json'} --out {out}"
    assert main(["population", *words.split()]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["member", "final", "return", "learning_rate", "gamma"]
    best = max(runs, key=lambda run: run.evaluation.mean)
    shown = [best.path.name, number(best.evaluation.mean)]
    assert lines[3].split()[:2] == shown and float(lines[3].split()[3]) == pytest.approx(
        best.algorithm.gamma, rel=1e-3
    )
    for run in runs:
        again = adv.evaluate(run.agent, "CartPole-v1", episodes=2, seed=run.seed)
        np.testing.assert_array_equal(run.evaluation.returns, again.returns)
        np.testing.assert_array_equal(run.evaluation.lengths, again.lengths)


def test_the_command_shows_a_population_without_a_generation(tmp_path, capsys, monkeypatch):
    """Its iteration was as long as the budget. And no steps between two generations are not the default."""
    run = types.SimpleNamespace(path=tmp_path / "out" / "member_0", evaluation=None, algorithm=TINY)
    words = ["population", "ppo", DEVICE, "--out", str(tmp_path / "out"), "--total-timesteps", "1000"]
    assert main([*words, "--every", "0"]) == 2
    assert "every=0 is not allowed" in capsys.readouterr().err
    monkeypatch.setattr(population, "train_population", lambda *a, every, **k: [run] if every == 100 else [])
    assert main(words) == 0
    changing = ["learning_rate", "gamma", "gae_lambda", "clip_range", "ent_coef"]
    assert capsys.readouterr().out.splitlines()[-6].split() == ["member", "final", "return", *changing]


def test_the_librarys_space_fits_every_budget(tmp_path, monkeypatch):
    """Its numbers of environments do not divide 1000 steps, and a population does not change them."""
    assert "num_envs" not in changing_space(TINY, Options(total_timesteps=1000), None)
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtra, match=r"Population training needs .*advantage\[tune\]"):
        adv.train_population(TINY, DEVICE, every=100, total_timesteps=1000, out=tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize("kept", [True, False])
def test_copies_have_the_replay_buffer_too(kept, tmp_path):
    """Unless checkpoints are without it; then each run begins with an empty one."""
    sac = adv.SAC(hidden=(8,), n_steps=8, batch_size=8, learning_starts=16, buffer_size=100)
    space = {"learning_rate": {"log": [1e-4, 1e-2]}}
    options: dict[str, Any] = dict(num_envs=1, eval_episodes=0, tensorboard=False, keep_checkpoints=9)
    out = tmp_path / "out"
    adv.train_population(
        sac,
        "Pendulum-v1",
        members=2,
        every=32,
        space=space,
        total_timesteps=64,
        out=out,
        keep_replay=kept,
        **options,
    )
    row = next(
        row
        for row in map(json.loads, (out / "population.jsonl").read_text().splitlines())
        if row["parent"] != row["member"]
    )
    at = f"checkpoints/step_{32:012d}/state.safetensors"
    copied, source = (load_file(out / f"member_{row[name]}" / at) for name in ("member", "parent"))
    stored = [name for name in source if "replay" in name]
    assert bool(source["state/replay/reward"].size) == bool(copied["state/replay/reward"].size) == kept
    for name in stored:
        np.testing.assert_array_equal(copied[name], source[name])


@pytest.mark.slow
def test_processes_train_the_same_population(whole, tmp_path):
    population_of_runs(tmp_path / "out", processes=2)
    logs = [(folder / "population.jsonl").read_text() for folder in (whole[0], tmp_path / "out")]
    assert logs[0] == logs[1]


def test_a_population_changes_floats_only(tmp_path):
    for space, word in (
        ({"n_epochs": {"integers": [1, 2]}}, "cannot change n_epochs: its domain has integers"),
        ({"gamma": {"choices": [0.9, 0.95]}}, "cannot change gamma: its domain has choices"),
        ({"n_epochs": {"uniform": [1, 2]}}, "n_epochs is not a float"),
    ):
        with pytest.raises(ValueError, match=word):
            adv.train_population(
                TINY, DEVICE, every=64, space=space, out=tmp_path / "out", total_timesteps=128
            )
    with pytest.raises(ValueError, match="members=1"):
        adv.train_population(TINY, DEVICE, every=64, members=1, space=POPULATION, out=tmp_path / "out")
    with pytest.raises(ValueError, match="processes=2 is not allowed: in an on-device world"):
        adv.train_population(TINY, DEVICE, every=64, space=POPULATION, processes=2, out=tmp_path / "out")
    with pytest.raises(ValueError, match="num_seeds=2 is not allowed.*members="):
        adv.train_population(TINY, DEVICE, every=64, space=POPULATION, num_seeds=2, out=tmp_path / "out")
    with pytest.raises(ValueError, match="patience=3 is not allowed: the members"):
        adv.train_population(
            TINY, DEVICE, every=64, space=POPULATION, patience=3, eval_every=64, out=tmp_path / "out"
        )
    vector = gymnasium.make_vec("CartPole-v1", num_envs=2)
    with pytest.raises(ValueError, match="A vector environment cannot be shared"):
        adv.train_population(TINY, vector, every=64, space=POPULATION, out=tmp_path / "out")
    vector.close()
    with pytest.raises(ValueError, match="Other processes can only make an environment"):
        adv.train_population(
            TINY,
            gymnasium.envs.classic_control.CartPoleEnv,
            every=64,
            space=POPULATION,
            processes=2,
            out=tmp_path / "out",
        )
    assert not list(tmp_path.iterdir())
    with pytest.raises(FileExistsError, match="give a new folder"):
        adv.train_population(TINY, DEVICE, every=64, space=POPULATION, out=tmp_path)
