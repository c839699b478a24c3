"""Host environments, stepped one after another into shared arrays. Workers import this file, so it has no JAX."""

from __future__ import annotations

import dataclasses
import math
import mmap
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import gymnasium
import numpy as np
from gymnasium import spaces

from advantage.environments.check import EnvironmentDefect, check_reset, check_step
from advantage.environments.defect import error_text
from advantage.environments.environment import close
from advantage.environments.logged_info import names_in, number_in
from advantage.environments.spaces import map_leaves, read, write
from advantage.environments.step_checks import refuse_other_spaces, reset_test, step_test
from advantage.types import Array, Pytree

MakeEnvironment = Callable[[], gymnasium.Env]
CHECKED_STEPS = 16  # whose numbers are compared with their bounds at once; later ones, a rollout at a time
CHECKED_EPISODES = 2


class EnvironmentFailure(RuntimeError):
    """An environment, or the worker process that held it, failed while it was stepped."""


class Buffers(NamedTuple):
    """One rollout's arrays, `[T, B, ...]`; `obs` has one row more, the observation to act on next.

    `info` has the numbers that are logged from the environments' infos, by name; NaN where a step has none.
    """

    obs: Pytree
    action: Pytree
    next_obs: Pytree
    reward: Array
    terminated: Array
    truncated: Array
    info: dict[str, Array]


@dataclasses.dataclass(frozen=True)
class Layout:
    """Shape and dtype of one array."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def nbytes(self) -> int:
        """Bytes that the array takes, on cache lines of its own."""
        return math.ceil(math.prod(self.shape) * self.dtype.itemsize / 64) * 64


def buffer_shapes(
    observation_space: spaces.Space,
    action_space: spaces.Space,
    n_steps: int,
    num_envs: int,
    log_info: Sequence[str] = (),
) -> Buffers:
    """The buffers with a `Layout` in place of each array; `log_info` names what `info` has."""

    def leaf(steps):
        return lambda space: Layout((steps, num_envs, *space.shape), np.dtype(space.dtype))

    def flat(dtype):
        return Layout((n_steps, num_envs), np.dtype(dtype))

    return Buffers(
        map_leaves(leaf(n_steps + 1), observation_space),
        map_leaves(leaf(n_steps), action_space),
        map_leaves(leaf(n_steps), observation_space),
        flat(np.float64),
        flat(np.bool_),
        flat(np.bool_),
        {name: flat(np.float64) for name in log_info},
    )


def _map(function: Callable, tree: Pytree) -> Any:
    if isinstance(tree, Buffers):
        return Buffers(*(_map(function, part) for part in tree))
    if isinstance(tree, dict):
        return {name: _map(function, part) for name, part in tree.items()}
    return tuple(_map(function, part) for part in tree) if isinstance(tree, tuple) else function(tree)


def buffer_bytes(shapes: Buffers) -> int:
    """Bytes that all the buffers take."""
    sizes: list[int] = []
    _map(lambda layout: sizes.append(layout.nbytes), shapes)
    return sum(sizes)


def allocate(shapes: Buffers, memory: mmap.mmap | None = None) -> Buffers:
    """Zeroed buffers in private memory, or views of a shared one."""
    offset = 0

    def array(layout):
        nonlocal offset
        if memory is None:
            return np.zeros(layout.shape, layout.dtype)
        view = np.ndarray(layout.shape, layout.dtype, buffer=memory, offset=offset)
        offset += layout.nbytes
        return view

    return _map(array, shapes)


def episode_seed(seed: int, index: int, episode: int) -> int:
    """The seed for resetting an environment's episode: any episode can be replayed from these three numbers."""
    return int(np.random.SeedSequence((seed, index, episode)).generate_state(1)[0] >> 1)


class EpisodeHolder(Protocol):
    """Environments that begin episodes and replay them, wherever they are."""

    buffers: Buffers

    def reset(self) -> None: ...
    def restore(self, index: int, episode: int, actions: Pytree, length: int) -> None: ...
    def info_names(self) -> list[str]: ...
    def close(self) -> None: ...


class EpisodeStepper(EpisodeHolder, Protocol):
    """The environments of the host driver, in this process or in worker processes, which take single steps."""

    def step(self, t: int) -> None: ...


class Stepper:
    """Some of the environments, by index, stepped in this process."""

    def __init__(self, make: MakeEnvironment, indices: Sequence[int], seed: int, buffers: Buffers):
        self.indices, self.seed, self.buffers = list(indices), seed, buffers
        self.envs: list[gymnasium.Env] = []
        for index in self.indices:
            try:
                self.envs.append(make())
            except (Exception, SystemExit) as error:
                self.close()
                raise failure(f"environment {index}", "making it", error) from error
        self.calling: int | None = None  # the place of the environment that is being called
        self.episodes = [-1] * len(self.envs)
        self.counts = [0] * len(self.envs)
        self.heard: set[str] = set()
        self.declared = [(env.observation_space, env.action_space) for env in self.envs]
        self.is_step = [step_test(space) for space, _ in self.declared]
        self.is_reset = [reset_test(space) for space, _ in self.declared]
        self.single_obs, self.single_action = (
            not isinstance(space, spaces.Dict | spaces.Tuple) for space in self.declared[0]
        )

    def reset(self) -> None:
        """Begin every environment's first episode; observations go to row 0."""
        for place in range(len(self.envs)):
            self._begin(place, 0, row=0)

    def step(self, t: int) -> None:
        """Take row t's actions; write row t, and the observation to act on next to row t + 1."""
        single_obs = self.single_obs
        all_obs, actions, all_next_obs, rewards, terminations, truncations, logged = self.buffers
        for place, index in enumerate(self.indices):
            at = t, index
            result = self._step(place, actions[at] if self.single_action else read(actions, at))
            obs, reward, terminated, truncated, info = result
            if logged:
                self._log(at, place, info)
            if single_obs:
                all_next_obs[at] = obs
            else:
                write(all_next_obs, at, obs)
            rewards[at] = reward
            terminations[at] = terminated
            truncations[at] = truncated
            if terminated or truncated:
                self._begin(place, self.episodes[place] + 1, row=t + 1)
            elif single_obs:
                all_obs[t + 1, index] = obs
            else:
                write(all_obs, (t + 1, index), obs)

    def restore(self, index: int, episode: int, actions: Pytree, length: int) -> None:
        """Replay the first `length` steps of an episode; the observation reached goes to row 0."""
        place = self.indices.index(index)
        self._begin(place, episode, row=0)
        for t in range(length):
            obs, _, terminated, truncated, _ = self._step(place, read(actions, t))
            if terminated or truncated:  # too early: the collector will see that the observation differs
                self._begin(place, episode, row=0)
                break
            write(self.buffers.obs, (0, index), obs)

    def info_names(self) -> list[str]:
        """The names in the infos of steps that lacked a name that is logged."""
        return sorted(self.heard)

    def close(self) -> None:
        for env in self.envs:
            close(env)

    def _log(self, at: tuple[int, int], place: int, info: dict[str, Any]) -> None:
        """Write the numbers that are logged."""
        where = self._where(place)
        for name, array in self.buffers.info.items():
            number = array[at] = number_in(info, name, where)
            if number != number:
                self.heard.update(names_in(info))

    def _begin(self, place: int, episode: int, row: int) -> None:
        """Begin an episode; its first observation goes to a row of the buffer."""
        self.episodes[place] = episode
        seed = episode_seed(self.seed, self.indices[place], episode)
        self.calling = place
        try:
            result = self.envs[place].reset(seed=seed)
        except (Exception, SystemExit) as error:
            raise self._failure(place, f"reset(seed={seed})", error) from error
        self.calling = None
        declared = self.declared[place]
        if episode < CHECKED_EPISODES or not self.is_reset[place](result):
            check_reset(declared[0], result, f"{self._where(place)}, reset(seed={seed})")
        refuse_other_spaces(self.envs[place], declared, lambda: self._where(place))
        write(self.buffers.obs, (row, self.indices[place]), result[0])

    def _step(self, place: int, action: Pytree) -> tuple:
        self.calling = place
        try:
            result = self.envs[place].step(action)
        except (Exception, SystemExit) as error:
            raise self._failure(place, f"step({action!r})", error) from error
        self.calling = None
        count = self.counts[place] = self.counts[place] + 1
        if count <= CHECKED_STEPS or not self.is_step[place](result):
            check_step(self.declared[place][0], result, self._where(place))
        return result

    def call_now(self) -> str | None:
        """Which call of an environment has not returned yet."""
        place = self.calling
        return None if place is None else f"{self._where(place)} (episode {self.episodes[place]})"

    def _where(self, place: int) -> str:
        return f"environment {self.indices[place]}, step {self.counts[place]}"

    def _failure(self, place: int, call: str, error: BaseException) -> Exception:
        return failure(f"{self._where(place)}, episode {self.episodes[place]}", call, error)


def failure(where: str, call: str, error: BaseException) -> EnvironmentFailure | EnvironmentDefect:
    """The exception for an environment's own error; a defect found by one of our wrappers gets its place added."""
    if isinstance(error, EnvironmentDefect):
        return error.at(where)
    if isinstance(error, SystemExit):
        return EnvironmentFailure(
            f"{where}: {call} tried to end the process: sys.exit({error.code!r}). Raise an exception, or end the "
            "episode. The traceback above is the environment's own."
        )
    return EnvironmentFailure(
        f"{where}: {call} raised {error_text(error)}. The traceback above is the environment's own."
    )
