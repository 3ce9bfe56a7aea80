"""The filters of `listTasks` and `countTasks`, as conditions with parameters."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Date,
    DateTime,
    SmallInteger,
    Text,
    and_,
    bindparam,
    cast,
    func,
    literal_column,
)
from sqlalchemy.dialects.postgresql import TSQUERY

from app.domain.tasks.models import DUE_EXPRESSION, LABELS_EXPRESSION, TaskRecord
from app.domain.tasks.schemas import CountTasksQuery, Priority
from app.domain.tasks.search import build_tsquery, user_prefix

NONE = "none"
_TIMES = ("created_after", "created_before", "updated_after", "updated_before")
PRIORITIES = {priority.value: number for number, priority in enumerate(Priority)}
DUE: ColumnElement[Any] = literal_column(DUE_EXPRESSION, DateTime())
_HAS_DUE = TaskRecord.due_date.is_not(None)
_LABELS: ColumnElement[Any] = literal_column(LABELS_EXPRESSION, ARRAY(Text))

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
    "has_no_due": TaskRecord.due_date.is_(None),
    # Conditions on the expression of the index, equivalent to conditions on the date.
    "due_after": and_(DUE >= cast(bindparam("due_after", type_=Date) + 1, DateTime), _HAS_DUE),
    "due_before": DUE < cast(bindparam("due_before", type_=Date), DateTime),
    "created_after": TaskRecord.created_at > bindparam("created_after"),
    "created_before": TaskRecord.created_at < bindparam("created_before"),
    "updated_after": TaskRecord.updated_at > bindparam("updated_after"),
    "updated_before": TaskRecord.updated_at < bindparam("updated_before"),
    # Each lexeme starts with its user's prefix, so one index covers both (data-model.md, "Search").
    "q": TaskRecord.search.op("@@")(cast(func.lower(bindparam("q", type_=Text)), TSQUERY)),
}
# Filters that keep a task in the order of its siblings.
PLACES = frozenset({"in_list", "in_inbox", "subtask_of"})


def filter_params(user_id: str, query: CountTasksQuery) -> dict[str, Any] | None:
    """Return the filters of a query with their parameters, or None if nothing can match."""
    params = {
        name: value
        for name in ("completed", "due_after", "due_before", *_TIMES)
        if (value := getattr(query, name)) is not None
    }
    if query.list_id is not None:
        params |= {"in_inbox": None} if query.list_id == NONE else {"in_list": UUID(query.list_id)}
    if query.parent_id is not None:
        is_none = query.parent_id == NONE
        params |= {"no_subtask": None} if is_none else {"subtask_of": UUID(query.parent_id)}
    if query.priority is not None:
        params["priorities"] = [PRIORITIES[name] for name in query.priority.split(",")]
    if query.labels is not None:
        params["labels"] = [f"{user_prefix(user_id)}:{label}" for label in query.labels.split(",")]
    if query.has_due is not None:
        params |= {"has_due" if query.has_due else "has_no_due": None}
    if query.q is not None:
        params["q"] = build_tsquery(user_id, query.q)
        if params["q"] is None:
            return None
    return params
