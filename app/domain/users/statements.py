"""The statements that erase a user (research/0086), and those of an import (research/0088)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ClauseElement,
    ColumnElement,
    Integer,
    Text,
    Uuid,
    bindparam,
    column,
    delete,
    func,
    literal_column,
    select,
    table,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.sql.expression import ColumnClause, TableClause

from app.db.positions import PositionedRecord
from app.db.revisions import UserRecord
from app.db.statements import sent_rows
from app.domain.lists.models import TaskListRecord
from app.domain.tasks.filters import stored_date
from app.domain.tasks.models import TaskRecord
from app.domain.tasks.rows import PROPERTY_COLUMNS
from app.domain.users.export_file import Level

_OWNER = bindparam("owner", type_=Text)
_LIMIT = bindparam("row_limit", type_=Integer)


def _columns(*names: str) -> list[ColumnClause[object]]:
    return [column(name) for name in names]


# The columns of keys. Only these statements use them.
_TASKS = table("tasks", *_columns("user_id", "id", "parent_id"))
_LISTS = table("lists", *_columns("user_id", "id"))
_TOMBSTONES = table("tombstones", *_columns("user_id", "revision", "id", "kind"))
_KEYS = table("idempotency_keys", *_columns("user_id", "key"))


def _delete_rows(
    rows: TableClause, key: Sequence[str], *conditions: ColumnElement[bool]
) -> ClauseElement:
    """Build the statement that deletes some rows of a user, and returns how many."""
    columns = [rows.c[name] for name in key]
    some = select(*columns).where(rows.c.user_id == _OWNER, *conditions).limit(_LIMIT)
    deleted = (
        delete(rows)
        .where(rows.c.user_id == _OWNER, tuple_(*columns).in_(some))
        .returning(literal_column("1", Integer))
        .cte("deleted")
    )
    return select(func.count()).select_from(deleted)


# Subtasks before their parents, and tasks before their lists: they refer to them.
DELETE_ROWS: Sequence[ClauseElement] = (
    _delete_rows(_TASKS, ["id"], _TASKS.c.parent_id.is_not(None)),
    _delete_rows(_TASKS, ["id"]),
    _delete_rows(_LISTS, ["id"]),
    _delete_rows(_TOMBSTONES, ["revision", "id", "kind"]),
)
DELETE_KEYS = _delete_rows(_KEYS, ["key"])
DELETE_USER = (
    delete(UserRecord)
    .where(UserRecord.user_id == _OWNER)
    .execution_options(synchronize_session=False)
)
RENEW_EPOCH = (
    update(UserRecord)
    .where(UserRecord.user_id == _OWNER)
    .values(epoch=bindparam("new_epoch", type_=Uuid))
    .execution_options(dml_strategy="core_only", synchronize_session=False)
)


def _read(record: type[PositionedRecord], *conditions: ColumnElement[bool]) -> ClauseElement:
    """Build the statement that reads which of some rows exist."""
    ids = bindparam("ids", type_=ARRAY(Uuid))
    return select(record.id, record.etag).where(
        record.user_id == _OWNER, record.id == func.any(ids), *conditions
    )


def _insert(record: type[PositionedRecord], *names: str) -> ClauseElement:
    names = ("id", "stored_position", "created_at", "updated_at", "etag", *names)
    sent = sent_rows({name: getattr(record, name).type for name in names})
    columns: dict[str, Any] = {
        "user_id": _OWNER,
        **{name: sent.c[name] for name in names},
        "revision": bindparam("new_revision", type_=BigInteger),
    }
    if "due_date" in columns:
        columns["due_date"] = stored_date(sent.c.due_date)
    return (
        insert(record)
        .from_select(list(columns), select(*columns.values()).select_from(sent))
        .execution_options(dml_strategy="raw")
    )


# By the level of the items of an import.
_READ_LISTS, _READ_TASKS = _read(TaskListRecord), _read(TaskRecord)
_INSERT_TASKS = _insert(
    TaskRecord, "completed_at", *(name for names in PROPERTY_COLUMNS.values() for name in names)
)
READS = {Level.LIST: _READ_LISTS, Level.TASK: _READ_TASKS, Level.SUBTASK: _READ_TASKS}
INSERTS = {
    Level.LIST: _insert(TaskListRecord, "name"),
    Level.TASK: _INSERT_TASKS,
    Level.SUBTASK: _INSERT_TASKS,
}
# The property that refers to a row, the statement that reads these rows, and the error.
REFERENCES: Mapping[Level, tuple[str, ClauseElement, str]] = {
    Level.TASK: ("list_id", _READ_LISTS, "this user has no list with this ID"),
    Level.SUBTASK: (
        "parent_id",
        _read(TaskRecord, TaskRecord.depth == literal_column("0")),
        "this user has no task with this ID, or it is a subtask",
    ),
}
