"""What a rollout takes, and whether it fits, before anything is allocated."""

from __future__ import annotations

import jax.numpy as jnp

from advantage.environments.memory import free_host_bytes, refuse_large
from advantage.rollout.stepper import buffer_bytes, buffer_shapes
from advantage.types import Algorithm, Spec


def rollout_bytes(algorithm: Algorithm, spec: Spec, num_seeds: int = 1) -> int:
    """Bytes of one rollout's observations, actions, rewards and ends, for all seeds."""
    spaces = spec.observation_space, spec.action_space
    return num_seeds * buffer_bytes(buffer_shapes(*spaces, algorithm.n_steps, spec.num_envs))


def refuse_what_does_not_fit(size: int, free: int | None, n_steps: int, num_envs: int) -> None:
    """Raises ValueError for a rollout of more bytes than are free; where nobody knows, the allocation will tell."""
    if free is not None:
        what = f"One rollout of n_steps={n_steps} in num_envs={num_envs} environments"
        refuse_large(what, size, "use fewer steps or environments", free)


def free_device_bytes() -> int | None:
    """The same of the device that JAX computes on."""
    (device,) = jnp.zeros(()).devices()
    if device.platform == "cpu":
        return free_host_bytes()
    facts = device.memory_stats() or {}
    return facts["bytes_limit"] - facts["bytes_in_use"] if "bytes_limit" in facts else None
