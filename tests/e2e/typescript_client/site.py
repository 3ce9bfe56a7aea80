"""Serve a folder on another origin, and simulate error responses of proxies."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

PROBLEM = "application/problem+json; charset=utf-8"
# The responses of /proxy/NAME: status, headers, body.
RESPONSES = {
    "html": (502, {"Content-Type": "text/html", "Retry-After": "7"}, "<h1>Bad Gateway</h1>"),
    "json": (403, {"Content-Type": "application/json"}, '{"title": "no", "errors": ["no"]}'),
    "empty": (504, {}, ""),
    "partial": (429, {"Content-Type": PROBLEM}, '{"title": "Slow down", "errors": {"a": 1}}'),
    "date": (503, {"Retry-After": "Fri, 01 Jan 2100 00:00:00 GMT"}, ""),
    "nonsense": (503, {"Content-Type": PROBLEM, "Retry-After": "soon"}, "null"),
}
REQUEST_ID = "id-of-the-proxy"


class _Handler(SimpleHTTPRequestHandler):
    closing: Event
    actions: Mapping[str, Callable[[], None]]

    def do_GET(self) -> None:
        folder, _, rest = self.path.removeprefix("/").partition("/")
        name = rest.partition("/")[0] if folder in {"proxy", "control"} else ""
        if folder == "control":
            self.actions[name]()
            self._respond(200, {}, "")
        elif name == "never":
            self.closing.wait(20)
        elif name in {"stuck", "cut"}:
            self._respond(502, {"Content-Length": "9"}, "")
            self.closing.wait(20 if name == "stuck" else 0)
        elif name in RESPONSES:
            self._respond(*RESPONSES[name])
        else:
            super().do_GET()

    def _respond(self, status: int, headers: dict[str, str], body: str) -> None:
        self.send_response(status)
        defaults = {"X-Request-ID": REQUEST_ID, "Content-Length": str(len(body))}
        for header, value in {**defaults, **headers}.items():
            self.send_header(header, value)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is inherited
        """Log nothing."""


@contextmanager
def site(folder: Path, actions: Mapping[str, Callable[[], None]]) -> Iterator[str]:
    """Serve a folder, run an action for each request to /control/NAME, and yield the origin."""
    closing = Event()
    handler = type("Handler", (_Handler,), {"closing": closing, "actions": actions})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder)))
    thread = Thread(target=server.serve_forever, name="site")
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        closing.set()
        server.shutdown()
        server.server_close()
        thread.join(10)
