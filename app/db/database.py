"""The database: statements and sessions on the pool, and the translation of its errors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from itertools import product
from time import monotonic
from types import TracebackType
from typing import Any
from uuid import uuid4

from advanced_alchemy.base import metadata_registry
from asyncpg import Record
from asyncpg import exceptions as pg
from sqlalchemy import ClauseElement, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from app.db.config import DatabaseConfig
from app.db.engine import SESSION_CONNECTION, create_session_config
from app.db.errors import OutageLogger, ReadOnlyDatabaseError
from app.db.models import constraint_info
from app.db.pool import ConnectError, ConnectionPool, QueryError, is_connection_error
from app.db.revisions import RENEW_EPOCHS
from app.db.statements import compile_statement
from app.http.problems import DatabaseUnavailable, FieldError, InvalidBody, ProblemError

# A constant, so that a request need not read the migrations. A test compares the two.
SCHEMA_REVISION = "0011"

REVISION = text(
    "SELECT version_num, current_setting('transaction_read_only')::boolean FROM alembic_version"
)
# Needed on the table of each model. docs/guides/postgresql.md, "Roles", grants them.
TABLE_PRIVILEGES = ("SELECT", "INSERT", "UPDATE", "DELETE")
# Every role may read these catalogs. Without USAGE on a schema, to_regclass finds no table in it.
MISSING_PRIVILEGES = text(
    """
    SELECT privilege || ' on ' || name
    FROM unnest(CAST(:names AS text[]), CAST(:privileges AS text[])) AS needed (name, privilege)
    WHERE NOT has_table_privilege(to_regclass(name), privilege)
    UNION ALL
    SELECT 'USAGE on schema ' || relnamespace::regnamespace
    FROM pg_class
    WHERE relname = 'alembic_version' AND relkind = 'r' AND to_regclass(relname) IS NULL
      AND NOT has_schema_privilege(relnamespace, 'USAGE')
    """
)

# In seconds. Neon suspends a database after five minutes.
DEFAULT_MAX_LIFETIME = 240

UNDEFINED_TABLE = "42P01"
# Errors that a retry or the operator resolves, besides connection errors (PostgreSQL's
# documentation, appendix A). Class 53: insufficient resources, such as a full disk. Class 57:
# operator intervention, such as shutdown and statement timeout. Codes: serialization failure,
# deadlock, lock timeout, a schema that is not yet migrated, a privilege that is not granted.
TRANSIENT_SQLSTATE_CLASSES = {"53", "57"}
TRANSIENT_SQLSTATES = {"40001", "40P01", "55P03", UNDEFINED_TABLE, "42703", "3D000", "42501"}


def is_schema_compatible(revision: str | None) -> bool:
    """Return whether a schema revision is the one that this version needs, or a later one.

    Migrations of later versions stay compatible (CONTRIBUTING.md, "Migrations"): during a rolling
    update, old and new replicas use the same schema.
    """
    return revision is not None and revision >= SCHEMA_REVISION


class DatabaseError(Exception):
    """The database rejected a statement, which is a bug of the service.

    The message contains no text of the driver, because its details quote the row. `constraint` is
    the name of the violated constraint, or None.
    """

    def __init__(self, message: str, constraint: str | None = None) -> None:
        super().__init__(message)
        self.constraint = constraint


class Database:
    """A connection pool for single statements and for sessions.

    `timeout` limits, in seconds, all work for one request, including the wait for a connection.
    The server cancels a statement after `statement_timeout` seconds, also if the service no longer
    runs. A connection older than `max_lifetime` seconds is replaced before its next use.
    """

    def __init__(
        self,
        config: DatabaseConfig,
        *,
        pool_size: int,
        timeout: float,
        statement_timeout: float = 0,
        max_lifetime: int = DEFAULT_MAX_LIFETIME,
    ) -> None:
        self.timeout = timeout
        self.outage_logger = OutageLogger()
        self.pool = ConnectionPool(
            {**config.connect_kwargs(statement_timeout), "timeout": timeout},
            size=pool_size,
            max_lifetime=max_lifetime,
            named=not config.transaction_pooling,
        )
        self._session_config = create_session_config()
        self._translate_errors = _ErrorTranslator(self.outage_logger)

    async def fetch(
        self,
        statement: ClauseElement,
        values: Mapping[str, Any] = {},
        *,
        timeout: float | None = None,
        started_at: float | None = None,
    ) -> list[Record]:
        """Execute a statement in its own transaction and return its rows.

        The time limit is `timeout` seconds (default: the limit of a request), counted from
        `started_at` on the monotonic clock (default: now).

        Raises DatabaseUnavailable if the database is unreachable or too slow. Raises InvalidBody,
        or the problem that the model declares, if a constraint with a pointer is violated. Raises
        DatabaseError for other errors.
        """
        remaining = timeout or self.timeout
        if started_at is not None:
            remaining -= monotonic() - started_at
        with self._translate_errors:
            sql, arguments, named = compile_statement(statement, values)
            return await self.pool.fetch(sql, arguments, remaining, named=named)

    @asynccontextmanager
    async def session(self) -> AsyncGenerator[AsyncSession]:
        """Open a session in one transaction. Commit it after the block, or roll it back on errors.

        No other code opens or ends transactions. Raises the exceptions of `fetch`. The time limit
        applies to the whole block.
        """
        with self._translate_errors:
            started_at = monotonic()
            async with (
                self.pool.connection(self.timeout) as connection,
                asyncio.timeout(started_at + self.timeout - monotonic()),
            ):
                token = SESSION_CONNECTION.set(connection)
                try:
                    async with self._session_config.get_session() as session, session.begin():
                        yield session
                except DBAPIError as error:
                    cause = error.driver_exception
                    if isinstance(cause, pg.ReadOnlySQLTransactionError):
                        self.pool.replace_connections()
                    raise QueryError(cause) from None
                finally:
                    SESSION_CONNECTION.reset(token)

    async def schema_revision(self, timeout: float | None = None) -> str | None:
        """Return the schema's revision, or None if there is no schema.

        Raises the exceptions of `fetch`, and ReadOnlyDatabaseError if the database rejects writes.
        """
        with self._translate_errors:
            try:
                sql, arguments, _ = compile_statement(REVISION, {})
                rows = await self.pool.fetch(sql, arguments, timeout or self.timeout)
            except QueryError as error:
                if not isinstance(error.cause, pg.UndefinedTableError):
                    raise
                return None
        revision, is_read_only = rows[0] if rows else (None, False)
        if is_read_only:
            self.pool.replace_connections()
            read_only_error = ReadOnlyDatabaseError()
            self.outage_logger.record(read_only_error)
            raise read_only_error
        return revision

    async def renew_epochs(self) -> int:
        """Give every user another epoch, and return the number of users (research/0080).

        Raises the exceptions of `fetch`.
        """
        ((count,),) = await self.fetch(RENEW_EPOCHS, {"epoch": uuid4()})
        users: int = count
        return users

    async def missing_privileges(self) -> list[str]:
        """Return the privileges that the role lacks, such as `DELETE on tasks`.

        Raises the exceptions of `fetch`.
        """
        tables = metadata_registry.get().tables
        needed = [("alembic_version", "SELECT"), *product(sorted(tables), TABLE_PRIVILEGES)]
        names, privileges = zip(*needed, strict=True)
        values = {"names": names, "privileges": privileges}
        return [privilege for (privilege,) in await self.fetch(MISSING_PRIVILEGES, values)]

    async def close(self) -> None:
        """Close the pool."""
        await self.pool.close()


class _ErrorTranslator:
    """Context manager that replaces the pool's exceptions by those that a client receives."""

    def __init__(self, outage_logger: OutageLogger) -> None:
        self._outage_logger = outage_logger

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None
    ) -> None:
        if isinstance(error, ConnectError):
            error = error.cause
        elif not isinstance(error, QueryError | TimeoutError):
            return
        translated = translate_error(error.cause) if isinstance(error, QueryError) else None
        if translated is None or isinstance(translated, DatabaseUnavailable):
            self._outage_logger.record(error)
        raise translated or DatabaseUnavailable from None


def translate_error(error: BaseException) -> Exception:
    """Return the exception for an error of the driver, without the driver's text."""
    code = str(getattr(error, "sqlstate", None) or "")
    constraint = getattr(error, "constraint_name", None)
    if not code:  # the connection broke
        return DatabaseUnavailable()
    if (
        code[:2] in TRANSIENT_SQLSTATE_CLASSES
        or code in TRANSIENT_SQLSTATES
        or is_connection_error(error)
    ):
        return DatabaseUnavailable()
    declared = constraint_info(constraint)
    if "pointer" in declared:
        detail = declared.get("detail", "violates a database constraint")
        problem: type[ProblemError] = declared.get("problem", InvalidBody)
        return problem(errors=[FieldError(pointer=declared["pointer"], detail=detail)])
    return DatabaseError(f"SQLSTATE {code}, constraint {constraint}", constraint)
