"""The database: its pool, the one place that opens a session, and what its errors mean."""

from __future__ import annotations

from collections.abc import Mapping
from time import monotonic
from types import TracebackType
from typing import Any

from asyncpg import Record
from asyncpg import exceptions as pg
from sqlalchemy import ClauseElement, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from app.db.config import Connection
from app.db.errors import Outage, ReadOnlyDatabaseError
from app.db.pool import Pool, StatementError, UnreachableError, is_of_connection
from app.db.session import Sessions
from app.db.statements import as_sent
from app.http.problems import DatabaseUnavailable, Fault, InvalidBody

# Known here so that a request need not read the migrations; a test compares it with their head.
SCHEMA_REVISION = "0002"

REVISION = text(
    "SELECT version_num, current_setting('transaction_read_only')::boolean FROM alembic_version"
)
# What the service needs at least; README, "Database roles", grants it.
PRIVILEGES = {
    "alembic_version": ("SELECT",),
    "tasks": ("SELECT", "INSERT", "UPDATE", "DELETE"),
    "idempotency_keys": ("SELECT", "INSERT", "UPDATE", "DELETE"),
}
# Reads catalogs that every role may read. Without USAGE on a schema its tables are not found.
MISSING_PRIVILEGES = text(
    """
    SELECT privilege || ' on ' || name
    FROM unnest(CAST(:names AS text[]), CAST(:privileges AS text[])) AS needed (name, privilege)
    WHERE NOT has_table_privilege(to_regclass(name), privilege)
    UNION ALL
    SELECT 'USAGE on schema ' || relnamespace::regnamespace
    FROM pg_class
    WHERE relname = 'tasks' AND relkind IN ('r', 'p') AND to_regclass('tasks') IS NULL
      AND NOT has_schema_privilege(relnamespace, 'USAGE')
    """
).bindparams(
    names=[name for name, needed in PRIVILEGES.items() for _ in needed],
    privileges=[privilege for needed in PRIVILEGES.values() for privilege in needed],
)

# Below the five minutes after which Neon suspends.
RECYCLE_SECONDS = 240
# A suspended database may take seconds to start, and nobody waits behind a migration.
MIGRATION_CONNECT_SECONDS = 15

UNDEFINED_TABLE = "42P01"
# Beside what belongs to a connection and passes with it, by class, then by code (PostgreSQL's
# documentation, appendix A): what passes by itself, or once the operator has done their part.
# 53 resources (too many connections, disk full), 57 operator intervention (shutdown, statement
# timeout); deadlock, lock timeout, a schema not yet migrated, a privilege not granted.
TRANSIENT_CLASSES = {"53", "57"}
TRANSIENT_CODES = {"40001", "40P01", "55P03", UNDEFINED_TABLE, "42703", "3D000", "42501"}

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
        self.pool = Pool(
            {**connection.keywords(statement_timeout), "timeout": timeout},
            size=pool_size,
            recycle=recycle,
            named=not connection.pooler,
        )
        # For what repositories inherit, which the service itself does not use: a connection for
        # each session.
        engine = create_async_engine(
            connection.url,
            poolclass=NullPool,
            isolation_level="AUTOCOMMIT",
            hide_parameters=True,
            connect_args={**connection.connect_args(statement_timeout), "timeout": timeout},
        )
        self.sessions = Sessions(engine, self.fetch)
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
            text, arguments, named = as_sent(statement, values)
            return await self.pool.fetch(text, arguments, seconds, named=named)

    async def revision(self, within: float | None = None) -> str | None:
        """The schema's revision, None where there is none yet.

        Raises as `fetch` does, and ReadOnlyDatabaseError where the database takes no writes.
        """
        with self._meanings:
            try:
                text, arguments, _ = as_sent(REVISION, {})
                rows = await self.pool.fetch(text, arguments, within or self.timeout)
            except StatementError as error:
                if not isinstance(error.cause, pg.UndefinedTableError):
                    raise
                return None
        revision, is_read_only = rows[0] if rows else (None, False)
        if is_read_only:
            self.pool.renew()
            fault = ReadOnlyDatabaseError()
            self.outage.tell(fault)
            raise fault
        return revision

    async def missing_privileges(self) -> list[str]:
        """The privileges that the role lacks, such as `DELETE on tasks`. Raises as `fetch` does."""
        return [privilege for (privilege,) in await self.fetch(MISSING_PRIVILEGES)]

    async def close(self) -> None:
        """Close every connection."""
        await self.pool.close()


class _Meanings:
    """Turns what the pool raises inside of it into what that means to a client."""

    def __init__(self, outage: Outage) -> None:
        self._outage = outage

    def __enter__(self) -> None:
        """Nothing is known yet."""

    def __exit__(
        self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None
    ) -> None:
        if isinstance(error, UnreachableError):
            error = error.cause
        elif not isinstance(error, StatementError | TimeoutError):
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
    if code[:2] in TRANSIENT_CLASSES or code in TRANSIENT_CODES or is_of_connection(error):
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
        connect_args={**direct.session_args(), "timeout": MIGRATION_CONNECT_SECONDS},
    )
