"""Connections to the database: how they are opened, kept and replaced (research/0038, 0047).

Nothing here repeats a statement: what was sent once is never sent again. Instants are the monotonic
clock's, in seconds.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from itertools import count
from time import monotonic
from typing import Any

import asyncpg
from asyncpg import Record
from asyncpg import exceptions as pg
from asyncpg.prepared_stmt import PreparedStatement

# A fast restart or a failover is over by then. A longer outage is answered at once, so that
# requests do not pile up behind a database that is away.
CONNECT_RETRY_WINDOW = 1.5
CONNECT_RETRY_INTERVAL = 0.1
# The driver has the server cancel what still runs, and says farewell. When the server says nothing
# at all this comes on top of the request's own limit.
CLOSE_TIMEOUT = 0.15
STATEMENT_CACHE_SIZE = 100  # statements of one connection

# An InternalClientError where the server has said that it ends a connection and not yet ended it.
_DRIVER_ERRORS = (pg.PostgresError, pg.InterfaceError, pg.InternalClientError, OSError)


class ConnectError(Exception):
    """No connection could be opened; `cause` tells why."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__()
        self.cause = cause


class QueryError(Exception):
    """The server refused a statement, or the connection broke under it; `cause` tells why."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__()
        self.cause = cause


class PoolTimeoutError(TimeoutError):
    """Every connection was in use for all of the time there was."""


# By class or code (PostgreSQL's documentation, appendix A): lost connections, a transaction that
# should not be open, statements that are prepared no longer or twice, an ended session, and an
# internal error, after which the state of the session is unknown.
_CONNECTION_SQLSTATES = ("08", "25", "26", "34", "42P05", "57P", "XX000")


def is_connection_error(error: BaseException) -> bool:
    """Whether the server says that the connection is at fault, and not the statement alone."""
    severity = getattr(error, "severity_en", None) or getattr(error, "severity", None)
    if severity in {"FATAL", "PANIC"} or isinstance(error, pg.InvalidCachedStatementError):
        return True
    return str(getattr(error, "sqlstate", None)).startswith(_CONNECTION_SQLSTATES)


def is_statement_error(error: BaseException) -> bool:
    """Whether the server refused the statement, and waits for the next one.

    The driver refuses some with the same kind of error, without a severity. It may have prepared
    them by then, and the server keeps their locks until it is told that nothing more belongs to
    them.
    """
    if not isinstance(error, pg.PostgresError) or getattr(error, "severity", None) is None:
        return False
    return not is_connection_error(error)


class ConnectionFactory:
    """Opens connections, and tries again while the database has only just gone away.

    On a connection that could not be opened no statement was sent, so none is made twice.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        """`options` are the keyword arguments of `asyncpg.connect`."""
        self._options = options
        self.unavailable_since: float | None = None

    async def connect(self) -> asyncpg.Connection[Any]:
        """A connection; the caller bounds the time. Raises ConnectError."""
        while True:
            try:
                opened: asyncpg.Connection[Any] = await asyncpg.connect(**self._options)
            except _DRIVER_ERRORS as error:
                now = monotonic()
                if self.unavailable_since is None:
                    self.unavailable_since = now
                if now - self.unavailable_since >= CONNECT_RETRY_WINDOW:
                    raise ConnectError(error) from None
                await asyncio.sleep(CONNECT_RETRY_INTERVAL)
            else:
                self.unavailable_since = None
                return opened


class PooledConnection:
    """A connection with the statements that were prepared on it.

    PostgreSQL plans a named statement once for all values, after a few executions. It plans an
    unnamed one for its values each time; the driver sends its text again, in the same round trip.
    """

    def __init__(self, connection: asyncpg.Connection[Any], *, named: bool = True) -> None:
        """It is heard and taken for the first time now."""
        self.connection = connection
        self.opened_at = self.last_used_at = self.acquired_at = monotonic()
        self._statement_cache: dict[str, PreparedStatement[Any]] = {}
        # For sessions: SQLAlchemy's view of the connection, and whether it found it unusable.
        self.adapted: Any = None
        self.is_invalid = False
        self._names = (f"statement_{number}" for number in count()) if named else None

    async def fetch(
        self, sql: str, arguments: list[Any], deadline: float, *, named: bool = True
    ) -> list[Record]:
        """The rows of a statement. Raises what the driver does, and TimeoutError."""
        statement = self._statement_cache.get(sql)
        if statement is not None:
            try:
                return await statement.fetch(*arguments, timeout=deadline - monotonic())
            except (pg.InvalidCachedStatementError, pg.InvalidSQLStatementNameError):
                # A migration changed the table, or the session was reset. The server has refused
                # the statement before it ran.
                self._statement_cache.clear()
        if len(self._statement_cache) >= STATEMENT_CACHE_SIZE:
            del self._statement_cache[next(iter(self._statement_cache))]
        name = next(self._names) if named and self._names else None
        statement = await self.connection.prepare(sql, name=name, timeout=deadline - monotonic())
        self._statement_cache[sql] = statement
        return await statement.fetch(*arguments, timeout=deadline - monotonic())


class _Semaphore:
    """So many places, which are handed on in the order in which they were waited for.

    asyncio's semaphore and its time limit would do; with 16 clients for ten places they took 6% of
    a request's processor time, three times what this does.
    """

    def __init__(self, number: int) -> None:
        """All of them are free."""
        self._available = number
        self._waiting = deque[asyncio.Future[None]]()

    async def acquire(self, timeout: float) -> None:
        """Take one. Raises PoolTimeoutError when none came free in `seconds`."""
        if self._available:
            self._available -= 1
            return
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        timer = loop.call_later(timeout, _expire_waiter, turn)
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            # Who is cancelled in the moment of their turn has the place, and no use for it.
            if not turn.cancelled() and turn.exception() is None:
                self.release()
            raise
        finally:
            timer.cancel()

    def release(self) -> None:
        """Give one back: to whoever waits longest, so that nobody overtakes them."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._available += 1


def _expire_waiter(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_exception(PoolTimeoutError())


class ConnectionPool:
    """At most so many connections; the one that was used last is used next.

    A connection is replaced before a statement is given it when it is too old, when it is dead, or
    when it is in doubt: nothing was heard on it since another, now lost, was taken. Where the other
    side went away without a word each of those would cost a request its whole time. After a
    statement was refused because the database is read-only, every connection that was open then is
    replaced: after a failover all of them lead to the standby.
    """

    def __init__(
        self, options: Mapping[str, Any], *, size: int, max_lifetime: float, named: bool = True
    ) -> None:
        """`max_lifetime` is the age in seconds at which a connection is replaced.

        `named` is whether a named statement is still there at the next use: not behind a pooler.
        """
        self._factory = ConnectionFactory(options)
        self._size = size
        self._max_lifetime = max_lifetime
        self._named = named
        self._slots = _Semaphore(size)
        self._in_use = 0
        self._idle: list[PooledConnection] = []
        self._suspect_before = self._replace_before = float("-inf")

    async def fetch(
        self, sql: str, arguments: list[Any], timeout: float, *, named: bool = True
    ) -> list[Record]:
        """The rows of a statement, in one round trip where its connection knows it already.

        `named` is false for a statement that is to be planned for its values each time.

        Raises QueryError when the statement fails, ConnectError when no connection could be
        opened for it, and TimeoutError after `timeout`, a PoolTimeoutError where none was free.
        """
        now = monotonic()
        deadline = now + timeout
        await self._slots.acquire(timeout)
        self._in_use += 1
        try:
            kept = await self._acquire(now, deadline)
            try:
                rows = await kept.fetch(sql, arguments, deadline, named=named)
            except BaseException as error:
                if isinstance(error, pg.ReadOnlySQLTransactionError):
                    self.replace_connections()
                if is_statement_error(error) and not kept.connection.is_closed():
                    self._release(kept)
                else:
                    await self._discard(kept)
                if isinstance(error, TimeoutError) or not isinstance(error, _DRIVER_ERRORS):
                    raise
                raise QueryError(error) from None
            self._release(kept)
            return rows
        finally:
            self._in_use -= 1
            self._slots.release()

    @asynccontextmanager
    async def connection(self, timeout: float) -> AsyncGenerator[PooledConnection]:
        """A connection for several statements. No other request has it meanwhile.

        It goes back to the pool unless it is closed, invalid or still in a transaction.
        """
        now = monotonic()
        await self._slots.acquire(timeout)
        self._in_use += 1
        try:
            kept = await self._acquire(now, now + timeout)
            try:
                yield kept
            finally:
                raw = kept.connection
                if raw.is_closed() or kept.is_invalid or raw.is_in_transaction():
                    await self._discard(kept)
                else:
                    self._release(kept)
        finally:
            self._in_use -= 1
            self._slots.release()

    def replace_connections(self) -> None:
        """Replace every connection that is open now before its next use."""
        self._replace_before = monotonic()

    async def close(self) -> None:
        """Close every connection that is not in use."""
        while self._idle:
            await _close(self._idle.pop())

    def in_use(self) -> int:
        """How many connections serve a request now."""
        return self._in_use

    def idle_count(self) -> int:
        """How many connections are open and wait for a request."""
        return len(self._idle)

    def max_size(self) -> int:
        """How many connections there may be."""
        return self._size

    async def _acquire(self, now: float, deadline: float) -> PooledConnection:
        """The warmest connection that is sound, else a new one."""
        while self._idle:
            kept = self._idle.pop()
            if kept.connection.is_closed():
                continue
            if kept.last_used_at < self._suspect_before or kept.opened_at < self._replace_before:
                kept.connection.terminate()
            elif now - kept.opened_at >= self._max_lifetime:
                await _close(kept)
            else:
                kept.acquired_at = now
                return kept
        async with asyncio.timeout(deadline - monotonic()):
            return PooledConnection(await self._factory.connect(), named=self._named)

    def _release(self, kept: PooledConnection) -> None:
        kept.last_used_at = monotonic()
        self._idle.append(kept)

    async def _discard(self, kept: PooledConnection) -> None:
        """Close a connection in whose statement something else than the statement went wrong."""
        self._suspect_before = max(self._suspect_before, kept.acquired_at)
        await _close(kept)


async def _close(kept: PooledConnection) -> None:
    with suppress(*_DRIVER_ERRORS):
        await kept.connection.close(timeout=CLOSE_TIMEOUT)
