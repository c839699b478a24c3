"""Reads a command line as leading words and a dataclass of flags."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import json
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast, get_args, get_origin

import tyro

from advantage.algorithms.hyperparameters import Linear
from advantage.cli.aliases import with_our_names
from advantage.plain_values import whole_number
from advantage.policies.recurrent import Gated, Recurrent

Flags = TypeVar("Flags")


def parse(
    arguments: Sequence[str], usage: str, cls: type[Flags], default: Flags | None = None
) -> tuple[list[str], Flags]:
    """The leading words and the flags of a command line.

    Args:
        arguments: what follows the command's name.
        usage: the command's name and its leading words, such as `eval RUN`; the last can repeat, `compare RUN...`, and
            be absent, `board [RUN...]`.
        cls: a dataclass; each field is a flag, its docstring is the flag's help.
        default: holds the defaults of the flags; by default those of the fields.

    Raises:
        ValueError: a word or a value is missing, wrong or superfluous; the message says which.
        SystemExit: the arguments ask for help, which has been printed.
    """
    command, *names = usage.split()
    leading = leading_words(arguments, len(arguments) if "..." in usage else len(names))
    flags = _gathered(arguments[len(leading) :])
    program = " ".join(["advantage", command, *(leading or names)])
    options: dict[str, Any] = {
        "default": tyro.MISSING_NONPROP if default is None else default,
        "config": (tyro.conf.OmitArgPrefixes, tyro.conf.SuppressFixed),
        "registry": _registry(),
    }
    if {"--help", "-h"} & set(flags):
        tyro.cli(cls, prog=program, args=["--help"], **options)
    flags = with_our_names(flags, flag_names(cls, default))
    if missing := [name for name in names[len(leading) :] if not name.startswith("[")]:
        raise ValueError(f"advantage {command} needs {' '.join(missing)}: advantage {usage} [options].")
    complaint = io.StringIO()
    try:
        # tyro colours its text if the standard output is a terminal, so stdout is redirected too.
        with contextlib.redirect_stdout(complaint), contextlib.redirect_stderr(complaint):
            return leading, tyro.cli(cls, prog=program, args=flags, add_help=False, **options)
    except SystemExit:
        raise ValueError(f"{_sentences(complaint.getvalue())} See {program} --help.") from None


def flag_names(cls: type, default: object | None = None) -> set[str]:
    """The names of a command's flags, with `_` for `-`: its fields, and those of the dataclasses in it."""
    names = set()
    for field in dataclasses.fields(cast(Any, cls if default is None else default)):
        part = None if default is None else getattr(default, field.name)
        nested = dataclasses.is_dataclass(part) and not isinstance(part, type)
        names |= flag_names(type(part), part) if nested else {field.name}
    return names


REPEATABLE = ("--env-option", "--wrapper", "--ignore-observation", "--observe-last", "--log-info")


def _gathered(flags: Sequence[str]) -> list[str]:
    """The flags with the values of each repeatable one together: `--wrapper a --wrapper b` is `--wrapper a b`."""
    values: dict[str, list[str]] = {}
    rest: list[str] = []
    words = iter(flags)
    for word in words:
        flag, equals, value = word.partition("=")
        flag = flag.replace("_", "-")  # tyro takes both
        if flag in REPEATABLE:
            values.setdefault(flag, []).extend([value] if equals else itertools.islice(words, 1))
        else:
            rest.append(word)
    return rest + [word for flag, given in values.items() for word in (flag, *given)]


def leading_words(arguments: Sequence[str], most: int) -> list[str]:
    """The words before the first flag, at most `most` of them."""
    return list(itertools.takewhile(lambda word: not word.startswith("-"), arguments))[:most]


UNFIT = (  # what tyro says of each possible type of a flag that may be None, or a word
    r"no type matching (.+?) could be instantiated from \[(.+?)\]\. Got errors: .* Argument helptext: (--\S+) \1 "
)


def _sentences(box: str) -> str:
    """Turns a message that tyro prints in a box (title, then sections between rules) into a sentence for each section.

    `Error parsing X: ` is kept if X is a flag, and removed if X is a dataclass, because that error is one of ours.
    """
    _title, *lines = box.translate(str.maketrans("─│╭╮╰╯", "-     ")).splitlines()
    sections = re.split(r"^ *-+ *$", "\n".join(lines), flags=re.MULTILINE)
    sentences = [" ".join(section.split()).rstrip(" .") + "." for section in sections if section.strip()]
    text = re.sub(r"^Error parsing (?!--)\S+: ", "", " ".join(sentences))
    return re.sub(UNFIT, r"\2 is not allowed; use \3 \1: ", text)


def _registry() -> tyro.constructors.ConstructorRegistry:
    """How the flags of schedules (`3e-4`, `linear:3e-4`, `linear:3e-4:1e-5`) and networks (`gru`) are written."""
    registry = tyro.constructors.ConstructorRegistry()
    _add_repeatable(registry)

    @registry.primitive_rule
    def schedule(
        info: tyro.constructors.PrimitiveTypeInfo,
    ) -> tyro.constructors.PrimitiveConstructorSpec | None:
        options = get_args(info.type)
        if Linear not in options:
            return None
        optional = type(None) in options

        def read(texts: list[str]) -> float | Linear | None:
            (text,) = texts
            return None if optional and text.lower() == "none" else _read_schedule(text)

        return tyro.constructors.PrimitiveConstructorSpec(
            nargs=1,
            metavar="FLOAT|linear:START:END" + "|None" * optional,
            instance_from_str=read,
            is_instance=lambda value: (
                value is None or isinstance(value, int | float | Linear) or callable(value)
            ),
            str_from_instance=_show_schedule,
        )

    @registry.primitive_rule
    def whole(info: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec | None:
        if info.type is not int:
            return None
        return tyro.constructors.PrimitiveConstructorSpec(
            nargs=1,
            metavar="INT",
            instance_from_str=_read_whole,
            is_instance=lambda value: isinstance(value, int),
            str_from_instance=lambda value: [str(value)],
        )

    @registry.primitive_rule
    def network(
        info: tyro.constructors.PrimitiveTypeInfo,
    ) -> tyro.constructors.PrimitiveConstructorSpec | None:
        if Recurrent not in get_args(info.type):
            return None
        return tyro.constructors.PrimitiveConstructorSpec(
            nargs=1,
            metavar="|".join((*get_args(Gated), "None")),
            instance_from_str=_read_network,
            is_instance=lambda value: True,
            str_from_instance=lambda value: [str(value)],
        )

    return registry


def _read_whole(texts: list[str]) -> int:
    """A whole number, also as 1e5 or 2.5e6."""
    (text,) = texts
    try:
        return int(text)
    except ValueError:
        number = whole_number(_read_float(text))
    if number is None:
        raise ValueError(f"{text!r} is not a whole number")
    return number


def _read_float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _add_repeatable(registry: tyro.constructors.ConstructorRegistry) -> None:
    """Add how flags of several values are written: keywords (`size=8`), and texts."""

    def add(
        kind: type, metavar: str, read: Callable[[list[str]], Any], write: Callable[[Any], list[str]]
    ) -> None:
        @registry.primitive_rule
        def several(
            info: tyro.constructors.PrimitiveTypeInfo,
        ) -> tyro.constructors.PrimitiveConstructorSpec | None:
            if get_origin(info.type) is not kind or get_args(info.type)[0] not in (Any, str):
                return None
            return tyro.constructors.PrimitiveConstructorSpec(
                nargs="*",
                metavar=metavar,
                instance_from_str=read,
                is_instance=lambda value: isinstance(value, kind),
                str_from_instance=write,
            )

    def written(keywords: dict[str, Any]) -> list[str]:
        return [f"{key}={json.dumps(each, default=str)}" for key, each in keywords.items()]

    add(dict, "KEY=VALUE", _read_keywords, written)
    add(tuple, "TEXT", tuple, lambda texts: list(map(str, texts)))


def _read_keywords(texts: list[str]) -> dict[str, Any]:
    """`size=8` as `{"size": 8}`: a value is JSON, or else the text itself."""
    keywords = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.isidentifier():
            raise ValueError(f"{text!r} is not a keyword; write KEY=VALUE, such as size=8")
        try:
            keywords[key] = json.loads(value)
        except json.JSONDecodeError:
            keywords[key] = {"True": True, "False": False, "None": None}.get(value, value)
    return keywords


def _read_network(texts: list[str]) -> Gated | None:
    (text,) = texts
    if text.lower() == "none":
        return None
    for name in get_args(Gated):
        if text == name:
            return name
    raise ValueError(
        f"{text!r} is not a network; use {', '.join(get_args(Gated))} or None. A network of your own is given in "
        "Python: adv.train(adv.PPO(network=...), ...)"
    )


def _read_schedule(text: str) -> float | Linear:
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


def _show_schedule(value: Any) -> list[str]:
    return [f"linear:{value.start}:{value.end}" if isinstance(value, Linear) else str(value)]
