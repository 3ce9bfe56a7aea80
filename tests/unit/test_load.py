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

    def take(self) -> None:
        self.at.append(0.0)


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


class Asking(Looked):
    """A connection with a request that asks to be let in."""

    def __init__(self, load: Load) -> None:
        super().__init__()
        self.load = load
        self.admitted: bool | None = None

    def take(self) -> None:
        self.admitted = self.load.admits()


def pressed(at_once: int = 16) -> Load:
    """A process that has refused many, and now serves none."""
    load = load_of(0, 0, at_once)
    offer(load, at_once, times=100)
    load.tasks.clear()
    return load


def put_off(load: Load, count: int) -> list[Asking]:
    connections = [Asking(load) for _ in range(count)]
    for connection in connections:
        load.put_off(connection)
    return connections


async def test_the_last_that_was_put_off_comes_first_then_those_before_it_in_order() -> None:
    load, order = load_of(0, 0), []

    class Numbered(Looked):
        def take(self) -> None:
            order.append(numbers[self])

    numbers = {Numbered(): number for number in range(300)}
    for connection in numbers:
        load.put_off(connection)
    turns = []
    for _ in range(8):
        await asyncio.sleep(0)
        turns.append(order.copy())
        order.clear()
    expected = [[299], range(128), [298], range(128, 256), [297], range(256, 297), [], []]
    assert turns == [list(turn) for turn in expected]


async def test_the_last_is_let_in_and_those_that_waited_longer_are_not() -> None:
    connections = put_off(pressed(), 3)
    await asyncio.sleep(0)
    assert [each.admitted for each in connections] == [None, None, True]
    await asyncio.sleep(0)
    assert [each.admitted for each in connections] == [False, False, True]


async def test_what_comes_after_the_last_is_not_refused_with_those_before_it() -> None:
    load = pressed()
    put_off(load, 2)
    await asyncio.sleep(0)
    (later,) = put_off(load, 1)
    await asyncio.sleep(0)
    assert later.admitted is None
    await asyncio.sleep(0)
    assert later.admitted is True


async def test_the_turn_of_those_that_waited_leaves_nothing_behind() -> None:
    load = pressed()
    put_off(load, 2)
    for _ in range(2):
        await asyncio.sleep(0)
    assert load.admits() is True


async def test_those_that_waited_are_let_in_where_most_no_longer_are_refused() -> None:
    load = pressed()
    connections = put_off(load, 3)
    await asyncio.sleep(0)
    load._refused_share = 0.5
    await asyncio.sleep(0)
    assert [each.admitted for each in connections] == [True] * 3


@pytest.mark.parametrize(("others", "admitted"), [(31, True), (32, False)])
async def test_a_process_that_is_behind_with_its_refusals_serves_one_at_once(
    others: int, *, admitted: bool
) -> None:
    load = pressed(at_once=16)
    load.tasks = cast("Any", {1})
    *_, last = put_off(load, others + 1)
    await asyncio.sleep(0)
    assert last.admitted is admitted


async def test_a_process_that_is_behind_serves_one_all_the_same() -> None:
    *_, last = put_off(pressed(at_once=16), 100)
    await asyncio.sleep(0)
    assert last.admitted is True


class Faulty(Looked):
    """A connection that fails when it takes what it has read."""

    def take(self) -> None:
        raise KeyError


@pytest.mark.parametrize("at", [0, 1, 2], ids=["the first", "another", "the last"])
async def test_a_fault_of_one_that_was_put_off_is_not_the_others(at: int) -> None:
    load, told = pressed(), []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    connections = [Looked() for _ in range(3)]
    connections[at] = Faulty()
    for each in connections:
        load.put_off(each)
    for _ in range(4):
        await asyncio.sleep(0)
    assert [each.at for each in connections if not isinstance(each, Faulty)] == [[0.0]] * 2
    assert load.admits() is True
    assert [type(context["exception"]) for context in told] == [KeyError]


async def test_one_that_is_put_off_later_has_its_turn_too() -> None:
    load, connection = load_of(0, 0), Looked()
    for times in (1, 2):
        load.put_off(connection)
        await asyncio.sleep(0)
        assert connection.at == [0.0] * times


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
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: next(clock))
    assert [await server.on_tick(1) for _ in range(5)] == [False] * 5
    server.should_exit = True
    assert await server.on_tick(1) is True
    monkeypatch.undo()
    assert connection.at == [1.0, 2.0, 3.0, 4.0]


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
