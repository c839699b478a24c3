"""How many threads of a CPU a run computes with."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from gymnasium.spaces import flatdim

from advantage.algorithms.playable import Playable
from advantage.algorithms.policy_gradient.shared.options import NetworkOptions
from advantage.algorithms.registry import hyperparameters_of
from advantage.machine import available_cores
from advantage.policies.encoder import encoder
from advantage.types import Spec

SMALL = (
    2**21
)  # multiplications; of a layer with fewer, handing a part to another thread takes longer than it saves


def threads_that_pay(algorithm: Playable, spec: Spec) -> int | None:
    """1 if the layers of a method's networks are small, and None, as many as there are cores, if not.

    A layer of m inputs and n units takes `N m n` multiplications for a batch of N. Nothing is said of images, of memory
    and of networks of the user's own.
    """
    if not isinstance(algorithm, NetworkOptions) or algorithm.network is not None:
        return None
    if encoder(spec.observation_space).images:
        return None
    batch = hyperparameters_of(algorithm).get("batch_size", algorithm.n_steps * spec.num_envs)
    widths = flatdim(spec.observation_space), *algorithm.hidden
    largest = batch * max((m * n for m, n in pairwise(widths)), default=0)
    return 1 if largest < SMALL else None


def threads_of(host: Any) -> int | None:
    """The number of a run's threads, as its config.json describes its host; None if it says none that fits this one."""
    number = host.get("threads") if isinstance(host, dict) else None
    return number if isinstance(number, int) and 1 <= number <= available_cores() else None
