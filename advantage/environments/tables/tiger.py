"""Two doors with a tiger behind one of them; listening tells which door it is."""

from __future__ import annotations

import numpy as np

from advantage.environments.tables.mdp import MDP, POMDP

LISTEN, OPEN_LEFT, OPEN_RIGHT = 0, 1, 2


def tiger(accuracy: float = 0.85) -> POMDP:
    """Listen, or open a door: the door with the tiger costs 100, the other one earns 10, and listening costs 1.

    State: 0 the tiger is on the left, 1 on the right. Action: 0 listens, 1 opens the left door, 2 the right one.
    Observation: 0 a growl on the left, 1 on the right; it is the tiger's side with probability `accuracy` after
    listening, 1/2 otherwise. Listening does not move the tiger. Opening a door puts the tiger behind either door with
    probability 1/2, and the episode continues. No state is terminal; episodes are truncated after 100 steps. gamma is
    0.95.

    Source: Kaelbling, Littman & Cassandra 1998, "Planning and acting in partially observable stochastic domains",
    section 5.1.
    """
    transition, emission = np.full((2, 3, 2), 0.5), np.full((2, 3, 2), 0.5)
    transition[:, LISTEN] = np.eye(2)
    emission[:, LISTEN] = [[accuracy, 1 - accuracy], [1 - accuracy, accuracy]]
    reward = [[-1.0, -100.0, 10.0], [-1.0, 10.0, -100.0]]
    return POMDP(MDP(transition, reward, gamma=0.95, max_episode_steps=100), emission)
