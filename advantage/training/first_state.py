"""Before the first step: the spaces and the initial weights of a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import gymnasium
import jax
import numpy as np

from advantage.algorithms.playable import Playable
from advantage.algorithms.policy_gradient.shared.state import PolicyState
from advantage.algorithms.registry import hyperparameters_of
from advantage.drivers.device import stack_settings
from advantage.drivers.host.stepper import failure
from advantage.environments.check import check_spaces
from advantage.environments.current_folder import EnvironmentsFolder
from advantage.environments.defect import EnvironmentDefect
from advantage.environments.environment import Environment
from advantage.environments.make import MissingExtra
from advantage.environments.watchdog import Watchdog
from advantage.machine import free_device_bytes, refuse_large
from advantage.matrices import for_each
from advantage.runs.patience import saying
from advantage.types import Algorithm, Array, Key, Pytree, Spec

SHORTER = {  # options with which weights are drawn faster
    "hidden": "smaller layers (--hidden)",
    "model_hidden": "smaller layers of the model (--model-hidden)",
    "initialisation": "--initialisation normal",
}


class FirstState(NamedTuple):
    """The state in which runs begin; every array has a leading axis of seeds.

    Attributes:
        state: the algorithm's state.
        world_keys: keys for drawing the first episodes.
        run_keys: keys for drawing everything else.
    """

    state: Pytree
    world_keys: Key
    run_keys: Key


def draw_first_state(
    algorithm: Playable,
    spec: Spec,
    seeds: list[int],
    say: Callable[[str], None],
    members: Sequence[Algorithm] = (),
) -> FirstState:
    """Draw the initial weights of every seed, one seed after the other; `members` are each seed's own settings, if any.

    Raises:
        ValueError: a space or a budget that the algorithm cannot handle, or learning that does not fit into memory.
    """
    for each in members or [algorithm]:
        jax.eval_shape(
            lambda key, each=each: each.init(key, spec), jax.random.key(0)
        )  # sees the budget's value

    @jax.jit
    def begin(algorithm: Playable, seeds: Array, total_timesteps: Array) -> FirstState:
        budgeted = dataclasses.replace(spec, total_timesteps=total_timesteps)
        settings, structure = jax.tree.flatten(algorithm)

        def one(seed, *own):
            key_init, key_worlds, key_run = jax.random.split(jax.random.key(seed), 3)
            chosen = structure.unflatten(own) if members else algorithm
            return FirstState(chosen.init(key_init, budgeted), key_worlds, key_run)

        return for_each(one, seeds, *(settings if members else ()))

    drawn: Any = stack_settings(members) if members else algorithm
    arguments = drawn, np.array(seeds, np.uint32), np.uint32(spec.total_timesteps)
    size = _bytes_to_learn(begin.eval_shape(*arguments).state)
    remedy = "use a smaller network (hidden=), or make the observations smaller"
    refuse_large("Learning (weights, their gradient, the optimiser)", size, remedy, free_device_bytes())
    with saying(drawing_message(algorithm), say):
        return jax.block_until_ready(begin(*arguments))


def drawing_message(algorithm: Playable) -> str:
    """What is said while weights are drawn, with those options that the algorithm has and that make it shorter."""
    names = hyperparameters_of(algorithm)
    ways = ", ".join(way for name, way in SHORTER.items() if name in names)
    return "Drawing the initial weights." + (f" What makes it shorter: {ways}." if ways else "")


def _bytes_to_learn(state: Pytree) -> int:
    """Bytes of a state and of what an update also needs: the gradient of the weights and the new weights."""
    parts = [state, state.params, state.params] if isinstance(state, PolicyState) else [state]
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(parts))


def spaces_of(target: Environment) -> tuple[gymnasium.Space, gymnasium.Space]:
    """The spaces of one observation and of one action.

    Raises:
        EnvironmentFailure: the environment cannot be made.
        EnvironmentDefect: the made object is not an environment, or has spaces that no policy covers.
    """
    try:
        with EnvironmentsFolder(), Watchdog(lambda: f"Making {target.name}"):
            spaces = target.spaces
    except (MissingExtra, EnvironmentDefect):
        raise
    except (Exception, SystemExit) as error:
        raise failure("environment 0", "making it", error) from error
    if target.kind != "device":
        check_spaces(*spaces)
    return spaces
