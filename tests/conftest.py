"""Settings that every test, and every process a test starts, runs under; they must precede the import of JAX."""

import os
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["SDL_VIDEODRIVER"] = "dummy"  # pygame draws without a screen
os.environ["SDL_AUDIODRIVER"] = "dummy"
os.environ["MPLBACKEND"] = "Agg"

# Using a key twice is an error. Indexing split keys with a traced index, and `jnp.where` on keys, count as uses:
# where that is meant, wrap it in `with jax.debug_key_reuse(False)`.
os.environ["JAX_DEBUG_KEY_REUSE"] = "1"

# Compiled programs are kept between test runs.
_cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "advantage" / "tests"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_cache))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
