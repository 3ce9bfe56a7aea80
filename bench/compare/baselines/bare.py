"""The lower limit of language and driver: an ASGI application with msgspec and asyncpg only."""
# ruff: noqa: INP001 - a program, not a module of a package
# ruff: noqa: S608 - statements contain only text of this file

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
Timestamp = Annotated[datetime, Meta(tz=True)]


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
    """The properties to change."""

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
decode_position = msgspec.json.Decoder(tuple[Timestamp, UUID]).decode


# --- requests and responses ---


class Response(NamedTuple):
    """A response."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[bytes, bytes], ...] = ()


class ProblemError(Exception):
    """A problem (RFC 9457) to send as the response."""

    def __init__(self, status: int, detail: str, *errors: str) -> None:
        self.status = status
        self.problem = {
            "type": "about:blank",
            "title": HTTPStatus(status).phrase,
            "status": status,
            "detail": detail,
            "errors": [{"detail": error} for error in errors],
        }

    def to_response(self) -> Response:
        return Response(self.status, encode(self.problem), (PROBLEM,))


class Request:
    """An HTTP request, and the connections to serve it with."""

    def __init__(self, scope: Message, receive: Receive) -> None:
        self.scope = scope
        self.receive = receive
        self.pool: asyncpg.Pool = scope["state"]["pool"]

    def header(self, name: bytes) -> str | None:
        """Return the value of a header, or None."""
        for key, value in self.scope["headers"]:
            if key == name:
                return str(value, "latin-1")
        return None

    def query(self) -> ListQuery:
        """Parse the query of a list. Raises ProblemError."""
        text = str(self.scope["query_string"], "latin-1")
        pairs = dict(parse_qsl(text, keep_blank_values=True))
        try:
            return msgspec.convert(pairs, ListQuery, strict=False)
        except msgspec.ValidationError as error:
            raise invalid_parameter(str(error)) from None

    async def body(self, decode: Callable[[bytes], BodyT]) -> BodyT:
        """Read and decode the body. Raises ProblemError."""
        raw, more = b"", True
        while more:
            message = await self.receive()
            raw += message.get("body", b"")
            more = message.get("more_body", False)
        try:
            return decode(raw)
        except msgspec.ValidationError as error:
            raise ProblemError(422, "Invalid request body.", str(error)) from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ProblemError(400, f"The request body is not valid JSON: {error}") from None


JSON = (b"content-type", b"application/json")
PROBLEM = (b"content-type", b"application/problem+json")


def task_response(task: Task) -> Response:
    return Response(200, encode(task), (JSON, (b"etag", task.etag.encode())))


def created_response(task: Task) -> Response:
    location = f"/api/v1/users/{quote(task.user_id, safe=':@+')}/tasks/{task.id}"
    headers = (JSON, (b"etag", task.etag.encode()), (b"location", location.encode()))
    return Response(201, encode(task), headers)


def invalid_parameter(detail: str) -> ProblemError:
    return ProblemError(422, "Invalid parameter.", detail)


def task_not_found() -> ProblemError:
    return ProblemError(404, "This user has no task with this ID.")


# --- statements ---

COLUMNS = "id, user_id, title, description, completed, completed_at, created_at, updated_at, etag"
# Always after the last change, even if the clock was set back.
NEXT_UPDATED_AT = "greatest(now(), tasks.updated_at + interval '1 microsecond')"
COMPLETED_AT = f"CASE WHEN {{}} THEN coalesce(tasks.completed_at, {NEXT_UPDATED_AT}) END"

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
        updated_at = {NEXT_UPDATED_AT},
        etag = excluded.etag
    RETURNING {COLUMNS}
"""
DELETE = "DELETE FROM tasks WHERE user_id = $1 AND id = $2 RETURNING id"
CREATE_IDEMPOTENTLY = Path(__file__).with_name("create_idempotently.sql").read_text("utf-8")

PATCH_ASSIGNMENTS = {
    "title": "title = {}",
    "description": "description = {}",
    "completed": f"completed_at = {COMPLETED_AT}",
}


def update_statement(properties: Iterable[str]) -> str:
    """Return the statement that changes these properties. Their values start at $4."""
    changes = [
        PATCH_ASSIGNMENTS[name].format(f"${n}") for n, name in enumerate(properties, start=4)
    ]
    return f"""
        UPDATE tasks SET {", ".join(changes)}, updated_at = {NEXT_UPDATED_AT}, etag = $3
        WHERE user_id = $1 AND id = $2
        RETURNING {COLUMNS}
    """


def task_from_row(row: asyncpg.Record | None) -> Task:
    """Return the task in a row of COLUMNS. Raises ProblemError if there is no row."""
    if row is None:
        raise task_not_found()
    values: Any = (*row[:-1], f'"{row[-1].hex}"')
    return Task(*values)


def tsquery(user_id: str, text: str) -> str:
    """Return a tsquery for word prefixes. Each lexeme starts with the prefix of its user."""
    prefix = sha256(user_id.encode()).hexdigest()[:8]
    return " & ".join(f"'{prefix}{word}':*" for word in WORD.findall(text))


# --- operations ---


async def list_tasks(request: Request, user_id: str) -> Response:
    """List a page of tasks, newest first."""
    query = request.query()
    conditions = ["user_id = $1"]
    values: list[Any] = [user_id, query.limit + 1]
    if query.cursor is not None:
        conditions.append("(created_at, id) < ($3, $4)")
        values += parse_cursor(query.cursor)
    if query.q is not None:
        values.append(tsquery(user_id, query.q))
        conditions.append(f"search @@ lower(${len(values)})::tsquery")
    statement = f"""
        SELECT {COLUMNS} FROM tasks WHERE {" AND ".join(conditions)}
        ORDER BY created_at DESC, id DESC LIMIT $2
    """
    tasks = [task_from_row(row) for row in await request.pool.fetch(statement, *values)]
    page = TaskPage(tasks[: query.limit], None)
    if len(tasks) > query.limit:
        page.next_cursor = cursor_after(page.items[-1])
    return Response(200, encode(page), (JSON,))


def cursor_after(task: Task) -> str:
    """Return the cursor of the page after a task."""
    return urlsafe_b64encode(encode((task.created_at, task.id))).decode()


def parse_cursor(cursor: str) -> tuple[datetime, UUID]:
    """Return the sort key in a cursor. Raises ProblemError."""
    try:
        return decode_position(urlsafe_b64decode(cursor))
    except (ValueError, msgspec.DecodeError):
        raise invalid_parameter("cursor is not of this service") from None


async def create_task(request: Request, user_id: str) -> Response:
    """Create a task. With an idempotency key, repetitions return the same task."""
    new = await request.body(decode_create)
    key = request.header(b"idempotency-key")
    if key is not None:
        return created_response(await create_idempotently(request.pool, user_id, key, new))
    row = await request.pool.fetchrow(
        INSERT, user_id, uuid7(), uuid4(), new.title, new.description, new.completed
    )
    return created_response(task_from_row(row))


async def create_idempotently(pool: asyncpg.Pool, user_id: str, key: str, new: TaskCreate) -> Task:
    """Return the task of this key, new or existing. Raises ProblemError."""
    digest = blake2b(encode(new), digest_size=32).digest()
    values = (digest, uuid7(), uuid4(), new.title, new.description, new.completed)
    row = await pool.fetchrow(CREATE_IDEMPOTENTLY, user_id, key, *values)
    if row is None:
        raise ProblemError(409, "A request with this key is being served.")
    if row["payload_digest"] != digest:
        raise ProblemError(422, "This key was sent with another body before.")
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


async def get_task(request: Request, user_id: str, task_id: UUID) -> Response:
    """Get a task, or respond 304."""
    task = task_from_row(await request.pool.fetchrow(SELECT, user_id, task_id))
    if request.header(b"if-none-match") == task.etag:
        return Response(304, headers=((b"etag", task.etag.encode()),))
    return task_response(task)


async def replace_task(request: Request, user_id: str, task_id: UUID) -> Response:
    """Replace a task, or create it with the id in the path."""
    new = await request.body(decode_replace)
    row = await request.pool.fetchrow(
        UPSERT, user_id, task_id, uuid4(), new.title, new.description, new.completed
    )
    task = task_from_row(row)
    return created_response(task) if task.created_at == task.updated_at else task_response(task)


async def update_task(request: Request, user_id: str, task_id: UUID) -> Response:
    """Change the properties in the request."""
    sent = msgspec.structs.asdict(await request.body(decode_patch))
    changes = {name: value for name, value in sent.items() if value is not UNSET}
    if changes:
        row = await request.pool.fetchrow(
            update_statement(changes), user_id, task_id, uuid4(), *changes.values()
        )
    else:
        row = await request.pool.fetchrow(SELECT, user_id, task_id)
    return task_response(task_from_row(row))


async def delete_task(request: Request, user_id: str, task_id: UUID) -> Response:
    if await request.pool.fetchrow(DELETE, user_id, task_id) is None:
        raise task_not_found()
    return Response(204)


# --- the application ---

Operation = Callable[..., Awaitable[Response]]
COLLECTION: dict[str, Operation] = {"GET": list_tasks, "POST": create_task}
ITEM: dict[str, Operation] = {
    "GET": get_task,
    "PUT": replace_task,
    "PATCH": update_task,
    "DELETE": delete_task,
}


async def respond(scope: Message, receive: Receive) -> Response:
    """Route a request to its operation. Raises ProblemError."""
    parameters: tuple[Any, ...]
    match scope["path"].split("/"):
        case ["", "api", "v1", "users", user, "tasks"]:
            operations, parameters = COLLECTION, (parse_user_id(user),)
        case ["", "api", "v1", "users", user, "tasks", task]:
            operations, parameters = ITEM, (parse_user_id(user), parse_task_id(task))
        case _:
            raise ProblemError(404, "No resource exists at this path.")
    operation = operations.get(scope["method"])
    if operation is None:
        raise ProblemError(405, "This path does not have this method.")
    return await operation(Request(scope, receive), *parameters)


def parse_user_id(segment: str) -> str:
    """Check the user id in the path. Raises ProblemError."""
    if not USER_ID.fullmatch(segment):
        raise invalid_parameter("user_id has another form")
    return segment


def parse_task_id(segment: str) -> UUID:
    """Parse the task id in the path. Raises ProblemError."""
    try:
        return UUID(segment)
    except ValueError:
        raise invalid_parameter("task_id is not a UUID") from None


async def app(scope: Message, receive: Receive, send: Send) -> None:
    """The ASGI application."""
    if scope["type"] == "lifespan":
        return await run_lifespan(scope, receive, send)
    try:
        status, body, headers = await respond(scope, receive)
    except ProblemError as error:
        status, body, headers = error.to_response()
    if body:
        headers = (*headers, (b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
    return None


async def run_lifespan(scope: Message, receive: Receive, send: Send) -> None:
    """Open the pool at startup and close it at shutdown."""
    size = int(os.environ.get("POOL_SIZE", "10"))
    await receive()
    async with asyncpg.create_pool(
        os.environ["DATABASE_URL"], min_size=size, max_size=size, reset=skip_reset
    ) as pool:
        scope["state"]["pool"] = pool
        await send({"type": "lifespan.startup.complete"})
        await receive()
    await send({"type": "lifespan.shutdown.complete"})


async def skip_reset(_: object) -> None:
    """Do nothing after the use of a connection: no statement here changes its state."""


if __name__ == "__main__":
    uvicorn.run(
        # A worker process has imported this module under the name `__main__`.
        "__main__:app",
        port=int(os.environ["PORT"]),
        workers=int(os.environ.get("WORKERS", "1")),
        loop="uvloop",
        http="httptools",
        lifespan="on",
        access_log=False,
        log_level="warning",
    )
