"""The database: its pool, the one place that opens a session, and what its errors mean."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from time import monotonic
from types import TracebackType
from typing import Any

import asyncpg
from asyncpg import Record
from asyncpg import exceptions as pg
from sqlalchemy import ClauseElement, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, NullPool

from app.connection import Connection
from app.outage import Outage
from app.pool import Connector, UnreachableError, Watch
from app.problems import DatabaseUnavailable, Fault, InvalidBody
from app.session import Sessions
from app.statements import StatementError, as_sent, run

# Known here so that a request need not read the migrations; a test compares it with their head.
SCHEMA_REVISION = "0002"

REVISION = text("SELECT version_num FROM alembic_version")

# SQLAlchemy gives a connection whose statement was cancelled two seconds to end in good manners.
# When the server says nothing at all they come on top of the request's own limit.
CLOSE_SECONDS = 0.15
# Below the five minutes after which Neon suspends.
RECYCLE_SECONDS = 240
# A suspended database may take seconds to start, and nobody waits behind a migration.
MIGRATION_CONNECT_SECONDS = 15

UNDEFINED_TABLE = "42P01"
# By class, then by code (PostgreSQL's documentation, appendix A): what passes by itself.
# 08 connection, 53 resources (too many connections, disk full), 57 operator intervention
# (shutdown, statement timeout); deadlock, lock timeout, a standby, a schema not yet migrated,
# and XX000, which Neon's proxy answers while it starts the database.
TRANSIENT_CLASSES = {"08", "53", "57"}
TRANSIENT_CODES = {"40001", "40P01", "55P03", "25006", UNDEFINED_TABLE, "42703", "3D000", "XX000"}

# The contract's limits stand in the table as well. Input was checked before, so one of these is
# a disagreement between the two; the client still gets the answer that its body deserves.
CHECKS = {
    "ck_tasks_title_length": "/title",
    "ck_tasks_title_not_blank": "/title",
    "ck_tasks_description_length": "/description",
}


def schema_suffices(revision: str | None) -> bool:
    """Whether a schema at this revision is the one that this version needs, or a later one.

    Later versions' migrations leave it what it needs (CONTRIBUTING.md, "Migrations"): while new
    replicas replace old ones, both serve.
    """
    return revision is not None and revision >= SCHEMA_REVISION


class DatabaseError(Exception):
    """The database refused a statement of ours.

    Carries no text of the driver's: its details quote the row.
    """


class _Impatient(asyncpg.Connection):
    """A connection whose end is not waited for longer than a moment."""

    async def close(self, *, timeout: float | None = None) -> None:  # noqa: ASYNC109 - asyncpg's
        """Close it; where there is a limit, by force after `CLOSE_SECONDS`."""
        await super().close(timeout=timeout and CLOSE_SECONDS)


class Database:
    """A pool of connections, each statement its own transaction."""

    def __init__(
        self,
        connection: Connection,
        *,
        pool_size: int,
        timeout: float,
        statement_timeout: float = 0,
        recycle: int = RECYCLE_SECONDS,
    ) -> None:
        """`timeout` bounds, in seconds, all that one request does here, waiting included.

        The server itself ends a statement after `statement_timeout`, also when nobody is left to
        cancel it. A connection older than `recycle` is replaced before it is used.
        """
        self.timeout = timeout
        self.outage = Outage()
        self.engine = create_async_engine(
            connection.url,
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=timeout,
            pool_recycle=recycle,
            pool_use_lifo=True,  # few warm connections rather than many cold ones
            pool_reset_on_return=None,  # no transaction outlives its statement
            isolation_level="AUTOCOMMIT",
            hide_parameters=True,
            connect_args={
                **connection.connect_args(statement_timeout),
                "timeout": timeout,
                "connection_class": _Impatient,
                "async_creator_fn": Connector().connect,
            },
        )
        # The engine's own type for it is that of any pool.
        self._pool: AsyncAdaptedQueuePool = self.engine.pool  # type: ignore[assignment]
        Watch(self.engine.sync_engine)
        # The pool does not wake who waits when a connection could not be opened; this does.
        self.slots = asyncio.Semaphore(pool_size)
        self.sessions = Sessions(self.engine, self.fetch)
        self._meanings = _Meanings(self.outage)

    async def fetch(
        self,
        statement: ClauseElement,
        values: Mapping[str, Any] = {},
        *,
        within: float | None = None,
        since: float | None = None,
    ) -> list[Record]:
        """The rows of a statement, which is a transaction of its own.

        Raises DatabaseUnavailable `within` seconds (the usual limit when None), counted from
        `since` on the monotonic clock (now when None), when the database cannot be reached,
        InvalidBody when a check of the table refuses a row, and DatabaseError for what should not
        happen.
        """
        seconds = within or self.timeout
        if since is not None:
            seconds -= monotonic() - since
        with self._meanings:
            return await self._run(statement, values, seconds)

    async def _run(
        self, statement: ClauseElement, values: Mapping[str, Any], seconds: float
    ) -> list[Record]:
        async with asyncio.timeout(seconds), self.slots:
            return await run(self.engine, *as_sent(statement, values))

    async def revision(self, within: float | None = None) -> str | None:
        """The schema's revision, None where there is none yet. Raises as `fetch` does."""
        with self._meanings:
            try:
                rows = await self._run(REVISION, {}, within or self.timeout)
            except StatementError as error:
                if not isinstance(error.cause, pg.UndefinedTableError):
                    raise
                return None
        return rows[0][0] if rows else None

    def used(self) -> int:
        """How many connections serve a request now."""
        return self._pool.checkedout()

    def idle(self) -> int:
        """How many connections are open and wait for a request."""
        return self._pool.checkedin()

    def most(self) -> int:
        """How many connections there may be."""
        return self._pool.size()

    async def close(self) -> None:
        """Close every connection."""
        await self.engine.dispose()


class _Meanings:
    """Turns what the driver and SQLAlchemy raise inside of it into what that means to a client."""

    def __init__(self, outage: Outage) -> None:
        self._outage = outage

    def __enter__(self) -> None:
        """Nothing is known yet."""

    def __exit__(
        self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None
    ) -> None:
        if isinstance(error, UnreachableError):
            error = error.cause
        elif isinstance(error, DBAPIError):
            # SQLAlchemy's own statements, by which it gets to know a server.
            error = StatementError(error.driver_exception)
        elif not isinstance(error, StatementError | TimeoutError | PoolTimeout | OSError):
            return
        meant = _meaning(error.cause) if isinstance(error, StatementError) else None
        if meant is None or isinstance(meant, DatabaseUnavailable):
            self._outage.tell(error)
        raise meant or DatabaseUnavailable from None


def _meaning(error: BaseException) -> Exception:
    """The exception that a driver's error stands for, with nothing of the driver's text."""
    code = str(getattr(error, "sqlstate", None) or "")
    cause = getattr(error, "constraint_name", None)
    if not code:  # the connection broke
        return DatabaseUnavailable()
    if code[:2] in TRANSIENT_CLASSES or code in TRANSIENT_CODES:
        return DatabaseUnavailable()
    if cause in CHECKS:
        faults = [Fault(pointer=CHECKS[cause], detail="is refused by the database")]
        return InvalidBody("The body has one fault.", faults=faults)
    return DatabaseError(f"SQLSTATE {code}, constraint {cause}")


def migration_engine(connection: Connection) -> AsyncEngine:
    """An engine for Alembic: one connection, past a pooler, with transactions."""
    direct = connection.direct()
    return create_async_engine(
        direct.url,
        poolclass=NullPool,
        hide_parameters=True,
        connect_args={**direct.connect_args(), "timeout": MIGRATION_CONNECT_SECONDS},
    )
