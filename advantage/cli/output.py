"""Standard output and error that end no command: signs that they lack are replaced, and a run goes on without them."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import sys
import unicodedata
from typing import TextIO

SIGNS = {
    "↑": "^", "↓": "v", "←": "<", "→": ">", "↖": "7", "↗": "9", "↙": "1", "↘": "3",  # as on a number pad
    "±": "+/-", "×": "x", "·": ".", "−": "-", "–": "-", "—": "-", "…": "...", "≤": "<=", "≥": ">=", "≠": "!=",
    "≈": "~", "∞": "inf", "∇": "grad ", "∈": "in", "²": "^2", "³": "^3", "√": "sqrt", "∂": "d", "∫": "int",
    "“": '"', "”": '"', "‘": "'", "’": "'", "━": "-", "─": "-", "│": "|", "╸": "-", "╺": "-", "•": "*",
    "╭": "+", "╮": "+", "╰": "+", "╯": "+",
}  # fmt: skip


class Output(io.TextIOBase):
    """A stream of text that is written as far as possible.

    Args:
        stream: where the text goes.
        goes_on: whether a text that cannot be written is dropped, and all after it; otherwise the error is raised.
    """

    def __init__(self, stream: TextIO, goes_on: bool):
        self._stream, self._goes_on, self._is_lost = stream, goes_on, False

    @property
    def encoding(self) -> str:
        return self._stream.encoding or "ascii"

    def write(self, text: str) -> int:
        shown = text.encode(self.encoding, "advantage.signs").decode(self.encoding)
        try:
            if not self._is_lost:
                self._stream.write(shown)
        except (OSError, ValueError) as error:
            self._lose(error)
        return len(text)

    def flush(self) -> None:
        try:
            if not self._is_lost:
                self._stream.flush()
        except (OSError, ValueError) as error:
            self._lose(error)

    def isatty(self) -> bool:
        return not self._is_lost and self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    def _lose(self, error: OSError | ValueError) -> None:
        self._is_lost = True
        with contextlib.suppress(OSError, ValueError):  # Python writes what is left when it ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
        if not self._goes_on:
            raise error
        if not isinstance(error, BrokenPipeError) and self is not sys.stderr:
            print(
                f"advantage: the output cannot be written ({error}); the run goes on without it.",
                file=sys.stderr,
            )


def open_output(goes_on: bool) -> None:
    """Make standard output and error of this process such streams; closed ones lead nowhere.

    Args:
        goes_on: whether the command goes on without its output, as a training does.
    """
    while os.open(os.devnull, os.O_RDWR) <= 2:  # or the next file that is opened would get what is printed
        pass
    sys.stdout = Output(sys.stdout or _nowhere(), goes_on)
    sys.stderr = Output(sys.stderr or _nowhere(), goes_on=True)


def _nowhere() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8")


def _replace(error: UnicodeError) -> tuple[str, int]:
    """The error handler of a codec: replaces signs that it lacks by ASCII."""
    assert isinstance(error, UnicodeEncodeError)
    return "".join(map(_in_ascii, error.object[error.start : error.end])), error.end


def _in_ascii(sign: str) -> str:
    if sign in SIGNS:
        return SIGNS[sign]
    name = unicodedata.name(sign, "")
    if name.startswith("GREEK"):
        return name.split()[-1].lower().replace("lamda", "lambda")
    bare = unicodedata.normalize("NFKD", sign).encode("ascii", "ignore").decode()
    return bare or "?"


codecs.register_error("advantage.signs", _replace)
