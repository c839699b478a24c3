"""The pages on finite worlds name what is there, all of it; `test_documentation.py` runs them and follows links."""

import ast
import importlib
import re
from pathlib import Path

import pytest

import advantage as adv
from advantage import theory
from advantage.algorithms.registry import ALGORITHMS
from advantage.environments.make import WORLDS
from advantage.environments.tables.names import GYMNASIUM_TABLES, TABLES

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
ROOM = ROOT / "advantage" / "theory"
FAMILIES = ("worlds", "theory", "planning", "prediction", "control", "dyna", "bandits")
TEXT = {path.stem: path.read_text(encoding="utf-8") for path in DOCS.glob("*.md")}
EVERYWHERE = "\n".join(TEXT.values())
INTERNAL = {
    "solve",
    "ending",
    "name_classes",
    "refuse_array",
}  # what only the room itself, or a solver, calls


def test_every_algorithm_is_on_a_page():
    missing = [
        name for name in ALGORITHMS if f"`{name}`" not in EVERYWHERE and f"({name}.md)" not in EVERYWHERE
    ]
    assert not missing
    classes = [place.partition(":")[2] for place in ALGORITHMS.values()]
    missing = [cls for cls in classes if not re.search(rf"\b{cls}\b", EVERYWHERE)]
    assert not missing


def test_every_finite_world_is_on_a_page():
    assert not [name for name in (*TABLES, *GYMNASIUM_TABLES) if f"`{name}`" not in TEXT["worlds"]]
    assert f"`{'jax/Testbed-v0'}`" in TEXT["bandits"] and "jax/Testbed-v0" in WORLDS


def test_the_sizes_of_the_worlds_are_theirs():
    """The table's columns S, A and the discount; one number for all names of a row, or one each."""
    found = 0
    for row in re.findall(r"^\| (`.*) \|$", TEXT["worlds"].partition("## Names")[2], re.MULTILINE):
        names, *columns = (cell.strip() for cell in row.split(" | "))
        names = re.findall(r"`([\w-]+)`", names)
        for place, name in enumerate(names):
            world = adv.make(f"jax/{name}")
            mdp = getattr(world, "mdp", None) or world.pomdp.mdp
            told = [column.split(", ") for column in columns[:3]]
            told = [float(numbers[place if len(numbers) > 1 else 0]) for numbers in told]
            assert told == [mdp.n_states, mdp.n_actions, mdp.gamma], name
            found += 1
    assert found == len(TABLES) + len(GYMNASIUM_TABLES)


def test_every_public_function_of_the_exact_room_is_a_name_of_the_package():
    for path in ROOM.glob("*.py"):
        module = importlib.import_module(f"advantage.theory.{path.stem}")
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            defines = isinstance(node, ast.FunctionDef | ast.ClassDef)
            if defines and not node.name.startswith("_") and node.name not in INTERNAL:
                assert getattr(theory, node.name) is getattr(module, node.name)
                assert ast.get_docstring(node)


@pytest.mark.parametrize("page", [page for page in FAMILIES if page != "theory"])
def test_the_page_names_what_exists(page):
    for name in re.findall(r"`((?:tests|examples|benchmarks|advantage)/[\w/]+(?:\.py|/))`", TEXT[page]):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"\badv\.([A-Za-z_]+)", TEXT[page]):
        assert hasattr(adv, name), name
    for name in re.findall(r"\btheory\.([a-z_]+)\(", TEXT[page]):
        assert hasattr(theory, name), name


def test_the_page_on_exact_solutions_names_what_exists():
    for name in re.findall(r"`((?:tests|examples)/[\w/]+\.py)`", TEXT["theory"]):
        assert (ROOT / name).is_file(), name
    for name in re.findall(r"`(\w+\.py)`", TEXT["theory"]):
        assert (ROOM / name).is_file(), name
    for name in re.findall(r"`([a-z]+_\w+)`", TEXT["theory"]):
        assert hasattr(theory, name), name


def test_every_picture_of_the_textbook_is_shown_beside_the_command_that_draws_it():
    source = (ROOT / "examples" / "textbook.py").read_text(encoding="utf-8")
    figures = re.search(r"^FIGURES.*?^}", source, re.MULTILINE | re.DOTALL)
    assert figures
    known = set(re.findall(r'"(\w+)": \w+,', figures[0]))
    told = {
        name
        for line in re.findall(r"python examples/textbook\.py((?: \w+)+)", EVERYWHERE)
        for name in line.split()
    }
    assert told == known
    drawn = {f"figures/{name}.png" for name in re.findall(r'book\.save\(figure, "(\w+)"\)', source)}
    shown = set(re.findall(r"\]\((figures/\w+\.png)\)", EVERYWHERE))
    assert len(drawn) >= len(known)
    assert drawn <= shown
    assert {path.name for path in (DOCS / "figures").iterdir()} == {name.rpartition("/")[2] for name in shown}


def test_every_page_is_in_the_navigation():
    listed = re.findall(
        r"^ +- .*: ([\w/]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert sorted(listed) == sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
