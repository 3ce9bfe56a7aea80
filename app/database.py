"""The database: its pool, the one place that opens a session, and what its errors mean."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import asyncpg
from asyncpg import exceptions as pg
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, NullPool

from app.connection import Connection
from app.outage import Outage
from app.pool import Connector, UnreachableError, Watch
from app.problems import DatabaseUnavailable, Fault, InvalidBody
from app.session import Session, StatementError

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

    @asynccontextmanager
    async def session(self, within: float | None = None) -> AsyncGenerator[Session]:
        """A session for statements that are a transaction each.

        Raises DatabaseUnavailable `within` seconds (the usual limit when None) when the
        database cannot be reached, InvalidBody when a check of the table refuses a row, and
        DatabaseError for what should not happen.
        """
        try:
            async with asyncio.timeout(within or self.timeout), self.slots:
                session = Session(self.engine)
                try:
                    yield session
                finally:
                    if session.in_transaction():  # by what a repository inherits
                        await session.close()
        except StatementError as error:
            raise self._meant(error) from None
        except DBAPIError as error:
            # SQLAlchemy's own statements, by which it gets to know a server.
            raise self._meant(StatementError(error.driver_exception)) from None
        except UnreachableError as error:
            self.outage.tell(error.cause)
            raise DatabaseUnavailable from None
        except (TimeoutError, PoolTimeout, OSError) as error:
            self.outage.tell(error)
            raise DatabaseUnavailable from None

    def _meant(self, error: StatementError) -> Exception:
        meant = _meaning(error.cause)
        if isinstance(meant, DatabaseUnavailable):
            self.outage.tell(error)
        return meant

    async def revision(self, within: float | None = None) -> str | None:
        """The schema's revision, None where there is none yet. Raises as `session` does."""
        async with self.session(within) as session:
            try:
                rows = await session.fetch(REVISION)
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
