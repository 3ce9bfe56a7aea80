"""How connections are opened and kept, where SQLAlchemy's pool alone would fail requests (D38).

Nothing here repeats a statement: what was sent once is never sent again.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Any

import asyncpg
from asyncpg import exceptions as pg
from sqlalchemy import Engine, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.pool import ConnectionPoolEntry

# A fast restart or a failover is over by then. A longer outage is answered at once, so that
# requests do not pile up behind a database that is away.
BRIDGED_SECONDS = 1.5
AGAIN_SECONDS = 0.1


class UnreachableError(Exception):
    """No connection could be opened; `cause` tells why."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__()
        self.cause = cause


class Connector:
    """Opens connections, and tries again while the database has only just gone away.

    On a connection that could not be opened no statement was sent, so none is made twice. What is
    raised then is of a kind that SQLAlchemy does not put into words of its own.
    """

    def __init__(self) -> None:
        self.away_since: float | None = None

    async def connect(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401 - asyncpg's own
        """A connection, as `asyncpg.connect` makes it; the caller bounds the time.

        Raises UnreachableError.
        """
        while True:
            try:
                opened = await asyncpg.connect(*args, **options)
            except (OSError, pg.PostgresError, pg.InterfaceError) as error:
                now = monotonic()
                if self.away_since is None:
                    self.away_since = now
                if now - self.away_since >= BRIDGED_SECONDS:
                    raise UnreachableError(error) from None
                await asyncio.sleep(AGAIN_SECONDS)
            else:
                self.away_since = None
                return opened


class Watch:
    """Replaces a connection that is dead, or may be, before a request is given it.

    Dead is one whose end asyncpg has seen, which costs no round trip, unlike SQLAlchemy's pre-ping.
    In doubt is one that nothing was heard on since another, now lost, was given out: where the
    other side went away without a word each of them would cost a request its whole time.

    Instants are the monotonic clock's. SQLAlchemy's own are the time of day, by which the
    connections of a pool that was invalidated before the clock was set back stay invalid.
    """

    def __init__(self, engine: Engine) -> None:
        self.doubted = float("-inf")
        event.listen(engine, "connect", self.hear)
        event.listen(engine, "checkout", self.give_out)
        event.listen(engine, "checkin", self.hear)
        event.listen(engine, "invalidate", self.lose)
        event.listen(engine, "handle_error", self.keep_others)

    def hear(self, dbapi_connection: object, record: ConnectionPoolEntry) -> None:
        """Note that a connection, unless it was lost, has just answered."""
        if dbapi_connection is not None:
            record.info["heard"] = monotonic()

    def give_out(self, dbapi_connection: Any, record: ConnectionPoolEntry, _: object) -> None:  # noqa: ANN401 - the driver's
        """Refuse a connection that is dead or in doubt; the pool then opens another."""
        if dbapi_connection.driver_connection.is_closed() or record.info["heard"] < self.doubted:
            raise DisconnectionError
        record.info["given_out"] = monotonic()

    def lose(self, _: object, record: ConnectionPoolEntry, __: object) -> None:
        """Doubt every connection that was silent since this one was given out."""
        self.doubted = max(self.doubted, record.info.get("given_out", self.doubted))

    def keep_others(self, context: ExceptionContext) -> None:
        """Leave the others in the pool when one is lost: `give_out` looks at each."""
        context.invalidate_pool_on_disconnect = False
