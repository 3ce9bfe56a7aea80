"""The filters of `listTasks` and `countTasks`, as conditions with parameters."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from typing import Any
from uuid import UUID

from msgspec import UNSET
from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Date,
    DateTime,
    SmallInteger,
    Text,
    and_,
    bindparam,
    case,
    cast,
    func,
    literal_column,
)
from sqlalchemy.dialects.postgresql import TSQUERY

from app.domain.tasks.models import DUE_EXPRESSION, LABELS_EXPRESSION, TaskRecord
from app.domain.tasks.schemas import CountTasksQuery, ListTasksQuery, Priority
from app.domain.tasks.search import build_tsquery, user_prefix

NONE = "none"
PRIORITIES = {priority.value: number for number, priority in enumerate(Priority)}
DUE: ColumnElement[Any] = literal_column(DUE_EXPRESSION, DateTime())
FIRST_DATE, LAST_DATE = (literal_column(f"date '{day}'", Date) for day in (date.min, date.max))
# Conditions on the expression of the index, in which a task without a due date is at infinity.
_NEVER: ColumnElement[Any] = literal_column("'infinity'::timestamp", DateTime())
_HAS_DUE = _NEVER > DUE
_LABELS: ColumnElement[Any] = literal_column(LABELS_EXPRESSION, ARRAY(Text))


def date_param(name: str) -> ColumnElement[date]:
    """Build a parameter for a date."""
    return _finite(bindparam(name, type_=Date))


def stored_date(value: ColumnElement[date]) -> ColumnElement[date]:
    """Build the date that is stored for a parameter, which may be NULL."""
    return case((value.is_not(None), _finite(value)))


def _finite(value: ColumnElement[date]) -> ColumnElement[date]:
    """Replace infinity, as which asyncpg sends the first and the last date."""
    return func.greatest(FIRST_DATE, func.least(value, LAST_DATE))


FILTERS: dict[str, ColumnElement[bool]] = {
    "completed": TaskRecord.completed == bindparam("completed"),
    "in_list": TaskRecord.list_id == bindparam("in_list"),
    "in_inbox": and_(TaskRecord.list_id.is_(None), TaskRecord.parent_id.is_(None)),
    "subtask_of": TaskRecord.parent_id == bindparam("subtask_of"),
    "no_subtask": TaskRecord.parent_id.is_(None),
    "priorities": TaskRecord.priority
    == func.any(bindparam("priorities", type_=ARRAY(SmallInteger))),
    # The partial index requires the second condition.
    "labels": and_(
        _LABELS.op("@>")(bindparam("labels", type_=ARRAY(Text))), TaskRecord.labels != ""
    ),
    "has_due": _HAS_DUE,
    "has_no_due": _NEVER == DUE,
    "due_after": and_(cast(date_param("due_after") + 1, DateTime) <= DUE, _HAS_DUE),
    "due_before": cast(date_param("due_before"), DateTime) > DUE,
    "created_after": TaskRecord.created_at > bindparam("created_after"),
    "created_before": TaskRecord.created_at < bindparam("created_before"),
    "updated_after": TaskRecord.updated_at > bindparam("updated_after"),
    "updated_before": TaskRecord.updated_at < bindparam("updated_before"),
    # Each lexeme starts with its user's prefix, so one index covers both (data-model.md, "Search").
    "q": TaskRecord.search.op("@@")(cast(func.lower(bindparam("q", type_=Text)), TSQUERY)),
}
# Filters that keep a task in the order of its siblings.
PLACES = frozenset({"in_list", "in_inbox", "subtask_of"})


def filter_params(user_id: str, query: CountTasksQuery | ListTasksQuery) -> dict[str, Any] | None:
    """Return the filters of a query with their parameters, or None if nothing can match."""
    params: dict[str, Any] = {}
    for name in CountTasksQuery.__struct_fields__:
        value = getattr(query, name)
        if value is not None and value is not UNSET:
            convert = _CONVERTERS.get(name)
            params |= {name: value} if convert is None else convert(user_id, value)
    return None if params.get("q", "") is None else params


def _list_params(_: str, list_id: str) -> dict[str, Any]:
    return {"in_inbox": None} if list_id == NONE else {"in_list": UUID(list_id)}


def _parent_params(_: str, parent_id: str) -> dict[str, Any]:
    return {"no_subtask": None} if parent_id == NONE else {"subtask_of": UUID(parent_id)}


def _label_params(user_id: str, labels: str) -> dict[str, Any]:
    prefix = user_prefix(user_id)
    return {"labels": [f"{prefix}:{label}" for label in labels.split(",")]}


# The other parameters of the contract are parameters of the statement.
_CONVERTERS: dict[str, Callable[[str, Any], dict[str, Any]]] = {
    "list_id": _list_params,
    "parent_id": _parent_params,
    "priority": lambda _, names: {"priorities": [PRIORITIES[name] for name in names.split(",")]},
    "labels": _label_params,
    "has_due": lambda _, has_due: {"has_due" if has_due else "has_no_due": None},
    "q": lambda user_id, q: {"q": build_tsquery(user_id, q)},
}
