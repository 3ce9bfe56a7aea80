"""Compiles SQLAlchemy statements to SQL and arguments for asyncpg.

Each statement is compiled once per process. SQLAlchemy's own execution takes several times the CPU
time of the statement (research/0044).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from asyncpg import Record
from sqlalchemy import ARRAY, ClauseElement, Dialect, bindparam, column, func
from sqlalchemy.dialects.postgresql.asyncpg import dialect
from sqlalchemy.types import TypeEngine

# More than the number of statements: each set of filters of a list is one.
COMPILED_CACHE_SIZE = 2048

# `Database.fetch`: a statement, its values, `timeout` and `started_at`.
FetchCallable = Callable[..., Awaitable[list[Record]]]

_DIALECT: Dialect = dialect()  # type: ignore[no-untyped-call]

# Execution option of statements whose best plan depends on the values (research/0053).
UNNAMED = {"unnamed": True}


class CompiledStatement(NamedTuple):
    """SQL and arguments. `named` is set if PostgreSQL may plan it once for all values."""

    sql: str
    arguments: list[Any]
    named: bool


class _Template(NamedTuple):
    """A compiled statement without the values of its parameters."""

    sql: str
    parameter_order: tuple[str, ...]
    literals: Mapping[str, Any]
    named: bool


@lru_cache(COMPILED_CACHE_SIZE)
def _compile(statement: ClauseElement) -> _Template:
    compiled: Any = statement.compile(dialect=_DIALECT)
    literals = {name: value for name, value in compiled.params.items() if value is not None}
    named = not compiled.execution_options.get("unnamed", False)
    return _Template(str(compiled), tuple(compiled.positiontup), literals, named)


def compile_statement(statement: ClauseElement, values: Mapping[str, Any]) -> CompiledStatement:
    """Compile a statement, and put `values` in the order of its parameters."""
    sql, parameter_order, literals, named = _compile(statement)
    parameters = {**literals, **values} if literals else values
    return CompiledStatement(sql, [parameters[name] for name in parameter_order], named)


def sent_rows(columns: Mapping[str, TypeEngine[Any]]) -> Any:  # noqa: ANN401 - SQLAlchemy's alias of a function
    """Build a table of the rows that a statement receives as one array for each column.

    The parameter of a column `id` is `ids`.
    """
    arrays = (bindparam(f"{name}s", type_=ARRAY(type_)) for name, type_ in columns.items())
    values = (column(name, type_) for name, type_ in columns.items())
    return func.unnest(*arrays).table_valued(*values).render_derived("sent")
