"""Damage run folders at random, and see whether what reads them names the damage.

python benchmarks/fuzz_runs.py [--inputs 2000] [--seed 0] [--commands 40]

Each input is a copy of a small finished run of one of four kinds in which one file was damaged: config.json, a
manifest, the tensors (with records), or a log; as bytes, as JSON, as a table, or as tensors with right checksums. The
functions behind `eval`, `compare` and `resume` read it in this process (`evaluate` if the config is damaged, `resume`
if the others noticed nothing and for every fourth input). The first `--commands` inputs are also given to the command
line. Each input must end in one of two ways: an error or a notice says what is wrong; or every answer is that of the
undamaged run (the damage was to a comment, a clock or an option that changes no answer). Anything else is a failure:
another exception, another answer without a word, or the marker file of the code that lies in the folder. Not damaged
are budgets, which may be changed in config.json, and not compared are clocks.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import hashlib
import io
import json
import os
import pickle
import random
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import load_file, save_file

import advantage as adv
from advantage.runs.recorded import checksum
from advantage.training.reporting import Silent

SMALL = adv.PPO(n_steps=32, batch_size=32, n_epochs=1, hidden=(8,))
KINDS: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "host": (SMALL, "CartPole-v1", {"total_timesteps": 256, "num_envs": 2}),
    "device": (SMALL, "jax/CartPole-v1", {"total_timesteps": 256, "num_envs": 2}),
    "table": (adv.QLearning(), "FrozenLake-v1", {"total_timesteps": 512}),
    "solver": (adv.ValueIteration(gamma=0.9), "FrozenLake-v1", {"total_timesteps": 100}),
}
LOGS = ("episodes.csv", "evaluations.csv", "progress.csv")
FILES = ("config.json", "last/manifest.json", "last/state.safetensors", *LOGS)
HOSTILE: list[Any] = [
    *(
        None,
        True,
        -1,
        0,
        3,
        1e400,
        float("nan"),
        2**70,
        0.5,
        "",
        "x",
        "$\\frac{$",
        "\x1b[2J",
        "../../../etc/passwd",
    ),
    *("payload:CartPole-v1", "payload", "os:system", "CartPole-v0", [], [1], {}, {"py/object": "os.system"}),
    *({"linear": [1]}, {"python": "open('executed', 'w')"}, [[[]]]),
]
NAMED = (adv.CheckpointError, ValueError, FileNotFoundError)


class Bomb:
    """Its pickle writes a file where it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, ("executed", "w"))


class Notices(Silent):
    """Keeps what a run says."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def message(self, text: str) -> None:
        self.said.append(text)


# Damage


def damage_bytes(file: Path, chance: random.Random) -> str:
    data = bytearray(file.read_bytes())
    at = chance.randrange(max(len(data), 1))
    size = chance.choice([1, 1, 4, 64, 512])
    how = chance.choice(["flip", "cut", "remove", "insert", "zero", "repeat", "pickle", "empty", "delete"])
    if how == "delete":
        file.unlink()
        return how
    if how == "flip" and data:
        data[at] ^= 1 << chance.randrange(8)
    elif how == "insert":
        data[at:at] = chance.randbytes(size)
    elif how == "repeat":
        data[at:at] = data[at : at + size]
    elif how == "zero":
        data[at : at + size] = bytes(len(data[at : at + size]))
    elif how == "remove":
        del data[at : at + size]
    elif how == "cut":
        del data[at:]
    else:
        data = bytearray(pickle.dumps(Bomb()) if how == "pickle" else b"")
    file.write_bytes(data)
    return how


def places(value: Any, path: tuple = ()) -> list[tuple]:
    """The key paths of a JSON value."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, part in pairs for place in [(*path, key), *places(part, (*path, key))]]


def damage_json(file: Path, chance: random.Random) -> str:
    content = json.loads(file.read_text())
    choices = [
        place for place in places(content) if place[-1] != "total_timesteps"
    ]  # a budget may be changed
    *path, key = chance.choice(choices)
    inside = content
    for step in path:
        inside = inside[step]
    value, how = inside[key], chance.choice(["delete", "replace", "replace", "near", "rename"])
    name = "/".join(map(str, (*path, key)))
    if how == "near" and isinstance(value, bool):
        inside[key] = not value
    elif how == "near" and isinstance(value, int | float):
        inside[key] = value + chance.choice([-1, 1, 10])
    elif how == "delete":
        del inside[key]
    elif how == "rename" and isinstance(key, str):
        inside[f"{key}x"] = inside.pop(key)
    else:
        inside[key] = chance.choice(HOSTILE)
    file.write_text(json.dumps(content))
    return f"{how} {name}"


def damage_table(file: Path, chance: random.Random) -> str:
    lines = file.read_text().split("\n")
    at = chance.randrange(max(len(lines) - 1, 1))
    cells = lines[at].split(",")
    cell = chance.randrange(len(cells))
    how = chance.choice(["line", "again", "cell", "digit", "column", "swap", "half"])
    if how == "line":
        del lines[at]
    elif how == "again":
        lines.insert(at, lines[at])
    elif how == "half":
        lines[at:] = [lines[at][: len(lines[at]) // 2]]
    elif how == "column":
        lines[at] += ",1"
    else:
        if how == "swap":
            cells[cell], cells[0] = cells[0], cells[cell]
        elif how == "digit":
            digits = [i for i, letter in enumerate(cells[cell]) if letter.isdigit()]
            if digits:
                i = chance.choice(digits)
                cells[cell] = cells[cell][:i] + str(chance.randrange(10)) + cells[cell][i + 1 :]
        else:
            cells[cell] = chance.choice(["", "nan", "inf", "-1", "x", "1e999", "0x10", '"', "=cmd()"])
        lines[at] = ",".join(cells)
    file.write_text("\n".join(lines))
    return f"{how} of line {at + 1}"


def damage_tensors(file: Path, chance: random.Random) -> str:
    """Damage a tensor and make all checksums right again, as somebody would who means it."""
    tensors, manifest = load_file(file), json.loads((file.parent / "manifest.json").read_text())
    name = chance.choice(sorted(tensors))
    x = tensors[name]
    how = chance.choice(["not a number", "infinite", "shape", "type", "missing", "another", "negative"])
    if how in ("not a number", "infinite"):
        floats = [n for n in sorted(tensors) if tensors[n].dtype.kind == "f" and tensors[n].size]
        name = chance.choice(floats)
        tensors[name] = tensors[name].copy()
        tensors[name].flat[chance.randrange(tensors[name].size)] = np.nan if how == "not a number" else np.inf
    elif how == "shape":
        tensors[name] = np.concatenate([np.ravel(x), np.zeros(1, x.dtype)])
    elif how == "type":
        tensors[name] = x.astype(np.float16)
    elif how == "missing":
        del tensors[name]
    elif how == "another":
        tensors[f"{name}x"] = x
    else:
        counts = [
            n for n in sorted(tensors) if n.startswith(("records/book/lengths", "records/recent/lengths"))
        ]
        name = chance.choice(counts or [name])
        tensors[name] = tensors[name] - 1000 if counts else np.zeros(7, np.int8)
    save_file({n: np.ascontiguousarray(t) if t.ndim else t for n, t in tensors.items()}, file)
    data, entries = file.read_bytes(), manifest["tensors"]
    manifest |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    manifest["tensors"] = {
        n: entries.get(n, {}) | {"shape": list(t.shape), "dtype": t.dtype.name} for n, t in tensors.items()
    }
    manifest["metadata"]["sha256"] = checksum(manifest["metadata"])
    (file.parent / "manifest.json").write_text(json.dumps(manifest))
    return f"{how} {name}"


def damage(run: Path, chance: random.Random) -> str:
    """Damage one file of a run; returns what was done."""
    name = chance.choice(FILES)
    file = run / name
    special = {".json": damage_json, ".csv": damage_table, ".safetensors": damage_tensors}[file.suffix]
    return f"{name}: {chance.choice([damage_bytes, special, special])(file, chance)}"


# Reading


def loaded(run: Path) -> Any:
    agent = adv.load(run)
    leaves = [np.asarray(jax.random.key_data(x) if _is_key(x) else x) for x in jax.tree.leaves(agent.state)]
    digest = hashlib.sha256(b"".join(x.tobytes() for x in leaves)).hexdigest()
    spec = dataclasses.replace(agent.spec, total_timesteps=1)  # a budget may be changed
    return digest, repr(agent.algorithm), repr(spec), agent.step


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def evaluated(run: Path) -> Any:
    return adv.evaluate(run, episodes=1, seed=1).returns.tolist()


def compared(run: Path) -> Any:
    result = adv.compare(run).to_json()
    scores = [{name: value for name, value in row.items() if name != "seconds"} for row in result["scores"]]
    return json.dumps([result["environment"], scores, result["score_of"]])


def resumed(run: Path) -> Any:
    notices = Notices()
    ended = adv.resume(run, reporter=notices)
    said = [text for text in notices.said if "lacks" in text or " rows " in text or "not as the run" in text]
    said += [text for text in notices.said if "Resumed with" in text or "not drawn" in text]
    if said:
        raise adv.CheckpointError(said[0])
    return ended.step, ended.finished, loaded(run)


USES: dict[str, Callable[[Path], Any]] = {
    "load": loaded, "evaluate": evaluated, "compare": compared, "resume": resumed
}  # fmt: skip


def answers(
    run: Path, *, with_resume: bool = True, with_evaluation: bool = True
) -> dict[str, tuple[str, Any]]:
    """What each use gives: `named` with the message, `answer` with the answer, or `traceback` with it."""
    found: dict[str, tuple[str, Any]] = {}
    for name, use in USES.items():
        if name == "evaluate" and not with_evaluation:
            continue
        if name == "resume" and not with_resume and any(kind == "named" for kind, _ in found.values()):
            continue
        try:
            found[name] = "answer", use(run)
        except NAMED as error:
            found[name] = "named", str(error)
        except Exception:
            found[name] = "traceback", traceback.format_exc()
    return found


def judge(found: dict[str, tuple[str, Any]], right: dict[str, tuple[str, Any]]) -> tuple[str, str]:
    """`-> verdict, explanation`."""
    if Path("executed").exists():
        return "code was run", ""
    for name, (kind, value) in found.items():
        if kind == "traceback":
            return "traceback", f"{name}: {value}"
        if found[name] != right[name] and kind == "answer":
            return "silent", f"{name}: {value} instead of {right[name][1]}"
    named = [value for kind, value in found.values() if kind == "named"]
    return ("named", named[0]) if named else ("no answer changed", "")


def through_the_command_line(run: Path, chance: random.Random) -> str:
    """A verdict on one command."""
    verb = chance.choice(
        [["eval", ".", "--episodes", "1"], ["resume", "."], ["compare", ".", "--out", "cmp"]]
    )
    done = subprocess.run(
        [sys.executable, "-m", "advantage", *verb],
        cwd=run,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    text = done.stdout + done.stderr
    if (run / "executed").exists():
        return "code was run"
    wrong = "Traceback" in text or "should not have happened" in text or done.returncode not in (0, 1, 2)
    return "traceback" if wrong or (done.returncode and not done.stderr.strip()) else "as it should be"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commands", type=int, default=40)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    begin, home = time.monotonic(), Path(tempfile.mkdtemp())
    whole, right = {}, {}
    for kind, (algorithm, environment, training) in KINDS.items():
        settings = (
            {"eval_episodes": 2, "workers": 0, "tensorboard": False}
            if kind == "host"
            else {"eval_episodes": 2}
        )
        whole[kind] = adv.train(algorithm, environment, out=home / kind, **(training | settings)).path
        (whole[kind] / "payload.py").write_text("open('executed', 'w')\n")
        right[kind] = answers(whole[kind])
        assert {state for state, _ in right[kind].values()} <= {"answer"} or kind == "solver", right[kind]
    verdicts, by_command = collections.Counter(), collections.Counter()
    for number in range(options.inputs):
        chance = random.Random(f"{options.seed} {number}")
        kind = chance.choice(sorted(KINDS))
        run = Path(shutil.copytree(whole[kind], home / "input" / "run", symlinks=True))
        done = damage(run, chance)
        if number < options.commands:
            again = Path(shutil.copytree(run, home / "input" / "again", symlinks=True))
            by_command[through_the_command_line(again, chance)] += 1
        os.chdir(run)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            verdict, why = judge(
                answers(run, with_resume=number % 4 == 0, with_evaluation=done.startswith("config.json")),
                right[kind],
            )
        os.chdir(home)
        verdicts[verdict] += 1
        if number % 100 == 99:
            print(f"{number + 1} inputs: {dict(verdicts)}", flush=True)
        if verdict not in ("named", "no answer changed"):
            print(f"input {number}, {kind}, {done}: {verdict}: {why[-1500:]}", flush=True)
        shutil.rmtree(home / "input")
    shutil.rmtree(home)
    print(
        f"seed {options.seed}, {options.inputs} inputs, {time.monotonic() - begin:.0f} seconds: {dict(verdicts)}"
    )
    print(f"{sum(by_command.values())} of them through the command line: {dict(by_command)}")
    return int(bool(set(verdicts) - {"named", "no answer changed"} or set(by_command) - {"as it should be"}))


if __name__ == "__main__":
    sys.exit(main())
