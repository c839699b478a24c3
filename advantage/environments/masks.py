"""Action masks: the part `action_mask` of an observation, 1 for each action that is allowed now and 0 for the others.

A policy looks for a mask in one place, the key `action_mask` of a Dict observation. Other environments give it by a
method `action_masks()`, the convention of sb3-contrib, or in `info["action_mask"]`, as Gymnasium's Taxi does; a wrapper
puts it into the observation. A mask has one entry for each choice of a Discrete space. The mask of a MultiDiscrete,
Tuple or Dict space has the entries of its components, one component after the other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium import spaces

from advantage.environments.defect import EnvironmentDefect
from advantage.environments.spaces import leaf_spaces, map_leaves

ACTION_MASK, OBSERVATION, METHOD = "action_mask", "observation", "action_masks"
Offer = Literal["observation", "method", "info"]  # where an environment gives its masks
PLACES: dict[Offer, str] = {
    "observation": f"observation[{ACTION_MASK!r}]",
    "method": f"{METHOD}()",
    "info": f"info[{ACTION_MASK!r}]",
}


def split_mask(space: spaces.Space) -> tuple[spaces.Space, spaces.Space | None]:
    """An observation space without its action mask, and the space of the mask, or None if it has none."""
    if not isinstance(space, spaces.Dict) or ACTION_MASK not in space.spaces:
        return space, None
    rest = [(name, part) for name, part in space.spaces.items() if name != ACTION_MASK]
    return spaces.Dict(rest), space.spaces[ACTION_MASK]


def mask_sizes(action_space: spaces.Space) -> tuple[int, ...]:
    """How many choices each component of an action has: the lengths of the parts of its mask.

    Raises:
        EnvironmentDefect: a component that is not a choice among finitely many actions.
    """
    sizes: list[int] = []
    for path, leaf in leaf_spaces(action_space):
        if isinstance(leaf, spaces.Discrete):
            sizes.append(int(leaf.n))
        elif isinstance(leaf, spaces.MultiDiscrete):
            sizes.extend(leaf.nvec.ravel().tolist())
        else:
            raise EnvironmentDefect(
                "action_space" + "".join(f"[{key!r}]" for key in path),
                "Discrete or MultiDiscrete, or a Tuple or Dict of these, because there is an action mask",
                str(leaf),
                "remove the mask, or divide the action into a finite number of choices",
            )
    return tuple(sizes)


def masked_space(
    observation_space: spaces.Space, action_space: spaces.Space, offer: Offer | None
) -> spaces.Space:
    """The observation space with the mask in it.

    Raises:
        EnvironmentDefect: the action space cannot have a mask, or the mask in the observation does not fit it.
    """
    check_mask(observation_space, action_space)
    if offer is None or offer == "observation":
        return observation_space
    mask = spaces.MultiBinary(sum(mask_sizes(action_space)))
    return spaces.Dict({OBSERVATION: observation_space, ACTION_MASK: mask})


def check_mask(observation_space: spaces.Space, action_space: spaces.Space) -> None:
    """Raise EnvironmentDefect if the observations have a mask and it does not fit the action space."""
    _, mask = split_mask(observation_space)
    if mask is None:
        return
    size, leaves = sum(mask_sizes(action_space)), [leaf for _, leaf in leaf_spaces(mask)]
    binary = all(isinstance(leaf, spaces.Box | spaces.MultiBinary) for leaf in leaves)
    if not binary or sum(math.prod(leaf.shape or ()) for leaf in leaves) != size:
        raise EnvironmentDefect(
            f"observation_space[{ACTION_MASK!r}]",
            f"{size} entries, one for each choice of the action space {action_space}",
            str(mask),
            f"use spaces.MultiBinary({size}), or a Box or a Tuple with as many entries",
        )


def find_offer(env: gymnasium.Env) -> Offer | None:
    """Where an environment gives its masks; None if it has none. May reset it, with seed 0."""
    if split_mask(env.observation_space)[1] is not None:
        return "observation"
    if env.has_wrapper_attr(METHOD):
        return "method"
    try:
        _, info = env.reset(seed=0)
    except (Exception, SystemExit):
        return None  # the first reset in training fails too, and its error says where
    return "info" if isinstance(info, Mapping) and ACTION_MASK in info else None


def flat_mask(mask: Any, sizes: tuple[int, ...], where: str) -> np.ndarray:
    """A mask as an int8 vector `[n]`, checked; n is the sum of the sizes.

    Args:
        mask: a vector, or an array for each component in the nested form of Gymnasium's `space.sample(mask)`.
        sizes: the number of choices in each component.
        where: the place of the mask, for an error.

    Raises:
        EnvironmentDefect: another number of entries, entries other than 0 and 1, or nothing allowed in a component.
    """
    array = mask if isinstance(mask, np.ndarray) and mask.ndim == 1 else _flatten(mask)
    size = sum(sizes)
    remedy = "give one entry for each choice: 1 where the action is allowed, else 0"
    if array.shape != (size,):
        found = "nothing" if mask is None else f"an array of shape {array.shape}"
        raise EnvironmentDefect(where, f"{size} entries of 0 or 1", found, remedy)
    wrong = (array != 0) & (array != 1) if array.dtype.itemsize > 1 else array.view(np.uint8) > 1
    if wrong.any():
        found = f"{array[wrong][0]} at entry {int(wrong.argmax())}"
        raise EnvironmentDefect(where, f"{size} entries of 0 or 1", found, remedy)
    array = array.astype(np.int8)
    refuse_empty(array, sizes, where)
    return array


def _flatten(mask: Any) -> np.ndarray:
    if isinstance(mask, Mapping):
        mask = tuple(mask.values())
    if isinstance(mask, tuple | list) and mask and not np.isscalar(mask[0]):
        return np.concatenate([_flatten(part) for part in mask])
    return np.asarray(mask).ravel()


def refuse_empty(mask: np.ndarray, sizes: tuple[int, ...], where: str) -> None:
    """Raise EnvironmentDefect if a mask `[n]` allows nothing in one of its components, which have these sizes."""
    allows = np.logical_or.reduceat(mask, _starts(sizes))
    if not allows.all():
        component = int(allows.argmin())
        of = f" of component {component}" if len(sizes) > 1 else ""
        raise EnvironmentDefect(
            where,
            "at least one action that is allowed",
            f"0 for all {sizes[component]} choices{of}",
            "allow an action that changes nothing, or end the episode (terminated=True) when no action is left",
        )


@lru_cache(maxsize=64)
def _starts(sizes: tuple[int, ...]) -> np.ndarray:
    return np.cumsum((0, *sizes[:-1]))


def allowed_action(action_space: spaces.Space, action: Any, obs: Any) -> Any:
    """The action, with each choice that the mask in `obs` forbids replaced by the next one that it allows.

    The search wraps around: after the last choice comes the first. Without a mask of the right length, the action does
    not change.
    """
    sizes = mask_sizes(action_space) if isinstance(obs, Mapping) and ACTION_MASK in obs else ()
    mask = _flatten(obs[ACTION_MASK]) if sizes else np.zeros(0)
    if not sizes or mask.shape != (sum(sizes),):
        return action
    masks = iter(np.split(mask, _starts(sizes)[1:]))

    def move(first: int, choice: int) -> int:
        allowed = np.roll(next(masks), first - choice)
        return first + (choice - first + int(allowed.argmax())) % len(allowed)

    def replace(leaf: Any, value: Any) -> Any:
        if isinstance(leaf, spaces.Discrete):
            return leaf.dtype.type(move(int(leaf.start), int(value)))
        moved = [
            move(int(first), int(choice)) for first, choice in zip(leaf.start.flat, value.flat, strict=True)
        ]
        return np.array(moved, leaf.dtype).reshape(leaf.shape)

    return map_leaves(replace, action_space, action)


class ActionMask(gymnasium.Wrapper):
    """Observations `{"observation": ..., "action_mask": int8 [n]}`; a Dict with a mask of its own stays as it is.

    Every mask is checked. After a step that terminated, the mask is all ones: no action follows.

    Raises:
        EnvironmentDefect: when it is made, spaces that do not fit; when it is stepped or reset, a mask that is wrong.
    """

    def __init__(self, env: gymnasium.Env, offer: Offer):
        super().__init__(env)
        self.observation_space = masked_space(env.observation_space, env.action_space, offer)
        self.offer: Offer = offer
        self.sizes = mask_sizes(env.action_space)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        obs, info = self.env.reset(seed=seed, options=options)
        return self._observe(obs, info, ended=False), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        return self._observe(obs, info, ended=bool(terminated)), reward, terminated, truncated, info

    def _observe(self, obs: Any, info: dict[str, Any], ended: bool) -> Any:
        if self.offer == "observation":
            if isinstance(obs, Mapping) and ACTION_MASK in obs and not ended:
                flat_mask(obs[ACTION_MASK], self.sizes, PLACES[self.offer])
            return obs
        if ended:
            return {OBSERVATION: obs, ACTION_MASK: np.ones(sum(self.sizes), np.int8)}
        mask = self.env.get_wrapper_attr(METHOD)() if self.offer == "method" else info.get(ACTION_MASK)
        return {OBSERVATION: obs, ACTION_MASK: flat_mask(mask, self.sizes, PLACES[self.offer])}
