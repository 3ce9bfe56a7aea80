"""SQLAlchemy's statements, as the driver takes them.

SQLAlchemy writes a statement once for the life of the process; what it does around each execution
costs several times as much as the statement (research.md, D44).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from sqlalchemy import ClauseElement, Dialect
from sqlalchemy.dialects.postgresql.asyncpg import dialect

# More than there are statements of the service's own: each set of a list's filters is one.
STATEMENTS_AT_MOST = 2048

_DIALECT: Dialect = dialect()  # type: ignore[no-untyped-call]


# An execution option of statements whose good plan depends on the values (research.md, D53).
UNNAMED = {"unnamed": True}


class Sent(NamedTuple):
    """What the server gets: `named` where it may plan the statement once for all values."""

    text: str
    arguments: list[Any]
    named: bool


class _Compiled(NamedTuple):
    """A statement as the driver takes it."""

    text: str
    names: tuple[str, ...]
    constants: Mapping[str, Any]
    named: bool


@lru_cache(STATEMENTS_AT_MOST)
def _compiled(statement: ClauseElement) -> _Compiled:
    compiled: Any = statement.compile(dialect=_DIALECT)
    constants = {name: value for name, value in compiled.params.items() if value is not None}
    named = not compiled.execution_options.get("unnamed", False)
    return _Compiled(str(compiled), tuple(compiled.positiontup), constants, named)


def as_sent(statement: ClauseElement, values: Mapping[str, Any]) -> Sent:
    """The text and the arguments that the server gets."""
    text, names, constants, named = _compiled(statement)
    given = {**constants, **values} if constants else values
    return Sent(text, [given[name] for name in names], named)
