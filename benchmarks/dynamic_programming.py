"""Seconds to solve large sparse Markov decision processes, compared with other libraries in one run of this script.

python benchmarks/dynamic_programming.py [--sizes 10000 100000 1000000] [--limit 60] [--json FILE]

Every state has 4 actions with 5 random successors each, the discount is 0.99, and values must be exact to 1e-6
(backward induction: 100 steps). Every figure is the median of up to three solutions in its own process, which may take
`limit` seconds. The library's own form of the table is built and programs are compiled before the measurement, but
within the limit. A library that exceeds the limit is not measured at larger sizes. Libraries that are not installed,
and methods that a library does not have, show a dash.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

import advantage as adv
from advantage.environments.tables.random_mdp import random_mdp

GAMMA, TOLERANCE, STEPS, ACTIONS, SUCCESSORS = 0.99, 1e-6, 100, 4, 5
Solved = Callable[[], np.ndarray]  # solves and returns the values

MODULES = {"quantecon": "quantecon", "mdpsolver": "mdpsolver", "pymdptoolbox": "mdptoolbox"}
METHODS: dict[str, dict[str, Any]] = {  # each library's name of the method
    "value iteration": {
        "advantage": adv.ValueIteration(),
        "quantecon": "value_iteration",
        "mdpsolver": ("vi", "standard"),
        "pymdptoolbox": "ValueIteration",
    },
    "Gauss–Seidel": {
        "advantage": adv.GaussSeidel(),
        "mdpsolver": ("vi", "gs"),
        "pymdptoolbox": "ValueIterationGS",
    },
    "prioritised value iteration": {"advantage": adv.PrioritisedValueIteration()},
    "policy iteration": {
        "advantage": adv.PolicyIteration(),
        "quantecon": "policy_iteration",
        "mdpsolver": ("pi", "standard"),
        "pymdptoolbox": "PolicyIteration",
    },
    "modified policy iteration (default)": {
        "advantage": None,
        "quantecon": "modified_policy_iteration",
        "mdpsolver": ("mpi", "standard"),
        "pymdptoolbox": "PolicyIterationModified",
    },
    "relative value iteration": {
        "advantage": adv.RelativeValueIteration(),
        "pymdptoolbox": "RelativeValueIteration",
    },
    "backward induction": {
        "advantage": adv.BackwardInduction(horizon=STEPS),
        "quantecon": "backward_induction",
        "pymdptoolbox": "FiniteHorizon",
    },
}


def table(n_states: int) -> adv.MDP:
    return random_mdp(n_states, ACTIONS, SUCCESSORS, gamma=GAMMA, as_sparse=True)


def quantecon(mdp: adv.MDP, method: str) -> Solved:
    from quantecon.markov import DiscreteDP, backward_induction

    state, action = np.divmod(np.arange(mdp.n_states * ACTIONS), ACTIONS)
    transition = mdp.transition[action * mdp.n_states + state]
    problem = DiscreteDP(mdp.expected_reward.ravel(), transition, GAMMA, state, action)
    if method == "backward_induction":
        return lambda: backward_induction(problem, STEPS)[0][0]
    return lambda: problem.solve(method=method, epsilon=TOLERANCE, max_iter=10**6).v


def mdpsolver(mdp: adv.MDP, method: tuple[str, str]) -> Solved:
    import mdpsolver

    shape = ACTIONS, mdp.n_states, SUCCESSORS
    probabilities, successors = (
        entries.reshape(shape).swapaxes(0, 1).tolist()
        for entries in (mdp.transition.data, mdp.transition.indices)
    )
    algorithm, update = method

    def solve() -> np.ndarray:
        model = mdpsolver.model()
        model.mdp(
            discount=GAMMA,
            rewards=mdp.expected_reward.tolist(),
            tranMatProbs=probabilities,
            tranMatColumns=successors,
        )
        begin = time.perf_counter()
        model.solve(algorithm=algorithm, update=update, tolerance=TOLERANCE)
        solve.seconds = time.perf_counter() - begin  # type: ignore[attr-defined]
        return np.array(model.getValueVector())

    return solve


def pymdptoolbox(mdp: adv.MDP, method: str) -> Solved:
    import copy

    import mdptoolbox.mdp
    from scipy import sparse

    rows = [
        sparse.csr_matrix(mdp.transition[a * mdp.n_states : (a + 1) * mdp.n_states]) for a in range(ACTIONS)
    ]
    arguments: dict[str, tuple] = {
        "ValueIteration": (GAMMA, TOLERANCE),
        "ValueIterationGS": (GAMMA, TOLERANCE),
        "PolicyIteration": (GAMMA,),
        "PolicyIterationModified": (GAMMA, TOLERANCE),
        "RelativeValueIteration": (TOLERANCE,),
        "FiniteHorizon": (GAMMA, STEPS),
    }
    rest = {"max_iter": 10**6} if method != "FiniteHorizon" else {}

    mdptoolbox.mdp.ValueIteration._boundIter = lambda *arguments: (
        None
    )  # it would take minutes to compute a bound that is not needed
    fresh = getattr(mdptoolbox.mdp, method)(rows, mdp.expected_reward, *arguments[method], **rest)

    def solve() -> np.ndarray:
        solver = copy.copy(fresh)  # a second run would continue from the end of the first
        solver.run()
        return (
            np.asarray(solver.V, float)[..., 0] if method == "FiniteHorizon" else np.asarray(solver.V, float)
        )

    return solve


PEERS: dict[str, Callable[[adv.MDP, Any], Solved]] = {
    "quantecon": quantecon,
    "mdpsolver": mdpsolver,
    "pymdptoolbox": pymdptoolbox,
}


def resident(line: str) -> int:
    """Memory of this process in bytes, from a line of its status: VmRSS is the present size, VmHWM the maximum."""
    text = Path("/proc/self/status").read_text()
    return int(text.split(line + ":")[1].split()[0]) * 1024


def ours(mdp: adv.MDP, solver: Any, facts: dict[str, float]) -> np.ndarray:
    """One solution; the first one records its memory beyond the table."""
    Path("/proc/self/clear_refs").write_text("5")  # resets the maximum to the present size
    before = resident("VmRSS")
    solution = adv.solve(mdp, solver)
    facts.setdefault("memory", (resident("VmHWM") - before) / mdp.nbytes)
    facts["iterations"] = solution.iterations
    return solution.value[0] if solution.value.ndim == 2 else solution.value


def measure(library: str, method: str, n_states: int, reference: str) -> dict[str, Any]:
    """Seconds of one method of one library, and how far its values are from the reference."""
    mdp, facts, name = table(n_states), {}, METHODS[method][library]
    solve: Any = lambda: ours(mdp, name, facts)  # noqa: E731
    if library != "advantage":
        if library == "quantecon":
            PEERS[library](table(100), name)()  # compiles
        solve = PEERS[library](mdp, name)
    seconds: list[float] = []
    value = np.zeros(0)
    while len(seconds) < 3 and sum(seconds) < 10:
        if library != "advantage":  # so that there is a figure if the limit stops a second or third solution
            print(json.dumps({"seconds": statistics.median(seconds)}) if seconds else "{}", flush=True)
        begin = time.perf_counter()
        value = solve()
        seconds.append(getattr(solve, "seconds", time.perf_counter() - begin))
    facts["seconds"] = statistics.median(seconds)
    if method not in ("relative value iteration", "backward induction"):
        facts["error"] = float(np.abs(value - np.load(reference)).max())
    if method == "value iteration" and library == "advantage":
        facts["bytes"] = facts["iterations"] * mdp.nbytes / facts["seconds"]
        facts["bandwidth"] = bandwidth()
    return facts


def bandwidth() -> float:
    """Bytes per second that two cores read sequentially from memory."""
    parts = [np.ones(2**25), np.ones(2**25)]
    with ThreadPoolExecutor(2) as pool:
        seconds = []
        for _ in range(5):
            begin = time.perf_counter()
            list(pool.map(np.sum, parts))
            seconds.append(time.perf_counter() - begin)
    return sum(part.nbytes for part in parts) / min(seconds)


def in_a_process(library: str, method: str, n_states: int, reference: str, limit: float) -> dict[str, Any]:
    """The last result printed by `measure`; empty if it ran out of time or memory."""
    command = [sys.executable, __file__, "--measure", library, method, str(n_states), reference]
    try:
        output = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, timeout=limit
        ).stdout
    except subprocess.TimeoutExpired as expired:
        output = (expired.stdout or b"").decode()
    printed = [line for line in output.splitlines() if line.startswith("{")]
    return json.loads(printed[-1]) if printed else {}


def line(method: str, n_states: int, reference: str, limit: float, failed: set) -> dict[str, Any]:
    """All figures of one method at one size."""
    facts: dict[str, Any] = {"method": method, "states": n_states}
    for library in METHODS[method]:
        installed = library == "advantage" or importlib.util.find_spec(MODULES[library])
        if not installed or (library, method) in failed:
            continue
        allowed = max(limit, 600) if library == "advantage" else limit
        facts[library] = in_a_process(library, method, n_states, reference, allowed)
        if "seconds" not in facts[library]:
            failed.add((library, method))
    return facts


def cell(facts: dict[str, Any], library: str, limit: float) -> str:
    if library not in facts:
        return "–"
    if "seconds" not in facts[library]:
        return f"over {limit:.0f} s"
    seconds = facts[library]["seconds"]
    return f"{seconds:.3g} s ({seconds / facts['advantage']['seconds']:.3g}×)"


def print_table(lines: list[dict[str, Any]], limit: float) -> None:
    """A Markdown table; each figure of another library has its ratio to ours in brackets."""
    print("| states | method | advantage | beyond the table | " + " | ".join(MODULES) + " |")
    print("|---:|---|---:|---:|" + "---:|" * len(MODULES))
    for facts in lines:
        mine = facts["advantage"]
        cells = [f"{facts['states']:,}", facts["method"]]
        cells += (
            [f"**{mine['seconds']:.3g} s**", f"{mine['memory']:.2f}×"] if "seconds" in mine else ["–", "–"]
        )
        print("| " + " | ".join([*cells, *(cell(facts, library, limit) for library in MODULES)]) + " |")
    print()
    for facts in lines:
        mine = facts["advantage"]
        if "bytes" in mine:
            print(
                f"{facts['states']:,} states: value iteration reads the table {mine['iterations']:.0f} times at "
                f"{mine['bytes'] / 1e9:.2f} GB/s; two cores read {mine['bandwidth'] / 1e9:.1f} GB/s sequentially."
            )
        wrong = {
            library: facts[library]["error"]
            for library in facts
            if isinstance(facts[library], dict) and facts[library].get("error", 0) > TOLERANCE
        }
        for library, error in wrong.items():
            print(
                f"{facts['states']:,} states, {facts['method']}: the values of {library} are wrong by {error:.2g}."
            )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", nargs="*", type=int, default=[10**4, 10**5, 10**6])
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS))
    parser.add_argument(
        "--limit", type=float, default=60.0, help="seconds for each figure of another library"
    )
    parser.add_argument("--json", help="a file for the figures")
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        library, method, n_states, reference = arguments.measure
        print(json.dumps(measure(library, method, int(n_states), reference)))
        return
    lines: list[dict[str, Any]] = []
    failed: set[tuple[str, str]] = set()
    with tempfile.TemporaryDirectory() as folder:
        reference = str(Path(folder) / "value.npy")
        for n_states in arguments.sizes:
            np.save(reference, adv.solve(table(n_states), adv.ModifiedPolicyIteration(tolerance=1e-9)).value)
            for method in arguments.methods:
                print(f"measuring {method}, {n_states:_} states ...", file=sys.stderr, flush=True)
                lines.append(line(method, n_states, reference, arguments.limit, failed))
                if arguments.json:
                    Path(arguments.json).write_text(json.dumps(lines, indent=1))
    print_table(lines, arguments.limit)


if __name__ == "__main__":
    main()
