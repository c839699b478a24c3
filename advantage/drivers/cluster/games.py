"""Whole episodes of candidates, played by the actors of a cluster."""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import cloudpickle
import numpy as np

from advantage.drivers.cluster.actors import START_SECONDS, TRIES, ClusterWarning, Lost, answer, hung, where
from advantage.drivers.cluster.connection import ray_library
from advantage.drivers.host.stepper import EnvironmentFailure, MakeEnvironment, episode_seed
from advantage.drivers.search.games import Chance, Games
from advantage.types import Array, Pytree, Search, Spec

HOLDS = "plays candidates"  # what an actor does, for messages


class Playing(NamedTuple):
    """A game under way: the places of its actor and of the game, and when it began."""

    place: int
    game: int
    begun: float


class GameActor:
    """What runs in a process of the cluster: one environment, in which candidates play one after another."""

    def __init__(self, path: list[str], setting: bytes):
        os.environ["JAX_PLATFORMS"] = "cpu"
        sys.path[:] = [*path, *(entry for entry in sys.path if entry not in path)]
        from advantage.drivers.search.host_games import Player

        self.player = Player(*cloudpickle.loads(setting))

    def ready(self) -> None:
        """Answer: this process runs."""

    def play(self, actor: Pytree, vector: np.ndarray, seed: int, left: int) -> tuple[Any, ...]:
        """One episode, as `Player.play`; it stops after more than `left` steps."""
        return self.player.play(actor, vector, seed, lambda length: length <= left)

    def info_names(self) -> list[str]:
        """The names in the infos of steps that lacked a name that is logged."""
        return sorted(self.player.heard)


class ClusterGames:
    """Plays candidates in a Gymnasium environment; the results are those of one process.

    Actors come and go: games are given to those whose processes run. One that finds no core plays when a node joins.

    Args:
        algorithm: the search.
        make: makes one environment.
        spec: the run's spec.
        number: of actors.
        timeout: seconds that a game may take longer than the longest one before it.
        log_info: names of numbers in the environment's infos, which are summed.
    """

    def __init__(
        self,
        algorithm: Search,
        make: MakeEnvironment,
        spec: Spec,
        number: int,
        timeout: float,
        log_info: Sequence[str] = (),
    ):
        import jax

        self.ray, self.number, self.timeout, self.log_info = ray_library(), number, timeout, tuple(log_info)
        self.setting = cloudpickle.dumps((make, jax.device_get(algorithm), spec, self.log_info))
        self.handles: dict[int, Any] = {}
        self.asleep: dict[int, Any] = {}  # a reference that is there when the process of that place runs
        self.awake: set[int] = set()  # whose processes have played
        self.longest = 0.0  # seconds of a game

    @property
    def where(self) -> str:
        """How many actors play, and on which nodes."""
        return where(self.ray, self.number)

    def start(self, games: int) -> None:
        """Make the environments, for generations of about `games` games."""
        self.number = min(self.number, games)
        for place in range(self.number):
            self._renew(place)

    def _renew(self, place: int) -> None:
        """Ask for a new actor in a place; its process may not run yet."""
        self.awake.discard(place)
        remote = self.ray.remote(GameActor).options(num_cpus=1, max_restarts=0, max_task_retries=0)
        self.handles[place] = remote.remote(list(sys.path), self.setting)
        self.asleep[place] = self.handles[place].ready.remote()

    def _idle(self, playing: Iterable[Playing]) -> list[int]:
        """The actors whose processes run and that play nothing. If none runs, waits for the first."""
        if self.asleep:
            none, greetings = len(self.asleep) == self.number, [*self.asleep.values()]
            number, seconds = (1, START_SECONDS) if none else (len(greetings), 0)
            ready, _ = self.ray.wait(greetings, num_returns=number, timeout=seconds)
            if none and not ready:
                raise hung(0, START_SECONDS, HOLDS)
            self.asleep = {place: each for place, each in self.asleep.items() if each not in ready}
        busy = {*self.asleep, *(each.place for each in playing)}
        return [place for place in range(self.number) if place not in busy]

    def play(
        self, actor: Pytree, vectors: Array, chance: Chance, left: int, stopped: Callable[[], bool]
    ) -> Games | None:
        """Play one episode with each parameter vector, `[G, d]`.

        Returns None if they take more than `left` steps together, or `stopped()` becomes true.

        Raises:
            EnvironmentFailure, EnvironmentDefect: an environment failed or hangs, or actors are lost again and again.
        """
        import jax

        shared, vectors = self.ray.put(jax.device_get(actor)), np.asarray(vectors)
        seeds = [episode_seed(chance.seed, chance.iteration, int(n)) for n in chance.numbers]
        games: list[Any] = [None] * len(vectors)
        todo, playing, lost = [*range(len(vectors))][::-1], {}, 0
        while todo or playing:
            for place in self._idle(playing.values())[: len(todo)]:
                game = todo.pop()
                call = self.handles[place].play.remote(shared, vectors[game], seeds[game], left)
                playing[call] = Playing(place, game, time.monotonic())
            ready, _ = self.ray.wait([*playing], num_returns=1, timeout=0.2)
            for reference in ready:
                place, game, begun = playing.pop(reference)
                try:
                    games[game] = answer(self.ray, place, reference, self.timeout, HOLDS)
                except Lost as error:
                    lost += 1
                    if lost > TRIES * self.number:
                        raise EnvironmentFailure(
                            f"Actors were lost {lost} times in one generation: {error}."
                        ) from None
                    warnings.warn(
                        f"Actor {place} is lost: {error}. Another one takes its place and plays its game again.",
                        ClusterWarning,
                        stacklevel=2,
                    )
                    self._renew(place)
                    todo.append(game)
                    continue
                left -= games[game][1]
                self.longest = max(self.longest, time.monotonic() - begun)
                self.awake.add(place)
            self._refuse_hung(playing)
            if left < 0 or stopped():
                self._abandon(playing)
                return None
        returns, lengths, sums, squares, infos = map(np.array, zip(*games, strict=True))
        return Games(returns, lengths, sums, squares, infos.reshape(len(games), len(self.log_info), 2))

    def _refuse_hung(self, playing: dict[Any, Playing]) -> None:
        """Raise EnvironmentFailure for a game that takes too long; the first one of a process has time to start."""
        for reference, (place, _, begun) in playing.items():
            allowed = self.longest + self.timeout if place in self.awake else max(self.timeout, START_SECONDS)
            seconds = time.monotonic() - begun
            if seconds > allowed and not self.ray.wait([reference], timeout=0)[0]:
                raise hung(place, seconds, HOLDS)

    def _abandon(self, playing: dict[Any, Playing]) -> None:
        """Replace the actors of games that nobody waits for."""
        for place, _, _ in playing.values():
            self.ray.kill(self.handles[place])
            self._renew(place)

    def info_names(self) -> list[str]:
        """The names in the infos of steps that lacked a name that is logged, of the first actor."""
        return self.ray.get(self.handles[0].info_names.remote())

    def close(self) -> None:
        """End every actor."""
        for handle in self.handles.values():
            self.ray.kill(handle)
