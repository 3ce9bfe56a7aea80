"""The service behind a real socket, for requests that an HTTP client would not send."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Thread
from types import SimpleNamespace
from typing import Any, BinaryIO

import httpx
import msgspec

from app.asgi import create_app
from app.cli import create_server
from app.settings import Settings
from tests.support.client import ContractClient
from tests.support.contract_check import ContractCheck

TIMEOUT = 10


def request(method: str, target: str, *headers: str, body: bytes | None = None) -> bytes:
    """Return the bytes of a request. Its text is Latin-1, so that it can contain any byte."""
    length = [] if body is None else [f"Content-Length: {len(body)}"]
    lines = [f"{method} {target} HTTP/1.1", "Host: tasks.test", *headers, *length, "", ""]
    return "\r\n".join(lines).encode("latin-1") + (body or b"")


class PageContractCheck(ContractCheck):
    """Checks responses against the contract, except the HTML pages, which it does not contain."""

    def check(self, method: str, raw_path: str, response: httpx.Response) -> str | None:
        if raw_path == "/" or raw_path.startswith(("/docs", "/problems/")):
            return None
        return super().check(method, raw_path, response)


class Browser(ContractClient):
    """A contract client that can also request the HTML pages."""

    contract = PageContractCheck()


class LiveServer:
    contract = PageContractCheck()

    def __init__(self, port: int) -> None:
        self.port = port

    @contextmanager
    def connect(self) -> Iterator[socket.socket]:
        """Open a new connection."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=TIMEOUT) as connection:
            yield connection

    def call(
        self, method: str, target: str, *headers: str, body: bytes | None = None
    ) -> httpx.Response:
        """Send a request and check its response against the contract."""
        data = request(method, target, "Connection: close", *headers, body=body)
        return self.exchange(data, method=method, target=target)

    def exchange(
        self, data: bytes, *, method: str = "GET", target: str = "/livez", half_close: bool = False
    ) -> httpx.Response:
        """Send these bytes and check the response as that of `method` and `target`."""
        with self.connect() as connection:
            # The server may respond and close the connection before it has read everything.
            with suppress(ConnectionError):
                connection.sendall(data)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
            response = read_response(connection, method)
        self.contract.check(method, target, response)
        return response


class _Message(http.client.HTTPResponse):
    """A response on a stream that may already contain the next response."""

    def _close_conn(self) -> None:
        self.fp = None  # type: ignore[assignment]  # the stream stays open


def read_responses(connection: socket.socket, *methods: str) -> list[httpx.Response]:
    """Read the responses to requests with these methods, without 1xx responses."""
    with connection.makefile("rb") as stream:
        return [_read(stream, method) for method in methods]


def read_response(connection: socket.socket, method: str = "GET") -> httpx.Response:
    """Read the next response on a connection."""
    return read_responses(connection, method)[0]


def _read(stream: BinaryIO, method: str) -> httpx.Response:
    source: Any = SimpleNamespace(makefile=lambda _: stream)
    message = _Message(source, method=method)
    message.begin()
    content = message.read()
    return httpx.Response(message.status, headers=message.getheaders(), content=content)


@contextmanager
def serve_in_thread(settings: Settings, **plugins: Any) -> Iterator[LiveServer]:
    """Serve a new application with these settings in a thread, on a free port.

    The `composed` arguments are passed to `create_app`.
    """
    live_settings = msgspec.structs.replace(settings, port=0)
    server = create_server(create_app(live_settings, **plugins), live_settings)
    with server.config.bind_socket() as listener:
        listener.listen()  # clients that connect before the server runs wait in the accept queue
        thread = Thread(target=server.run, kwargs={"sockets": [listener]}, name="live")
        thread.start()
        try:
            yield LiveServer(listener.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join(TIMEOUT)
            assert not thread.is_alive()
