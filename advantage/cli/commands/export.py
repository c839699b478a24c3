"""`advantage export RUN`: a trained policy for programs without this library."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from advantage.cli.parse import parse
from advantage.exporting.export import Format, export
from advantage.runs.folder import open_run_folder


@dataclasses.dataclass(frozen=True)
class Export:
    """Write a run's policy as NumPy source with its weights, as an ONNX model, or as a compiled program."""

    out: Path | None = None
    """A new folder; by default `export` in the run's folder."""
    format: Format = "numpy"
    """numpy: policy.py, which needs numpy and safetensors; onnx: a model for onnxruntime and its like; stablehlo: a
    program for jax.export."""
    sample: bool = False
    """Draw actions from the policy in place of the most likely one."""


def command(arguments: Sequence[str]) -> int:
    """Export a policy; returns the exit code."""
    (run,), flags = parse(arguments, "export RUN", Export)
    out = flags.out if flags.out is not None else open_run_folder(Path(run)).path / "export"
    folder = export(run, out, format=flags.format, deterministic=not flags.sample)
    print(f"Wrote {', '.join(str(path) for path in sorted(folder.iterdir()))}")
    return 0
