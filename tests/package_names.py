"""The names of the package for type checkers: `python tests/package_names.py` writes `advantage/__init__.pyi`."""

import ast
from pathlib import Path

import advantage

STUB = Path(advantage.__file__).with_suffix(".pyi")


def package_names() -> dict[str, str]:
    """The module of each name that `advantage` imports when it is first used."""
    return {name: f"advantage.{module}" for name, module in advantage._homes().items()}


def stub_names() -> dict[str, str]:
    """The same, as `advantage/__init__.pyi` has it."""
    imports = (node for node in ast.parse(STUB.read_text()).body if isinstance(node, ast.ImportFrom))
    return {alias.name: str(node.module) for node in imports for alias in node.names}


if __name__ == "__main__":
    lines = (
        f"from {module} import {name} as {name}\n"
        for name, module in sorted(package_names().items(), key=lambda item: item[::-1])
    )
    STUB.write_text(f'"""Written by `make format`."""\n\n{"".join(lines)}\n__version__: str\n')
