"""The command line. Nothing heavy is imported before a command needs it, so `advantage --help` answers at once."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NoReturn

HELP = """advantage: policy optimization on JAX

usage: advantage COMMAND ...

  train ALGORITHM ENVIRONMENT    train an agent           advantage train ppo CartPole-v1
  resume RUN                     continue a stopped run   advantage resume runs/...
  eval RUN                       play test episodes       advantage eval runs/... --episodes 100
  enjoy RUN                      watch an agent play      advantage enjoy runs/... --video out.mp4
  record RUN                     play episodes and write them to a file
  ope RUN FILE                   judge a policy by recorded episodes
  compare RUN...                 compare runs             advantage compare runs/ppo runs/a2c
  doctor RUN...                  find what is wrong with a run
  board [RUN...]                 watch runs in a browser  advantage board runs
  export RUN                     write a policy for other programs
  import-sb3 FILE ENVIRONMENT    take a policy of stable-baselines3
  experiment FILE                train a grid of runs     advantage experiment grid.toml
  tune ALGORITHM ENVIRONMENT     search for settings      advantage tune ppo CartPole-v1
  population ALGORITHM ENVIRONMENT
                                 train agents whose settings change while they learn
  lab SECTION                    measure estimators       advantage lab gradient
  check ENVIRONMENT              find what is wrong with an environment
  list                           list algorithms and environments
  completion SHELL               completion of commands and options in bash, zsh or fish

  advantage COMMAND --help       every option, with its default
  advantage --version

Environments are Gymnasium's names (CartPole-v1, package:MyEnv-v0) or on-device worlds (jax/CartPole-v1).
"""

# Each is a file in `commands/`, with `_` for `-`, with a function `command(arguments) -> exit code`.
COMMANDS = (
    "train",
    "resume",
    "eval",
    "enjoy",
    "record",
    "ope",
    "compare",
    "doctor",
    "board",
    "export",
    "import-sb3",
    "experiment",
    "tune",
    "population",
    "check",
    "lab",
    "list",
    "completion",
)


def run() -> NoReturn:
    """The program `advantage`: `main` in a process that Ctrl-C can end at any moment."""
    from advantage.cli.output import open_output
    from advantage.runs.interrupt import end_process, leaving

    os.environ.pop("JAX_ENABLE_X64", None)  # all is computed in single precision, or as a function says
    open_output(goes_on=sys.argv[1:2] in (["train"], ["tune"], ["population"], ["resume"], ["experiment"]))
    # Experiments and studies wait until their runs, in other processes, have saved; `enjoy` closes its video.
    clears_up = sys.argv[1:2] in (["experiment"], ["tune"], ["population"], ["enjoy"])
    with leaving(at_once=not clears_up, patience=60.0 if clears_up else 1.5):
        code = main()
    if code > 128:
        end_process(code)
    sys.exit(code)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns 0 if it worked, 1 if it failed, 2 if its arguments were wrong."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments[:1] == ["help"] and arguments[1:]:
        arguments = [*arguments[1:], "--help"]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP)
        return 0 if arguments else 2
    if arguments[0] in ("--version", "-V"):
        from advantage import __version__

        print(f"advantage {__version__}")
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        return _complain(
            f"There is no command {name!r}; there are: {', '.join(COMMANDS)}. See advantage --help.", 2
        )
    try:
        os.getcwd()
    except FileNotFoundError:
        return _complain(
            "The current folder has been deleted; change to another one and repeat the command.", 2
        )
    before, show = list(sys.path), warnings.showwarning
    sys.path[:] = filter(None, before)  # "" is the current folder, which `python -c` and a prompt have first
    warnings.showwarning = partial(_show_warning, show)
    try:
        module = importlib.import_module(f"advantage.cli.commands.{name.replace('-', '_')}")
        code = module.command(rest)
        sys.stdout.flush()
        return code
    except SystemExit as stop:
        if stop.code:
            raise
        return 0  # a command's help has been printed
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader has gone away
        return 1
    except Exception as error:
        return _explain(error)
    finally:
        sys.path[:], warnings.showwarning = before, show


def _show_warning(
    show: Callable[..., None], message: Warning, category: type[Warning], *place: Any, **also: Any
) -> None:
    """Print a warning of ours as a sentence, without a line of our source; those of others as Python does."""
    if category.__module__.partition(".")[0] == "advantage":
        print(f"Warning: {message}", file=sys.stderr)
    else:
        show(message, category, *place, **also)


def _explain(error: Exception) -> int:
    """Explain the error to the user in one paragraph; returns the exit code."""
    from advantage.cli.installed import older_than_needed
    from advantage.drivers.host.stepper import EnvironmentFailure
    from advantage.environments.defect import EnvironmentDefect
    from advantage.environments.make import MissingExtra
    from advantage.runs.checkpoint import CheckpointError
    from advantage.training.nonfinite import NonFiniteUpdate
    from advantage.tuning.storage import StudyFailure

    if isinstance(error, EnvironmentFailure) and error.__cause__ is not None:
        traceback.print_exception(error.__cause__)
        print(file=sys.stderr)
    named = EnvironmentDefect | EnvironmentFailure | CheckpointError | MissingExtra | NonFiniteUpdate
    if isinstance(error, named | StudyFailure):
        return _complain(str(error), 1)
    if isinstance(error, FileExistsError | FileNotFoundError | ValueError):
        return _complain(str(error), 2)
    if isinstance(error, OSError):
        return _complain(f"The operating system reported: {error}. The last checkpoint is unchanged.", 1)
    if os.environ.get("ADVANTAGE_DEBUG"):
        traceback.print_exception(error)
    return _complain(
        f"This should not have happened: {type(error).__name__}: {error}. Set ADVANTAGE_DEBUG=1 and run the same "
        f"command to see where. {older_than_needed()}".strip(),
        1,
    )


def _complain(text: str, code: int) -> int:
    print(f"advantage: {text}", file=sys.stderr)
    return code
