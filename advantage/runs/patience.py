"""Messages about operations that take long."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

SECONDS = 2.0


@contextlib.contextmanager
def saying(text: str, tell: Callable[[str], None], after: float = SECONDS) -> Iterator[None]:
    """A context that calls `tell(text)`, once, if it lasts longer than `after` seconds."""
    timer = threading.Timer(after, tell, (text,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
