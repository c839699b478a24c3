"""Random shooting: of many random sequences of actions, take the best."""

from __future__ import annotations

from typing import NamedTuple

import jax

from advantage.planners.imagination import PlanningProblem, mean_return
from advantage.types import Array, Key, Pytree


class Plan(NamedTuple):
    """A sequence of actions, `[H, ...]`, and its mean imagined return."""

    actions: Array
    value: Array


def random_shooting(
    problem: PlanningProblem, state: Pytree, key: Key, *, horizon: int, candidates: int
) -> Plan:
    """The best of `candidates` sequences whose actions are drawn uniformly.

    It takes `candidates * particles * horizon` steps of the model.

    Args:
        problem: model, actions, discount and particles.
        state: where the plan begins, one state without an axis in front.
        key: draws the sequences and what the model leaves to chance.
        horizon: H, the length of a sequence.
        candidates: number of sequences.

    Source: Rao 2009, "A survey of numerical methods for optimal control", section 6; Nagabandi et al. 2018, "Neural
    network dynamics for model-based deep reinforcement learning with model-free fine-tuning", section IV.B.
    """
    key_draw, key_play = jax.random.split(key)
    drawn = problem.actions.uniform(key_draw, (horizon, candidates))
    value = mean_return(problem, state, drawn, key_play)
    best = value.argmax()
    return Plan(drawn[:, best], value[best])
