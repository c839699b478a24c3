"""How well searches play tic-tac-toe that have learned nothing, against exact values.

    .venv/bin/python benchmarks/untrained_search.py

Each search has 200 simulations in each of the 3,191 positions in which one move is better than another. Gumbel's and
PUCT's hold all moves for alike and all positions for draws; UCT values a new position by four random games. A line has
the share of positions in which the move is optimal, and the number of others by the number of stones on the board.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import advantage as adv
from advantage.environments.worlds.line_game import LineGame
from advantage.models.true_world import TrueModel
from advantage.planners.guided_search import Search, guided_search
from advantage.theory.games import solve_game
from advantage.types import Array, Pytree

GAME = LineGame()
SIMULATIONS = 200
BATCH = 512


def flat(state: Pytree) -> tuple[Array, Array]:
    """Knows nothing: log-probabilities and values of N positions."""
    count = len(state.state)
    return jnp.zeros((count, GAME.num_actions)), jnp.zeros(count)


@partial(jax.jit, static_argnames="search")
def guided(boards: Array, search: Search) -> Array:
    """The moves of a guided search, without noise."""
    model = TrueModel(GAME)
    state, key = model.begin(jax.vmap(GAME.observe)(boards)), jax.random.key(0)
    options = dict(search=search, simulations=SIMULATIONS, gamma=1.0, explore=False)
    return guided_search(model, state, key, flat, **options).action


def uct(exploration: float) -> Callable[[Array], Array]:
    """The moves of tree search with random games."""
    algorithm = adv.MCTS(simulations=SIMULATIONS, exploration=exploration, rollout_steps=9, gamma=1.0)
    spec = adv.Spec(GAME.observation_space, GAME.action_space, world=GAME)
    actor = algorithm.actor(algorithm.init(jax.random.key(0), spec))

    @jax.jit
    def moves(boards: Array) -> Array:
        keys = jax.random.key_data(jax.random.split(jax.random.key(1), len(boards)))
        memory = algorithm.initial_memory(actor)
        memory = jax.tree.map(lambda x: jnp.broadcast_to(x, (len(boards), *jnp.shape(x))), memory)
        return algorithm.act(actor, jax.vmap(GAME.observe)(boards), memory, keys)[0]

    return moves


def report(name: str, moves: Callable[[Array], Array]) -> None:
    """Play in every position, and print what came of it."""
    solved = solve_game(GAME)
    boards = solved.boards(solved.positions_that_matter())
    values, found = solved.action_values(boards), []
    for first in range(0, len(boards), BATCH):
        found.append(np.asarray(moves(boards[np.arange(first, first + BATCH) % len(boards)])))
    action = np.concatenate(found)[: len(boards)]
    wrong = values[np.arange(len(boards)), action] < values.max(1)
    by_stones = np.bincount((boards[wrong] != 0).sum((1, 2)), minlength=9)
    print(f"{name:32} {1 - wrong.mean():.2%}   {wrong.sum():4} others, by stones {by_stones}", flush=True)


def main() -> None:
    """Print a line for each search."""
    report("gumbel", partial(guided, search="gumbel"))
    report("puct", partial(guided, search="puct"))
    for exploration in (1.0, 0.5, 2.0):
        report(f"UCT, exploration {exploration}", uct(exploration))


if __name__ == "__main__":
    main()
