"""Gymnasium vector environments, in all three of their autoreset modes, as a stepper."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium
import jax
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.vector.utils import batch_space

from advantage.drivers.host.host_actor import HostActor
from advantage.drivers.host.stepper import Buffers, EnvironmentFailure, episode_seed, failure
from advantage.environments.defect import EnvironmentDefect, Fault, raise_first_error, show
from advantage.environments.logged_info import names_in_batch, numbers_in_batch
from advantage.environments.space_faults import value_faults
from advantage.environments.spaces import read, write
from advantage.environments.step_checks import form_test
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
        self.heard: set[str] = set()
        self.calling: str | None = None
        self.steps, self.fits = 0, form_test(envs.single_observation_space, (envs.num_envs,))

    def reset(self) -> None:
        """Begin every environment's first episode; observations go to row 0."""
        self.begin(self.episodes)

    def begin(self, episodes: np.ndarray) -> None:
        """Begin the episodes with these numbers; observations go to row 0."""
        self.episodes = episodes.copy()
        self.resetting[:] = False
        if self.resets_by_mask:
            obs = self._reset_all_by_mask()
        else:
            obs, _ = self._call("reset()", self.envs.reset, seed=self._seeds())
        self._check_obs(obs, "reset()")
        write(self.buffers.obs, 0, obs)

    def _reset_all_by_mask(self) -> Pytree:
        """Begin all episodes with a mask that is true everywhere, and see whether the mask arrives.

        Raises:
            ValueError: a wrapper does not pass the mask on; later it would reset environments in mid-episode.
        """
        inner, arrived = self.envs.unwrapped, []

        def reset(*arguments: Any, **keywords: Any) -> Any:
            arrived.append("reset_mask" in (keywords.get("options") or {}))
            return type(inner).reset(inner, *arguments, **keywords)

        mask = np.ones(self.envs.num_envs, bool)
        vars(inner)["reset"] = reset
        try:
            options = {"reset_mask": mask}
            obs, _ = self._call("reset()", self.envs.reset, seed=self._seeds(), options=options)
        except EnvironmentFailure as error:
            if not isinstance(error.__cause__, TypeError):
                raise
            raise self._no_partial_reset(str(error.__cause__)) from error.__cause__
        finally:
            del vars(inner)["reset"]
        if arrived and not all(arrived):
            raise self._no_partial_reset("a wrapper does not pass on the options of reset()")
        return obs

    def _no_partial_reset(self, reason: str) -> ValueError:
        return ValueError(
            f"The vector environment cannot reset some of its environments and leave the others alone ({reason}), "
            f"which autoreset mode {self.mode.value} needs. Give reset(self, *, seed=None, options=None) to its "
            "wrappers and pass the options on, or use "
            "SyncVectorEnv(..., autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP)."
        )

    def step(self, t: int) -> None:
        """Take row t's actions; write row t, and the observation to act on next to row t + 1."""
        buffers = self.buffers
        obs, reward, terminated, truncated, infos = self._step(read(buffers.action, t))
        done = terminated | truncated
        write(buffers.next_obs, t, obs)
        buffers.reward[t], buffers.terminated[t], buffers.truncated[t] = reward, terminated, truncated
        for name, numbers in self._logged(infos, done).items():
            buffers.info[name][t] = numbers
        if done.any():
            self.episodes += done
            if self.mode is AutoresetMode.SAME_STEP:
                for index in np.flatnonzero(done):
                    write(buffers.next_obs, (t, index), self._final(infos, int(index)))
            elif self.resets_by_mask:
                call, options = "reset() of those that ended", {"reset_mask": done.copy()}
                fresh, _ = self._call(call, self.envs.reset, seed=self._seeds(), options=options)
                self._check_obs(fresh, call)
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
            obs, reward, terminated, truncated, infos = self._step(given)
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
            for name, numbers in self._logged(infos, done).items():
                buffers.info[name][at] = numbers[live]
            filled[live] += 1
            memory = forget(done | self.resetting, memory)
            self.resetting = done & ~self.resetting
            self.episodes += self.resetting
            current = jax.tree.map(np.copy, obs)
        write(buffers.obs, n_steps, current)
        assert chosen is not None
        return *chosen, memory

    def _step(self, action: Pytree) -> tuple[Pytree, np.ndarray, np.ndarray, np.ndarray, Any]:
        """A step of all environments, checked: `-> obs, reward, terminated, truncated, infos`, arrays `[B, ...]`."""
        result = self._call("step()", self.envs.step, action)
        self.steps += 1
        if not isinstance(result, tuple) or len(result) != 5:
            raise_first_error(
                self._where("step()"),
                [Fault("step returns", "return value", "a tuple of 5", show(result))],
            )
        obs, reward, terminated, truncated, infos = result
        self._check_obs(obs, f"step {self.steps}")
        reward, terminated, truncated = map(np.asarray, (reward, terminated, truncated))
        shape = (self.envs.num_envs,)
        if reward.shape != shape or reward.dtype.kind not in "biuf":
            self._refuse("vector reward", "reward", f"an array of shape {shape}", result[1])
        return obs, reward, self._flags("terminated", terminated), self._flags("truncated", truncated), infos

    def _call(self, call: str, function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        """Call the environment.

        Raises:
            EnvironmentFailure: the environment raised, or tried to end the process.
            EnvironmentDefect: our wrapper of masks found one.
        """
        self.calling = call
        try:
            return function(*arguments, **keywords)
        except EnvironmentDefect:
            raise
        except (Exception, SystemExit) as error:
            raise failure(self._where(f"after {self.steps} steps"), call, error) from error
        finally:
            self.calling = None

    def call_now(self) -> str | None:
        """Which call of the environment has not returned yet."""
        calling = self.calling
        return None if calling is None else self._where(f"{calling} after {self.steps} steps")

    def _logged(self, infos: Any, done: Array) -> dict[str, Array]:
        """The numbers of a step that are logged, `[B]` by name; NaN where the step was a reset."""
        if not self.buffers.info:
            return {}
        where, taken = self._where(f"step {self.steps}"), ~self.resetting
        numbers = {name: numbers_in_batch(infos, name, taken, done, where) for name in self.buffers.info}
        if any(np.isnan(each).any() for each in numbers.values()):
            self.heard |= names_in_batch(infos)
        return numbers

    def info_names(self) -> list[str]:
        """The names in the infos of steps that lacked a name that is logged."""
        return sorted(self.heard)

    def _flags(self, name: str, flags: np.ndarray) -> np.ndarray:
        """Ends of episodes as a bool array `[B]`; older vector environments give them as 0 and 1."""
        if flags.shape == (self.envs.num_envs,):
            if flags.dtype.kind == "b":
                return flags
            if flags.dtype.kind in "iu" and ((flags == 0) | (flags == 1)).all():
                return flags.astype(bool)
        self._refuse("vector flag", name, f"a bool array of shape {(self.envs.num_envs,)}", flags)
        raise AssertionError

    def _final(self, infos: Any, index: int) -> Pytree:
        """The last observation of an environment's episode, which ended in this step; under its older name, too."""
        single = self.envs.single_observation_space
        for name in ("final_obs", "final_observation"):
            if isinstance(infos, dict) and name in infos:
                obs = infos[name][index]
                place = f"infos[{name!r}][{index}]"
                raise_first_error(self._where(f"step {self.steps}"), value_faults(single, obs, place))
                return obs
        self._refuse("final observation", "infos", "a dict with the key 'final_obs'", infos)
        raise AssertionError

    def _check_obs(self, obs: Any, call: str) -> None:
        if not self.fits(obs):
            space = batch_space(self.envs.single_observation_space, self.envs.num_envs)
            raise_first_error(self._where(call), value_faults(space, obs, "observation"))

    def _refuse(self, kind: str, place: str, expected: str, found: Any) -> None:
        raise_first_error(self._where(f"step {self.steps}"), [Fault(kind, place, expected, show(found))])

    def _where(self, call: str) -> str:
        return f"the vector environment, {call}"

    def close(self) -> None:
        """The environment stays open: it belongs to the caller."""

    def _seeds(self) -> Any:
        if not self.is_list:
            return episode_seed(self.seed, 0, int(self.episodes.sum()))
        return [episode_seed(self.seed, index, int(n)) for index, n in enumerate(self.episodes)]
