"""`advantage record RUN`, `advantage record random ENVIRONMENT`: play episodes and keep every transition."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from advantage.cli.import_path import find_packages_here
from advantage.cli.parse import leading_words, parse
from advantage.cli.play import Play, agent_and_environment, named_environment
from advantage.datasets.files import refuse_existing, save_dataset
from advantage.recording import RANDOM, record


@dataclasses.dataclass(frozen=True)
class Record(Play):
    """Play episodes as `eval` does, and write every transition to a file.

    RUN is a run folder, or `random ENVIRONMENT` for actions drawn uniformly.
    """

    steps: int | None = None
    """Record whole episodes until there are at least so many steps, in place of --episodes."""
    out: Path = Path("data.safetensors")
    """The new file."""


def command(arguments: Sequence[str]) -> int:
    """Record episodes; returns the exit code."""
    is_random = leading_words(arguments, 1) == [RANDOM]
    words, flags = parse(arguments, f"record {RANDOM} ENVIRONMENT" if is_random else "record RUN", Record)
    refuse_existing(flags.out)
    if is_random:
        if flags.env is not None:
            raise ValueError(f"{words[1]} and --env {flags.env} name two environments; leave out --env.")
        find_packages_here(words[1], wrappers=flags.wrappers)
        policy, environment = RANDOM, named_environment(words[1], flags.env_options, flags.wrappers)
    else:
        policy, environment = agent_and_environment(words[0], flags)
    dataset = record(
        policy,
        environment,
        episodes=flags.episodes if flags.steps is None else None,
        steps=flags.steps,
        seed=flags.seed,
        deterministic=not flags.stochastic,
    )
    print(f"Wrote {save_dataset(dataset, flags.out)}: {dataset}")
    return 0
