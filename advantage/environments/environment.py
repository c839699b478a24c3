"""An environment as the drivers need it: where it runs and how it is made, with masks and frame stacks."""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, Literal, NamedTuple

import gymnasium

from advantage.environments.check import check_instance
from advantage.environments.defect import EnvironmentDefect, EnvironmentWarning, error_text, raise_first_error
from advantage.environments.frame_stack import FrameStack, FrameStackWorld, stacked_space
from advantage.environments.last_step import LastStep, LastStepWorld, space_with_last
from advantage.environments.masks import ActionMask, Offer, check_mask, find_offer, masked_space, split_mask
from advantage.environments.space_faults import space_changes
from advantage.plain_values import require_whole
from advantage.types import LastPart


@dataclasses.dataclass(frozen=True)
class Environment:
    """An environment as the drivers need it.

    Attributes:
        name: its name in messages and in config.json.
        kind: where it runs: stepped on the host, as a vector environment, or on the device.
        source: a `Maker`, which makes one `gymnasium.Env` (host), or the vector environment or the world itself.
        by_name: whether the name alone is enough to make it again.
    """

    name: str
    kind: Literal["host", "vector", "device"]
    source: Any
    by_name: bool

    @property
    def spaces(self) -> tuple[gymnasium.Space, gymnasium.Space]:
        """The spaces of one observation and one action. A host environment is made once to read them.

        Raises:
            EnvironmentDefect: the object is not an environment, or has a space that cannot be used.
            Exception: any exception of the function that makes it.
        """
        source = self.source
        if self.kind == "vector":
            return source.single_observation_space, source.single_action_space
        check_mask(source.observation_space, source.action_space)
        return source.observation_space, source.action_space


def close(env: gymnasium.Env) -> None:
    """Close an environment. If that raises, a warning says so: what has been learned or played is not lost."""
    try:
        env.close()
    except (Exception, SystemExit) as error:
        warnings.warn(
            f"close() of {type(env.unwrapped).__name__} raised {error_text(error)}. Nothing else is lost; "
            "to stop this message, let close() work at any time, also twice.",
            EnvironmentWarning,
            stacklevel=2,
        )


@contextlib.contextmanager
def closing(env: gymnasium.Env) -> Iterator[gymnasium.Env]:
    """A context that closes an environment at its end, as `close` does."""
    try:
        yield env
    finally:
        close(env)


class Facts(NamedTuple):
    """What an environment declares about itself.

    Attributes:
        observation_space, action_space: the spaces of the environment.
        offer: where it gives its action masks; None if it has none.
    """

    observation_space: gymnasium.Space
    action_space: gymnasium.Space
    offer: Offer | None


@dataclasses.dataclass(frozen=True)
class Maker:
    """Makes a host environment. If it has an action mask, the mask is part of the observation.

    One environment is made, reset with seed 0 and closed, to find out where masks are given. The maker keeps the
    answer, so that worker processes, which get a copy, make the same environment. An environment that is made with
    keywords is itself reset for this.

    Attributes:
        make: makes the environment as its author wrote it.
        with_masks: whether masks are looked for; without them the observation stays as it is.
        observe_last: what of the last step is observed too; see `observing`.
        frame_stack: how many observations are stacked; see `stacked`.
    """

    make: Callable[..., gymnasium.Env]
    with_masks: bool = True
    observe_last: tuple[LastPart, ...] = ()
    frame_stack: int = 1

    def __call__(self, **keywords: Any) -> gymnasium.Env:
        env = self.make(**keywords)
        if not isinstance(env, gymnasium.Env):
            return env
        if self.with_masks:
            if not keywords:
                now = env.observation_space, env.action_space
                raise_first_error("an environment that is made again", space_changes(self.facts[:2], now))
            try:
                offer = find_offer(env) if keywords else self.facts.offer
            except EnvironmentDefect:
                return env  # its spaces are wrong; a later check reports how
            env = env if offer is None else ActionMask(env, offer)
        if self.observe_last:
            env = LastStep(env, self.observe_last)
        return env if self.frame_stack == 1 else FrameStack(env, self.frame_stack)

    @cached_property
    def facts(self) -> Facts:
        """What one environment declares. Raises EnvironmentDefect if it is not an environment or has wrong spaces."""
        env = self.make()
        check_instance(env)
        with closing(env):
            offer = find_offer(env) if self.with_masks else None
            return Facts(env.observation_space, env.action_space, offer)

    @property
    def observation_space(self) -> gymnasium.Space:
        """The observation space of the environments that are made, with the mask, the last step and the stack."""
        space = masked_space(*self.facts)
        if self.observe_last:
            space = space_with_last(space, self.action_space, self.observe_last)
        return space if self.frame_stack == 1 else stacked_space(space, self.frame_stack)

    @property
    def action_space(self) -> gymnasium.Space:
        """The action space of the environments that are made."""
        return self.facts.action_space


def fitting(environment: Environment, observation_space: gymnasium.Space) -> Environment:
    """The environment for an agent with this observation space: without masks if the agent was trained without them.

    Such an agent comes from a version before masks, or from an on-device world whose Gymnasium twin has masks.
    """
    if environment.kind != "host" or split_mask(observation_space)[1] is not None:
        return environment
    return dataclasses.replace(environment, source=dataclasses.replace(environment.source, with_masks=False))


def observing(environment: Environment, parts: tuple[LastPart, ...], n: int = 1) -> Environment:
    """The environment with its last step as parts of the observation, and then the last n observations as one.

    The observation becomes a Dict, if it is none, with its own parts, or `observation`, and `last_action`, in the units
    of the environment, and `last_reward`. At a reset the reward is 0 and the action is none: one choice more than there
    are actions, or 0 for a continuous one. An environment that observes them already stays as it is.

    Raises:
        ValueError: the observation has such a part, n is not allowed, or the environment is a vector environment.
    """
    if parts and parts != _last_parts_of(environment):
        environment = _with_last_step(environment, parts)
    return stacked(environment, n)


def _with_last_step(environment: Environment, parts: tuple[LastPart, ...]) -> Environment:
    if environment.kind == "vector":
        raise ValueError(
            f"observe_last={list(parts)} is not possible with a vector environment; build it from environments that "
            f"are wrapped with advantage.environments.last_step.LastStep(env, {parts!r})."
        )
    if isinstance(environment.source, FrameStackWorld | LastStepWorld):
        raise ValueError(
            f"observe_last={list(parts)} is not possible with {environment.name}, whose observations are stacked or "
            "have a last step already; give the world itself."
        )
    space_with_last(*environment.spaces, parts)  # raises ValueError if the observation has such a part
    if environment.kind == "device":
        return dataclasses.replace(environment, source=LastStepWorld(environment.source, parts))
    return dataclasses.replace(
        environment, source=dataclasses.replace(environment.source, observe_last=parts)
    )


def _last_parts_of(environment: Environment) -> tuple[LastPart, ...]:
    """What of the last step is observed already."""
    source = environment.source
    if isinstance(source, FrameStackWorld):
        source = source.world
    if isinstance(source, LastStepWorld):
        return source.parts
    return source.observe_last if isinstance(source, Maker) else ()


def stacked(environment: Environment, n: int) -> Environment:
    """The environment with its last n observations as one, the oldest first.

    Every part of an observation gets a new first axis of length n. At a reset the first observation is repeated. An
    action mask is not stacked: it stays the mask of the last observation. An environment that has this stack already
    stays as it is.

    Raises:
        ValueError: n is not allowed, or the environment is a vector environment.
    """
    n = require_whole("frame_stack", n, 1)
    if n in (1, _frames_of(environment)):
        return environment
    if environment.kind == "vector":
        raise ValueError(
            f"frame_stack={n} is not possible with a vector environment; build it from environments that are wrapped "
            f"with gymnasium.wrappers.FrameStackObservation(env, {n})."
        )
    if environment.kind == "device":
        return dataclasses.replace(environment, source=FrameStackWorld(environment.source, n))
    return dataclasses.replace(environment, source=dataclasses.replace(environment.source, frame_stack=n))


def _frames_of(environment: Environment) -> int:
    """How many observations are stacked already."""
    source = environment.source
    if isinstance(source, FrameStackWorld):
        return source.n
    return source.frame_stack if isinstance(source, Maker) else 1
