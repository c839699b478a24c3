"""The agent of another run as a teacher."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from advantage.agent import load
from advantage.algorithms.planning.distill import Distill
from advantage.algorithms.planning.shared.teachers import PLANNERS, Teacher
from advantage.algorithms.playable import Playable
from advantage.environments.environment import Environment


def with_teacher(algorithm: Playable, target: Environment) -> Playable:
    """A distillation together with the agent of the run that its `teacher` names; anything else as it is.

    Raises:
        ValueError: there is no such run, or its agent has other spaces or units of actions.
        CheckpointError: it is damaged.
    """
    if not isinstance(algorithm, Distill) or algorithm.teacher in PLANNERS:
        return algorithm
    if not Path(algorithm.teacher).exists():
        raise ValueError(
            f"teacher={algorithm.teacher!r} is not allowed; use one of {', '.join(PLANNERS)}, or the folder of a run. "
            "There is no such folder."
        )
    agent = load(algorithm.teacher)
    ours, theirs = target.spaces, (agent.spec.observation_space, agent.spec.action_space)
    if ours != theirs or agent.spec.action_units != algorithm.action_units:
        raise ValueError(
            f"The agent of {algorithm.teacher} was trained on {agent.environment}, with observations "
            f"{theirs[0]}, actions {theirs[1]} and action_units={agent.spec.action_units!r}; {target.name} has "
            f"observations {ours[0]} and actions {ours[1]}, and the student action_units={algorithm.action_units!r}. A "
            "teacher and its student need the same."
        )
    teacher = Teacher(agent.algorithm, agent.algorithm.actor(agent.state))
    return dataclasses.replace(algorithm, taught_by=teacher)
