"""Admission control and the response to rejected requests."""

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


class CheckedConnection:
    """A connection that records when its timeout was checked."""

    def __init__(self) -> None:
        self.checked_at: list[float] = []

    def check_timeout(self, now: float) -> None:
        self.checked_at.append(now)


LIMIT = 64
LOWERED = 2
QUEUED = LIMIT // 4


def busy_admission(in_progress: int = LIMIT, limit: int = LIMIT) -> AdmissionControl:
    """Return an admission control with this many requests in progress."""
    admission = AdmissionControl(limit, CORSPolicy(()))
    admission.in_progress.update(range(in_progress))
    return admission


def offer(admission: AdmissionControl, now: float, connections: int, each: int = 1) -> int:
    """Start requests on this many connections. Return how many were admitted; none ends."""
    admitted = 0
    for connection in CONNECTIONS[:connections] * each:
        if admission.try_admit(connection, now):
            admission.in_progress.add(object())
            admitted += 1
    return admitted


def capacity(admission: AdmissionControl, now: float) -> int:
    """Return how many requests of one connection start when none is in progress."""
    admission.in_progress.clear()
    return offer(admission, now, connections=1, each=admission.max_concurrent_requests)


# Placeholders for connections. Only their identity matters.
CONNECTIONS = [object() for _ in range(200)]


@pytest.mark.parametrize(("in_progress", "admitted"), [(0, 3), (2, 1), (3, 0), (4, 0)])
def test_requests_start_up_to_the_limit(in_progress: int, admitted: int) -> None:
    admission = busy_admission(in_progress, limit=3)
    assert offer(admission, 1.0, connections=3) == admitted
    assert admission.rejected_total == 3 - admitted


@pytest.mark.parametrize(
    ("limit", "lowered"), [(1, 1), (2, 2), (16, 2), (128, 2), (192, 3), (10_000, 156)]
)
def test_lowered_limit_is_a_fraction_of_the_configured_limit(limit: int, lowered: int) -> None:
    admission = busy_admission(limit, limit)
    for connection in [object() for _ in range(2 * limit)]:
        assert not admission.try_admit(connection, 1.0)
    assert capacity(admission, 1.0) == lowered


def test_limit_is_lowered_while_most_requests_are_rejected() -> None:
    admission = busy_admission(0)
    assert offer(admission, 1.0, connections=LIMIT) == LIMIT
    assert offer(admission, 1.0, connections=LIMIT + 1, each=2) == 0
    assert capacity(admission, 1.0) == LOWERED


def test_equal_rejections_and_admissions_are_no_overload() -> None:
    admission = busy_admission(0)
    offer(admission, 1.0, connections=2 * LIMIT)
    admission.in_progress.clear()
    assert offer(admission, 1.0, connections=LIMIT) == LIMIT


def test_connections_up_to_the_limit_are_no_overload() -> None:
    admission = busy_admission()
    assert offer(admission, 1.0, connections=LIMIT, each=10) == 0
    assert capacity(admission, 1.0) == LIMIT


def test_limit_stays_lowered_between_windows() -> None:
    admission = busy_admission()
    for tick in range(100):
        assert offer(admission, tick * RATE_WINDOW / 10, connections=200) == 0
        assert capacity(admission, tick * RATE_WINDOW / 10) == LOWERED
        admission.in_progress.update(range(LIMIT))


@pytest.mark.parametrize("silence", [2.01 * RATE_WINDOW, 1.0, 3600.0])
def test_silence_restores_the_limit_before_the_next_request(silence: float) -> None:
    admission = busy_admission()
    offer(admission, 1.0, connections=200, each=100)
    assert capacity(admission, 1.0 + silence) == LIMIT


def test_continuous_browser_traffic_restores_the_limit() -> None:
    admission = busy_admission()
    offer(admission, 1.0, connections=200, each=100)
    started = []
    for tick in range(1000):
        admission.in_progress.clear()
        started.append(offer(admission, 1.0 + tick * RATE_WINDOW / 100, connections=6))
    restored = started.index(6)
    assert restored <= 201  # two windows have 200 ticks
    assert set(started[restored:]) == {6}


def queueing_admission(limit: int = LIMIT, connections: int = 2 * LIMIT) -> AdmissionControl:
    """Return an admission control whose requests queued for the window that ends at 1.0 s."""
    admission = busy_admission(queued_limit(limit), limit)
    admission.connections.update(cast("Any", CONNECTIONS[:connections]))
    admission.try_admit(CONNECTIONS[0], 1.0 - RATE_WINDOW)
    return admission


@pytest.mark.parametrize(
    ("limit", "queued"), [(1, 1), (6, 6), (16, 8), (32, 8), (128, 32), (10_000, 2500)]
)
def test_queued_limit_is_a_fraction_of_the_configured_limit(limit: int, queued: int) -> None:
    assert queued_limit(limit) == queued


def test_limit_is_lowered_while_requests_queue() -> None:
    admission = queueing_admission()
    admission.in_progress.remove(0)
    assert offer(admission, 1.01, connections=200) == 1
    assert offer(admission, 1.01 + RATE_WINDOW, connections=200) == 0


def test_queue_lasts_until_no_request_is_in_progress() -> None:
    admission = queueing_admission()
    admission.in_progress = {0}
    assert offer(admission, 1.01, connections=QUEUED) == QUEUED - 1
    admission.in_progress = set()
    assert offer(admission, 1.01 + RATE_WINDOW, connections=LIMIT) == QUEUED
    admission.in_progress = set()
    admission.try_admit(CONNECTIONS[0], 1.0 + 2 * RATE_WINDOW)
    assert offer(admission, 1.01 + 3 * RATE_WINDOW, connections=LIMIT) == LIMIT


def test_fewer_requests_than_a_quarter_of_the_limit_are_no_queue() -> None:
    admission = queueing_admission()
    admission.in_progress.remove(0)
    admission.try_admit(CONNECTIONS[0], 1.0 - RATE_WINDOW / 2)
    assert offer(admission, 1.01, connections=200) == LIMIT - QUEUED + 1


def test_connections_up_to_the_limit_are_no_queue() -> None:
    admission = queueing_admission(connections=LIMIT)
    assert offer(admission, 1.01, connections=200) == LIMIT - QUEUED


def test_silence_ends_a_queue() -> None:
    admission = queueing_admission()
    assert offer(admission, 1.0 + 2.01 * RATE_WINDOW, connections=200) == LIMIT - QUEUED


def test_bursts_up_to_the_limit_are_no_queue() -> None:
    admission = busy_admission(0)
    admission.connections.update(cast("Any", CONNECTIONS))
    for tick in range(20):
        admission.in_progress.clear()
        assert offer(admission, tick * RATE_WINDOW, connections=LIMIT) == LIMIT


def test_every_rejection_is_counted() -> None:
    admission = busy_admission()
    offer(admission, 1.0, connections=3)
    assert admission.rejected_total == 3


class Transport:
    """A transport whose client has not read this many bytes."""

    def __init__(self, unsent: int) -> None:
        self.unsent = unsent
        self.aborted = False

    def held_bytes(self) -> int:
        return self.unsent

    def abort(self) -> None:
        self.aborted = True


def write_blocked(admission: AdmissionControl, *unsent: int) -> list[Any]:
    """Return transports that became blocked in this order."""
    transports: list[Any] = [Transport(size) for size in unsent]
    for transport in transports:
        admission.write_blocked(transport)
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
def test_longest_blocked_connections_are_aborted_above_the_limit(
    unsent: list[int], aborted: list[bool]
) -> None:
    transports = write_blocked(busy_admission(), *unsent)
    assert [transport.aborted for transport in transports] == aborted


@pytest.mark.requirement("NFR-017")
def test_resumed_client_moves_to_the_end_of_the_blocked_queue() -> None:
    admission = busy_admission()
    first, second = write_blocked(admission, HALF, HALF)
    for _ in range(2):
        admission.write_resumed(first)
    admission.write_blocked(first)
    write_blocked(admission, 1)
    assert [first.aborted, second.aborted] == [False, True]


@pytest.mark.requirement("NFR-017")
def test_bytes_read_by_the_client_are_not_counted() -> None:
    admission = busy_admission()
    first, second = write_blocked(admission, HALF, HALF)
    first.unsent = HALF - 1
    write_blocked(admission, 1)
    assert not first.aborted
    assert not second.aborted


def test_every_connection_is_checked() -> None:
    admission, connections = busy_admission(0, limit=3), [CheckedConnection(), CheckedConnection()]
    admission.connections = cast("Any", set(connections))
    admission.check_timeouts(7.0)
    assert [connection.checked_at for connection in connections] == [[7.0], [7.0]]


def test_rejections_are_logged_once_in_batches() -> None:
    admission = busy_admission(0, limit=3)
    with capture_logs() as lines:
        admission.check_timeouts(1.0)
        admission.rejected_total = 5
        admission.check_timeouts(2.0)
        admission.check_timeouts(3.0)
        admission.rejected_total = 7
        admission.check_timeouts(4.0)
    assert lines == [
        {"event": "overloaded", "log_level": "warning", "rejected": 5, "limit": 3},
        {"event": "overloaded", "log_level": "warning", "rejected": 2, "limit": 3},
    ]


async def test_server_checks_timeouts_every_second_and_on_shutdown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = Server(Config(cast("Any", None), log_config=None), busy_admission(0, limit=3))
    connection = CheckedConnection()
    server.admission.connections = cast("Any", {connection})
    clock = iter([10.0, 10.1, 10.9, 11.0, 13.0, 13.1])

    async def poll_nothing() -> None: ...

    monkeypatch.setattr(
        "app.server.server._poll", poll_nothing
    )  # it would read the time of the loop as well
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: next(clock))
    assert [await server.on_tick(1) for _ in range(5)] == [False] * 5
    server.should_exit = True
    assert await server.on_tick(1) is True
    monkeypatch.undo()
    assert connection.checked_at == [10.0, 11.0, 13.0, 13.1]


def test_overloaded_response_is_complete() -> None:
    header_block, _, body = overloaded_response("mine", None).partition(b"\r\n\r\n")
    assert header_block.decode().split("\r\n") == [
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
        "title": "Service overloaded",
        "status": 503,
        "detail": "Too many concurrent requests. Nothing was changed. "
        "Retry after the number of seconds in `Retry-After`.",
        "instance": "mine",
        "trace_id": None,
        "errors": [],
    }


def test_overloaded_response_contains_the_trace_id() -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    assert (
        json.loads(overloaded_response("mine", trace).partition(b"\r\n\r\n")[2])["trace_id"]
        == trace
    )


def test_overloaded_response_has_extra_headers_and_connection_close() -> None:
    headers = [(b"a", b"b"), (b"c", b"d")]
    header_block = overloaded_response("mine", None, headers, keep_alive=False).partition(
        b"\r\n\r\n"
    )[0]
    assert b"\r\na: b\r\nc: d\r\n" in header_block
    assert header_block.endswith(b"\r\nconnection: close")


def test_overloaded_response_without_body_has_its_content_length() -> None:
    with_body, without_body = (
        overloaded_response("mine", None),
        overloaded_response("mine", None, has_body=False),
    )
    assert with_body.startswith(without_body)
    assert without_body.endswith(b"\r\n\r\n")
