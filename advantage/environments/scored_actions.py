"""What an environment says about each of its actions, so that a policy can score them."""

from __future__ import annotations

from typing import Protocol, TypedDict, runtime_checkable

import gymnasium
from gymnasium import spaces

from advantage.types import Array, Pytree, World


class ActionFeatures(TypedDict):
    """The part of an observation that describes each of n actions by k numbers.

    Attributes:
        features: float32 `[..., n, k]`, a row for each action.
        possible: int8 `[..., n]`, 1 for the actions that are possible.
    """

    features: Array
    possible: Array


@runtime_checkable
class ScoredActions(World, Protocol):
    """A world whose observations have `ActionFeatures`, and which can score its actions without observing them.

    The scores are the same as from an observation, and cost less.
    """

    def score_actions(self, state: Pytree, weights: Array) -> Array:
        """`weights` `[k]` times the features of each action, `[n]`; -inf where the action is not possible."""
        ...


def num_action_features(observation_space: gymnasium.Space, action_space: gymnasium.Space) -> int | None:
    """The number k of features of an action; None where observations do not describe every action."""
    if not (isinstance(observation_space, spaces.Dict) and isinstance(action_space, spaces.Discrete)):
        return None
    features, possible = (observation_space.spaces.get(name) for name in ("features", "possible"))
    if not (isinstance(features, spaces.Box) and isinstance(possible, spaces.Box | spaces.MultiBinary)):
        return None
    *actions, k = features.shape or (0,)
    return k if [int(action_space.n)] == actions == list(possible.shape) else None
