"""Where the learner of asynchronous actors saturates: measured costs, and a simulated queue of up to 1,000 actors.

    .venv/bin/python benchmarks/cluster_queue.py measure    # writes benchmarks/cluster_costs.csv
    .venv/bin/python benchmarks/cluster_queue.py simulate   # reads it; writes docs/cluster/queue.png, prints a table

An actor makes a rollout, which then waits for the learner. The learner takes one rollout after another. An actor of
IMPALA goes on when its rollout is taken, one of A3C when its gradient has been applied. The second is the repair of N
machines by one mechanic: with exponential times its throughput has a closed form (`throughput_of_repair`).
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import heapq
import math
import time
from collections import deque
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

HERE = Path(__file__).resolve().parent
COSTS = HERE / "cluster_costs.csv"
PICTURE = HERE.parent / "docs" / "cluster" / "queue.png"
N_STEPS = 20  # of a rollout, in each environment
SIZES = (2, 32)  # environments of an actor, whose costs are measured
NUMBERS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)  # of actors


@dataclasses.dataclass(frozen=True)
class Plant:
    """Actors and a learner.

    Attributes:
        actors: N.
        rollout: mean seconds in which an actor makes a rollout.
        service: mean seconds in which the learner takes one and learns from it.
        waits: an actor begins its next rollout when the learner is done with its last one (A3C), not when it begins.
        times: the distribution of both times.
    """

    actors: int
    rollout: float
    service: float
    waits: bool = False
    times: Literal["exponential", "fixed"] = "exponential"


class Flow(NamedTuple):
    """Updates a second, the share of time in which the learner is busy, and the mean lag in updates."""

    rate: float
    busy: float
    lag: float


def simulate(plant: Plant, updates: int = 20_000, seed: int = 0) -> Flow:
    """Event by event; the first half of the updates fills the queue and is not counted."""
    rng = np.random.default_rng(seed)
    draws = rng.exponential(size=(2, updates + plant.actors)) if plant.times == "exponential" else None

    def duration(kind: int, number: int, mean: float) -> float:
        return mean if draws is None else mean * float(draws[kind, number])

    ready = [(duration(0, n, plant.rollout), n, 0) for n in range(plant.actors)]  # time, actor, version
    heapq.heapify(ready)
    queue: deque[tuple[int, int]] = deque()
    now, begun, busy, lag = 0.0, 0.0, 0.0, 0
    for version in range(updates):
        if version == updates // 2:
            begun, busy, lag = now, 0.0, 0
        if not queue:
            now = max(now, ready[0][0])
        while ready and ready[0][0] <= now:
            queue.append(heapq.heappop(ready)[1:])
        actor, acted = queue.popleft()
        lag += version - acted
        end = now + duration(1, version, plant.service)
        leaves, newest = (end, version + 1) if plant.waits else (now, version)
        again = leaves + duration(0, plant.actors + version, plant.rollout)
        heapq.heappush(ready, (again, actor, newest))
        busy += end - now
        now = end
    counted, seconds = updates - updates // 2, now - begun
    return Flow(counted / seconds, busy / seconds, lag / counted)


def throughput_of_repair(plant: Plant) -> float:
    """Updates a second of actors that wait, with exponential times.

        (1 - P_0) / s,   P_0 = 1 / sum_{k=0}^N  N! / (N - k)! (s / a)^k

    Source: Kleinrock 1975, "Queueing systems, volume 1", section 3.8, M/M/1//M.
    """
    log_ratio = math.log(plant.service / plant.rollout)
    n = plant.actors
    terms = [math.lgamma(n + 1) - math.lgamma(n - k + 1) + k * log_ratio for k in range(n + 1)]
    top = max(terms)
    idle = math.exp(-top) / sum(math.exp(term - top) for term in terms)
    return (1 - idle) / plant.service


def measure() -> None:
    """Seconds of the learner for a rollout, with actors that sleep and take no core from it."""
    from advantage.drivers.cluster.connection import Connection

    rows = []
    with Connection("local:2", "costs"):
        for mode in ("asynchronous", "a3c"):
            for size in SIZES:
                rows.append([mode, size * N_STEPS, _learner_seconds(mode, size)])
                print(*rows[-1], flush=True)
    with COSTS.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([["mode", "steps", "seconds"], *rows])


def _learner_seconds(mode: str, size: int, updates: int = 40) -> float:
    """Mean seconds of an update without the time in which the learner waits for a rollout."""
    import jax
    from cluster import Sleeper

    import advantage as adv
    from advantage.drivers.cluster.actors import ClusterRun
    from advantage.drivers.cluster.asynchronous import AsynchronousDriver

    algorithm = adv.A2C(n_steps=N_STEPS) if mode == "a3c" else adv.Impala(n_steps=N_STEPS)
    spec = adv.Spec(Sleeper.observation_space, Sleeper.action_space, size, 10**8)
    run = ClusterRun(algorithm, lambda: Sleeper(0.1 / N_STEPS / size), spec, 0, 1, 60.0)
    driver = AsynchronousDriver(run, gradients=mode == "a3c")
    key = jax.random.key(0)[None]
    state = driver.start(jax.tree.map(lambda x: x[None], algorithm.init(key[0], spec)), key)
    waiting, wait = [0.0], driver.actors.wait

    def timed(*arguments: Any, **keywords: Any) -> Any:
        begin = time.perf_counter()
        answered = wait(*arguments, **keywords)
        waiting[0] += time.perf_counter() - begin
        return answered

    driver.actors.wait = timed
    step, begin = 0, 0.0
    for n in range(updates + 10):
        if n == 10:  # all is compiled
            begin, waiting[0] = time.perf_counter(), 0.0
        result = driver.iterate(state, key, driver.span(n, step, step + 1))
        state, step = jax.block_until_ready(result.state), step + int(result.steps[-1])
    seconds = (time.perf_counter() - begin - waiting[0]) / updates
    driver.close()
    return seconds


class Case(NamedTuple):
    """A way to run: its name, whether actors wait, and environments of an actor."""

    name: str
    mode: str
    environments: int


CASES = (
    Case("IMPALA, 2 environments an actor", "asynchronous", 2),
    Case("IMPALA, 32 environments an actor", "asynchronous", 32),
    Case("A3C, 2 environments an actor", "a3c", 2),
    Case("A3C, 32 environments an actor", "a3c", 32),
)
STEP_SECONDS = 0.001  # of an environment, with acting


def plant_of(case: Case, actors: int, costs: dict[tuple[str, int], float]) -> Plant:
    """The plant of a case, with the measured cost of the learner."""
    steps = case.environments * N_STEPS
    return Plant(actors, steps * STEP_SECONDS, costs[case.mode, steps], waits=case.mode == "a3c")


def draw() -> None:
    """The picture, and a row of the table for each case."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with COSTS.open(newline="") as file:
        costs = {(row["mode"], int(row["steps"])): float(row["seconds"]) for row in csv.DictReader(file)}
    figure = Figure(figsize=(10, 4.2), dpi=100, layout="constrained")
    canvas, (left, right) = FigureCanvasAgg(figure), figure.subplots(1, 2)
    print("| case | learner, ms a rollout | saturates at | steps/s of 10, 100, 1,000 actors | lag |")
    print("|---|---:|---:|---:|---:|")
    for case in CASES:
        plants = {n: plant_of(case, n, costs) for n in NUMBERS}
        flows = {n: simulate(plant) for n, plant in plants.items()}
        steps = case.environments * N_STEPS
        line = "--" if case.mode == "a3c" else "-"
        color = "tab:blue" if case.environments == SIZES[0] else "tab:orange"
        left.loglog(
            NUMBERS, [flow.rate * steps for flow in flows.values()], line, color=color, label=case.name
        )
        right.loglog(NUMBERS, [max(flow.lag, 0.1) for flow in flows.values()], line, color=color)
        one = plants[1]
        full = one.rollout / one.service + one.waits
        shown = [flows[n] for n in (10, 100, 1000)]
        print(
            f"| {case.name} | {1000 * one.service:.1f} | {full:.0f} | "
            f"{', '.join(f'{flow.rate * steps:,.0f}' for flow in shown)} | "
            f"{', '.join(f'{flow.lag:.0f}' for flow in shown)} |"
        )
    left.loglog(NUMBERS, np.array(NUMBERS) / STEP_SECONDS, ":", color="grey", label="no learner")
    left.set(xlabel="actors", ylabel="environment steps a second", ylim=(500, 2e6))
    right.set(xlabel="actors", ylabel="lag in updates (0.1 or less: none)")
    left.legend(fontsize=8, loc="upper left")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    canvas.print_png(PICTURE)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("jobs", nargs="*", default=["measure", "simulate"])
    for job in parser.parse_args().jobs:
        {"measure": measure, "simulate": draw}[job]()
