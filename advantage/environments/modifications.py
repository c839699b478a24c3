"""How an environment is made besides its name: keywords, wrappers, and parts of observations that are left out."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import importlib
import inspect
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import gymnasium
from gymnasium import spaces

from advantage.environments.defect import error_text
from advantage.environments.environment import Environment

Wrapper = str | Callable[[gymnasium.Env], gymnasium.Env]


@dataclasses.dataclass(frozen=True)
class Modifications:
    """What is changed about an environment, from the inside out.

    Attributes:
        options: keywords for the environment's constructor.
        wrappers: each a name, `module:Wrapper` or `module:Wrapper(8, key="value")`, or a function of the environment.
        ignored: parts of a Dict observation that are left out; a part inside another has a dotted name.
    """

    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    wrappers: tuple[Wrapper, ...] = ()
    ignored: tuple[str, ...] = ()

    @property
    def by_name(self) -> bool:
        """Whether it can be written to a file, and is the same when it is read again."""
        try:
            json.dumps(dict(self.options))
        except (TypeError, ValueError):
            return False
        return _has_names_for_keys(self.options) and all(
            isinstance(wrapper, str) for wrapper in self.wrappers
        )

    @property
    def runs_code(self) -> bool:
        """Whether it needs the user's word when it comes from a file: keywords and wrappers decide what runs."""
        return bool(self.options or self.wrappers)

    def flags(self) -> list[str]:
        """The command line's words for its keywords and wrappers."""
        words = [
            ("--env-option", f"{name}={json.dumps(value, default=str)}")
            for name, value in self.options.items()
        ]
        words += [("--wrapper", str(wrapper)) for wrapper in self.wrappers]
        return [word for pair in words for word in pair]


def _has_names_for_keys(value: Any) -> bool:
    """Whether every dict in a value has names for keys; JSON makes text of numbers there."""
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _has_names_for_keys(part) for key, part in value.items())
    return not isinstance(value, list | tuple) or all(map(_has_names_for_keys, value))


UNMODIFIED = Modifications()


def modified(environment: Environment, modifications: Modifications) -> Environment:
    """The environment with these keywords, wrappers and observations. One that has them already stays as it is.

    Raises:
        ValueError: it is not made here, its constructor has no such keyword, or a wrapper's name is wrong.
    """
    if modifications == UNMODIFIED:
        return environment
    if environment.kind != "host":
        what = "an on-device world" if environment.kind == "device" else "a vector environment"
        raise ValueError(
            f"{environment.name} is {what}, for which env_options, wrappers and ignore_observation (--env-option, "
            "--wrapper, --ignore-observation) are not possible; give an object that is made as you want it."
        )
    source = environment.source
    if isinstance(source.make, ModifiedMaker) and source.make.modifications == modifications:
        return environment
    _refuse_unknown_keywords(environment.name, source.make, modifications.options)
    wrappers = tuple(wrapper_of(name) if isinstance(name, str) else name for name in modifications.wrappers)
    make = ModifiedMaker(source.make, modifications, wrappers)
    by_name = environment.by_name and modifications.by_name
    return dataclasses.replace(environment, source=dataclasses.replace(source, make=make), by_name=by_name)


def _refuse_unknown_keywords(name: str, make: Callable[..., Any], options: Mapping[str, Any]) -> None:
    try:
        allowed = inspect.signature(make).parameters
    except (TypeError, ValueError):  # one that does not say
        return
    if any(word.kind is inspect.Parameter.VAR_KEYWORD for word in allowed.values()):
        return
    for unknown in [word for word in options if word not in allowed]:
        near = difflib.get_close_matches(unknown, allowed, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"it takes {', '.join(allowed) or 'none'}."
        raise ValueError(f"{name} has no keyword {unknown!r} (env_options, --env-option); {hint}")


@dataclasses.dataclass(frozen=True)
class ModifiedMaker:
    """Makes an environment and applies the modifications."""

    make: Callable[..., gymnasium.Env]
    modifications: Modifications
    wrappers: tuple[Callable[[gymnasium.Env], gymnasium.Env], ...]

    def __call__(self, **keywords: Any) -> gymnasium.Env:
        env = self.make(**{**self.modifications.options, **keywords})
        for wrapper in self.wrappers:
            env = wrapper(env)
        return IgnoreObservation(env, self.modifications.ignored) if self.modifications.ignored else env


@dataclasses.dataclass(frozen=True)
class NamedWrapper:
    """A wrapper from an installed module, with its arguments."""

    module: str
    name: str
    arguments: tuple[Any, ...] = ()
    keywords: tuple[tuple[str, Any], ...] = ()

    def __call__(self, env: gymnasium.Env) -> gymnasium.Env:
        wrapper: Any = importlib.import_module(self.module)
        for part in self.name.split("."):
            wrapper = vars(wrapper)[part] if part in vars(wrapper) else getattr(wrapper, part)
        return wrapper(env, *self.arguments, **dict(self.keywords))


def wrapper_of(text: str) -> NamedWrapper:
    """The wrapper that `module:Wrapper` or `module:Wrapper(8, key="value")` names; arguments are Python literals.

    Raises:
        ValueError: the text has another form, or there is no such wrapper.
    """
    module, colon, rest = text.partition(":")
    try:
        tree = ast.parse(rest.strip(), mode="eval").body if colon else None
        call = tree if isinstance(tree, ast.Call) else None
        name = ast.unparse(call.func if call is not None else tree) if tree is not None else ""
        if not all(part.isidentifier() for part in [*name.split("."), *module.split(".")]):
            raise ValueError
        arguments = tuple(map(ast.literal_eval, call.args if call else ()))
        keywords = tuple(
            (word.arg or "", ast.literal_eval(word.value)) for word in (call.keywords if call else ())
        )
    except (SyntaxError, ValueError):
        raise ValueError(
            f"{text[:200]!r} does not name a wrapper; write module:Wrapper or module:Wrapper(8, key='value'), such as "
            "gymnasium.wrappers:RescaleAction(-1, 1)."
        ) from None
    wrapper = NamedWrapper(module, name, arguments, keywords)
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except ImportError as error:
        raise ValueError(f"The module of the wrapper {text[:200]!r} cannot be imported: {error}.") from None
    except (Exception, SystemExit) as error:
        if isinstance(error, AttributeError) and module in sys.modules:
            raise ValueError(f"The module {module!r} has no wrapper {name!r}.") from None
        raise ValueError(
            f"Importing the module of the wrapper {text[:200]!r} raised {error_text(error)}. See where "
            f"with: python -c 'import {module}'."
        ) from error
    return wrapper


class IgnoreObservation(gymnasium.ObservationWrapper):
    """Leaves parts of a Dict observation out.

    Raises:
        ValueError: a name that is not a part of the observation, or nothing is left.
    """

    def __init__(self, env: gymnasium.Env, names: Iterable[str]):
        super().__init__(env)
        self.names = tuple(names)
        self.observation_space = _space_without(env.observation_space, self.names)

    def observation(self, observation: Any) -> Any:
        for name in self.names:
            observation = _without(observation, name.split("."))
        return observation


def _space_without(space: spaces.Space, names: Iterable[str]) -> spaces.Space:
    for name in names:
        space = _cut(space, name.split("."), name, space)
    return space


def _cut(space: spaces.Space, path: list[str], name: str, whole: spaces.Space) -> spaces.Space:
    parts = dict(space.spaces) if isinstance(space, spaces.Dict) else {}
    if path[0] not in parts or (len(path) == 1 and len(parts) == 1):
        have = ", ".join(map(str, whole.spaces)) if isinstance(whole, spaces.Dict) else "none"
        reason = "nothing would be left of it" if path[0] in parts else f"its parts are: {have}"
        raise ValueError(f"ignore_observation={name!r} cannot be left out of the observation: {reason}.")
    rest = {path[0]: _cut(parts[path[0]], path[1:], name, whole)} if len(path) > 1 else {}
    return spaces.Dict([(key, rest.get(key, part)) for key, part in parts.items() if key != path[0] or rest])


def _without(observation: Any, path: list[str]) -> Any:
    if not isinstance(observation, Mapping) or path[0] not in observation:
        return observation  # the check says what is wrong with it
    rest = {path[0]: _without(observation[path[0]], path[1:])} if len(path) > 1 else {}
    return {key: part for key, part in observation.items() if key != path[0]} | rest
