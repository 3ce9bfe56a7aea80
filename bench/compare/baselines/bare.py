"""The lower limit of language and driver: an ASGI application with msgspec and asyncpg only."""
# ruff: noqa: INP001 - a program, not a module of a package
# ruff: noqa: S608 - statements contain only text of this file

from __future__ import annotations

import os
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from datetime import UTC, date, datetime, time, timedelta
from hashlib import blake2b, sha256
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar
from urllib.parse import parse_qsl, quote
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo, available_timezones

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
TIMEZONES = available_timezones()
PRIORITIES = ("none", "low", "medium", "high", "urgent")  # the database stores the index
FIRST_DATETIME = datetime(1, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


# --- bodies and queries ---

Title = Annotated[str, Meta(min_length=1, max_length=500)]
Description = Annotated[str, Meta(max_length=16384)]
Timestamp = Annotated[datetime, Meta(tz=True)]
LocalTimestamp = Annotated[datetime, Meta(tz=False)]
LocalTime = Annotated[str, Meta(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]\Z")]
TimezoneName = Annotated[str, Meta(max_length=64)]
Priority = Literal["none", "low", "medium", "high", "urgent"]
Label = Annotated[
    str,
    Meta(
        min_length=1, max_length=64, pattern=r"^[^\s,\x00-\x1F]([^,\x00-\x1F]*[^\s,\x00-\x1F])?\Z"
    ),
]
Labels = Annotated[list[Label], Meta(max_length=50)]
Sort = Literal["created_at", "due", "position"]


class Due(msgspec.Struct, forbid_unknown_fields=True):
    """When a task is due."""

    date: date
    time: LocalTime | None
    timezone: TimezoneName | None


class Task(msgspec.Struct):
    """A task as it is stored."""

    id: UUID
    user_id: str
    title: str
    description: str | None
    completed: bool
    completed_at: datetime | None
    list_id: UUID | None
    parent_id: UUID | None
    priority: str
    due: Due | None
    due_at: datetime | None
    labels: list[str]
    position: str
    created_at: datetime
    updated_at: datetime
    etag: str


class TaskPage(msgspec.Struct):
    """A page of a list."""

    items: list[Task]
    next_cursor: str | None


class TaskReplace(msgspec.Struct, forbid_unknown_fields=True):
    """A whole task."""

    title: Title
    description: Description | None
    completed: bool
    list_id: UUID | None = None
    parent_id: UUID | None = None
    priority: Priority = "none"
    due: Due | None = None
    labels: Labels = []

    def __post_init__(self) -> None:
        check_unique(self.labels)


class TaskCreate(TaskReplace):
    """A new task."""

    description: Description | None = None
    completed: bool = False


class TaskPatch(msgspec.Struct, forbid_unknown_fields=True):
    """The properties to change."""

    title: Title | UnsetType = UNSET
    description: Description | UnsetType | None = UNSET
    completed: bool | UnsetType = UNSET
    list_id: UUID | UnsetType | None = UNSET
    parent_id: UUID | UnsetType | None = UNSET
    priority: Priority | UnsetType = UNSET
    due: Due | UnsetType | None = UNSET
    labels: Labels | UnsetType = UNSET

    def __post_init__(self) -> None:
        check_unique(self.labels)


def check_unique(labels: list[str] | UnsetType) -> None:
    """Check that no label is repeated. Raises ValueError, which msgspec reports as invalid."""
    if labels and len(set(labels)) < len(labels):
        msg = "labels are repeated"
        raise ValueError(msg)


class ListQuery(msgspec.Struct):
    """The query of a list."""

    limit: Annotated[int, Meta(ge=1, le=200)] = 50
    cursor: str | None = None
    q: Annotated[str, Meta(min_length=1, max_length=200)] | None = None
    completed: bool | None = None
    list_id: UUID | None = None
    labels: Annotated[str, Meta(min_length=1)] | None = None
    sort: Sort = "created_at"
    order: Literal["asc", "desc"] = "desc"


encode = msgspec.json.Encoder().encode
decode_create = msgspec.json.Decoder(TaskCreate).decode
decode_replace = msgspec.json.Decoder(TaskReplace).decode
decode_patch = msgspec.json.Decoder(TaskPatch).decode
decode_cursor = {
    "created_at": msgspec.json.Decoder(tuple[Timestamp, UUID]).decode,
    "due": msgspec.json.Decoder(tuple[LocalTimestamp, UUID]).decode,
    "position": msgspec.json.Decoder(tuple[str, UUID]).decode,
}


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
        self.search_pool: asyncpg.Pool = scope["state"]["search_pool"]

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

COLUMNS = """
    id, user_id, title, description, completed, completed_at, list_id, parent_id, priority,
    due_date, due_time, due_timezone, labels, position, created_at, updated_at, etag
"""
# Always after the last change, even if the clock was set back.
NEXT_UPDATED_AT = "greatest(now(), tasks.updated_at + interval '1 microsecond')"
COMPLETED_AT = f"CASE WHEN {{}} THEN coalesce(tasks.completed_at, {NEXT_UPDATED_AT}) END"

SELECT = f"SELECT {COLUMNS} FROM tasks WHERE user_id = $1 AND id = $2"
_INSERT = """
    INSERT INTO tasks
        (user_id, id, etag, title, description, completed_at, list_id, parent_id, depth, priority,
         due_date, due_time, due_timezone, labels, created_at, updated_at)
    VALUES ($1, $2, $3, $4, $5, CASE WHEN $6 THEN now() END, $7, $8, $9, $10,
            $11, $12, $13, $14, now(), now())
"""
INSERT = f"{_INSERT} RETURNING {COLUMNS}"
UPSERT = f"""
    {_INSERT}
    ON CONFLICT (user_id, id) DO UPDATE
    SET title = excluded.title,
        description = excluded.description,
        completed_at = {COMPLETED_AT.format("$6")},
        list_id = excluded.list_id,
        parent_id = excluded.parent_id,
        depth = excluded.depth,
        priority = excluded.priority,
        due_date = excluded.due_date,
        due_time = excluded.due_time,
        due_timezone = excluded.due_timezone,
        labels = excluded.labels,
        updated_at = {NEXT_UPDATED_AT},
        etag = excluded.etag
    RETURNING {COLUMNS}
"""
# A task that does not exist has no subtasks.
DELETE = "DELETE FROM tasks WHERE user_id = $1 AND (id = $2 OR parent_id = $2) RETURNING id"
CREATE_IDEMPOTENTLY = Path(__file__).with_name("create_idempotently.sql").read_text("utf-8")

# The expressions of the indexes.
POSITION = """
    coalesce(position, lpad(trunc((extract(epoch FROM timezone('UTC', created_at)) + 62135596800)
        * 1000000)::text, 18, '0') || right(id::text, 8))
"""
DUE = "coalesce(due_date + coalesce(due_time, '23:59:59'::time), 'infinity'::timestamp)"
_PREFIX = "(left(encode(sha256(decode(user_id, 'escape')), 'hex'), 8) || ':')"
LABELS = f"string_to_array({_PREFIX} || replace(labels, ',', ',' || {_PREFIX}), ',')"
SORT_KEYS = {"created_at": "created_at", "due": DUE, "position": POSITION}


def select_page(sort: str, order: str, conditions: Iterable[str], *, columns: str = COLUMNS) -> str:
    """Return the statement of a page of at most $2 rows."""
    return f"""
        SELECT {columns} FROM tasks WHERE {" AND ".join(conditions)}
        ORDER BY {SORT_KEYS[sort]} {order}, id {order} LIMIT $2
    """


def select_merged_page(sort: str, order: str, conditions: list[str]) -> str:
    """Return the statement of a page of open and completed tasks, which an index separates."""
    columns = f"{COLUMNS}, {SORT_KEYS[sort]} AS sort_key"
    open_page, completed_page = (
        select_page(sort, order, [*conditions, condition], columns=columns)
        for condition in ("NOT completed", "completed")
    )
    return f"""
        SELECT {COLUMNS} FROM (({open_page}) UNION ALL ({completed_page})) AS pages
        ORDER BY sort_key {order}, id {order} LIMIT $2
    """


def update_statement(columns: Iterable[str]) -> str:
    """Return the statement that changes these columns. Their values start at $4."""
    changes = [
        f"completed_at = {COMPLETED_AT.format(f'${n}')}"
        if name == "completed"
        else f"{name} = ${n}"
        for n, name in enumerate(columns, start=4)
    ]
    return f"""
        UPDATE tasks SET {", ".join(changes)}, updated_at = {NEXT_UPDATED_AT}, etag = $3
        WHERE user_id = $1 AND id = $2
        RETURNING {COLUMNS}
    """


async def execute(request: Request, statement: str, *values: object) -> asyncpg.Record | None:
    """Execute a statement and return its row. Raises ProblemError for a violated constraint."""
    try:
        return await request.pool.fetchrow(statement, *values)
    except asyncpg.IntegrityConstraintViolationError as error:
        raise ProblemError(409, f"This task violates {error.constraint_name}.") from None


def column_values(new: TaskReplace) -> tuple[Any, ...]:
    """Return the values of a new task's columns, from `title`. Raises ProblemError."""
    return (
        new.title,
        new.description,
        new.completed,
        new.list_id,
        new.parent_id,
        int(new.parent_id is not None),
        PRIORITIES.index(new.priority),
        *due_values(new.due),
        ",".join(sorted(new.labels)),
    )


def changed_columns(patch: TaskPatch) -> dict[str, Any]:
    """Return the columns that a patch changes. Raises ProblemError."""
    sent = msgspec.structs.asdict(patch)
    columns = {name: value for name, value in sent.items() if value is not UNSET}
    if "parent_id" in columns:
        columns["depth"] = int(columns["parent_id"] is not None)
    if "priority" in columns:
        columns["priority"] = PRIORITIES.index(columns["priority"])
    if "due" in columns:
        names = ("due_date", "due_time", "due_timezone")
        columns |= zip(names, due_values(columns.pop("due")), strict=True)
    if "labels" in columns:
        columns["labels"] = ",".join(sorted(columns["labels"]))
    return columns


def due_values(due: Due | None) -> tuple[date | None, time | None, str | None]:
    """Return the values of the columns of a due date. Raises ProblemError."""
    if due is None:
        return None, None, None
    if due.timezone is not None and due.timezone not in TIMEZONES:
        raise ProblemError(409, "This time zone does not exist.")
    return due.date, due.time and time.fromisoformat(due.time), due.timezone


def task_from_row(row: Iterable[Any] | None) -> Task:
    """Return the task in a row of COLUMNS. Raises ProblemError if there is no row."""
    if row is None:
        raise task_not_found()
    (
        id_, user_id, title, description, completed, completed_at, list_id, parent_id, priority,
        due_date, due_time, due_timezone, labels, position, created_at, updated_at, etag,
    ) = row  # fmt: skip
    due = due_at = None
    if due_date is not None:
        due = Due(due_date, due_time and due_time.isoformat("minutes"), due_timezone)
        if due_time is not None and due_timezone is not None:
            due_at = datetime.combine(due_date, due_time, ZoneInfo(due_timezone)).astimezone(UTC)
    if position is None:  # never moved
        position = str((created_at - FIRST_DATETIME) // MICROSECOND).zfill(18) + id_.hex[-8:]
    return Task(
        id_, user_id, title, description, completed, completed_at, list_id, parent_id,
        PRIORITIES[priority], due, due_at, labels.split(",") if labels else [], position,
        created_at, updated_at, f'"{etag.hex}"',
    )  # fmt: skip


def user_prefix(user_id: str) -> str:
    """Return the prefix of a user's lexemes and labels in their indexes."""
    return sha256(user_id.encode()).hexdigest()[:8]


def tsquery(user_id: str, text: str) -> str:
    """Return a tsquery for word prefixes."""
    prefix = user_prefix(user_id)
    return " & ".join(f"'{prefix}{word}':*" for word in WORD.findall(text))


# --- operations ---


async def list_tasks(request: Request, user_id: str) -> Response:
    """List a page of tasks."""
    query = request.query()
    conditions = ["user_id = $1"]
    values: list[Any] = [user_id, query.limit + 1]

    def add(condition: str, *parameters: object) -> None:
        numbers = range(len(values) + 1, len(values) + len(parameters) + 1)
        conditions.append(condition.format(*(f"${number}" for number in numbers)))
        values.extend(parameters)

    if query.cursor is not None:
        operator = "<" if query.order == "desc" else ">"
        key = SORT_KEYS[query.sort]
        add(f"({key}, id) {operator} ({{}}, {{}})", *parse_cursor(query.cursor, query.sort))
    if query.q is not None:
        add("search @@ lower({})::tsquery", tsquery(user_id, query.q))
    if query.completed is not None:
        add("completed" if query.completed else "NOT completed")
    if query.list_id is not None:
        add("list_id = {}", query.list_id)
    if query.labels is not None:
        prefix = user_prefix(user_id)
        labels = [f"{prefix}:{label}" for label in query.labels.split(",")]
        add(f"labels <> '' AND {LABELS} @> {{}}::text[]", labels)
    is_merged = query.sort != "created_at" and query.completed is None
    select = select_merged_page if is_merged else select_page
    is_search = query.q is not None or query.labels is not None
    pool = request.search_pool if is_search else request.pool
    rows = await pool.fetch(select(query.sort, query.order, conditions), *values)
    tasks = [task_from_row(row) for row in rows]
    page = TaskPage(tasks[: query.limit], None)
    if len(tasks) > query.limit:
        page.next_cursor = cursor_after(page.items[-1], query.sort)
    return Response(200, encode(page), (JSON,))


def cursor_after(task: Task, sort: str) -> str:
    """Return the cursor of the page after a task."""
    key = due_key(task.due) if sort == "due" else getattr(task, sort)
    return urlsafe_b64encode(encode((key, task.id))).decode()


def due_key(due: Due | None) -> datetime:
    """Return the value of DUE. The driver sends the last datetime as infinity."""
    if due is None:
        return datetime.max  # noqa: DTZ901 - the column has no time zone
    return datetime.combine(due.date, time.fromisoformat(due.time or "23:59:59"))


def parse_cursor(cursor: str, sort: str) -> tuple[datetime | str, UUID]:
    """Return the sort key in a cursor. Raises ProblemError."""
    try:
        return decode_cursor[sort](urlsafe_b64decode(cursor))
    except (ValueError, msgspec.DecodeError):
        raise invalid_parameter("cursor is not of this service") from None


async def create_task(request: Request, user_id: str) -> Response:
    """Create a task. With an idempotency key, repetitions return the same task."""
    new = await request.body(decode_create)
    key = request.header(b"idempotency-key")
    if key is not None:
        return created_response(await create_idempotently(request, user_id, key, new))
    row = await execute(request, INSERT, user_id, uuid7(), uuid4(), *column_values(new))
    return created_response(task_from_row(row))


async def create_idempotently(request: Request, user_id: str, key: str, new: TaskCreate) -> Task:
    """Return the task of this key, new or existing. Raises ProblemError."""
    digest = blake2b(encode(new), digest_size=32).digest()
    values = column_values(new)
    row = await execute(
        request, CREATE_IDEMPOTENTLY, user_id, key, digest, uuid7(), uuid4(), *values
    )
    if row is None:
        raise ProblemError(409, "A request with this key is being served.")
    known_digest, task_id, etag, created_at = row
    if known_digest != digest:
        raise ProblemError(422, "This key was sent with another body before.")
    title, description, completed, list_id, parent_id, _, *others = values
    own = (title, description, completed, created_at if completed else None, list_id, parent_id)
    return task_from_row((task_id, user_id, *own, *others, None, created_at, created_at, etag))


async def get_task(request: Request, user_id: str, task_id: UUID) -> Response:
    """Get a task, or respond 304."""
    task = task_from_row(await request.pool.fetchrow(SELECT, user_id, task_id))
    if request.header(b"if-none-match") == task.etag:
        return Response(304, headers=((b"etag", task.etag.encode()),))
    return task_response(task)


async def replace_task(request: Request, user_id: str, task_id: UUID) -> Response:
    """Replace a task, or create it with the id in the path."""
    new = await request.body(decode_replace)
    row = await execute(request, UPSERT, user_id, task_id, uuid4(), *column_values(new))
    task = task_from_row(row)
    return created_response(task) if task.created_at == task.updated_at else task_response(task)


async def update_task(request: Request, user_id: str, task_id: UUID) -> Response:
    """Change the properties in the request."""
    changes = changed_columns(await request.body(decode_patch))
    if changes:
        statement = update_statement(changes)
        row = await execute(request, statement, user_id, task_id, uuid4(), *changes.values())
    else:
        row = await request.pool.fetchrow(SELECT, user_id, task_id)
    return task_response(task_from_row(row))


async def delete_task(request: Request, user_id: str, task_id: UUID) -> Response:
    """Delete a task and its subtasks."""
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
    """Open the pools at startup and close them at shutdown."""
    size = int(os.environ.get("POOL_SIZE", "10"))
    await receive()
    options = {
        "dsn": os.environ["DATABASE_URL"],
        "min_size": size,
        "max_size": size,
        "reset": skip_reset,
    }
    # For a rare and for a common word, other plans are best. One plan for all reads each task of
    # the user.
    custom_plans = {"plan_cache_mode": "force_custom_plan"}
    async with (
        asyncpg.create_pool(**options) as pool,
        asyncpg.create_pool(**options, server_settings=custom_plans) as search_pool,
    ):
        scope["state"] |= {"pool": pool, "search_pool": search_pool}
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
