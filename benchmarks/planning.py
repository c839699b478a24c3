"""How fast planners decide, beside TorchRL's planner where it is installed, and how fast Dreamer imagines.

    .bench/bin/python benchmarks/planning.py

Each line has a figure and what it is held against, on the machine where it runs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp

import advantage as adv
from advantage.models.true_world import TrueModel
from advantage.planners.guided_search import guided_search
from advantage.types import Array, Rollout

SECONDS = 3.0
CANDIDATES, ELITES, HORIZON, ITERATIONS = 350, 35, 15, 5


def per_second(run: Callable[[int], Any], work: float) -> float:
    """Units of work a second: calls of `run`, with their number, for three seconds after a first one."""
    run(0)
    begin, calls = time.perf_counter(), 0
    while time.perf_counter() - begin < SECONDS:
        calls += 1
        run(calls)
    return calls * work / (time.perf_counter() - begin)


def rate(run: Callable[[Array], Any], work: float) -> float:
    """Units of work a second of a compiled program, which gets a new key in each call."""
    return per_second(lambda call: jax.block_until_ready(run(jax.random.key(call))), work)


def cross_entropy() -> float:
    """Decisions a second on Pendulum-v1 with its own rules: 5 iterations of 350 candidates of 15 steps."""
    world = adv.make("jax/Pendulum-v1")
    algorithm = adv.CEMPlanning(candidates=CANDIDATES, elites=ELITES, horizon=HORIZON, iterations=ITERATIONS)
    spec = adv.Spec(world.observation_space, world.action_space, world=world)
    actor = algorithm.actor(algorithm.init(jax.random.key(0), spec))
    memory = jax.tree.map(lambda x: jnp.asarray(x)[None], algorithm.initial_memory(actor))
    obs = jnp.array([[-1.0, 0.0, 0.0]])

    @jax.jit
    def decide(key: Array) -> Array:
        return algorithm.act(actor, obs, memory, jax.random.key_data(key)[None])[0]

    return rate(decide, 1)


def tree_search(search: str) -> float:
    """Simulations a second on 64 boards of Connect Four, 32 for each, guided by a network of 2 x 128."""
    game = adv.make("jax/ConnectFour-v0")
    algorithm = adv.AlphaZero(search=search, simulations=32)
    spec = adv.Spec(game.observation_space, game.action_space, 64, world=game)
    actor = algorithm.actor(algorithm.init(jax.random.key(0), spec))
    model = TrueModel(game)
    obs = jax.vmap(game.reset)(jax.random.split(jax.random.key(1), 64))[1]

    @jax.jit
    def decide(key: Array) -> Array:
        found = guided_search(
            model,
            model.begin(obs),
            key,
            actor.guide,
            search=search,
            simulations=32,
            gamma=1.0,
            explore=True,
        )
        return found.action

    return rate(decide, 64 * 32)


def torchrl_cross_entropy() -> float:
    """The same decisions by TorchRL's planner in TorchRL's Pendulum."""
    import torch
    from torchrl.envs import PendulumEnv
    from torchrl.modules import CEMPlanner

    class Rules(PendulumEnv):
        batch_locked = False  # one set of rules for any number of candidates

    torch.set_grad_enabled(False)
    world = Rules()
    planner = CEMPlanner(
        world,
        planning_horizon=HORIZON,
        optim_steps=ITERATIONS,
        num_candidates=CANDIDATES,
        top_k=ELITES,
    )
    start = world.reset()
    return per_second(lambda _: planner(start.clone()), 1)


def products(jaxpr: Any) -> int:
    """Multiplications in the matrix products of a program; those of a loop as often as it runs."""

    def programs_in(value: Any) -> Iterator[Any]:
        for each in value if isinstance(value, tuple | list) else [value]:
            if hasattr(each, "eqns") or hasattr(each, "jaxpr"):
                yield getattr(each, "jaxpr", each)

    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            total += math.prod(equation.outvars[0].aval.shape) * math.prod(shape[i] for i in contracted)
        inside = sum(products(each) for value in equation.params.values() for each in programs_in(value))
        total += inside * equation.params.get("length", 1)
    return total


def dreamer() -> tuple[float, float]:
    """Imagined steps a second in Dreamer's gradient steps on Pendulum-v1, and as many as the products alone allow."""
    world, rows = adv.make("jax/Pendulum-v1"), 1_000
    algorithm = adv.Dreamer(n_steps=rows, gradient_steps=1, learning_starts=0)
    spec = adv.Spec(world.observation_space, world.action_space)
    state = algorithm.init(jax.random.key(0), spec)
    column = jnp.zeros((rows, 1))
    obs = jax.random.normal(jax.random.key(1), (rows + 1, 1, 3))
    action = jax.random.uniform(jax.random.key(2), (rows, 1, 1), minval=-1.0)
    rollout = Rollout(obs[:-1], action, column, obs[1:], column > 0, column > 0)

    def learn(key: Array) -> Any:
        return algorithm.update(state, rollout, key)

    imagined = algorithm.imagined_starts * algorithm.horizon
    square = jnp.ones((512, 512))
    multiply = jax.jit(lambda key: square @ (square * jax.random.key_data(key)[1]))
    needed = products(jax.make_jaxpr(learn)(jax.random.key(0)).jaxpr)
    return rate(jax.jit(learn), imagined), imagined * rate(multiply, 512**3) / needed


def main() -> None:
    """Print a line for each."""
    ours = cross_entropy()
    lines = (
        ("cross-entropy planning, 350 x 15 x 5, decisions/s", ours, 300),
        ("Connect Four, 64 boards, gumbel, simulations/s", tree_search("gumbel"), 20_000),
        ("Connect Four, 64 boards, puct, simulations/s", tree_search("puct"), 20_000),
    )
    for name, figure, limit in lines:
        print(f"{name:52} {figure:12,.0f}   at least {limit:,}")
    imagined, allowed = dreamer()
    share = f"{imagined / allowed:.0%} of the {allowed:,.0f} that its matrix products alone allow"
    print(f"{'Dreamer on Pendulum-v1, imagined steps/s':52} {imagined:12,.0f}   {share}")
    if find_spec("torchrl") is not None:
        peer = torchrl_cross_entropy()
        name = "TorchRL's cross-entropy planning, decisions/s"
        print(f"{name:52} {peer:12,.1f}   ours is {ours / peer:,.0f} times as fast; at least 10 times")


if __name__ == "__main__":
    main()
