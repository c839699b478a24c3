"""Recorded episodes in a run: for behaviour cloning all there is, for learners from replay the first of many."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from advantage.algorithms.imitation.behaviour_cloning import BehaviourCloning
from advantage.algorithms.playable import Playable
from advantage.algorithms.policy_gradient.shared.experience import advance_statistics
from advantage.algorithms.registry import algorithm_name
from advantage.algorithms.value.dqn import DQNState
from advantage.algorithms.value.shared.options import BufferOptions
from advantage.datasets.dataset import Dataset, DatasetError, refuse_other_spaces
from advantage.datasets.files import load_dataset
from advantage.datasets.rollouts import in_columns, recording_of
from advantage.replay.prioritised import priorities_add
from advantage.replay.ring import replay_add
from advantage.training.first_state import FirstState
from advantage.types import Pytree, Rollout, Spec

WITH_DATA = "dqn, dpg, ddpg, td3, sac and crossq"


def recorded_data(path: str | None, algorithm: Playable, spec: Spec) -> Dataset | None:
    """The recorded episodes that a run learns from; None if it has none.

    Raises:
        ValueError: a method that needs a file and has none, or has one and cannot use it; a file of other spaces, or a
            damaged one.
        FileNotFoundError: there is no file.
    """
    name, clones = algorithm_name(algorithm), isinstance(algorithm, BehaviourCloning)
    if path is None and clones:
        raise ValueError(
            f"{name} learns from recorded episodes; give their file: --data FILE (data=). To write one: advantage "
            "record RUN --episodes 100 --out FILE"
        )
    if path is None:
        return None
    if not clones and not _takes_transitions(algorithm, spec):
        raise ValueError(
            f"{name} does not learn from single transitions that another policy recorded; leave out --data (data=), or "
            f"use {WITH_DATA}, which have a replay buffer, or behaviour-cloning."
        )
    dataset = load_dataset(path)
    refuse_other_spaces(dataset, path, spec.observation_space, spec.action_space)
    if not clones and dataset.num_steps < spec.num_envs:
        raise DatasetError(
            f"{path} has {dataset.num_steps} steps, and the replay buffer takes as many for each of the "
            f"{spec.num_envs} environments; use num_envs (--num-envs) of at most {dataset.num_steps}, or record more."
        )
    return dataset


def _takes_transitions(algorithm: Playable, spec: Spec) -> bool:
    """Whether a method has a replay buffer of transitions as every environment gives them, without `extras`."""
    if not isinstance(algorithm, BufferOptions):
        return False
    learner: Any = algorithm
    state = jax.eval_shape(lambda key: learner.init(key, spec), jax.random.key(0))
    return not jax.tree.leaves(state.replay.extras)


def begin_with(
    dataset: Dataset | None, algorithm: Playable, spec: Spec, first: FirstState, say: Callable[[str], None]
) -> FirstState:
    """The first state of every seed with recorded episodes in its replay buffer, in order of time.

    They are divided among the columns of the buffer, one for each environment; at the end fewer steps than there are
    columns are left out. Statistics of observations and rewards take them in; the clock does not, so a schedule begins
    where it would without them.
    """
    if dataset is None or isinstance(algorithm, BehaviourCloning):
        return first
    steps = in_columns(dataset, spec.num_envs)
    rollout = recording_of(dataset, spec).rollout(jnp.asarray(steps))
    state = jax.jit(jax.vmap(partial(_filled, algorithm), (0, None)))(first.state, rollout)
    room = state.replay.reward[0].size  # of the first seed
    say(f"The replay buffer begins with {dataset}: {said_share(dataset.num_steps, steps.size, room)}.")
    return first._replace(state=state)


def said_share(recorded: int, taken: int, room: int) -> str:
    """How many of the recorded steps a buffer with this room has, in words."""
    if taken > room:
        return f"{room:,} of them, the last ones of each environment"
    return f"all but the last {recorded - taken} of them" if taken < recorded else "all of them"


def _filled(options: Any, state: Any, rollout: Rollout) -> Pytree:
    replay = replay_add(state.replay, rollout)
    parts: dict[str, Any] = {"replay": replay, "clock": state.clock}
    if isinstance(state, DQNState) and state.priorities is not None:
        parts["priorities"] = priorities_add(
            state.priorities, state.replay, replay, steps=len(rollout.reward)
        )
    return dataclasses.replace(advance_statistics(options, state, rollout), **parts)
