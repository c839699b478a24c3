"""What `train`, `tune` and `population` share: the defaults of their flags, from presets, and whose a wrong flag is."""

from __future__ import annotations

from collections.abc import Sequence, Set

from advantage.algorithms.presets import Preset, preset, presets
from advantage.algorithms.registry import ALGORITHMS, default_algorithm, hyperparameters_of


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


def _wanted_preset(arguments: Sequence[str]) -> str:
    """The value of `--preset`, which is needed before the other flags are read: it decides on their defaults."""
    wish = "auto"
    for place, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        if flag == "--preset":
            wish = value if equals else "".join(arguments[place + 1 : place + 2])
    return wish


def who_has(arguments: Sequence[str], known: Set[str], name: str | None) -> str:
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
