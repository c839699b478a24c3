"""What the single decisions of an agent are worth, and what they cost."""

from __future__ import annotations

import time
from typing import NamedTuple

import jax
import numpy as np

from advantage.agent import Agent
from advantage.algorithms.planning.shared.acting import LooksAhead
from advantage.environments.current_folder import EnvironmentsFolder
from advantage.environments.environment import Environment, closing
from advantage.environments.worlds.line_game import LineGame
from advantage.environments.worlds.opponents import AgainstOpponent
from advantage.runs.compilation import in_single_precision
from advantage.theory.games import SolvedGame
from advantage.types import Pytree

LARGEST_GAME = 20  # cells of a board that is solved for a report
MOST_POSITIONS = 5_000  # of a game with more, as many are drawn
BATCH = 512  # positions decided in one call
SECONDS = 1.0  # for which decisions are timed


class Mistakes(NamedTuple):
    """How often an agent chooses a move that is not best.

    Attributes:
        wrong: number of positions in which it does.
        judged: number of positions that it was asked about; in each of them the possible moves differ in value.
        of: number of all such positions of the game.
    """

    wrong: int
    judged: int
    of: int

    @property
    def rate(self) -> float:
        """Share of the positions that were judged."""
        return self.wrong / self.judged

    def __str__(self) -> str:
        drawn = "all" if self.judged == self.of else f"{self.judged:,} of"
        return (
            f"mistakes: {self.rate:.2%}, {self.wrong:,} moves that are not best, in {drawn} {self.of:,} positions "
            "where the move matters"
        )


class DecisionCost(NamedTuple):
    """What one decision of an agent that looks ahead takes: steps of the model, and milliseconds on this machine."""

    model_steps: int
    milliseconds: float

    def __str__(self) -> str:
        return f"decision: {self.model_steps:,} steps of the model, {self.milliseconds:.3g} ms"


def game_of(environment: Environment) -> LineGame | None:
    """The game that is played in an environment, if its board is small enough to be solved; else None."""
    world = environment.source
    game = world.game if isinstance(world, AgainstOpponent) else world
    is_small = isinstance(game, LineGame) and game.rows * game.columns <= LARGEST_GAME
    return game if is_small else None


@in_single_precision
def mistakes(agent: Agent, solved: SolvedGame, *, seed: int = 0) -> Mistakes | None:
    """Compare an agent's moves, without noise, with the best ones by the exact solution.

    None for a game in which the move never matters, such as a row of two stones on 2 x 2 cells.

    Args:
        agent: trained in the game, or against an opponent in it.
        solved: the game with its values.
        seed: draws the positions where there are more than 5,000 in which the move matters; each has the same
            probability.
    """
    positions = solved.positions_that_matter()
    if not len(positions):
        return None
    count = min(len(positions), MOST_POSITIONS)
    boards = solved.boards(np.random.default_rng(seed).choice(positions, count, replace=False))
    values, action = solved.action_values(boards), _moves(agent, solved.game, boards)
    wrong = values[np.arange(count), action] < values.max(1)
    return Mistakes(int(wrong.sum()), count, len(positions))


def _moves(agent: Agent, game: LineGame, boards: np.ndarray) -> np.ndarray:
    """What an agent does in each position, int `[N]`, each as the first decision of an episode."""
    observe, memory, moves = jax.jit(jax.vmap(game.observe)), agent.actor.initial_memory(BATCH), []
    for first in range(0, len(boards), BATCH):
        batch = boards[np.arange(first, first + BATCH) % len(boards)]  # the last one is filled up
        moves.append(agent.actor.greedy(jax.device_get(observe(batch)), memory)[0])
    return np.concatenate(moves)[: len(boards)]


@in_single_precision
def decision_cost(agent: Agent, environment: Environment) -> DecisionCost | None:
    """The cost of a decision in the first state of an episode, without compilation; None for one without a plan."""
    steps = agent.algorithm.model_steps(agent.state) if isinstance(agent.algorithm, LooksAhead) else 0
    if not steps:
        return None
    obs = jax.tree.map(lambda leaf: np.asarray(leaf)[None], _first_observation(environment))
    memory = agent.actor.initial_memory(1)
    agent.actor.greedy(obs, memory)
    begin, calls = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - begin) < SECONDS:
        agent.actor.greedy(obs, memory)
        calls += 1
    return DecisionCost(steps, 1000 * elapsed / max(calls, 1))


def _first_observation(environment: Environment) -> Pytree:
    if environment.kind == "device":
        return jax.device_get(environment.source.reset(jax.random.key(0))[1])
    with EnvironmentsFolder(), closing(environment.source()) as env:
        return env.reset(seed=0)[0]
