"""SIGTERM: requests sent before the client sees the shutdown still get a response."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from time import monotonic

import httpx
import pytest

from app.asgi import create_app
from app.cli import create_server
from app.server.protocol import DRAIN_TIMEOUT
from app.server.server import _accept_pending
from app.settings import Settings
from tests.support.client import assert_problem, tasks_of
from tests.support.live import read_response, request, serve_in_thread
from tests.support.process import eventually, is_port_closed, serving

pytestmark = [pytest.mark.requirement("NFR-015"), pytest.mark.usefixtures("database")]

ALIVE = request("GET", "/livez")
CREATE = request("POST", tasks_of("alice"), "Content-Type: application/json", body=b'{"title":"x"}')


@contextmanager
def opened(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        yield connection


def assert_last(response: httpx.Response, status: int) -> None:
    assert response.status_code == status
    assert response.headers["connection"] == "close"


def test_idle_connection_gets_one_more_response_and_close(database_url: str) -> None:
    with serving(DATABASE_URL=database_url) as service:
        port = int(httpx.URL(service.url).port or 0)
        with opened(port) as idle, opened(port) as incomplete, opened(port) as new:
            for connection in (idle, incomplete):
                connection.sendall(ALIVE)
                assert read_response(connection).status_code == 200
            incomplete.sendall(CREATE[:20])
            service.process.send_signal(signal.SIGTERM)
            eventually(lambda: is_port_closed(port))
            for connection in (idle, new):
                connection.sendall(CREATE)
                assert_last(read_response(connection, "POST"), 201)
            # An incomplete request keeps its connection longer than an idle one.
            eventually(lambda: is_closed(idle))
            incomplete.settimeout(DRAIN_TIMEOUT)
            with pytest.raises(TimeoutError):
                incomplete.recv(1)
            incomplete.settimeout(10)
            incomplete.sendall(CREATE[20:])
            assert_last(read_response(incomplete, "POST"), 201)
        assert service.process.wait(10) == 0


def is_closed(connection: socket.socket) -> bool:
    return connection.recv(1) == b""


def test_idle_connection_is_closed_soon(database_url: str) -> None:
    with serving(DATABASE_URL=database_url) as service:
        with opened(int(httpx.URL(service.url).port or 0)) as idle:
            idle.sendall(ALIVE)
            assert read_response(idle).status_code == 200
            started_at = monotonic()
            service.process.send_signal(signal.SIGTERM)
            assert is_closed(idle)
            assert DRAIN_TIMEOUT * 0.9 < monotonic() - started_at < DRAIN_TIMEOUT + 3
        assert service.process.wait(10) == 0


async def test_unaccepted_connection_is_served(settings: Settings) -> None:
    server = create_server(create_app(settings), settings)
    server.config.load()
    server.lifespan = server.config.lifespan_class(server.config)
    server.servers = []
    await server.lifespan.startup()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)  # noqa: FBT003 - signature of socket
        port = listener.getsockname()[1]
        with opened(port) as waiting:  # only the kernel accepts: no event loop polls the listener
            waiting.sendall(ALIVE)
            ending = asyncio.create_task(server.shutdown([listener]))
            assert_last(await asyncio.to_thread(read_response, waiting), 200)
            await ending
        assert is_port_closed(port)


def test_accept_queue_is_drained_without_blocking() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)  # noqa: FBT003 - signature of socket
        with opened(listener.getsockname()[1]):
            (accepted,) = _accept_pending(listener)
            assert accepted.gettimeout() == 0
            accepted.close()


def test_request_over_the_shutdown_timeout_gets_a_problem(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.cli.GRACEFUL_SHUTDOWN_TIMEOUT", 0.2)
    with ExitStack() as stack:
        with serve_in_thread(settings) as live:
            slow = stack.enter_context(live.connect())
            slow.sendall(CREATE[:-1])
            assert (
                live.call("GET", "/livez").status_code == 200
            )  # the server has also read the first request
        response = read_response(slow, "POST")
    live.contract.check("POST", tasks_of("alice"), response)
    assert_problem(response, 500, "internal-error")
