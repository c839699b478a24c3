"""How fast planners decide.

    .venv/bin/python benchmarks/planning.py

Each line has a figure and the limit that it is held against, on the machine where it runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

import advantage as adv
from advantage.models.true_world import TrueModel
from advantage.planners.guided_search import guided_search
from advantage.types import Array

SECONDS = 3.0


def rate(run: Callable[[Array], Array], work: float) -> float:
    """Units of work a second: calls of `run` with new keys for three seconds, after one that compiles."""
    jax.block_until_ready(run(jax.random.key(0)))
    begin, calls = time.perf_counter(), 0
    while time.perf_counter() - begin < SECONDS:
        calls += 1
        jax.block_until_ready(run(jax.random.key(calls)))
    return calls * work / (time.perf_counter() - begin)


def cross_entropy() -> float:
    """Decisions a second on Pendulum-v1 with its own rules: 5 iterations of 350 candidates of 15 steps."""
    world = adv.make("jax/Pendulum-v1")
    algorithm = adv.CEMPlanning(candidates=350, elites=35, horizon=15, iterations=5)
    spec = adv.Spec(world.observation_space, world.action_space, world=world)
    actor = algorithm.actor(algorithm.init(jax.random.key(0), spec))
    memory = jax.tree.map(lambda x: jnp.asarray(x)[None], algorithm.initial_memory(actor))
    obs = jnp.array([[-1.0, 0.0, 0.0]])

    @jax.jit
    def decide(key: Array) -> Array:
        return algorithm.act(actor, obs, memory, jax.random.key_data(key)[None])[0]

    return rate(decide, 1)


def tree_search(search: str) -> float:
    """Simulations a second on 64 boards of Connect Four, 32 for each, guided by a network of 2 x 128."""
    game = adv.make("jax/ConnectFour-v0")
    algorithm = adv.AlphaZero(search=search, simulations=32)
    spec = adv.Spec(game.observation_space, game.action_space, 64, world=game)
    actor = algorithm.actor(algorithm.init(jax.random.key(0), spec))
    model = TrueModel(game)
    obs = jax.vmap(game.reset)(jax.random.split(jax.random.key(1), 64))[1]

    @jax.jit
    def decide(key: Array) -> Array:
        found = guided_search(
            model,
            model.begin(obs),
            key,
            actor.guide,
            search=search,
            simulations=32,
            gamma=1.0,
            explore=True,
        )
        return found.action

    return rate(decide, 64 * 32)


def main() -> None:
    """Print a line for each."""
    lines = (
        ("cross-entropy planning, 350 x 15 x 5, decisions/s", cross_entropy(), 300),
        ("Connect Four, 64 boards, gumbel, simulations/s", tree_search("gumbel"), 20_000),
        ("Connect Four, 64 boards, puct, simulations/s", tree_search("puct"), 20_000),
    )
    for name, figure, limit in lines:
        print(f"{name:52} {figure:12,.0f}   at least {limit:,}")


if __name__ == "__main__":
    main()
