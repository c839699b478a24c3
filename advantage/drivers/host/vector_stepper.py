"""Gymnasium vector environments, in all three of their autoreset modes, as a stepper."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium
import jax
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from advantage.drivers.host.host_actor import HostActor
from advantage.drivers.host.stepper import Buffers, episode_seed
from advantage.environments.spaces import read, write
from advantage.types import Array, Pytree


class Surplus(NamedTuple):
    """One step, `[B]`, that some environments took beyond the end of their column."""

    reward: Array
    done: Array
    taken: Array


class VectorStepper:
    """The interface of a `Stepper` over one vector environment, with the same transitions in every mode.

    DISABLED: the finished environments are reset at once, by mask, with their episode's seed.
    SAME_STEP: the environment resets itself; the true successor is `info["final_obs"]`.
    NEXT_STEP: SyncVectorEnv and AsyncVectorEnv are also reset by mask. Other classes spend a whole step on the reset
        of an environment, while the others step on. That step is left out: each environment fills its own column, and
        those with a full column continue unrecorded until all are full (`skips_resets`). Unrecorded steps are not
        learned from and do not count towards the budget; `surplus` keeps their rewards and ends for episode returns.

    SyncVectorEnv and AsyncVectorEnv get a seed for each episode. Other classes take a single seed, for all their
    environments, when they are reset.
    """

    def __init__(self, envs: gymnasium.vector.VectorEnv, seed: int, buffers: Buffers):
        mode = envs.metadata.get("autoreset_mode")
        if mode is None and isinstance(envs.unwrapped, SyncVectorEnv | AsyncVectorEnv):
            mode = envs.unwrapped.autoreset_mode
        try:
            self.mode = mode if isinstance(mode, AutoresetMode) else AutoresetMode(mode)
        except ValueError:
            allowed = ", ".join(str(m.value) for m in AutoresetMode)
            raise ValueError(
                f"The vector environment's metadata['autoreset_mode'] is {mode!r}; allowed are {allowed}. Without it, "
                "an episode's last observation cannot be distinguished from the next one's first."
            ) from None
        self.is_list = isinstance(envs.unwrapped, SyncVectorEnv | AsyncVectorEnv)  # a list of environments
        self.resets_by_mask = self.mode is AutoresetMode.DISABLED or (
            self.mode is AutoresetMode.NEXT_STEP and self.is_list
        )
        self.skips_resets = self.mode is AutoresetMode.NEXT_STEP and not self.is_list
        self.envs, self.seed, self.buffers = envs, seed, buffers
        self.episodes = np.zeros(envs.num_envs, np.int64)
        self.resetting = np.zeros(envs.num_envs, bool)
        self.surplus: list[Surplus] = []

    def reset(self) -> None:
        """Begin every environment's first episode; observations go to row 0."""
        self.begin(self.episodes)

    def begin(self, episodes: np.ndarray) -> None:
        """Begin the episodes with these numbers; observations go to row 0."""
        self.episodes = episodes.copy()
        self.resetting[:] = False
        obs, _ = self.envs.reset(seed=self._seeds())
        write(self.buffers.obs, 0, obs)

    def step(self, t: int) -> None:
        """Take row t's actions; write row t, and the observation to act on next to row t + 1."""
        buffers = self.buffers
        obs, reward, terminated, truncated, infos = self.envs.step(read(buffers.action, t))
        done = terminated | truncated
        write(buffers.next_obs, t, obs)
        buffers.reward[t], buffers.terminated[t], buffers.truncated[t] = reward, terminated, truncated
        if done.any():
            self.episodes += done
            if self.mode is AutoresetMode.SAME_STEP:
                for index in np.flatnonzero(done):
                    write(buffers.next_obs, (t, index), infos["final_obs"][index])
            elif self.resets_by_mask:
                fresh, _ = self.envs.reset(seed=self._seeds(), options={"reset_mask": done.copy()})
                rows = np.flatnonzero(done)
                write(buffers.obs, t + 1, read(buffers.next_obs, t))
                write(buffers.obs, (t + 1, rows), read(fresh, rows))
                return
        write(buffers.obs, t + 1, obs)

    def collect(
        self,
        actor: HostActor,
        noise: Pytree,
        n_steps: int,
        *,
        translate: Callable[[Pytree], Pytree],
        memory: Pytree,
        forget: Callable[[Array, Pytree], Pytree],
    ) -> tuple[Pytree, Pytree, Pytree]:
        """Fill the buffers column by column where resets take a step: `-> actions, extras` `[T, B, ...]`, memory."""
        num_envs, buffers = self.envs.num_envs, self.buffers
        filled, columns = np.zeros(num_envs, np.int64), np.arange(num_envs)
        current = read(buffers.obs, 0)
        chosen, self.surplus = None, []
        while filled.min() < n_steps:
            row = np.minimum(filled, n_steps - 1)
            action, memory, extra = actor.act(current, memory, read(noise, (row, columns)))
            if chosen is None:
                chosen = jax.tree.map(lambda x: np.zeros((n_steps, *x.shape), x.dtype), (action, extra))
            given = translate(action)
            obs, reward, terminated, truncated, _ = self.envs.step(given)
            done, full = terminated | truncated, filled == n_steps
            if full.any():
                over = full & ~self.resetting
                self.surplus.append(Surplus(np.where(over, reward, 0), over & done, over))
            live = columns[~self.resetting & ~full]
            at = (filled[live], live)
            write(chosen, at, read((action, extra), live))
            write(buffers.obs, at, read(current, live))
            write(buffers.action, at, read(given, live))
            write(buffers.next_obs, at, read(obs, live))
            buffers.reward[at], buffers.terminated[at] = reward[live], terminated[live]
            buffers.truncated[at] = truncated[live]
            filled[live] += 1
            memory = forget(done | self.resetting, memory)
            self.resetting = done & ~self.resetting
            self.episodes += self.resetting
            current = jax.tree.map(np.copy, obs)
        write(buffers.obs, n_steps, current)
        assert chosen is not None
        return *chosen, memory

    def close(self) -> None:
        """The environment stays open: it belongs to the caller."""

    def _seeds(self) -> Any:
        if not self.is_list:
            return episode_seed(self.seed, 0, int(self.episodes.sum()))
        return [episode_seed(self.seed, index, int(n)) for index, n in enumerate(self.episodes)]
