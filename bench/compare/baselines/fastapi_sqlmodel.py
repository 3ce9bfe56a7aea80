"""FastAPI with SQLModel: a session per request, entities and response models."""
# ruff: noqa: INP001 - a program, not a module of a package

from __future__ import annotations

import os
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from hashlib import blake2b, sha256
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo, available_timezones

import uvicorn
from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, Query, Request, Response
from fastapi import Path as InPath
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import (
    AfterValidator,
    AwareDatetime,
    NaiveDatetime,
    StringConstraints,
    TypeAdapter,
    field_serializer,
)
from sqlalchemy import (
    Boolean,
    Column,
    ColumnElement,
    Computed,
    DateTime,
    SmallInteger,
    Text,
    cast,
    column,
    delete,
    func,
    literal_column,
    tuple_,
    union_all,
)
from sqlalchemy.dialects.postgresql import ARRAY, TSQUERY, TSVECTOR, insert
from sqlalchemy.engine import make_url
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import aliased
from sqlmodel import Field, SQLModel, col, select
from sqlmodel.ext.asyncio.session import AsyncSession
from starlette.exceptions import HTTPException as StarletteHTTPException
from uuid_utils.compat import uuid7

WORD = re.compile(r"[^\W_]+")
TIMEZONES = available_timezones()
FIRST_DATETIME = datetime(1, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
CREATE_IDEMPOTENTLY = Path(__file__).with_name("create_idempotently.sql").read_text("utf-8")


# --- models ---

Title = Annotated[str, Field(min_length=1, max_length=500)]
Description = Annotated[str, Field(max_length=16384)]
LocalTime = Annotated[str, StringConstraints(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$")]
TimezoneName = Annotated[str, Field(max_length=64)]


def check_unique(labels: list[str]) -> list[str]:
    if len(set(labels)) < len(labels):
        msg = "labels are repeated"
        raise ValueError(msg)
    return labels


Label = Annotated[
    str,
    StringConstraints(
        min_length=1, max_length=64, pattern=r"^[^\s,\x00-\x1F]([^,\x00-\x1F]*[^\s,\x00-\x1F])?$"
    ),
]
Labels = Annotated[list[Label], Field(max_length=50), AfterValidator(check_unique)]


class Priority(StrEnum):
    """How important a task is, in ascending order. The database stores the index."""

    NONE = "none"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    URGENT = "urgent"


PRIORITIES = list(Priority)


class Due(SQLModel):
    """When a task is due."""

    model_config = {"extra": "forbid"}

    date: date
    time: LocalTime | None
    timezone: TimezoneName | None


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
    list_id: UUID | None = None
    parent_id: UUID | None = None
    depth: int = 0
    priority_level: int = Field(0, sa_column=Column("priority", SmallInteger, key="priority_level"))
    due_date: date | None = None
    due_time: time | None = None
    due_timezone: str | None = None
    joined_labels: str = Field("", sa_column=Column("labels", Text, key="joined_labels"))
    stored_position: str | None = Field(
        None, sa_column=Column("position", Text, key="stored_position")
    )
    created_at: datetime = Field(
        default=None, sa_type=DateTime(timezone=True), sa_column_kwargs={"default": func.now()}
    )
    updated_at: datetime = Field(
        default=None, sa_type=DateTime(timezone=True), sa_column_kwargs={"default": func.now()}
    )
    etag: UUID = Field(default_factory=uuid4)

    @property
    def priority(self) -> Priority:
        return PRIORITIES[self.priority_level]

    @property
    def due(self) -> Due | None:
        if self.due_date is None:
            return None
        local_time = self.due_time and self.due_time.isoformat("minutes")
        return Due(date=self.due_date, time=local_time, timezone=self.due_timezone)

    @property
    def due_at(self) -> datetime | None:
        """The exact time of a due date that has a time and a time zone."""
        if self.due_date is None or self.due_time is None or self.due_timezone is None:
            return None
        zone = ZoneInfo(self.due_timezone)
        return datetime.combine(self.due_date, self.due_time, zone).astimezone(UTC)

    @property
    def labels(self) -> list[str]:
        return self.joined_labels.split(",") if self.joined_labels else []

    @property
    def position(self) -> str:
        """The position, also of a task that was never moved."""
        if self.stored_position is not None:
            return self.stored_position
        micros = (self.created_at - FIRST_DATETIME) // MICROSECOND
        return f"{micros:018d}{self.id.hex[-8:]}"


# Not a column of the entity, so it is not loaded.
SEARCH = column("search", TSVECTOR)
# The expressions of the indexes.
DUE: Any = literal_column(
    "coalesce(due_date + coalesce(due_time, '23:59:59'::time), 'infinity'::timestamp)", DateTime()
)
POSITION: Any = literal_column(
    "coalesce(position, lpad(trunc((extract(epoch FROM timezone('UTC', created_at)) + 62135596800)"
    " * 1000000)::text, 18, '0') || right(id::text, 8))",
    Text(),
)
PREFIX = "(left(encode(sha256(decode(user_id, 'escape')), 'hex'), 8) || ':')"
LABELS: Any = literal_column(
    f"string_to_array({PREFIX} || replace(labels, ',', ',' || {PREFIX}), ',')", ARRAY(Text)
)
SORT_KEYS = {"created_at": col(Task.created_at), "due": DUE, "position": POSITION}
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
    list_id: UUID | None
    parent_id: UUID | None
    priority: Priority
    due: Due | None
    due_at: datetime | None
    labels: list[str]
    position: str
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


class TaskReplace(SQLModel):
    """A whole task."""

    model_config = {"extra": "forbid"}

    title: Title
    description: Description | None
    completed: bool
    list_id: UUID | None = None
    parent_id: UUID | None = None
    priority: Priority = Priority.NONE
    due: Due | None = None
    labels: Labels = []


class TaskCreate(TaskReplace):
    """A new task."""

    description: Description | None = None
    completed: bool = False


class TaskUpdate(TaskCreate):
    """The properties to change. The defaults are never read."""

    title: Title = ""


class ListQuery(SQLModel):
    """The query of a list."""

    limit: int = Field(50, ge=1, le=200)
    cursor: str | None = None
    q: str | None = Field(None, min_length=1, max_length=200)
    completed: bool | None = None
    list_id: UUID | None = None
    labels: str | None = Field(None, min_length=1)
    sort: Literal["created_at", "due", "position"] = "created_at"
    order: Literal["asc", "desc"] = "desc"


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
HeaderValue = Annotated[str | None, Header()]


# --- operations ---

router = APIRouter(prefix="/api/v1/users/{user_id}/tasks")


@router.get("", response_model=TaskPage)
async def list_tasks(
    session: SessionDep,
    user_id: UserId,
    query: Annotated[ListQuery, Query()],
) -> dict[str, Any]:
    """List a page of tasks."""
    sort, order, limit = query.sort, query.order, query.limit
    conditions: list[Any] = [col(Task.user_id) == user_id]
    if query.cursor is not None:
        key, position = tuple_(SORT_KEYS[sort], Task.id), parse_cursor(query.cursor, sort)
        conditions.append(key < position if order == "desc" else key > position)
    if query.q is not None:
        search = cast(func.lower(tsquery(user_id, query.q)), TSQUERY)
        conditions.append(SEARCH.op("@@")(search))
    if query.completed is not None:
        conditions.append(col(Task.completed).is_(query.completed))
    if query.list_id is not None:
        conditions.append(col(Task.list_id) == query.list_id)
    if query.labels is not None:
        labels = [f"{user_prefix(user_id)}:{label}" for label in query.labels.split(",")]
        conditions += [col(Task.joined_labels) != "", LABELS.contains(labels)]
    statement = select_page(conditions, sort, order, limit + 1)
    if sort != "created_at" and query.completed is None:
        # An index separates open and completed tasks.
        pages = (
            select_page([*conditions, col(Task.completed).is_(value)], sort, order, limit + 1)
            for value in (False, True)
        )
        merged = aliased(Task, union_all(*pages).subquery("tasks"))
        statement = select(merged).order_by(*sort_key(sort, order, merged)).limit(limit + 1)
    tasks = (await session.exec(statement)).all()
    next_cursor = cursor_after(tasks[limit - 1], sort) if len(tasks) > limit else None
    return {"items": tasks[:limit], "next_cursor": next_cursor}


def select_page(conditions: list[Any], sort: str, order: str, limit: int) -> Any:
    """Return the statement of a page."""
    return select(Task).where(*conditions).order_by(*sort_key(sort, order, Task)).limit(limit)


def sort_key(sort: str, order: str, task: type[Task]) -> list[Any]:
    """Return the expressions to order by."""
    key = (SORT_KEYS[sort], task.id)
    return [part.desc() if order == "desc" else part.asc() for part in key]


def tsquery(user_id: str, text: str) -> str:
    """Return a tsquery for word prefixes."""
    prefix = user_prefix(user_id)
    return " & ".join(f"'{prefix}{word}':*" for word in WORD.findall(text))


def user_prefix(user_id: str) -> str:
    """Return the prefix of a user's lexemes and labels in their indexes."""
    return sha256(user_id.encode()).hexdigest()[:8]


cursors: dict[str, TypeAdapter[Any]] = {
    "created_at": TypeAdapter(tuple[AwareDatetime, UUID]),
    "due": TypeAdapter(tuple[NaiveDatetime, UUID]),
    "position": TypeAdapter(tuple[str, UUID]),
}


def cursor_after(task: Task, sort: str) -> str:
    """Return the cursor of the page after a task."""
    key = due_key(task) if sort == "due" else getattr(task, sort)
    return urlsafe_b64encode(cursors[sort].dump_json((key, task.id))).decode()


def due_key(task: Task) -> datetime:
    """Return the value of DUE. The driver sends the last datetime as infinity."""
    if task.due_date is None:
        return datetime.max  # noqa: DTZ901 - the column has no time zone
    return datetime.combine(task.due_date, task.due_time or time(23, 59, 59))


def parse_cursor(cursor: str, sort: str) -> tuple[Any, UUID]:
    """Return the sort key in a cursor. Raises HTTPException."""
    try:
        return cursors[sort].validate_json(urlsafe_b64decode(cursor))
    except ValueError:
        raise HTTPException(422, "This cursor is not of this service.") from None


def stored(properties: dict[str, Any]) -> dict[str, Any]:
    """Return the columns of these properties, except `completed`. Raises HTTPException."""
    columns = dict(properties)
    if "parent_id" in columns:
        columns["depth"] = int(columns["parent_id"] is not None)
    if "priority" in columns:
        columns["priority_level"] = PRIORITIES.index(columns.pop("priority"))
    if "labels" in columns:
        columns["joined_labels"] = ",".join(sorted(columns.pop("labels")))
    if "due" in columns:
        due = columns.pop("due") or {"date": None, "time": None, "timezone": None}
        if due["timezone"] is not None and due["timezone"] not in TIMEZONES:
            raise HTTPException(409, "This time zone does not exist.")
        columns["due_date"] = due["date"]
        columns["due_time"] = due["time"] and time.fromisoformat(due["time"])
        columns["due_timezone"] = due["timezone"]
    return columns


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
        columns = stored(new.model_dump(exclude={"completed"}))
        task = Task(user_id=user_id, completed_at=completed_at, **columns)
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
    columns = stored(new.model_dump(exclude={"completed"}))
    names = ("list_id", "parent_id", "depth", "priority_level")
    names += ("due_date", "due_time", "due_timezone", "joined_labels")
    values = (digest, uuid7(), uuid4(), new.title, new.description, new.completed)
    values += tuple(columns[name] for name in names)
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
        completed=new.completed,
        completed_at=row.created_at if new.completed else None,
        created_at=row.created_at,
        updated_at=row.created_at,
        etag=row.etag,
        **columns,
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
    columns = stored(new.model_dump(exclude={"completed"}))
    statement = insert(Task).values(
        user_id=user_id,
        id=task_id,
        **columns,
        completed_at=func.now() if new.completed else None,
        etag=uuid4(),
    )
    statement = statement.on_conflict_do_update(
        index_elements=["user_id", "id"],
        set_={
            **{name: statement.excluded[name] for name in columns},
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
    changes = stored(change.model_dump(exclude_unset=True))
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
    """Delete a task and its subtasks."""
    task = await load_task(session, user_id, task_id)
    is_subtask = (col(Task.user_id) == user_id, col(Task.parent_id) == task_id)
    await session.exec(delete(Task).where(*is_subtask))
    await session.delete(task)
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


@app.exception_handler(IntegrityError)
async def on_violated_constraint(_: Request, __: IntegrityError) -> JSONResponse:
    """Convert a violated constraint to a problem."""
    return problem(409, "The list or the parent does not exist, or may not have this task.", [])


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
