"""`advantage lab SECTION`: measure estimators against exact answers."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from advantage.agent import load
from advantage.algorithms.actors import actor_probabilities
from advantage.cli.import_path import find_packages_here
from advantage.cli.parse import leading_words, parse
from advantage.environments.make import resolve, table_of
from advantage.environments.tables.random_mdp import random_mdp
from advantage.laboratory import tables_and_pictures as report
from advantage.laboratory.problem import Problem
from advantage.laboratory.quadratic import example
from advantage.runs.compilation import require_platform

SECTIONS = ("gradient", "advantage", "off-policy", "quadratic")


@dataclasses.dataclass(frozen=True)
class Lab:
    """Measure estimators against exact answers: bias, variance, direction and cost."""

    world: str = "random"
    """A finite world such as jax/RandomWalk-v0 or FrozenLake-v1, or random."""
    policy: str = "random"
    """The policy: random, uniform, or the run folder of an agent trained on this world."""
    n_states: int = 50
    """Number of states of a random world."""
    n_actions: int = 4
    """Number of actions of a random world."""
    gamma: float | None = None
    """Discount per step; the world's own if not given."""
    horizon: int | None = None
    """Steps after which an episode ends, at most 50 if not given."""
    episodes: int = 10_000
    """Number of episodes for each measurement."""
    value_error: float = 0.5
    """Error of the critic, in units of the spread of V; 0 is exact."""
    discount_weighting: bool = True
    """Weight step t by gamma^t, so that the target is the gradient of J."""
    seed: int = 0
    """Seed of the random world, of the random policy and of the episodes."""
    out: Path = Path("lab")
    """Folder for the tables and pictures."""


def command(arguments: Sequence[str]) -> int:
    """Measure one section, or all of them for `report`; returns the exit code."""
    for section in leading_words(arguments, 1):
        if section not in (*SECTIONS, "report"):
            raise ValueError(
                f"There is no section {section!r}; there are {', '.join(SECTIONS)}, and report for all."
            )
    (section,), flags = parse(arguments, "lab SECTION", Lab)
    find_packages_here(flags.world)
    require_platform()
    tables = [measure() for measure in _experiments(section, flags)]
    flags.out.mkdir(parents=True, exist_ok=True)
    console = Console(width=None if sys.stdout.isatty() else 110)
    for table in tables:
        console.print(_shown(table))
        report.write_table(table, flags.out / f"{table.name}.csv")
        with contextlib.suppress(ImportError):
            report.draw_table(table, flags.out / f"{table.name}.png")
    print(f"Tables and pictures: {flags.out}")
    return 0


def _shown(table: report.MeasurementTable) -> Table:
    shown = Table(
        title=table.title,
        caption=table.remark,
        pad_edge=False,
        title_justify="left",
        caption_justify="left",
        box=SIMPLE_HEAD,
    )
    for name, cell in zip(table.columns, table.rows[0], strict=True):
        shown.add_column(name, justify="left" if isinstance(cell, str) else "right", no_wrap=True)
    for row in table.rows:
        shown.add_row(*map(report.text, row))
    return shown


def _experiments(section: str, flags: Lab) -> list[Callable[[], report.MeasurementTable]]:
    """The experiments of a section; calling one runs it."""
    size, seed, error = flags.episodes, flags.seed, flags.value_error
    quadratic = [lambda: report.quadratic_report(example(), size, seed)]
    if section == "quadratic":
        return quadratic
    problem = _problem(flags)
    experiments = {
        "gradient": [lambda: report.gradient_report(problem, size, error, flags.discount_weighting, seed)],
        "advantage": [lambda: report.credit_report(problem, size, error, seed)],
        "off-policy": [
            lambda: report.distance_report(problem, size, seed),
            lambda: report.horizon_report(problem, size, seed),
            lambda: report.trace_report(problem, size, seed),
        ],
        "quadratic": quadratic,
    }
    wanted = SECTIONS if section == "report" else (section,)
    return [measure for name in wanted for measure in experiments[name]]


def _problem(flags: Lab) -> Problem:
    """The world and the policy that a section is about."""
    if flags.world == "random":
        mdp = random_mdp(flags.n_states, flags.n_actions, min(5, flags.n_states), flags.seed)
    else:
        mdp = table_of(resolve(flags.world))
    mdp = dataclasses.replace(mdp, gamma=mdp.gamma if flags.gamma is None else flags.gamma)
    shape = mdp.n_states, mdp.n_actions
    if flags.policy in ("random", "uniform"):
        logits = np.random.default_rng(flags.seed).normal(size=shape) * (flags.policy == "random")
    else:
        logits = np.log(np.maximum(actor_probabilities(mdp, load(flags.policy).actor.actor), 1e-12))
    horizon = min(mdp.max_episode_steps, 50) if flags.horizon is None else flags.horizon
    return Problem(mdp, logits, horizon)
