"""A generation of 256 CartPole policies: on the device, and through Gymnasium.

python benchmarks/population.py [--candidates 256] [--repeats 5]

The same linear policies play one episode each, as in a search: all in one compiled program, or one episode after
another in Gymnasium's CartPole-v1, in this process and in one worker per core. In one case the policies are random and
their poles fall soon; in the other, all of them balance for 500 steps. Medians do not include compilation and start.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from advantage.drivers.device import share_cores
from advantage.machine import available_cores

share_cores(available_cores())  # as `advantage train` does

import advantage as adv  # noqa: E402
from advantage.drivers.search.device_games import DeviceGames  # noqa: E402
from advantage.drivers.search.games import Chance, Games  # noqa: E402
from advantage.drivers.search.host_games import HostGames  # noqa: E402
from advantage.types import Spec  # noqa: E402


def timed(play: Callable[[], Games | None], repeats: int) -> tuple[float, int]:
    """Median seconds of a generation, and its number of steps."""
    seconds, steps = [], 0
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        games = play()
        seconds.append(time.perf_counter() - begin)
        assert games is not None
        steps = int(games.lengths.sum())
    return statistics.median(seconds[1:]), steps


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--candidates", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    n, algorithm = arguments.candidates, adv.PolicySearch(adv.CEM(candidates=arguments.candidates))
    world: Any = adv.make("jax/CartPole-v1")
    spec = Spec(world.observation_space, world.action_space, 1, 10**9)
    state = algorithm.init(jax.random.key(0), spec)
    actor, d = algorithm.actor(state), state.best.size
    random = jax.random.normal(jax.random.key(1), (n, d))
    chance = Chance(np.arange(n), jax.random.key(2))
    print("| policies | steps | played | milliseconds | steps/s | device is faster |")
    print("|---|---:|---|---:|---:|---:|")
    for name, vectors in (("at random", random), ("that balance", balancing(random, actor))):
        device = DeviceGames(algorithm, world)
        taken, steps = timed(partial(device.play, actor, vectors, chance, 2**31, never), arguments.repeats)
        fast = steps / taken
        print(f"| {name} | {steps:,} | {device.where} | {1e3 * taken:.1f} | {fast:,.0f} | |", flush=True)
        for workers in (0, available_cores()):
            host = HostGames(algorithm, partial(adv.make, "CartPole-v1"), spec, workers)
            host.start(n)
            taken, steps = timed(partial(host.play, actor, vectors, chance, 2**31, never), arguments.repeats)
            host.close()
            row = name, f"{steps:,}", host.where, f"{1e3 * taken:.1f}", f"{steps / taken:,.0f}"
            print(f"| {' | '.join(row)} | {fast * taken / steps:.0f}× |", flush=True)


def never() -> bool:
    """A benchmark is never stopped."""
    return False


def balancing(like: jax.Array, actor: Any) -> jax.Array:
    """Vectors of policies that balance: they push in the direction in which the pole falls."""
    from advantage.policies.deterministic import flatten

    weight = jnp.array([[-0.1, 0.1], [-0.3, 0.3], [-1.0, 1.0], [-1.0, 1.0]])
    head = jax.tree.map(lambda leaf: jnp.zeros_like(leaf) if leaf.ndim == 1 else weight, actor.params)
    return jnp.tile(flatten(head), (len(like), 1))


if __name__ == "__main__":
    main()
