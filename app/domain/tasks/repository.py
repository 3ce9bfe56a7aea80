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

from app.db.session import ScopedSession
from app.domain.tasks.idempotency import (
    CREATE_IDEMPOTENTLY,
    DELETE_EXPIRED_KEYS,
    idempotency_params,
)
from app.domain.tasks.lists import (
    COLUMNS,
    FILTERS,
    list_statement,
    max_description_bytes,
    truncate_page,
)
from app.domain.tasks.models import TaskRecord
from app.domain.tasks.schemas import (
    ListTasksQuery,
    Task,
    TaskCreate,
    TaskPatch,
    TaskReplace,
)
from app.domain.tasks.search import build_tsquery
from app.http.etags import ETagCondition, format_etag
from app.http.pagination import CursorPosition
from app.http.problems import (
    IdempotencyKeyInUse,
    IdempotencyKeyReused,
    PreconditionFailed,
    ProblemError,
    TaskNotFound,
)

BY_ID = (TaskRecord.user_id == bindparam("owner"), TaskRecord.id == bindparam("task"))
_UTC = text("'UTC'")
ETAG_MATCHES = TaskRecord.etag == func.any(bindparam("etags", type_=ARRAY(Uuid)))
NOW = func.now()
# In UTC because a distributed PostgreSQL accepts only functions of a column that are IMMUTABLE:
# `timestamptz + interval` follows the session's time zone (research/0053).
_AFTER_UPDATED_AT = func.timezone(
    _UTC, func.timezone(_UTC, TaskRecord.updated_at) + text("interval '1 microsecond'")
)
# Strictly forward, even when the clock is set back or two changes fall on one microsecond.
NEXT_UPDATED_AT = func.greatest(NOW, _AFTER_UPDATED_AT)

# Statements are built once: their parameters are the only thing that a request changes.
SELECT = select(*COLUMNS).where(*BY_ID)
DELETE = delete(TaskRecord).where(*BY_ID).returning(TaskRecord.id)
DELETE_MATCHING = DELETE.where(ETAG_MATCHES)
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
_NEXT_UPDATED_AT_ON_CONFLICT = func.greatest(_INSERT.excluded.updated_at, _AFTER_UPDATED_AT)
UPSERT = _INSERT.on_conflict_do_update(
    index_elements=_KEY,
    set_={
        "title": _INSERT.excluded.title,
        "description": _INSERT.excluded.description,
        "completed_at": case(
            (_COMPLETED, func.coalesce(TaskRecord.completed_at, _NEXT_UPDATED_AT_ON_CONFLICT))
        ),
        "updated_at": _NEXT_UPDATED_AT_ON_CONFLICT,
        "etag": _INSERT.excluded.etag,
    },
).returning(*COLUMNS)
PATCH_ASSIGNMENTS: dict[str, ColumnElement[Any]] = {
    "title": bindparam("new_title"),
    "description": bindparam("new_description"),
}
# A task was completed before its next change. `least` skips NULL, as `coalesce` does, in which
# `now()` would not be accepted.
COMPLETED_AT_ASSIGNMENTS: dict[bool, ColumnElement[Any]] = {
    True: func.least(TaskRecord.completed_at, NEXT_UPDATED_AT),
    False: null(),
}


class TaskRepository(SQLAlchemyAsyncRepository[TaskRecord]):
    """The tasks of all users; every statement is filtered by the user its method is given."""

    model_type = TaskRecord
    session: ScopedSession

    async def list_tasks(
        self, user_id: str, query: ListTasksQuery, after: CursorPosition | None
    ) -> tuple[list[Task], CursorPosition | None]:
        """A page, and the position to go on from, None after the last page."""
        filters = {name: value for name in FILTERS if (value := getattr(query, name)) is not None}
        values: dict[str, Any] = {"owner": user_id, "most": query.limit + 1, **filters}
        if query.q is not None:
            values["q"] = build_tsquery(user_id, query.q)
            if values["q"] is None:
                return [], None
        if after is not None:
            values |= {"after": after.sort_value, "after_id": after.id}
        rows = await self._fetch_page(query, frozenset(filters), values)
        page = truncate_page([_to_task(row) for row in rows[: query.limit] if not row[-1]])
        if len(page) == len(rows):
            return page, None
        return page, CursorPosition(getattr(page[-1], query.sort), page[-1].id)

    async def _fetch_page(
        self, query: ListTasksQuery, filters: frozenset[str], values: dict[str, Any]
    ) -> list[Record]:
        """The rows of a page and the one after it; the last column marks one without room."""
        started_at = monotonic()
        has_cursor = "after" in values
        statement = list_statement(filters, query.sort, query.order, has_cursor=has_cursor)
        values["longest"] = max_description_bytes(query.limit)
        rows = await self.session.fetch(statement, values)
        if not any(row[-1] for row in rows):
            return rows
        statement = list_statement(
            filters, query.sort, query.order, has_cursor=has_cursor, counts_bytes=True
        )
        return await self.session.fetch(statement, values, started_at=started_at)

    async def create_task(self, user_id: str, data: TaskCreate, key: str | None) -> Task:
        """Store a new task under a new id, with an idempotency key at most once.

        Raises IdempotencyKeyInUse and IdempotencyKeyReused.
        """
        values = _bind_params(user_id, uuid7(), data)
        if key is None:
            (row,) = await self.session.fetch(INSERT, values)
            return _to_task(row)
        values |= idempotency_params(user_id, key, data)
        rows = await self.session.fetch(CREATE_IDEMPOTENTLY, values)
        if not rows:
            raise IdempotencyKeyInUse
        payload_digest, kept_id, etag, created_at = rows[0]
        if payload_digest != values["payload_digest"]:
            raise IdempotencyKeyReused
        return Task(
            id=kept_id,
            user_id=user_id,
            title=data.title,
            description=data.description,
            completed=data.completed,
            completed_at=created_at if data.completed else None,
            created_at=created_at,
            updated_at=created_at,
            etag=format_etag(etag),
        )

    async def delete_expired_idempotency_keys(self) -> None:
        """Remove idempotency keys of users who send no more; others' go as they send new ones."""
        await self.session.fetch(DELETE_EXPIRED_KEYS)

    async def get_task(self, user_id: str, task_id: UUID) -> Task:
        """One task. Raises TaskNotFound."""
        task = await self._fetch_one(SELECT, {"owner": user_id, "task": task_id})
        if task is None:
            raise TaskNotFound
        return task

    async def replace_task(
        self,
        user_id: str,
        task_id: UUID,
        data: TaskReplace,
        *,
        if_match: ETagCondition | None,
        must_not_exist: bool,
    ) -> Task:
        """Store a whole task; it is a new one when its two instants are equal.

        Raises PreconditionFailed.
        """
        values = _bind_params(user_id, task_id, data)
        statement: ClauseElement
        if if_match is None:
            statement = INSERT_IF_ABSENT if must_not_exist else UPSERT
        elif must_not_exist:
            raise PreconditionFailed(PreconditionFailed.contradictory)
        else:
            members = frozenset(PATCH_ASSIGNMENTS)
            statement = _update_statement(members, completed=data.completed, any_etag=if_match.any)
            values["etags"] = if_match.strong
        task = await self._fetch_one(statement, values)
        if task is None:
            raise PreconditionFailed(PreconditionFailed.exists if must_not_exist else None)
        return task

    async def update_task(
        self, user_id: str, task_id: UUID, patch: TaskPatch, *, if_match: ETagCondition | None
    ) -> Task:
        """Change the members that were sent. Raises TaskNotFound and PreconditionFailed."""
        started_at = monotonic()
        sent = {
            name: value
            for name in PATCH_ASSIGNMENTS
            if (value := getattr(patch, name)) is not msgspec.UNSET
        }
        completed = None if patch.completed is msgspec.UNSET else patch.completed
        if not sent and completed is None:
            current = await self.get_task(user_id, task_id)
            if if_match is not None and not if_match.matches_strong(current.etag):
                raise PreconditionFailed
            return current
        values: dict[str, Any] = {"owner": user_id, "task": task_id, "new_etag": uuid4()}
        values |= {f"new_{name}": value for name, value in sent.items()}
        any_etag = if_match is None or if_match.any
        if if_match is not None:
            values["etags"] = if_match.strong
        statement = _update_statement(frozenset(sent), completed=completed, any_etag=any_etag)
        task = await self._fetch_one(statement, values)
        if task is None:
            raise (
                TaskNotFound
                if any_etag
                else await self._not_found_or_precondition_failed(user_id, task_id, started_at)
            )
        return task

    async def delete_task(
        self, user_id: str, task_id: UUID, *, if_match: ETagCondition | None
    ) -> None:
        """Delete a task. Raises TaskNotFound and PreconditionFailed."""
        started_at = monotonic()
        values: dict[str, Any] = {"owner": user_id, "task": task_id}
        any_etag = if_match is None or if_match.any
        if if_match is not None:
            values["etags"] = if_match.strong
        statement = DELETE if any_etag else DELETE_MATCHING
        if not await self.session.fetch(statement, values):
            raise (
                TaskNotFound
                if any_etag
                else await self._not_found_or_precondition_failed(user_id, task_id, started_at)
            )

    async def _fetch_one(
        self, statement: ClauseElement, values: dict[str, Any], started_at: float | None = None
    ) -> Task | None:
        rows = await self.session.fetch(statement, values, started_at=started_at)
        return _to_task(rows[0]) if rows else None

    async def _not_found_or_precondition_failed(
        self, user_id: str, task_id: UUID, started_at: float
    ) -> ProblemError:
        """Why a change found no row: asked only then, and only about the words of the answer."""
        there = await self._fetch_one(SELECT, {"owner": user_id, "task": task_id}, started_at)
        return TaskNotFound() if there is None else PreconditionFailed()


def _to_task(row: Record) -> Task:
    values: Any = (*row[:8], format_etag(row[8]))
    return Task(*values)


def _bind_params(user_id: str, task_id: UUID, new: TaskCreate | TaskReplace) -> dict[str, Any]:
    return {
        "owner": user_id,
        "task": task_id,
        "new_title": new.title,
        "new_description": new.description,
        "new_completed": new.completed,
        "new_etag": uuid4(),
    }


@cache
def _update_statement(
    members: frozenset[str], *, completed: bool | None, any_etag: bool
) -> ClauseElement:
    changes = {name: PATCH_ASSIGNMENTS[name] for name in members}
    if completed is not None:
        changes["completed_at"] = COMPLETED_AT_ASSIGNMENTS[completed]
    conditions = BY_ID if any_etag else (*BY_ID, ETAG_MATCHES)
    return (
        update(TaskRecord)
        .where(*conditions)
        .values(**changes, updated_at=NEXT_UPDATED_AT, etag=bindparam("new_etag"))
        .returning(*COLUMNS)
    )
