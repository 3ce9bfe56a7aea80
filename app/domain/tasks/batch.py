"""Batches: several changes of tasks in one transaction with one revision (research/0084)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import msgspec
from msgspec import UNSET
from sqlalchemy import (
    ARRAY,
    BigInteger,
    ClauseElement,
    ColumnElement,
    Date,
    DateTime,
    Row,
    SmallInteger,
    Text,
    Time,
    Uuid,
    bindparam,
    column,
    delete,
    exists,
    func,
    select,
    table,
    union_all,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import aliased
from sqlalchemy.types import TypeEngine
from uuid_utils.compat import uuid7

from app.db.idempotency import (
    CLAIM_KEY,
    READ_RESPONSE,
    STORE_RESPONSE,
    idempotency_params,
    read_claim,
)
from app.db.repository import UserTransaction
from app.db.revisions import LOCK_USER, TAKE_REVISION, TAKE_REVISION_OF_DELETE, leave_tombstones
from app.db.statements import sent_rows
from app.domain.tasks.batch_rules import (
    Changes,
    Create,
    Place,
    Update,
    check_existence,
    check_places,
    check_preconditions,
)
from app.domain.tasks.filters import stored_date
from app.domain.tasks.models import TaskRecord
from app.domain.tasks.problems import BatchConflict
from app.domain.tasks.rows import COLUMNS, to_task
from app.domain.tasks.schemas import TaskBatch, TaskBatchResult
from app.domain.tasks.statements import SET_COLUMNS

Params = dict[str, Any]

MAX_RESULT_BYTES = 1_048_576

_OWNER = bindparam("owner", type_=TaskRecord.user_id.type)
_IDS = bindparam("ids", type_=ARRAY(Uuid))
_REVISION = bindparam("new_revision", type_=BigInteger)
# The parameters are not columns of entities, and no entity is loaded.
_RAW: Any = {"dml_strategy": "core_only", "synchronize_session": False}
_TIMESTAMP = DateTime(timezone=True)
# The columns of the rows that a batch sends, as arrays.
_SENT: dict[str, TypeEngine[Any]] = {
    "id": Uuid(),
    "etag": Uuid(),
    "created_at": _TIMESTAMP,
    "updated_at": _TIMESTAMP,
    "completed_at": _TIMESTAMP,
    "title": Text(),
    "description": Text(),
    "list_id": Uuid(),
    "parent_id": Uuid(),
    "depth": SmallInteger(),
    "priority": SmallInteger(),
    "due_date": Date(),
    "due_time": Time(),
    "due_timezone": Text(),
    "labels": Text(),
}

# The wait is over before the clock is read, so that no task of another request is newer. Times come
# from this clock: distributed PostgreSQL does not accept `now()` in a CASE of an UPDATE.
_LOCK = LOCK_USER.cte("gate")
LOCK_USER_AND_READ_CLOCK = select(func.clock_timestamp()).select_from(_LOCK)
# In the order of IDs: version 1.1.0 does not take the lock of the user.
LOCK_TASKS = (
    select(*COLUMNS)
    .where(TaskRecord.user_id == _OWNER, TaskRecord.id == func.any(_IDS))
    .order_by(TaskRecord.id)
    .with_for_update(key_share=True)
)
# Not an entity of this package: resources do not import each other.
_LISTS = table("lists", column("user_id", Text()), column("id", Uuid()))
LOCK_LISTS = (
    select(_LISTS.c.id)
    .where(_LISTS.c.user_id == _OWNER, _LISTS.c.id == func.any(_IDS))
    .order_by(_LISTS.c.id)
    .with_for_update(key_share=True, read=True)
)
_PARENTS = func.unnest(_IDS).table_valued(column("id", Uuid())).render_derived("parents")
READ_PARENTS = select(_PARENTS.c.id).where(
    exists().where(
        TaskRecord.user_id == _OWNER,
        TaskRecord.parent_id == _PARENTS.c.id,
        TaskRecord.id != func.all(bindparam("moved", type_=ARRAY(Uuid))),
    )
)


_ROWS = sent_rows(_SENT)


def _value(name: str) -> ColumnElement[Any]:
    value: ColumnElement[Any] = _ROWS.c[name]
    return stored_date(value) if name == "due_date" else value


def _insert() -> ClauseElement:
    columns: dict[str, Any] = {
        "user_id": _OWNER,
        **{name: _value(name) for name in _SENT},
        "revision": _REVISION,
    }
    return (
        insert(TaskRecord)
        .from_select(list(columns), select(*columns.values()).select_from(_ROWS))
        .returning(*COLUMNS)
        .execution_options(dml_strategy="raw")
    )


def _update() -> ClauseElement:
    return (
        update(TaskRecord)
        .where(TaskRecord.user_id == _OWNER, TaskRecord.id == _ROWS.c.id)
        .values(
            **{name: _value(name) for name in _SENT if name not in {"id", "created_at"}},
            revision=_REVISION,
        )
        .returning(*COLUMNS)
        .execution_options(**_RAW)
    )


def _delete() -> ClauseElement:
    """Delete tasks and their subtasks, and leave a tombstone for each."""
    subtask = aliased(TaskRecord)
    deleted = (
        delete(TaskRecord)
        .where(TaskRecord.user_id == _OWNER, TaskRecord.id == func.any(_IDS))
        .returning(TaskRecord.id)
        .cte("deleted")
    )
    # A subtask that the batch deletes, too, is returned by one of the two.
    deleted_subtasks = (
        delete(subtask)
        .where(subtask.user_id == _OWNER, subtask.parent_id == func.any(_IDS))
        .returning(subtask.id)
        .cte("deleted_subtasks")
    )
    gone = union_all(select(deleted.c.id), select(deleted_subtasks.c.id)).subquery("all_deleted")
    tombstones = leave_tombstones(TaskRecord.kind, select(gone.c.id, _REVISION.label("revision")))
    return select(func.count()).select_from(gone).add_cte(tombstones.cte("tombstones_left"))


INSERT_ROWS, UPDATE_ROWS, DELETE_ROWS = _insert(), _update(), _delete()


class TaskBatchRepository(UserTransaction):
    """Applies one batch. Each request has an instance and a session."""

    async def apply(self, batch: TaskBatch, changes: Changes, key: str | None) -> bytes:
        """Apply a batch, at most once for an idempotency key. Return the result as JSON.

        Raises IdempotencyKeyInUse, IdempotencyKeyReused, TaskNotFound, BatchConflict,
        PreconditionFailed, ReferenceNotFound and HierarchyConflict, each with all errors of its
        check.
        """
        # From here on, no other change of this user is made before the end of the transaction.
        ((now,),) = await self._execute(LOCK_USER_AND_READ_CLOCK)
        if key is None:
            return await self._result(changes, now)
        params = idempotency_params(self._user_id, key, batch, collection="batch")
        claimed = await self._execute(CLAIM_KEY, **params, resource_id=uuid7(), new_etag=uuid4())
        read_claim(claimed.all(), params["payload_digest"])
        ((response,),) = await self._execute(READ_RESPONSE, key=key)
        if response is None:
            response = await self._result(changes, now)
            await self._execute(STORE_RESPONSE, used_key=key, new_response=response)
        return bytes(response)

    async def _result(self, changes: Changes, now: datetime) -> bytes:
        result = msgspec.json.encode(await self._apply(changes, now))
        if len(result) > MAX_RESULT_BYTES:
            detail = f"The response would exceed {MAX_RESULT_BYTES} bytes. Send fewer changes."
            raise BatchConflict(detail)
        return result

    async def _apply(self, changes: Changes, now: datetime) -> TaskBatchResult:
        named = {change.id for change in changes.all()} | changes.references("parent_id")
        rows = await self._execute(LOCK_TASKS, ids=sorted(named))
        stored = {row.id: row for row in rows}
        check_existence(changes, stored, now)
        check_preconditions(changes, {id_: row.etag for id_, row in stored.items()})
        places = {id_: Place(row.list_id, row.parent_id) for id_, row in stored.items()}
        check_places(changes, places, await self._lists(changes), await self._parents(changes))
        written = {} if changes.is_empty else await self._write(changes, stored, now)
        tasks = {id_: to_task(tuple(row)) for id_, row in (stored | written).items()}
        return TaskBatchResult(
            created=[tasks[create.id] for create in changes.creates],
            updated=[tasks[update.id] for update in changes.updates],
            deleted=[delete.id for delete in changes.deletes],
        )

    async def _lists(self, changes: Changes) -> set[UUID]:
        """Return those lists to which changes refer that exist."""
        ids = changes.references("list_id")
        if not ids:
            return set()
        return {row.id for row in await self._execute(LOCK_LISTS, ids=sorted(ids))}

    async def _parents(self, changes: Changes) -> set[UUID]:
        """Return the future subtasks that have subtasks which the batch does not move."""
        moved = {change.id for change in changes.placed()}
        ids = {change.id for change in changes.placed() if change.columns.get("parent_id")}
        if not ids:
            return set()
        rows = await self._execute(READ_PARENTS, ids=sorted(ids), moved=sorted(moved))
        return {row.id for row in rows}

    async def _write(
        self, changes: Changes, stored: Mapping[UUID, Row[*tuple[Any, ...]]], now: datetime
    ) -> dict[UUID, Row[*tuple[Any, ...]]]:
        """Write the changes with one revision, and return the rows of creates and updates."""
        take_revision = TAKE_REVISION_OF_DELETE if changes.deletes else TAKE_REVISION
        ((revision,),) = await self._execute(take_revision, new_etag=uuid4())
        # Parents before subtasks: tasks of the batch may refer to each other.
        first = [_created(it, now) for it in changes.creates if not it.columns["parent_id"]]
        subtasks = [_created(it, now) for it in changes.creates if it.columns["parent_id"]]
        updated = [_updated(update, stored[update.id], now) for update in changes.changed]
        written: dict[UUID, Row[*tuple[Any, ...]]] = {}
        for statement, rows in (
            (INSERT_ROWS, first), (UPDATE_ROWS, updated), (INSERT_ROWS, subtasks)
        ):  # fmt: skip
            if rows:
                params = {"new_revision": revision, **_arrays(rows)}
                written |= {row.id: row for row in await self._execute(statement, **params)}
        if changes.deletes:
            ids = [delete.id for delete in changes.deletes]
            await self._execute(DELETE_ROWS, new_revision=revision, ids=ids)
        return written


def _created(create: Create, now: datetime) -> Params:
    """Return the columns of a new task."""
    return {
        **create.columns,
        "id": create.id,
        "created_at": create.created_at or now,
        "updated_at": now,
        "completed_at": (create.completed_at or now) if create.data.completed else None,
    }


def _updated(update: Update, row: Row[*tuple[Any, ...]], now: datetime) -> Params:
    """Return the columns of a task after a change. `updated_at` increases strictly."""
    columns = {name: getattr(row, name) for name in SET_COLUMNS if name != "depth"}
    updated_at = max(now, row.updated_at + timedelta(microseconds=1))
    completed = row.completed if update.data.completed is UNSET else update.data.completed
    return {
        **columns,
        "depth": int(row.parent_id is not None),
        **update.columns,
        "id": update.id,
        "updated_at": updated_at,
        "completed_at": (row.completed_at or updated_at) if completed else None,
    }


def _arrays(rows: Iterable[Params]) -> dict[str, list[Any]]:
    """Return the parameters of rows, in the order of their IDs."""
    ordered = sorted(rows, key=lambda row: row["id"])
    arrays = {f"{name}s": [row.get(name) for row in ordered] for name in _SENT}
    return {**arrays, "etags": [uuid4() for _ in ordered]}
