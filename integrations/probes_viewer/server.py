"""The viewer in a browser, live while training writes."""

from __future__ import annotations

import errno
import hmac
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from .app import Application, static
from .page import STATIC

__all__ = ["application", "serve"]

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; connect-src 'self'; "
    "img-src 'self' data: blob:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
INDEX = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>probes</title><meta name="viewport" content="width=device-width">
<meta name="referrer" content="no-referrer"><link rel="icon" href="data:,">
<link rel="stylesheet" href="style.css"></head>
<body><div id="probes"></div><script type="module" src="index.js"></script></body>
</html>
"""
AT_ONCE = 4
"""Requests that are answered at a time."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def application(folder: Path, token: str | None) -> Callable[[Any, Any], Iterable[bytes]]:
    """The viewer of the runs below a directory as a WSGI application.

    Args:
        folder: The directory.
        token: What every request for data must carry as ``token``; None asks for none.
    """
    from werkzeug import Request, Response

    routes = Application(folder).routes()
    files = {f"/{path.name}": static(path.name) for path in STATIC.iterdir() if path.suffix in (".js", ".css")}

    def answer(environment: Any, start: Any) -> Iterable[bytes]:
        request = Request(environment)
        if request.path == "/":
            page = Response(INDEX, mimetype="text/html", headers={"Content-Security-Policy": POLICY})
            return page(environment, start)
        if request.path in files:
            return files[request.path](environment, start)
        if request.path not in routes:
            return Response("There is nothing here.", 404, mimetype="text/plain")(environment, start)
        if token is None and not _names_this_machine(request.host):
            words = "Without a token, the address must name this machine: localhost or 127.0.0.1."
            return Response(words, 403, mimetype="text/plain")(environment, start)
        given = request.args.get("token", "").encode("utf-8", "replace")
        if token is not None and not hmac.compare_digest(given, token.encode()):
            words = "The address must end with ?token=..., as `probes serve` has printed it."
            return Response(words, 403, mimetype="text/plain")(environment, start)
        return routes[request.path](environment, start)

    return answer


def _names_this_machine(host: str) -> bool:
    """Whether a request was meant for it: a page elsewhere can make its own name lead to 127.0.0.1."""
    return (host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host).strip("[]") in LOOPBACK


def serve(
    log_dir: str | Path = "runs",
    *,
    host: str = "127.0.0.1",
    port: int = 6007,
    token: str | None = None,
    started: Callable[[str], object] = print,
) -> None:
    """Show the runs below a directory in the browser, until interrupted; new rows appear as training writes them.

    Args:
        log_dir: The directory, or the log directory of one run. It need not be there yet.
        host: By default only this machine can reach it.
        port: The first one that is free from here on; 0 takes any.
        token: What the address must carry. By default a new one; ``""`` asks for none, on the loopback only.
        started: Called with the address.

    Raises:
        OSError: If no port is free.
        ValueError: If no token is asked for where others can reach it, ``log_dir`` is a file, or there is no such port.
    """
    from werkzeug.serving import WSGIRequestHandler, make_server

    folder = Path(log_dir).expanduser()
    if folder.is_file():
        raise ValueError(f"`log_dir` must be a directory, got the file {folder}.")
    if not 0 <= port < 65536:
        raise ValueError(f"`port` must be from 0 to 65535, got {port}.")
    if token == "" and host not in LOOPBACK:
        raise ValueError(f"`token` must not be empty where others can reach the server; `host` is {host!r}.")
    secret = secrets.token_urlsafe(16) if token is None else token

    class Quiet(WSGIRequestHandler):
        def log_request(self, *arguments: Any) -> None:
            """Say nothing: each request would carry the token into a log."""

    app, reading = application(folder, secret or None), threading.Semaphore(AT_ONCE)

    def in_turn(environment: Any, start: Any) -> Iterable[bytes]:
        with reading:
            return app(environment, start)

    with _listening(host, port) as listening:
        server = make_server(host, port, in_turn, threaded=True, request_handler=Quiet, fd=listening.fileno())
        shown, port = f"[{host}]" if ":" in host else host, listening.getsockname()[1]
        started(f"http://{shown}:{port}/{f'?token={quote(secret)}' if secret else ''}")
        try:
            server.serve_forever()
        finally:
            server.server_close()
            end = time.monotonic() + 1.0
            for _ in range(AT_ONCE):  # no thread should read a file while the interpreter ends: h5py is not made for it
                reading.acquire(timeout=max(0.0, end - time.monotonic()))


def _listening(host: str, port: int) -> socket.socket:
    """A socket at the first port that is free; not werkzeug's own, which prints what it meets on the way."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for candidate in range(port, min(port + 20, 65536)):
        try:
            return socket.create_server((host, candidate), family=family)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                why = str(error.strerror).partition(" (")[0]
                raise OSError(f"nothing can be served at {host}, port {candidate}: {why}") from None
    raise OSError(f"no port is free from {port} to {min(port + 19, 65535)} of {host}; name another with --port")
