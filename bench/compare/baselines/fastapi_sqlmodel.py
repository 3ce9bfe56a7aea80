"""FastAPI with SQLModel: a session per request, entities and response models."""
# ruff: noqa: INP001 - a program, not a module of a package

from __future__ import annotations

import os
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from hashlib import blake2b, sha256
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote
from uuid import UUID, uuid4

import uvicorn
from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, Query, Request, Response
from fastapi import Path as InPath
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import AwareDatetime, TypeAdapter, field_serializer
from sqlalchemy import (
    Boolean,
    Column,
    ColumnElement,
    Computed,
    DateTime,
    cast,
    column,
    func,
    tuple_,
)
from sqlalchemy.dialects.postgresql import TSQUERY, TSVECTOR, insert
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import create_async_engine
from sqlmodel import Field, SQLModel, col, select
from sqlmodel.ext.asyncio.session import AsyncSession
from starlette.exceptions import HTTPException as StarletteHTTPException
from uuid_utils.compat import uuid7

WORD = re.compile(r"[^\W_]+")
CREATE_IDEMPOTENTLY = Path(__file__).with_name("create_idempotently.sql").read_text("utf-8")


# --- models ---

Title = Annotated[str, Field(min_length=1, max_length=500)]
Description = Annotated[str, Field(max_length=16384)]


class Task(SQLModel, table=True):
    """A row of `tasks`."""

    __tablename__ = "tasks"

    user_id: str = Field(primary_key=True)
    id: UUID = Field(default_factory=uuid7, primary_key=True)
    title: str
    description: str | None = None
    completed: bool = Field(
        default=None, sa_column=Column(Boolean, Computed("completed_at IS NOT NULL"))
    )
    completed_at: datetime | None = Field(default=None, sa_type=DateTime(timezone=True))
    created_at: datetime = Field(
        default=None, sa_type=DateTime(timezone=True), sa_column_kwargs={"default": func.now()}
    )
    updated_at: datetime = Field(
        default=None, sa_type=DateTime(timezone=True), sa_column_kwargs={"default": func.now()}
    )
    etag: UUID = Field(default_factory=uuid4)


# Not a column of the entity, so it is not loaded.
SEARCH = column("search", TSVECTOR)
# Always after the last change, even if the clock was set back.
NEXT_UPDATED_AT = func.greatest(func.now(), col(Task.updated_at) + timedelta(microseconds=1))


class TaskPublic(SQLModel):
    """The representation of a task."""

    id: UUID
    user_id: str
    title: str
    description: str | None
    completed: bool
    completed_at: datetime | None
    created_at: datetime
    updated_at: datetime
    etag: UUID

    @field_serializer("etag")
    def format_etag(self, etag: UUID) -> str:
        return entity_tag(etag)


class TaskPage(SQLModel):
    """A page of a list."""

    items: list[TaskPublic]
    next_cursor: str | None


class TaskCreate(SQLModel):
    """A new task."""

    model_config = {"extra": "forbid"}

    title: Title
    description: Description | None = None
    completed: bool = False


class TaskReplace(SQLModel):
    """A whole task."""

    model_config = {"extra": "forbid"}

    title: Title
    description: Description | None
    completed: bool


class TaskUpdate(SQLModel):
    """The properties to change. The defaults are never read."""

    model_config = {"extra": "forbid"}

    title: Title = ""
    description: Description | None = None
    completed: bool = False


def entity_tag(version: UUID) -> str:
    return f'"{version.hex}"'


# --- dependencies ---

engine = create_async_engine(
    make_url(os.environ["DATABASE_URL"]).set(drivername="postgresql+asyncpg"),
    pool_size=int(os.environ.get("POOL_SIZE", "10")),
    max_overflow=0,
)


async def get_session() -> AsyncGenerator[AsyncSession]:
    async with AsyncSession(engine) as session:
        yield session


SessionDep = Annotated[AsyncSession, Depends(get_session)]
UserId = Annotated[str, InPath(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:|@+-]{0,127}$")]
Limit = Annotated[int, Query(ge=1, le=200)]
SearchText = Annotated[str | None, Query(min_length=1, max_length=200)]
HeaderValue = Annotated[str | None, Header()]


# --- operations ---

router = APIRouter(prefix="/api/v1/users/{user_id}/tasks")


@router.get("", response_model=TaskPage)
async def list_tasks(
    session: SessionDep,
    user_id: UserId,
    limit: Limit = 50,
    cursor: str | None = None,
    q: SearchText = None,
) -> dict[str, Any]:
    """List a page of tasks, newest first."""
    key = (col(Task.created_at), col(Task.id))
    statement = select(Task).where(Task.user_id == user_id)
    if cursor is not None:
        statement = statement.where(tuple_(*key) < parse_cursor(cursor))
    if q is not None:
        query = cast(func.lower(tsquery(user_id, q)), TSQUERY)
        statement = statement.where(SEARCH.op("@@")(query))
    statement = statement.order_by(*(part.desc() for part in key)).limit(limit + 1)
    tasks = (await session.exec(statement)).all()
    next_cursor = cursor_after(tasks[limit - 1]) if len(tasks) > limit else None
    return {"items": tasks[:limit], "next_cursor": next_cursor}


def tsquery(user_id: str, text: str) -> str:
    """Return a tsquery for word prefixes. Each lexeme starts with the prefix of its user."""
    prefix = sha256(user_id.encode()).hexdigest()[:8]
    return " & ".join(f"'{prefix}{word}':*" for word in WORD.findall(text))


position = TypeAdapter(tuple[AwareDatetime, UUID])


def cursor_after(task: Task) -> str:
    """Return the cursor of the page after a task."""
    return urlsafe_b64encode(position.dump_json((task.created_at, task.id))).decode()


def parse_cursor(cursor: str) -> tuple[datetime, UUID]:
    """Return the sort key in a cursor. Raises HTTPException."""
    try:
        return position.validate_json(urlsafe_b64decode(cursor))
    except ValueError:
        raise HTTPException(422, "This cursor is not of this service.") from None


@router.post("", response_model=TaskPublic, status_code=201)
async def create_task(
    session: SessionDep,
    user_id: UserId,
    new: TaskCreate,
    response: Response,
    idempotency_key: HeaderValue = None,
) -> Task:
    """Create a task. With an idempotency key, repetitions return the same task."""
    if idempotency_key is not None:
        task = await create_idempotently(session, user_id, idempotency_key, new)
    else:
        completed_at: Any = func.now() if new.completed else None
        task = Task(
            user_id=user_id,
            title=new.title,
            description=new.description,
            completed_at=completed_at,
        )
        session.add(task)
        await session.commit()
        await session.refresh(task)
    set_created_headers(response, task)
    return task


def set_created_headers(response: Response, task: Task) -> None:
    """Set the headers of a created task."""
    path = f"/api/v1/users/{quote(task.user_id, safe=':@+')}/tasks/{task.id}"
    response.headers["Location"] = path
    response.headers["ETag"] = entity_tag(task.etag)


async def create_idempotently(
    session: AsyncSession, user_id: str, key: str, new: TaskCreate
) -> Task:
    """Return the task of this key, new or existing. Raises HTTPException."""
    digest = blake2b(new.model_dump_json().encode(), digest_size=32).digest()
    values = (digest, uuid7(), uuid4(), new.title, new.description, new.completed)
    connection = await session.connection()
    row = (await connection.exec_driver_sql(CREATE_IDEMPOTENTLY, (user_id, key, *values))).first()
    await session.commit()
    if row is None:
        raise HTTPException(409, "A request with this key is being served.")
    if row.payload_digest != digest:
        raise HTTPException(422, "This key was sent with another body before.")
    return Task(
        id=row.task_id,
        user_id=user_id,
        title=new.title,
        description=new.description,
        completed=new.completed,
        completed_at=row.created_at if new.completed else None,
        created_at=row.created_at,
        updated_at=row.created_at,
        etag=row.etag,
    )


@router.get("/{task_id}", response_model=TaskPublic)
async def get_task(
    session: SessionDep,
    user_id: UserId,
    task_id: UUID,
    response: Response,
    if_none_match: HeaderValue = None,
) -> Task | Response:
    """Get a task, or respond 304."""
    task = await load_task(session, user_id, task_id)
    etag = entity_tag(task.etag)
    if if_none_match == etag:
        return Response(status_code=304, headers={"ETag": etag})
    response.headers["ETag"] = etag
    return task


async def load_task(session: AsyncSession, user_id: str, task_id: UUID) -> Task:
    """Load a task. Raises HTTPException if it does not exist."""
    task = await session.get(Task, (user_id, task_id))
    if task is None:
        raise HTTPException(404, "This user has no task with this ID.")
    return task


@router.put("/{task_id}", response_model=TaskPublic)
async def replace_task(
    session: SessionDep, user_id: UserId, task_id: UUID, new: TaskReplace, response: Response
) -> Task:
    """Replace a task, or create it with the id in the path."""
    statement = insert(Task).values(
        user_id=user_id,
        id=task_id,
        title=new.title,
        description=new.description,
        completed_at=func.now() if new.completed else None,
        etag=uuid4(),
    )
    statement = statement.on_conflict_do_update(
        index_elements=["user_id", "id"],
        set_={
            "title": statement.excluded.title,
            "description": statement.excluded.description,
            "completed_at": new_completed_at(completed=new.completed),
            "updated_at": NEXT_UPDATED_AT,
            "etag": statement.excluded.etag,
        },
    )
    task = (await session.scalars(statement.returning(Task))).one()
    await session.commit()
    await session.refresh(task)
    response.headers["ETag"] = entity_tag(task.etag)
    if task.created_at == task.updated_at:
        response.status_code = 201
        set_created_headers(response, task)
    return task


def new_completed_at(*, completed: bool) -> ColumnElement[datetime] | None:
    """Return the new `completed_at`. A completed task keeps its timestamp."""
    return func.coalesce(col(Task.completed_at), NEXT_UPDATED_AT) if completed else None


@router.patch("/{task_id}", response_model=TaskPublic)
async def update_task(
    session: SessionDep, user_id: UserId, task_id: UUID, change: TaskUpdate, response: Response
) -> Task:
    """Change the properties in the request."""
    task = await load_task(session, user_id, task_id)
    changes = change.model_dump(exclude_unset=True)
    if changes:
        if "completed" in changes:
            changes["completed_at"] = new_completed_at(completed=changes.pop("completed"))
        task.sqlmodel_update(changes, update={"updated_at": NEXT_UPDATED_AT, "etag": uuid4()})
        session.add(task)
        await session.commit()
        await session.refresh(task)
    response.headers["ETag"] = entity_tag(task.etag)
    return task


@router.delete("/{task_id}", status_code=204)
async def delete_task(session: SessionDep, user_id: UserId, task_id: UUID) -> None:
    await session.delete(await load_task(session, user_id, task_id))
    await session.commit()


# --- the application ---


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
    """Close the connections at shutdown."""
    yield
    await engine.dispose()


app = FastAPI(title="Tasks API", lifespan=lifespan)
app.include_router(router)


def problem(status: int, detail: str, errors: list[dict[str, str]]) -> JSONResponse:
    """Create a problem response (RFC 9457)."""
    content = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "errors": errors,
    }
    return JSONResponse(content, status, media_type="application/problem+json")


@app.exception_handler(StarletteHTTPException)
async def on_http_exception(_: Request, exception: StarletteHTTPException) -> JSONResponse:
    """Convert an HTTP exception to a problem."""
    return problem(exception.status_code, exception.detail, [])


@app.exception_handler(RequestValidationError)
async def on_invalid_request(_: Request, exception: RequestValidationError) -> JSONResponse:
    """Convert validation errors to a problem."""
    raw_errors = exception.errors()
    if raw_errors[0]["type"] == "json_invalid":
        return problem(400, "The body is not JSON.", [])
    errors = [
        {"pointer": "/" + "/".join(map(str, error["loc"])), "detail": error["msg"]}
        for error in raw_errors
    ]
    return problem(422, "The request breaks its schema.", errors)


if __name__ == "__main__":
    uvicorn.run(
        # A worker process has imported this module under the name `__main__`.
        "__main__:app",
        port=int(os.environ["PORT"]),
        workers=int(os.environ.get("WORKERS", "1")),
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
    )
