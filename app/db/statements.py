"""SQLAlchemy's statements, as the driver takes them.

SQLAlchemy writes a statement once for the life of the process; what it does around each execution
costs several times as much as the statement (research/0044).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from asyncpg import Record
from sqlalchemy import ClauseElement, Dialect
from sqlalchemy.dialects.postgresql.asyncpg import dialect

# More than there are statements of the service's own: each set of a list's filters is one.
COMPILED_CACHE_SIZE = 2048

# `Database.fetch`: a statement, its values, `timeout` and `started_at`.
FetchCallable = Callable[..., Awaitable[list[Record]]]

_DIALECT: Dialect = dialect()  # type: ignore[no-untyped-call]


# An execution option of statements whose good plan depends on the values (research/0053).
UNNAMED = {"unnamed": True}


class CompiledStatement(NamedTuple):
    """What the server gets: `named` where it may plan the statement once for all values."""

    sql: str
    arguments: list[Any]
    named: bool


class _Template(NamedTuple):
    """A statement as the driver takes it."""

    sql: str
    parameter_order: tuple[str, ...]
    literals: Mapping[str, Any]
    named: bool


@lru_cache(COMPILED_CACHE_SIZE)
def _compile(statement: ClauseElement) -> _Template:
    compiled: Any = statement.compile(dialect=_DIALECT)
    constants = {name: value for name, value in compiled.params.items() if value is not None}
    named = not compiled.execution_options.get("unnamed", False)
    return _Template(str(compiled), tuple(compiled.positiontup), constants, named)


def compile_statement(statement: ClauseElement, values: Mapping[str, Any]) -> CompiledStatement:
    """The text and the arguments that the server gets."""
    text, names, constants, named = _compile(statement)
    given = {**constants, **values} if constants else values
    return CompiledStatement(text, [given[name] for name in names], named)
