"""How many requests a process serves at once, and what is answered to those beyond that."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, cast

import msgspec
from uvicorn.protocols.http.httptools_impl import STATUS_LINE
from uvicorn.server import ServerState

from app.cors import Cors
from app.fields import OnEveryResponse
from app.logs import log
from app.problems import MEDIA_TYPE, Overloaded

# Of so many requests before one, the later ones more, at which share of refusals the process is
# pressed, and into how many parts its number of requests at once is then divided.
REMEMBERED = 32
PRESSED = 0.5
PARTS = 8

# These stand for what differs in what is encoded here once.
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


class Connection(Protocol):
    """A connection that knows what it waits for."""

    def look(self, now: float) -> None:
        """End it where it has waited too long at `now`, in seconds."""


class Load(ServerState):
    """What the connections of a process share."""

    def __init__(self, at_once: int, cors: Cors) -> None:
        """`cors` says which pages may read that a request was refused."""
        super().__init__()
        self.at_once = at_once
        self.cors = cors
        # Whose request is being served, but waits for its client: slow clients take no place.
        self.waiting: set[Connection] = set()
        self.refused = 0
        self._refused_share = 0.0  # of the last requests
        self._told = 0

    @property
    def is_pressed(self) -> bool:
        """Whether most of the last requests were refused."""
        return self._refused_share > PRESSED

    def admits(self) -> bool:
        """Whether one more request may be served now; one that may not is counted."""
        refused = len(self.tasks) - len(self.waiting) >= self._at_once_now()
        self._refused_share += (refused - self._refused_share) / REMEMBERED
        self.refused += refused
        return not refused

    def _at_once_now(self) -> int:
        """How many may be served at once.

        Where most are refused, a part of what may be at once keeps the processor busy, and those
        that are served are done the sooner (Little's law: time is number over throughput).
        """
        return max(1, self.at_once // PARTS) if self.is_pressed else self.at_once

    def look(self, now: float) -> None:
        """End what has waited too long at `now`, and tell how many were refused since last time.

        One line for many refusals: a line for each would cost more than the refusal.
        """
        for connection in list(self.connections):
            cast("Connection", connection).look(now)
        if self.refused > self._told:
            log.warning("overloaded", refused=self.refused - self._told, at_once=self.at_once)
            self._told = self.refused


def refusal(
    request_id: str,
    trace_id: str | None,
    fields: Iterable[tuple[bytes, bytes]] = (),
    *,
    has_body: bool = True,
    keep_alive: bool = True,
) -> bytes:
    """The whole answer to a request that is refused, with these further header fields."""
    own_id, trace = request_id.encode(), msgspec.json.encode(trace_id)
    body = b"".join((_BEFORE_ID, own_id, _BEFORE_TRACE, trace, _AFTER_TRACE))
    return b"%b%bcontent-length: %d\r\n%b\r\n%b" % (
        own_id.join(_HEAD),
        b"".join(b"%b: %b\r\n" % field for field in fields),
        len(body),
        b"" if keep_alive else b"connection: close\r\n",
        body if has_body else b"",
    )
