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
    Uuid,
    bindparam,
    case,
    delete,
    func,
    null,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from uuid_utils.compat import uuid7

from app.db.session import Sessions
from app.domain.tasks.idempotency import CREATE_ONCE, SWEEP, key_values
from app.domain.tasks.lists import COLUMNS, FILTERS, fitting, list_statement, longest
from app.domain.tasks.models import TaskRecord
from app.domain.tasks.schemas import (
    ListTasksQuery,
    Task,
    TaskCreate,
    TaskPatch,
    TaskReplace,
)
from app.domain.tasks.search import tsquery
from app.http.etags import Condition, format_etag
from app.http.pagination import Position
from app.http.problems import (
    IdempotencyKeyInUse,
    IdempotencyKeyReused,
    PreconditionFailed,
    Problem,
    TaskNotFound,
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
        rows = await self._rows(query, frozenset(filters), values)
        page = fitting([_task(row) for row in rows[: query.limit] if not row[-1]])
        if len(page) == len(rows):
            return page, None
        return page, Position(getattr(page[-1], query.sort), page[-1].id)

    async def _rows(
        self, query: ListTasksQuery, filters: frozenset[str], values: dict[str, Any]
    ) -> list[Record]:
        """The rows of a page and the one after it; the last column marks one without room."""
        began = monotonic()
        follows = "after" in values
        statement = list_statement(filters, query.sort, query.order, follows=follows)
        values["longest"] = longest(query.limit)
        rows = await self.session.fetch(statement, values)
        if not any(row[-1] for row in rows):
            return rows
        statement = list_statement(
            filters, query.sort, query.order, follows=follows, counts_bytes=True
        )
        return await self.session.fetch(statement, values, since=began)

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
    values: Any = (*row[:8], format_etag(row[8]))
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
