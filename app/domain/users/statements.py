"""The statements that erase a user (research/0086)."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import (
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
from sqlalchemy.sql.expression import ColumnClause, TableClause

from app.db.revisions import UserRecord

_OWNER = bindparam("owner", type_=Text)
_LIMIT = bindparam("row_limit", type_=Integer)


def _columns(*names: str) -> list[ColumnClause[object]]:
    return [column(name) for name in names]


# Not the models of other resources, which this package does not import.
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
    _delete_rows(_KEYS, ["key"]),
)
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
