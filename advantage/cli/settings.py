"""What `train`, `tune` and `population` share: how their command lines are read, with defaults from presets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from types import MappingProxyType
from typing import Any, NamedTuple

from advantage.algorithms.presets import Preset, preset, presets
from advantage.algorithms.registry import ALGORITHMS, default_algorithm, hyperparameters_of
from advantage.cli.import_path import find_packages_here
from advantage.cli.parse import flag_names, leading_words, parse
from advantage.training.options import options_from

NOTHING: Mapping[str, Any] = MappingProxyType({})


def default_settings(
    name: str | None, environment: str | None, arguments: Sequence[str]
) -> tuple[str | None, Preset]:
    """Where the flags' defaults come from, if from a preset, and the defaults.

    Args:
        name, environment: the leading words, if they are given.
        arguments: the command line, with `--preset` or without.
    """
    wish = _wanted_preset(arguments)
    if name is not None and environment is not None and wish != "none":
        if wish.endswith(".json"):
            return f"{environment} in {wish}", preset(name, environment, wish)
        tuned_for = (environment if wish == "auto" else wish).removeprefix("jax/")
        if wish != "auto" or tuned_for in presets(name):
            return tuned_for, preset(name, tuned_for)
    return None, Preset(default_algorithm(name or next(iter(ALGORITHMS))), {})


class Given(NamedTuple):
    """A command line of ALGORITHM, ENVIRONMENT and flags.

    Attributes:
        name, environment: the two words.
        flags: the command's dataclass.
        notice: where the defaults come from, if from a preset; else empty.
    """

    name: str
    environment: str
    flags: Any
    notice: str


def read_flags(
    cls: Any, command: str, arguments: Sequence[str], of_run: Mapping[str, Any] = NOTHING
) -> Given:
    """Read the command line of a command that trains, and find the packages that it names.

    Args:
        cls: the command's dataclass, generic in the algorithm, with the fields `run`, `algorithm` and `preset`.
        command: its name.
        arguments: the command line.
        of_run: defaults of the run's options that a preset may change.

    Raises:
        ValueError: a word or flag that is not allowed.
    """
    name, environment = [*leading_words(arguments, 2), None, None][:2]
    tuned_for, settings = default_settings(name, environment, arguments)
    default = cls(options_from({**of_run, **settings.options}), settings.algorithm)
    try:
        (name, environment), flags = parse(
            arguments, f"{command} ALGORITHM ENVIRONMENT", cls[type(settings.algorithm)], default
        )
    except ValueError as error:
        raise ValueError(f"{error}{_who_has(arguments, flag_names(cls, default), name)}") from None
    find_packages_here(environment, wrappers=flags.run.wrappers)
    notice = (
        f"Defaults from the preset for {tuned_for} (--preset none for {name}'s own)." if tuned_for else ""
    )
    return Given(name, environment, flags, notice)


def _wanted_preset(arguments: Sequence[str]) -> str:
    """The value of `--preset`, which is needed before the other flags are read: it decides on their defaults."""
    wish = "auto"
    for place, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        if flag == "--preset":
            wish = value if equals else "".join(arguments[place + 1 : place + 2])
    return wish


def _who_has(arguments: Sequence[str], known: Set[str], name: str | None) -> str:
    """A sentence on the first flag that belongs to other algorithms only; empty if there is none.

    Args:
        arguments: the command line.
        known: the names of the command's flags.
        name: the algorithm.
    """
    for argument in arguments:
        flag = argument.partition("=")[0]
        option = flag.removeprefix("--").removeprefix("no-").replace("-", "_")
        if flag.startswith("--") and option not in known:
            having = [other for other in ALGORITHMS if option in hyperparameters_of(default_algorithm(other))]
            if having:
                return f" {name} has no {flag}; it is an option of {', '.join(having)}."
    return ""
