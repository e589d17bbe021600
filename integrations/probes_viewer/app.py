"""The routes behind the viewer, the same for the server and for TensorBoard's tab.

==================  ===============================  ===================================================
route               parameters                       answer
==================  ===============================  ===================================================
``runs``                                             the runs below the directory, JSON
``catalogue``       ``run``                          what a run holds, JSON
``findings``        ``run``                          what stands out in it, JSON
``stream``          ``run``, ``name``, ``after``     the rows of a stream, bytes (see :mod:`.contents`)
==================  ===============================  ===================================================

Anything wrong is answered in one line of plain text, with status 200: a page that looks again and again would
otherwise fill the console of the browser.
"""

from __future__ import annotations

import mimetypes
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probes.measurement import printable

from .contents import as_json
from .page import STATIC
from .runs import RunList, contents_of

if TYPE_CHECKING:
    from werkzeug import Request, Response

__all__ = ["Application", "static"]

HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}


class Application:
    """The routes as WSGI applications.

    Args:
        folders: The directory whose runs are shown, or the log directory of one; or several, by name.
    """

    def __init__(self, folders: Path | Mapping[str, Path]) -> None:
        self._runs = RunList(folders)

    def routes(self) -> dict[str, Callable[[Any, Any], Iterable[bytes]]]:
        """By path, each application."""
        answers = {
            "runs": lambda request: _json(self._runs.rows()),
            "catalogue": lambda request: _json(self._contents(request).catalogue()),
            "findings": lambda request: _json(self._contents(request).findings()),
            "stream": self._stream,
        }
        return {f"/api/{name}": _wsgi(answer) for name, answer in answers.items()}

    def _contents(self, request: Request) -> Any:
        name = request.args.get("run", "")
        try:
            return contents_of(self._runs.directory(name))
        except FileNotFoundError:
            raise FileNotFoundError(f"There is no run {name!r}.") from None

    def _stream(self, request: Request) -> Response:
        from werkzeug import Response

        name, after = request.args.get("name", ""), request.args.get("after", "0")
        if not after.isdecimal():
            raise ValueError(f"`after` must be a number of rows, got {after!r}.")
        try:
            data = self._contents(request).stream(name, int(after))
        except KeyError:
            raise FileNotFoundError(f"There is no stream {name!r}.") from None
        return Response(data, mimetype="application/octet-stream", headers=HEADERS)


def static(name: str) -> Callable[[Any, Any], Iterable[bytes]]:
    """An application that answers with one file of the viewer."""
    path = STATIC / name

    def answer(request: Request) -> Response:
        from werkzeug import Response

        kind = {".js": "text/javascript", ".css": "text/css"}.get(path.suffix) or mimetypes.guess_type(name)[0]
        return Response(path.read_bytes(), mimetype=kind, headers=HEADERS)

    return _wsgi(answer)


def _json(values: Any) -> Response:
    from werkzeug import Response

    return Response(as_json(values), mimetype="application/json", headers=HEADERS)


def _wsgi(answer: Callable[[Request], Response]) -> Callable[[Any, Any], Iterable[bytes]]:
    def application(environment: Any, start: Any) -> Iterable[bytes]:
        from werkzeug import Request, Response

        try:
            response = answer(Request(environment))
        except Exception as error:  # the reader of the page is told, whatever it is
            response = Response(printable(str(error)), mimetype="text/plain", headers=HEADERS)
        return response(environment, start)

    return application
