"""Whole episodes of candidates in a host environment, played in this process or in worker processes."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, Literal

import cloudpickle
import jax
import numpy as np

from advantage.drivers.host.crew import (
    ERROR,
    PIECE,
    START_SECONDS,
    Crew,
    describe,
    live,
)
from advantage.drivers.host.host_actor import HostActor
from advantage.drivers.host.stepper import CHECKED_STEPS, MakeEnvironment, episode_seed, failure
from advantage.drivers.search.games import Chance, Games
from advantage.environments.check import check_reset, check_step
from advantage.environments.current_folder import EnvironmentsFolder
from advantage.environments.environment import close
from advantage.environments.logged_info import names_in, number_in
from advantage.environments.spaces import read, translator
from advantage.environments.step_checks import Extremes, step_test
from advantage.environments.watchdog import Watchdog
from advantage.machine import available_cores
from advantage.types import Array, Pytree, Search, Spec

HEARTBEAT = 0.5  # seconds between signs of life of a worker in the middle of a game
ALIVE = b"alive"
BETWEEN, RESET = -2, -1  # what is called, if it is not a step


class Player:
    """One environment, in which candidates play one after another."""

    def __init__(self, make: MakeEnvironment, algorithm: Search, spec: Spec, log_info: Sequence[str] = ()):
        self.algorithm, self.spec, self.checked = algorithm, spec, 0
        self.log_info, self.heard = log_info, set[str]()
        self.translate = translator(spec.action_space, spec.action_units)
        self.is_step = step_test(spec.observation_space)
        self.calls, self.at = 0, BETWEEN
        try:
            self.env = make()
        except (Exception, SystemExit) as error:
            raise failure("the environment", "making it", error) from error

    def play(
        self, actor: Pytree, vector: np.ndarray, seed: int, going_on: Callable[[int], bool]
    ) -> tuple[float, int, np.ndarray, np.ndarray, np.ndarray]:
        """Play one episode: return, length, sums and infos as in `Games`. It stops when `going_on(length)` is False.

        A reward or an observation that is not finite ends it; the return is then NaN.
        """
        algorithm = self.algorithm
        actor = algorithm.candidate(actor, vector)
        self.calls, self.at = self.calls + 1, RESET
        try:
            result = self.env.reset(seed=seed)
        except (Exception, SystemExit) as error:
            raise failure("a candidate's episode", f"reset(seed={seed})", error) from error
        self.at = BETWEEN
        space = self.spec.observation_space
        check_reset(space, result, f"reset(seed={seed})")
        extremes = Extremes(space)
        obs, total, length, done = result[0], 0.0, 0, False
        batch = _batch(obs)
        choose = HostActor(algorithm, actor).program(batch, ())
        sums = squares = np.zeros(algorithm.seen(actor, batch).shape[-1])
        infos = np.zeros((len(self.log_info), 2))
        while not done and going_on(length):
            if sums.size:
                seen = np.asarray(algorithm.seen(actor, batch), np.float64)
                sums, squares = sums + seen.sum(0), squares + np.square(seen).sum(0)
            action = read(self.translate(choose(batch, ())[0]), 0)
            self.calls, self.at = self.calls + 1, length
            try:
                result = self.env.step(action)
            except (Exception, SystemExit) as error:
                raise failure(
                    f"step {length} of a candidate's episode", f"step({action!r})", error
                ) from error
            self.at = BETWEEN
            if not self.is_step(result):
                check_step(space, result, f"step {length} of a candidate's episode")
            obs, reward, terminated, truncated, info = result
            self._log(infos, info, f"step {length} of a candidate's episode")
            batch = _batch(obs)
            broke = not (_is_finite(batch) and math.isfinite(reward))
            if not broke:
                self.checked += 1
                if self.checked <= CHECKED_STEPS:
                    check_step(space, result, f"step {length} of a candidate's episode")
                extremes.add(obs)
            total, length = total + float("nan" if broke else reward), length + 1
            truncated |= broke
            done = terminated or truncated
        extremes.check(f"a step of a candidate's episode after reset(seed={seed})")
        return total, length, sums, squares, infos

    def call_now(self) -> str | None:
        """Which call of the environment has not returned yet."""
        at, calls = self.at, self.calls
        if at == BETWEEN:
            return None
        name = "the reset" if at == RESET else f"step {at}"
        return f"{name} of a candidate's episode (call {calls:_} of the environment)"

    def _log(self, infos: np.ndarray, info: dict[str, Any], where: str) -> None:
        """Add the numbers of a step that are logged to their sums and counts, `[names, 2]`."""
        for place, name in enumerate(self.log_info):
            number = number_in(info, name, where)
            if number == number:
                infos[place] += number, 1
            else:
                self.heard.update(names_in(info))

    def close(self) -> None:
        close(self.env)


def _batch(obs: Pytree) -> Pytree:
    if isinstance(obs, np.ndarray):
        return obs[None]
    return jax.tree.map(lambda leaf: np.asarray(leaf)[None], obs)


def _is_finite(batch: Pytree) -> bool:
    if isinstance(batch, np.ndarray):
        return batch.dtype.kind != "f" or bool(np.isfinite(batch.sum()) or np.isfinite(batch).all())
    return all(map(_is_finite, jax.tree.leaves(batch)))


class HostGames:
    """Plays candidates in a Gymnasium environment.

    Args:
        algorithm: the search.
        make: makes one environment.
        spec: the run's spec.
        workers: number of worker processes; 0 plays in this process; "auto" takes one per core for several games.
        timeout: seconds without a sign of life after which a worker counts as hung.
        log_info: names of numbers in the environment's infos, which are summed.

    The results do not depend on `workers`.
    """

    def __init__(
        self,
        algorithm: Search,
        make: MakeEnvironment,
        spec: Spec,
        workers: int | Literal["auto"] = 0,
        timeout: float = 60.0,
        log_info: Sequence[str] = (),
    ):
        self.asked: int | Literal["auto"] = workers
        self.workers, self.timeout, self.log_info = 0, timeout, tuple(log_info)
        self.algorithm, self.make, self.spec = jax.device_get(algorithm), make, spec
        self.folder = EnvironmentsFolder()
        self.player: Player | None = None
        self.crew: Crew | None = None
        self.playing: dict[int, tuple[int, float]] = {}  # a worker's game, and the seconds of silence

    @property
    def where(self) -> str:
        """Which processes play, for the user."""
        return (
            f"in {self.workers} worker process{'es' * (self.workers > 1)}"
            if self.workers
            else "in this process"
        )

    def start(self, games: int) -> None:
        """Make the environments, for generations of about `games` games."""
        cores = available_cores()
        if self.asked != "auto":
            self.workers = min(self.asked, games)
        else:
            self.workers = min(cores, games) if min(games, cores) > 1 else 0
        if not self.workers:
            with self.folder, Watchdog(lambda: "Making the environment"):
                self.player = Player(self.make, self.algorithm, self.spec, self.log_info)
            return
        holdings = [f"an environment of {self.workers}"] * self.workers
        self.crew = Crew(
            "advantage.drivers.search.host_games", holdings, variables={"JAX_PLATFORMS": "cpu"}
        )  # workers do not use a GPU
        for number in range(self.workers):
            made = cloudpickle.dumps((self.make, self.algorithm, self.spec, self.log_info))
            self.crew.send(number, ("start", sys.path, made), "start")
        self.crew.gather("make its environment", max(self.timeout, START_SECONDS))

    def close(self) -> None:
        """End the workers, or close the environment."""
        if self.crew is not None:
            self.crew.close()
        if self.player is not None:
            with self.folder:
                self.player.close()

    def play(
        self, actor: Pytree, vectors: Array, chance: Chance, left: int, stopped: Callable[[], bool]
    ) -> Games | None:
        """Play one episode with each parameter vector, `[G, d]`.

        Returns None if they take more than `left` steps together, or `stopped()` becomes true; then no others
        may follow, since workers are still playing.
        """
        actor, vectors = jax.device_get((actor, vectors))
        play = self._play_here if self.crew is None else self._hand_out
        seeds = [episode_seed(chance.seed, chance.iteration, int(n)) for n in chance.numbers]
        games: list[Any] = [None] * len(vectors)
        with self.folder, Watchdog(self.player.call_now if self.player is not None else lambda: None):
            for number, game in play(actor, vectors, seeds, left, stopped):
                games[number] = game
                left -= game[1]
                if left < 0 or stopped():
                    return None
        if any(game is None for game in games):  # stopped before it ended
            return None
        returns, lengths, sums, squares, infos = map(np.array, zip(*games, strict=True))
        return Games(returns, lengths, sums, squares, infos.reshape(len(games), len(self.log_info), 2))

    def info_names(self) -> list[str]:
        """The names in the infos of steps that lacked a name that is logged; with workers, those of a free one."""
        if self.player is not None:
            return sorted(self.player.heard)
        crew, free = self.crew, [n for n in range(self.workers) if n not in self.playing]
        assert crew is not None
        if not free:
            return []
        crew.send(free[0], ("info_names",), "name what is in its infos")
        return json.loads(crew.receive(free[0], "name what is in its infos", self.timeout))

    def _play_here(self, actor: Pytree, vectors: np.ndarray, seeds: list[int], left: int, stopped: Any):
        assert self.player is not None
        for number, (vector, seed) in enumerate(zip(vectors, seeds, strict=True)):
            yield number, self.player.play(actor, vector, seed, lambda n: n <= left and not stopped())

    def _hand_out(self, actor: Pytree, vectors: np.ndarray, seeds: list[int], left: int, stopped: Any):
        """Give the next game to each free worker; yields games in the order of their ends."""
        crew, playing = self.crew, self.playing
        assert crew is not None
        for number in range(self.workers):
            crew.send(number, ("meet", actor, left), "receive the actor")
        todo = list(enumerate(zip(vectors, seeds, strict=True)))[::-1]
        before = time.monotonic()
        while todo or playing:
            for number in range(self.workers):
                if todo and number not in playing:
                    game, chosen = todo.pop()
                    crew.send(number, ("play", *chosen), "play")
                    playing[number] = game, 0.0
            ready = wait([crew.pipes[number] for number in playing], HEARTBEAT)
            now = time.monotonic()
            passed, before = min(now - before, PIECE), now
            for number, (game, silent) in list(playing.items()):
                if crew.pipes[number] in ready:
                    answer = crew.receive(number, "play", self.timeout)
                    playing[number] = game, 0.0
                    if answer != ALIVE:
                        del playing[number]
                        total, length, *sums = json.loads(answer)
                        yield game, (total, length, *map(np.array, sums))
                    continue
                playing[number] = game, silent + passed
                if silent + passed > self.timeout:
                    raise crew.hung(number, "take a step", self.timeout)
            if stopped():
                return


class Pulse:
    """Tells the waiting process that a game is still running, and tells the game whether it may continue."""

    def __init__(self, pipe: Connection):
        self.pipe, self.last, self.left = pipe, time.monotonic(), 0

    def __call__(self, length: int) -> bool:
        now = time.monotonic()
        if now - self.last > HEARTBEAT:
            self.last = now
            self.pipe.send_bytes(ALIVE)
        return length <= self.left


def serve(pipe: Connection) -> None:
    """The loop of a worker: make the environment, receive the actor of a generation, and play."""
    player = actor = None
    pulse = Pulse(pipe)
    try:
        while True:
            name, *arguments = cloudpickle.loads(pipe.recv_bytes())
            answer = b""
            try:
                if name == "start":
                    sys.path[:] = arguments[0]
                    player = Player(*cloudpickle.loads(arguments[1]))
                elif name == "meet":
                    actor, pulse.left = arguments
                    continue
                elif player is not None and name == "info_names":
                    answer = json.dumps(sorted(player.heard)).encode()
                elif player is not None:
                    total, length, *sums = player.play(actor, arguments[0], arguments[1], pulse)
                    answer = json.dumps([total, length, *(x.tolist() for x in sums)]).encode()
            except BrokenPipeError:
                return
            except Exception as error:
                answer = ERROR + json.dumps(describe(error)).encode()
            pipe.send_bytes(answer)
    except (EOFError, OSError):  # the parent has closed the pipe
        return
    finally:
        if player is not None:
            player.close()


if __name__ == "__main__":
    live(serve)
