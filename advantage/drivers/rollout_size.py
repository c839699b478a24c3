"""The size of a rollout, and the check that it fits into memory before anything is allocated."""

from __future__ import annotations

from advantage.drivers.host.stepper import buffer_bytes, buffer_shapes
from advantage.machine import refuse_large
from advantage.types import Algorithm, Spec


def rollout_bytes(algorithm: Algorithm, spec: Spec, num_seeds: int = 1) -> int:
    """Bytes of one rollout's observations, actions, rewards and ends, for all seeds."""
    spaces = spec.observation_space, spec.action_space
    return num_seeds * buffer_bytes(buffer_shapes(*spaces, algorithm.n_steps, spec.num_envs))


def refuse_what_does_not_fit(size: int, free: int | None, n_steps: int, num_envs: int) -> None:
    """Raises ValueError for a rollout of more bytes than are free; `free` is None if that is unknown."""
    if free is not None:
        what = f"One rollout of n_steps={n_steps} in num_envs={num_envs} environments"
        refuse_large(what, size, "use fewer steps or environments", free)
