"""How many requests are served at once, and the bytes of a refusal."""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast

import pytest
from structlog.testing import capture_logs
from uvicorn import Config

from app.cors import Cors
from app.httpd import Server
from app.load import Load, refusal

pytestmark = pytest.mark.requirement("FR-047")


class Looked:
    """A connection that remembers when it was looked at."""

    def __init__(self) -> None:
        self.at: list[float] = []

    def look(self, now: float) -> None:
        self.at.append(now)


def load_of(tasks: int, waiting: int, at_once: int = 3) -> Load:
    load = Load(at_once, Cors(()))
    load.tasks = cast("Any", set(range(tasks)))
    load.waiting = {Looked() for _ in range(waiting)}
    return load


@pytest.mark.parametrize(
    ("tasks", "waiting", "admitted"),
    [
        (0, 0, True),
        (2, 0, True),
        (3, 0, False),
        (4, 0, False),
        (3, 1, True),
        (5, 2, False),
    ],
)
def test_as_many_are_served_as_may_be_but_for_those_that_wait_for_their_client(
    tasks: int, waiting: int, *, admitted: bool
) -> None:
    load = load_of(tasks, waiting)
    assert load.admits() is admitted
    assert load.refused == (not admitted)


def offer(load: Load, tasks: int, times: int = 1) -> list[bool]:
    """Offer requests while so many are being served; which of them were admitted."""
    load.tasks = cast("Any", set(range(tasks)))
    return [load.admits() for _ in range(times)]


@pytest.mark.parametrize(("at_once", "part"), [(32, 4), (16, 2), (15, 1), (8, 1), (3, 1), (1, 1)])
def test_where_most_requests_are_refused_an_eighth_is_served_at_once(
    at_once: int, part: int
) -> None:
    load = load_of(0, 0, at_once)
    offer(load, at_once, times=100)
    assert offer(load, part) == [False]
    assert offer(load, part - 1) == [True]


def test_half_of_the_last_requests_are_some_two_dozen() -> None:
    load = load_of(0, 0, at_once=16)
    assert not any(offer(load, 16, times=21))
    assert offer(load, 15) == [True]
    assert not any(offer(load, 16, times=3))
    assert offer(load, 15) == [False]


@pytest.mark.parametrize(("times", "is_pressed"), [(21, False), (22, True)])
def test_a_process_is_pressed_after_that_many_refusals(times: int, *, is_pressed: bool) -> None:
    load = load_of(0, 0, at_once=16)
    offer(load, 16, times)
    assert load.is_pressed is is_pressed


def test_where_fewer_are_refused_all_are_served_at_once_again() -> None:
    load = load_of(0, 0, at_once=16)
    offer(load, 16, times=1_000)
    assert all(offer(load, 0, times=21))
    assert offer(load, 15) == [False]
    assert all(offer(load, 0, times=3))
    assert offer(load, 15) == [True]


def test_exactly_half_is_not_yet_most() -> None:
    load = load_of(0, 0, at_once=16)
    load._refused_share = 0.5
    assert offer(load, 15) == [True]


def test_every_refusal_counts() -> None:
    load = load_of(3, 0)
    assert [load.admits() for _ in range(3)] == [False] * 3
    assert load.refused == 3


def test_each_connection_is_looked_at() -> None:
    load, connections = load_of(0, 0), [Looked(), Looked()]
    load.connections = cast("Any", set(connections))
    load.look(7.0)
    assert [connection.at for connection in connections] == [[7.0], [7.0]]


def test_refusals_are_told_together_and_once() -> None:
    load = load_of(0, 0)
    with capture_logs() as lines:
        load.look(1.0)
        load.refused = 5
        load.look(2.0)
        load.look(3.0)
        load.refused = 7
        load.look(4.0)
    assert lines == [
        {"event": "overloaded", "log_level": "warning", "refused": 5, "at_once": 3},
        {"event": "overloaded", "log_level": "warning", "refused": 2, "at_once": 3},
    ]


async def test_the_server_looks_every_second_and_when_it_leaves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = Server(Config(cast("Any", None), log_config=None), load_of(0, 0))
    connection = Looked()
    server.load.connections = cast("Any", {connection})
    clock = iter([10.0, 10.1, 10.9, 11.0, 13.0, 13.1])

    async def read_nothing() -> None: ...

    monkeypatch.setattr("app.httpd._poll", read_nothing)  # the loop would ask for the time as well
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: next(clock))
    assert [await server.on_tick(1) for _ in range(5)] == [False] * 5
    server.should_exit = True
    assert await server.on_tick(1) is True
    monkeypatch.undo()
    assert connection.at == [10.0, 11.0, 13.0, 13.1]


def test_a_refusal_is_a_whole_answer() -> None:
    head, _, body = refusal("mine", None).partition(b"\r\n\r\n")
    assert head.decode().split("\r\n") == [
        "HTTP/1.1 503 Service Unavailable",
        "content-type: application/problem+json",
        "retry-after: 1",
        "x-request-id: mine",
        "x-content-type-options: nosniff",
        "cache-control: private, no-cache",
        f"content-length: {len(body)}",
    ]
    assert json.loads(body) == {
        "type": "/problems/overloaded",
        "title": "The service is overloaded",
        "status": 503,
        "detail": "Too many requests are being served. Nothing was done; try again shortly.",
        "instance": "mine",
        "trace_id": None,
        "errors": [],
    }


def test_a_refusal_names_the_trace() -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    assert json.loads(refusal("mine", trace).partition(b"\r\n\r\n")[2])["trace_id"] == trace


def test_further_fields_and_the_end_of_the_connection_stand_in_its_head() -> None:
    fields = [(b"a", b"b"), (b"c", b"d")]
    head = refusal("mine", None, fields, keep_alive=False).partition(b"\r\n\r\n")[0]
    assert b"\r\na: b\r\nc: d\r\n" in head
    assert head.endswith(b"\r\nconnection: close")


def test_a_refusal_without_a_body_tells_the_length_all_the_same() -> None:
    whole, head = refusal("mine", None), refusal("mine", None, has_body=False)
    assert whole.startswith(head)
    assert head.endswith(b"\r\n\r\n")
