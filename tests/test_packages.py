"""What is built: a package without one of its files works only here."""

from pathlib import Path

import pytest
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parents[1]


def files_of(builder):
    return {file.relative_path for file in builder(str(ROOT)).recurse_included_files()}


@pytest.mark.parametrize("builder", [SdistBuilder, WheelBuilder])
def test_what_is_built_has_every_file_of_the_package(builder):
    package = {
        str(file.relative_to(ROOT))
        for file in (ROOT / "advantage").rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    found = files_of(builder)
    assert len(package) > 300 and package <= found, package - found
    if builder is WheelBuilder:
        assert found == package


def test_a_source_package_has_nothing_that_was_made_here():
    tops = {Path(name).parts[0] for name in files_of(SdistBuilder)}
    made = {".bench", ".ci", ".git", ".venv", "build", "dist", "runs", "site"}
    assert not tops & made and {"advantage", "tests", "docs", "pyproject.toml"} <= tops
