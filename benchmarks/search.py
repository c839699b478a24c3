"""Evaluations per second of CMA-ES on the sphere, compared with other libraries in one run of this script.

python benchmarks/search.py [--seconds 2]
python benchmarks/search.py --scaling                  # writes search_scaling.csv beside this file
python benchmarks/search.py --evaluations              # the number of evaluations to 1e-9, median of 15 seeds

Ours and evosax's are compiled loops over generations (ask, the sphere, tell) in single precision, as in searches for
policies; ours also runs in double precision, like pycma. `compile` is the time of the first call minus that of a later
one. pycma runs in a Python loop, with the sphere of a whole generation as one NumPy expression. Every figure is the
best of the calls, which take turns. All run on one core: several threads of linear algebra would wait for each other on
a machine that also does other work. Libraries that are not installed show a dash.

The covariance is factorised as rarely as the CMA-ES tutorial allows, which is in every generation for 32 and for 256
candidates in 200 dimensions.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

if hasattr(os, "sched_setaffinity"):  # before the libraries count the cores
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

import jax
import jax.numpy as jnp
import numpy as np

from advantage.algorithms.search.cma_es import CMAES
from advantage.algorithms.search.minimize import minimize

SIZES = (20, 32), (20, 256), (200, 32), (200, 256)  # dimension, candidates
HERE = Path(__file__).parent


def sphere(x):
    return (x**2).sum(-1)


def loop(method: Any, x0: np.ndarray, generations: int) -> Callable[[], Any]:
    """`generations` generations from `x0` as one compiled call."""

    @jax.jit
    def program(key):
        def generation(state, key):
            x = method.ask(state, key)
            return method.tell(state, x, sphere(x)), None

        return jax.lax.scan(generation, method.begin(jnp.asarray(x0)), jax.random.split(key, generations))[
            0
        ].mean

    key = jax.random.key(0)
    return lambda: program(key).block_until_ready()


def evosax(d: int, candidates: int, generations: int) -> Callable[[], Any]:
    from evosax.algorithms import CMA_ES

    algorithm = CMA_ES(candidates, jnp.zeros(d))
    params = algorithm.default_params

    @jax.jit
    def program(key):
        def generation(state, key):
            draw, told = jax.random.split(key)
            x, state = algorithm.ask(draw, state, params)
            return algorithm.tell(told, x, sphere(x), state, params)[0], None

        state = algorithm.init(key, jnp.full(d, 3.0), params)
        return jax.lax.scan(generation, state, jax.random.split(key, generations))[0].mean

    key = jax.random.key(0)
    return lambda: program(key).block_until_ready()


def pycma(d: int, candidates: int, generations: int) -> Callable[[], Any]:
    import cma

    settings = {"popsize": candidates, "verbose": -9, "seed": 1}
    strategy = cma.CMAEvolutionStrategy(np.full(d, 3.0), 1.0, settings)

    def call():
        nonlocal strategy
        if strategy.countiter >= 10 * generations:  # restart; the best call is not affected
            strategy = cma.CMAEvolutionStrategy(np.full(d, 3.0), 1.0, settings)
        for _ in range(generations):
            x = strategy.ask()
            strategy.tell(x, sphere(np.array(x)).tolist())

    return call


def timed(call: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def least(calls: dict[str, Callable[[], Any]], seconds: float) -> tuple[dict[str, float], dict[str, float]]:
    """The time of each one's first call, and the shortest of the later calls, in turns."""
    first = {name: timed(call) for name, call in calls.items()}
    best = {name: timed(call) for name, call in calls.items()}
    until = time.perf_counter() + seconds * len(calls)
    while time.perf_counter() < until:
        for name, call in calls.items():
            best[name] = min(best[name], timed(call))
    return first, best


def peers(seconds: float) -> None:
    print(
        "| d | candidates | advantage | float64 | evosax | pycma | advantage / evosax | float64 / pycma | "
        "compile: advantage | evosax |"
    )
    print("|---:|" + "---:|" * 9)
    for d, n in SIZES:
        generations = 400 if d < 100 else 20  # takes some milliseconds; the start of a call takes 0.1 ms
        calls = {"advantage": loop(CMAES(sigma=1.0, candidates=n), np.full(d, 3.0, np.float32), generations)}
        with jax.enable_x64(True):
            calls["float64"] = in_float64(loop(CMAES(sigma=1.0, candidates=n), np.full(d, 3.0), generations))
        for name, make in (("evosax", evosax), ("cma", pycma)):
            if importlib.util.find_spec(name):
                calls[name] = make(d, n, generations)
        first, best = least(calls, seconds)
        speed = {name: n * generations / taken for name, taken in best.items()}
        names = "advantage", "float64", "evosax", "cma"
        figures = [f"{speed[name]:,.0f}" if name in speed else "–" for name in names]
        for mine, peer in (("advantage", "evosax"), ("float64", "cma")):
            figures.append(f"{speed[mine] / speed[peer]:.1f}×" if peer in speed else "–")
        for name in ("advantage", "evosax"):
            figures.append(f"{first[name] - best[name]:.1f} s" if name in speed else "–")
        print(f"| {d} | {n} | " + " | ".join(figures) + " |", flush=True)


def in_float64(call: Callable[[], Any]) -> Callable[[], Any]:
    def within():
        with jax.enable_x64(True):
            return call()

    return within


def scaling() -> None:
    """Milliseconds per generation by population and dimension, and the growth exponents between neighbours."""
    settings = [("separable", 1000, n) for n in (64, 256, 1024, 4096)]
    settings += [("full", 100, n) for n in (64, 256, 1024, 4096)]
    settings += [("separable", d, 64) for d in (125, 250, 500, 1000, 2000)]
    settings += [("full", d, 0) for d in (125, 250, 500, 1000, 2000)]
    rows = []
    for covariance, d, n in settings:
        method = CMAES(sigma=1.0, candidates=n or None, covariance=covariance)
        population = method.population(d)
        generations = 28 if covariance == "full" and d >= 500 else 100  # factorised every 1, 2, 4, 7 or 14
        call = loop(method, np.full(d, 3.0, np.float32), generations)
        _, best = least({"": call}, 4)
        milliseconds = 1e3 * best[""] / generations
        rows.append(
            dict(covariance=covariance, d=d, candidates=population, milliseconds=round(milliseconds, 4))
        )
        growth = ""
        if len(rows) > 1 and settings[len(rows) - 2][0] == covariance:
            before = rows[-2]
            by_d, by_n = math.log(d / before["d"]), math.log(population / before["candidates"])
            ratio = math.log(milliseconds / before["milliseconds"])
            growth = f"d^{ratio / by_d:.2f}" if by_d > 0 else f"n^{ratio / by_n:.2f}" if by_n > 0 else ""
        print(f"{covariance:10} d={d:5} n={population:5} {milliseconds:10.3f} ms  {growth}", flush=True)
    with open(HERE / "search_scaling.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


FUNCTIONS = {
    "sphere": lambda x: (x**2).sum(),
    "ellipsoid": lambda x: (1e6 ** (jnp.arange(x.size) / (x.size - 1)) * x**2).sum(),
    "Rosenbrock": lambda x: (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum(),
    "cigar": lambda x: x[0] ** 2 + 1e6 * (x[1:] ** 2).sum(),
    "tablet": lambda x: 1e6 * x[0] ** 2 + (x[1:] ** 2).sum(),
}
PYCMA = {  # version 4.5, active, from the same start points; all of its 15 seeds reach the target too
    5: (752, 1640, 1768, 1840, 1392),
    10: (1640, 4240, 5120, 4090, 3240),
    20: (3084, 13272, 16740, 8544, 7848),
}


def evaluations() -> None:
    """Median evaluations to 1e-9, their ratio to pycma's, and the number of seeds that reached it."""
    print("| d | candidates | " + " | ".join(FUNCTIONS) + " |")
    print("|---:|---:|" + "---:|" * len(FUNCTIONS))
    for d, theirs in PYCMA.items():
        cells = []
        for (name, f), other in zip(FUNCTIONS.items(), theirs, strict=True):
            start, sigma = (np.zeros(d), 0.3) if name == "Rosenbrock" else (np.full(d, 3.0), 1.0)
            runs = [minimize(f, start, sigma=sigma, f_target=1e-9, seed=seed) for seed in range(15)]
            arrived = sum(run.stop == "f_target" for run in runs)
            median = np.median([run.evaluations for run in runs])
            cells.append(f"{median:,.0f} ({median / other:.2f}×, {arrived} of 15)")
        print(f"| {d} | {CMAES().population(d)} | " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=2.0, help="seconds to measure each library and size")
    parser.add_argument(
        "--scaling", action="store_true", help="time of a generation by population and dimension"
    )
    parser.add_argument(
        "--evaluations", action="store_true", help="evaluations to reach 1e-9 on five functions"
    )
    arguments = parser.parse_args()
    if arguments.evaluations:
        evaluations()
    elif arguments.scaling:
        scaling()
    else:
        peers(arguments.seconds)


if __name__ == "__main__":
    main()
