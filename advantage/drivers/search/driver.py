"""The driver of searches: an iteration is a generation of candidates, each evaluated by whole episodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from advantage.drivers.episode_book import NO_EPISODES
from advantage.drivers.info_means import InfoMeans
from advantage.drivers.metric_rows import metric_rows
from advantage.drivers.only_seed import only_seed
from advantage.drivers.records import check_records
from advantage.drivers.search.games import Chance, GamePlayer, Games
from advantage.machine import free_device_bytes, refuse_large
from advantage.types import Array, DriverFacts, Episodes, Iterated, Key, Mean, Played, Pytree, Search, Span

NOTHING = np.zeros(0, np.int64)


class SearchDriver:
    """Plays the candidates of a generation, and lets the search learn from their returns.

    No episode continues after its generation, so a checkpoint needs only the search's state. A search has finished when
    its next generation does not fit into the rest of the budget.

    Args:
        algorithm: the search.
        player: plays candidates, on the device or on the host.
        seed: the run's seed.
        total_timesteps: the budget.
        stopped: returns whether the run should stop.
        log_info: names of numbers in the environment's infos, whose means are metrics.
    """

    def __init__(
        self,
        algorithm: Search,
        player: GamePlayer,
        *,
        seed: int,
        total_timesteps: int,
        stopped: Callable[[], bool] = lambda: False,
        log_info: Sequence[str] = (),
    ):
        self.algorithm, self.player, self.seed, self.total = algorithm, player, seed, total_timesteps
        self.stopped, self.finished, self.population = stopped, False, (0, 0)
        self.log_info, self.info = log_info, InfoMeans(log_info, player.info_names)

    @property
    def facts(self) -> DriverFacts:
        """Where games are played, and the numbers of candidates and parameters, for the user."""
        candidates, parameters = self.population
        return DriverFacts(self.player.where, candidates=candidates, parameters=parameters)

    def start(self, states: Pytree, keys: Key) -> Pytree:
        """Prepare the player; returns the state of the only seed, without its axis."""
        state = only_seed(states)
        self._start(state)
        return state

    def _start(self, state: Pytree) -> None:
        proposed = jax.eval_shape(_propose, self.algorithm, state, jax.random.key(0))[0]
        self.population = proposed.shape
        candidates, parameters = self.population
        what = f"A generation of {candidates:_} candidates of {parameters:_} parameters"
        refuse_large(
            f"{what}, with the noise that it is made of,",
            2 * proposed.size * proposed.dtype.itemsize,
            "use fewer candidates, a smaller policy, or make the observations smaller",
            free_device_bytes(),
        )
        self.player.start(self.population[0] * self.algorithm.episodes)

    def state_of(self, state: Pytree, seed: int) -> Pytree:
        """The state as it is: there is one seed."""
        return state

    def span(self, iteration: int, step: int, until: int) -> Span:
        """One generation."""
        return Span(iteration, 1, step, 1)

    def iterate(self, state: Pytree, run_keys: Key, span: Span) -> Iterated:
        """Play a generation and learn from it. No row and the old state if it does not fit into the budget.

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
                    f"total_timesteps={self.total:_} is too small for the first generation; give more steps, fewer "
                    "candidates, or fewer episodes."
                )
            return Iterated(state, {}, [NO_EPISODES], NOTHING, NOTHING)
        games, who = played
        state, metrics = _learn(self.algorithm, state, candidates, _summed(games, who, len(candidates)))
        ends = np.cumsum(games.lengths)
        numbers = np.full(len(who), span.iteration)
        episodes = Episodes(games.returns, games.lengths, span.first_step + ends, who, numbers)
        infos = dict(zip(self.log_info, map(Mean._make, games.info.sum(0)), strict=True))
        metrics = jax.device_get(metrics) | self.info.metrics(infos, len(who))
        row = {name: value.reshape(1, 1) for name, value in metric_rows(metrics).items()}
        return Iterated(state, row, [episodes], np.ones(1, np.int64), ends[-1:])

    def conclusion(self, step: int) -> list[str]:
        """Why the run ended before the budget was spent; warns about names in `log_info` that no step has had."""
        self.info.end()
        left = self.total - step
        return [f"The next generation takes more than the {left:_} steps left."] if self.finished else []

    def records(self, seed: int) -> dict[str, np.ndarray]:
        """Empty: every generation begins new episodes."""
        return {}

    def restore(self, state: Pytree, keys: Key, records: dict[str, np.ndarray]) -> tuple[Pytree, list[str]]:
        """Prepare the player. A search is restored exactly, so there are no notices."""
        check_records(records, {})
        self._start(state)
        return state, []

    def close(self) -> None:
        self.player.close()


class _Generation:
    """The games of one generation."""

    def __init__(self, driver: SearchDriver, candidates: Array, actor: Pytree, chance: Chance):
        self.driver, self.candidates, self.actor, self.chance = driver, candidates, actor, chance

    def play(self, left: int) -> tuple[Games, np.ndarray] | None:
        """Play every candidate's games, and the best candidates' again if asked: `-> games, candidate of each game`."""
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
        """Play `episodes` games of each candidate in `who`, in this order."""
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
    """`-> candidates [n, d], the actor whose parameters they replace`."""
    return algorithm.propose(state, key), algorithm.actor(state)


@jax.jit
def _learn(algorithm: Search, state: Pytree, candidates: Array, played: Played) -> Any:
    return algorithm.learn(state, candidates, played)


def _summed(games: Games, who: np.ndarray, number: int) -> Played:
    """The results of the games, as the search takes them."""
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
