"""The order of the house: sizes of files and functions, and types instead of questions. Read from the source.

Each rule has a list of exceptions with their reason; a test fails where one of them is no longer needed.
"""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest
from project_files import project_files

PACKAGE = Path(__file__).resolve().parents[1] / "advantage"

LONGEST_FILE = 400  # lines
LONGEST_FUNCTION = 60  # lines, without its docstring
MOST_PARAMETERS = 8  # without self

# What users call, or an equation with many arrays.
MANY_PARAMETERS = {
    "algorithms/search/minimize.py:minimize",
    "environments/tables/mdp.py:from_samples",
    "estimators/off_policy_corrections.py:vtrace",
    "training/train.py:resume",
    "tuning/population.py:train_population",
    "tuning/tune.py:tune",
}
# Objects of Gymnasium, NumPy and other libraries, and of users, of which it is not known what they have.
FOREIGN_OBJECTS = {
    "algorithms/search/library_optimisers.py",
    "environments/check.py",
    "environments/make.py",
    "environments/space_faults.py",
    "environments/tables/gymnasium_table.py",
    "policies/library_networks.py",
    "policies/networks.py",
    "runs/log.py",
}

# What users give, in any of many forms, and an algorithm of evosax.
FOREIGN_PARTS = {
    "agent.py",
    "algorithms/search/library_optimisers.py",
    "environments/make.py",
    "evaluation.py",
    "importing/sb3.py",
    "recording.py",
    "training/train.py",
    "tuning/population.py",
    "tuning/tune.py",
}


def _sources(package: Path) -> dict[str, str]:
    """The text of each file by its path in the package."""
    return {
        path.relative_to(package).as_posix(): path.read_text(encoding="utf-8")
        for path in sorted(package.rglob("*.py"))
    }


@functools.cache
def _nodes(source: str) -> list[ast.AST]:
    return list(ast.walk(ast.parse(source)))


def _functions(source: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in _nodes(source):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def _lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """How many lines a function has, without its docstring."""
    first = node.body[0]
    docstring = ast.get_docstring(node) is not None
    return _height(node) - (_height(first) if docstring else 0)


def _height(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def _parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[ast.arg]:
    given = node.args
    several = [argument for argument in (given.vararg, given.kwarg) if argument]
    named = [*given.posonlyargs, *given.args, *given.kwonlyargs, *several]
    return [argument for argument in named if argument.arg not in ("self", "cls")]


def long_files(sources: dict[str, str]) -> set[str]:
    """Files with more lines than a reader takes in."""
    return {file for file, source in sources.items() if source.count("\n") > LONGEST_FILE}


def long_functions(sources: dict[str, str]) -> set[str]:
    return {
        f"{file}:{node.name}"
        for file, source in sources.items()
        for node in _functions(source)
        if _lines(node) > LONGEST_FUNCTION
    }


def functions_with_many_parameters(sources: dict[str, str]) -> set[str]:
    return {
        f"{file}:{node.name}"
        for file, source in sources.items()
        for node in _functions(source)
        if len(_parameters(node)) > MOST_PARAMETERS
    }


def untyped_parts(sources: dict[str, str]) -> set[str]:
    """Files in which an algorithm, a driver or an environment is a parameter of type `Any`, or of none."""
    parts = ("algorithm", "environment", "driver", "world")
    return {
        file
        for file, source in sources.items()
        for node in _functions(source)
        for argument in _parameters(node)
        if argument.arg in parts
        and (argument.annotation is None or "Any" in ast.unparse(argument.annotation).split(" | "))
    }


def asks_whether_it_has(sources: dict[str, str]) -> set[str]:
    """Files that find out by `hasattr` what an object is."""
    return {file for file, source in sources.items() if _calls(source, "hasattr")}


def asks_for_an_attribute_by_name(sources: dict[str, str]) -> set[str]:
    """Files with `getattr(x, "name")`; a name that is a variable is another matter."""
    return {
        file
        for file, source in sources.items()
        if any(isinstance(call.args[1], ast.Constant) for call in _calls(source, "getattr"))
    }


def _calls(source: str, function: str) -> list[ast.Call]:
    calls = (node for node in _nodes(source) if isinstance(node, ast.Call))
    return [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == function]


SOURCES = _sources(PACKAGE)


@pytest.mark.parametrize(
    ("rule", "allowed"),
    [
        (long_files, set()),
        (long_functions, set()),
        (functions_with_many_parameters, MANY_PARAMETERS),
        (untyped_parts, FOREIGN_PARTS),
        (asks_whether_it_has, {"algorithms/search/library_optimisers.py"}),
        (asks_for_an_attribute_by_name, FOREIGN_OBJECTS),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_the_house_is_in_order(rule, allowed):
    found = rule(SOURCES)
    assert not found - allowed, f"against the rule: {sorted(found - allowed)}"
    assert not allowed - found, f"in order by now, so strike them off the list: {sorted(allowed - found)}"


UNTIDY = '''
def f(algorithm: Any, a, b, c, d, e, *, g, h=1, **i):
    """Says.

    What it does.
    """
    return hasattr(a, "b"), getattr(b, c)
'''


def test_the_rules_find_what_is_against_them():
    sources = {"a.py": UNTIDY, "b.py": "def f(world):\n" + "    x = 1\n" * 60, "c.py": "x = 1\n" * 401}
    sources["d.py"] = "class A:\n    def f(self, a, b, c, d, e, g, h, i):\n        return getattr(a, 'b')\n"
    assert long_files(sources) == {"c.py"}
    assert long_functions(sources) == {"b.py:f"}
    assert functions_with_many_parameters(sources) == {"a.py:f"}
    assert untyped_parts(sources) == {"a.py", "b.py"}
    assert asks_whether_it_has(sources) == {"a.py"}
    assert asks_for_an_attribute_by_name(sources) == {"d.py"}
    assert _lines(next(_functions(UNTIDY))) == 2
    tidy = {"a.py": 'def f(world: World | None, a):\n    """Says."""\n    return getattr(a, a.name)\n'}
    rules = (long_files, long_functions, functions_with_many_parameters, untyped_parts, asks_whether_it_has)
    assert not any(rule(tidy) for rule in (*rules, asks_for_an_attribute_by_name))


def test_the_repository_holds_sources_and_small_results_only():
    """Packages and archives that a command left behind are not committed, nor anything of many megabytes."""
    files = project_files()
    assert not [file.name for file in files if file.suffix in (".whl", ".gz", ".zip", ".tar", ".so")]
    assert not [file.name for file in files if file.stat().st_size > 1_000_000]


def test_the_package_says_that_it_is_typed():
    """Type checkers read the annotations of an installed package only with this file (PEP 561)."""
    assert (PACKAGE / "py.typed").is_file()
