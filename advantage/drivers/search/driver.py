"""The driver of searches: an iteration is a generation of candidates, each judged by whole episodes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

from advantage.drivers.episode_book import NO_EPISODES, Episodes
from advantage.drivers.host.stepper import episode_seed
from advantage.drivers.search.device_games import DeviceGames, Games
from advantage.drivers.search.host_games import HostGames
from advantage.types import Array, Key, Played, Pytree, Search


@jax.jit
def _propose(algorithm: Search, state: Pytree, key: Key) -> tuple[Array, Pytree]:
    """`-> candidates [n, d], the actor that they make theirs`."""
    return algorithm.propose(state, key), algorithm.actor(state)


@jax.jit
def _learn(algorithm: Search, state: Pytree, candidates: Array, played: Played) -> Any:
    return algorithm.learn(state, candidates, played)


class SearchDriver:
    """Lets the candidates of a generation play, and the search learn what they earned.

    Nothing of an episode outlasts its generation, so the search's state is all that a checkpoint needs. A generation
    that does not fit into what is left of the budget is not told, and the search has finished.

    Args:
        algorithm: the search.
        games: plays candidates, on the device or on the host.
        seed: of the run.
        total_timesteps: the budget.
    """

    chunk = per_row = 1

    def __init__(self, algorithm: Search, games: DeviceGames | HostGames, seed: int, total_timesteps: int):
        self.algorithm, self.games, self.seed, self.total = algorithm, games, seed, total_timesteps
        self.finished = False
        self.stopped: Callable[[], bool] = lambda: False
        self.rollout_bytes = 0

    @property
    def where(self) -> str:
        """What plays, for people."""
        return self.games.where

    def start(self) -> None:
        """Get ready to play."""
        self.games.start()

    def iterate(
        self, state: Pytree, run_key: Key, iteration: int, count: int, first_step: int, n_steps: int
    ) -> tuple[Pytree, dict[str, Any], Episodes]:
        """A generation: `-> state, metrics, episodes`; the state as it was and no episodes if it does not fit."""
        key_ask, key_play = jax.random.split(jax.random.fold_in(run_key, iteration))
        candidates, actor = _propose(self.algorithm, state, key_ask)
        number, episodes = len(candidates), self.algorithm.episodes
        play = partial(self._play, candidates, actor, key_play, iteration)
        everyone = np.arange(number)
        games, who = play(everyone, 0, self.total - first_step), everyone.repeat(episodes)
        again = min(self.algorithm.reevaluate, number)
        if games is not None and again:
            means = _mean_returns(games.returns, who, number)
            best = np.argsort(np.where(np.isfinite(means), -means, np.inf), kind="stable")[:again]
            more = play(best, 1, self.total - first_step - int(games.lengths.sum()))
            games = more and Games(*map(np.concatenate, zip(games, more, strict=True)))
            who = np.concatenate([who, best.repeat(episodes)])
        if games is None:
            self.finished = not self.stopped()
            return state, {}, NO_EPISODES
        seen, means = games.lengths.sum(), _mean_returns(games.returns, who, number)
        mean = games.sums.sum(0) / seen
        variance = np.maximum(games.squares.sum(0) / seen - np.square(mean), 0)
        counts = np.uint32(len(who)), np.uint32(seen)
        played = Played(np.float32(means), *counts, np.float32(seen), np.float32(mean), np.float32(variance))
        state, metrics = _learn(self.algorithm, state, candidates, played)
        ends = np.cumsum(games.lengths)
        record = Episodes(games.returns, games.lengths, first_step + ends, who, np.full(len(who), iteration))
        return state, jax.device_get(metrics), record

    def _play(
        self,
        candidates: Array,
        actor: Pytree,
        key: Key,
        iteration: int,
        who: np.ndarray,
        attempt: int,
        left: int,
    ) -> Games | None:
        """`episodes` games of each of `who`, one after another."""
        number, episodes = len(candidates), self.algorithm.episodes
        chance = np.tile(np.arange(episodes), len(who))
        if not self.algorithm.common_random_numbers:
            chance += who.repeat(episodes) * episodes
        chance += attempt * number * episodes
        vectors = candidates[who.repeat(episodes)]
        if isinstance(self.games, DeviceGames):
            chances: Any = jax.vmap(partial(jax.random.fold_in, key))(chance)
        else:
            chances = [episode_seed(self.seed, iteration, int(n)) for n in chance]
        return self.games.play(actor, vectors, chances, left, self.stopped)

    def records(self) -> dict[str, np.ndarray]:
        """Nothing: every generation begins anew."""
        return {}

    def restore(self, records: dict[str, np.ndarray]) -> list[str]:
        """Get ready to play on; nothing can go astray."""
        self.games.start()
        return []

    def close(self) -> None:
        self.games.close()


def _mean_returns(returns: np.ndarray, who: np.ndarray, number: int) -> np.ndarray:
    return np.bincount(who, returns, number) / np.bincount(who, minlength=number)
