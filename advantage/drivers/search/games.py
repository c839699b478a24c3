"""Games of a search: whole episodes of candidates, each with a chance of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np

from advantage.types import Array, Key, Pytree


class Games(NamedTuple):
    """Episodes that were played, `[G]`, and sums over what was seen in each, `[G, c]`.

    Attributes:
        returns: undiscounted; not finite where an environment broke.
        lengths: in steps.
        sums, squares: of what the algorithm's `seen` takes of observations.
    """

    returns: np.ndarray
    lengths: np.ndarray
    sums: np.ndarray
    squares: np.ndarray


class Chance(NamedTuple):
    """What decides the randomness of games: neither their order nor where they are played.

    Attributes:
        numbers: one for each game, `[G]`: two games with the same number meet the same chance.
        key: of the generation; on the device a game's key is `fold_in(key, number)`.
        seed, iteration: of the run and the generation; on the host a game is reset with
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
        """What plays, for people."""
        ...

    def start(self, games: int) -> None:
        """Get ready for generations of about so many games."""
        ...

    def play(
        self, actor: Pytree, vectors: Array, chance: Chance, left: int, stopped: Callable[[], bool]
    ) -> Games | None:
        """One episode of each vector `[G, d]`.

        None if they take more than `left` steps together, or `stopped()` becomes true.
        """
        ...

    def close(self) -> None:
        """Give back what was opened."""
        ...
