"""Read the table of a Gymnasium environment, such as FrozenLake's."""

from __future__ import annotations

from typing import Any, NamedTuple

import gymnasium

from advantage.environments.tables.grid import Grid
from advantage.environments.tables.outcomes import OutcomeFunction

MOVES = {  # the moves of the actions of Gymnasium's grids, (down, right)
    "FrozenLake": ((0, -1), (1, 0), (0, 1), (-1, 0)),
    "CliffWalking": ((-1, 0), (0, 1), (1, 0), (0, -1)),
}


class GymnasiumTable(NamedTuple):
    """The table of an environment.

    Attributes:
        n_states, n_actions: the size.
        outcomes: the outcomes of each state and action.
        fields: fields of `MDP`: `start`, and if the environment has them `grid` and `max_episode_steps`.
    """

    n_states: int
    n_actions: int
    outcomes: OutcomeFunction
    fields: dict[str, Any]


def read_gymnasium_table(environment: str | gymnasium.Env) -> GymnasiumTable:
    """Read `P`, the start distribution, the size and the grid; see `MDP.from_gymnasium`, also for the errors."""
    env = gymnasium.make(environment) if isinstance(environment, str) else environment
    inner: Any = env.unwrapped
    table = getattr(inner, "P", None)
    if table is None:
        raise ValueError(
            f"{env} has no table: P[s][a] = [(probability, next state, reward, terminated), ...]. Build one with "
            "adv.MDP.from_function, or from its transitions with adv.MDP.from_samples."
        )
    fields: dict[str, Any] = {"start": getattr(inner, "initial_state_distrib", None)}
    if env.spec is not None and env.spec.max_episode_steps:
        fields["max_episode_steps"] = env.spec.max_episode_steps
    spaces: Any = env.observation_space, env.action_space
    n_states, n_actions = (int(space.n) for space in spaces)
    size = getattr(inner, "shape", None) or (getattr(inner, "nrow", 0), getattr(inner, "ncol", 0))
    moves = next((moves for name, moves in MOVES.items() if name in type(inner).__name__), None)
    if moves and size[0] * size[1] == n_states:
        fields["grid"] = Grid(int(size[0]), int(size[1]), moves)
    return GymnasiumTable(n_states, n_actions, lambda s, a: table[s][a], fields)
