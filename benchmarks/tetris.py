"""Placements of Tetris scored per second: many games in one compiled loop, compared with the same game in NumPy.

python benchmarks/tetris.py [--lanes 8 16 32 64 256] [--devices 2] [--repeats 15]

A linear policy plays on 10 x 20 and starts again when a game is over. Only placements that exist are counted (on
average 23.1 per piece, of 34 that are computed). Each core has its own games. The NumPy game is the reference
implementation of the tests, on one core.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from advantage.environments.tetris.features import DELLACHERIE, FEATURES, THIERY
from advantage.environments.tetris.world import Tetris, TetrisState
from advantage.policies.deterministic import first_of_highest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
import tetris_oracle

WEIGHTS = {  # with the first set, games have a few hundred rows
    "bertsekas": (*[-0.5] * 10, *[-1.0] * 9, -1.0, -8.0, 0.0),
    "dellacherie": DELLACHERIE,
    "thiery": THIERY,
}
MOVES = 2048  # moves of each game in one call


def player(world: Tetris, weights: tuple[float, ...], mesh: Mesh) -> Callable[[Any, Any], Any]:
    """One call plays `MOVES` moves of every game: `state, pieces [MOVES, lanes] -> state, (counts, rows)`."""
    each, later, counts = (
        PartitionSpec("games"),
        PartitionSpec(None, "games"),
        jnp.asarray(world.placements.count),
    )

    def move(carry, piece):
        state, placements, rows = carry
        after, reward, over = world.place(
            state, first_of_highest(world.score_actions(state, jnp.asarray(weights))), piece
        )
        columns = jnp.where(over, 0, after.columns)
        return (TetrisState(columns, piece), placements + counts[state.piece], rows + reward), None

    def play(state, pieces):
        zeros = jnp.zeros(pieces.shape[1], jnp.int32)
        start = state, zeros, zeros.astype(jnp.float32)
        return jax.lax.scan(jax.vmap(move), start, pieces)[0]

    sharded = jax.shard_map(play, mesh=mesh, in_specs=(each, later), out_specs=(each,) * 3, check_vma=False)
    return jax.jit(sharded)


def measure(
    world: Tetris, weights: tuple[float, ...], lanes: int, mesh: Mesh, repeats: int
) -> tuple[list[float], float]:
    """Placements per second in each repeat, and seconds to compile."""
    total = lanes * mesh.size
    state = TetrisState(jnp.zeros((total, world.width), jnp.uint32), jnp.zeros(total, jnp.int32))
    draw = jax.jit(partial(jax.random.randint, shape=(MOVES, total), minval=0, maxval=7, dtype=jnp.int32))
    play, rates, started = player(world, weights, mesh), [], time.perf_counter()
    play = play.lower(state, draw(jax.random.key(0))).compile()
    compiling = time.perf_counter() - started
    for repeat in range(repeats):
        pieces = jax.block_until_ready(draw(jax.random.key(repeat)))
        started = time.perf_counter()
        state, placements, _ = jax.block_until_ready(play(state, pieces))
        rates.append(int(placements.sum()) / (time.perf_counter() - started))
    return rates, compiling


def loop(world: Tetris, weights: tuple[float, ...], placements: int) -> float:
    """Placements per second in NumPy."""
    started = time.perf_counter()
    scored = tetris_oracle.play(
        world.width, world.height, np.array(weights), world.features, placements, seed=0
    )
    return scored / (time.perf_counter() - started)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--lanes", type=int, nargs="+", default=[8, 16, 32, 64, 256], help="games on each core"
    )
    parser.add_argument(
        "--features", nargs="+", choices=tuple(FEATURES), default=["bertsekas", "dellacherie"]
    )
    parser.add_argument("--devices", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", arguments.devices)
    mesh = Mesh(np.array(jax.devices()), ("games",))
    print(f"{mesh.size} cores (median) of {arguments.repeats}, millions of placements per second")
    print(
        "| features | games per core | advantage | per core and move | compiling | NumPy | ratio of the best |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|")
    for features in arguments.features:
        world, weights = Tetris(10, 20, features), WEIGHTS[features]
        theirs = max(loop(world, weights, 1000) for _ in range(5))
        for lanes in arguments.lanes:
            rates, compiling = measure(world, weights, lanes, mesh, arguments.repeats)
            ours = max(rates)
            each = lanes * mesh.size * world.placements.count.mean() / ours
            print(
                f"| {features} | {lanes} | **{ours / 1e6:.2f}** ({statistics.median(rates) / 1e6:.2f}) | "
                f"{each * 1e6:.0f} µs | {compiling:.1f} s | {theirs / 1e6:.4f} | {ours / theirs:,.0f}× |",
                flush=True,
            )


if __name__ == "__main__":
    main()
