"""The SQL of the task operations: one statement per operation, except in rare cases."""

from __future__ import annotations

from functools import cache, partial
from time import monotonic
from typing import Any
from uuid import UUID, uuid4

import msgspec
from asyncpg import Record
from sqlalchemy import (
    CTE,
    Boolean,
    ClauseElement,
    ColumnElement,
    bindparam,
    case,
    delete,
    func,
    null,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from uuid_utils.compat import uuid7

from app.db.idempotency import create_statement, idempotency_params, read_claim
from app.db.models import after
from app.db.repository import StatementRepository, etag_matches
from app.domain.tasks.lists import (
    COLUMNS,
    FILTERS,
    list_statement,
    max_description_bytes,
    truncate_page,
)
from app.domain.tasks.models import TaskRecord
from app.domain.tasks.problems import TaskNotFound
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
from app.http.problems import PreconditionFailed

BY_ID = (TaskRecord.user_id == bindparam("owner"), TaskRecord.id == bindparam("task"))
ETAG_MATCHES = etag_matches(TaskRecord.etag)
NOW = func.now()
_AFTER_UPDATED_AT = after(TaskRecord.updated_at)
# Strictly increasing, even if the clock is set back or two changes have the same microsecond.
NEXT_UPDATED_AT = func.greatest(NOW, _AFTER_UPDATED_AT)

# Built once at import. A request only supplies parameters.
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
# The rejected row has the value of `now()`, which is not IMMUTABLE and thus not accepted here.
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


def _claimed_values(claimed: CTE) -> dict[str, ColumnElement[Any]]:
    """Return the columns of a task that is created with an idempotency key."""
    created_at = claimed.c.created_at
    return {
        "user_id": bindparam("owner", type_=TaskRecord.user_id.type),
        "id": claimed.c.resource_id,
        "title": bindparam("new_title", type_=TaskRecord.title.type),
        "description": bindparam("new_description", type_=TaskRecord.description.type),
        "completed_at": case((bindparam("new_completed", type_=Boolean), created_at)),
        "created_at": created_at,
        "updated_at": created_at,
        "etag": claimed.c.etag,
    }


CREATE_IDEMPOTENTLY = create_statement(TaskRecord, _claimed_values)
PATCH_ASSIGNMENTS: dict[str, ColumnElement[Any]] = {
    "title": bindparam("new_title"),
    "description": bindparam("new_description"),
}
# `completed_at` is never after the next change, so `least` keeps it. `least` ignores NULL like
# `coalesce`, in which distributed PostgreSQL does not accept `now()`.
COMPLETED_AT_ASSIGNMENTS: dict[bool, ColumnElement[Any]] = {
    True: func.least(TaskRecord.completed_at, NEXT_UPDATED_AT),
    False: null(),
}


class TaskRepository(StatementRepository):
    """The tasks of all users. Every statement filters by `user_id`.

    The comment on each method names the method of `ResourceRepository` that it replaces. It gives
    the CPU time per call of both (research/0059).
    """

    not_found = TaskNotFound
    by_id = SELECT

    # Instead of `page`: 3.2 ms; here 0.4 ms with 50 tasks.
    async def list_tasks(
        self, user_id: str, query: ListTasksQuery, after: CursorPosition | None
    ) -> tuple[list[Task], CursorPosition | None]:
        """Return a page, and the position of the next page or None."""
        filters = {name: value for name in FILTERS if (value := getattr(query, name)) is not None}
        values: dict[str, Any] = {"owner": user_id, "row_limit": query.limit + 1, **filters}
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
        """Return the rows of a page and one more. The last column marks a row that does not fit."""
        started_at = monotonic()
        has_cursor = "after" in values
        statement = list_statement(filters, query.sort, query.order, has_cursor=has_cursor)
        values["max_description_bytes"] = max_description_bytes(query.limit)
        rows = await self.fetch(statement, values)
        if not any(row[-1] for row in rows):
            return rows
        statement = list_statement(
            filters, query.sort, query.order, has_cursor=has_cursor, counts_bytes=True
        )
        return await self.fetch(statement, values, started_at=started_at)

    # Instead of `create`: 3.0 ms; here 0.2 ms, or 0.3 ms with a key.
    async def create_task(self, user_id: str, data: TaskCreate, key: str | None) -> Task:
        """Create a task with a new ID, at most once for an idempotency key.

        Raises IdempotencyKeyInUse and IdempotencyKeyReused.
        """
        values = _bind_params(user_id, uuid7(), data)
        if key is None:
            (row,) = await self.fetch(INSERT, values)
            return _to_task(row)
        values |= idempotency_params(user_id, key, data) | {"resource_id": values["task"]}
        rows = await self.fetch(CREATE_IDEMPOTENTLY, values)
        claim = read_claim(rows, values["payload_digest"])
        return Task(
            id=claim.id,
            user_id=user_id,
            title=data.title,
            description=data.description,
            completed=data.completed,
            completed_at=claim.created_at if data.completed else None,
            created_at=claim.created_at,
            updated_at=claim.created_at,
            etag=format_etag(claim.etag),
        )

    # Instead of `find`: 2.4 ms; here 0.1 ms.
    async def get_task(self, user_id: str, task_id: UUID) -> Task:
        """Return one task. Raises TaskNotFound."""
        task = await self._fetch_one(SELECT, {"owner": user_id, "task": task_id})
        if task is None:
            raise TaskNotFound
        return task

    # Instead of `put`: 8.5 ms; here 0.2 ms.
    async def replace_task(
        self,
        user_id: str,
        task_id: UUID,
        data: TaskReplace,
        *,
        if_match: ETagCondition | None,
        must_not_exist: bool,
    ) -> Task:
        """Replace or create a task. If it is new, `created_at` and `updated_at` are equal.

        Raises PreconditionFailed.
        """
        values = _bind_params(user_id, task_id, data)
        statement: ClauseElement
        if if_match is None:
            statement = INSERT_IF_ABSENT if must_not_exist else UPSERT
        elif must_not_exist:
            raise PreconditionFailed(PreconditionFailed.contradictory)
        else:
            properties = frozenset(PATCH_ASSIGNMENTS)
            statement = _update_statement(
                properties, completed=data.completed, any_etag=if_match.any
            )
            values["etags"] = if_match.strong
        task = await self._fetch_one(statement, values)
        if task is None:
            raise PreconditionFailed(PreconditionFailed.exists if must_not_exist else None)
        return task

    # Instead of `change`: 4.6 ms; here 0.2 ms.
    async def update_task(
        self, user_id: str, task_id: UUID, patch: TaskPatch, *, if_match: ETagCondition | None
    ) -> Task:
        """Change the properties in the patch. Raises TaskNotFound and PreconditionFailed."""
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
        statement = partial(_update_statement, frozenset(sent), completed=completed)
        return _to_task(await self._change(statement, values, if_match))

    # Instead of `remove`: 5.5 ms; here 0.2 ms.
    async def delete_task(
        self, user_id: str, task_id: UUID, *, if_match: ETagCondition | None
    ) -> None:
        """Delete a task. Raises TaskNotFound and PreconditionFailed."""
        values = {"owner": user_id, "task": task_id}
        await self._change(_delete_statement, values, if_match)

    async def _fetch_one(self, statement: ClauseElement, values: dict[str, Any]) -> Task | None:
        rows = await self.fetch(statement, values)
        return _to_task(rows[0]) if rows else None


def _to_task(row: Record) -> Task:
    values: Any = (*row[:8], format_etag(row[8]))
    return Task(*values)


def _bind_params(user_id: str, task_id: UUID, data: TaskCreate | TaskReplace) -> dict[str, Any]:
    return {
        "owner": user_id,
        "task": task_id,
        "new_title": data.title,
        "new_description": data.description,
        "new_completed": data.completed,
        "new_etag": uuid4(),
    }


@cache
def _update_statement(
    properties: frozenset[str], *, completed: bool | None, any_etag: bool
) -> ClauseElement:
    assignments = {name: PATCH_ASSIGNMENTS[name] for name in properties}
    if completed is not None:
        assignments["completed_at"] = COMPLETED_AT_ASSIGNMENTS[completed]
    conditions = BY_ID if any_etag else (*BY_ID, ETAG_MATCHES)
    return (
        update(TaskRecord)
        .where(*conditions)
        .values(**assignments, updated_at=NEXT_UPDATED_AT, etag=bindparam("new_etag"))
        .returning(*COLUMNS)
    )


def _delete_statement(*, any_etag: bool) -> ClauseElement:
    return DELETE if any_etag else DELETE_MATCHING
