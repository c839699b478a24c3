"""An on-device world as the model of itself."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax

from advantage.environments.masks import ACTION_MASK, split_mask
from advantage.environments.spaces import environment_action
from advantage.environments.tables.world import TabularWorld
from advantage.models.interface import EnumerableModel, Imagined, Model, Outcomes
from advantage.types import ActionUnits, Array, Game, Key, ObservedWorld, Pytree, Spec


class TrueState(NamedTuple):
    """A state of the world and what is observed in it."""

    state: Pytree
    obs: Pytree


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class TrueModel:
    """The world's own rules. A plan has no time limit: the driver truncates episodes, and a model does not.

    Attributes:
        world: a world whose observations determine its state.
        action_units: the units of actions.
    """

    world: ObservedWorld
    action_units: ActionUnits = "bounds"

    @property
    def sign(self) -> float:
        """-1 in a game of two players."""
        return -1.0 if isinstance(self.world, Game) else 1.0

    def begin(self, obs: Pytree) -> TrueState:
        return TrueState(jax.vmap(self.world.state_of)(obs), obs)

    def step(self, state: TrueState, action: Pytree, key: Key) -> Imagined:
        action = environment_action(self.world.action_space, action, self.action_units)
        keys = jax.random.split(key, len(jax.tree.leaves(state)[0]))
        following, obs, reward, terminated = jax.vmap(self.world.step)(state.state, action, keys)
        return Imagined(TrueState(following, obs), reward, terminated)

    def observation(self, state: TrueState) -> Pytree:
        return state.obs

    def allowed(self, state: TrueState) -> Array | None:
        has_mask = split_mask(self.world.observation_space)[1] is not None
        return state.obs[ACTION_MASK].astype(bool) if has_mask else None


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class TableModel:
    """A finite world's table. States and observations are state numbers, int32 `[N]`."""

    world: TabularWorld

    sign = 1.0

    @property
    def successors(self) -> int:
        return self.world.outcomes.successor.shape[2]

    def begin(self, obs: Array) -> Array:
        return obs

    def step(self, state: Array, action: Array, key: Key) -> Imagined:
        keys = jax.random.split(key, len(state))
        following, _, reward, terminated = jax.vmap(self.world.step)(state, action, keys)
        return Imagined(following, reward, terminated)

    def observation(self, state: Array) -> Array:
        return state

    def allowed(self, state: Array) -> None:
        return None

    def outcomes(self, state: Array, action: Array) -> Outcomes:
        """All successors in the table, padded with probability 0."""
        return Outcomes(*self.world.all_outcomes(state, action))


def true_model(spec: Spec, remedy: str) -> Model | EnumerableModel:
    """The model that is the world of a run itself.

    Args:
        spec: the run's spec.
        remedy: what else the user can do where that is not possible: the beginning of a sentence.

    Raises:
        ValueError: the world's rules are not known, or its observations do not determine its state.
    """
    if isinstance(spec.world, TabularWorld):
        return TableModel(spec.world)
    if isinstance(spec.world, ObservedWorld):
        return TrueModel(spec.world, spec.action_units)
    what = "has no rules that a planner could use" if spec.world is None else "does not show its whole state"
    raise ValueError(
        f"Planning with the world's own rules is not possible: the environment {what}. {remedy}, or use an on-device "
        "world that shows its state: jax/Pendulum-v1, jax/CartPole-v1, jax/Acrobot-v1, jax/MountainCar-v0, or a finite "
        "world."
    )
