"""Others who read a training's metrics: a logger of Python's, Weights & Biases, MLflow."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from advantage.environments.defect import needed
from advantage.training.callbacks import Callbacks, Ended, Evaluated, Started
from advantage.training.reporting import Progress


def log_to_logging(logger: logging.Logger, level: int = logging.INFO) -> Callbacks:
    """Callbacks that write to a logger of Python's `logging`: start, iterations, evaluations and end."""

    def start(event: Started) -> None:
        for seed, folder, config in zip(event.seeds, event.folders, event.configs, strict=True):
            names = f"{config['algorithm']} on {config['environment']}"
            logger.log(level, "%s, seed %d, from step %d of %d: %s", names, seed, event.step,
                       event.total_timesteps, folder)  # fmt: skip

    def iteration(event: Progress) -> None:
        row = " ".join(f"{name}={value:.6g}" for name, value in event.row.items())
        logger.log(level, "seed %d, step %d: %s", event.seed, event.step, row)

    def evaluation(event: Evaluated) -> None:
        logger.log(level, "seed %d, step %d: evaluation: %s", event.seed, event.step, event.evaluation)

    def end(event: Ended) -> None:
        logger.log(level, "%s at step %d", "finished" if event.finished else "stopped", event.step)

    return Callbacks(start=start, iteration=iteration, evaluation=evaluation, end=end)


def log_to_wandb(project: str, **options: Any) -> Callbacks:
    """Callbacks that send hyperparameters, metrics and evaluations to Weights & Biases (extra `wandb`).

    Each seed is a run of its own there, named after its folder; a run that is resumed in its place goes on in the same
    one, which it knows by the folder's whole path.

    Args:
        project: the project's name.
        **options: passed on to `wandb.init`, such as `mode="offline"`.

    Raises:
        MissingExtra: the package is not installed.
    """
    wandb = needed("wandb", "Weights & Biases", "wandb")
    runs: dict[int, Any] = {}

    def start(event: Started) -> None:
        for seed, folder, config in zip(event.seeds, event.folders, event.configs, strict=True):
            runs[seed] = wandb.init(
                project=project, name=folder.name, id=_id_of(folder), dir=str(folder), config=config,
                resume="allow", reinit="create_new", **options,
            )  # fmt: skip

    def end(event: Ended) -> None:
        for seed in event.seeds:  # seeds that are trained one after the other end one by one
            if seed in runs:
                runs.pop(seed).finish()

    return _sink(start, lambda seed, step, row: runs[seed].log(row, step=step), end)


def log_to_mlflow(experiment: str, tracking_uri: str | None = None) -> Callbacks:
    """Callbacks that send hyperparameters, metrics and evaluations to MLflow (extra `mlflow`), one run a seed.

    Args:
        experiment: the experiment's name; it is made if there is none.
        tracking_uri: the server or folder; by default MLflow's own choice.

    Raises:
        MissingExtra: the package is not installed.
    """
    mlflow, parts = (needed(module, "MLflow", "mlflow") for module in ("mlflow", "mlflow.entities"))
    client, runs = mlflow.MlflowClient(tracking_uri), {}

    def start(event: Started) -> None:
        known = client.get_experiment_by_name(experiment)
        home = client.create_experiment(experiment) if known is None else known.experiment_id
        for seed, folder, config in zip(event.seeds, event.folders, event.configs, strict=True):
            runs[seed] = client.create_run(home, run_name=folder.name).info.run_id
            facts = {"algorithm": config["algorithm"], "environment": config["environment"], "seed": seed}
            facts |= config["hyperparameters"]
            client.log_batch(
                runs[seed], params=[parts.Param(name, str(value)) for name, value in facts.items()]
            )

    def log(seed: int, step: int, row: dict[str, float]) -> None:
        now = time.time_ns() // 10**6  # MLflow's clock has milliseconds
        client.log_batch(runs[seed], [parts.Metric(name, value, now, step) for name, value in row.items()])

    def end(event: Ended) -> None:
        for seed in event.seeds:  # seeds that are trained one after the other end one by one
            if seed in runs:
                client.set_terminated(runs.pop(seed), "FINISHED" if event.finished else "KILLED")

    return _sink(start, log, end)


def _id_of(folder: Path) -> str:
    """The same for a run that is resumed, and another one for a folder of the same name elsewhere."""
    return f"{folder.name[:50]}-{hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:12]}"


def _sink(
    start: Callable[[Started], None],
    log: Callable[[int, int, dict[str, float]], None],
    end: Callable[[Ended], None],
) -> Callbacks:
    """Callbacks that pass rows of metrics on: `log(seed, step, row)`."""

    def evaluation(event: Evaluated) -> None:
        result = event.evaluation
        row = {"eval/mean_reward": result.mean, "eval/std_reward": result.std}
        log(event.seed, event.step, row | {"eval/mean_ep_length": float(result.lengths.mean())})

    def iteration(event: Progress) -> None:
        log(event.seed, event.step, event.row)

    return Callbacks(start=start, iteration=iteration, evaluation=evaluation, end=end)
