"""The limit of language and driver: an ASGI application of msgspec and asyncpg alone."""
# ruff: noqa: INP001 - a program of its own, not a module of a package
# ruff: noqa: S608 - statements are put together from the text of this file alone

from __future__ import annotations

import os
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from datetime import datetime
from hashlib import blake2b, sha256
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar
from urllib.parse import parse_qsl, quote
from uuid import UUID, uuid4

import asyncpg
import msgspec
import uvicorn
from msgspec import UNSET, Meta, UnsetType
from uuid_utils.compat import uuid7

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
BodyT = TypeVar("BodyT")

USER_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:|@+-]{0,127}")
WORD = re.compile(r"[^\W_]+")


# --- bodies and queries ---

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


class ListQuery(msgspec.Struct):
    """The query of a list."""

    limit: Annotated[int, Meta(ge=1, le=200)] = 50
    cursor: str | None = None
    q: Annotated[str, Meta(min_length=1, max_length=200)] | None = None


encode = msgspec.json.Encoder().encode
decode_create = msgspec.json.Decoder(TaskCreate).decode
decode_replace = msgspec.json.Decoder(TaskReplace).decode
decode_patch = msgspec.json.Decoder(TaskPatch).decode
decode_position = msgspec.json.Decoder(tuple[Instant, UUID]).decode


# --- requests and answers ---


class Answer(NamedTuple):
    """A response."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Refused(Exception):
    """A request that is answered with a problem (RFC 9457)."""

    def __init__(self, status: int, detail: str, *faults: str) -> None:
        self.status = status
        self.problem = {
            "type": "about:blank",
            "title": HTTPStatus(status).phrase,
            "status": status,
            "detail": detail,
            "errors": [{"detail": fault} for fault in faults],
        }

    def answer(self) -> Answer:
        """The problem."""
        return Answer(self.status, encode(self.problem), (PROBLEM,))


class Request:
    """An HTTP request, and the connections to serve it with."""

    def __init__(self, scope: Message, receive: Receive) -> None:
        self.scope = scope
        self.receive = receive
        self.pool: asyncpg.Pool = scope["state"]["pool"]

    def header(self, name: bytes) -> str | None:
        """The value of a header field."""
        for key, value in self.scope["headers"]:
            if key == name:
                return str(value, "latin-1")
        return None

    def query(self) -> ListQuery:
        """The query of a list. Raises Refused."""
        text = str(self.scope["query_string"], "latin-1")
        pairs = dict(parse_qsl(text, keep_blank_values=True))
        try:
            return msgspec.convert(pairs, ListQuery, strict=False)
        except msgspec.ValidationError as fault:
            raise invalid_parameter(str(fault)) from None

    async def body(self, decode: Callable[[bytes], BodyT]) -> BodyT:
        """The body, decoded. Raises Refused."""
        raw, more = b"", True
        while more:
            message = await self.receive()
            raw += message.get("body", b"")
            more = message.get("more_body", False)
        try:
            return decode(raw)
        except msgspec.ValidationError as fault:
            raise Refused(422, "Invalid request body.", str(fault)) from None
        except (msgspec.DecodeError, UnicodeDecodeError) as fault:
            raise Refused(400, f"The request body is not valid JSON: {fault}") from None


JSON = (b"content-type", b"application/json")
PROBLEM = (b"content-type", b"application/problem+json")


def current(task: Task) -> Answer:
    """A task as it is now."""
    return Answer(200, encode(task), (JSON, (b"etag", task.etag.encode())))


def created(task: Task) -> Answer:
    """A new task."""
    location = f"/api/v1/users/{quote(task.user_id, safe=':@+')}/tasks/{task.id}"
    fields = (JSON, (b"etag", task.etag.encode()), (b"location", location.encode()))
    return Answer(201, encode(task), fields)


def invalid_parameter(fault: str) -> Refused:
    """A part of the URL breaks its schema."""
    return Refused(422, "Invalid parameter.", fault)


def task_not_found() -> Refused:
    """The user has no such task."""
    return Refused(404, "This user has no task with this ID.")


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
    """The task in a row of COLUMNS. Raises Refused where there is no row."""
    if row is None:
        raise task_not_found()
    values: Any = (*row[:-1], f'"{row[-1].hex}"')
    return Task(*values)


def tsquery(user_id: str, text: str) -> str:
    """A tsquery for words that begin so; each lexeme has the mark of its user in front."""
    mark = sha256(user_id.encode()).hexdigest()[:8]
    return " & ".join(f"'{mark}{word}':*" for word in WORD.findall(text))


# --- operations ---


async def list_tasks(request: Request, user_id: str) -> Answer:
    """A page, newest first."""
    query = request.query()
    conditions = ["user_id = $1"]
    values: list[Any] = [user_id, query.limit + 1]
    if query.cursor is not None:
        conditions.append("(created_at, id) < ($3, $4)")
        values += position_of(query.cursor)
    if query.q is not None:
        values.append(tsquery(user_id, query.q))
        conditions.append(f"search @@ lower(${len(values)})::tsquery")
    statement = f"""
        SELECT {COLUMNS} FROM tasks WHERE {" AND ".join(conditions)}
        ORDER BY created_at DESC, id DESC LIMIT $2
    """
    tasks = [task_of(row) for row in await request.pool.fetch(statement, *values)]
    page = TaskPage(tasks[: query.limit], None)
    if len(tasks) > query.limit:
        page.next_cursor = cursor_after(page.items[-1])
    return Answer(200, encode(page), (JSON,))


def cursor_after(task: Task) -> str:
    """The cursor of the page after a task."""
    return urlsafe_b64encode(encode((task.created_at, task.id))).decode()


def position_of(cursor: str) -> tuple[datetime, UUID]:
    """The sort key in a cursor. Raises Refused."""
    try:
        return decode_position(urlsafe_b64decode(cursor))
    except (ValueError, msgspec.DecodeError):
        raise invalid_parameter("cursor is not of this service") from None


async def create_task(request: Request, user_id: str) -> Answer:
    """Store a new task; with an idempotency key, once."""
    new = await request.body(decode_create)
    key = request.header(b"idempotency-key")
    if key is not None:
        return created(await create_once(request.pool, user_id, key, new))
    row = await request.pool.fetchrow(
        INSERT, user_id, uuid7(), uuid4(), new.title, new.description, new.completed
    )
    return created(task_of(row))


async def create_once(pool: asyncpg.Pool, user_id: str, key: str, new: TaskCreate) -> Task:
    """The task that this key has made, now or before. Raises Refused."""
    digest = blake2b(encode(new), digest_size=32).digest()
    values = (digest, uuid7(), uuid4(), new.title, new.description, new.completed)
    row = await pool.fetchrow(CREATE_ONCE, user_id, key, *values)
    if row is None:
        raise Refused(409, "A request with this key is being served.")
    if row["payload_digest"] != digest:
        raise Refused(422, "This key was sent with another body before.")
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


async def get_task(request: Request, user_id: str, task_id: UUID) -> Answer:
    """One task, or 304."""
    task = task_of(await request.pool.fetchrow(SELECT, user_id, task_id))
    if request.header(b"if-none-match") == task.etag:
        return Answer(304, headers=((b"etag", task.etag.encode()),))
    return current(task)


async def replace_task(request: Request, user_id: str, task_id: UUID) -> Answer:
    """Store a whole task under the id in the path."""
    new = await request.body(decode_replace)
    row = await request.pool.fetchrow(
        UPSERT, user_id, task_id, uuid4(), new.title, new.description, new.completed
    )
    task = task_of(row)
    return created(task) if task.created_at == task.updated_at else current(task)


async def update_task(request: Request, user_id: str, task_id: UUID) -> Answer:
    """Change the members that were sent."""
    sent = msgspec.structs.asdict(await request.body(decode_patch))
    changes = {name: value for name, value in sent.items() if value is not UNSET}
    if changes:
        row = await request.pool.fetchrow(
            update(changes), user_id, task_id, uuid4(), *changes.values()
        )
    else:
        row = await request.pool.fetchrow(SELECT, user_id, task_id)
    return current(task_of(row))


async def delete_task(request: Request, user_id: str, task_id: UUID) -> Answer:
    """Delete a task for good."""
    if await request.pool.fetchrow(DELETE, user_id, task_id) is None:
        raise task_not_found()
    return Answer(204)


# --- the application ---

Operation = Callable[..., Awaitable[Answer]]
COLLECTION: dict[str, Operation] = {"GET": list_tasks, "POST": create_task}
ITEM: dict[str, Operation] = {
    "GET": get_task,
    "PUT": replace_task,
    "PATCH": update_task,
    "DELETE": delete_task,
}


async def respond(scope: Message, receive: Receive) -> Answer:
    """Find the operation and run it. Raises Refused."""
    parameters: tuple[Any, ...]
    match scope["path"].split("/"):
        case ["", "api", "v1", "users", user, "tasks"]:
            operations, parameters = COLLECTION, (user_id_of(user),)
        case ["", "api", "v1", "users", user, "tasks", task]:
            operations, parameters = ITEM, (user_id_of(user), task_id_of(task))
        case _:
            raise Refused(404, "No resource exists at this path.")
    operation = operations.get(scope["method"])
    if operation is None:
        raise Refused(405, "This path does not have this method.")
    return await operation(Request(scope, receive), *parameters)


def user_id_of(segment: str) -> str:
    """The user in the path. Raises Refused."""
    if not USER_ID.fullmatch(segment):
        raise invalid_parameter("user_id has another form")
    return segment


def task_id_of(segment: str) -> UUID:
    """The task in the path. Raises Refused."""
    try:
        return UUID(segment)
    except ValueError:
        raise invalid_parameter("task_id is not a UUID") from None


async def app(scope: Message, receive: Receive, send: Send) -> None:
    """The ASGI application."""
    if scope["type"] == "lifespan":
        return await live(scope, receive, send)
    try:
        status, body, headers = await respond(scope, receive)
    except Refused as refused:
        status, body, headers = refused.answer()
    if body:
        headers = (*headers, (b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
    return None


async def live(scope: Message, receive: Receive, send: Send) -> None:
    """Have a pool from the application's start to its end."""
    size = int(os.environ.get("POOL_SIZE", "10"))
    await receive()
    async with asyncpg.create_pool(
        os.environ["DATABASE_URL"], min_size=size, max_size=size, reset=leave_as_it_is
    ) as pool:
        scope["state"]["pool"] = pool
        await send({"type": "lifespan.startup.complete"})
        await receive()
    await send({"type": "lifespan.shutdown.complete"})


async def leave_as_it_is(_: object) -> None:
    """Reset a connection after its use: no statement here leaves anything behind."""


if __name__ == "__main__":
    uvicorn.run(
        # The name under which a worker has this very module already.
        "__main__:app",
        port=int(os.environ["PORT"]),
        workers=int(os.environ.get("WORKERS", "1")),
        loop="uvloop",
        http="httptools",
        lifespan="on",
        access_log=False,
        log_level="warning",
    )
