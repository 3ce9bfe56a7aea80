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

from app.db.config import DatabaseConfig
from app.db.errors import OutageLogger, ReadOnlyDatabaseError
from app.db.pool import ConnectError, ConnectionPool, QueryError, is_connection_error
from app.db.session import ScopedSession
from app.db.statements import compile_statement
from app.http.problems import DatabaseUnavailable, FieldError, InvalidBody

# Known here so that a request need not read the migrations; a test compares it with their head.
SCHEMA_REVISION = "0002"

REVISION = text(
    "SELECT version_num, current_setting('transaction_read_only')::boolean FROM alembic_version"
)
# What the service needs at least; docs/guides/postgresql.md, "Roles", grants it.
REQUIRED_PRIVILEGES = {
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
    names=[name for name, needed in REQUIRED_PRIVILEGES.items() for _ in needed],
    privileges=[privilege for needed in REQUIRED_PRIVILEGES.values() for privilege in needed],
)

# Below the five minutes after which Neon suspends.
DEFAULT_MAX_LIFETIME = 240
# A suspended database may take seconds to start, and nobody waits behind a migration.
MIGRATION_CONNECT_TIMEOUT = 15

UNDEFINED_TABLE = "42P01"
# Beside what belongs to a connection and passes with it, by class, then by code (PostgreSQL's
# documentation, appendix A): what passes by itself, or once the operator has done their part.
# 53 resources (too many connections, disk full), 57 operator intervention (shutdown, statement
# timeout); deadlock, lock timeout, a schema not yet migrated, a privilege not granted.
TRANSIENT_SQLSTATE_CLASSES = {"53", "57"}
TRANSIENT_SQLSTATES = {"40001", "40P01", "55P03", UNDEFINED_TABLE, "42703", "3D000", "42501"}

# The contract's limits stand in the table as well. Input was checked before, so one of these is
# a disagreement between the two; the client still gets the answer that its body deserves.
CONSTRAINT_POINTERS = {
    "ck_tasks_title_length": "/title",
    "ck_tasks_title_not_blank": "/title",
    "ck_tasks_description_length": "/description",
}


def is_schema_compatible(revision: str | None) -> bool:
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
        config: DatabaseConfig,
        *,
        pool_size: int,
        timeout: float,
        statement_timeout: float = 0,
        max_lifetime: int = DEFAULT_MAX_LIFETIME,
    ) -> None:
        """`timeout` bounds, in seconds, all that one request does here, waiting included.

        The server itself ends a statement after `statement_timeout`, also when nobody is left to
        cancel it. A connection older than `max_lifetime` is replaced before it is used.
        """
        self.timeout = timeout
        self.outage_logger = OutageLogger()
        self.pool = ConnectionPool(
            {**config.connect_kwargs(statement_timeout), "timeout": timeout},
            size=pool_size,
            max_lifetime=max_lifetime,
            named=not config.transaction_pooling,
        )
        # For what repositories inherit, which the service itself does not use: a connection for
        # each session.
        engine = create_async_engine(
            config.url,
            poolclass=NullPool,
            isolation_level="AUTOCOMMIT",
            hide_parameters=True,
            connect_args={**config.connect_args(statement_timeout), "timeout": timeout},
        )
        self.sessions = ScopedSession(engine, self.fetch)
        self._translate_errors = _ErrorTranslator(self.outage_logger)

    async def fetch(
        self,
        statement: ClauseElement,
        values: Mapping[str, Any] = {},
        *,
        timeout: float | None = None,
        started_at: float | None = None,
    ) -> list[Record]:
        """The rows of a statement, which is a transaction of its own.

        Raises DatabaseUnavailable `within` seconds (the usual limit when None), counted from
        `since` on the monotonic clock (now when None), when the database cannot be reached,
        InvalidBody when a check of the table refuses a row, and DatabaseError for what should not
        happen.
        """
        seconds = timeout or self.timeout
        if started_at is not None:
            seconds -= monotonic() - started_at
        with self._translate_errors:
            text, arguments, named = compile_statement(statement, values)
            return await self.pool.fetch(text, arguments, seconds, named=named)

    async def schema_revision(self, timeout: float | None = None) -> str | None:
        """The schema's revision, None where there is none yet.

        Raises as `fetch` does, and ReadOnlyDatabaseError where the database takes no writes.
        """
        with self._translate_errors:
            try:
                text, arguments, _ = compile_statement(REVISION, {})
                rows = await self.pool.fetch(text, arguments, timeout or self.timeout)
            except QueryError as error:
                if not isinstance(error.cause, pg.UndefinedTableError):
                    raise
                return None
        revision, is_read_only = rows[0] if rows else (None, False)
        if is_read_only:
            self.pool.replace_connections()
            fault = ReadOnlyDatabaseError()
            self.outage_logger.record(fault)
            raise fault
        return revision

    async def missing_privileges(self) -> list[str]:
        """The privileges that the role lacks, such as `DELETE on tasks`. Raises as `fetch` does."""
        return [privilege for (privilege,) in await self.fetch(MISSING_PRIVILEGES)]

    async def close(self) -> None:
        """Close every connection."""
        await self.pool.close()


class _ErrorTranslator:
    """Turns what the pool raises inside of it into what that means to a client."""

    def __init__(self, outage: OutageLogger) -> None:
        self._outage = outage

    def __enter__(self) -> None:
        """Nothing is known yet."""

    def __exit__(
        self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None
    ) -> None:
        if isinstance(error, ConnectError):
            error = error.cause
        elif not isinstance(error, QueryError | TimeoutError):
            return
        meant = translate_error(error.cause) if isinstance(error, QueryError) else None
        if meant is None or isinstance(meant, DatabaseUnavailable):
            self._outage.record(error)
        raise meant or DatabaseUnavailable from None


def translate_error(error: BaseException) -> Exception:
    """The exception that a driver's error stands for, with nothing of the driver's text."""
    code = str(getattr(error, "sqlstate", None) or "")
    cause = getattr(error, "constraint_name", None)
    if not code:  # the connection broke
        return DatabaseUnavailable()
    if (
        code[:2] in TRANSIENT_SQLSTATE_CLASSES
        or code in TRANSIENT_SQLSTATES
        or is_connection_error(error)
    ):
        return DatabaseUnavailable()
    if cause in CONSTRAINT_POINTERS:
        faults = [
            FieldError(pointer=CONSTRAINT_POINTERS[cause], detail="violates a database constraint")
        ]
        return InvalidBody(errors=faults)
    return DatabaseError(f"SQLSTATE {code}, constraint {cause}")


def create_migration_engine(config: DatabaseConfig) -> AsyncEngine:
    """An engine for Alembic: one connection, past a pooler, with transactions."""
    direct = config.direct_config()
    return create_async_engine(
        direct.url,
        poolclass=NullPool,
        hide_parameters=True,
        connect_args={**direct.session_args(), "timeout": MIGRATION_CONNECT_TIMEOUT},
    )
