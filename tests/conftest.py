"""Settings that every test, and every process a test starts, runs under; they must precede the import of JAX."""

import os
import signal
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["SDL_VIDEODRIVER"] = "dummy"  # pygame draws without a screen
os.environ["SDL_AUDIODRIVER"] = "dummy"
os.environ["MPLBACKEND"] = "Agg"

# Compiling is half of the time that these tests take, so it does not optimise; `make test-slow` runs the slow tests,
# and those of the promises, on programs as users have them.
QUICK = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
os.environ.setdefault("XLA_FLAGS", QUICK)

# Compiled programs are kept between test runs.
_cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "advantage" / "tests"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_cache))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import jax  # noqa: E402
from jax.experimental.key_reuse import _core as key_reuse  # noqa: E402

# Using a key twice is an error, in the tests' own process. JAX 0.10 takes transposing an array of keys for a use,
# which vmap over a scan does, so it is taught better. Indexing keys with a traced index, stacking them, and
# `jnp.where` on them count as uses too: where that is meant, wrap it in `with jax.debug_key_reuse(False)`.
key_reuse.key_reuse_signatures[jax.lax.transpose_p] = key_reuse.KeyReuseSignature(key_reuse.Forward(0, 0))
jax.config.update("jax_debug_key_reuse", True)


# A shell starts background jobs with Ctrl-C ignored, and every process under them inherits that.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
