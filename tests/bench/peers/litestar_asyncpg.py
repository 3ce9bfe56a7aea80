"""Litestar over asyncpg: the service's framework and driver, without an ORM in between."""
# ruff: noqa: INP001 - a program of its own, not a module of a package
# ruff: noqa: S608 - statements are put together from the text of this file alone

from __future__ import annotations

import os
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from datetime import datetime
from hashlib import blake2b, sha256
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote
from uuid import UUID, uuid4

import asyncpg
import msgspec
import uvicorn
from litestar import Litestar, Response, Router, delete, get, patch, post, put
from litestar.datastructures import State
from litestar.exceptions import HTTPException, ValidationException
from litestar.params import Parameter
from litestar.plugins.problem_details import (
    ProblemDetailsConfig,
    ProblemDetailsException,
    ProblemDetailsPlugin,
)
from msgspec import UNSET, Meta, UnsetType
from uuid_utils.compat import uuid7

WORD = re.compile(r"[^\W_]+")


# --- parameters and bodies ---

UserId = Annotated[str, Parameter(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:|@+-]{0,127}\Z")]
Limit = Annotated[int, Parameter(ge=1, le=200)]
SearchText = Annotated[str, Parameter(min_length=1, max_length=200)]
IdempotencyKey = Annotated[str | None, Parameter(header="Idempotency-Key")]
IfNoneMatch = Annotated[str | None, Parameter(header="If-None-Match")]

Title = Annotated[str, Meta(min_length=1, max_length=500)]
Description = Annotated[str, Meta(max_length=16384)]
Instant = Annotated[datetime, Meta(tz=True)]


class Task(msgspec.Struct):
    """A task as it is stored."""

    id: UUID
    user_id: str
    title: str
    description: str | None
    completed: bool
    completed_at: datetime | None
    created_at: datetime
    updated_at: datetime
    etag: str


class TaskPage(msgspec.Struct):
    """A page of a list."""

    items: list[Task]
    next_cursor: str | None


class TaskCreate(msgspec.Struct, forbid_unknown_fields=True):
    """A new task."""

    title: Title
    description: Description | None = None
    completed: bool = False


class TaskReplace(msgspec.Struct, forbid_unknown_fields=True):
    """A whole task."""

    title: Title
    description: Description | None
    completed: bool


class TaskPatch(msgspec.Struct, forbid_unknown_fields=True):
    """The members to change."""

    title: Title | UnsetType = UNSET
    description: Description | UnsetType | None = UNSET
    completed: bool | UnsetType = UNSET


# --- problems ---


def problem(status: int, detail: str, faults: Iterable[Any] = ()) -> ProblemDetailsException:
    """A problem (RFC 9457)."""
    return ProblemDetailsException(
        status_code=status,
        type_="about:blank",
        title=HTTPStatus(status).phrase,
        detail=detail,
        extra={"errors": list(faults)},
    )


def task_not_found() -> ProblemDetailsException:
    """The user has no such task."""
    return problem(404, "This user has no task with this id.")


def invalid(fault: ValidationException) -> ProblemDetailsException:
    """A request that breaks its schema."""
    return problem(422, fault.detail, fault.extra or ())


def refused(fault: HTTPException) -> ProblemDetailsException:
    """What the framework refuses: a path, a method, a body that is not JSON."""
    return problem(fault.status_code, fault.detail)


# --- statements ---

COLUMNS = "id, user_id, title, description, completed, completed_at, created_at, updated_at, etag"
# Strictly forward, whatever the clock does.
LATER = "greatest(now(), tasks.updated_at + interval '1 microsecond')"
COMPLETED_AT = f"CASE WHEN {{}} THEN coalesce(tasks.completed_at, {LATER}) END"

SELECT = f"SELECT {COLUMNS} FROM tasks WHERE user_id = $1 AND id = $2"
_INSERT = """
    INSERT INTO tasks
        (user_id, id, etag, title, description, completed_at, created_at, updated_at)
    VALUES ($1, $2, $3, $4, $5, CASE WHEN $6 THEN now() END, now(), now())
"""
INSERT = f"{_INSERT} RETURNING {COLUMNS}"
UPSERT = f"""
    {_INSERT}
    ON CONFLICT (user_id, id) DO UPDATE
    SET title = excluded.title,
        description = excluded.description,
        completed_at = {COMPLETED_AT.format("$6")},
        updated_at = {LATER},
        etag = excluded.etag
    RETURNING {COLUMNS}
"""
DELETE = "DELETE FROM tasks WHERE user_id = $1 AND id = $2 RETURNING id"
CREATE_ONCE = Path(__file__).with_name("create_once.sql").read_text("utf-8")

CHANGES = {
    "title": "title = {}",
    "description": "description = {}",
    "completed": f"completed_at = {COMPLETED_AT}",
}


def update(members: Iterable[str]) -> str:
    """The statement that changes these members; their values are its parameters from $4 on."""
    changes = [CHANGES[name].format(f"${n}") for n, name in enumerate(members, start=4)]
    return f"""
        UPDATE tasks SET {", ".join(changes)}, updated_at = {LATER}, etag = $3
        WHERE user_id = $1 AND id = $2
        RETURNING {COLUMNS}
    """


def task_of(row: asyncpg.Record | None) -> Task:
    """The task in a row of COLUMNS. Raises task_not_found where there is no row."""
    if row is None:
        raise task_not_found()
    values: Any = (*row[:-1], f'"{row[-1].hex}"')
    return Task(*values)


def tsquery(user_id: str, text: str) -> str:
    """A tsquery for words that begin so; each lexeme has the mark of its user in front."""
    mark = sha256(user_id.encode()).hexdigest()[:8]
    return " & ".join(f"'{mark}{word}':*" for word in WORD.findall(text))


# --- operations ---


def current(task: Task) -> Response[Task]:
    """A task as it is now."""
    return Response(task, headers={"ETag": task.etag})


def created(task: Task) -> Response[Task]:
    """A new task."""
    location = f"/api/v1/users/{quote(task.user_id, safe=':@+')}/tasks/{task.id}"
    return Response(task, status_code=201, headers={"ETag": task.etag, "Location": location})


@get()
async def list_tasks(
    state: State,
    user_id: UserId,
    limit: Limit = 50,
    cursor: str | None = None,
    q: SearchText | None = None,
) -> TaskPage:
    """A page, newest first."""
    conditions = ["user_id = $1"]
    values: list[Any] = [user_id, limit + 1]
    if cursor is not None:
        conditions.append("(created_at, id) < ($3, $4)")
        values += position_of(cursor)
    if q is not None:
        values.append(tsquery(user_id, q))
        conditions.append(f"search @@ lower(${len(values)})::tsquery")
    statement = f"""
        SELECT {COLUMNS} FROM tasks WHERE {" AND ".join(conditions)}
        ORDER BY created_at DESC, id DESC LIMIT $2
    """
    tasks = [task_of(row) for row in await state.pool.fetch(statement, *values)]
    page = TaskPage(tasks[:limit], None)
    if len(tasks) > limit:
        page.next_cursor = cursor_after(page.items[-1])
    return page


def cursor_after(task: Task) -> str:
    """The cursor of the page after a task."""
    return urlsafe_b64encode(msgspec.json.encode((task.created_at, task.id))).decode()


def position_of(cursor: str) -> tuple[datetime, UUID]:
    """The sort key in a cursor. Raises a problem."""
    try:
        return msgspec.json.decode(urlsafe_b64decode(cursor), type=tuple[Instant, UUID])
    except (ValueError, msgspec.DecodeError):
        raise problem(422, "This cursor is not of this service.") from None


@post()
async def create_task(
    state: State, user_id: UserId, data: TaskCreate, idempotency_key: IdempotencyKey = None
) -> Response[Task]:
    """Store a new task; with an idempotency key, once."""
    if idempotency_key is not None:
        return created(await create_once(state.pool, user_id, idempotency_key, data))
    row = await state.pool.fetchrow(
        INSERT, user_id, uuid7(), uuid4(), data.title, data.description, data.completed
    )
    return created(task_of(row))


async def create_once(pool: asyncpg.Pool, user_id: str, key: str, new: TaskCreate) -> Task:
    """The task that this key has made, now or before. Raises a problem."""
    digest = blake2b(msgspec.json.encode(new), digest_size=32).digest()
    values = (digest, uuid7(), uuid4(), new.title, new.description, new.completed)
    row = await pool.fetchrow(CREATE_ONCE, user_id, key, *values)
    if row is None:
        raise problem(409, "A request with this key is being served.")
    if row["payload_digest"] != digest:
        raise problem(422, "This key was sent with another body before.")
    return Task(
        id=row["task_id"],
        user_id=user_id,
        title=new.title,
        description=new.description,
        completed=new.completed,
        completed_at=row["created_at"] if new.completed else None,
        created_at=row["created_at"],
        updated_at=row["created_at"],
        etag=f'"{row["etag"].hex}"',
    )


@get("/{task_id:str}")
async def get_task(
    state: State, user_id: UserId, task_id: UUID, if_none_match: IfNoneMatch = None
) -> Response[Task] | Response[None]:
    """One task, or 304."""
    task = task_of(await state.pool.fetchrow(SELECT, user_id, task_id))
    if if_none_match == task.etag:
        return Response(None, status_code=304, headers={"ETag": task.etag})
    return current(task)


@put("/{task_id:str}")
async def replace_task(
    state: State, user_id: UserId, task_id: UUID, data: TaskReplace
) -> Response[Task]:
    """Store a whole task under the id in the path."""
    row = await state.pool.fetchrow(
        UPSERT, user_id, task_id, uuid4(), data.title, data.description, data.completed
    )
    task = task_of(row)
    return created(task) if task.created_at == task.updated_at else current(task)


@patch("/{task_id:str}")
async def update_task(
    state: State, user_id: UserId, task_id: UUID, data: TaskPatch
) -> Response[Task]:
    """Change the members that were sent."""
    sent = msgspec.structs.asdict(data)
    changes = {name: value for name, value in sent.items() if value is not UNSET}
    if changes:
        statement, values = update(changes), (uuid4(), *changes.values())
        row = await state.pool.fetchrow(statement, user_id, task_id, *values)
    else:
        row = await state.pool.fetchrow(SELECT, user_id, task_id)
    return current(task_of(row))


@delete("/{task_id:str}")
async def delete_task(state: State, user_id: UserId, task_id: UUID) -> None:
    """Delete a task for good."""
    if await state.pool.fetchrow(DELETE, user_id, task_id) is None:
        raise task_not_found()


# --- the application ---


@asynccontextmanager
async def pool(app: Litestar) -> AsyncGenerator[None]:
    """Have a pool from the application's start to its end."""
    size = int(os.environ.get("POOL_SIZE", "10"))
    async with asyncpg.create_pool(
        os.environ["DATABASE_URL"], min_size=size, max_size=size
    ) as app.state.pool:
        yield


tasks = Router(
    "/api/v1/users/{user_id:str}/tasks",
    route_handlers=[list_tasks, create_task, get_task, replace_task, update_task, delete_task],
)
problems = ProblemDetailsConfig(
    exception_to_problem_detail_map={ValidationException: invalid, HTTPException: refused}
)
app = Litestar([tasks], lifespan=[pool], plugins=[ProblemDetailsPlugin(problems)])

if __name__ == "__main__":
    uvicorn.run(
        # The name under which a worker has this very module already.
        "__main__:app",
        port=int(os.environ["PORT"]),
        workers=int(os.environ.get("WORKERS", "1")),
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
    )
