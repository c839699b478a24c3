"""Population-based training on the device: many members in one program, whose settings change while they learn.

Jaderberg et al. 2017, "Population based training of neural networks", algorithm 1.
"""

from __future__ import annotations

import dataclasses
import json
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advantage.algorithms.playable import Trainable, playable
from advantage.algorithms.registry import to_json, trainable
from advantage.drivers.device import DeviceDriver
from advantage.plain_values import plain_path, require_whole
from advantage.runs.folder import read_config, write_config
from advantage.runs.recorded import config_facts
from advantage.training.loop import Loop
from advantage.training.options import options_from
from advantage.training.reporting import Progress
from advantage.training.train import Run, train_members
from advantage.tuning.space import Domain, Space, read_space, suggest, why_no_array, with_settings
from advantage.tuning.storage import optuna_library
from advantage.types import Algorithm, Array, Key, Pytree

SHARE = 0.25  # of the members: the worst are replaced by copies of the best
FACTORS = 0.8, 1.25  # by one of which an explored value, or its distance from 1, is multiplied


class Generation(NamedTuple):
    """States and settings of all members, with a leading axis of members, and whose copy each one is, `[P]`."""

    state: Pytree
    settings: Algorithm
    parent: Array


def explored(domain: Domain, value: Array, factor: Array) -> Array:
    """A value of a domain times a factor, inside of the domain; of `log_below_one` its distance from 1."""
    low, high = domain.values
    if domain.kind == "log_below_one":
        return 1 - jnp.clip((1 - value) * factor, 1 - high, 1 - low)
    return jnp.clip(value * factor, low, high)


def next_generation(
    state: Pytree, settings: Algorithm, score: Array, key: Key, space: Space, share: float = SHARE
) -> Generation:
    """Exploit, then explore: the worst members become copies of the best, with other settings.

        parent_i   one of the best share of the members, at random, if i is among the worst share; else i
        state_i    <- state_parent(i), every leaf: parameters, optimiser, statistics
        x_i        <- f x_parent(i), f of `FACTORS` at random, if i was replaced; else as it was

    Args:
        state: the states, every leaf `[P, ...]`.
        settings: the algorithm, whose tuned floats are arrays `[P]`.
        score: what is high in good members, `[P]`.
        key: randomness.
        space: the tuned floats and the domains that they stay in.
        share: between 0 and 1/2; at least one member is replaced.

    Source: Jaderberg et al. 2017, section 4.1: truncation selection, and perturbation.
    """
    members = score.shape[0]
    count = max(1, int(share * members))
    key_parent, key_factor = jax.random.split(key)
    order = jnp.argsort(-score)
    chosen = order[jax.random.randint(key_parent, (count,), 0, count)]
    parent = jnp.arange(members).at[order[members - count :]].set(chosen)
    replaced = parent != jnp.arange(members)
    state, settings = jax.tree.map(lambda leaf: leaf[parent], (state, settings))
    factors = jax.random.choice(key_factor, jnp.array(FACTORS), (len(space), members))
    changed = {}
    for (name, domain), factor in zip(space.items(), factors, strict=True):
        value = getattr(settings, name)
        changed[name] = jnp.where(replaced, explored(domain, value, factor), value)
    values: Any = settings
    return Generation(state, dataclasses.replace(values, **changed), parent)


class Evolution:
    """The callback of a population: after every `every` steps it makes the next generation.

    A member's new settings are those of its next update, and of its config.json and its next checkpoint, so that
    `resume` goes on with them. An older checkpoint keeps those that it was saved with.
    """

    def __init__(self, loop: Loop, space: Space, every: int, seed: int, log: Path):
        assert isinstance(loop.driver, DeviceDriver)
        self.loop, self.driver, self.space, self.every = loop, loop.driver, space, every
        self.key, self.log, self.generation = jax.random.key(seed), log, 0
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
        self._write(progress.step, score, np.asarray(made.parent))

    def _write(self, step: int, score: np.ndarray, parent: np.ndarray) -> None:
        """Give each replaced member its settings by name, and log all members."""
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
        with self.log.open("a", encoding="utf-8") as file:
            for place in range(len(parent)):
                row = {
                    "step": step,
                    "member": place,
                    "parent": int(parent[place]),
                    "score": float(score[place]),
                }
                settings = {name: float(values[place]) for name, values in now.items()}
                file.write(json.dumps(row | settings) + "\n")


def train_population(
    algorithm: Trainable | type | str,
    environment: Any,
    *,
    members: int = 8,
    every: int,
    space: Any = None,
    out: str | Path,
    **options: Any,
) -> list[Run]:
    """Train a population in an on-device world: all members in one program, with a change of generation in between.

    Args:
        algorithm: as for `train`; what the space does not name is the same in all members, always.
        environment: an on-device world.
        members: number of members, 2 or more.
        every: steps of each member between two generations; scores are the mean return of its last 100 episodes.
        space: floats that differ and change, see `read_space`; the first generation is drawn from it at random.
        out: a new folder for the run folders of the members, `member_0`, `member_1` and so on, and for
            `population.jsonl`: who was copied from whom, and what became of the settings.
        **options: the fields of `Options`; the members' seeds are seed, seed + 1, ...

    Returns:
        The members' runs, the one with the best last evaluation first.

    Raises:
        ValueError: an argument that is not allowed, or a space with other options than floats between two ends.
        FileExistsError: `out` exists.
    """
    chosen, settings = playable(trainable(algorithm)), options_from(options)
    members, every = require_whole("members", members, 2), require_whole("every", every, 1)
    domains = read_space(chosen, settings, space)
    _refuse_steps(domains)
    if reason := why_no_array(chosen, settings, domains):
        raise ValueError(f"A population cannot change this space: {reason}. Give one of floats: space=.")
    sampler = optuna_library().samplers.RandomSampler(seed=settings.seed)
    study = optuna_library().create_study(sampler=sampler)
    drawn: Any = [with_settings(chosen, settings, suggest(domains, study.ask()))[0] for _ in range(members)]
    folder = plain_path("out", out)
    if folder.exists():
        raise FileExistsError(f"{folder} exists already; give a new folder for the population: out=.")
    runs = train_members(
        drawn,
        environment,
        seeds=[settings.seed + place for place in range(members)],
        out=[folder / f"member_{place}" for place in range(members)],
        callback_of=lambda loop: Evolution(loop, domains, every, settings.seed, folder / "population.jsonl"),
        **options | {"checkpoint_every": every},
    )
    return sorted(runs, key=lambda run: -(run.evaluation.mean if run.evaluation else -np.inf))


def _refuse_steps(space: Space) -> None:
    """Raises ValueError for a domain whose values are no range of floats, and cannot be multiplied by a factor."""
    for name, domain in space.items():
        if domain.kind in ("choices", "integers"):
            raise ValueError(
                f"A population cannot change {name}: its domain has {domain.kind}, and a value that is copied is "
                'multiplied by a factor. Give a range of floats, such as {"log": [1e-4, 1e-2]}, or try the values of '
                f"{name} with adv.tune."
            )
