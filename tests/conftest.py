"""Settings of every test, and of every process that a test starts; they must precede the import of JAX."""

import contextlib
import ctypes
import gc
import itertools
import os
import signal
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from repeats import REPEATS

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["SDL_VIDEODRIVER"] = "dummy"  # pygame draws without a screen
os.environ["SDL_AUDIODRIVER"] = "dummy"
os.environ["MPLBACKEND"] = "Agg"

# Half of the time of these tests is compilation, so the compiler does not optimise, and does not use its newer way to
# fuse operations, which takes it twice as long; `make test-slow` runs the slow tests, and the tests of the promises, on
# optimised programs, which users have. XLA ends a process that gives it a flag it does not know; since jaxlib 0.11 it
# has the newer way only.
_flags = ["--xla_backend_optimization_level=0", "--xla_cpu_parallel_codegen_split_count=1"]
if tuple(int(part) for part in version("jaxlib").split(".")[:2]) < (0, 11):
    _flags.append("--xla_cpu_use_fusion_emitters=false")
QUICK = " ".join(_flags)
os.environ.setdefault("XLA_FLAGS", QUICK)

from advantage.machine import available_cores, free_host_bytes  # noqa: E402

# Otherwise the first training of a process would decide with how many threads the later tests compute.
os.environ.setdefault("NPROC", str(available_cores()))

# Compiled programs are kept between test runs.
_cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "advantage" / "tests"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_cache))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import jax  # noqa: E402
import numpy as np  # noqa: E402
from jax.experimental.key_reuse import _core as key_reuse  # noqa: E402

# Using a key twice is an error in the tests' own process if programs are optimised. The quick tests do without, because
# counting takes an eighth of their time and `test_keys.py` checks every algorithm's program. JAX 0.10 counts the
# transpose of an array of keys, which vmap over a scan makes, as a use; this line corrects it. Indexing keys with a
# traced index, stacking them, and `jnp.where` on them count as uses too: wrap intended ones in
# `with jax.debug_key_reuse(False)`.
key_reuse.key_reuse_signatures[jax.lax.transpose_p] = key_reuse.KeyReuseSignature(key_reuse.Forward(0, 0))
jax.config.update("jax_debug_key_reuse", os.environ["XLA_FLAGS"] != QUICK)


# A shell starts background jobs with Ctrl-C ignored, and their child processes inherit this.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Tracing makes many objects; few of them need a full garbage collection.
gc.set_threshold(200_000, 50, 1000)

# Linux allows a process 65,530 memory maps. Each compiled program takes several; beyond the limit XLA crashes. Memory
# is short before: 8,000 maps hold about 2.7 GB of programs. A process keeps fewer if its share of the machine's memory,
# when it starts, is below twice that.
BYTES_PER_MAP = 2.7e9 / 8_000
_processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
MOST_MAPS = int(min(8_000, (free_host_bytes() or np.inf) / (2 * _processes * BYTES_PER_MAP)))
_tests_run = itertools.count(1)


@pytest.fixture(autouse=True)
def few_maps_of_memory():
    """Free compiled programs before there are too many, in a process that runs hundreds of tests.

    What is left is frozen: a run ends with a garbage collection, which would look at all of it each time.
    """
    yield
    maps = Path("/proc/self/maps")
    if next(_tests_run) % 16:
        return
    crowded = maps.exists() and maps.read_bytes().count(b"\n") > MOST_MAPS
    if crowded:
        gc.unfreeze()
        jax.clear_caches()
    gc.collect()
    if crowded:
        with contextlib.suppress(AttributeError, OSError):  # the C library of GNU only
            ctypes.CDLL(None).malloc_trim(0)
    gc.freeze()


# Modules with tests of the curve and the report that a run writes at its end. For the others drawing is a fifth of a
# short run's time.
DRAW = {
    "test_cli",
    "test_interrupt",
    "test_planning",
    "test_resume",
    "test_run_lock",
    "test_runs",
    "test_training",
    "test_what_is_loaded",
}


@pytest.fixture(autouse=True)
def no_curve(request, monkeypatch):
    """Leave an empty file in the place of the curve and of the report, except in the modules that look at them."""
    if request.module.__name__ not in DRAW and "advantage.training.results" in sys.modules:
        monkeypatch.setattr("advantage.training.results.plot_curve", lambda folder: folder.curve_path.touch())
        monkeypatch.setattr(
            "advantage.training.results.write_report", lambda folder: folder.report_path.touch()
        )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        if any(name in item.nodeid for name in REPEATS):
            item.add_marker(pytest.mark.slow)
