"""An agent on film: episodes in a window, or in a GIF or MP4 file."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
from gymnasium.error import DependencyNotInstalled

from advantage.agent import Agent
from advantage.drivers.host.stepper import failure
from advantage.environments.current_folder import EnvironmentsFolder
from advantage.environments.defect import error_text
from advantage.environments.environment import Environment, close
from advantage.environments.make import MissingExtra, missing_extra
from advantage.evaluation import environment_of, play_episodes
from advantage.runs.video import CannotDraw, Video


def watch(
    agent: Agent,
    environment: Environment,
    video: Path | None,
    *,
    episodes: int = 1,
    seed: int = 0,
    deterministic: bool = True,
) -> Iterator[tuple[float, int, bool]]:
    """The episodes of an evaluation, one after another, in a window or in the file `video` (.gif or .mp4).

    Yields:
        return, length, and whether the episode ended by itself. The file is complete after the last one.

    Raises:
        ValueError: the environment cannot draw itself, or there is no screen for a window.
        MissingExtra: a package that drawing needs is not installed.
    """
    drawn, video = drawable(agent, environment), video and video.absolute()
    _prepare_display(to_file=video is not None)
    options = {"episodes": episodes, "seed": seed, "deterministic": deterministic}
    with EnvironmentsFolder():
        yield from _watch(agent, drawn, video, options)


def _watch(
    agent: Agent, drawn: Environment, video: Path | None, options: dict[str, Any]
) -> Iterator[tuple[float, int, bool]]:
    env = film = None
    try:
        env = open_for_drawing(drawn, "human" if video is None else "rgb_array")
        if video is not None:
            film = Video(video, _metadata(env).get("render_fps") or 30)
        yield from play_episodes(agent, env, drawn.name, on_step=film.add if film else None, **options)
    except MissingExtra:
        raise
    except (DependencyNotInstalled, ImportError) as error:
        raise missing_extra(f"Watching {drawn.name}", error) from error
    except CannotDraw as error:
        raise _no_picture(drawn, str(error)) from None
    finally:
        if env is not None:
            close(env)
        if film is not None:
            film.close()


def drawable(agent: Agent, environment: Environment) -> Environment:
    """The environment itself, or for an on-device world Gymnasium's environment with the same dynamics.

    Raises:
        ValueError: the world has no such environment, or a vector environment was given.
    """
    if environment.kind == "vector":
        raise ValueError(
            f"{environment.name} is a vector environment, which cannot be watched; give a single one."
        )
    if environment.kind != "device":
        return environment
    if environment.source.gymnasium_id is None:
        raise ValueError(
            f"{environment.name} cannot be rendered; use --env with a Gymnasium environment of the same spaces."
        )
    return environment_of(agent, environment.source.gymnasium_id)


def open_for_drawing(environment: Environment, mode: str) -> gymnasium.Env:
    """The environment with a render mode. Raises ValueError if it does not have that mode."""
    try:
        return environment.source(render_mode=mode)
    except (MissingExtra, DependencyNotInstalled, ImportError):
        raise
    except (Exception, SystemExit) as error:
        try:
            env = environment.source()  # its own error, if it cannot be made at all
        except SystemExit as stop:
            raise failure(environment.name, "making it", stop) from stop
        modes = _metadata(env).get("render_modes") or ()
        close(env)
        said = f"it was made with render_mode={mode!r} and raised {error_text(error)}"
        there = f"its metadata['render_modes'] are {list(modes)}, without {mode!r}"
        raise _no_picture(environment, said if mode in modes else there) from None


def _metadata(env: gymnasium.Env) -> dict[str, Any]:
    """What an environment says of itself, which may be None where it was written for an older interface."""
    return env.metadata or {}


def _no_picture(environment: Environment, reason: str) -> ValueError:
    return ValueError(
        f"{environment.name} cannot be watched: {' '.join(reason.split())}. A film needs an environment that is made "
        "with render_mode='rgb_array' and whose render() returns an array of height, width and 3 colours, which are "
        "whole numbers from 0 to 255; a window, render_mode='human'. Use --env with such an environment of the same "
        "spaces, or advantage eval for the returns."
    )


def _prepare_display(to_file: bool) -> None:
    """Let environments render into a file without a screen; raise ValueError if a window has no screen."""
    screen = sys.platform != "linux" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if to_file:
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
        if not screen:
            os.environ.setdefault("MUJOCO_GL", "egl")
    elif not screen and "SDL_VIDEODRIVER" not in os.environ:
        raise ValueError("There is no screen to open a window on; write a file instead: --video play.mp4")
