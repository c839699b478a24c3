"""How fast the board opens many runs, and how soon it shows a new row.

python benchmarks/board.py [--runs 200] [--rows 10000] [--chromium]

Writes runs of so many episodes and rows of progress into a temporary folder, starts `advantage board` there, and asks
it as its page does. With --chromium the page itself is opened, and its own clock counts.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np

COLUMNS = ["time/elapsed", *(f"train/metric_{n:02d}" for n in range(15))]


def write_runs(folder: Path, runs: int, rows: int) -> None:
    """Groups of ten seeds; every run has the same numbers of rows."""
    rng = np.random.default_rng(0)
    steps = 100 * np.arange(1, rows + 1)
    numbers = rng.normal(size=(rows, len(COLUMNS))).astype(np.float32)
    numbers[:, 0] = np.arange(rows)
    lines = (",".join(f"{x:.9g}" for x in row) for row in numbers.tolist())
    progress = "".join(
        f"{n},{step},{line}\n" for n, (step, line) in enumerate(zip(steps, lines, strict=True), 1)
    )
    for run in range(runs):
        path = folder / f"Game-v0__ppo__{run // 10}__{run % 10}"
        path.mkdir(parents=True)
        config = {
            "algorithm": "ppo",
            "environment": "Game-v0",
            "seed": run % 10,
            "hyperparameters": {"clip_range": 0.1 + 0.01 * (run // 10)},
            "training": {"num_envs": 8, "total_timesteps": 200 * rows},
        }
        (path / "config.json").write_text(json.dumps(config))
        (path / "progress.csv").write_text(f"iteration,step,{','.join(COLUMNS)}\n{progress}")
        returns = (100 * (1 - np.exp(-steps / (30 * rows))) + rng.normal(0, 20, rows)).tolist()
        episodes = "".join(
            f"{r!r},100,{s},0,{n}\n" for n, (r, s) in enumerate(zip(returns, steps, strict=True))
        )
        (path / "episodes.csv").write_text("r,l,step,env,episode\n" + episodes)


def start(folder: Path) -> tuple[subprocess.Popen[str], str]:
    """The board and its address."""
    command = [sys.executable, "-m", "advantage", "board", ".", "--port", "0"]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    found = re.search(r"http://\S+/", process.stdout.readline())
    assert found is not None
    return process, found[0]


def ask(address: str, since: str) -> dict:
    with urllib.request.urlopen(f"{address}data?metric=return&since={since}") as answer:
        return json.load(answer)


def by_requests(address: str, folder: Path, rows: int) -> tuple[float, float]:
    """Seconds until all curves are there, and until a new row is, as a page that asks every second sees them."""
    begun, since = time.perf_counter(), ""
    while True:
        answer = ask(address, since)
        since = answer["until"]
        if not answer["reading"]:
            break
    opened = time.perf_counter() - begun
    for _ in range(20):  # meanwhile the doctor sees the runs
        time.sleep(1)
        since = ask(address, since)["until"]
    begun = append_row(folder, rows)
    while True:
        answer = ask(address, since)
        if any(run["step"] == 100 * rows + 7 for run in answer["runs"]):
            return opened, time.perf_counter() - begun
        since = answer["until"]
        time.sleep(1)


def wait_until(tab: Any, condition: str) -> None:
    """Ask again and again: the page's own policy forbids the loop that `wait_for_function` puts into it."""
    while not tab.evaluate(condition):
        time.sleep(0.02)


def in_chromium(address: str, folder: Path, rows: int) -> tuple[float, float]:
    from playwright import sync_api as playwright

    with playwright.sync_playwright() as player:
        browser = player.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        tab, begun = browser.new_page(), time.perf_counter()
        tab.goto(address)
        wait_until(tab, "state.groups.length > 0 && !state.reading")
        opened = time.perf_counter() - begun
        time.sleep(20)
        begun = append_row(folder, rows)
        wait_until(tab, f"[...state.runs.values()].some(run => run.step === {100 * rows + 7})")
        updated = time.perf_counter() - begun
        browser.close()
    return opened, updated


def append_row(folder: Path, rows: int) -> float:
    """Append an episode to one run; returns the time of that."""
    with next(folder.iterdir()).joinpath("episodes.csv").open("a") as file:
        file.write(f"1.5,100,{100 * rows + 7},0,{rows}\n")
    return time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--chromium", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_runs(folder, given.runs, given.rows)
        process, address = start(folder)
        try:
            measure = in_chromium if given.chromium else by_requests
            opened, updated = measure(address, folder, given.rows)
        finally:
            process.terminate()
            process.wait()
    print(
        f"{given.runs} runs of {given.rows:,} rows: all curves after {opened:.2f} s, a new row after {updated:.2f} s"
    )


if __name__ == "__main__":
    main()
