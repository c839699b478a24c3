"""The finite worlds that have names: `jax/Name-v0` on the device, `advantage/Name-v0` in Gymnasium's interface."""

from __future__ import annotations

import importlib
from functools import lru_cache
from typing import Any

import gymnasium

from advantage.environments.tables.mdp import MDP, POMDP
from advantage.environments.tables.world import PartiallyObservedWorld, TabularEnv, TabularWorld
from advantage.types import World

NAMESPACE = "advantage/"
TABLES: dict[str, tuple[str, dict[str, Any]]] = {  # name: file and function, and the function's arguments
    "Blackjack-v0": ("blackjack:blackjack", {}),
    "BlockingMaze-v0": ("maze:blocking_maze", {}),
    "BlockingMazeBlocked-v0": ("maze:blocking_maze", {"blocked": True}),
    "CarRental-v0": ("car_rental:car_rental", {}),
    "Chain-v0": ("chain:chain", {}),
    "Cliff-v0": ("cliff:cliff", {}),
    "DoubleLoop-v0": ("double_loop:double_loop", {}),
    "DynaMaze-v0": ("maze:dyna_maze", {}),
    "Gambler-v0": ("gambler:gambler", {}),
    "Garnet-v0": ("random_mdp:random_mdp", {}),
    "GridWorld4x4-v0": ("grid_world_4x4:grid_world_4x4", {}),
    "GridWorld5x5-v0": ("grid_world_5x5:grid_world_5x5", {}),
    "MaximisationBias-v0": ("maximisation_bias:maximisation_bias", {}),
    "RandomWalk-v0": ("random_walk:random_walk", {}),
    "RandomWalk19-v0": ("random_walk:random_walk", {"n_states": 19, "left": -1.0}),
    "RiverSwim-v0": ("river_swim:river_swim", {}),
    "ShortCorridor-v0": ("short_corridor:short_corridor", {}),
    "ShortcutMaze-v0": ("maze:shortcut_maze", {}),
    "ShortcutMazeOpened-v0": ("maze:shortcut_maze", {"opened": True}),
    "Tiger-v0": ("tiger:tiger", {}),
    "TMaze10-v0": ("t_maze:t_maze", {"length": 10}),
    "TMaze30-v0": ("t_maze:t_maze", {"length": 30}),
    "TwoArms-v0": ("two_arms:two_arms", {}),
    "WindyGrid-v0": ("windy_grid:windy_grid", {}),
    "WindyGridKing-v0": ("windy_grid:windy_grid_king", {}),
    "WindyGridStay-v0": ("windy_grid:windy_grid_stay", {}),
    "WindyGridStochastic-v0": ("windy_grid:windy_grid_stochastic", {}),
}
GYMNASIUM_TABLES = ("CliffWalking-v1", "FrozenLake-v1", "FrozenLake8x8-v1", "Taxi-v4")


@lru_cache(maxsize=64)
def table(name: str) -> MDP | POMDP:
    """The tables of a named world, from this package or from Gymnasium.

    Raises:
        ValueError: a Gymnasium environment without a table.
    """
    bare = name.removeprefix("jax/").removeprefix(NAMESPACE)
    if bare in TABLES:
        path, keywords = TABLES[bare]
        module, function = path.split(":")
        tabular = importlib.import_module(f"advantage.environments.tables.{module}")
        return getattr(tabular, function)(**keywords)
    return MDP.from_gymnasium(bare)


@lru_cache(maxsize=64)
def world(name: str) -> World:
    """The world of a table on the device; the same object each time, so that nothing is compiled twice."""
    tables, bare = table(name), name.removeprefix("jax/")
    gymnasium_id = NAMESPACE + bare if bare in TABLES else bare
    if isinstance(tables, POMDP):
        return PartiallyObservedWorld(tables, gymnasium_id)
    return TabularWorld(tables, gymnasium_id)


def make_environment(name: str, **keywords: Any) -> gymnasium.Env:
    """A named table in Gymnasium's interface, truncated after the table's `max_episode_steps`."""
    tables = table(name)
    mdp = tables.mdp if isinstance(tables, POMDP) else tables
    return gymnasium.wrappers.TimeLimit(TabularEnv(tables, **keywords), mdp.max_episode_steps)


for _name in TABLES:
    if NAMESPACE + _name not in gymnasium.registry:
        gymnasium.register(
            NAMESPACE + _name, entry_point=f"{__name__}:make_environment", kwargs={"name": _name}
        )
if NAMESPACE + "Testbed-v0" not in gymnasium.registry:
    gymnasium.register(
        NAMESPACE + "Testbed-v0",
        entry_point="advantage.environments.worlds.testbed:TestbedEnv",
        max_episode_steps=1000,
    )
for _name, _steps in (("StatelessCartPole-v1", 500), ("StatelessPendulum-v1", 200)):
    if NAMESPACE + _name not in gymnasium.registry:
        gymnasium.register(
            NAMESPACE + _name,
            entry_point="advantage.environments.worlds.partial:make_environment",
            kwargs={"name": _name},
            max_episode_steps=_steps,
        )
for _name, _function, _steps in (
    ("Catch-v0", "catch", 10),
    ("MinBreakout-v0", "min_breakout", 1000),
    ("PendulumPixels-v0", "pendulum_pixels", 200),
):
    if NAMESPACE + _name not in gymnasium.registry:
        gymnasium.register(
            NAMESPACE + _name,
            entry_point=f"advantage.environments.worlds.pixels:{_function}",
            max_episode_steps=_steps,
        )
