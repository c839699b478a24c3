"""`advantage enjoy RUN`: watch an agent play, in a window or in a file."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import gymnasium
from gymnasium.error import DependencyNotInstalled

from advantage.agent import Agent
from advantage.cli.parse import parse
from advantage.cli.play import Play, agent_and_environment
from advantage.drivers.host.stepper import failure
from advantage.environments.defect import error_text
from advantage.environments.environment import Environment, close
from advantage.environments.make import MissingExtra, missing_extra
from advantage.evaluation import check_request, environment_of, play_episodes
from advantage.runs.video import CannotDraw, Video


@dataclasses.dataclass(frozen=True)
class Enjoy(Play):
    """Watch an agent play."""

    video: Path | None = None
    """Write a .gif or .mp4 instead of opening a window."""


def command(arguments: Sequence[str]) -> int:
    """Show a run's agent; returns the exit code."""
    (path,), flags = parse(arguments, "enjoy RUN", Enjoy)
    check_request(flags.episodes, flags.seed)
    agent, environment = agent_and_environment(path, flags)
    environment = _with_picture(agent, environment)
    _prepare_display(to_file=flags.video is not None)
    env = _drawing(environment, "human" if flags.video is None else "rgb_array")
    video = None
    try:
        if flags.video is not None:
            video = Video(flags.video, _metadata(env).get("render_fps") or 30)
        on_step = video.add if video else None
        played = play_episodes(agent, env, environment.name, on_step=on_step, **flags.options)
        for number, (total, length, _) in enumerate(played):
            print(f"episode {number}: return {total:.2f}, length {length}")
    except (DependencyNotInstalled, ImportError) as error:
        raise missing_extra(f"Watching {environment.name}", error) from error
    except CannotDraw as error:
        raise _no_picture(environment, str(error)) from None
    finally:
        close(env)
        if video is not None:
            video.close()
    if video is not None:
        print(f"Wrote {video.frames} frames to {video.path}")
    return 0


def _with_picture(agent: Agent, environment: Environment) -> Environment:
    """The environment itself, or for an on-device world Gymnasium's environment with the same dynamics."""
    if environment.kind != "device":
        return environment
    if environment.source.gymnasium_id is None:
        raise ValueError(
            f"{environment.name} cannot be rendered; use --env with a Gymnasium environment of the same spaces."
        )
    return environment_of(agent, environment.source.gymnasium_id)


def _drawing(environment: Environment, mode: str) -> gymnasium.Env:
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


def _metadata(env: gymnasium.Env) -> dict:
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
