"""Action masks of Gymnasium's vector environments, in all three autoreset modes."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.vector.utils import batch_space

from advantage.environments.masks import (
    ACTION_MASK,
    METHOD,
    OBSERVATION,
    PLACES,
    Offer,
    flat_mask,
    mask_sizes,
    masked_space,
    split_mask,
)
from advantage.environments.watchdog import BY_HAND, Watchdog


def refuse_unlike_vectors(envs: gymnasium.vector.VectorEnv) -> None:
    """Raise ValueError if a vector environment lacks what Gymnasium's have."""
    wanted = {
        "single_observation_space": gymnasium.Space,
        "single_action_space": gymnasium.Space,
        "num_envs": int,
    }
    lacking = [name for name, kind in wanted.items() if not isinstance(getattr(envs, name, None), kind)]
    if lacking:
        raise ValueError(
            f"The vector environment {type(envs.unwrapped).__name__} has no {' and no '.join(lacking)}, as Gymnasium's "
            "have since version 1.0. Give a class or function that makes a single environment (adv.train makes as many "
            "as num_envs says), or a gymnasium.vector.SyncVectorEnv or AsyncVectorEnv of such environments; for "
            "several agents, wrap them as one."
        )


def masked_vector(envs: gymnasium.vector.VectorEnv) -> gymnasium.vector.VectorEnv:
    """The vector environment with its masks in its observations, checked; the same object if it has none.

    It is reset once, with seed 0, to see whether its infos have masks.

    Raises:
        EnvironmentDefect: spaces that do not fit.
        ValueError: it resets itself in the same step and gives its masks by a method, so that the mask of an
            episode's last observation is lost.
    """
    offer = _find_offer(envs)
    return envs if offer is None else VectorActionMask(envs, offer)


def _find_offer(envs: gymnasium.vector.VectorEnv) -> Offer | None:
    if split_mask(envs.single_observation_space)[1] is not None:
        return "observation"
    inner = envs.unwrapped
    if isinstance(inner, SyncVectorEnv | AsyncVectorEnv) and all(inner.call("has_wrapper_attr", METHOD)):
        return "method"
    with Watchdog(lambda: "The first reset of the vector environment", remedy=BY_HAND):
        _, infos = envs.reset(seed=0)
    return "info" if ACTION_MASK in infos else None


class VectorActionMask(gymnasium.vector.VectorWrapper):
    """`ActionMask` for a vector environment: observations `{"observation": [B, ...], "action_mask": int8 [B, n]}`.

    The mask belongs to the observation beside it, also in `infos["final_obs"]`. After a step that terminated it is all
    ones: no action follows.

    Raises:
        EnvironmentDefect: a mask that is wrong; names the environment and the step.
    """

    def __init__(self, envs: gymnasium.vector.VectorEnv, offer: Offer):
        super().__init__(envs)
        inner, mode = envs.unwrapped, envs.metadata.get("autoreset_mode")
        if mode is None and isinstance(inner, SyncVectorEnv | AsyncVectorEnv):
            mode = inner.autoreset_mode
        self.same_step = mode in (AutoresetMode.SAME_STEP, AutoresetMode.SAME_STEP.value)
        if self.same_step and offer == "method":
            raise ValueError(
                f"A vector environment in autoreset mode {AutoresetMode.SAME_STEP.value} whose masks come from "
                f"{METHOD}() loses the mask of an episode's last observation; use autoreset mode "
                f"{AutoresetMode.NEXT_STEP.value} or {AutoresetMode.DISABLED.value}, or put the mask into the info."
            )
        single = masked_space(envs.single_observation_space, envs.single_action_space, offer)
        if offer != "observation":
            self.single_observation_space = single
            self.observation_space = batch_space(single, envs.num_envs)
        self.offer: Offer = offer
        self.sizes = mask_sizes(envs.single_action_space)
        self.every = np.ones(envs.num_envs, bool)
        self.masks = np.ones((envs.num_envs, sum(self.sizes)), np.int8)
        self.steps = 0

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        rows = (options or {}).get("reset_mask", self.every).copy()
        obs, infos = self.env.reset(seed=seed, options=options)
        self._take(obs, infos, rows)
        return self._observe(obs), infos

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        obs, reward, terminated, truncated, infos = self.env.step(actions)
        self.steps += 1
        self.masks[terminated] = 1
        self._take(obs, infos, self.every if self.same_step else ~terminated)
        if self.same_step and self.offer == "info" and (terminated | truncated).any():
            infos = infos | {"final_obs": self._final(infos, terminated, truncated)}
        return self._observe(obs), reward, terminated, truncated, infos

    def _observe(self, obs: Any) -> Any:
        return obs if self.offer == "observation" else {OBSERVATION: obs, ACTION_MASK: self.masks.copy()}

    def _take(self, obs: Any, infos: dict[str, Any], rows: np.ndarray) -> None:
        """Store the masks of the environments that `rows` selects."""
        inner = self.env.unwrapped
        if self.offer == "observation":
            masks = obs[ACTION_MASK]
            infos = {ACTION_MASK: list(zip(*masks, strict=True)) if isinstance(masks, tuple) else masks}
        elif self.offer == "method" and isinstance(inner, SyncVectorEnv | AsyncVectorEnv):
            infos = {ACTION_MASK: inner.call(METHOD)}
        for index in np.flatnonzero(rows).tolist():
            self.masks[index] = self._mask(infos, index)

    def _final(self, infos: dict[str, Any], terminated: np.ndarray, truncated: np.ndarray) -> np.ndarray:
        """The last observations of the episodes that have ended, each with its mask."""
        final = np.full(self.num_envs, None, object)
        for index in np.flatnonzero(terminated | truncated).tolist():
            mask = np.ones(sum(self.sizes), np.int8)
            if not terminated[index]:
                mask = self._mask(infos.get("final_info", {}), index)
            final[index] = {OBSERVATION: infos["final_obs"][index], ACTION_MASK: mask}
        return final

    def _mask(self, infos: dict[str, Any], index: int) -> np.ndarray:
        where = f"environment {index}, step {self.steps}, {PLACES[self.offer]}"
        given = ACTION_MASK in infos and infos.get(f"_{ACTION_MASK}", self.every)[index]
        return flat_mask(infos[ACTION_MASK][index] if given else None, self.sizes, where)
