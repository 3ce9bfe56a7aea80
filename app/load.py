"""Admission: how many requests a process handles concurrently, and the response to the others."""

from __future__ import annotations

from collections.abc import Iterable
from sys import maxsize
from typing import Protocol, cast

import msgspec
from uvicorn.protocols.http.httptools_impl import STATUS_LINE
from uvicorn.server import ServerState

from app.cors import Cors
from app.cycle import Cycle
from app.fields import OnEveryResponse
from app.joined import Joined
from app.logs import log
from app.problems import MEDIA_TYPE, Overloaded, RequestTimeout

WINDOW_SECONDS = 0.1
# Parts of the configured limit that apply while requests queue, and under sustained overload, but
# not below the minimum. A browser opens six connections.
QUEUED_PARTS, QUEUED_AT_LEAST = 4, 8
LOWERED_PARTS, LOWERED_AT_LEAST = 64, 2
UNSENT_BYTES_AT_MOST = 33_554_432
INCOMPLETE_BYTES_AT_MOST = 33_554_432

# Placeholders in the response that is encoded here once.
_ID, _TRACE = "id-of-the-request", "trace-of-the-request"
_PROBLEM = Overloaded()
_FIELDS = {
    "Content-Type": MEDIA_TYPE,
    **_PROBLEM.headers,
    **OnEveryResponse(_ID).named(),
}
_BEFORE_ID, _, _AFTER_ID = msgspec.json.encode(_PROBLEM.body(_ID, _TRACE)).partition(_ID.encode())
_BEFORE_TRACE, _, _AFTER_TRACE = _AFTER_ID.partition(msgspec.json.encode(_TRACE))
_HEAD = (
    STATUS_LINE[_PROBLEM.status]
    + "".join(f"{name.lower()}: {value}\r\n" for name, value in _FIELDS.items()).encode()
).split(_ID.encode())


def lowered_limit(limit: int) -> int:
    """The limit of concurrent requests under sustained overload."""
    return min(limit, max(LOWERED_AT_LEAST, limit // LOWERED_PARTS))


def queued_limit(limit: int) -> int:
    """The limit of concurrent requests while requests queue."""
    return min(limit, max(QUEUED_AT_LEAST, limit // QUEUED_PARTS))


class Connection(Protocol):
    """A connection that knows what it waits for."""

    def look(self, now: float) -> None:
        """End it where it has waited too long at `now`, in seconds."""


class Window:
    """The requests that were judged in a stretch of WINDOW_SECONDS."""

    def __init__(self, ends: float) -> None:
        """Count from zero."""
        self.ends = ends
        self.accepted = 0
        self.rejected = 0
        self.least_active = maxsize  # requests in progress when one was judged
        self.connections: set[int] = set()

    def is_overloaded(self, limit: int) -> bool:
        """Whether more requests were rejected than accepted, and the full limit could not help.

        As many connections as the limit never have more requests in progress than the limit. So
        what the lowered limit rejects of them is no sign of overload.
        """
        return self.rejected > self.accepted and len(self.connections) > limit


class Load(ServerState):
    """What the connections of a process share."""

    def __init__(self, limit: int, cors: Cors) -> None:
        """`limit` is that of concurrent requests; `cors` says which pages may read a rejection."""
        super().__init__()
        self.limit = limit
        self.cors = cors
        # Without health checks, and without requests that wait for their client.
        self.in_progress: set[object] = set()
        self.rejected = 0
        self._logged = 0
        self._window = Window(ends=float("-inf"))
        self._was_overloaded = False  # in the window before
        self._is_queueing = False
        self._write_blocked: dict[Joined, None] = {}  # the longest blocked first
        self._incomplete: dict[Cycle, int] = {}  # bytes of bodies, the first to begin first
        self._incomplete_bytes = 0

    def admits(self, connection: object, now: float) -> bool:
        """Whether a request of this connection may start `now`, by the clock of the loop."""
        window, active = self._window_at(now), len(self.in_progress)
        window.connections.add(id(connection))
        window.least_active = min(window.least_active, active)
        admitted = active < self._current_limit(window)
        window.accepted += admitted
        window.rejected += not admitted
        self.rejected += not admitted
        return admitted

    def _current_limit(self, window: Window) -> int:
        """The limit under sustained overload, while requests queue, or else the configured one.

        A few concurrent requests keep the processor busy, and each is done sooner (Little's law:
        time is number over throughput).
        """
        if self._was_overloaded or window.is_overloaded(self.limit):
            return lowered_limit(self.limit)
        if self._is_queueing and len(self.connections) > self.limit:
            return queued_limit(self.limit)
        return self.limit

    def _window_at(self, now: float) -> Window:
        """The window of `now`, and what the one before it says.

        A burst leaves before a window ends. Requests queue from a window in which always so many
        were in progress, until one is judged when none is: a queue that stays makes each request
        slower and serves no more of them (CoDel, RFC 8289).
        """
        window = self._window
        if now >= window.ends:
            is_next = now < window.ends + WINDOW_SECONDS
            queue = 1 if self._is_queueing else queued_limit(self.limit)
            self._is_queueing = is_next and window.least_active >= queue
            self._was_overloaded = is_next and window.is_overloaded(self.limit)
            window = self._window = Window(now + WINDOW_SECONDS)
        return window

    def write_blocked(self, transport: Joined) -> None:
        """Note that a client does not read, and bound what is unsent over all connections.

        The connections that have been blocked longest are aborted, but never the last one.
        """
        self._write_blocked[transport] = None
        unsent = sum(each.held_bytes() for each in self._write_blocked)
        while unsent > UNSENT_BYTES_AT_MOST and len(self._write_blocked) > 1:
            longest = next(iter(self._write_blocked))
            unsent -= longest.held_bytes()
            self.write_resumed(longest)
            longest.abort()

    def write_resumed(self, transport: Joined) -> None:
        """Note that a client reads again, or is gone."""
        self._write_blocked.pop(transport, None)

    def body_received(self, cycle: Cycle, size: int) -> None:
        """Note content of an incomplete body, and bound what is held over all connections.

        The requests whose bodies began first fail, but never the last one.
        """
        self._incomplete[cycle] = self._incomplete.get(cycle, 0) + size
        self._incomplete_bytes += size
        while self._incomplete_bytes > INCOMPLETE_BYTES_AT_MOST and len(self._incomplete) > 1:
            first = next(iter(self._incomplete))
            self.body_ended(first)
            first.fail(RequestTimeout())

    def body_ended(self, cycle: Cycle) -> None:
        """Note that a body is complete, or that nobody waits for the rest."""
        self._incomplete_bytes -= self._incomplete.pop(cycle, 0)

    def look(self, now: float) -> None:
        """End what has waited too long at `now`, and log how many requests were rejected.

        One line for many rejections: a line for each would cost more than the rejection.
        """
        for connection in list(self.connections):
            cast("Connection", connection).look(now)
        if self.rejected > self._logged:
            log.warning("overloaded", rejected=self.rejected - self._logged, limit=self.limit)
            self._logged = self.rejected


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
        own_id.join(_HEAD),
        b"".join(b"%b: %b\r\n" % field for field in fields),
        len(body),
        b"" if keep_alive else b"connection: close\r\n",
        body if has_body else b"",
    )
