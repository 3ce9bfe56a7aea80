"""Tasks in the database: one method for each operation, one statement on its normal path."""

from __future__ import annotations

from functools import cache
from time import monotonic
from typing import Any
from uuid import UUID, uuid4

import msgspec
from advanced_alchemy.repository import SQLAlchemyAsyncRepository
from asyncpg import Record
from sqlalchemy import (
    ARRAY,
    Boolean,
    ClauseElement,
    ColumnElement,
    Text,
    Uuid,
    bindparam,
    case,
    cast,
    delete,
    func,
    null,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import TSQUERY, insert
from uuid_utils.compat import uuid7

from app.etags import Condition, format_etag
from app.problems import (
    IdempotencyKeyInUse,
    IdempotencyKeyReused,
    PreconditionFailed,
    Problem,
    TaskNotFound,
)
from app.session import Sessions
from app.statements import UNNAMED
from app.tasks.cursor import Position
from app.tasks.idempotency import CREATE_ONCE, SWEEP, key_values
from app.tasks.models import TaskRecord
from app.tasks.schemas import (
    ListTasksQuery,
    SortOrder,
    Task,
    TaskCreate,
    TaskPatch,
    TaskReplace,
    TaskSort,
)
from app.tasks.words import tsquery

# In the order of the fields of Task.
COLUMNS = (
    TaskRecord.id,
    TaskRecord.user_id,
    TaskRecord.title,
    TaskRecord.description,
    TaskRecord.completed,
    TaskRecord.completed_at,
    TaskRecord.created_at,
    TaskRecord.updated_at,
    TaskRecord.etag,
)
THIS_TASK = (TaskRecord.user_id == bindparam("owner"), TaskRecord.id == bindparam("task"))
_UTC = text("'UTC'")
HAS_ETAG = TaskRecord.etag == func.any(bindparam("etags", type_=ARRAY(Uuid)))
NOW = func.now()
# In UTC because a distributed PostgreSQL accepts only functions of a column that are IMMUTABLE:
# `timestamptz + interval` follows the session's time zone (research.md, D53).
_NEXT = func.timezone(
    _UTC, func.timezone(_UTC, TaskRecord.updated_at) + text("interval '1 microsecond'")
)
# Strictly forward, even when the clock is set back or two changes fall on one microsecond.
LATER = func.greatest(NOW, _NEXT)

# Statements are built once: their parameters are the only thing that a request changes.
SELECT = select(*COLUMNS).where(*THIS_TASK)
DELETE = delete(TaskRecord).where(*THIS_TASK).returning(TaskRecord.id)
DELETE_MATCHING = DELETE.where(HAS_ETAG)
_COMPLETED = bindparam("new_completed", type_=Boolean)
_INSERT = insert(TaskRecord).values(
    user_id=bindparam("owner"),
    id=bindparam("task"),
    title=bindparam("new_title"),
    description=bindparam("new_description"),
    completed_at=case((_COMPLETED, NOW)),
    created_at=NOW,
    updated_at=NOW,
    etag=bindparam("new_etag"),
)
_KEY = [TaskRecord.user_id, TaskRecord.id]
INSERT = _INSERT.returning(*COLUMNS)
INSERT_IF_ABSENT = _INSERT.on_conflict_do_nothing(index_elements=_KEY).returning(*COLUMNS)
# `now()` is not IMMUTABLE either; in the row that could not be inserted it has its value.
_LATER = func.greatest(_INSERT.excluded.updated_at, _NEXT)
UPSERT = _INSERT.on_conflict_do_update(
    index_elements=_KEY,
    set_={
        "title": _INSERT.excluded.title,
        "description": _INSERT.excluded.description,
        "completed_at": case((_COMPLETED, func.coalesce(TaskRecord.completed_at, _LATER))),
        "updated_at": _LATER,
        "etag": _INSERT.excluded.etag,
    },
).returning(*COLUMNS)
CHANGES: dict[str, ColumnElement[Any]] = {
    "title": bindparam("new_title"),
    "description": bindparam("new_description"),
}
# A task was completed before its next change. `least` skips NULL, as `coalesce` does, in which
# `now()` would not be accepted.
COMPLETIONS: dict[bool, ColumnElement[Any]] = {
    True: func.least(TaskRecord.completed_at, LATER),
    False: null(),
}
FILTERS = {
    "completed": TaskRecord.completed == bindparam("completed"),
    "created_after": TaskRecord.created_at > bindparam("created_after"),
    "created_before": TaskRecord.created_at < bindparam("created_before"),
    "updated_after": TaskRecord.updated_at > bindparam("updated_after"),
    "updated_before": TaskRecord.updated_at < bindparam("updated_before"),
    # Each lexeme holds its user, so one index serves both (data-model.md, "Search").
    "q": TaskRecord.search.op("@@")(cast(func.lower(bindparam("q", type_=Text)), TSQUERY)),
}
# With these filters one index has what is looked for in the order that is asked for, whatever the
# values are. With others the shorter way depends on the values.
INDEXED = {
    TaskSort.CREATED_AT: {"completed", "created_after", "created_before"},
    TaskSort.UPDATED_AT: {"completed", "updated_after", "updated_before"},
}


class TaskRepository(SQLAlchemyAsyncRepository[TaskRecord]):
    """The tasks of all users; every statement is filtered by the user its method is given."""

    model_type = TaskRecord
    session: Sessions

    async def list_tasks(
        self, user_id: str, query: ListTasksQuery, after: Position | None
    ) -> tuple[list[Task], Position | None]:
        """A page, and the position to go on from, None after the last page."""
        filters = {name: value for name in FILTERS if (value := getattr(query, name)) is not None}
        values: dict[str, Any] = {"owner": user_id, "most": query.limit + 1, **filters}
        if query.q is not None:
            values["q"] = tsquery(user_id, query.q)
            if values["q"] is None:
                return [], None
        if after is not None:
            values |= {"after": after.at, "after_id": after.id}
        statement = _list(frozenset(filters), query.sort, query.order, follows=after is not None)
        tasks = [_task(row) for row in await self.session.fetch(statement, values)]
        if len(tasks) <= query.limit:
            return tasks, None
        last = tasks[query.limit - 1]
        return tasks[: query.limit], Position(getattr(last, query.sort), last.id)

    async def create_task(self, user_id: str, new: TaskCreate, key: str | None) -> Task:
        """Store a new task under a new id, with an idempotency key at most once.

        Raises IdempotencyKeyInUse and IdempotencyKeyReused.
        """
        values = _values(user_id, uuid7(), new)
        if key is None:
            (row,) = await self.session.fetch(INSERT, values)
            return _task(row)
        values |= key_values(user_id, key, new)
        rows = await self.session.fetch(CREATE_ONCE, values)
        if not rows:
            raise IdempotencyKeyInUse
        payload_digest, kept_id, etag, created_at = rows[0]
        if payload_digest != values["payload_digest"]:
            raise IdempotencyKeyReused
        return Task(
            id=kept_id,
            user_id=user_id,
            title=new.title,
            description=new.description,
            completed=new.completed,
            completed_at=created_at if new.completed else None,
            created_at=created_at,
            updated_at=created_at,
            etag=format_etag(etag),
        )

    async def forget_expired_keys(self) -> None:
        """Remove idempotency keys of users who send no more; others' go as they send new ones."""
        await self.session.fetch(SWEEP)

    async def get_task(self, user_id: str, task_id: UUID) -> Task:
        """One task. Raises TaskNotFound."""
        task = await self._one(SELECT, {"owner": user_id, "task": task_id})
        if task is None:
            raise TaskNotFound
        return task

    async def replace_task(
        self,
        user_id: str,
        task_id: UUID,
        new: TaskReplace,
        *,
        if_match: Condition | None,
        if_absent: bool,
    ) -> Task:
        """Store a whole task; it is a new one when its two instants are equal.

        Raises PreconditionFailed.
        """
        values = _values(user_id, task_id, new)
        statement: ClauseElement
        if if_match is None:
            statement = INSERT_IF_ABSENT if if_absent else UPSERT
        elif if_absent:
            raise PreconditionFailed
        else:
            members = frozenset(CHANGES)
            statement = _update(members, completed=new.completed, any_etag=if_match.any)
            values["etags"] = if_match.strong
        task = await self._one(statement, values)
        if task is None:
            raise PreconditionFailed
        return task

    async def update_task(
        self, user_id: str, task_id: UUID, patch: TaskPatch, *, if_match: Condition | None
    ) -> Task:
        """Change the members that were sent. Raises TaskNotFound and PreconditionFailed."""
        began = monotonic()
        sent = {
            name: value for name in CHANGES if (value := getattr(patch, name)) is not msgspec.UNSET
        }
        completed = None if patch.completed is msgspec.UNSET else patch.completed
        if not sent and completed is None:
            current = await self.get_task(user_id, task_id)
            if if_match is not None and not if_match.holds_strongly(current.etag):
                raise PreconditionFailed
            return current
        values: dict[str, Any] = {"owner": user_id, "task": task_id, "new_etag": uuid4()}
        values |= {f"new_{name}": value for name, value in sent.items()}
        any_etag = if_match is None or if_match.any
        if if_match is not None:
            values["etags"] = if_match.strong
        statement = _update(frozenset(sent), completed=completed, any_etag=any_etag)
        task = await self._one(statement, values)
        if task is None:
            raise TaskNotFound if any_etag else await self._refusal(user_id, task_id, began)
        return task

    async def delete_task(self, user_id: str, task_id: UUID, *, if_match: Condition | None) -> None:
        """Delete a task. Raises TaskNotFound and PreconditionFailed."""
        began = monotonic()
        values: dict[str, Any] = {"owner": user_id, "task": task_id}
        any_etag = if_match is None or if_match.any
        if if_match is not None:
            values["etags"] = if_match.strong
        statement = DELETE if any_etag else DELETE_MATCHING
        if not await self.session.fetch(statement, values):
            raise TaskNotFound if any_etag else await self._refusal(user_id, task_id, began)

    async def _one(
        self, statement: ClauseElement, values: dict[str, Any], since: float | None = None
    ) -> Task | None:
        rows = await self.session.fetch(statement, values, since=since)
        return _task(rows[0]) if rows else None

    async def _refusal(self, user_id: str, task_id: UUID, since: float) -> Problem:
        """Why a change found no row: asked only then, and only about the words of the answer."""
        there = await self._one(SELECT, {"owner": user_id, "task": task_id}, since)
        return TaskNotFound() if there is None else PreconditionFailed()


def _task(row: Record) -> Task:
    values: Any = (*row[:-1], format_etag(row[-1]))
    return Task(*values)


def _values(user_id: str, task_id: UUID, new: TaskCreate | TaskReplace) -> dict[str, Any]:
    return {
        "owner": user_id,
        "task": task_id,
        "new_title": new.title,
        "new_description": new.description,
        "new_completed": new.completed,
        "new_etag": uuid4(),
    }


@cache
def _update(members: frozenset[str], *, completed: bool | None, any_etag: bool) -> ClauseElement:
    changes = {name: CHANGES[name] for name in members}
    if completed is not None:
        changes["completed_at"] = COMPLETIONS[completed]
    conditions = THIS_TASK if any_etag else (*THIS_TASK, HAS_ETAG)
    return (
        update(TaskRecord)
        .where(*conditions)
        .values(**changes, updated_at=LATER, etag=bindparam("new_etag"))
        .returning(*COLUMNS)
    )


@cache
def _list(
    filters: frozenset[str], sort: TaskSort, order: SortOrder, *, follows: bool
) -> ClauseElement:
    """The statement for one set of filters; there are 512."""
    key = (getattr(TaskRecord, sort), TaskRecord.id)
    conditions = [TaskRecord.user_id == bindparam("owner"), *(FILTERS[f] for f in sorted(filters))]
    # A task is not changed before it is made, so a bound on one instant may bound the other.
    if sort is TaskSort.CREATED_AT and "updated_before" in filters:
        conditions.append(TaskRecord.created_at < bindparam("updated_before"))
    if sort is TaskSort.UPDATED_AT and "created_after" in filters:
        conditions.append(TaskRecord.updated_at > bindparam("created_after"))
    if follows:
        position = tuple_(bindparam("after", type_=key[0].type), bindparam("after_id", type_=Uuid))
        conditions.append(
            tuple_(*key) > position if order is SortOrder.ASC else tuple_(*key) < position
        )
    ordering = [column.asc() if order is SortOrder.ASC else column.desc() for column in key]
    statement = select(*COLUMNS).where(*conditions).order_by(*ordering).limit(bindparam("most"))
    return statement if filters <= INDEXED[sort] else statement.execution_options(**UNNAMED)
