"""A corridor with a sign at its start and a turn at its end: the agent has to remember the sign."""

from __future__ import annotations

import numpy as np

from advantage.environments.tables.mdp import MDP, POMDP
from advantage.environments.tables.outcomes import Outcome
from advantage.plain_values import require_whole

NORTH, EAST, SOUTH, WEST = range(4)
SIGN_NORTH, SIGN_SOUTH, CORRIDOR, JUNCTION = range(4)


def t_maze(length: int = 10, right_turn: float = 4.0, penalty: float = 0.1) -> POMDP:
    """Walk `length` steps east to a junction, and turn there to the side that a sign shows before the first step.

    The right turn earns `right_turn`, the wrong one `-penalty`, and both end the episode. Every other step earns 0 if
    it leads east and else `-penalty`, also if a wall stops it. The goal is on each side with probability 1/2.

    State: `goal * (length + 1) + position`, with goal 0 in the north and 1 in the south and position 0 to `length`;
        the last state is terminal.
    Action: 0 north, 1 east, 2 south, 3 west.
    Observation: before the first step 0 (the goal is in the north) or 1 (in the south), after it 2 in the corridor and
        3 at the junction. An agent without memory turns to the wrong side half of the time:
        `E[return] <= (right_turn - penalty) / 2`, while the best return is `right_turn`.
    gamma 0.98. Truncated after `10 * length` steps.

    Source: Bakker (2002), "Reinforcement learning with long short-term memory", section 4, with its rewards 4 and -0.1.
    Two things differ. Steps west cost as much as standing still, so that only the use of memory has to be learnt; in
    the source they cost nothing. The sign is seen once; in the source it is seen whenever the agent is at the start.

    Raises:
        ValueError: a length that is not allowed.
    """
    length = require_whole("length", length, 1)
    cells = length + 1
    terminal = 2 * cells

    def outcomes(state: int, action: int) -> list[Outcome]:
        goal, position = divmod(state, cells)
        if state == terminal:
            return [(1.0, terminal, 0.0, True)]
        if position == length and action in (NORTH, SOUTH):
            turns_right = (action == SOUTH) == bool(goal)
            return [(1.0, terminal, right_turn if turns_right else -penalty, True)]
        if action == EAST and position < length:
            return [(1.0, state + 1, 0.0, False)]
        return [(1.0, state - 1 if action == WEST and position > 0 else state, -penalty, False)]

    start = np.zeros(terminal + 1)
    start[[0, cells]] = 0.5
    mdp = MDP.from_function(terminal + 1, 4, outcomes, start=start, gamma=0.98, max_episode_steps=10 * length)
    seen = np.full(terminal + 1, CORRIDOR)
    seen[[length, length + cells]] = JUNCTION
    first = seen.copy()
    first[[0, cells]] = SIGN_NORTH, SIGN_SOUTH
    return POMDP(mdp, np.eye(4)[seen][:, None].repeat(4, axis=1), np.eye(4)[first])
