"""The size of a rollout, and the check that it fits into memory before anything is allocated."""

from __future__ import annotations

import math

import numpy as np

from advantage.drivers.host.stepper import buffer_bytes, buffer_shapes
from advantage.environments.spaces import leaf_spaces
from advantage.machine import refuse_large
from advantage.types import Algorithm, Spec


def rollout_bytes(algorithm: Algorithm, spec: Spec, num_seeds: int = 1) -> int:
    """Bytes of one rollout's observations, actions, rewards and ends, for all seeds."""
    spaces = spec.observation_space, spec.action_space
    return num_seeds * buffer_bytes(buffer_shapes(*spaces, algorithm.n_steps, spec.num_envs))


def bytes_with_update(algorithm: Algorithm, spec: Spec) -> int:
    """Bytes of a rollout that environments of the host collect and of what an update makes of it.

    An update takes a copy. Observations that are floats are also normalised, all of them at once, in PPO and TRPO.
    """
    floats = [leaf for _, leaf in leaf_spaces(spec.observation_space) if np.dtype(leaf.dtype).kind == "f"]
    one = sum(math.prod(leaf.shape or ()) * np.dtype(leaf.dtype).itemsize for leaf in floats)
    return 2 * rollout_bytes(algorithm, spec) + 3 * algorithm.n_steps * spec.num_envs * one


def refuse_what_does_not_fit(
    size: int, free: int | None, n_steps: int, num_envs: int, what_else: str = ""
) -> None:
    """Raises ValueError for a rollout of more bytes than are free; `free` is None if that is unknown.

    Args:
        size: bytes of the rollout and of what else there will be at the same time.
        what_else: names it, for the message.
    """
    if free is not None:
        what = f"One rollout of n_steps={n_steps} in num_envs={num_envs} environments{what_else}"
        refuse_large(what, size, "use fewer steps or environments", free)
