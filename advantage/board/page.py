"""The board's page as one text: its markup, style and scripts, and for a still page the data too. It loads nothing."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from pathlib import Path
from string import Template
from typing import Any

from advantage.comparison.picture import COLOURS

HERE = Path(__file__).parent


def page(still: dict[str, Any] | None = None) -> str:
    """The page that asks its server for data, or with `still` the one that shows these data for good.

    Data stand in the page as JSON, which is not executed, and reach it as text: no name can become markup.
    """
    data = json.dumps({"colours": COLOURS, "still": still}, allow_nan=False).replace("<", "\\u003c")
    title = "Runs" if still is None else "{algorithm} on {environment}".format(**still["detail"])
    policy = (
        ""
        if still is None
        else f'<meta http-equiv="Content-Security-Policy" content="{_allowed(still=True)}">\n'
    )
    return Template(_text("board.html")).substitute(
        policy=policy, title=html.escape(title), style=_style(), script=_script(), data=data
    )


def content_security_policy() -> str:
    """What a browser may load for the served page: its own style, script, data, pictures and films, nothing else."""
    return f"{_allowed(still=False)}; frame-ancestors 'none'"


def _allowed(still: bool) -> str:
    """The rules of a page; a still one is opened as a file, beside its pictures."""
    source = "'self' file:" if still else "'self'"
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src {_hash(_script())}",
            f"style-src {_hash(_style())}",
            f"img-src {source} data:",
            f"media-src {source}",
            "connect-src 'none'" if still else "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )


def _script() -> str:
    return f"\n{_text('chart.js')}\n{_text('board.js')}"


def _style() -> str:
    return f"\n{_text('board.css')}"


def _text(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
