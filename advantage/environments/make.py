"""Turn a name, class, function or object into an environment that can be stepped."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import importlib.util
import inspect
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import gymnasium
from gymnasium import error as gymnasium_error
from gymnasium.envs.registration import EnvSpec, load_env_creator

from advantage.environments.current_folder import EnvironmentsFolder
from advantage.environments.defect import MissingExtra, error_text, not_installed, show
from advantage.environments.environment import Environment, Maker, closing
from advantage.environments.left_bounds import LEAVE_THEIR_BOUNDS, without_bounds
from advantage.environments.masks import ActionMask
from advantage.environments.modifications import UNMODIFIED, Modifications, modified
from advantage.environments.vector_masks import masked_vector, refuse_unlike_vectors
from advantage.types import World

WORLDS = {  # name: file, and class or function
    "jax/Acrobot-v1": "acrobot:Acrobot",
    "jax/CartPole-v1": "cartpole:CartPole",
    "jax/CartPoleContinuous-v0": "cartpole:continuous_cart_pole",
    "jax/CartPoleSwingUp-v0": "cart_pole_swing_up:CartPoleSwingUp",
    "jax/Catch-v0": "catch:Catch",
    "jax/ConnectFour-v0": "line_game:connect_four",
    "jax/ConnectFour4x4-v0": "line_game:connect_four_4x4",
    "jax/ConnectFour5x4-v0": "line_game:connect_four_5x4",
    "jax/ConnectFour5x4Search-v0": "opponents:connect_four_5x4_search",
    "jax/ConnectFourRandom-v0": "opponents:connect_four_random",
    "jax/ConnectFourSearch-v0": "opponents:connect_four_search",
    "jax/MinBreakout-v0": "min_breakout:MinBreakout",
    "jax/MountainCar-v0": "mountain_car:MountainCar",
    "jax/MountainCarContinuous-v0": "mountain_car:mountain_car_continuous",
    "jax/Pendulum-v1": "pendulum:Pendulum",
    "jax/PendulumPixels-v0": "pendulum_pixels:PendulumPixels",
    "jax/StatelessCartPole-v1": "partial:stateless_cart_pole",
    "jax/StatelessPendulum-v1": "partial:stateless_pendulum",
    "jax/Testbed-v0": "testbed:Testbed",
    "jax/TicTacToe-v0": "line_game:tic_tac_toe",
    "jax/TicTacToePerfect-v0": "opponents:tic_tac_toe_perfect",
    "jax/TicTacToeRandom-v0": "opponents:tic_tac_toe_random",
    "jax/WastedActions-v0": "wasted_actions:WastedActions",
}
EXTRAS = {  # missing module: the extra that installs it
    "mujoco": "mujoco",
    "ale_py": "atari",
    "cv2": "atari",
    "Box2D": "box2d",
    "box2d": "box2d",
    "pygame": "classic",
    "imageio": "video",
    "imageio_ffmpeg": "video",
}


def make(environment: Any, **keywords: Any) -> Any:
    """One environment by name: a `gymnasium.Env`, or a world for names that begin with `jax/`.

    Raises:
        ValueError: an unknown name; lists the nearest ones.
        MissingExtra: the environment needs a package that is not installed.
    """
    resolved = resolve(environment)
    return resolved.source(**keywords) if resolved.kind == "host" else resolved.source


def resolve(environment: Any) -> Environment:
    """The `Environment` for a name, a class or function, a vector environment, a world or an `adv.MDP`.

    Raises:
        ValueError: an unknown name, or an object that is none of these.
    """
    if isinstance(environment, Environment):
        return environment
    if isinstance(environment, str):
        if environment.startswith("jax/"):
            return Environment(environment, "device", _world(environment), True)
        found = _find(environment)
        named: Any = NamedEnvironment(environment, found) if isinstance(found, EnvSpec) else found
        return Environment(environment, "host", Maker(named), True)
    if isinstance(environment, gymnasium.vector.VectorEnv):
        refuse_unlike_vectors(environment)
        name = environment.spec.id if environment.spec else type(environment.unwrapped).__name__
        return Environment(name, "vector", masked_vector(environment), False)
    if isinstance(environment, gymnasium.Env):
        raise ValueError(
            f"{environment!r} is one environment, and training makes as many as it needs; give its class, or a "
            "function that makes it: lambda: MyEnv(size=8)."
        )
    if isinstance(environment, World):
        if isinstance(environment, type):
            name = environment.__name__
            raise ValueError(f"{name} is the class of an on-device world; give an object of it: {name}().")
        return Environment(type(environment).__name__, "device", environment, False)
    if callable(environment):
        name, make = getattr(environment, "__qualname__", type(environment).__name__), cast(Any, environment)
        return Environment(name.replace("<", "").replace(">", ""), "host", Maker(make), False)

    from advantage.environments.tables.mdp import MDP, POMDP
    from advantage.environments.tables.world import world_of

    if isinstance(environment, MDP | POMDP):
        return Environment(type(environment).__name__, "device", world_of(environment), False)
    raise ValueError(
        f"{environment!r} is not an environment; give a name such as 'CartPole-v1' or 'jax/CartPole-v1', a "
        "gymnasium.Env class, a function that makes one, a gymnasium vector environment, an on-device world, or an "
        "adv.MDP."
    )


def word_for(name: str, modifications: Modifications = UNMODIFIED) -> list[str]:
    """The option that a command needs if the user has to allow a run's environment: `--env`, or `--trust`."""
    if modifications.runs_code:
        return ["--trust"]
    return ["--env", name] if ":" in name else []


def resolve_recorded(
    name: str, trust: bool = False, modifications: Modifications = UNMODIFIED
) -> Environment:
    """The environment that a run's config.json names. The file may be a stranger's and must not decide about imports.

    Without `trust`, a run can make a registered environment, one of ours (`jax/...`, `advantage/...`), one of Atari
    from an installed ale_py, and one of a package that this process has imported already.

    Args:
        name: the name in config.json.
        trust: whether the user allows the import of the package that the name contains, and the modifications.
        modifications: the keywords and wrappers that config.json records for it.

    Raises:
        ValueError: the name is unknown, or needs an import that is not allowed; says how to allow it.
    """
    package = _package(name)
    installed = name.startswith("ALE/") and package == "ale_py" and not _lies_here(package)
    if modifications.runs_code and not trust:
        words = shlex.join(["--env", name[:200], *modifications.flags()])[:600]
        raise ValueError(
            "The run was trained with keywords or wrappers of its environment, which its config.json records and which "
            "decide what code runs. If you trust the file, allow them with --trust (trust=True), or name all yourself: "
            f"{words}; in Python with environment=..., a function that makes it."
        )
    if trust or not package or package in sys.modules or installed:
        return modified(resolve(name), modifications)
    raise ValueError(
        f"The run needs the environment {name[:200]!r}. To make it, the package {package[:200]!r} must be imported, "
        "which runs the code in it. If you trust it, allow this with --trust, or name the environment yourself with "
        "--env NAME; in Python with trust=True, with environment=..., or by importing the package first."
    )


def needs_import(name: str) -> bool:
    """Whether an environment's name asks for the import of a package."""
    return bool(_package(name))


def _package(name: str) -> str:
    """The package that a name needs: that of `package:Env-v0`, and ale_py for Atari; else an empty string."""
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
            env = gymnasium.make(self.spec, disable_env_checker=True, **keywords)
        except (gymnasium_error.DependencyNotInstalled, ImportError) as error:
            raise missing_extra(self.name, error) from error
        return without_bounds(env) if self.spec.entry_point in LEAVE_THEIR_BOUNDS else env

    @property
    def __signature__(self) -> inspect.Signature:
        """The keywords of the environment's constructor and of `gymnasium.make`; any, if it cannot be imported."""
        try:
            made = self.spec.entry_point
            own = inspect.signature(load_env_creator(made) if isinstance(made, str) else cast(Any, made))
        except Exception:  # making the environment says why
            return inspect.signature(gymnasium.make)
        words = {**own.parameters, **inspect.signature(gymnasium.make).parameters}
        several = inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL
        allowed = [word for word in words.values() if word.kind not in several]
        rest = [word for word in own.parameters.values() if word.kind is inspect.Parameter.VAR_KEYWORD]
        given = "id", "disable_env_checker"  # by `__call__`
        only = [
            word.replace(kind=inspect.Parameter.KEYWORD_ONLY) for word in allowed if word.name not in given
        ]
        return inspect.Signature(only + rest)


def missing_extra(name: str, error: Exception) -> MissingExtra:
    """The error that says what to install, found from the module that could not be imported."""
    cause = error.__cause__ or error.__context__ or error
    module = getattr(cause, "name", None) or next((m for m in EXTRAS if m in str(error)), None)
    root = (module or "").split(".")[0]
    brings = f"advantage[{EXTRAS[root]}]" if root in EXTRAS else root or "the missing package"
    return not_installed(name, brings, error)


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


def _find(name: str) -> EnvSpec | Callable[..., gymnasium.Env]:
    """The registration of a name, after importing `package` from `package:Env-v0`; or what `package:Class` names."""
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
            f"The package of {name!r} cannot be imported ({error}); a name has the form package:Env-v0, where "
            "importing the package registers the environment, or package.module:ClassName. Run from the folder with "
            "the package, or install it."
        ) from None
    except (Exception, SystemExit) as error:
        raise ValueError(
            f"Importing the package {package!r} raised {error_text(error)}. Without it {name!r} cannot be "
            f"made; see where with: python -c 'import {package}'. Often another version of it, or of a package that it "
            "uses, is needed."
        ) from error
    try:
        return gymnasium.spec(registered)
    except gymnasium_error.Error:
        made: Any = getattr(sys.modules.get(package), registered, None)
        if callable(made):
            return cast(Callable[..., gymnasium.Env], made)
        if made is not None:
            raise ValueError(
                f"{registered!r} in the package {package!r} is {show(made)}, which makes no environment; name a class "
                "or a function that makes one, package.module:ClassName."
            ) from None
        if package:
            raise ValueError(_nothing_in(package, registered)) from None
        raise ValueError(_unknown(name, environment_names())) from None


def _nothing_in(package: str, wanted: str) -> str:
    """What a package has in place of an environment that it does not have."""
    there = [
        spec.id
        for spec in gymnasium.registry.values()
        if _module_of(spec.entry_point).partition(".")[0] == package.partition(".")[0]
    ]
    there += [
        key
        for key, value in vars(sys.modules[package]).items()
        if isinstance(value, type) and issubclass(value, gymnasium.Env)
    ]
    near = difflib.get_close_matches(wanted, there, n=4, cutoff=0.3) or there[:4]
    hint = (
        f"the nearest that it has are {', '.join(near)}"
        if near
        else "it registers none and has no gymnasium.Env"
    )
    return f"The package {package!r} has no environment {wanted!r}; {hint}."


def _module_of(entry_point: Any) -> str:
    """The module of an environment's constructor: Gymnasium takes `module:Class`, or the class itself."""
    return entry_point.partition(":")[0] if isinstance(entry_point, str) else str(entry_point.__module__)


def _register_tetris(name: str) -> str | None:
    """Register `advantage/Tetris-10x20-v0`, of any size, with Gymnasium; None for any other name."""
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
    hint = f"the nearest are {', '.join(near[:4])}" if near else "no name is similar"
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


def rules_of(environment: Environment) -> World | None:
    """The on-device world with the dynamics of an environment; None if there is none."""
    if environment.kind == "device":
        return cast(World, environment.source)
    make = environment.source.make if isinstance(environment.source, Maker) else None
    if (
        not isinstance(make, NamedEnvironment)
        or environment.source.frame_stack > 1
        or environment.source.observe_last
    ):
        return None
    name = f"jax/{environment.name.removeprefix('advantage/')}"
    return _world(name) if name in world_names() else None


def table_of(environment: Environment) -> Any:
    """The `MDP` behind an environment.

    Raises:
        ValueError: the environment has none; says how to give one.
    """
    from advantage.environments.tables.mdp import MDP

    source = environment.source
    if environment.kind == "host":
        with EnvironmentsFolder(), closing(source()) as env:
            inner = env.unwrapped
            hidden, mdp = getattr(inner, "pomdp", None), getattr(inner, "mdp", None)
            if hidden is None and not isinstance(mdp, MDP) and getattr(inner, "P", None) is not None:
                mdp = MDP.from_gymnasium(env.env if isinstance(env, ActionMask) else env)
        source = None if hidden is not None else mdp
    mdp = source if isinstance(source, MDP) else getattr(source, "mdp", None)
    if not isinstance(mdp, MDP):
        raise ValueError(
            f"{environment.name} has no table of transitions between observed states, which a solver needs. Give an "
            "adv.MDP or an environment with a table, such as FrozenLake-v1 or jax/GridWorld4x4-v0, or use an algorithm "
            "that needs no table, such as q-learning or ppo."
        )
    return mdp
