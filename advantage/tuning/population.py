"""`adv.train_population`: agents whose settings change while they learn.

Jaderberg et al. 2017, "Population based training of neural networks", algorithm 1.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from advantage.algorithms.playable import Trainable, playable
from advantage.algorithms.registry import algorithm_name, to_json, trainable
from advantage.cells import Cell
from advantage.drivers.device import DeviceDriver
from advantage.drivers.make_driver import takes_many_seeds
from advantage.environments.make import resolve
from advantage.plain_values import plain_path, require_whole
from advantage.runs.folder import read_config, write_config
from advantage.runs.recorded import config_facts
from advantage.training.loop import Loop
from advantage.training.options import Options, options_from, recorded
from advantage.training.reporting import Progress
from advantage.training.train import Run, resume, train_members
from advantage.tuning.generations import Runs, train_runs
from advantage.tuning.next_generation import next_generation, said_generation, write_generation
from advantage.tuning.space import (
    Space,
    read_space,
    space_to_json,
    suggest,
    why_no_array,
    with_settings,
)
from advantage.tuning.storage import optuna_library
from advantage.tuning.study import differing_parts, refuse_objects

STEPS = "choices", "integers"  # kinds of domains whose values are no range of floats
LOG, DECLARATION = "population.jsonl", "population.json"


Say = Callable[[str], None]


class Evolution:
    """The callback of a population in one program: after every `every` steps it makes the next generation.

    A member's new settings are those of its next update, and of its config.json and its next checkpoint, so that
    `resume` goes on with them. An older checkpoint keeps those that it was saved with.
    """

    def __init__(self, loop: Loop, space: Space, every: int, log: Path, say: Say):
        assert isinstance(loop.driver, DeviceDriver)
        self.loop, self.driver, self.space, self.every = loop, loop.driver, space, every
        self.key, self.log, self.say, self.generation = jax.random.key(loop.options.seed), log, say, 0
        self.scores: dict[int, float] = {}
        self.step = jax.jit(partial(next_generation, space=space))

    def __call__(self, progress: Progress) -> None:
        """Note a member's score; after the last member's, make the next generation."""
        loop = self.loop
        if progress.step != loop.step or progress.step // self.every <= self.generation:
            return
        self.scores[progress.seed] = progress.row.get("rollout/ep_rew_mean", -np.inf)
        if len(self.scores) < len(loop.seeds) or progress.step >= progress.total_timesteps:
            return
        score = np.array([self.scores.pop(seed) for seed in loop.seeds])
        self.generation = progress.step // self.every
        key = jax.random.fold_in(self.key, self.generation)
        made = self.step(loop.state, self.driver.settings, score, key)
        loop.state, self.driver.settings = made.state, made.settings
        self._tell_members(np.asarray(made.parent))
        write_generation(self.log, self.space, progress.step, score, made)
        self.say(said_generation(progress.step, score, np.asarray(made.parent)))

    def _tell_members(self, parent: np.ndarray) -> None:
        """Give each replaced member its settings by name, and the latest episodes of its parent."""
        now = {name: np.asarray(getattr(self.driver.settings, name), float) for name in self.space}
        for place in np.flatnonzero(parent != np.arange(len(parent))):
            loop, journal = self.loop, self.loop.journals[place]
            own = {name: float(values[place]) for name, values in now.items()}
            before: Any = loop.algorithms[place]
            loop.algorithms[place] = dataclasses.replace(before, **own)
            config: dict[str, Any] = read_config(journal.folder)
            config |= {"hyperparameters": to_json(loop.algorithms[place]), "changing": sorted(self.space)}
            journal.facts = config_facts(config)
            journal.recent = loop.journals[parent[place]].recent.copy()
            write_config(journal.folder, config)


def train_population(
    algorithm: Trainable | type | str,
    environment: Any,
    *,
    members: int = 8,
    every: int,
    space: str | Path | Mapping[str, Any] | None = None,
    processes: int = 1,
    out: str | Path,
    say: Say = lambda text: None,
    **options: Any,
) -> list[Run]:
    """Train a population: after every `every` steps the worst quarter become copies of the best, with other settings.

    In an on-device world all members are one program. Elsewhere each member is a run that stops between two
    generations, `processes` of them learn at once, and the same call continues a population that was stopped.

    Args:
        algorithm: as for `train`; what the space does not name is the same in all members, always.
        environment: as for `train`; a name if `processes` is above 1.
        members: number of members, 2 or more.
        every: steps of each member between two generations; scores are the mean return of its last 100 episodes.
        space: floats that differ and change, see `read_space`; by default those of the library's space. The first
            generation is drawn from it at random.
        processes: number of processes that train; with 1 it is this one. Not in on-device worlds.
        out: a folder for the run folders of the members, `member_0`, `member_1` and so on, and for
            `population.jsonl`: who was copied from whom, and what became of the settings.
        say: called with a text about each generation.
        **options: the fields of `Options`; the members' seeds are seed, seed + 1, ...

    Returns:
        The members' runs, the one with the best last evaluation first.

    Raises:
        MissingExtra: Optuna is not installed.
        ValueError: an argument that is not allowed, a space with other options than floats between two ends, or `out`
            holds another population.
        FileExistsError: `out` exists and cannot be continued.
        StudyFailure: a process of the population failed; the message has its last words.
        What `train` raises.
    """
    chosen, settings = playable(trainable(algorithm)), options_from({"workers": 0} | options)
    members, every = require_whole("members", members, 2), require_whole("every", every, 1)
    if every >= settings.total_timesteps:
        raise ValueError(
            f"every={every:_} is not allowed with total_timesteps={settings.total_timesteps:_}: there would be no "
            "second generation; use fewer steps between two (--every)."
        )
    processes, folder = require_whole("processes", processes, 1), plain_path("out", out)
    domains = changing_space(chosen, settings, space)
    _refuse_options(settings, environment)
    optuna = optuna_library("Population training")
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=settings.seed))
    drawn: Any = [with_settings(chosen, settings, suggest(domains, study.ask()))[0] for _ in range(members)]
    settings = dataclasses.replace(settings, checkpoint_every=every)
    if takes_many_seeds(chosen, resolve(environment)):
        runs = _train_on_device(drawn, environment, settings, domains, processes, folder, say)
    else:
        cells = [
            Cell(
                member,
                environment,
                dataclasses.replace(settings, seed=settings.seed + n),
                folder / f"member_{n}",
            )
            for n, member in enumerate(drawn)
        ]
        record = {
            "algorithm": algorithm_name(chosen),
            "hyperparameters": to_json(chosen),
            "environment": resolve(environment).name,
            "training": recorded(settings),
            "space": space_to_json(domains),
            "members": members,
        }
        if processes > 1:
            refuse_objects(environment, settings)
        _open(folder, record)
        train_runs(Runs(cells, domains, every, settings.seed, folder / LOG), processes, say)
        runs = [resume(cell.path, environment=environment) for cell in cells]
    return sorted(runs, key=lambda run: -(run.evaluation.mean if run.evaluation else -np.inf))


def _train_on_device(
    algorithms: list[Any],
    environment: Any,
    options: Options,
    space: Space,
    processes: int,
    folder: Path,
    say: Say,
) -> list[Run]:
    """All members in one program."""
    if processes > 1:
        raise ValueError(
            f"processes={processes} is not allowed: in an on-device world one program trains all members; leave it "
            "out (--processes)."
        )
    if folder.exists():
        raise FileExistsError(f"{folder} exists already; give a new folder for the population: --out (out=).")
    every: Any = options.checkpoint_every
    return train_members(
        algorithms,
        environment,
        seeds=[options.seed + place for place in range(len(algorithms))],
        out=[folder / f"member_{place}" for place in range(len(algorithms))],
        callback_of=lambda loop: Evolution(loop, space, every, folder / LOG, say),
        **dataclasses.asdict(options),
    )


def _open(folder: Path, record: dict[str, Any]) -> None:
    """Begin a population's folder, or see that it holds this population."""
    file = folder / DECLARATION
    if not folder.exists():
        folder.mkdir(parents=True)
        file.write_text(json.dumps(record, indent=1), encoding="utf-8")
        return
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        raise FileExistsError(
            f"{folder} exists already and is no population; give a new folder for it: --out (out=)."
        ) from None
    differing = differing_parts(found if isinstance(found, dict) else {}, json.loads(json.dumps(record)))
    if differing:
        raise ValueError(
            f"{folder} holds another population, which differs in {', '.join(differing)}. Repeat its call to go on "
            "with it, or begin a new one in another folder: --out (out=)."
        )


def changing_space(
    algorithm: Trainable, options: Options, source: str | Path | Mapping[str, Any] | None
) -> Space:
    """The floats that differ and change in a population, see `read_space`; by default those of the library's space.

    Raises:
        ValueError: the space has something else.
    """
    if source is None:
        space = read_space(algorithm, options, without=STEPS)
        return {
            name: each for name, each in space.items() if not why_no_array(algorithm, options, {name: each})
        }
    space = read_space(algorithm, options, source)
    _refuse_steps(space)
    if reason := why_no_array(algorithm, options, space):
        raise ValueError(f"A population cannot change this space: {reason}. Give one of floats: space=.")
    return space


def _refuse_options(options: Options, environment: Any) -> None:
    """Raises ValueError for what the members of a population cannot have."""
    if options.num_seeds > 1:
        raise ValueError(
            f"num_seeds={options.num_seeds} is not allowed: each member has a seed of its own; use members= "
            "(--members) for more of them."
        )
    for name in ("stop_at_return", "patience"):
        if (value := getattr(options, name)) is not None:
            raise ValueError(
                f"{name}={value:g} is not allowed: the members of a population are compared after the same steps; "
                "leave it out."
            )
    if resolve(environment).kind == "vector":
        raise ValueError(
            "A vector environment cannot be shared by the members of a population; give the name, class or function of "
            "a single environment."
        )


def _refuse_steps(space: Space) -> None:
    """Raises ValueError for a domain whose values are no range of floats, and cannot be multiplied by a factor."""
    for name, domain in space.items():
        if domain.kind in STEPS:
            raise ValueError(
                f"A population cannot change {name}: its domain has {domain.kind}, and a value that is copied is "
                'multiplied by a factor. Give a range of floats, such as {"log": [1e-4, 1e-2]}, or try the values of '
                f"{name} with adv.tune."
            )
