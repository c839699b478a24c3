"""What a shell completes, asked of bash itself; the commands, their classes of flags, and their help."""

import subprocess

import pytest

from advantage.algorithms.registry import ALGORITHMS, default_algorithm, hyperparameters_of
from advantage.cli import COMMANDS, HELP, main
from advantage.cli.commands.completion import bash_script, fish_script


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("completion") / "advantage.bash"
    path.write_text(bash_script())
    return path


def completed(script, *words):
    """What bash offers for the last word."""
    line = " ".join(f"'{word}'" for word in words)
    program = f'source {script}; COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _advantage; echo "${{COMPREPLY[@]}}"'
    shell = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True)
    return shell.stdout.split()


def test_bash_completes_what_is_typed(script, tmp_path, monkeypatch):
    assert completed(script, "advantage", "") == list(COMMANDS)
    assert completed(script, "advantage", "tr") == ["train"]
    assert completed(script, "advantage", "train", "pp") == ["ppo"]
    assert completed(script, "advantage", "train", "") == list(ALGORITHMS)
    assert "jax/CartPole-v1" in completed(script, "advantage", "train", "ppo", "jax/C")
    assert completed(script, "advantage", "train", "ppo", "x", "--clip-ra") == [
        "--clip-range",
        "--clip-range-vf",
    ]
    assert completed(script, "advantage", "train", "dqn", "x", "--clip-ra") == []
    assert completed(script, "advantage", "resume", "run", "--total") == ["--total-timesteps"]
    (tmp_path / "my-run").mkdir()
    monkeypatch.chdir(tmp_path)
    assert completed(script, "advantage", "eval", "my") == ["my-run"]


def test_fish_has_every_option_of_every_algorithm():
    lines = set(fish_script().splitlines())
    for name in ALGORITHMS:
        place = f"__fish_seen_subcommand_from train; and __fish_seen_subcommand_from {name}"
        for option in hyperparameters_of(default_algorithm(name)):
            assert f'complete -c advantage -n "{place}" -l {option.replace("_", "-")}' in lines


def test_every_command_is_in_the_help_and_its_options_are_completed(script):
    for name in COMMANDS:
        assert f"\n  {name} " in HELP, name
    without = {name for name in COMMANDS if not completed(script, "advantage", name, "ppo", "x", "--")}
    assert without == {"list", "completion"}


@pytest.mark.parametrize("words", [[], ["tcsh"], ["bash", "zsh"]])
def test_another_shell_is_answered_with_those_that_there_are(words, capsys):
    assert main(["completion", *words]) == 2
    assert "needs one of bash, zsh, fish" in capsys.readouterr().err


def test_zsh_uses_the_script_of_bash(capsys):
    assert main(["completion", "zsh"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("autoload -U +X bashcompinit") and said.endswith(bash_script())
