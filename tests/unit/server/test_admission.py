"""Admission of requests, and the bytes of the response to those that are rejected."""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast

import pytest
from structlog.testing import capture_logs
from uvicorn import Config

from app.http.cors import CORSPolicy
from app.server.admission import (
    MAX_UNSENT_BYTES,
    RATE_WINDOW,
    AdmissionControl,
    overloaded_response,
    queued_limit,
)
from app.server.server import Server

pytestmark = pytest.mark.requirement("FR-047")


class Looked:
    """A connection that remembers when it was looked at."""

    def __init__(self) -> None:
        self.at: list[float] = []

    def check_timeout(self, now: float) -> None:
        self.at.append(now)


LIMIT = 64
LOWERED = 2
QUEUED = LIMIT // 4


def full_load(in_progress: int = LIMIT, limit: int = LIMIT) -> AdmissionControl:
    """A process with so many requests in progress."""
    load = AdmissionControl(limit, CORSPolicy(()))
    load.in_progress.update(range(in_progress))
    return load


def offer(load: AdmissionControl, now: float, connections: int, each: int = 1) -> int:
    """Send requests on so many connections; none ends meanwhile. Returns how many start."""
    admitted = 0
    for connection in CONNECTIONS[:connections] * each:
        if load.try_admit(connection, now):
            load.in_progress.add(object())
            admitted += 1
    return admitted


def capacity(load: AdmissionControl, now: float) -> int:
    """How many requests of one connection start when none is in progress."""
    load.in_progress.clear()
    return offer(load, now, connections=1, each=load.max_concurrent_requests)


# As many objects as there are connections in a test: their identity is what counts.
CONNECTIONS = [object() for _ in range(200)]


@pytest.mark.parametrize(("in_progress", "admitted"), [(0, 3), (2, 1), (3, 0), (4, 0)])
def test_requests_start_up_to_the_limit(in_progress: int, admitted: int) -> None:
    load = full_load(in_progress, limit=3)
    assert offer(load, 1.0, connections=3) == admitted
    assert load.rejected_total == 3 - admitted


@pytest.mark.parametrize(
    ("limit", "lowered"), [(1, 1), (2, 2), (16, 2), (128, 2), (192, 3), (10_000, 156)]
)
def test_the_lowered_limit_is_a_part_of_the_configured_one(limit: int, lowered: int) -> None:
    load = full_load(limit, limit)
    for connection in [object() for _ in range(2 * limit)]:
        assert not load.try_admit(connection, 1.0)
    assert capacity(load, 1.0) == lowered


def test_the_limit_is_lowered_while_most_requests_of_more_connections_are_rejected() -> None:
    load = full_load(0)
    assert offer(load, 1.0, connections=LIMIT) == LIMIT
    assert offer(load, 1.0, connections=LIMIT + 1, each=2) == 0
    assert capacity(load, 1.0) == LOWERED


def test_as_many_rejections_as_accepted_requests_are_no_overload() -> None:
    load = full_load(0)
    offer(load, 1.0, connections=2 * LIMIT)
    load.in_progress.clear()
    assert offer(load, 1.0, connections=LIMIT) == LIMIT


def test_no_more_connections_than_the_limit_are_no_overload() -> None:
    load = full_load()
    assert offer(load, 1.0, connections=LIMIT, each=10) == 0
    assert capacity(load, 1.0) == LIMIT


def test_the_limit_stays_lowered_from_one_window_to_the_next() -> None:
    load = full_load()
    for tick in range(100):
        assert offer(load, tick * RATE_WINDOW / 10, connections=200) == 0
        assert capacity(load, tick * RATE_WINDOW / 10) == LOWERED
        load.in_progress.update(range(LIMIT))


@pytest.mark.parametrize("silence", [2.01 * RATE_WINDOW, 1.0, 3600.0])
def test_silence_restores_the_limit_before_any_request_is_judged(silence: float) -> None:
    load = full_load()
    offer(load, 1.0, connections=200, each=100)
    assert capacity(load, 1.0 + silence) == LIMIT


def test_a_browser_restores_the_limit_though_it_never_pauses() -> None:
    load = full_load()
    offer(load, 1.0, connections=200, each=100)
    started = []
    for tick in range(1000):
        load.in_progress.clear()
        started.append(offer(load, 1.0 + tick * RATE_WINDOW / 100, connections=6))
    restored = started.index(6)
    assert restored <= 201  # ticks, of which two windows have 200
    assert set(started[restored:]) == {6}


def queueing_load(limit: int = LIMIT, connections: int = 2 * LIMIT) -> AdmissionControl:
    """A process in which requests queued for a window that ends at 1.0 seconds."""
    load = full_load(queued_limit(limit), limit)
    load.connections.update(cast("Any", CONNECTIONS[:connections]))
    load.try_admit(CONNECTIONS[0], 1.0 - RATE_WINDOW)
    return load


@pytest.mark.parametrize(
    ("limit", "queued"), [(1, 1), (6, 6), (16, 8), (32, 8), (128, 32), (10_000, 2500)]
)
def test_the_limit_while_requests_queue_is_a_part_of_the_configured_one(
    limit: int, queued: int
) -> None:
    assert queued_limit(limit) == queued


def test_the_limit_is_lowered_while_requests_queue() -> None:
    load = queueing_load()
    load.in_progress.remove(0)
    assert offer(load, 1.01, connections=200) == 1
    assert offer(load, 1.01 + RATE_WINDOW, connections=200) == 0


def test_a_queue_lasts_until_no_request_is_in_progress() -> None:
    load = queueing_load()
    load.in_progress = {0}
    assert offer(load, 1.01, connections=QUEUED) == QUEUED - 1
    load.in_progress = set()
    assert offer(load, 1.01 + RATE_WINDOW, connections=LIMIT) == QUEUED
    load.in_progress = set()
    load.try_admit(CONNECTIONS[0], 1.0 + 2 * RATE_WINDOW)
    assert offer(load, 1.01 + 3 * RATE_WINDOW, connections=LIMIT) == LIMIT


def test_fewer_requests_than_a_quarter_of_the_limit_are_no_queue() -> None:
    load = queueing_load()
    load.in_progress.remove(0)
    load.try_admit(CONNECTIONS[0], 1.0 - RATE_WINDOW / 2)
    assert offer(load, 1.01, connections=200) == LIMIT - QUEUED + 1


def test_no_more_connections_than_the_limit_are_no_queue() -> None:
    load = queueing_load(connections=LIMIT)
    assert offer(load, 1.01, connections=200) == LIMIT - QUEUED


def test_silence_ends_a_queue() -> None:
    load = queueing_load()
    assert offer(load, 1.0 + 2.01 * RATE_WINDOW, connections=200) == LIMIT - QUEUED


def test_bursts_up_to_the_limit_are_no_queue() -> None:
    load = full_load(0)
    load.connections.update(cast("Any", CONNECTIONS))
    for tick in range(20):
        load.in_progress.clear()
        assert offer(load, tick * RATE_WINDOW, connections=LIMIT) == LIMIT


def test_every_rejection_counts() -> None:
    load = full_load()
    offer(load, 1.0, connections=3)
    assert load.rejected_total == 3


class Transport:
    """A transport whose client has not read so many bytes."""

    def __init__(self, unsent: int) -> None:
        self.unsent = unsent
        self.aborted = False

    def held_bytes(self) -> int:
        return self.unsent

    def abort(self) -> None:
        self.aborted = True


def write_blocked(load: AdmissionControl, *unsent: int) -> list[Any]:
    """Transports that became blocked in this order."""
    transports: list[Any] = [Transport(size) for size in unsent]
    for transport in transports:
        load.write_blocked(transport)
    return transports


HALF = MAX_UNSENT_BYTES // 2


@pytest.mark.requirement("NFR-017")
@pytest.mark.parametrize(
    ("unsent", "aborted"),
    [
        ([HALF, HALF], [False, False]),
        ([HALF, HALF, 1], [True, False, False]),
        ([1, HALF, HALF], [True, False, False]),
        ([1, HALF, 2 * HALF], [True, True, False]),
        ([3 * HALF], [False]),
        ([1, 3 * HALF], [True, False]),
    ],
    ids=str,
)
def test_above_the_limit_the_connections_blocked_longest_are_aborted(
    unsent: list[int], aborted: list[bool]
) -> None:
    transports = write_blocked(full_load(), *unsent)
    assert [transport.aborted for transport in transports] == aborted


@pytest.mark.requirement("NFR-017")
def test_a_client_that_reads_again_is_not_the_longest_blocked_any_more() -> None:
    load = full_load()
    first, second = write_blocked(load, HALF, HALF)
    for _ in range(2):
        load.write_resumed(first)
    load.write_blocked(first)
    write_blocked(load, 1)
    assert [first.aborted, second.aborted] == [False, True]


@pytest.mark.requirement("NFR-017")
def test_bytes_that_were_read_meanwhile_do_not_count() -> None:
    load = full_load()
    first, second = write_blocked(load, HALF, HALF)
    first.unsent = HALF - 1
    write_blocked(load, 1)
    assert not first.aborted
    assert not second.aborted


def test_each_connection_is_looked_at() -> None:
    load, connections = full_load(0, limit=3), [Looked(), Looked()]
    load.connections = cast("Any", set(connections))
    load.check_timeouts(7.0)
    assert [connection.at for connection in connections] == [[7.0], [7.0]]


def test_refusals_are_told_together_and_once() -> None:
    load = full_load(0, limit=3)
    with capture_logs() as lines:
        load.check_timeouts(1.0)
        load.rejected_total = 5
        load.check_timeouts(2.0)
        load.check_timeouts(3.0)
        load.rejected_total = 7
        load.check_timeouts(4.0)
    assert lines == [
        {"event": "overloaded", "log_level": "warning", "rejected": 5, "limit": 3},
        {"event": "overloaded", "log_level": "warning", "rejected": 2, "limit": 3},
    ]


async def test_the_server_looks_every_second_and_when_it_leaves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = Server(Config(cast("Any", None), log_config=None), full_load(0, limit=3))
    connection = Looked()
    server.admission.connections = cast("Any", {connection})
    clock = iter([10.0, 10.1, 10.9, 11.0, 13.0, 13.1])

    async def read_nothing() -> None: ...

    monkeypatch.setattr(
        "app.server.server._poll", read_nothing
    )  # the loop would ask for the time as well
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: next(clock))
    assert [await server.on_tick(1) for _ in range(5)] == [False] * 5
    server.should_exit = True
    assert await server.on_tick(1) is True
    monkeypatch.undo()
    assert connection.at == [10.0, 11.0, 13.0, 13.1]


def test_a_refusal_is_a_whole_answer() -> None:
    head, _, body = overloaded_response("mine", None).partition(b"\r\n\r\n")
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
    assert (
        json.loads(overloaded_response("mine", trace).partition(b"\r\n\r\n")[2])["trace_id"]
        == trace
    )


def test_further_fields_and_the_end_of_the_connection_stand_in_its_head() -> None:
    fields = [(b"a", b"b"), (b"c", b"d")]
    head = overloaded_response("mine", None, fields, keep_alive=False).partition(b"\r\n\r\n")[0]
    assert b"\r\na: b\r\nc: d\r\n" in head
    assert head.endswith(b"\r\nconnection: close")


def test_a_refusal_without_a_body_tells_the_length_all_the_same() -> None:
    whole, head = (
        overloaded_response("mine", None),
        overloaded_response("mine", None, has_body=False),
    )
    assert whole.startswith(head)
    assert head.endswith(b"\r\n\r\n")
