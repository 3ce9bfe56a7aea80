"""The statements of the task operations, except those of pages and siblings."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, lru_cache
from typing import Any

from sqlalchemy import (
    ARRAY,
    CTE,
    Boolean,
    ClauseElement,
    ColumnElement,
    Uuid,
    bindparam,
    case,
    delete,
    func,
    null,
    select,
    union_all,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.dialects.postgresql.dml import Insert
from sqlalchemy.orm import aliased
from sqlalchemy.sql.dml import ReturningUpdate

from app.db.collections import VERSION
from app.db.idempotency import create_statement
from app.db.models import after
from app.db.repository import etag_matches
from app.db.revisions import (
    GATE,
    IS_GATE_PASSED,
    TombstoneRecord,
    leave_tombstones,
    removed_tombstones,
    revised,
)
from app.db.statements import UNNAMED
from app.domain.tasks.filters import stored_date
from app.domain.tasks.models import NEXT_UPDATED_AT, NOW, TaskRecord
from app.domain.tasks.rows import COLUMNS, PROPERTY_COLUMNS
from app.domain.tasks.schemas import MAX_LABELS
from app.domain.tasks.siblings import LOCKED, NEIGHBORS_UNCHANGED

BY_ID = (TaskRecord.user_id == bindparam("owner"), TaskRecord.id == bindparam("task"))
ETAG_MATCHES = etag_matches(TaskRecord.etag)
STATEMENT_CACHE_SIZE = 1024
SET_COLUMNS = [name for names in PROPERTY_COLUMNS.values() for name in names]


def _new(column: str) -> ColumnElement[Any]:
    value = bindparam(f"new_{column}", type_=getattr(TaskRecord, column).type)
    if column == "due_date":
        return stored_date(value)
    return value


# Built once at import. A request only supplies parameters.
SELECT = select(*COLUMNS).where(*BY_ID)
# Planned for its values: the plan for any user and any number of IDs reads all tasks of the user.
SELECT_SEVERAL = (
    select(*COLUMNS)
    .where(
        TaskRecord.user_id == bindparam("owner"),
        TaskRecord.id == func.any(bindparam("ids", type_=ARRAY(Uuid))),
    )
    .execution_options(**UNNAMED)
)
_COMPLETED = bindparam("new_completed", type_=Boolean)


def _insert(revision: CTE) -> Insert:
    columns: dict[str, Any] = {
        "user_id": bindparam("owner", type_=TaskRecord.user_id.type),
        "id": bindparam("task", type_=Uuid),
        "completed_at": case((_COMPLETED, NOW)),
        "created_at": NOW,
        "updated_at": NOW,
        "etag": bindparam("new_etag", type_=Uuid),
        **{column: _new(column) for column in SET_COLUMNS},
        "revision": revision.c.revision,
    }
    values = select(*columns.values()).select_from(revision)
    return insert(TaskRecord).from_select(list(columns), values)


_KEY = [TaskRecord.user_id, TaskRecord.id]
_INSERT = _insert(revised(GATE))
INSERT = _INSERT.returning(*COLUMNS)
# If the task is created at the same moment, the primary key rejects the statement, so that it
# takes no revision.
INSERT_IF_ABSENT = _insert(revised(GATE, ~select(TaskRecord.id).where(*BY_ID).exists())).returning(
    *COLUMNS
)
# The rejected row has the value of `now()`, which is not IMMUTABLE and thus not accepted here.
_NEXT_UPDATED_AT_ON_CONFLICT = func.greatest(
    _INSERT.excluded.updated_at, after(TaskRecord.updated_at)
)
UPSERT = _INSERT.on_conflict_do_update(
    index_elements=_KEY,
    set_={
        **{column: _INSERT.excluded[column] for column in SET_COLUMNS},
        "completed_at": case(
            (_COMPLETED, func.coalesce(TaskRecord.completed_at, _NEXT_UPDATED_AT_ON_CONFLICT))
        ),
        "updated_at": _NEXT_UPDATED_AT_ON_CONFLICT,
        "etag": _INSERT.excluded.etag,
        "revision": _INSERT.excluded.revision,
    },
).returning(*COLUMNS)


_USED_LABELS = (
    select(func.unnest(func.string_to_array(TaskRecord.labels, ",")).label("label"))
    .where(TaskRecord.user_id == bindparam("owner"), ~TaskRecord.completed, TaskRecord.labels != "")
    .subquery("used")
    .c.label
)
LABELS = (
    select(_USED_LABELS, func.count(), VERSION.label("version"))
    .group_by(_USED_LABELS)
    .order_by(_USED_LABELS.collate("C"))
    .limit(MAX_LABELS + 1)
)


@cache
def move_statement(*, any_etag: bool) -> ClauseElement:
    """Build the statement that moves a task, unless a neighbor or the task has changed."""
    conditions = [
        LOCKED.c.id == bindparam("task"),
        NEIGHBORS_UNCHANGED,
        # The place is still the one that was read.
        *(
            LOCKED.c[column].is_not_distinct_from(bindparam(f"current_{column}", type_=Uuid))
            for column in ("list_id", "parent_id")
        ),
    ]
    if not any_etag:
        conditions.append(etag_matches(LOCKED.c.etag))
    columns = ("list_id", "parent_id", "depth", "stored_position")
    statement = _update({column: _new(column) for column in columns}, revised(LOCKED, *conditions))
    return statement.execution_options(**UNNAMED)  # for the IDs in `LOCKED`


def _update(assignments: Mapping[str, Any], revision: CTE) -> ReturningUpdate[*tuple[Any, ...]]:
    """Build an UPDATE of a task, which is locked, with a revision. Without one it does nothing."""
    return (
        update(TaskRecord)
        .where(*BY_ID, revision.c.revision.is_not(None))
        .values(
            **assignments,
            updated_at=NEXT_UPDATED_AT,
            etag=bindparam("new_etag"),
            revision=revision.c.revision,
        )
        .returning(*COLUMNS)
    )


def _locked(*, any_etag: bool) -> CTE:
    """Build the part of a statement that locks a task, unless it has another ETag.

    If the task is changed at the same moment, the newest version is locked and checked.
    """
    conditions = BY_ID if any_etag else (*BY_ID, ETAG_MATCHES)
    return (
        select(TaskRecord.id)
        .where(*conditions, IS_GATE_PASSED)
        .with_for_update(key_share=True)
        .cte("locked")
    )


def _claimed_values(claimed: CTE) -> dict[str, ColumnElement[Any]]:
    """Return the columns of a task that is created with an idempotency key."""
    created_at = claimed.c.created_at
    return {
        "user_id": bindparam("owner", type_=TaskRecord.user_id.type),
        "id": claimed.c.resource_id,
        "completed_at": case((bindparam("new_completed", type_=Boolean), created_at)),
        "created_at": created_at,
        "updated_at": created_at,
        "etag": claimed.c.etag,
        **{column: _new(column) for column in SET_COLUMNS},
    }


CREATE_IDEMPOTENTLY = create_statement(TaskRecord, _claimed_values)
# `completed_at` is never after the next change, so `least` keeps it. `least` ignores NULL like
# `coalesce`, in which distributed PostgreSQL does not accept `now()`.
COMPLETED_AT_ASSIGNMENTS: dict[bool, ColumnElement[Any]] = {
    True: func.least(TaskRecord.completed_at, NEXT_UPDATED_AT),
    False: null(),
}


@lru_cache(STATEMENT_CACHE_SIZE)
def update_statement(
    columns: frozenset[str], *, completed: bool | None, any_etag: bool
) -> ClauseElement:
    """Build the statement that sets columns and `completed`, unless that is None."""
    assignments = {column: _new(column) for column in columns}
    if completed is not None:
        assignments["completed_at"] = COMPLETED_AT_ASSIGNMENTS[completed]
    return _update(assignments, revised(_locked(any_etag=any_etag)))


@cache
def delete_statement(*, any_etag: bool, removes_tombstones: bool = False) -> ClauseElement:
    """Build the statement that deletes a task with its subtasks and returns their IDs.

    Each of them leaves a tombstone. With `removes_tombstones`, old ones of the user are
    removed.
    """
    conditions = BY_ID if any_etag else (*BY_ID, ETAG_MATCHES)
    # A task that is changed at the same moment is checked in its newest version.
    deleted = (
        delete(TaskRecord)
        .where(*conditions, IS_GATE_PASSED)
        .returning(TaskRecord.id)
        .cte("deleted")
    )
    is_deleted = select(deleted.c.id).exists()
    removed = removed_tombstones(is_deleted) if removes_tombstones else None
    revision = revised(deleted, removed=removed)
    subtask = aliased(TaskRecord)
    subtasks = (
        delete(subtask)
        .where(
            subtask.user_id == bindparam("owner"),
            subtask.parent_id == bindparam("task"),
            is_deleted,
        )
        .returning(subtask.id)
        .cte("deleted_subtasks")
    )
    gone = union_all(select(deleted.c.id), select(subtasks.c.id)).subquery("all_deleted")
    tombstones = leave_tombstones(TaskRecord.kind, select(gone.c.id, revision.c.revision))
    return tombstones.returning(TombstoneRecord.id)
