"""Every algorithm reads its schedules at its clock's time before the update, by its program, without running it."""

import dataclasses

import jax
import numpy as np
import pytest
from test_keys import VARIANTS, world_of

import advantage as adv
from advantage.algorithms.planning.shared.options import PlanningOptions
from advantage.algorithms.registry import hyperparameters_of
from advantage.drivers.device import iterate_on_device, start
from advantage.drivers.draws import draw
from advantage.types import Clock, Spec

SPENT, TOTAL = 30, 120
# The learner of DynaNetwork reads its schedule by its own clock, of imagined steps.
FIXED = adv.NPG(step="fixed", n_steps=8)


def scheduled(algorithm):
    return [field.name for field in dataclasses.fields(algorithm) if "Schedule" in str(field.type)]


def readings(algorithm):
    """At which shares of the budget each schedule is read in one iteration, when a quarter is spent."""
    seen = {name: set() for name in scheduled(algorithm)}

    def schedule(name):
        def value(progress):
            seen[name].add(float(progress))
            return 0.1

        return value

    changed = dataclasses.replace(algorithm, **{name: schedule(name) for name in seen})
    if "learning_starts" in hyperparameters_of(algorithm):
        changed = dataclasses.replace(changed, learning_starts=10)
    world, shape = world_of(algorithm), (min(algorithm.n_steps, 8), 2)
    if isinstance(algorithm, PlanningOptions):
        changed = dataclasses.replace(changed, model="learned")
    spec = Spec(world.observation_space, world.action_space, 2, TOTAL, world=world)

    def at_a_quarter(node):
        # NumPy's numbers are not traced, and the clock after the update is
        return Clock(np.uint32(SPENT), np.uint32(TOTAL)) if isinstance(node, Clock) else node

    def iterate(key):
        key_init, key_worlds, run_key = jax.random.split(key, 3)
        state = changed.init(key_init, spec)
        state = jax.tree.map(at_a_quarter, state, is_leaf=lambda node: isinstance(node, Clock))
        worlds = start(world, key_worlds, 2, changed.initial_memory(changed.actor(state)))
        actor, draws = draw(changed, state, run_key, 0, shape)
        return iterate_on_device(changed, world, state, worlds, actor, draws)[0]

    jax.eval_shape(iterate, jax.random.key(0))
    return seen


@pytest.mark.parametrize(
    "algorithm",
    [
        algorithm
        for algorithm in (*VARIANTS, FIXED)
        if scheduled(algorithm) and type(algorithm) is not adv.DynaNetwork
    ],
    ids=lambda algorithm: type(algorithm).__name__,
)
def test_schedules_are_read_at_the_time_before_the_update(algorithm):
    seen = readings(algorithm)
    unused = {"NPG": {"target_kl" if algorithm is FIXED else "learning_rate"}}
    for name in seen.keys() - unused.get(type(algorithm).__name__, set()):
        assert seen[name] == {SPENT / TOTAL}, name
