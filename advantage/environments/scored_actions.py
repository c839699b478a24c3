"""Features of each action in an environment's observations, from which a policy can score the actions."""

from __future__ import annotations

from typing import Protocol, TypedDict, runtime_checkable

import gymnasium
from gymnasium import spaces

from advantage.environments.masks import ACTION_MASK
from advantage.types import Array, Pytree, World


class ActionFeatures(TypedDict):
    """The part of an observation that describes each of n actions by k numbers.

    Attributes:
        features: float32 `[..., n, k]`, a row for each action.
        action_mask: int8 `[..., n]`, 1 for the actions that are allowed.
    """

    features: Array
    action_mask: Array


@runtime_checkable
class ScoredActions(World, Protocol):
    """A world whose observations have `ActionFeatures`, and which can score its actions without observing them.

    The scores are the same as from an observation, and cost less.
    """

    def score_actions(self, state: Pytree, weights: Array) -> Array:
        """`weights` `[k]` times the features of each action, `[n]`; -inf where the action is not possible."""
        ...


def num_action_features(observation_space: gymnasium.Space, action_space: gymnasium.Space) -> int | None:
    """The number k of features of an action; None if observations do not describe every action."""
    if not (isinstance(observation_space, spaces.Dict) and isinstance(action_space, spaces.Discrete)):
        return None
    features, mask = (observation_space.spaces.get(name) for name in ("features", ACTION_MASK))
    if not (isinstance(features, spaces.Box) and isinstance(mask, spaces.Box | spaces.MultiBinary)):
        return None
    *actions, k = features.shape or (0,)
    return k if [int(action_space.n)] == actions == list(mask.shape) else None
