"""Returns of trained agents, with several seeds, beside published figures.

python benchmarks/learning.py [--jobs CartPole-v1 ...] [--processes 2] [--table]

Every run has its own process and one row of benchmarks/learning.csv, written when it ends; runs that have a row
are not repeated, and a run that was stopped is resumed from its last checkpoint, in runs/learning. Jobs with
`eval_every` add the evaluations on their way to benchmarks/learning_curves.csv. `--table` trains nothing and prints
the finished rows.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

RESULTS = Path(__file__).with_name("learning.csv")
COLUMNS = ["job", "seed", "steps", "seconds", "last_100", "stochastic", "deterministic"]
CURVES = Path(__file__).with_name("learning_curves.csv")
RUNS = Path(__file__).parent.parent / "runs" / "learning"


class Job(NamedTuple):
    """An environment, its training, the numbers of seeds and evaluation episodes, and published figures for it.

    `options` are options of the algorithm, or, if it does not have them, of the run.
    """

    environment: str
    preset: bool
    seeds: int
    episodes: int
    reference: str
    algorithm: str = "ppo"
    options: tuple[tuple[str, Any], ...] = ()


CARTPOLE = (("total_timesteps", 300_000),)
# The surrogates of the paper's table 1. Its clip of 0.2 is the default, so the jobs without a name have it.
# The paper's policies use raw actions. Of these tasks, only InvertedPendulum has bounds other than -1 and 1.
AS_IN_THE_PAPER = (("action_units", "raw"),)
SURROGATES: dict[str, tuple[tuple[str, Any], ...]] = {
    "no clip": (("objective", "none"),),
    "clip 0.1": (("clip_range", 0.1),),
    "clip 0.3": (("clip_range", 0.3),),
    **{f"adaptive KL {x:g}": (("objective", "adaptive-kl"), ("kl_target", x)) for x in (0.003, 0.01, 0.03)},
    **{f"fixed KL {x:g}": (("objective", "fixed-kl"), ("kl_coef", x)) for x in (0.3, 1.0, 3.0, 10.0)},
}
MUJOCO = [
    f"{name}-v5"
    for name in (
        "HalfCheetah",
        "Hopper",
        "InvertedDoublePendulum",
        "InvertedPendulum",
        "Reacher",
        "Swimmer",
        "Walker2d",
    )
]
MUJOCO_OFF_POLICY = ["HalfCheetah-v5", "Hopper-v5", "Walker2d-v5", "InvertedPendulum-v5"]
EVALUATED = (("eval_every", 50_000), ("checkpoint_every", 50_000))
JOBS = {
    "CartPole-v1": Job("CartPole-v1", True, 10, 100, "500 (rl-zoo), 490 ± 6 (CleanRL)"),
    "Acrobot-v1": Job("Acrobot-v1", True, 10, 100, "−73.5 (rl-zoo), −86 (CleanRL)"),
    "Pendulum-v1": Job("Pendulum-v1", True, 10, 100, "−172 (rl-zoo); the optimum is −137.9 ± 1.2"),
    "MountainCarContinuous-v0": Job("MountainCarContinuous-v0", True, 10, 100, "88.3 (rl-zoo)"),
    "jax/CartPole-v1": Job("jax/CartPole-v1", True, 10, 100, "as on the host"),
    "jax/Catch-v0": Job("jax/Catch-v0", True, 3, 100, "1, the optimum"),
    "jax/MinBreakout-v0": Job(
        "jax/MinBreakout-v0", True, 3, 100, "0.5 at random, 9.8 ± 0.6 always below the ball"
    ),
    "HalfCheetah-v5": Job(
        "HalfCheetah-v5", False, 10, 20, "1443 ± 46 (CleanRL), 1669 (baselines), 1800 (paper)"
    ),
    "Hopper-v5": Job("Hopper-v5", False, 3, 20, "2383 ± 272, 2316, 2330"),
    "Walker2d-v5": Job("Walker2d-v5", False, 10, 20, "2288 ± 572, 3425, 3460"),
    "Swimmer-v5": Job("Swimmer-v5", False, 3, 20, "125 (8M steps), 111, 108"),
    "Swimmer-v5, preset": Job("Swimmer-v5", True, 3, 20, "282 (rl-zoo)"),
    "Reacher-v5": Job("Reacher-v5", False, 3, 100, "−4.65 (8M steps), −6.7, −7"),
    "InvertedPendulum-v5": Job("InvertedPendulum-v5", False, 3, 20, "963, 809, 1000"),
    "InvertedDoublePendulum-v5": Job(
        "InvertedDoublePendulum-v5", False, 10, 20, "5626 (8M steps), 7103, 8000"
    ),
    "reinforce CartPole-v1": Job("CartPole-v1", False, 5, 100, "500, the limit", "reinforce", CARTPOLE),
    "vpg CartPole-v1": Job("CartPole-v1", False, 5, 100, "500, the limit", "vpg", CARTPOLE),
    "actor-critic CartPole-v1": Job(
        "CartPole-v1",
        False,
        5,
        100,
        "500, the limit",
        "actor-critic",
        (*CARTPOLE, ("num_envs", 8), ("n_steps", 64), ("critic_epochs", 10), ("learning_rate", 3e-3)),
    ),
    "a2c CartPole-v1": Job(
        "CartPole-v1", False, 5, 100, "500, the limit", "a2c", (*CARTPOLE, ("num_envs", 8))
    ),
    "npg CartPole-v1": Job("CartPole-v1", False, 5, 100, "500, the limit", "npg", CARTPOLE),
    "trpo CartPole-v1": Job("CartPole-v1", False, 5, 100, "500, the limit", "trpo", CARTPOLE),
    **{
        f"{algorithm} {environment}": Job(
            environment,
            False,
            10 if (algorithm, environment) == ("trpo", "Swimmer-v5") else 3,
            20,
            reference,
            algorithm,
        )
        for algorithm in ("trpo", "npg")
        for environment, reference in {
            "HalfCheetah-v5": "1290 (baselines TRPO), 4471 (Tianshou TRPO, v3)",
            "Hopper-v5": "1913, 2046",
            "Walker2d-v5": "2343, 3827",
            "Swimmer-v5": "95, 41",
        }.items()
    },
    "dqn CartPole-v1": Job("CartPole-v1", True, 3, 100, "500, the limit", "dqn"),
    "dqn Acrobot-v1": Job("Acrobot-v1", True, 3, 100, "−76.6 (rl-zoo)", "dqn"),
    "dqn LunarLander-v3": Job("LunarLander-v3", True, 3, 100, "200 counts as solved", "dqn"),
    "drqn jax/StatelessCartPole-v1": Job("jax/StatelessCartPole-v1", True, 3, 100, "500, the limit", "drqn"),
    "sac MountainCarContinuous-v0": Job("MountainCarContinuous-v0", True, 3, 100, "94.7 (rl-zoo)", "sac"),
    "sac CartPole-v1": Job("CartPole-v1", True, 3, 100, "500, the limit", "sac"),
    **{
        f"{algorithm} Pendulum-v1": Job(
            "Pendulum-v1", True, 3, 1000, "−157 (rl-zoo SAC); the optimum is −137.9 ± 1.2", algorithm
        )
        for algorithm in ("sac", "td3", "ddpg")
    },
    "td3 HalfCheetah-v5, preset": Job(
        "HalfCheetah-v5",
        True,
        3,
        20,
        "5519 ± 475, and 3589 ± 367 after 50,000 steps (authors, v1)",
        "td3",
        (("eval_every", 50_000),),
    ),
    "crossq HalfCheetah-v5": Job(
        "HalfCheetah-v5",
        False,
        3,
        20,
        "SAC has 3,589 after 100,000 steps",
        "crossq",
        (("total_timesteps", 100_000), ("eval_every", 10_000)),
    ),
    **{
        f"{algorithm} {environment}": Job(environment, False, 1, 20, reference, algorithm, EVALUATED)
        for algorithm, references in {
            "td3": ("9583 (CleanRL), 9497 (authors, v1)", "3135, 3435", "4058, 4517", "969"),
            "sac": ("9635 (CleanRL)", "2310", "3591", "909"),
        }.items()
        for environment, reference in zip(MUJOCO_OFF_POLICY, references, strict=True)
    },
    **{
        f"{algorithm} jax/{environment}": Job(f"jax/{environment}", True, 3, 100, reference, algorithm)
        for algorithm in ("cem", "cma-es", "ars")
        for environment, reference in {
            "CartPole-v1": "500, the limit",
            "Pendulum-v1": "the optimum is −137.9 ± 1.2",
        }.items()
    },
    "muzero jax/CartPole-v1": Job("jax/CartPole-v1", True, 3, 20, "500, the limit", "muzero"),
    "pets jax/CartPoleContinuous-v0": Job(
        "jax/CartPoleContinuous-v0", True, 3, 5, "200, the limit, in five trials (paper)", "pets"
    ),
    "cem-planning jax/CartPoleSwingUp-v0": Job(
        "jax/CartPoleSwingUp-v0", True, 3, 20, "500, the limit", "cem-planning"
    ),
    "dyna-network HalfCheetah-v5": Job(
        "HalfCheetah-v5",
        True,
        2,
        20,
        "SAC has 1,540 after 50,000 steps",
        "dyna-network",
        (("eval_every", 5_000),),
    ),
    **{
        f"{memory}, jax/{environment}": Job(
            f"jax/{environment}", True, 3, 100, reference, options=(("network", network), *options)
        )
        for environment, reference in {
            "TMaze10-v0": "4, the best return; at most 1.95 without memory",
            "TMaze30-v0": "4, the best return; at most 1.95 without memory",
            "StatelessCartPole-v1": "500, the limit",
            "StatelessPendulum-v1": "the optimum with velocities is −137.9 ± 1.2",
        }.items()
        for memory, network, options in (
            ("GRU", "gru", ()),
            ("no memory", None, (("hidden", (64, 64)), ("memory_span", None))),
            *(
                (("4 frames", None, (("hidden", (64, 64)), ("frame_stack", 4))),)
                if "State" in environment
                else ()
            ),
        )
    },
    "ars Swimmer-v5": Job("Swimmer-v5", True, 3, 20, "325 is the paper's threshold for v1", "ars"),
    "ars HalfCheetah-v5": Job("HalfCheetah-v5", True, 3, 20, "3430 is the paper's threshold for v1", "ars"),
}
ABLATION = {
    f"{setting}, {environment}": Job(environment, False, 3, 20, "", options=options + AS_IN_THE_PAPER)
    for setting, options in SURROGATES.items()
    for environment in MUJOCO
}
# Where actions cost, it matters that the environments of the paper's time took samples beyond the bounds.
COSTLY = ["HalfCheetah-v5", "Hopper-v5", "Reacher-v5", "Swimmer-v5", "Walker2d-v5"]
UNBOUNDED = (*AS_IN_THE_PAPER, ("action_bounds", "none"))
ABLATION |= {
    f"unbounded, {setting}, {environment}": Job(environment, False, 3, 20, "", options=options + UNBOUNDED)
    for setting, options in ({"clip 0.2": ()} | SURROGATES).items()
    for environment in COSTLY
}


def learn(name: str, seed: int) -> dict[str, Any]:
    """Train once and evaluate: `-> a row`."""
    import advantage as adv
    from advantage.algorithms.registry import default_algorithm, hyperparameters_of, with_hyperparameters
    from advantage.runs.folder import RunFolder
    from advantage.runs.log import read_episodes, read_evaluations, read_progress

    job = (JOBS | ABLATION)[name]
    algorithm, options = default_algorithm(job.algorithm), {}
    if job.preset:
        algorithm, options = adv.preset(job.algorithm, job.environment)
    own = hyperparameters_of(algorithm)
    algorithm = with_hyperparameters(algorithm, {name: value for name, value in job.options if name in own})
    options = options | {name: value for name, value in job.options if name not in own}
    out = RUNS / f"{name.replace('/', '-')}, seed {seed}"
    # without a clip the parameters may become infinite; then the last saved policy counts
    with contextlib.suppress(adv.NonFiniteUpdate):
        if (out / "last").exists():
            adv.resume(out)
        else:
            shutil.rmtree(out, ignore_errors=True)
            episodes = 10 if "eval_every" in options else 0
            adv.train(
                algorithm, job.environment, out=out, seed=seed, workers=0, eval_episodes=episodes, **options
            )
    agent, progress = adv.load(out), read_progress(RunFolder(out))
    recent = read_episodes(RunFolder(out))["r"][-100:]
    scores = {
        kind: adv.evaluate(
            agent, episodes=job.episodes, seed=1000 + seed, deterministic=kind == "deterministic"
        ).mean
        for kind in ("stochastic", "deterministic")
    }
    if "eval_every" in options:
        write_curve(name, seed, read_evaluations(RunFolder(out)))
    shutil.rmtree(out)
    return {
        "job": name,
        "seed": seed,
        "steps": agent.step,
        "seconds": progress["time/elapsed"][-1],
        "last_100": recent.mean(),
        **scores,
    }


def write_curve(name: str, seed: int, evaluations: dict[str, np.ndarray]) -> None:
    """Append the mean return of every evaluation on a run's way."""
    new = not CURVES.exists()
    with CURVES.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if new:
            writer.writerow(["job", "seed", "step", "episodes", "return"])
        for step in np.unique(evaluations["step"]):
            returns = evaluations["return"][evaluations["step"] == step]
            writer.writerow([name, seed, int(step), len(returns), f"{returns.mean():.5g}"])


def results() -> list[dict[str, str]]:
    if not RESULTS.exists():
        return []
    with RESULTS.open() as file:
        return list(csv.DictReader(file))


def run(name: str, seed: int) -> None:
    """Compute and write one row, in a process of its own, by one thread."""
    arguments = [sys.executable, __file__, "--one", name, str(seed)]
    done = subprocess.run(arguments, capture_output=True, text=True, env={"NPROC": "1"} | os.environ)
    if done.returncode:
        print(f"{name} seed {seed} failed:\n{done.stderr}", file=sys.stderr)
        return
    row = json.loads(done.stdout.splitlines()[-1])
    text = [f"{value:.5g}" if isinstance(value, float) else str(value) for value in row.values()]
    new = not RESULTS.exists()
    with RESULTS.open("a", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, text] if new else [text])
    print(*text, sep="\t", flush=True)


def interquartile(scores: np.ndarray) -> str:
    """Mean of the middle half of the seeds, and its 95 % interval from 10,000 resamplings."""
    drawn = np.random.default_rng(0).choice(scores, (10_000, len(scores)))
    low, high = np.quantile(stats.trim_mean(drawn, 0.25, axis=1), [0.025, 0.975])
    middle, low, high = (
        f"{x:.4g}" if abs(x) < 9_999.5 else f"{x:.0f}" for x in (stats.trim_mean(scores, 0.25), low, high)
    )
    return f"{middle} [{low}, {high}]"


def table() -> None:
    print("| environment | steps | seeds | stochastic | deterministic | last 100 in training | published |")
    print("|---|---:|---:|---:|---:|---:|---|")
    rows = results()
    for name, job in JOBS.items():
        mine = [row for row in rows if row["job"] == name]
        if mine:
            kinds = ("stochastic", "deterministic", "last_100")
            cells = [interquartile(np.array([float(row[kind]) for row in mine])) for kind in kinds]
            print(
                f"| {name} | {int(mine[0]['steps']):,} | {len(mine)} | {' | '.join(cells)} | {job.reference} |"
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", nargs="+", default=list(JOBS), choices=list(JOBS), metavar="JOB")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(learn(arguments.one[0], int(arguments.one[1]))))
        return
    if not arguments.table:
        done = {(row["job"], int(row["seed"])) for row in results()}
        wanted = [(name, seed) for name in arguments.jobs for seed in range(JOBS[name].seeds)]
        with ThreadPoolExecutor(arguments.processes) as pool:
            list(pool.map(lambda job: run(*job), [job for job in wanted if job not in done]))
    table()


if __name__ == "__main__":
    main()
