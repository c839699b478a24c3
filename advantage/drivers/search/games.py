"""Games of a search: whole episodes of candidates, each with its own random numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np

from advantage.types import Array, Key, Pytree


class Games(NamedTuple):
    """Results of the episodes, `[G]`, and sums over the observations of each, `[G, c]`.

    Attributes:
        returns: undiscounted; not finite if a reward or an observation was not.
        lengths: number of steps.
        sums, squares: sums of the algorithm's `seen` over the observations, and of its squares.
        info: sum and count of each number that is logged from the infos, `[G, names, 2]`.
    """

    returns: np.ndarray
    lengths: np.ndarray
    sums: np.ndarray
    squares: np.ndarray
    info: np.ndarray


class Chance(NamedTuple):
    """What determines the random numbers of games, whatever their order and wherever they are played.

    Attributes:
        numbers: one for each game, `[G]`: two games with the same number get the same random numbers.
        key: the generation's key; on the device a game's key is `fold_in(key, number)`.
        seed, iteration: the run's seed and the generation's index; on the host a game is reset with
            `episode_seed(seed, iteration, number)`.
    """

    numbers: np.ndarray
    key: Key
    seed: int = 0
    iteration: int = 0


class GamePlayer(Protocol):
    """Plays the games of a generation, on the device or on the host."""

    @property
    def where(self) -> str:
        """Where games are played, for the user."""
        ...

    def start(self, games: int) -> None:
        """Prepare for generations of about `games` games."""
        ...

    def play(
        self, actor: Pytree, vectors: Array, chance: Chance, left: int, stopped: Callable[[], bool]
    ) -> Games | None:
        """Play one episode with each parameter vector, `[G, d]`.

        Returns None if they take more than `left` steps together, or `stopped()` becomes true.
        """
        ...

    def info_names(self) -> list[str]:
        """The names in the infos of steps that lacked a name that is logged."""
        ...

    def close(self) -> None:
        """Close what the player has opened."""
        ...
