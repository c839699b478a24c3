"""How many threads of a CPU a run computes with."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

from gymnasium.spaces import flatdim

from advantage.algorithms.playable import Playable
from advantage.algorithms.policy_gradient.shared.options import NetworkOptions
from advantage.algorithms.registry import hyperparameters_of
from advantage.machine import available_cores
from advantage.policies.encoder import encoder
from advantage.runs.compilation import threads, use_threads
from advantage.types import Spec

SMALL = 2**21  # multiplications; of fewer, handing a part to another thread takes longer than it saves


def threads_that_pay(algorithm: Playable, spec: Spec) -> int | None:
    """1 if the layers of a policy or of action values are small, else the number of cores; None for other methods.

    A layer of m inputs and n units takes `N m n` multiplications for a batch of N. Images, memory and networks of the
    user's own count as large. Methods that plan, search or learn in tables are left to JAX.
    """
    if not isinstance(algorithm, NetworkOptions):
        return None
    if algorithm.network is not None or encoder(spec.observation_space).images:
        return available_cores()
    batch = hyperparameters_of(algorithm).get("batch_size", algorithm.n_steps * spec.num_envs)
    widths = flatdim(spec.observation_space), *algorithm.hidden
    largest = batch * max((m * n for m, n in pairwise(widths)), default=0)
    return 1 if largest < SMALL else available_cores()


def take_threads(wanted: int | None, say: Callable[[str], None]) -> None:
    """Compute with so many threads, if JAX has not started; says where there are fewer."""
    use_threads(wanted)
    number = threads()
    if wanted is not None and number < wanted:
        say(
            f"This run could use {wanted} cores, and this process computes with {number}: a training before it was "
            f"small, or NPROC says so. Train in a new process, or set NPROC={wanted} before the first training."
        )


def threads_of(host: Any) -> int | None:
    """The number of a run's threads, as its config.json describes its host; None if it says none that fits this one."""
    number = host.get("threads") if isinstance(host, dict) else None
    return number if isinstance(number, int) and 1 <= number <= available_cores() else None
