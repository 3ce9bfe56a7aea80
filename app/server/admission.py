"""Admission: how many requests a process handles concurrently, and the response to the others."""

from __future__ import annotations

from collections.abc import Iterable
from sys import maxsize
from typing import Protocol, cast

import msgspec
from uvicorn.protocols.http.httptools_impl import STATUS_LINE
from uvicorn.server import ServerState

from app.http.cors import CORSPolicy
from app.http.headers import CommonHeaders
from app.http.problems import MEDIA_TYPE, Overloaded, RequestTimeout
from app.logging import log
from app.server.cycle import RequestCycle
from app.server.transport import CoalescingTransport

RATE_WINDOW = 0.1
# Parts of the configured limit that apply while requests queue, and under sustained overload, but
# not below the minimum. A browser opens six connections.
QUEUED_DIVISOR, MIN_QUEUED_LIMIT = 4, 8
SATURATED_DIVISOR, MIN_SATURATED_LIMIT = 64, 2
MAX_UNSENT_BYTES = 33_554_432
MAX_INCOMPLETE_BYTES = 33_554_432

# Placeholders in the response that is encoded here once.
_ID_PLACEHOLDER, _TRACE_PLACEHOLDER = "id-of-the-request", "trace-of-the-request"
_PROBLEM = Overloaded()
_HEADERS = {
    "Content-Type": MEDIA_TYPE,
    **_PROBLEM.headers,
    **CommonHeaders(_ID_PLACEHOLDER).to_dict(),
}
_BEFORE_ID, _, _AFTER_ID = msgspec.json.encode(
    _PROBLEM.to_problem(_ID_PLACEHOLDER, _TRACE_PLACEHOLDER)
).partition(_ID_PLACEHOLDER.encode())
_BEFORE_TRACE, _, _AFTER_TRACE = _AFTER_ID.partition(msgspec.json.encode(_TRACE_PLACEHOLDER))
_HEAD_TEMPLATE = (
    STATUS_LINE[_PROBLEM.status]
    + "".join(f"{name.lower()}: {value}\r\n" for name, value in _HEADERS.items()).encode()
).split(_ID_PLACEHOLDER.encode())


def saturated_limit(limit: int) -> int:
    """The limit of concurrent requests under sustained overload."""
    return min(limit, max(MIN_SATURATED_LIMIT, limit // SATURATED_DIVISOR))


def queued_limit(limit: int) -> int:
    """The limit of concurrent requests while requests queue."""
    return min(limit, max(MIN_QUEUED_LIMIT, limit // QUEUED_DIVISOR))


class TimedConnection(Protocol):
    """A connection that knows what it waits for."""

    def check_timeout(self, now: float) -> None:
        """End it where it has waited too long at `now`, in seconds."""


class Window:
    """The requests that were judged in a stretch of RATE_WINDOW."""

    def __init__(self, ends: float) -> None:
        """Count from zero."""
        self.ends_at = ends
        self.accepted = 0
        self.rejected = 0
        self.least_active = maxsize  # requests in progress when one was judged
        self.connections: set[int] = set()

    def is_saturated(self, limit: int) -> bool:
        """Whether more requests were rejected than accepted, and the full limit could not help.

        As many connections as the limit never have more requests in progress than the limit. So
        what the lowered limit rejects of them is no sign of overload.
        """
        return self.rejected > self.accepted and len(self.connections) > limit


class AdmissionControl(ServerState):
    """What the connections of a process share."""

    def __init__(self, limit: int, cors: CORSPolicy) -> None:
        """`limit` is that of concurrent requests; `cors` says which pages may read a rejection."""
        super().__init__()
        self.max_concurrent_requests = limit
        self.cors = cors
        # Without health checks, and without requests that wait for their client.
        self.in_progress: set[object] = set()
        self.rejected_total = 0
        self._logged_total = 0
        self._window = Window(ends=float("-inf"))
        self._was_saturated = False  # in the window before
        self._is_queueing = False
        self._write_blocked: dict[CoalescingTransport, None] = {}  # the longest blocked first
        self._incomplete: dict[RequestCycle, int] = {}  # bytes of bodies, the first to begin first
        self._incomplete_bytes = 0

    def try_admit(self, connection: object, now: float) -> bool:
        """Whether a request of this connection may start `now`, by the clock of the loop."""
        window, active = self._current_window(now), len(self.in_progress)
        window.connections.add(id(connection))
        window.least_active = min(window.least_active, active)
        admitted = active < self._current_limit(window)
        window.accepted += admitted
        window.rejected += not admitted
        self.rejected_total += not admitted
        return admitted

    def _current_limit(self, window: Window) -> int:
        """The limit under sustained overload, while requests queue, or else the configured one.

        A few concurrent requests keep the processor busy, and each is done sooner (Little's law:
        time is number over throughput).
        """
        if self._was_saturated or window.is_saturated(self.max_concurrent_requests):
            return saturated_limit(self.max_concurrent_requests)
        if self._is_queueing and len(self.connections) > self.max_concurrent_requests:
            return queued_limit(self.max_concurrent_requests)
        return self.max_concurrent_requests

    def _current_window(self, now: float) -> Window:
        """The window of `now`, and what the one before it says.

        A burst leaves before a window ends. Requests queue from a window in which always so many
        were in progress, until one is judged when none is: a queue that stays makes each request
        slower and serves no more of them (CoDel, RFC 8289).
        """
        window = self._window
        if now >= window.ends_at:
            is_next = now < window.ends_at + RATE_WINDOW
            queue = 1 if self._is_queueing else queued_limit(self.max_concurrent_requests)
            self._is_queueing = is_next and window.least_active >= queue
            self._was_saturated = is_next and window.is_saturated(self.max_concurrent_requests)
            window = self._window = Window(now + RATE_WINDOW)
        return window

    def write_blocked(self, transport: CoalescingTransport) -> None:
        """Note that a client does not read, and bound what is unsent over all connections.

        The connections that have been blocked longest are aborted, but never the last one.
        """
        self._write_blocked[transport] = None
        unsent = sum(each.held_bytes() for each in self._write_blocked)
        while unsent > MAX_UNSENT_BYTES and len(self._write_blocked) > 1:
            longest = next(iter(self._write_blocked))
            unsent -= longest.held_bytes()
            self.write_resumed(longest)
            longest.abort()

    def write_resumed(self, transport: CoalescingTransport) -> None:
        """Note that a client reads again, or is gone."""
        self._write_blocked.pop(transport, None)

    def body_received(self, cycle: RequestCycle, size: int) -> None:
        """Note content of an incomplete body, and bound what is held over all connections.

        The requests whose bodies began first fail, but never the last one.
        """
        self._incomplete[cycle] = self._incomplete.get(cycle, 0) + size
        self._incomplete_bytes += size
        while self._incomplete_bytes > MAX_INCOMPLETE_BYTES and len(self._incomplete) > 1:
            first = next(iter(self._incomplete))
            self.body_ended(first)
            first.fail(RequestTimeout())

    def body_ended(self, cycle: RequestCycle) -> None:
        """Note that a body is complete, or that nobody waits for the rest."""
        self._incomplete_bytes -= self._incomplete.pop(cycle, 0)

    def check_timeouts(self, now: float) -> None:
        """End what has waited too long at `now`, and log how many requests were rejected.

        One line for many rejections: a line for each would cost more than the rejection.
        """
        for connection in list(self.connections):
            cast("TimedConnection", connection).check_timeout(now)
        if self.rejected_total > self._logged_total:
            log.warning(
                "overloaded",
                rejected=self.rejected_total - self._logged_total,
                limit=self.max_concurrent_requests,
            )
            self._logged_total = self.rejected_total


def overloaded_response(
    request_id: str,
    trace_id: str | None,
    fields: Iterable[tuple[bytes, bytes]] = (),
    *,
    has_body: bool = True,
    keep_alive: bool = True,
) -> bytes:
    """The whole response to a rejected request, with these further header fields."""
    own_id, trace = request_id.encode(), msgspec.json.encode(trace_id)
    body = b"".join((_BEFORE_ID, own_id, _BEFORE_TRACE, trace, _AFTER_TRACE))
    return b"%b%bcontent-length: %d\r\n%b\r\n%b" % (
        own_id.join(_HEAD_TEMPLATE),
        b"".join(b"%b: %b\r\n" % field for field in fields),
        len(body),
        b"" if keep_alive else b"connection: close\r\n",
        body if has_body else b"",
    )
