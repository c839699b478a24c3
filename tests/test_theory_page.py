"""docs/theory.md says what the code does: its examples run, and what it names is there."""

import ast
import importlib
import re
from pathlib import Path

from advantage import theory

ROOT = Path(__file__).resolve().parents[1]
ROOM = ROOT / "advantage" / "theory"
PAGE = (ROOT / "docs" / "theory.md").read_text(encoding="utf-8")
INTERNAL = {
    "solve",
    "ending",
    "name_classes",
    "refuse_large",
}  # what only the room itself, or a solver, calls


def test_the_examples_run():
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert len(blocks) > 10
    names: dict = {}
    for block in blocks:
        exec(compile(block, "docs/theory.md", "exec"), names)
    assert sum(block.count("assert") for block in blocks) > 20


def test_every_public_function_is_a_name_of_the_package():
    for path in ROOM.glob("*.py"):
        module = importlib.import_module(f"advantage.theory.{path.stem}")
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            defines = isinstance(node, ast.FunctionDef | ast.ClassDef)
            if defines and not node.name.startswith("_") and node.name not in INTERNAL:
                assert getattr(theory, node.name) is getattr(module, node.name)
                assert ast.get_docstring(node)


def test_the_page_names_what_exists():
    for name in re.findall(r"`((?:tests|examples)/[\w/]+\.py)`", PAGE):
        assert (ROOT / name).is_file(), name
    for name in re.findall(r"`(\w+\.py)`", PAGE):
        assert (ROOM / name).is_file(), name
    for name in re.findall(r"`([a-z]+_\w+)`", PAGE):
        assert hasattr(theory, name), name
