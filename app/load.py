"""How many requests a process serves at once, and what is answered to those beyond that."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Protocol, cast

import msgspec
import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE
from uvicorn.server import ServerState

from app.cors import Cors
from app.fields import OnEveryResponse
from app.logs import log
from app.problems import MEDIA_TYPE, Overloaded

LOOK_SECONDS = 1.0
_ID = "id-of-the-request"  # stands for it in what is encoded here once
_PROBLEM = Overloaded()
_FIELDS = {
    "Content-Type": MEDIA_TYPE,
    **_PROBLEM.headers,
    **OnEveryResponse(_ID).named(),
}
_BODY = msgspec.json.encode(_PROBLEM.body(_ID)).split(_ID.encode())
_HEAD = (
    STATUS_LINE[_PROBLEM.status]
    + "".join(f"{name.lower()}: {value}\r\n" for name, value in _FIELDS.items()).encode()
).split(_ID.encode())


class Connection(Protocol):
    """A connection that knows what it waits for."""

    def look(self, now: float) -> None:
        """End it where it has waited too long at `now`, in seconds of the loop's clock."""


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
        self._told = 0

    @property
    def is_full(self) -> bool:
        """Whether as many requests are being served as may be at once."""
        return len(self.tasks) - len(self.waiting) >= self.at_once

    def look(self, now: float) -> None:
        """End what has waited too long at `now`, and tell how many were refused since last time.

        One line for many refusals: a line for each would cost more than the refusal.
        """
        for connection in list(self.connections):
            cast("Connection", connection).look(now)
        if self.refused > self._told:
            log.warning("overloaded", refused=self.refused - self._told, at_once=self.at_once)
            self._told = self.refused


class Server(uvicorn.Server):
    """uvicorn's server, which looks at its connections every second."""

    def __init__(self, config: uvicorn.Config, load: Load) -> None:
        """Take the configuration and what the connections share."""
        super().__init__(config)
        self.server_state = self.load = load
        self.looked_at = 0.0

    async def on_tick(self, counter: int) -> bool:
        """Do what is to be done every tenth of a second; True ends the service.

        The clock says when a second is over: under load a tenth takes longer than that.
        """
        leaves = await super().on_tick(counter)
        now = asyncio.get_running_loop().time()
        if leaves or now >= self.looked_at + LOOK_SECONDS:
            self.looked_at = now
            self.load.look(now)
        return leaves


def refusal(
    request_id: bytes,
    fields: Iterable[tuple[bytes, bytes]] = (),
    *,
    has_body: bool = True,
    keep_alive: bool = True,
) -> bytes:
    """The whole answer to a request that is refused, with these further header fields."""
    body = request_id.join(_BODY)
    return b"%b%bcontent-length: %d\r\n%b\r\n%b" % (
        request_id.join(_HEAD),
        b"".join(b"%b: %b\r\n" % field for field in fields),
        len(body),
        b"" if keep_alive else b"connection: close\r\n",
        body if has_body else b"",
    )
