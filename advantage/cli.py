"""The command line. Nothing heavy is imported before a command needs it, so `advantage --help` answers at once."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import os
import re
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, get_args

HELP = """advantage: policy optimization on JAX

usage: advantage COMMAND ...

  train ALGORITHM ENVIRONMENT    train an agent           advantage train ppo CartPole-v1
  resume RUN                     go on where it stopped   advantage resume runs/...
  eval RUN                       play episodes, report    advantage eval runs/... --episodes 100
  enjoy RUN                      watch it play            advantage enjoy runs/... --video out.mp4
  compare RUN...                 runs beside each other   advantage compare runs/ppo runs/a2c
  experiment FILE                train a declared grid    advantage experiment grid.toml
  lab SECTION                    estimators, measured     advantage lab gradient
  check ENVIRONMENT              find what is wrong with an environment
  list                           algorithms and environments found

  advantage COMMAND --help       every option, with its default
  advantage --version

Environments are Gymnasium's names (CartPole-v1, package:MyEnv-v0) or on-device worlds (jax/CartPole-v1).
"""


def run() -> NoReturn:
    """The program `advantage`: `main` in a process that Ctrl-C ends at every moment."""
    from advantage.runs.interrupt import end_process, leaving

    # An experiment waits for its runs, which save, each in a process of its own; a film is closed.
    clears_up = sys.argv[1:2] in (["experiment"], ["enjoy"])
    with leaving(at_once=not clears_up, patience=60.0 if clears_up else 1.5):
        code = main()
    if code > 128:
        end_process(code)
    sys.exit(code)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command: 0 when it worked, 1 when it failed, 2 when it was called wrongly."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
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
    before = list(sys.path)
    sys.path[:] = filter(None, before)  # "" is the current folder, which `python -c` and a prompt have first
    try:
        return COMMANDS[name](rest) or 0
    except _Helped:
        return 0
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        return _explain(error)
    finally:
        sys.path[:] = before


def _find_here(*names: str | None, trust: bool = False) -> None:
    """Let packages of the current folder be found, after all others, if the user's own words name one to import.

    Where a run's config.json alone says what is needed, nothing comes from there.
    """
    if trust or any(":" in name for name in names if name):
        sys.path.append(os.getcwd())


def _explain(error: Exception) -> int:
    """One paragraph for a person, and the exit code."""
    from advantage.drivers.host.stepper import EnvironmentFailure
    from advantage.environments.check import EnvironmentDefect
    from advantage.environments.make import MissingExtra
    from advantage.runs.checkpoint import CheckpointError
    from advantage.training.nonfinite import NonFiniteUpdate

    if isinstance(error, EnvironmentFailure) and error.__cause__ is not None:
        traceback.print_exception(error.__cause__)
        print(file=sys.stderr)
    if isinstance(
        error, EnvironmentDefect | EnvironmentFailure | CheckpointError | MissingExtra | NonFiniteUpdate
    ):
        return _complain(str(error), 1)
    if isinstance(error, FileExistsError | FileNotFoundError | ValueError):
        return _complain(str(error), 2)
    if isinstance(error, OSError):
        return _complain(f"The operating system refused: {error}. The last checkpoint is as it was.", 1)
    if os.environ.get("ADVANTAGE_DEBUG"):
        traceback.print_exception(error)
    return _complain(
        f"This should not have happened: {type(error).__name__}: {error}. Set ADVANTAGE_DEBUG=1 and run the same "
        "command to see where.",
        1,
    )


def _complain(text: str, code: int) -> int:
    print(f"advantage: {text}", file=sys.stderr)
    return code


def _parse(
    command: str, positional: Sequence[str], cls: Any, arguments: Sequence[str]
) -> tuple[list[str], Any]:
    """Leading positional arguments, then the flags of a dataclass."""
    import tyro

    leading = []
    for argument in arguments:
        if argument.startswith("-") or len(leading) == len(positional):
            break
        leading.append(argument)
    rest = list(arguments[len(leading) :])
    wants_help = "--help" in rest or "-h" in rest
    if len(leading) < len(positional) and not wants_help:
        missing = " ".join(positional[len(leading) :])
        raise ValueError(
            f"advantage {command} needs {missing}: advantage {command} {' '.join(positional)} [options]."
        )
    program = " ".join(["advantage", command, *(leading or positional)])
    config = (tyro.conf.OmitArgPrefixes, tyro.conf.SuppressFixed)
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return leading, tyro.cli(cls, prog=program, args=rest, config=config, registry=_registry())
    except SystemExit as stop:
        if not stop.code:
            raise _Helped from None
        raise ValueError(_paragraph(complaint.getvalue())) from None


class _Helped(BaseException):
    """The argument parser has printed its help."""


def _paragraph(box: str) -> str:
    """What the argument parser drew into a box: without the box and its title, and without line breaks."""
    _title, *lines = [re.sub("[│╭╮╰╯─]", " ", line).strip() for line in box.splitlines()]
    parts = "\n".join(line if line.strip("-") else "" for line in lines).strip().split("\n\n")
    sentences = [" ".join(part.split()).rstrip(".") + "." for part in parts]
    sentences[0] = re.sub(r"^Error parsing (?!--)\S+: ", "", sentences[0])
    return " ".join(re.sub(r"^For full helptext, (run|see)", "See", sentence) for sentence in sentences)


def _registry() -> Any:
    """How the flag of a schedule is written: `3e-4`, `linear:3e-4` or `linear:3e-4:1e-5`."""
    import tyro

    from advantage.algorithms.hyperparameters import Linear

    registry = tyro.constructors.ConstructorRegistry()

    @registry.primitive_rule
    def schedule(info: Any) -> Any:
        options = get_args(info.type)
        if Linear not in options:
            return None
        none = type(None) in options

        def read(texts: list[str]) -> Any:
            (text,) = texts
            if none and text.lower() == "none":
                return None
            kind, *numbers = text.split(":") if text.startswith("linear:") else ("", text)
            try:
                values = [float(number) for number in numbers]
            except ValueError:
                values = []
            if not 1 <= len(values) <= 2:
                raise ValueError(
                    f"{text!r} is neither a number nor a schedule such as linear:3e-4 or linear:3e-4:1e-5"
                )
            return Linear(*values) if kind else values[0]

        def show(value: Any) -> list[str]:
            return [f"linear:{value.start}:{value.end}" if isinstance(value, Linear) else str(value)]

        return tyro.constructors.PrimitiveConstructorSpec(
            nargs=1,
            metavar="FLOAT|linear:START:END" + "|None" * none,
            instance_from_str=read,
            is_instance=lambda value: (
                value is None or isinstance(value, int | float | Linear) or callable(value)
            ),
            str_from_instance=show,
        )

    return registry


def train(arguments: Sequence[str]) -> int:
    """Train an agent and leave a run folder."""
    from advantage.algorithms.registry import ALGORITHMS, default_algorithm
    from advantage.algorithms.search.policy_search import PolicySearch
    from advantage.training.options import Options
    from advantage.training.train import train as run_training

    leading = list(itertools.takewhile(lambda argument: not argument.startswith("-"), arguments))[:2]
    wanted, environment = [*leading, None, None][:2]
    chosen, default, options = None, default_algorithm(wanted or next(iter(ALGORITHMS))), {}
    if wanted and environment:
        chosen, default, options = _preset(wanted, environment, arguments)
    group = "search" if isinstance(default, PolicySearch) else (wanted or "algorithm").replace("-", "_")
    fields = [
        ("run", Options, dataclasses.field(default_factory=lambda: Options(**options))),
        (group, type(default), dataclasses.field(default_factory=lambda: default)),
        ("preset", str, "auto"),
        ("out", Path | None, None),
        ("root", Path, Path("runs")),
        ("quiet", bool, False),
    ]
    flags = dataclasses.make_dataclass("Train", fields)
    flags.__doc__ = f"""Train {wanted or "ALGORITHM"} on an environment.

    Args:
        preset: Tuned settings in place of the defaults: auto takes the environment's own, if there are some, none
            takes no preset, and the name of an environment takes that one's. Options given beside it win.
        out: The run folder; a new one below root if not given.
        root: Where new run folders go.
        quiet: Print nothing but errors.
    """
    try:
        (_, environment), parsed = _parse("train", ["ALGORITHM", "ENVIRONMENT"], flags, arguments)
    except ValueError as error:
        raise ValueError(f"{error}{_who_has(str(error), wanted)}") from None
    _find_here(environment)
    notice = f"Defaults from the preset for {chosen} (--preset none for {wanted}'s own)." if chosen else ""
    runs = run_training(
        getattr(parsed, group),
        environment,
        out=parsed.out,
        root=parsed.root,
        reporter=_reporter(parsed.quiet, notice),
        **vars(parsed.run),
    )
    if not parsed.quiet:
        _summarise(runs if isinstance(runs, list) else [runs])
    return 0


def _who_has(complaint: str, wanted: str | None) -> str:
    """Which algorithms have an option that this one lacks, as a sentence."""
    from advantage.algorithms.registry import ALGORITHMS, default_algorithm, hyperparameters_of

    unknown = re.search(r"Unrecognized options: --([\w-]+)", complaint)
    if not unknown:
        return ""
    option = unknown[1].removeprefix("no-").replace("-", "_")
    having = [name for name in ALGORITHMS if option in hyperparameters_of(default_algorithm(name))]
    return f" {wanted} has no --{unknown[1]}; it is an option of {', '.join(having)}." if having else ""


def _preset(
    algorithm: str, environment: str, arguments: Sequence[str]
) -> tuple[str | None, Any, dict[str, Any]]:
    """Where the defaults come from, the algorithm's and the run's."""
    from advantage.algorithms.presets import preset, presets
    from advantage.algorithms.registry import default_algorithm

    wish = "auto"
    for place, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name == "--preset":
            wish = value if equals else "".join(arguments[place + 1 : place + 2])
    name = environment.removeprefix("jax/") if wish == "auto" else wish.removeprefix("jax/")
    if wish == "none" or (wish == "auto" and name not in presets(algorithm)):
        return None, default_algorithm(algorithm), {}
    tuned = preset(algorithm, name)
    return name, tuned.algorithm, tuned.options


def resume(arguments: Sequence[str]) -> int:
    """Go on with a run."""
    from advantage.training.train import resume as resume_training

    fields = [("total_timesteps", int | None, None), ("env", str | None, None), ("trust", bool, False)]
    flags = dataclasses.make_dataclass("Resume", [*fields, ("quiet", bool, False)])
    flags.__doc__ = """Go on with a run from its last checkpoint, as if it had never stopped.

    Args:
        total_timesteps: A new budget in environment steps; the old one if not given.
        env: The environment, in place of the name that the run has recorded.
        trust: Import the package that the run's environment comes from.
        quiet: Print nothing but errors.
    """
    (path,), parsed = _parse("resume", ["RUN"], flags, arguments)
    _find_here(parsed.env, trust=parsed.trust)
    run = resume_training(
        path,
        total_timesteps=parsed.total_timesteps,
        environment=parsed.env,
        reporter=_reporter(parsed.quiet),
        trust=parsed.trust,
    )
    if not parsed.quiet:
        _summarise([run])
    return 0


def _play_flags(name: str, extra: list[tuple]) -> type:
    shared = [("env", str | None, None), ("episodes", int, 10), ("seed", int, 0), ("stochastic", bool, False)]
    return dataclasses.make_dataclass(name, [*shared, ("trust", bool, False), *extra])


PLAY_HELP = """
    Args:
        env: Another environment than the one it was trained on.
        episodes: How many to play.
        seed: Of the episodes; the same seed gives the same episodes.
        stochastic: Draw actions from the policy instead of taking the most likely.
        trust: Import the package that the run's environment comes from.
"""


def evaluate(arguments: Sequence[str]) -> int:
    """Play episodes and report each."""
    from advantage.evaluation import environment_of, load, other_agents
    from advantage.evaluation import evaluate as run_evaluation
    from advantage.runs.compilation import enable_compilation_cache

    flags = _play_flags("Eval", [("json", bool, False)])
    flags.__doc__ = (
        f"Play episodes and report them.\n{PLAY_HELP}        json: Print one JSON object instead of lines.\n"
    )
    (path,), parsed = _parse("eval", ["RUN"], flags, arguments)
    _find_here(parsed.env, trust=parsed.trust)
    enable_compilation_cache()
    options = {"episodes": parsed.episodes, "seed": parsed.seed, "deterministic": not parsed.stochastic}
    agent = load(path)
    target = environment_of(agent, parsed.env, parsed.trust)
    result = run_evaluation(agent, target, **options)
    others = {name: run_evaluation(other, target, **options) for name, other in other_agents(agent).items()}
    if parsed.json:
        import json

        rows = {"returns": result.returns.tolist(), "lengths": result.lengths.tolist(), "cut": result.cut}
        also = {f"{name}_candidate": other.mean for name, other in others.items()}
        print(json.dumps(rows | {"mean": result.mean, "std": result.std} | also | options))
        return 0
    for number, (total, length) in enumerate(zip(result.returns, result.lengths, strict=True)):
        print(f"episode {number}: return {total:.2f}, length {length}")
    print(result)
    for name, other in others.items():
        print(f"{name} candidate: {other}")
    return 0


def enjoy(arguments: Sequence[str]) -> int:
    """Watch an agent play, in a window or in a file."""
    from gymnasium.error import DependencyNotInstalled

    from advantage.environments.make import missing_extra, resolve
    from advantage.evaluation import check_request, environment_of, load, play_episodes
    from advantage.runs.compilation import enable_compilation_cache
    from advantage.runs.video import Video

    flags = _play_flags("Enjoy", [("video", Path | None, None)])
    flags.__doc__ = (
        f"Watch an agent play.\n{PLAY_HELP}        video: Write a .gif or .mp4 instead of opening a window.\n"
    )
    (path,), parsed = _parse("enjoy", ["RUN"], flags, arguments)
    _find_here(parsed.env, trust=parsed.trust)
    check_request(parsed.episodes, parsed.seed)
    enable_compilation_cache()
    agent = load(path)
    target = environment_of(agent, parsed.env, parsed.trust)
    if target.kind == "device":
        if target.source.gymnasium_id is None:
            raise ValueError(
                f"{target.name} has no picture; use --env with a Gymnasium environment of the same spaces."
            )
        target = resolve(target.source.gymnasium_id)  # the same dynamics, with a renderer
    _prepare_display(to_file=parsed.video is not None)
    env = target.source(render_mode="human" if parsed.video is None else "rgb_array")
    video = None
    try:
        if parsed.video is not None:
            video = Video(parsed.video, env.metadata.get("render_fps") or 30)
        options = {"episodes": parsed.episodes, "seed": parsed.seed, "deterministic": not parsed.stochastic}
        played = play_episodes(agent, env, target.name, on_step=video.add if video else None, **options)
        for number, (total, length, _) in enumerate(played):
            print(f"episode {number}: return {total:.2f}, length {length}")
    except (DependencyNotInstalled, ImportError) as error:
        raise missing_extra(f"Watching {target.name}", error) from error
    finally:
        env.close()
        if video is not None:
            video.close()
    if video is not None:
        print(f"Wrote {video.frames} frames to {video.path}")
    return 0


def _prepare_display(to_file: bool) -> None:
    """Let environments draw without a screen into a file, and say early that a window needs one."""
    screen = sys.platform != "linux" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if to_file:
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
        if not screen:
            os.environ.setdefault("MUJOCO_GL", "egl")
    elif not screen and "SDL_VIDEODRIVER" not in os.environ:
        raise ValueError("There is no screen to open a window on; write a file instead: --video play.mp4")


def compare(arguments: Sequence[str]) -> int:
    """Put runs beside each other, with intervals over their seeds."""
    from advantage.comparison.compare import compare as compare_runs

    fields = [("out", Path | None, None), ("threshold", float | None, None)]
    fields += [("environment", str | None, None), ("json", bool, False)]
    flags = dataclasses.make_dataclass("Compare", fields)
    flags.__doc__ = """Compare runs of one environment: curves, final scores, who is better how often, and how soon.

    RUN is a run folder, a folder of run folders, or a pattern. Runs that differ in their seed alone belong together;
    intervals need three seeds or more. Runs that cannot be used are listed, and the others are compared.

    Args:
        out: Where comparison.html, comparison.png and comparison.csv go; by default a new folder comparison.
        threshold: A return; tells after how many steps and seconds it was reached.
        environment: Compare the runs of this one only.
        json: Print one JSON object instead of tables.
    """
    runs = list(itertools.takewhile(lambda argument: not argument.startswith("-"), arguments))
    runs, parsed = _parse("compare", runs or ["RUN..."], flags, arguments)
    result = compare_runs(runs, threshold=parsed.threshold, environment=parsed.environment)
    files, missing = result.write(parsed.out)
    if parsed.json:
        import json

        print(json.dumps(result.to_json() | {"files": [str(file) for file in files]}))
        return 0
    _show(result)
    for line in (
        *(f"Note: {note}" for note in result.notes),
        *missing,
        f"Wrote {', '.join(map(str, files))}",
    ):
        print(line)
    return 0


def _show(result: Any) -> None:
    """The tables of a comparison."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    console.print(f"Comparison on {result.environment}", highlight=False, markup=False)
    for table in result.tables():
        shown = Table(
            box=SIMPLE_HEAD, title=Text(table.title), title_justify="left", title_style="bold", pad_edge=False
        )
        for name, numeric in zip(table.header, table.numeric, strict=True):
            shown.add_column(Text(name), overflow="fold", justify="right" if numeric else "left")
        for row in table.rows:
            shown.add_row(*map(Text, row))
        console.print(shown)


def experiment(arguments: Sequence[str]) -> int:
    """Train a declared grid over the cores."""
    from advantage.experiment import run_experiment

    flags = dataclasses.make_dataclass("Experiment", [("processes", int | None, None)])
    flags.__doc__ = """Train every run that a TOML file declares and that has not finished; go on where it stopped.

    Args:
        processes: How many runs at once; by default as many as there are cores.
    """
    (file,), parsed = _parse("experiment", ["FILE"], flags, arguments)
    _find_here(trust=True)  # the file is the user's word
    outcome = run_experiment(file, processes=parsed.processes, say=lambda text: print(text, flush=True))
    print(f"\n{len(outcome.finished)} runs have finished, {len(outcome.failed)} failed.")
    for path, error in outcome.failed.items():
        print(f"  {path}: {error}")
    if outcome.failed:
        print("The same command tries the failed ones again.")
    for command in outcome.commands:
        print(f"Next: {command}")
    return 1 if outcome.failed else 0


def check(arguments: Sequence[str]) -> int:
    """Find what is wrong with an environment."""
    from advantage.environments.check import check_environment, describe
    from advantage.environments.make import resolve
    from advantage.policies.interface import describe_interface, large_layers

    flags = dataclasses.make_dataclass("Check", [("steps", int, 200), ("seed", int, 0)])
    flags.__doc__ = """Find what is wrong with an environment.

    Args:
        steps: Random steps to take.
        seed: Of the resets and the actions.
    """
    (name,), parsed = _parse("check", ["ENVIRONMENT"], flags, arguments)
    _find_here(name)
    for option, low in (("steps", 1), ("seed", 0)):
        if getattr(parsed, option) < low:
            raise ValueError(f"{option}={getattr(parsed, option)} is not allowed; use {low} or more.")
    target = resolve(name)
    if target.kind == "device":
        raise ValueError(f"{name} is an on-device world; check looks at Gymnasium environments.")
    defects = check_environment(target.source, steps=parsed.steps, seed=parsed.seed)
    errors = [defect for defect in defects if defect.severity == "error"]
    for defect in defects:
        print(f"{defect.severity}: {defect}\n")
    if errors:
        print(f"{name}: {len(errors)} error{'s' * (len(errors) > 1)}, {len(defects) - len(errors)} warnings.")
        return 1
    env = target.source()
    for label, fact in describe(env):
        print(f"{label:>16}: {fact}")
    for text in describe_interface(env.observation_space, env.action_space, "bounds"):
        print(f"{'policy':>16}: {text}")
    for text in large_layers(env.observation_space):
        print(f"{'note':>16}: {text}")
    env.close()
    print(f"{name} is ready to train on" + (f", with {len(defects)} warnings." if defects else "."))
    return 0


def list_everything(arguments: Sequence[str]) -> int:
    """Algorithms and environments found."""
    from advantage.algorithms.presets import presets
    from advantage.algorithms.registry import ALGORITHMS, algorithm_class
    from advantage.environments.make import environment_names

    if arguments:
        raise ValueError(f"advantage list takes no arguments; it was given {' '.join(arguments)}.")
    width = max(map(len, ALGORITHMS))
    print("Algorithms")
    for name in ALGORITHMS:
        print(f"  {name:<{width}}  {(algorithm_class(name).__doc__ or '').strip().splitlines()[0]}")
    print("\nPresets, used by `advantage train` unless --preset none is given")
    for name in filter(presets, ALGORITHMS):
        print(f"  {name:<{width}}  {', '.join(presets(name))}")
    print("\nEnvironments")
    for name in environment_names():
        print(f"  {name}")
    print("\nand any other that Gymnasium knows: package:MyEnv-v0 imports `package` first.")
    return 0


def _reporter(quiet: bool, notice: str = "") -> Any:
    from advantage.runs.terminal import Quiet, Terminal

    if quiet:
        return Quiet()

    return Terminal(notice=notice)


def _summarise(runs: list[Any]) -> None:
    """What happened, where the files are, what to type next."""
    from advantage.algorithms.dynamic_programming.planner import Planner
    from advantage.environments.make import word_for
    from advantage.runs.folder import RunFolder, read_config

    unit = "iterations" if isinstance(runs[0].algorithm, Planner) else "steps"
    for run in runs:
        folder = RunFolder(run.path)
        curve = f"  curve       {folder.curve_path}\n" if folder.curve_path.exists() else ""
        curve += f"  policy      {folder.policy_path}\n" if folder.policy_path.exists() else ""
        result = f": {run.evaluation}" if run.evaluation is not None else ""
        print(
            f"\nSeed {run.seed}: {run.step:,} {unit}{result}\n{curve}"
            f"  numbers     {folder.progress_path}, {folder.episodes_path}\n"
            f"  checkpoint  {folder.last}"
        )
    path, video = (
        shlex.quote(str(name)) for name in (runs[0].path, RunFolder(runs[0].path).videos / "play.mp4")
    )
    named = (
        f" {shlex.join(word)}"
        if (word := word_for(str(read_config(RunFolder(runs[0].path))["environment"])))
        else ""
    )
    print(
        f"\nNext: advantage eval {path} --episodes 100{named}\n      advantage enjoy {path} --video {video}{named}"
    )


SECTIONS = ("gradient", "advantage", "off-policy", "quadratic")


def lab(arguments: Sequence[str]) -> int:
    """Measure estimators against exact answers."""
    section = next((argument for argument in arguments[:1] if not argument.startswith("-")), "")
    if section and section not in (*SECTIONS, "report"):
        raise ValueError(
            f"There is no section {section!r}; there are {', '.join(SECTIONS)}, and report for all."
        )
    flags = dataclasses.make_dataclass(
        "Lab",
        [
            ("world", str, "random"),
            ("policy", str, "random"),
            ("n_states", int, 50),
            ("n_actions", int, 4),
            ("gamma", float | None, None),
            ("horizon", int | None, None),
            ("episodes", int, 10_000),
            ("value_error", float, 0.5),
            ("discount_weighting", bool, True),
            ("seed", int, 0),
            ("out", Path, Path("lab")),
        ],
    )
    flags.__doc__ = """Measure estimators against exact answers: bias, variance, direction and cost.

    Args:
        world: A finite world such as jax/RandomWalk-v0 or FrozenLake-v1, or random.
        policy: Whose gradient: random or uniform, or a run folder of an agent trained on this world.
        n_states: Of a random world.
        n_actions: Of a random world.
        gamma: Discount per step; the world's own if not given.
        horizon: Steps after which an episode ends, at most 50 if not given.
        episodes: How many are drawn for each figure.
        value_error: What the critic is off by, in units of the spread of V; 0 is exact.
        discount_weighting: Step t counts gamma^t, so that the target is the gradient of J.
        seed: Of the random world and policy, and of the episodes.
        out: Where the tables and pictures go.
    """
    (section,), parsed = _parse("lab", ["SECTION"], flags, arguments)
    _find_here(parsed.world)
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from advantage.laboratory import tables_and_pictures as report

    tables = [run() for run in _experiments(section, parsed)]
    parsed.out.mkdir(parents=True, exist_ok=True)
    console = Console(width=None if sys.stdout.isatty() else 110)
    for table in tables:
        looks: dict[str, Any] = {"title_justify": "left", "caption_justify": "left", "box": SIMPLE_HEAD}
        shown = Table(title=table.title, caption=table.remark, pad_edge=False, **looks)
        for name, cell in zip(table.columns, table.rows[0], strict=True):
            shown.add_column(name, justify="left" if isinstance(cell, str) else "right", no_wrap=True)
        for row in table.rows:
            shown.add_row(*map(report.text, row))
        console.print(shown)
        report.write_table(table, parsed.out / f"{table.name}.csv")
        with contextlib.suppress(ImportError):
            report.draw_table(table, parsed.out / f"{table.name}.png")
    print(f"Tables and pictures: {parsed.out}")
    return 0


def _experiments(section: str, parsed: Any) -> list[Callable[[], Any]]:
    """What a section of the laboratory runs."""
    from advantage.laboratory import tables_and_pictures as report
    from advantage.laboratory.quadratic import example

    size, seed, off = parsed.episodes, parsed.seed, parsed.value_error
    quadratic = lambda: report.quadratic_report(example(), size, seed)  # noqa: E731
    if section == "quadratic":
        return [quadratic]
    problem = _problem(parsed)
    experiments = {
        "gradient": [lambda: report.gradient_report(problem, size, off, parsed.discount_weighting, seed)],
        "advantage": [lambda: report.credit_report(problem, size, off, seed)],
        "off-policy": [
            lambda: report.distance_report(problem, size, seed),
            lambda: report.horizon_report(problem, size, seed),
            lambda: report.trace_report(problem, size, seed),
        ],
        "quadratic": [quadratic],
    }
    wanted = SECTIONS if section == "report" else (section,)
    return [run for name in wanted for run in experiments[name]]


def _problem(parsed: Any) -> Any:
    """The world and the policy that a section of the laboratory is about."""
    import numpy as np

    from advantage.algorithms.actors import actor_probabilities
    from advantage.environments.make import resolve, table_of
    from advantage.environments.tables.random_mdp import random_mdp
    from advantage.evaluation import load
    from advantage.laboratory.problem import Problem

    if parsed.world == "random":
        mdp = random_mdp(parsed.n_states, parsed.n_actions, min(5, parsed.n_states), parsed.seed)
    else:
        mdp = table_of(resolve(parsed.world))
    mdp = dataclasses.replace(mdp, gamma=mdp.gamma if parsed.gamma is None else parsed.gamma)
    shape = mdp.n_states, mdp.n_actions
    if parsed.policy in ("random", "uniform"):
        logits = np.random.default_rng(parsed.seed).normal(size=shape) * (parsed.policy == "random")
    else:
        logits = np.log(np.maximum(actor_probabilities(mdp, load(parsed.policy).actor.actor), 1e-12))
    horizon = min(mdp.max_episode_steps, 50) if parsed.horizon is None else parsed.horizon
    return Problem(mdp, logits, horizon)


COMMANDS = {
    "train": train,
    "resume": resume,
    "eval": evaluate,
    "enjoy": enjoy,
    "compare": compare,
    "experiment": experiment,
    "check": check,
    "lab": lab,
    "list": list_everything,
}
