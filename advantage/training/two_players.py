"""Games in which both players are played, and the methods that know whose reward it is."""

from __future__ import annotations

from advantage.algorithms.imitation.behaviour_cloning import BehaviourCloning
from advantage.algorithms.planning.alphazero import AlphaZero
from advantage.algorithms.planning.distill import Distill
from advantage.algorithms.planning.inverse_model import InverseModel
from advantage.algorithms.planning.mcts import MCTS
from advantage.algorithms.planning.shared.teachers import PLANNERS
from advantage.algorithms.planning.world_model import WorldModel
from advantage.algorithms.playable import Playable
from advantage.algorithms.registry import ALGORITHMS, algorithm_name
from advantage.algorithms.search.policy_search import PolicySearch
from advantage.environments.environment import Environment
from advantage.environments.frame_stack import FrameStackWorld
from advantage.environments.last_step import LastStepWorld
from advantage.types import Game


def refuse_two_players(algorithm: Playable, environment: Environment) -> None:
    """Refuse a game of two players to a method that takes the rewards of both for its own.

    A class of the user's is not refused.

    Raises:
        ValueError: such a method.
    """
    if not _is_game(environment) or _minds_the_players(algorithm):
        return
    raise ValueError(
        f"{environment.name} is a game of two players, in which each reward is that of the player who moves. "
        f"{algorithm_name(algorithm)} would add up the rewards of both, and learn to lose as gladly as to win. Use "
        "alphazero, or mcts with model='true', which know whose reward it is, or a world in which an opponent answers: "
        "jax/TicTacToePerfect-v0, jax/TicTacToeRandom-v0, jax/ConnectFourSearch-v0, jax/ConnectFourRandom-v0."
    )


def _is_game(environment: Environment) -> bool:
    world = environment.source
    while isinstance(world, FrameStackWorld | LastStepWorld):
        world = world.world
    return isinstance(world, Game)


def _minds_the_players(algorithm: Playable) -> bool:
    """Whether a method knows the sign of what follows a move, or learns from no rewards.

    A search for a policy does not: its candidates play both sides, so whoever wins, a game's return is the same.
    """
    if isinstance(algorithm, MCTS):
        return algorithm.model == "true"
    if isinstance(algorithm, Distill):
        return algorithm.teacher == "mcts" or algorithm.teacher not in PLANNERS
    if isinstance(algorithm, AlphaZero | BehaviourCloning | WorldModel | InverseModel):
        return True
    return not isinstance(algorithm, PolicySearch) and algorithm_name(algorithm) not in ALGORITHMS
