"""Admission control: limit concurrent requests and reject the others with 503.

Contract: `503 /problems/overloaded` with `Retry-After`.
"""

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
# The divisors lower the configured limit while requests queue and under sustained overload. The
# minimum of 8 covers the six connections that a browser opens.
QUEUED_DIVISOR, MIN_QUEUED_LIMIT = 4, 8
SATURATED_DIVISOR, MIN_SATURATED_LIMIT = 64, 2
MAX_UNSENT_BYTES = 33_554_432
MAX_INCOMPLETE_BYTES = 33_554_432

# Placeholders for the IDs: the response is encoded once, at import.
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
    """Return the limit of concurrent requests under sustained overload."""
    return min(limit, max(MIN_SATURATED_LIMIT, limit // SATURATED_DIVISOR))


def queued_limit(limit: int) -> int:
    """Return the limit of concurrent requests while requests queue."""
    return min(limit, max(MIN_QUEUED_LIMIT, limit // QUEUED_DIVISOR))


class TimedConnection(Protocol):
    """A connection with timeouts."""

    def check_timeout(self, now: float) -> None:
        """End the connection if a timeout has passed; `now` is the loop's clock in seconds."""


class Window:
    """Admission decisions during one RATE_WINDOW (seconds)."""

    def __init__(self, ends_at: float) -> None:
        self.ends_at = ends_at
        self.accepted = 0
        self.rejected = 0
        self.min_in_progress = maxsize  # at the decisions
        self.connections: set[int] = set()

    def is_saturated(self, limit: int) -> bool:
        """Return whether most requests were rejected, over more connections than the limit.

        A connection has at most one request in progress. Up to `limit` connections therefore never
        exceed the limit: rejections by a lowered limit are then no sign of overload.
        """
        return self.rejected > self.accepted and len(self.connections) > limit


class AdmissionControl(ServerState):
    """Server state that all connections of a process share.

    `limit` is the maximum number of concurrent requests. `cors` provides the CORS headers of a
    rejection.
    """

    def __init__(self, limit: int, cors: CORSPolicy) -> None:
        super().__init__()
        self.max_concurrent_requests = limit
        self.cors = cors
        # Health checks and requests that are blocked on their client do not count.
        self.in_progress: set[object] = set()
        self.rejected_total = 0
        self._logged_total = 0
        self._window = Window(ends_at=float("-inf"))
        self._was_saturated = False  # in the previous window
        self._is_queueing = False
        self._write_blocked: dict[CoalescingTransport, None] = {}  # in order of blocking
        self._incomplete: dict[RequestCycle, int] = {}  # received body bytes, in order of arrival
        self._incomplete_bytes = 0

    def try_admit(self, connection: object, now: float) -> bool:
        """Count a request and return whether it may start; `now` is the loop's clock in seconds."""
        window, in_progress = self._current_window(now), len(self.in_progress)
        window.connections.add(id(connection))
        window.min_in_progress = min(window.min_in_progress, in_progress)
        admitted = in_progress < self._current_limit(window)
        window.accepted += admitted
        window.rejected += not admitted
        self.rejected_total += not admitted
        return admitted

    def _current_limit(self, window: Window) -> int:
        """Return the limit for the current load.

        Under load, a lower limit shortens response times without lowering throughput. By Little's
        law, response time is concurrency divided by throughput.
        """
        if self._was_saturated or window.is_saturated(self.max_concurrent_requests):
            return saturated_limit(self.max_concurrent_requests)
        if self._is_queueing and len(self.connections) > self.max_concurrent_requests:
            return queued_limit(self.max_concurrent_requests)
        return self.max_concurrent_requests

    def _current_window(self, now: float) -> Window:
        """Return the window of `now`; when a window ends, evaluate it.

        Requests queue after a window in which `queued_limit` requests or more were always in
        progress. Queueing ends when a decision sees no request in progress. A short burst clears
        within one window. A standing queue adds delay without throughput (CoDel, RFC 8289).
        """
        window = self._window
        if now >= window.ends_at:
            is_adjacent = now < window.ends_at + RATE_WINDOW
            threshold = 1 if self._is_queueing else queued_limit(self.max_concurrent_requests)
            self._is_queueing = is_adjacent and window.min_in_progress >= threshold
            self._was_saturated = is_adjacent and window.is_saturated(self.max_concurrent_requests)
            window = self._window = Window(now + RATE_WINDOW)
        return window

    def write_blocked(self, transport: CoalescingTransport) -> None:
        """Register a write-blocked connection and bound the unsent bytes of all of them.

        Above MAX_UNSENT_BYTES, the connections that have been blocked longest are aborted, except
        the last one.
        """
        self._write_blocked[transport] = None
        unsent = sum(blocked.held_bytes() for blocked in self._write_blocked)
        while unsent > MAX_UNSENT_BYTES and len(self._write_blocked) > 1:
            longest = next(iter(self._write_blocked))
            unsent -= longest.held_bytes()
            self.write_resumed(longest)
            longest.abort()

    def write_resumed(self, transport: CoalescingTransport) -> None:
        """Unregister a connection whose client reads again or has disconnected."""
        self._write_blocked.pop(transport, None)

    def body_received(self, cycle: RequestCycle, size: int) -> None:
        """Count `size` received body bytes and bound the bytes of all incomplete bodies.

        Above MAX_INCOMPLETE_BYTES, the requests whose bodies began first fail with
        `408 /problems/request-timeout`, except the last one.
        """
        self._incomplete[cycle] = self._incomplete.get(cycle, 0) + size
        self._incomplete_bytes += size
        while self._incomplete_bytes > MAX_INCOMPLETE_BYTES and len(self._incomplete) > 1:
            first = next(iter(self._incomplete))
            self.body_ended(first)
            first.fail(RequestTimeout())

    def body_ended(self, cycle: RequestCycle) -> None:
        """Stop counting a body that is complete or no longer awaited."""
        self._incomplete_bytes -= self._incomplete.pop(cycle, 0)

    def check_timeouts(self, now: float) -> None:
        """End timed-out connections and log the number of new rejections.

        Rejections share one log line: a line for each would take longer than the rejection.
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
    headers: Iterable[tuple[bytes, bytes]] = (),
    *,
    has_body: bool = True,
    keep_alive: bool = True,
) -> bytes:
    """Return the bytes of the response to a rejected request; `headers` are added to it."""
    encoded_id, encoded_trace = request_id.encode(), msgspec.json.encode(trace_id)
    body = b"".join((_BEFORE_ID, encoded_id, _BEFORE_TRACE, encoded_trace, _AFTER_TRACE))
    return b"%b%bcontent-length: %d\r\n%b\r\n%b" % (
        encoded_id.join(_HEAD_TEMPLATE),
        b"".join(b"%b: %b\r\n" % header for header in headers),
        len(body),
        b"" if keep_alive else b"connection: close\r\n",
        body if has_body else b"",
    )
