"""The driver of searches: an iteration is a generation of candidates, each judged by whole episodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from advantage.drivers.episode_book import NO_EPISODES
from advantage.drivers.metric_rows import metric_rows
from advantage.drivers.only_seed import only_seed
from advantage.drivers.search.games import Chance, GamePlayer, Games
from advantage.types import Array, DriverFacts, Episodes, Iterated, Key, Played, Pytree, Search, Span

NOTHING = np.zeros(0, np.int64)


class SearchDriver:
    """Lets the candidates of a generation play, and the search learn what they earned.

    Nothing of an episode outlasts its generation, so the search's state is all that a checkpoint needs. A search has
    finished when its next generation does not fit into what is left of the budget.

    Args:
        algorithm: the search.
        player: plays candidates, on the device or on the host.
        seed: of the run.
        total_timesteps: the budget.
        stopped: whether somebody wishes the run to stop.
    """

    def __init__(
        self,
        algorithm: Search,
        player: GamePlayer,
        *,
        seed: int,
        total_timesteps: int,
        stopped: Callable[[], bool] = lambda: False,
    ):
        self.algorithm, self.player, self.seed, self.total = algorithm, player, seed, total_timesteps
        self.stopped, self.finished, self.population = stopped, False, (0, 0)

    @property
    def facts(self) -> DriverFacts:
        """How many candidates of how many parameters play where."""
        candidates, parameters = self.population
        return DriverFacts(self.player.where, candidates=candidates, parameters=parameters)

    def start(self, states: Pytree, keys: Key) -> Pytree:
        """Get ready to play; the state of the one seed, without its axis."""
        state = only_seed(states)
        self._start(state)
        return state

    def _start(self, state: Pytree) -> None:
        self.population = jax.eval_shape(_propose, self.algorithm, state, jax.random.key(0))[0].shape
        self.player.start(self.population[0] * self.algorithm.episodes)

    def state_of(self, state: Pytree, seed: int) -> Pytree:
        """The state as it is: there is one seed."""
        return state

    def span(self, iteration: int, step: int, until: int) -> Span:
        """One generation."""
        return Span(iteration, 1, step, 1)

    def iterate(self, state: Pytree, run_keys: Key, span: Span) -> Iterated:
        """A generation; no row and the state as it was if it does not fit into the budget.

        Raises:
            ValueError: the first generation does not fit.
        """
        key_ask, key_play = jax.random.split(jax.random.fold_in(run_keys[0], span.iteration))
        candidates, actor = _propose(self.algorithm, state, key_ask)
        generation = _Generation(
            self, candidates, actor, Chance(NOTHING, key_play, self.seed, span.iteration)
        )
        played = generation.play(self.total - span.first_step)
        if played is None:
            self.finished = not self.stopped()
            if self.finished and not span.first_step:
                raise ValueError(
                    f"total_timesteps={self.total:_} does not let a first generation play to the end; give more, "
                    "fewer candidates, or fewer episodes."
                )
            return Iterated(state, {}, [NO_EPISODES], NOTHING, NOTHING)
        games, who = played
        state, metrics = _learn(self.algorithm, state, candidates, _summed(games, who, len(candidates)))
        ends = np.cumsum(games.lengths)
        numbers = np.full(len(who), span.iteration)
        episodes = Episodes(games.returns, games.lengths, span.first_step + ends, who, numbers)
        row = {name: value.reshape(1, 1) for name, value in metric_rows(jax.device_get(metrics)).items()}
        return Iterated(state, row, [episodes], np.ones(1, np.int64), ends[-1:])

    def conclusion(self, step: int) -> list[str]:
        """Why it ended before the budget was spent."""
        left = self.total - step
        return [f"A further generation takes more than the {left:_} steps left."] if self.finished else []

    def records(self, seed: int) -> dict[str, np.ndarray]:
        """Nothing: every generation begins anew."""
        return {}

    def restore(self, state: Pytree, keys: Key, records: dict[str, np.ndarray]) -> tuple[Pytree, list[str]]:
        """Get ready to play on. A search comes back exactly: there is no notice."""
        self._start(state)
        return state, []

    def close(self) -> None:
        self.player.close()


class _Generation:
    """The games of one generation."""

    def __init__(self, driver: SearchDriver, candidates: Array, actor: Pytree, chance: Chance):
        self.driver, self.candidates, self.actor, self.chance = driver, candidates, actor, chance

    def play(self, left: int) -> tuple[Games, np.ndarray] | None:
        """Every candidate's games, and those of the best again where asked: `-> games, whose each is`."""
        algorithm, number = self.driver.algorithm, len(self.candidates)
        everyone = np.arange(number)
        games, who = self._games_of(everyone, 0, left), everyone.repeat(algorithm.episodes)
        again = min(algorithm.reevaluate, number)
        if games is None or not again:
            return None if games is None else (games, who)
        means = _mean_returns(games.returns, who, number)
        best = np.argsort(np.where(np.isfinite(means), -means, np.inf), kind="stable")[:again]
        more = self._games_of(best, 1, left - int(games.lengths.sum()))
        if more is None:
            return None
        both = Games(*map(np.concatenate, zip(games, more, strict=True)))
        return both, np.concatenate([who, best.repeat(algorithm.episodes)])

    def _games_of(self, who: np.ndarray, attempt: int, left: int) -> Games | None:
        """`episodes` games of each of `who`, one after another."""
        algorithm = self.driver.algorithm
        episodes, number = algorithm.episodes, len(self.candidates)
        numbers = np.tile(np.arange(episodes), len(who))
        if not algorithm.common_random_numbers:
            numbers += who.repeat(episodes) * episodes
        chance = self.chance._replace(numbers=numbers + attempt * number * episodes)
        vectors = self.candidates[who.repeat(episodes)]
        return self.driver.player.play(self.actor, vectors, chance, left, self.driver.stopped)


@jax.jit
def _propose(algorithm: Search, state: Pytree, key: Key) -> tuple[Array, Pytree]:
    """`-> candidates [n, d], the actor that they make theirs`."""
    return algorithm.propose(state, key), algorithm.actor(state)


@jax.jit
def _learn(algorithm: Search, state: Pytree, candidates: Array, played: Played) -> Any:
    return algorithm.learn(state, candidates, played)


def _summed(games: Games, who: np.ndarray, number: int) -> Played:
    """What the search is told."""
    steps = games.lengths.sum()
    mean = games.sums.sum(0) / steps
    variance = np.maximum(games.squares.sum(0) / steps - np.square(mean), 0)
    return Played(
        returns=np.float32(_mean_returns(games.returns, who, number)),
        episodes=np.uint32(len(who)),
        steps=np.uint32(steps),
        seen=np.float32(steps),
        seen_mean=np.float32(mean),
        seen_variance=np.float32(variance),
    )


def _mean_returns(returns: np.ndarray, who: np.ndarray, number: int) -> np.ndarray:
    return np.bincount(who, returns, number) / np.bincount(who, minlength=number)
