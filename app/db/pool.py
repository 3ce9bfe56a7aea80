"""Connections to the database: how they are opened, kept and replaced (research.md, D38, D47).

Nothing here repeats a statement: what was sent once is never sent again. Instants are the monotonic
clock's, in seconds.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from itertools import count
from time import monotonic
from typing import Any

import asyncpg
from asyncpg import Record
from asyncpg import exceptions as pg
from asyncpg.prepared_stmt import PreparedStatement

# A fast restart or a failover is over by then. A longer outage is answered at once, so that
# requests do not pile up behind a database that is away.
BRIDGED_SECONDS = 1.5
AGAIN_SECONDS = 0.1
# The driver has the server cancel what still runs, and says farewell. When the server says nothing
# at all this comes on top of the request's own limit.
CLOSE_SECONDS = 0.15
PREPARED_AT_MOST = 100  # statements of one connection

# An InternalClientError where the server has said that it ends a connection and not yet ended it.
_OF_THE_DRIVER = (pg.PostgresError, pg.InterfaceError, pg.InternalClientError, OSError)


class UnreachableError(Exception):
    """No connection could be opened; `cause` tells why."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__()
        self.cause = cause


class StatementError(Exception):
    """The server refused a statement, or the connection broke under it; `cause` tells why."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__()
        self.cause = cause


class BusyError(TimeoutError):
    """Every connection was in use for all of the time there was."""


# By class or code (PostgreSQL's documentation, appendix A): lost connections, a transaction that
# should not be open, statements that are prepared no longer or twice, an ended session, and an
# internal error, after which the state of the session is unknown.
_OF_THE_CONNECTION = ("08", "25", "26", "34", "42P05", "57P", "XX000")


def is_of_connection(error: BaseException) -> bool:
    """Whether the server says that the connection is at fault, and not the statement alone."""
    severity = getattr(error, "severity_en", None) or getattr(error, "severity", None)
    if severity in {"FATAL", "PANIC"} or isinstance(error, pg.InvalidCachedStatementError):
        return True
    return str(getattr(error, "sqlstate", None)).startswith(_OF_THE_CONNECTION)


def _is_of_statement(error: BaseException) -> bool:
    """Whether the server refused the statement, and waits for the next one.

    The driver refuses some with the same kind of error, without a severity. It may have prepared
    them by then, and the server keeps their locks until it is told that nothing more belongs to
    them.
    """
    if not isinstance(error, pg.PostgresError) or getattr(error, "severity", None) is None:
        return False
    return not is_of_connection(error)


class Connector:
    """Opens connections, and tries again while the database has only just gone away.

    On a connection that could not be opened no statement was sent, so none is made twice.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        """`options` are the keyword arguments of `asyncpg.connect`."""
        self._options = options
        self.away_since: float | None = None

    async def connect(self) -> asyncpg.Connection[Any]:
        """A connection; the caller bounds the time. Raises UnreachableError."""
        while True:
            try:
                opened: asyncpg.Connection[Any] = await asyncpg.connect(**self._options)
            except _OF_THE_DRIVER as error:
                now = monotonic()
                if self.away_since is None:
                    self.away_since = now
                if now - self.away_since >= BRIDGED_SECONDS:
                    raise UnreachableError(error) from None
                await asyncio.sleep(AGAIN_SECONDS)
            else:
                self.away_since = None
                return opened


class Kept:
    """A connection with the statements that were prepared on it.

    PostgreSQL plans a named statement once for all values, after a few executions. It plans an
    unnamed one for its values each time; the driver sends its text again, in the same round trip.
    """

    def __init__(self, driver: asyncpg.Connection[Any], *, named: bool = True) -> None:
        """It is heard and taken for the first time now."""
        self.driver = driver
        self.opened = self.heard = self.taken = monotonic()
        self._prepared: dict[str, PreparedStatement[Any]] = {}
        self._names = (f"statement_{number}" for number in count()) if named else None

    async def fetch(
        self, text: str, arguments: list[Any], deadline: float, *, named: bool = True
    ) -> list[Record]:
        """The rows of a statement. Raises what the driver does, and TimeoutError."""
        statement = self._prepared.get(text)
        if statement is not None:
            try:
                return await statement.fetch(*arguments, timeout=deadline - monotonic())
            except (pg.InvalidCachedStatementError, pg.InvalidSQLStatementNameError):
                # A migration changed the table, or the session was reset. The server has refused
                # the statement before it ran.
                self._prepared.clear()
        if len(self._prepared) >= PREPARED_AT_MOST:
            del self._prepared[next(iter(self._prepared))]
        name = next(self._names) if named and self._names else None
        statement = await self.driver.prepare(text, name=name, timeout=deadline - monotonic())
        self._prepared[text] = statement
        return await statement.fetch(*arguments, timeout=deadline - monotonic())


class Places:
    """So many places, which are handed on in the order in which they were waited for.

    asyncio's semaphore and its time limit would do; with 16 clients for ten places they took 6% of
    a request's processor time, three times what this does.
    """

    def __init__(self, number: int) -> None:
        """All of them are free."""
        self._free = number
        self._waiting = deque[asyncio.Future[None]]()

    async def take(self, seconds: float) -> None:
        """Take one. Raises BusyError when none came free in `seconds`."""
        if self._free:
            self._free -= 1
            return
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        timer = loop.call_later(seconds, _say_busy, turn)
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            # Who is cancelled in the moment of their turn has the place, and no use for it.
            if not turn.cancelled() and turn.exception() is None:
                self.give()
            raise
        finally:
            timer.cancel()

    def give(self) -> None:
        """Give one back: to whoever waits longest, so that nobody overtakes them."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1


def _say_busy(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_exception(BusyError())


class Pool:
    """At most so many connections; the one that was used last is used next.

    A connection is replaced before a statement is given it when it is too old, when it is dead, or
    when it is in doubt: nothing was heard on it since another, now lost, was taken. Where the other
    side went away without a word each of those would cost a request its whole time. After a
    statement was refused because the database is read-only, every connection that was open then is
    replaced: after a failover all of them lead to the standby.
    """

    def __init__(
        self, options: Mapping[str, Any], *, size: int, recycle: float, named: bool = True
    ) -> None:
        """`recycle` is the age in seconds at which a connection is replaced.

        `named` is whether a named statement is still there at the next use: not behind a pooler.
        """
        self._connector = Connector(options)
        self._size = size
        self._recycle = recycle
        self._named = named
        self._places = Places(size)
        self._used = 0
        self._idle: list[Kept] = []
        self._doubted = self._renewed = float("-inf")

    async def fetch(
        self, text: str, arguments: list[Any], seconds: float, *, named: bool = True
    ) -> list[Record]:
        """The rows of a statement, in one round trip where its connection knows it already.

        `named` is false for a statement that is to be planned for its values each time.

        Raises StatementError when the statement fails, UnreachableError when no connection could be
        opened for it, and TimeoutError after `seconds`, a BusyError where none was free in them.
        """
        now = monotonic()
        deadline = now + seconds
        await self._places.take(seconds)
        self._used += 1
        try:
            kept = await self._taken(now, deadline)
            try:
                rows = await kept.fetch(text, arguments, deadline, named=named)
            except BaseException as error:
                if isinstance(error, pg.ReadOnlySQLTransactionError):
                    self.renew()
                if _is_of_statement(error) and not kept.driver.is_closed():
                    self._give_back(kept)
                else:
                    await self._lose(kept)
                if isinstance(error, TimeoutError) or not isinstance(error, _OF_THE_DRIVER):
                    raise
                raise StatementError(error) from None
            self._give_back(kept)
            return rows
        finally:
            self._used -= 1
            self._places.give()

    def renew(self) -> None:
        """Replace every connection that is open now before its next use."""
        self._renewed = monotonic()

    async def close(self) -> None:
        """Close every connection that is not in use."""
        while self._idle:
            await _close(self._idle.pop())

    def used(self) -> int:
        """How many connections serve a request now."""
        return self._used

    def idle(self) -> int:
        """How many connections are open and wait for a request."""
        return len(self._idle)

    def most(self) -> int:
        """How many connections there may be."""
        return self._size

    async def _taken(self, now: float, deadline: float) -> Kept:
        """The warmest connection that is sound, else a new one."""
        while self._idle:
            kept = self._idle.pop()
            if kept.driver.is_closed():
                continue
            if kept.heard < self._doubted or kept.opened < self._renewed:
                kept.driver.terminate()
            elif now - kept.opened >= self._recycle:
                await _close(kept)
            else:
                kept.taken = now
                return kept
        async with asyncio.timeout(deadline - monotonic()):
            return Kept(await self._connector.connect(), named=self._named)

    def _give_back(self, kept: Kept) -> None:
        kept.heard = monotonic()
        self._idle.append(kept)

    async def _lose(self, kept: Kept) -> None:
        """Close a connection in whose statement something else than the statement went wrong."""
        self._doubted = max(self._doubted, kept.taken)
        await _close(kept)


async def _close(kept: Kept) -> None:
    with suppress(*_OF_THE_DRIVER):
        await kept.driver.close(timeout=CLOSE_SECONDS)
