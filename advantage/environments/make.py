"""From a name, class, function or object to something that can be stepped."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import importlib
import importlib.util
import re
import sys
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import gymnasium
from gymnasium import error as gymnasium_error
from gymnasium.envs.registration import EnvSpec

from advantage.environments.check import check_instance
from advantage.environments.defect import EnvironmentDefect
from advantage.environments.frame_stack import FrameStack, stacked_space
from advantage.environments.masks import ActionMask, Offer, check_mask, find_offer, masked_space, split_mask
from advantage.environments.vector_masks import masked_vector
from advantage.types import World

WORLDS = {  # name: file, and class or function
    "jax/Acrobot-v1": "acrobot:Acrobot",
    "jax/CartPole-v1": "cartpole:CartPole",
    "jax/MountainCar-v0": "mountain_car:MountainCar",
    "jax/MountainCarContinuous-v0": "mountain_car:MountainCarContinuous",
    "jax/Pendulum-v1": "pendulum:Pendulum",
    "jax/StatelessCartPole-v1": "partial:stateless_cart_pole",
    "jax/StatelessPendulum-v1": "partial:stateless_pendulum",
    "jax/Testbed-v0": "testbed:Testbed",
    "jax/WastedActions-v0": "wasted_actions:WastedActions",
}
EXTRAS = {  # what a missing module is installed with
    "mujoco": "mujoco",
    "ale_py": "atari",
    "cv2": "atari",
    "Box2D": "box2d",
    "box2d": "box2d",
    "pygame": "classic",
    "imageio": "video",
    "imageio_ffmpeg": "video",
}


class MissingExtra(ImportError):
    """An optional dependency is not installed; the message says which `pip install` brings it."""


@dataclasses.dataclass(frozen=True)
class Environment:
    """An environment as the drivers need it.

    Attributes:
        name: for people and for config.json.
        kind: where it runs: stepped on the host, as a vector environment, or on the device.
        source: a `Maker`, which makes one `gymnasium.Env` (host), or the vector environment or the world itself.
        by_name: whether the name alone brings it back.
    """

    name: str
    kind: Literal["host", "vector", "device"]
    source: Any
    by_name: bool

    @property
    def spaces(self) -> tuple[gymnasium.Space, gymnasium.Space]:
        """The spaces of one observation and one action. For a host environment one is made, once, to read them.

        Raises:
            EnvironmentDefect: what was made is no environment, or has a space that cannot be used.
            Exception: whatever making it raises.
        """
        source = self.source
        if self.kind == "vector":
            return source.single_observation_space, source.single_action_space
        check_mask(source.observation_space, source.action_space)
        return source.observation_space, source.action_space


class Facts(NamedTuple):
    """What an environment says about itself.

    Attributes:
        observation_space, action_space: as the environment has them.
        offer: where it gives its action masks; None where it has none.
    """

    observation_space: gymnasium.Space
    action_space: gymnasium.Space
    offer: Offer | None


@dataclasses.dataclass(frozen=True)
class Maker:
    """Makes a host environment. If it has an action mask, the mask is part of the observation.

    One environment is made, reset with seed 0 and closed, to find out where masks are given. The maker keeps the
    answer, so that worker processes, which get a copy, make the same. An environment that is made with keywords is
    itself reset for this.

    Attributes:
        make: makes the environment as its author wrote it.
        with_masks: whether masks are looked for; without them the observation stays as it is.
        frame_stack: how many observations are stacked; see `stacked`.
    """

    make: Callable[..., gymnasium.Env]
    with_masks: bool = True
    frame_stack: int = 1

    def __call__(self, **keywords: Any) -> gymnasium.Env:
        env = self.make(**keywords)
        if not isinstance(env, gymnasium.Env):
            return env
        if self.with_masks:
            try:
                offer = find_offer(env) if keywords else self.facts.offer
            except EnvironmentDefect:
                return env  # its spaces are wrong, and whoever checks them says how
            env = env if offer is None else ActionMask(env, offer)
        return env if self.frame_stack == 1 else FrameStack(env, self.frame_stack)

    @cached_property
    def facts(self) -> Facts:
        """Raises EnvironmentDefect for what is no environment, or has wrong spaces; and whatever making it raises."""
        env = self.make()
        check_instance(env)
        with contextlib.closing(env):
            offer = find_offer(env) if self.with_masks else None
            return Facts(env.observation_space, env.action_space, offer)

    @property
    def observation_space(self) -> gymnasium.Space:
        """Of the environments that are made, with the mask and the stack."""
        space = masked_space(*self.facts)
        return space if self.frame_stack == 1 else stacked_space(space, self.frame_stack)

    @property
    def action_space(self) -> gymnasium.Space:
        """Of the environments that are made."""
        return self.facts.action_space


def make(environment: Any, **keywords: Any) -> Any:
    """One environment by name: a `gymnasium.Env`, or a world for names that begin with `jax/`.

    Raises:
        ValueError: an unknown name; lists the nearest ones.
        MissingExtra: the environment needs a package that is not installed.
    """
    resolved = resolve(environment)
    return resolved.source(**keywords) if resolved.kind == "host" else resolved.source


def resolve(environment: Any) -> Environment:
    """What `train` and `evaluate` accept: a name, a class or function, a vector environment, a world, an `adv.MDP`.

    Raises:
        ValueError: an unknown name, or an object that is none of these.
    """
    if isinstance(environment, Environment):
        return environment
    if isinstance(environment, str):
        if environment.startswith("jax/"):
            return Environment(environment, "device", _world(environment), True)
        named = NamedEnvironment(environment, _find(environment))
        return Environment(environment, "host", Maker(named), True)
    if isinstance(environment, gymnasium.vector.VectorEnv):
        name = environment.spec.id if environment.spec else type(environment.unwrapped).__name__
        return Environment(name, "vector", masked_vector(environment), False)
    if hasattr(environment, "transition") or hasattr(environment, "emission"):
        from advantage.environments.tables.mdp import MDP, POMDP
        from advantage.environments.tables.world import world_of

        if isinstance(environment, MDP | POMDP):
            return Environment(type(environment).__name__, "device", world_of(environment), False)
    if isinstance(environment, gymnasium.Env):
        raise ValueError(
            f"{environment!r} is one environment, and a training makes as many as it needs; give its class, or a "
            "function that makes it: lambda: MyEnv(size=8)."
        )
    if hasattr(environment, "max_episode_steps") and hasattr(environment, "gymnasium_id"):
        return Environment(type(environment).__name__, "device", environment, False)
    if callable(environment):
        name, make = getattr(environment, "__qualname__", type(environment).__name__), cast(Any, environment)
        return Environment(name.replace("<", "").replace(">", ""), "host", Maker(make), False)
    raise ValueError(
        f"{environment!r} is not an environment; give a name such as 'CartPole-v1' or 'jax/CartPole-v1', a "
        "gymnasium.Env class, a function that makes one, a gymnasium vector environment, an on-device world, or an "
        "adv.MDP."
    )


def fitting(environment: Environment, observation_space: gymnasium.Space) -> Environment:
    """The environment for an agent with this observation space: without masks if the agent was trained without them.

    Such an agent comes from a version before masks, or from an on-device world whose Gymnasium twin has masks.
    """
    if environment.kind != "host" or split_mask(observation_space)[1] is not None:
        return environment
    return dataclasses.replace(environment, source=dataclasses.replace(environment.source, with_masks=False))


def word_for(name: str) -> list[str]:
    """What a command about a run must say of its environment, whose package is imported on the user's word alone."""
    return ["--env", name] if ":" in name else []


def resolve_recorded(name: str, trust: bool = False) -> Environment:
    """What a run's config.json names. The file may be a stranger's, so it does not decide what is imported.

    By itself a run brings back an environment that is registered, one of ours (`jax/...`, `advantage/...`), Atari's
    from an installed ale_py, and that of a package which this process has imported already.

    Args:
        name: as config.json has it.
        trust: whether the user lets the package be imported that the name asks for.

    Raises:
        ValueError: the name is unknown, or asks for an import that nobody has allowed; says how to allow it.
    """
    package = _package(name)
    installed = name.startswith("ALE/") and package == "ale_py" and not _lies_here(package)
    if trust or not package or package in sys.modules or installed:
        return resolve(name)
    raise ValueError(
        f"The run wants the environment {name[:200]!r}, which comes back by importing {package[:200]!r}, and so by "
        "running what is in it. If you trust it, allow that with --trust, or name the environment yourself with "
        "--env NAME; in Python with trust=True, with environment=..., or by importing the package first."
    )


def _package(name: str) -> str:
    """The package that a name has imported: that of `package:Env-v0`, and ale_py for Atari; else nothing."""
    package = name.rpartition(":")[0]
    return "ale_py" if not package and name.startswith("ALE/") else package


def _lies_here(module: str) -> bool:
    """Whether a module would be imported from the current folder."""
    spec = importlib.util.find_spec(module) if module not in sys.modules else None
    places = [spec.origin, *(spec.submodule_search_locations or ())] if spec is not None else []
    return any(Path(place).parent.resolve() == Path.cwd() for place in places if place)


@dataclasses.dataclass(frozen=True)
class NamedEnvironment:
    """Makes a registered environment, without Gymnasium's own checker: ours runs instead.

    It carries the registration itself, so that worker processes can make what a script has registered.
    """

    name: str
    spec: EnvSpec

    def __call__(self, **keywords: Any) -> gymnasium.Env:
        try:
            return gymnasium.make(self.spec, disable_env_checker=True, **keywords)
        except (gymnasium_error.DependencyNotInstalled, ImportError) as error:
            raise missing_extra(self.name, error) from error


def missing_extra(name: str, error: Exception) -> MissingExtra:
    """What to install, from the module that an import did not find."""
    cause = error.__cause__ or error.__context__ or error
    module = getattr(cause, "name", None) or next((m for m in EXTRAS if m in str(error)), None)
    root = (module or "").split(".")[0]
    brings = f'advantage[{EXTRAS[root]}]"' if root in EXTRAS else f'{root or "the missing package"}"'
    return MissingExtra(
        f'{name} needs a package that is not installed ({error}). Install it with: pip install "{brings}'
    )


def _world(name: str) -> World:
    if name not in WORLDS:
        from advantage.environments.tetris.world import tetris_of

        tetris = tetris_of(name.removeprefix("jax/"))
        if tetris is not None:
            return tetris
        if name not in world_names():
            raise ValueError(_unknown(name, world_names()))
        from advantage.environments.tables import names

        return names.world(name)
    module, cls = WORLDS[name].split(":")
    return getattr(importlib.import_module(f"advantage.environments.worlds.{module}"), cls)()


def _find(name: str) -> EnvSpec:
    """The registration of a name, after importing `package` from `package:Env-v0`."""
    package, registered = _package(name), name.rpartition(":")[2]
    if name.startswith("advantage/"):
        importlib.import_module("advantage.environments.tables.names")
        registered = _register_tetris(name) or registered
    try:
        if package:
            importlib.import_module(package)
    except ImportError as error:
        if package in EXTRAS:
            raise missing_extra(name, error) from error
        raise ValueError(
            f"The package of {name!r} cannot be imported ({error}); names are package:Env-v0, where importing the "
            "package registers the environment. Run from the folder that holds it, or install it."
        ) from None
    try:
        return gymnasium.spec(registered)
    except gymnasium_error.Error:
        raise ValueError(_unknown(name, environment_names())) from None


def _register_tetris(name: str) -> str | None:
    """Make `advantage/Tetris-10x20-v0`, of any size, one of Gymnasium's names; None for another name."""
    from advantage.environments.tetris.gymnasium_env import register
    from advantage.environments.tetris.world import tetris_of

    bare = name.removeprefix("advantage/").removesuffix("-v0")
    world = tetris_of(bare) if name.endswith("-v0") else None
    return None if world is None else register(world)


def _unknown(name: str, known: list[str]) -> str:
    bare = {re.sub(r"-v\d+$", "", k).split("/")[-1].lower(): k for k in known}
    wanted = re.sub(r"-v\d+$", "", name).split("/")[-1].split(":")[-1].lower()
    near = [bare[match] for match in difflib.get_close_matches(wanted, bare, n=4, cutoff=0.5)]
    near += [match for match in difflib.get_close_matches(name, known, n=4) if match not in near]
    hint = f"the nearest are {', '.join(near[:4])}" if near else "none is near"
    return f"There is no environment {name!r}; {hint}. `advantage list` shows all."


def world_names() -> list[str]:
    """Every on-device world: those with dynamics of their own, and those that are tables."""
    from advantage.environments.tables import names
    from advantage.environments.tetris.world import STANDARD

    found = *STANDARD, *names.TABLES, *names.GYMNASIUM_TABLES
    return sorted([*WORLDS, *(f"jax/{name}" for name in found)])


def environment_names() -> list[str]:
    """Every environment found: on-device worlds and Gymnasium's registry, newest versions only."""
    worlds = world_names()
    for name in worlds:
        _register_tetris(f"advantage/{name.removeprefix('jax/')}-v0")
    newest: dict[Any, Any] = {}
    for name, spec in gymnasium.registry.items():
        base = (spec.namespace, spec.name)
        if name.startswith(("phys2d/", "tabular/", "GymV")):
            continue
        if base not in newest or (spec.version or 0) > (newest[base].version or 0):
            newest[base] = spec
    return worlds + sorted(spec.id for spec in newest.values())


def table_of(environment: Environment) -> Any:
    """The `MDP` behind an environment.

    Raises:
        ValueError: it has none; says how to give one.
    """
    from advantage.environments.tables.mdp import MDP

    source = environment.source
    if environment.kind == "host":
        with contextlib.closing(source()) as env:
            inner = env.unwrapped
            hidden, mdp = getattr(inner, "pomdp", None), getattr(inner, "mdp", None)
            if hidden is None and not isinstance(mdp, MDP) and hasattr(inner, "P"):
                mdp = MDP.from_gymnasium(env.env if isinstance(env, ActionMask) else env)
        source = None if hidden is not None else mdp
    mdp = source if isinstance(source, MDP) else getattr(source, "mdp", None)
    if not isinstance(mdp, MDP):
        raise ValueError(
            f"{environment.name} has no table of transitions between states that are seen, which a solver needs. Give "
            "an adv.MDP, an environment with one such as FrozenLake-v1 or jax/GridWorld4x4-v0, or learn with a method "
            "that needs none, such as q-learning or ppo."
        )
    return mdp
