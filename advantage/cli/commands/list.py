"""`advantage list`: list algorithms, presets and environments."""

from __future__ import annotations

from collections.abc import Sequence

from advantage.algorithms.presets import presets
from advantage.algorithms.registry import ALGORITHMS, algorithm_class
from advantage.environments.make import environment_names


def command(arguments: Sequence[str]) -> int:
    """Print the lists; returns the exit code."""
    if {"--help", "-h"} & set(arguments):
        print("usage: advantage list\n\nList algorithms, presets and environments.")
        return 0
    if arguments:
        raise ValueError(f"advantage list takes no arguments; it was given {' '.join(arguments)}.")
    width = max(map(len, ALGORITHMS))
    print("Algorithms")
    for name in ALGORITHMS:
        print(f"  {name:<{width}}  {(algorithm_class(name).__doc__ or '').strip().splitlines()[0]}")
    print("\nPresets, used by `advantage train` unless --preset none is given")
    for name in filter(presets, ALGORITHMS):
        print(f"  {name:<{width}}  {', '.join(presets(name))}")
    print("\nEnvironments")
    for name in environment_names():
        print(f"  {name}")
    print("\nand any other that Gymnasium knows: package:MyEnv-v0 imports `package` first.")
    return 0
