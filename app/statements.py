"""SQLAlchemy's statements, run on the driver itself.

SQLAlchemy writes a statement once and keeps the connections; what it does around each execution
costs several times as much as the statement (research.md, D44).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import asyncpg
from asyncpg import exceptions as pg
from asyncpg.prepared_stmt import PreparedStatement
from sqlalchemy import ClauseElement, Dialect
from sqlalchemy.dialects.postgresql.asyncpg import dialect
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import PoolProxiedConnection
from sqlalchemy.util import greenlet_spawn

from app.pool import UnreachableError

# More than there are statements of the service's own: each set of a list's filters is one.
STATEMENTS_AT_MOST = 1024
PREPARED_AT_MOST = 100  # of one connection

_DIALECT: Dialect = dialect()  # type: ignore[no-untyped-call]
_OF_THE_DIALECT: type[Exception] = dialect.import_dbapi().Error  # type: ignore[no-untyped-call]
# An InternalClientError where the server has said that it ends a connection and not yet ended it.
_OF_THE_DRIVER = (pg.PostgresError, pg.InterfaceError, pg.InternalClientError, OSError)


class StatementError(Exception):
    """The server refused a statement, or the connection broke under it; `cause` tells why."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__()
        self.cause = cause


class _Compiled(NamedTuple):
    """A statement as the driver takes it."""

    text: str
    names: tuple[str, ...]
    constants: Mapping[str, Any]


@lru_cache(STATEMENTS_AT_MOST)
def _compiled(statement: ClauseElement) -> _Compiled:
    compiled: Any = statement.compile(dialect=_DIALECT)
    constants = {name: value for name, value in compiled.params.items() if value is not None}
    return _Compiled(str(compiled), tuple(compiled.positiontup), constants)


def as_sent(statement: ClauseElement, values: Mapping[str, Any]) -> tuple[str, list[Any]]:
    """The text and the arguments that the server gets."""
    text, names, constants = _compiled(statement)
    given = {**constants, **values} if constants else values
    return text, [given[name] for name in names]


async def run(engine: AsyncEngine, text: str, arguments: list[Any]) -> list[asyncpg.Record]:
    """The rows of a statement, in one round trip where its connection knows it already.

    Raises StatementError when the statement fails, UnreachableError when no connection could be
    opened for it, and SQLAlchemy's TimeoutError when none was free.
    """
    try:
        pooled = await engine.raw_connection()
    except (*_OF_THE_DRIVER, _OF_THE_DIALECT) as error:
        # It broke when it was open, and not yet set up.
        raise UnreachableError(error.__cause__ or error) from None
    try:
        rows = await _fetch(pooled, text, arguments)
    except pg.PostgresError as error:
        if _driver(pooled).is_closed():
            await _discard(pooled, error)
        else:
            pooled.close()
        raise StatementError(error) from None
    except _OF_THE_DRIVER as error:
        await _discard(pooled, error)
        raise StatementError(error) from None
    except BaseException as error:
        await _discard(pooled, error)
        raise
    pooled.close()
    return rows


async def _fetch(
    pooled: PoolProxiedConnection, text: str, arguments: list[Any]
) -> list[asyncpg.Record]:
    prepared: dict[str, PreparedStatement[Any]] = pooled.info.setdefault("prepared", {})
    statement = prepared.get(text)
    if statement is not None:
        try:
            return await statement.fetch(*arguments)
        except pg.InvalidCachedStatementError:
            # A migration changed the table. The server has refused the plan before it ran.
            prepared.clear()
    if len(prepared) >= PREPARED_AT_MOST:
        del prepared[next(iter(prepared))]
    statement = prepared[text] = await _driver(pooled).prepare(text)
    return await statement.fetch(*arguments)


def _driver(pooled: PoolProxiedConnection) -> asyncpg.Connection[Any]:
    driver: Any = pooled.driver_connection
    return driver  # type: ignore[no-any-return]


async def _discard(pooled: PoolProxiedConnection, error: BaseException) -> None:
    """Close a connection in whose statement something else than the statement went wrong.

    The driver has the server cancel what still runs, for which SQLAlchemy leaves it a moment.
    """
    await greenlet_spawn(pooled.invalidate, error)
