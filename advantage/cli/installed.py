"""Whether installed packages are as new as this one needs; another package may have replaced one by an older one."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, requires, version

_NEEDED = re.compile(
    r"([A-Za-z0-9._-]+)\s*>=\s*([0-9.]+)"
)  # a requirement without a condition, not of an extra


def older_than_needed() -> str:
    """A sentence about packages that are older than they have to be, with what to do; empty if there is none."""
    found = []
    for needed in filter(None, map(_NEEDED.fullmatch, _requirements())):
        try:
            installed = version(needed[1])
        except PackageNotFoundError:
            continue
        if _numbers(installed) < _numbers(needed[2]):
            found.append((needed[1], needed[2], installed))
    if not found:
        return ""
    facts = ", ".join(
        f"{name} {least} or newer, and {installed} is installed" for name, least, installed in found
    )
    names = " ".join(f"'{name}>={least}'" for name, least, _ in found)
    return f"The reason may be that advantage needs {facts}: pip install {names}"


def _requirements() -> list[str]:
    try:
        return requires("advantage") or []
    except PackageNotFoundError:  # run from its source
        return []


def _numbers(text: str) -> tuple[int, ...]:
    """The numbers that a version begins with: (0, 8, 1) of `0.8.1rc2`; `0.8` and `0.8.0` are equal."""
    numbers = [int(number) for number in re.findall(r"(?:^|\.)(\d+)", text)]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)
