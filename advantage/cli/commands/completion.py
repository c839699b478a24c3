"""`advantage completion SHELL`: a script by which a shell completes commands, algorithms, environments and options."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence

from advantage.algorithms.registry import ALGORITHMS, default_algorithm
from advantage.cli import COMMANDS
from advantage.cli.commands.population import Population
from advantage.cli.commands.train import Train
from advantage.cli.commands.tune import Tune
from advantage.cli.parse import flag_names
from advantage.environments.make import environment_names
from advantage.training.options import Options

TRAINING = {"train": Train, "tune": Tune, "population": Population}  # ALGORITHM ENVIRONMENT

HELP = """usage: advantage completion SHELL

Print a script for bash, zsh or fish, which completes what you type after `advantage`:

  bash    advantage completion bash > ~/.local/share/bash-completion/completions/advantage
  zsh     advantage completion zsh >> ~/.zshrc
  fish    advantage completion fish > ~/.config/fish/completions/advantage.fish
"""

BASH = """_advantage() {{
  local word="${{COMP_WORDS[COMP_CWORD]}}" words=""
  case "$COMP_CWORD:${{COMP_WORDS[1]}}" in
    1:*) words="{commands}" ;;
    2:completion) words="bash zsh fish" ;;
    2:train|2:tune|2:population) words="{algorithms}" ;;
    3:train|3:tune|3:population) words="{environments}" ;;
    *:train) case "${{COMP_WORDS[2]}}" in
{train}
    esac ;;
    *:tune) case "${{COMP_WORDS[2]}}" in
{tune}
    esac ;;
    *:population) case "${{COMP_WORDS[2]}}" in
{population}
    esac ;;
{others}
  esac
  COMPREPLY=($(compgen -W "$words" -- "$word"))
  [[ ${{#COMPREPLY[@]}} -gt 0 ]] || COMPREPLY=($(compgen -f -- "$word"))
}}
complete -o filenames -F _advantage advantage
"""
ZSH = "autoload -U +X bashcompinit && bashcompinit\n"
FISH = """complete -c advantage -n __fish_is_first_token -f -a "{commands}"
complete -c advantage -n "__fish_seen_subcommand_from completion" -f -a "bash zsh fish"
complete -c advantage -n "__fish_seen_subcommand_from train tune population" -a "{algorithms} {environments}"
{options}
"""


def command(arguments: Sequence[str]) -> int:
    """Print the script for a shell; returns the exit code."""
    if {"--help", "-h"} & set(arguments):
        print(HELP, end="")
        return 0
    scripts = {"bash": bash_script, "zsh": lambda: ZSH + bash_script(), "fish": fish_script}
    if len(arguments) != 1 or arguments[0] not in scripts:
        raise ValueError(
            f"advantage completion needs one of {', '.join(scripts)}; see advantage completion --help."
        )
    print(scripts[arguments[0]](), end="")
    return 0


def bash_script() -> str:
    """A function for bash's programmable completion."""
    of_algorithms = {
        command: "\n".join(f'      {name}) words="{_joined(flags)}" ;;' for name, flags in of_command.items())
        for command, of_command in _flags_of_algorithms().items()
    }
    others = "\n".join(
        f'    *:{name}) words="{_joined(flags)}" ;;' for name, flags in _flags_of_commands().items()
    )
    return BASH.format(others=others, **of_algorithms, **_words())


def fish_script() -> str:
    """Lines for fish; those of an algorithm's options have its name as their condition."""
    places = {f"__fish_seen_subcommand_from {name}": flags for name, flags in _flags_of_commands().items()}
    places |= {
        f"__fish_seen_subcommand_from {command}; and __fish_seen_subcommand_from {name}": flags
        for command, of_command in _flags_of_algorithms().items()
        for name, flags in of_command.items()
    }
    lines = [
        f'complete -c advantage -n "{place}" -l {flag.removeprefix("--")}'
        for place, flags in places.items()
        for flag in flags
    ]
    return FISH.format(options="\n".join(lines), **_words())


def _words() -> dict[str, str]:
    return {
        "commands": _joined(COMMANDS),
        "algorithms": _joined(ALGORITHMS),
        "environments": _joined(environment_names()),
    }


def _flags_of_algorithms() -> dict[str, dict[str, list[str]]]:
    """The options of the commands that train an algorithm, by command and algorithm."""
    algorithms = {name: default_algorithm(name) for name in ALGORITHMS}
    return {
        command: {name: _flags(cls, cls(Options(), each)) for name, each in algorithms.items()}
        for command, cls in TRAINING.items()
    }


def _flags_of_commands() -> dict[str, list[str]]:
    """The options of each other command: the fields of the one dataclass in its file."""
    flags = {}
    for name in COMMANDS:
        module = importlib.import_module(f"advantage.cli.commands.{name.replace('-', '_')}")
        for cls in vars(module).values():
            if isinstance(cls, type) and cls.__module__ == module.__name__ and name not in TRAINING:
                flags[name] = _flags(cls)
    return flags


def _flags(cls: type, default: object | None = None) -> list[str]:
    return ["--" + name.replace("_", "-") for name in sorted(flag_names(cls, default))]


def _joined(words: Iterable[str]) -> str:
    return " ".join(words)
