"""How strong AlphaZero is in Connect Four: against a player who looks four moves ahead, and against pure tree search.

    .venv/bin/advantage train alphazero jax/ConnectFour-v0 --out runs/four ...
    .venv/bin/python benchmarks/connect_four.py runs/four

The first two moves of each game are at random, so that games differ; each side begins half of them. A draw counts half.
Pure tree search (UCT, values by random rollouts) has ten times the simulations of the agent.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import advantage as adv
from advantage.environments.worlds.line_game import LineGame
from advantage.environments.worlds.opponents import best_values
from advantage.types import Array

Player = Callable[[Array, Array], Array]
"""From boards `[N, rows, columns]`, seen by the player to move, and a key, to moves `[N]`."""


def depth_four(game: LineGame) -> Player:
    """Looks four moves ahead, and chooses at random among moves that it holds equally good."""

    def one(board: Array, key: Array) -> Array:
        allowed, values = game.allowed(board), best_values(game, board, 4)
        best = allowed & (values == jnp.where(allowed, values, -jnp.inf).max())
        return jax.random.categorical(key, jnp.where(best, 0.0, -jnp.inf))

    return lambda boards, key: jax.vmap(one)(boards, jax.random.split(key, len(boards)))


def at_random(game: LineGame) -> Player:
    """Any possible move."""

    def one(board: Array, key: Array) -> Array:
        return jax.random.categorical(key, jnp.where(game.allowed(board), 0.0, -jnp.inf))

    return lambda boards, key: jax.vmap(one)(boards, jax.random.split(key, len(boards)))


def plays(game: LineGame, algorithm: Any, actor: Any) -> Player:
    """An agent without noise; its search draws from the key."""
    memory = algorithm.initial_memory(actor)

    def move(boards: Array, key: Array) -> Array:
        remembered = jax.tree.map(lambda x: jnp.broadcast_to(x, (len(boards), *jnp.shape(x))), memory)
        keyed = actor._replace(key=jax.random.key_data(key))
        return algorithm.greedy(keyed, jax.vmap(game.observe)(boards), remembered)[0]

    return move


@partial(jax.jit, static_argnames=("game", "first", "second", "games"))
def results(game: LineGame, first: Player, second: Player, key: Array, games: int) -> Array:
    """1, 0 or -1 for the player who begins, `[games]`."""
    boards = jnp.zeros((games, game.rows, game.columns), jnp.int8)
    ended, result, random = jnp.zeros(games, bool), jnp.zeros(games), at_random(game)
    for number in range(game.rows * game.columns):
        player = random if number < 2 else (first, second)[number % 2]
        key, key_move, key_step = jax.random.split(key, 3)
        moves = player(boards, key_move).astype(jnp.int32)
        after, _, won, over = jax.vmap(game.step)(boards, moves, jax.random.split(key_step, games))
        result = jnp.where(ended, result, result + (1 - 2 * (number % 2)) * won)
        boards = jnp.where(ended[:, None, None], boards, after)
        ended |= over
    return result


def report(name: str, ours: Player, theirs: Player, game: LineGame, games: int) -> None:
    """Play half of the games from each side and print what came of them."""
    begun = results(game, ours, theirs, jax.random.key(1), games // 2)
    answered = -results(game, theirs, ours, jax.random.key(2), games // 2)
    found = np.concatenate([begun, answered])
    won, drawn, lost = ((found == x).sum() for x in (1, 0, -1))
    print(
        f"{name:40} {won} won, {drawn} drawn, {lost} lost: {(won + drawn / 2) / len(found):.1%}", flush=True
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run")
    parser.add_argument("--games", type=int, default=200)
    given = parser.parse_args()
    agent = adv.load(given.run)
    game, algorithm = adv.make(agent.environment), agent.algorithm
    if not isinstance(algorithm, adv.AlphaZero) or not isinstance(game, LineGame):
        parser.error(f"{given.run} is no run of alphazero in a game in self-play")
    ours = plays(game, algorithm, agent.algorithm.actor(agent.state))
    simulations = 10 * algorithm.simulations
    pure = adv.MCTS(simulations=simulations, rollouts=1, rollout_steps=game.rows * game.columns, gamma=1.0)
    actor = pure.actor(
        pure.init(jax.random.key(0), adv.Spec(game.observation_space, game.action_space, world=game))
    )
    report("against four moves ahead", ours, depth_four(game), game, given.games)
    report(f"against UCT, {simulations} simulations", ours, plays(game, pure, actor), game, given.games)


if __name__ == "__main__":
    main()
