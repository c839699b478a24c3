"""The order of the rooms, what none of them may import (read from the import statements), and the package's names."""

import ast
import graphlib
import importlib
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from package_names import package_names, stub_names

import advantage as adv
from advantage.algorithms.registry import ALGORITHMS, algorithm_class, algorithm_name

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "advantage"

# Each room may import the rooms before it. The package's own __init__ names things of all of them.
ROOMS = [
    "types",
    "plain_values",
    "machine",
    "matrices",
    "random_bits",
    "rows",
    "figures",
    "environments",
    "datasets",
    "running_moments",
    "precise_sum",
    "policies",
    "estimators",
    "objectives",
    "replay",
    "models",
    "planners",
    "theory",
    "laboratory",
    "algorithms",
    "drivers",
    "runs",
    "comparison",
    "diagnosis",
    "board",
    "agent",
    "exporting",
    "evaluation",
    "decisions",
    "recording",
    "offline_evaluation",
    "film",
    "report",
    "training",
    "importing",
    "cells",
    "experiment",
    "tuning",
    "cli",
    "__main__",
]
LOADED_ON_DEMAND = {
    "matplotlib",
    "plotly",
    "imageio",
    "mujoco",
    "ale_py",
    "flax",
    "equinox",
    "pygame",
    "onnx",
    "h5py",
}
EXECUTES_WHAT_IT_LOADS = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
HEAVY = {"jax", "jaxlib", "numpy", "gymnasium", "optax", "scipy", "matplotlib", "tensorboardX"}


class Import(NamedTuple):
    """One name that an import statement brings."""

    module: str  # the importing module, advantage.drivers.host.driver
    target: str  # what it imports: a module, or a name of one
    line: int
    at_top: bool  # runs when the module is imported, also inside `if` and `try`
    for_types_only: bool  # below `if TYPE_CHECKING:`

    def __str__(self) -> str:
        return f"{self.module}:{self.line} imports {self.target}"

    @property
    def room(self) -> str:
        return _room(self.module)

    @property
    def library(self) -> str:
        return self.target.split(".")[0]


def _room(module: str) -> str:
    return ".".join(module.split(".")[1:2])


def _name(path: Path, package: Path) -> str:
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(path: Path, package: Path) -> Iterator[Import]:
    module = _name(path, package)
    parents = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]

    def visit(node: ast.AST, at_top: bool, for_types_only: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(module, alias.name, node.lineno, at_top, for_types_only)
        elif isinstance(node, ast.ImportFrom):
            base = parents[: len(parents) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield Import(module, f"{source}.{alias.name}", node.lineno, at_top, for_types_only)
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for child in node.body:
                yield from visit(child, at_top, True)
            for child in node.orelse:
                yield from visit(child, at_top, for_types_only)
        else:
            inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            for child in ast.iter_child_nodes(node):
                yield from visit(child, at_top and not inside, for_types_only)

    yield from visit(ast.parse(path.read_text(encoding="utf-8"), str(path)), True, False)


def _all_imports(package: Path) -> list[Import]:
    return [found for path in sorted(package.rglob("*.py")) for found in _imports(path, package)]


def _wrong_order(imports: list[Import]) -> list[str]:
    wrong = []
    for found in imports:
        if found.library != "advantage" or found.module == "advantage":
            continue
        target = _room(found.target)
        ahead = target in ROOMS and ROOMS.index(target) > ROOMS.index(found.room)
        if ahead or (target not in ROOMS and target != "__version__"):
            wrong.append(str(found))
    return wrong


def _defines_algorithm(path: Path) -> bool:
    classes = (
        node for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.ClassDef)
    )
    return any(
        isinstance(item, ast.FunctionDef) and item.name == "update" for node in classes for item in node.body
    )


IMPORTS = _all_imports(PACKAGE)


def _fail_on(found: list[str]) -> None:
    assert not found, "\n".join(found)


def test_every_module_is_in_a_known_room():
    rooms = {_room(_name(path, PACKAGE)) for path in PACKAGE.rglob("*.py")} - {""}
    assert rooms <= set(ROOMS), f"say where these stand in the order: {sorted(rooms - set(ROOMS))}"


def test_rooms_import_only_rooms_before_them():
    assert len(IMPORTS) > 50
    _fail_on(_wrong_order(IMPORTS))


def _circle(imports: list[Import], modules: set[str]) -> list[str]:
    """Modules that import each other in a circle, from one back to itself; none if there is no circle."""
    graph: dict[str, set[str]] = {}
    for found in imports:
        target = found.target if found.target in modules else found.target.rpartition(".")[0]
        if target in modules - {found.module, "advantage"} and found.module != "advantage":
            graph.setdefault(found.module, set()).add(target)
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def test_modules_import_each_other_in_one_direction():
    """Imports inside functions, and those for types only, count too."""
    modules = {_name(path, PACKAGE) for path in PACKAGE.rglob("*.py")}
    _fail_on(_circle(IMPORTS, modules))


def test_algorithms_do_not_import_each_other():
    """An algorithm's file stands alone; what two share is a file without an algorithm, such as hyperparameters."""
    files = {_name(path, PACKAGE): path for path in (PACKAGE / "algorithms").rglob("*.py")}
    algorithms = {name for name, path in files.items() if _defines_algorithm(path)}
    packages = {name for name, path in files.items() if path.name == "__init__.py"}
    assert algorithms
    wrong = []
    for found in IMPORTS:
        if found.module in algorithms and found.target.startswith("advantage.algorithms"):
            target = found.target if found.target in files else found.target.rpartition(".")[0]
            if target in algorithms | packages:
                wrong.append(str(found))
    _fail_on(wrong)


def test_only_the_cluster_imports_the_distributed_engine():
    _fail_on([str(found) for found in IMPORTS if found.library == "ray" and found.room != "cluster"])


def test_optional_and_slow_libraries_load_on_demand():
    eager = (found for found in IMPORTS if found.at_top and not found.for_types_only)
    _fail_on([str(found) for found in eager if found.library in LOADED_ON_DEMAND])


def test_nothing_can_execute_what_it_loads():
    """cloudpickle carries environments to other processes; no module may use it, or its like, for files."""
    carriers = (
        "advantage.drivers.cluster.actors",
        "advantage.drivers.cluster.games",
        "advantage.drivers.cluster.rollout_actor",
        "advantage.drivers.cluster.tasks",
        "advantage.drivers.host.crew",
        "advantage.drivers.host.workers",
        "advantage.drivers.search.host_games",
    )
    _fail_on(
        [
            str(found)
            for found in IMPORTS
            if found.library in EXECUTES_WHAT_IT_LOADS
            and not (found.library == "cloudpickle" and found.module in carriers)
        ]
    )
    calls = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                builtin = isinstance(node.func, ast.Name) and node.func.id in ("eval", "exec", "__import__")
                pickles = any(
                    key.arg == "allow_pickle" and getattr(key.value, "value", True) is not False
                    for key in node.keywords
                )
                if builtin or pickles:
                    calls.append(f"{path.relative_to(ROOT)}:{node.lineno} calls {ast.unparse(node)}")
    _fail_on(calls)


def _python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, cwd=ROOT, timeout=120, check=False
    )


def test_the_package_imports_nothing_heavy():
    code = f"import sys, advantage; print(sorted({HEAVY!r} & set(sys.modules)))"
    done = _python("-c", code)
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stdout + done.stderr


def test_every_name_is_what_its_module_defines_however_much_is_imported():
    """A module may have the name of a function, such as `train`; importing it must not take the function's place."""
    for path in PACKAGE.rglob("*.py"):
        if path.stem != "__main__":
            importlib.import_module(_name(path, PACKAGE))
    for name, module in package_names().items():
        assert name in dir(adv)
        assert inspect.ismodule(getattr(adv, name)) == (name == "search"), name
        assert getattr(adv, name) is getattr(importlib.import_module(module), name)
    with pytest.raises(AttributeError, match="no attribute 'tarin'"):
        getattr(adv, "tarin")  # noqa: B009


def test_every_algorithm_is_found_by_its_name():
    for name, place in ALGORITHMS.items():
        cls = algorithm_class(name)
        assert place.endswith(f":{cls.__name__}") and getattr(adv, cls.__name__) is cls
        assert algorithm_name(cls()) == name
    assert len(set(ALGORITHMS.values())) == len(ALGORITHMS)


def test_type_checkers_see_the_names_that_python_sees():
    assert stub_names() == package_names(), "write advantage/__init__.pyi again: make format"


def test_the_command_line_imports_nothing_heavy():
    code = f"import sys, advantage.cli; print(sorted({HEAVY!r} & set(sys.modules)))"
    done = _python("-c", code)
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stdout + done.stderr


def test_training_does_not_wait_for_libraries_that_it_does_not_use():
    unused = {
        "matplotlib",
        "mctx",
        "pandas",
        "scipy.optimize",
        "scipy.sparse",
        "scipy.special",
        "scipy.stats",
    }
    code = f"import sys, advantage.cli.commands.train; print(sorted({unused!r} & set(sys.modules)))"
    done = _python("-c", code)
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stdout + done.stderr


def test_help_imports_nothing_heavy():
    done = _python("-X", "importtime", "-m", "advantage", "--help")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "train" in done.stdout
    loaded = {
        line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.splitlines() if "|" in line
    }
    assert "advantage" in loaded
    assert not loaded & HEAVY
    assert done.stderr.count("import time:") < 120  # modules: importing them is what help waits for


SOURCE = """
import os, numpy.linalg as la
from . import draws
from .. import cli
from ..types import Rollout
from advantage import runs
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from advantage.training import train
def f():
    import matplotlib.pyplot
try:
    import flax
except ImportError:
    pass
class C:
    from advantage.nowhere import x
"""


@pytest.fixture
def sample(tmp_path: Path) -> list[Import]:
    (tmp_path / "advantage" / "drivers").mkdir(parents=True)
    (tmp_path / "advantage" / "drivers" / "device.py").write_text(SOURCE)
    return _all_imports(tmp_path / "advantage")


def test_the_reader_sees_every_kind_of_import(sample: list[Import]):
    seen = {found.target: (found.at_top, found.for_types_only) for found in sample}
    assert seen == {
        "os": (True, False),
        "numpy.linalg": (True, False),
        "advantage.drivers.draws": (True, False),
        "advantage.cli": (True, False),
        "advantage.types.Rollout": (True, False),
        "advantage.runs": (True, False),
        "typing.TYPE_CHECKING": (True, False),
        "advantage.training.train": (True, True),
        "matplotlib.pyplot": (False, False),
        "flax": (True, False),
        "advantage.nowhere.x": (True, False),
    }


def test_the_order_is_enforced(sample: list[Import]):
    wrong = {text.rpartition(" ")[2] for text in _wrong_order(sample)}
    assert wrong == {"advantage.cli", "advantage.runs", "advantage.training.train", "advantage.nowhere.x"}


def test_a_circle_is_found(tmp_path: Path):
    package = tmp_path / "advantage"
    package.mkdir()
    for name, other in (("types", "runs"), ("machine", "types"), ("runs", "machine")):
        (package / f"{name}.py").write_text(f"def f():\n    from advantage.{other} import x\n")
    modules = {"advantage.types", "advantage.machine", "advantage.runs"}
    assert set(_circle(_all_imports(package), modules)) == modules
    (package / "machine.py").write_text("")
    assert not _circle(_all_imports(package), modules)
