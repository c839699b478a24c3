"""The finite worlds that have names: `jax/Name-v0` on the device, `advantage/Name-v0` in Gymnasium's interface."""

from __future__ import annotations

import importlib
from functools import lru_cache
from typing import Any

import gymnasium

from advantage.environments.tabular.mdp import MDP, POMDP
from advantage.environments.tabular.world import PartiallyObservedWorld, TabularEnv, TabularWorld
from advantage.types import World

NAMESPACE = "advantage/"
TABLES = {  # name: file and function
    "RandomWalk-v0": "random_walk:random_walk",
}
GYMNASIUM_TABLES = ("CliffWalking-v1", "FrozenLake-v1", "FrozenLake8x8-v1", "Taxi-v4")


@lru_cache(maxsize=64)
def table(name: str) -> MDP | POMDP:
    """The tables of a named world: ours, or those that come with Gymnasium.

    Raises:
        ValueError: a Gymnasium environment without a table.
    """
    bare = name.removeprefix("jax/").removeprefix(NAMESPACE)
    if bare in TABLES:
        module, function = TABLES[bare].split(":")
        return getattr(importlib.import_module(f"advantage.environments.tabular.{module}"), function)()
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
    """A named table in Gymnasium's interface, truncated where the table says."""
    tables = table(name)
    mdp = tables.mdp if isinstance(tables, POMDP) else tables
    return gymnasium.wrappers.TimeLimit(TabularEnv(tables, **keywords), mdp.max_episode_steps)


for _name in TABLES:
    if NAMESPACE + _name not in gymnasium.registry:
        gymnasium.register(
            NAMESPACE + _name, entry_point=f"{__name__}:make_environment", kwargs={"name": _name}
        )
