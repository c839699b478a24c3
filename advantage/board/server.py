"""The board's server: the standard library's, for requests of this machine, and of others only where asked for."""

from __future__ import annotations

import errno
import ipaddress
import json
import mimetypes
import re
import socket
import socketserver
import sys
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from advantage.board.board import Board
from advantage.board.detail import detail
from advantage.board.page import content_security_policy, page
from advantage.board.run_view import pictures

LOOPBACK = ("127.0.0.1", "::1", "localhost")
PORT = 8642
PORTS = 50  # that are tried, one after the other


class Server(socketserver.ThreadingTCPServer):
    """Serves a board until `shutdown`; `serve_forever` runs it.

    Args:
        board: what is shown.
        host: the address or name to listen on.
        port: the first port to try, 0 to 65,535; where it is in use, the next that is free is taken.

    Raises:
        ValueError: the host or the ports cannot be used; the message says what to do.
    """

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, board: Board, host: str = LOOPBACK[0], port: int = PORT):
        self.address_family, address = _address(host)
        for tried in [0] if port == 0 else range(port, min(port + PORTS, 2**16)):
            try:
                super().__init__((address, tried), partial(_Request, board, host))
                return
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise ValueError(
                        f"The board cannot listen at {host}, port {tried}: {error.strerror}."
                    ) from None
        raise ValueError(
            f"The ports {port} to {tried} of {host} are in use; give another one, --port NUMBER, or --port 0 for any."
        )

    @property
    def port(self) -> int:
        """The port on which it listens."""
        return self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(
            sys.exception(), ConnectionError | TimeoutError
        ):  # a browser that goes away is no error
            super().handle_error(request, client_address)


def is_welcome(name: str, host: str) -> bool:
    """Whether a request whose Host header is `name` means this server, which was asked to listen at `host`.

    A page from elsewhere can make a browser believe that its own name is this machine (DNS rebinding), but the
    browser then sends that name. On loopback only loopback's names are welcome; elsewhere also the host's own names
    and any address in numbers, which nobody can point somewhere else.
    """
    match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]]+)(:\d{1,5})?", name)
    asked = match[1].strip("[]").lower() if match else ""
    if asked in LOOPBACK:
        return True
    if not match or host.lower() in LOOPBACK:
        return False
    return asked in (host.lower(), socket.gethostname().lower()) or _is_address(asked)


class _Request(BaseHTTPRequestHandler):
    """Answers one connection."""

    protocol_version = "HTTP/1.1"
    server_version, sys_version = "advantage", ""
    timeout = 60.0

    def __init__(self, board: Board, host: str, *connection: Any):
        self._board, self._host = board, host
        super().__init__(*connection)

    def do_GET(self) -> None:
        if not is_welcome(self.headers.get("Host", ""), self._host):
            text = "This board answers requests to this machine only. See advantage board --help: --host."
            return self._send(text.encode(), "text/plain; charset=utf-8", HTTPStatus.FORBIDDEN)
        address = urlsplit(self.path)
        parts = unquote(address.path).removeprefix("/").split("/", 2)
        if parts == [""]:
            return self._send(page().encode(), "text/html; charset=utf-8")
        if parts == ["data"]:
            asked = {name: values[0] for name, values in parse_qs(address.query).items()}
            return self._send_json(self._board.answer(asked.get("metric", ""), asked.get("since", "")))
        try:
            if parts[0] == "run" and len(parts) == 2:
                base = f"file/{quote(parts[1])}/"
                return self._send_json(detail(*self._board.watched(int(parts[1])), base))
            if parts[0] == "file" and len(parts) == 3:
                view, _ = self._board.watched(int(parts[1]))
                if parts[2] in pictures(view.folder):  # so no other file can be named
                    return self._send_file(view.folder.path / parts[2])
        except (LookupError, ValueError, FileNotFoundError):
            pass
        self._send(b"There is nothing here.", "text/plain; charset=utf-8", HTTPStatus.NOT_FOUND)

    do_HEAD = do_GET

    def log_message(self, *words: Any) -> None:
        """Say nothing: the terminal is for the user."""

    def _send_json(self, value: dict[str, Any]) -> None:
        self._send(json.dumps(value, allow_nan=False).encode(), "application/json")

    def _send(self, content: bytes, kind: str, status: HTTPStatus = HTTPStatus.OK) -> None:
        self._begin(status, kind, len(content))
        if self.command != "HEAD":
            self.wfile.write(content)

    def _send_file(self, path: Path) -> None:
        """A file, or the part of it that a player asks for."""
        with path.open("rb") as file:
            size = path.stat().st_size
            kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
            part = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            first = int(part[1]) if part else 0
            last = min(int(part[2]), size - 1) if part and part[2] else size - 1
            if part and first <= last:
                span = {"Content-Range": f"bytes {first}-{last}/{size}"}
                self._begin(HTTPStatus.PARTIAL_CONTENT, kind, last - first + 1, span)
            else:
                first, last = 0, size - 1
                self._begin(HTTPStatus.OK, kind, size, {"Accept-Ranges": "bytes"})
            if self.command != "HEAD":
                file.seek(first)
                while first <= last and (piece := file.read(min(1 << 16, last - first + 1))):
                    self.wfile.write(piece)
                    first += len(piece)

    def _begin(self, status: HTTPStatus, kind: str, size: int, also: dict[str, str] | None = None) -> None:
        self.send_response(status)
        headers = {
            "Content-Type": kind,
            "Content-Length": str(size),
            "Content-Security-Policy": content_security_policy(),
            "Cross-Origin-Resource-Policy": "same-origin",
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-store",
        }
        for name, value in (headers | (also or {})).items():
            self.send_header(name, value)
        self.end_headers()


def _address(host: str) -> tuple[socket.AddressFamily, str]:
    """The family and the numbers of a host."""
    try:
        family, *_, place = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise ValueError(
            f"--host {host}: this is no address of this machine ({error}); give one, such as 0.0.0.0."
        ) from None
    return family, str(place[0])


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
