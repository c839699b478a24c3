"""How many rows a linear policy of Tetris can remove: a search on lower boards, where games are short.

python benchmarks/tetris_limit.py                                              # 10 x 20, 22 features, half an hour
python benchmarks/tetris_limit.py --features thiery --search 8:120 10:480 --play 10 --games 1000

CMA-ES minimises ends of games per row, which many games side by side measure in a fixed number of moves: no candidate
waits for its longest game. Each stage begins with the mean of the one before; the mean of the last one plays on the
board of `--play`, begins again where a game ends, and is not chosen by its score there. Weights of Bertsekas' features
are the same from the left and from the right, as the game is.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import advantage as adv
from advantage.environments.tetris.features import DELLACHERIE, THIERY
from advantage.environments.tetris.world import Tetris, TetrisState
from advantage.policies.deterministic import first_of_highest
from advantage.types import Array, Key

# five heights, five differences of neighbours, the largest height, and the holes
START = {
    "bertsekas": (0.0,) * 5 + (-0.2,) * 5 + (0.0, -1.0),
    "dellacherie": DELLACHERIE,
    "thiery": THIERY,
}


def weights_of(features: str, x: Array) -> Array:
    """The weights that a point of the search stands for."""
    if features != "bertsekas":
        return x
    heights, differences = x[:5], x[5:10]
    mirrored = [heights, heights[::-1], differences, differences[-2::-1]]
    return jnp.concatenate([*mirrored, x[10:], jnp.zeros(1)])


def play(
    world: Tetris, weights: Array, state: TetrisState, pieces: Array
) -> tuple[TetrisState, Array, Array]:
    """Place all pieces, on an empty board after each end: `-> state, rows, ends`."""

    def move(carry: Any, piece: Array) -> tuple[Any, None]:
        state, rows, ends = carry
        after, reward, over = world.place(state, first_of_highest(world.score_actions(state, weights)), piece)
        state = TetrisState(jnp.where(over, 0, after.columns), piece)
        return (state, rows + reward, ends + over), None

    return jax.lax.scan(move, (state, jnp.float32(0), jnp.int32(0)), pieces)[0]


@partial(jax.jit, static_argnames=("world", "games", "moves"))
def ends_and_rows(
    world: Tetris, weights: Array, columns: Array, key: Key, *, games: int, moves: int
) -> tuple[TetrisState, Array, Array]:
    """`games` boards of each candidate: `-> states, rows [n], ends [n]`; columns `[n * games, W]`."""
    pieces = jax.random.randint(key, (len(weights) * games, 1 + moves), 0, 7)
    state = TetrisState(columns, pieces[:, 0])
    each = jnp.repeat(weights, games, axis=0)
    state, rows, ends = jax.vmap(partial(play, world))(each, state, pieces[:, 1:])
    return state, rows.reshape(-1, games).sum(1), ends.reshape(-1, games).sum(1)


def search(features: str, height: int, seconds: float, start: np.ndarray, key: Key) -> np.ndarray:
    """The mean of CMA-ES after so many seconds on a board of this height."""
    world, candidates, games, moves = Tetris(10, height, features), 24, 32, 8192
    optimiser = adv.CMAES(sigma=0.05 * float(np.abs(start).max()), candidates=candidates)
    state, began, generation = optimiser.begin(jnp.asarray(start, jnp.float32)), time.perf_counter(), 0
    empty = jnp.zeros((candidates * games, 10), jnp.uint32)
    while time.perf_counter() - began < seconds:
        key, key_ask, key_play = jax.random.split(key, 3)
        points = optimiser.ask(state, key_ask)
        weights = jax.vmap(partial(weights_of, features))(points)
        _, rows, ends = ends_and_rows(world, weights, empty, key_play, games=games, moves=moves)
        state = optimiser.tell(state, points, (ends + 0.5) / jnp.maximum(rows, 1))
        generation += 1
        if generation % 10 == 1:
            middle = float(jnp.median(rows / (ends + 0.5)))
            print(f"10 x {height}, generation {generation}: median {middle:,.0f} rows a game", flush=True)
    return np.asarray(state.mean)


def score(world: Tetris, weights: Array, games: int, key: Key) -> None:
    """Print the rows of a game, until so many have ended."""
    columns, rows, ends = jnp.zeros((64, world.width), jnp.uint32), 0.0, 0
    while ends < games:
        key, key_play = jax.random.split(key)
        state, new_rows, new_ends = ends_and_rows(
            world, weights[None], columns, key_play, games=64, moves=8192
        )
        columns, rows, ends = state.columns, rows + float(new_rows[0]), ends + int(new_ends[0])
    mean = rows / ends  # lengths are nearly exponential: their deviation is their mean
    print(
        f"{world.width} x {world.height}: {mean:,.0f} rows a game, standard error {mean / ends**0.5:,.0f}, {ends} games"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--features", choices=list(START), default="bertsekas")
    parser.add_argument(
        "--search", nargs="+", default=["10:180", "14:420", "18:900"], metavar="HEIGHT:SECONDS"
    )
    parser.add_argument("--play", type=int, default=20, metavar="HEIGHT")
    parser.add_argument("--games", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    key, x = jax.random.key(arguments.seed), np.array(START[arguments.features])
    for n, stage in enumerate(arguments.search):
        height, seconds = stage.split(":")
        x = search(arguments.features, int(height), float(seconds), x, jax.random.fold_in(key, n))
    weights = weights_of(arguments.features, jnp.asarray(x))
    print("weights", [round(float(w), 3) for w in weights / jnp.abs(weights).max()])
    score(
        Tetris(10, arguments.play, arguments.features),
        weights,
        arguments.games,
        jax.random.fold_in(key, 1000),
    )


if __name__ == "__main__":
    main()
