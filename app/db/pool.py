"""The connection pool: opens, reuses and replaces connections (research/0038, 0047).

The pool never sends a statement twice, except one that the server rejected before it ran. Times
are seconds of the monotonic clock.
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

# Long enough for a fast restart or a failover. During a longer outage requests fail immediately, so
# that they do not queue for an unavailable database.
CONNECT_RETRY_WINDOW = 1.5
CONNECT_RETRY_INTERVAL = 0.1
# The driver cancels the running statement and closes the connection gracefully. If the server does
# not respond, this time is added to the time limit of the request.
CLOSE_TIMEOUT = 0.15
STATEMENT_CACHE_SIZE = 100  # per connection

# asyncpg raises InternalClientError if the server announced the end of a connection that is still
# open.
_DRIVER_ERRORS = (pg.PostgresError, pg.InterfaceError, pg.InternalClientError, OSError)


class ConnectError(Exception):
    """No connection could be opened; `cause` is the error of the driver."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__()
        self.cause = cause


class QueryError(Exception):
    """The server rejected a statement, or its connection failed; `cause` is the driver's error."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__()
        self.cause = cause


class PoolTimeoutError(TimeoutError):
    """No connection became available within the time limit."""


# Prefixes of SQLSTATEs (PostgreSQL's documentation, appendix A): lost connection, unexpected
# transaction state, prepared statement missing or duplicate, terminated session, and internal
# error. After these the state of the session is unknown.
_CONNECTION_SQLSTATES = ("08", "25", "26", "34", "42P05", "57P", "XX000")


def is_connection_error(error: BaseException) -> bool:
    """Return whether an error of the server makes the connection unusable."""
    severity = getattr(error, "severity_en", None) or getattr(error, "severity", None)
    if severity in {"FATAL", "PANIC"} or isinstance(error, pg.InvalidCachedStatementError):
        return True
    return str(getattr(error, "sqlstate", None)).startswith(_CONNECTION_SQLSTATES)


def is_statement_error(error: BaseException) -> bool:
    """Return whether the server rejected the statement and the connection stays usable.

    The driver rejects some statements with the same exception, but without a severity. Their
    connection is not usable: the server may keep the locks of a statement that it has prepared.
    """
    if not isinstance(error, pg.PostgresError) or getattr(error, "severity", None) is None:
        return False
    return not is_connection_error(error)


class ConnectionFactory:
    """Opens connections, and retries for `CONNECT_RETRY_WINDOW` after the first failure.

    The retry is safe, because no statement was sent. `options` are the keyword arguments of
    `asyncpg.connect`.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = options
        self.unavailable_since: float | None = None

    async def connect(self) -> asyncpg.Connection[Any]:
        """Open a connection. The caller limits the time. Raises ConnectError."""
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
    """A connection with its prepared statements.

    PostgreSQL may plan a named statement once for all values, after a few executions. It plans an
    unnamed statement for its values each time. The driver then sends the SQL again, in the same
    round trip.
    """

    def __init__(self, connection: asyncpg.Connection[Any], *, named: bool = True) -> None:
        self.connection = connection
        self.opened_at = self.last_used_at = self.acquired_at = monotonic()
        self._statement_cache: dict[str, PreparedStatement[Any]] = {}
        # For sessions: SQLAlchemy's adapter, and whether SQLAlchemy found the connection unusable.
        self.adapted: Any = None
        self.is_invalid = False
        self._names = (f"statement_{number}" for number in count()) if named else None

    async def fetch(
        self, sql: str, arguments: list[Any], deadline: float, *, named: bool = True
    ) -> list[Record]:
        """Return the rows of a statement. Raises the driver's exceptions and TimeoutError."""
        statement = self._statement_cache.get(sql)
        if statement is not None:
            try:
                return await statement.fetch(*arguments, timeout=deadline - monotonic())
            except (pg.InvalidCachedStatementError, pg.InvalidSQLStatementNameError):
                # A migration changed the table, or the session was reset. The server rejected the
                # statement before it ran.
                self._statement_cache.clear()
        if len(self._statement_cache) >= STATEMENT_CACHE_SIZE:
            del self._statement_cache[next(iter(self._statement_cache))]
        name = next(self._names) if named and self._names else None
        statement = await self.connection.prepare(sql, name=name, timeout=deadline - monotonic())
        self._statement_cache[sql] = statement
        return await statement.fetch(*arguments, timeout=deadline - monotonic())


class _Semaphore:
    """A FIFO semaphore with a timeout.

    It takes a third of the CPU time of `asyncio.Semaphore` with `asyncio.timeout`. With 16 clients
    and ten slots, those took 6% of the CPU time of a request.
    """

    def __init__(self, size: int) -> None:
        self._available = size
        self._waiting = deque[asyncio.Future[None]]()

    async def acquire(self, timeout: float) -> None:
        """Acquire a slot. Raises PoolTimeoutError after `timeout` seconds."""
        if self._available:
            self._available -= 1
            return
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        timer = loop.call_later(timeout, _expire_waiter, waiter)
        self._waiting.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            # The slot may have been assigned to this waiter before the cancellation arrived.
            if not waiter.cancelled() and waiter.exception() is None:
                self.release()
            raise
        finally:
            timer.cancel()

    def release(self) -> None:
        """Release a slot to the waiter that has waited longest."""
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self._available += 1


def _expire_waiter(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_exception(PoolTimeoutError())


class ConnectionPool:
    """A pool of at most `size` connections. The most recently used connection is used first.

    Before reuse, a connection is replaced if it is closed, is older than `max_lifetime` seconds, or
    is suspect: it was last used before another connection was acquired that is now lost. After a
    silent network failure this costs one request its timeout, instead of one per connection.

    After a statement failed because the database is read-only, all open connections are replaced.
    After a failover they all lead to the standby.

    `options` are the keyword arguments of `asyncpg.connect`. `named` is false behind a transaction
    pooler, where a named statement may be missing at its next use.
    """

    def __init__(
        self, options: Mapping[str, Any], *, size: int, max_lifetime: float, named: bool = True
    ) -> None:
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
        """Return the rows of a statement. It takes one round trip if it is already prepared.

        `named` is false for a statement that PostgreSQL must plan for its values each time.

        Raises QueryError if the statement fails and ConnectError if no connection can be opened.
        Raises TimeoutError after `timeout` seconds, and its subclass PoolTimeoutError if no
        connection became available.
        """
        now = monotonic()
        deadline = now + timeout
        await self._slots.acquire(timeout)
        self._in_use += 1
        try:
            pooled = await self._acquire(now, deadline)
            try:
                rows = await pooled.fetch(sql, arguments, deadline, named=named)
            except BaseException as error:
                if isinstance(error, pg.ReadOnlySQLTransactionError):
                    self.replace_connections()
                if is_statement_error(error) and not pooled.connection.is_closed():
                    self._release(pooled)
                else:
                    await self._discard(pooled)
                if isinstance(error, TimeoutError) or not isinstance(error, _DRIVER_ERRORS):
                    raise
                raise QueryError(error) from None
            self._release(pooled)
            return rows
        finally:
            self._in_use -= 1
            self._slots.release()

    @asynccontextmanager
    async def connection(self, timeout: float) -> AsyncGenerator[PooledConnection]:
        """Acquire a connection for exclusive use in the block.

        After the block it returns to the pool, unless it is closed, invalid or still in a
        transaction. Raises ConnectError and TimeoutError.
        """
        now = monotonic()
        await self._slots.acquire(timeout)
        self._in_use += 1
        try:
            pooled = await self._acquire(now, now + timeout)
            try:
                yield pooled
            finally:
                raw = pooled.connection
                if raw.is_closed() or pooled.is_invalid or raw.is_in_transaction():
                    await self._discard(pooled)
                else:
                    self._release(pooled)
        finally:
            self._in_use -= 1
            self._slots.release()

    def replace_connections(self) -> None:
        """Replace every currently open connection before its next use."""
        self._replace_before = monotonic()

    async def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            await _close(self._idle.pop())

    def in_use(self) -> int:
        """Return the number of connections that a request uses."""
        return self._in_use

    def idle_count(self) -> int:
        """Return the number of open connections that no request uses."""
        return len(self._idle)

    def max_size(self) -> int:
        """Return the maximum number of connections."""
        return self._size

    async def _acquire(self, now: float, deadline: float) -> PooledConnection:
        """Return the most recently used healthy connection, or a new one."""
        while self._idle:
            pooled = self._idle.pop()
            if pooled.connection.is_closed():
                continue
            if (
                pooled.last_used_at < self._suspect_before
                or pooled.opened_at < self._replace_before
            ):
                pooled.connection.terminate()
            elif now - pooled.opened_at >= self._max_lifetime:
                await _close(pooled)
            else:
                pooled.acquired_at = now
                return pooled
        async with asyncio.timeout(deadline - monotonic()):
            return PooledConnection(await self._factory.connect(), named=self._named)

    def _release(self, pooled: PooledConnection) -> None:
        pooled.last_used_at = monotonic()
        self._idle.append(pooled)

    async def _discard(self, pooled: PooledConnection) -> None:
        """Close a failed connection. Those that were last used before are now suspect."""
        self._suspect_before = max(self._suspect_before, pooled.acquired_at)
        await _close(pooled)


async def _close(pooled: PooledConnection) -> None:
    with suppress(*_DRIVER_ERRORS):
        await pooled.connection.close(timeout=CLOSE_TIMEOUT)
