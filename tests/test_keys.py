"""Every algorithm uses each random key once: in one rollout and update, by reading the program, without running it.

`make test-slow` also runs its tests under JAX's own check.
"""

import jax
import jax.numpy as jnp
import pytest
from jax.errors import KeyReuseError
from jax.experimental.key_reuse import _core

import advantage as adv
from advantage.algorithms.registry import ALGORITHMS, algorithm_class, algorithm_name
from advantage.drivers.device import iterate_on_device, start
from advantage.drivers.draws import draw
from advantage.types import Spec

CONTINUOUS = {"crossq", "ddpg", "dpg", "svg", "td3", "gradient-planning"}
TESTBED = {"epsilon-greedy-bandit", "ucb", "thompson", "gradient-bandit"}
FOREIGN = {"alphazero", "muzero"}  # the loop of mctx selects among keys, which counts as a use
VARIANTS = [
    *(
        algorithm_class(name)()
        for name in ALGORITHMS
        if name not in FOREIGN and hasattr(algorithm_class(name), "update")
    ),
    adv.VPG(critic="q", weight="advantage", n_steps=8),
    adv.OffPolicyActorCritic(gradient="pathwise", n_steps=8),
    adv.PPO(objective="adaptive-kl", n_steps=8, batch_size=8),
    adv.Dyna(target="sarsa", model="frequencies"),
    adv.SVG(order=0),
    adv.SAC(critic_dropout=0.1),
    adv.TD3(critic_dropout=0.1),
]

OPTIMISERS = [cls() for cls in map(algorithm_class, ALGORITHMS) if hasattr(cls, "ask")]


def world_of(algorithm):
    if algorithm_name(algorithm) in TESTBED:
        return adv.make("jax/Testbed-v0")
    if "tabular" in type(algorithm).__module__ or algorithm_name(algorithm) == "exhaustive-search":
        return adv.make("jax/Cliff-v0")
    continuous = algorithm_name(algorithm) in CONTINUOUS or getattr(algorithm, "gradient", "") == "pathwise"
    return adv.make("jax/Pendulum-v1" if continuous else "jax/CartPole-v1")


def program(algorithm, world):
    """One iteration, from a run's key."""
    spec = Spec(world.observation_space, world.action_space, 2, 10_000, world=world)
    shape = min(algorithm.n_steps, 8), 2

    def iterate(key):
        key_init, key_worlds, run_key = jax.random.split(key, 3)
        state = algorithm.init(key_init, spec)
        worlds = start(world, key_worlds, 2, algorithm.initial_memory(algorithm.actor(state)))
        actor, draws = draw(algorithm, state, run_key, 0, shape)
        return iterate_on_device(algorithm, world, state, worlds, actor, draws)[0]

    return jax.make_jaxpr(iterate)(jax.random.key(0))


@pytest.mark.parametrize("algorithm", VARIANTS, ids=lambda algorithm: type(algorithm).__name__)
def test_every_key_is_used_once(algorithm):
    _core.check_key_reuse_jaxpr(program(algorithm, world_of(algorithm)).jaxpr)


@pytest.mark.parametrize("optimiser", OPTIMISERS, ids=lambda optimiser: type(optimiser).__name__)
def test_a_search_uses_every_key_once(optimiser):
    program = jax.make_jaxpr(lambda key: optimiser.ask(optimiser.begin(jnp.zeros(4)), key))
    _core.check_key_reuse_jaxpr(program(jax.random.key(0)).jaxpr)


def test_a_key_that_is_used_twice_is_found():
    def careless(key):
        return jax.random.normal(key) + jax.random.uniform(key)

    with pytest.raises(KeyReuseError):
        _core.check_key_reuse_jaxpr(jax.make_jaxpr(careless)(jax.random.key(0)).jaxpr)
