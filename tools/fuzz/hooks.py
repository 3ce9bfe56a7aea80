"""Schemathesis hooks for rules of the contract that no schema expresses (schemathesis.toml)."""

# ruff: noqa: ARG001 - Schemathesis passes all arguments to every hook

from __future__ import annotations

import atexit
import copy
import faulthandler
import gzip
import json
import os
import re
import secrets
from collections import defaultdict
from collections.abc import Iterator
from datetime import date, timedelta
from http import HTTPStatus
from itertools import count
from typing import IO, Any
from urllib.parse import unquote, urlsplit

import hypothesis
import requests
import schemathesis
from hypothesis import strategies as st

TIMEOUT = 10
DAY = 86_400.0  # for a manual run
RECORD = os.environ.get("FUZZ_RECORD", os.devnull)
MAX_RECORDED_BYTES = 16384  # bytes of a recorded response; the contract is several times as large
MAX_ETAG_LIST_LENGTH = 1024  # characters: maxLength of ETagList
MAX_KEY_LENGTH = 255  # characters: maxLength of IdempotencyKey
MAX_BODY_BYTES = 131072  # bytes
MAX_BATCH_BYTES = 1048576  # bytes
USERS = os.environ.get("FUZZ_USERS", "")  # prefix of all user IDs
USER_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:|@+-]*")
MAX_USER_LENGTH = 128  # characters
CONDITIONS = dict.fromkeys(["PUT", "PATCH", "DELETE", "POST"], "If-Match")
CONDITIONS["GET"] = "If-None-Match"
USERS_PATH = "/api/v1/users/"
MOVE = "/move"
BATCH = "/tasks/batch"
USER = "/api/v1/users/{user_id}"
KINDS = ("create", "update", "delete")
PAST = "2026-01-02T03:04:05Z"
REFERENCES = ("list_id", "parent_id", "after_id")
LIST_ID = "0198c5a2-9c40-4d11-8a3e-51b6c2d4e9f0"
PARENT_ID = "0198c5a2-8b2c-4c44-b1a0-93d7e5f60718"
LISTED_ID = "0198c5a2-8b2c-4c44-b1a0-93d7e5f60719"
LIST_TASKS = "GET /api/v1/users/{user_id}/tasks"
LIST_CHANGES = "GET /api/v1/users/{user_id}/changes"
MAX_TIMEZONE_LENGTH = 64  # characters
TIMEZONES = ("Europe/Berlin", "UTC", "Asia/Calcutta")
TEXT = {"title": "-", "description": None, "completed": False}
# Values of query parameters at a limit, and values one past it.
LONGEST = {
    "priority": ",".join(["none"] * 13),
    "labels": ",".join(letter * 64 for letter in "abcdefghij"),
}
TOO_LONG = {
    **{name: f"{value}x" for name, value in LONGEST.items()},
    "list_id": f"{LIST_ID}0",
    "parent_id": f"{PARENT_ID}0",
}
DUE = {"date": "2026-11-24", "time": None, "timezone": None}
# Together they have every property of a task with and without a value.
STORED_TASKS: tuple[dict[str, Any], ...] = (
    TEXT,
    {**TEXT, "list_id": LIST_ID, "due": {**DUE, "time": "17:30", "timezone": "Europe/Berlin"}},
    {**TEXT, "description": "-", "completed": True, "parent_id": PARENT_ID, "due": DUE},
    {**TEXT, "priority": "urgent", "labels": ["a"], "due": {**DUE, "timezone": "UTC"}},
)
# The number of the next positive case of each operation, by which the hooks choose.
TURNS: defaultdict[str, Iterator[int]] = defaultdict(count)
EXAMPLE = 2  # the number of every example: what it refers to exists, and it succeeds

# The dump runs in a thread that does not need the GIL.
faulthandler.dump_traceback_later(float(os.environ.get("FUZZ_SECONDS", DAY)), exit=True)

# Schemathesis 4.32 makes Hypothesis maximise accepted requests, which repeats one request: of 1609
# requests to replaceTask, 152 were distinct. No setting disables it.
hypothesis.target = lambda *_, **__: 0

LINES: IO[str] = gzip.open(RECORD, "wt", compresslevel=1, encoding="ascii")  # noqa: SIM115
atexit.register(LINES.close)

OPAQUE = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters='"'))
TAG = st.builds('{}"{}"'.format, st.sampled_from(["", "W/"]), OPAQUE)
# Whether a task or list exists, by collection and ID.
EXISTING: dict[tuple[str, str], bool] = {}
PARENTS: dict[tuple[str, str], str | None] = {}  # the parent of each task, by collection and ID
# Whether the task or list exists before and after a response with this status.
PRESENCE = {
    200: (True, True),
    201: (False, True),
    204: (True, False),
    304: (True, True),
    404: (False, False),
}
# User and idempotency key of each created task or list.
KEYS: set[tuple[str, str]] = set()
# The suffix of the keys of this run. The service keeps a key for longer than a run.
ONE_CHARACTER_KEYS: set[tuple[str, str]] = set()
OWN_KEY = f".{secrets.token_hex(4)}"
EXPECTED: dict[str, int] = {}  # status by ID of a case added here
schemathesis.openapi.format(
    "entity-tags", st.just("*") | st.lists(TAG, min_size=1, max_size=3).map(", ".join)
)


@schemathesis.deserializer("application/x-ndjson")
def read_lines(
    context: schemathesis.DeserializationContext, response: schemathesis.Response
) -> str:
    """Return the lines of an export, whose schema is a string."""
    return response.content.decode()


@schemathesis.hook
def before_load_schema(context: schemathesis.HookContext, raw_schema: dict[str, Any]) -> None:
    """Give the schema of ETag lists a format, so that every phase generates valid ones.

    The coverage phase of Schemathesis 4.32 generates header values of letters and digits only. If a
    pattern requires other characters, it treats its invalid value as valid.
    """
    raw_schema["components"]["schemas"]["ETagList"]["format"] = "entity-tags"


@schemathesis.hook
def before_call(
    context: schemathesis.HookContext, case: schemathesis.Case[Any], kwargs: dict[str, Any]
) -> None:
    """Replace generated values with values that only the service can create.

    In negative test cases, only the user ID is changed.
    """
    user = unquote(str(case.path_parameters.get("user_id", "")))
    if USER_ID.fullmatch(user) and len(user) <= MAX_USER_LENGTH and not user.startswith(USERS):
        # Not percent-encoded: Schemathesis validates the values of hooks against the schema.
        case.path_parameters["user_id"] = (USERS + user)[:MAX_USER_LENGTH]
    if len(user) % 2:  # no operation declares this header
        case.headers["traceparent"] = f"00-{'4bf92f35' * 4}-{'00f067aa' * 2}-01"
    if case.meta is not None and case.meta.generation.mode.is_positive:
        turn = _turn(case)
        if "user_id" in case.path_parameters:
            _store_resources(case, turn)
        if "cursor" in case.query:
            case.query = _with_real_cursor(case)
        if case.operation.label == LIST_CHANGES:
            case.query = _with_changes(case, turn)
        _separate_keys(case, user)
        name = CONDITIONS.get(case.method, "")
        # Half of the cases, chosen by length so that runs with one seed are equal.
        if len(case.headers.get(name, "*")) % 2 == 0:
            _add_current_tag(case, name)


def _separate_keys(case: schemathesis.Case[Any], user: str) -> None:
    """Make idempotency keys unique to this run, except one of the minimum length per user."""
    key = str(case.headers.get("Idempotency-Key", ""))
    if (user, key) in ONE_CHARACTER_KEYS or len(key) > 1:
        # These phases send the same key with different bodies.
        is_repeated = _phase(case) in {"coverage", "examples"}
        end = f".{secrets.token_hex(8)}" if is_repeated else OWN_KEY
        case.headers["Idempotency-Key"] = key[: MAX_KEY_LENGTH - len(end)] + end
    elif key:  # one character, the minimum length
        ONE_CHARACTER_KEYS.add((user, key))


def _phase(case: schemathesis.Case[Any]) -> str:
    """Return the phase of Schemathesis, or `explicit` for a case added here."""
    return "explicit" if case.meta is None else str(case.meta.phase.name.value)


def _turn(case: schemathesis.Case[Any]) -> int:
    return EXAMPLE if _phase(case) == "examples" else next(TURNS[case.operation.label])


def _store_resources(case: schemathesis.Case[Any], turn: int) -> None:
    """Create what the case refers to, in seven of eight cases.

    Most generated IDs are unknown, so nearly all requests would get 404 or 409. The stateful phase
    creates and deletes the resources in the paths itself.
    """
    user = _user_url(case)
    if turn % 8 == 0:
        return
    if _phase(case) != "stateful" and case.path_parameters.keys() & {"task_id", "list_id"}:
        _store_resource(case, user, turn)
    if case.operation.label == LIST_TASKS:
        _store_task(user, LISTED_ID, turn)
    if isinstance(case.body, dict) and _is_batch(case):
        _prepare_batch(case, user, turn)
    elif isinstance(case.body, dict):
        _store_references(case, case.body, user, turn)


def _store_resource(case: schemathesis.Case[Any], user: str, turn: int) -> None:
    """Create the task or list in the path. With If-None-Match, delete it in half of the cases."""
    task_id, list_id = (case.path_parameters.get(name) for name in ("task_id", "list_id"))
    url = f"{user}/lists/{list_id}" if task_id is None else f"{user}/tasks/{task_id}"
    if "If-None-Match" in case.headers and case.method == "PUT" and turn % 2:
        _delete(url)
        case.headers.pop("If-Match", None)
    elif task_id is None:
        _put(url, {"name": "-"})
        if case.method == "DELETE" and turn % 2:
            requests.post(f"{user}/tasks", json={"title": "-", "list_id": list_id}, timeout=TIMEOUT)
        elif case.method == "DELETE":
            _empty(user, str(list_id))
    elif turn % 4:
        _store_task(user, str(task_id), turn + turn // 4)


def _store_task(user: str, task_id: str, number: int) -> None:
    """Store one of STORED_TASKS, and the list and the parent that they refer to."""
    _put(f"{user}/lists/{LIST_ID}", {"name": "-"})
    _put(f"{user}/tasks/{PARENT_ID}", TEXT)
    stored = STORED_TASKS[number % len(STORED_TASKS)]
    _put(f"{user}/tasks/{task_id}", stored, replaces=True)


def _store_references(
    case: schemathesis.Case[Any], body: dict[str, Any], user: str, turn: int
) -> None:
    """Create the lists and tasks that the body refers to, and name a time zone that exists."""
    if body.get("list_id") and body.get("parent_id") and turn % 5:
        body["list_id" if turn % 2 else "parent_id"] = None  # both together are a conflict
    if body.get("list_id"):
        _put(f"{user}/lists/{body['list_id']}", {"name": "-"})
    if body.get("parent_id"):
        _put(f"{user}/tasks/{body['parent_id']}", TEXT)
    if body.get("after_id") and "list_id" in case.path_parameters:
        _put(f"{user}/lists/{body['after_id']}", {"name": "-"})
    elif body.get("after_id"):
        if turn % 4 and not body.keys() & {"list_id", "parent_id"}:
            body["list_id"] = None  # otherwise the place is that of the task, which is unknown
        place = {name: body[name] for name in ("list_id", "parent_id") if body.get(name)}
        _put(f"{user}/tasks/{body['after_id']}", {**TEXT, **place}, replaces=True)
    # Names of the minimum and maximum length are kept: no time zone has such a name.
    due = body.get("due") or {}
    if 1 < len(due.get("timezone") or "") < MAX_TIMEZONE_LENGTH:
        due["timezone"] = TIMEZONES[turn % len(TIMEZONES)]


def _is_batch(case: schemathesis.Case[Any]) -> bool:
    return bool(case.operation.path.endswith(BATCH))


def _prepare_batch(case: schemathesis.Case[Any], user: str, turn: int) -> None:
    """Create and delete the tasks that a batch names, and give it times and tags that are valid."""
    body: Any = case.body
    if not any(body.get(kind) for kind in KINDS):
        body["create"] = [copy.deepcopy(STORED_TASKS[turn % len(STORED_TASKS)])]
    creates, updates, deletes = (body.get(kind, []) for kind in KINDS)
    for item in creates:
        _prepare_create(item, user)
    for item in (*creates, *updates):
        _store_references(case, item, user, turn)
    for item in (*updates, *deletes):
        url = f"{user}/tasks/{item['id']}"
        _put(url, TEXT, replaces=True)
        if "if_match" in item and turn % 4:
            tags = requests.get(url, timeout=TIMEOUT).headers
            item["if_match"] = tags.get("ETag", item["if_match"])


def _prepare_create(item: dict[str, Any], user: str) -> None:
    for name in ("created_at", "completed_at"):
        if item.get(name):
            item[name] = _past(len(item[name]))
    if item.get("completed_at"):
        item["completed"] = True
    if "id" in item:
        _delete(f"{user}/tasks/{item['id']}")


def _past(length: int) -> str:
    """Return a time in the past, of this length if it is possible with digits of a second."""
    digits = length - len(PAST) - 1
    return PAST if digits < 1 else f"{PAST[:-1]}.{'0' * digits}Z"


def _put(url: str, body: dict[str, Any], *, replaces: bool = False) -> None:
    """Create a task or list, or replace it if `replaces` is true."""
    if EXISTING.get(_resource(url)) and not replaces:
        return
    headers = {} if replaces else {"If-None-Match": "*"}
    response = requests.put(url, json=body, headers=headers, timeout=TIMEOUT)
    if response.ok:
        _remember(url, exists=True, parent=body.get("parent_id"))


def _empty(user: str, list_id: str) -> None:
    """Delete the tasks that an earlier case or round has left in a list."""
    page = requests.get(f"{user}/tasks?list_id={list_id}&limit=200", timeout=TIMEOUT).json()
    for task in page["items"]:
        _delete(f"{user}/tasks/{task['id']}")


def _delete(url: str) -> None:
    """Delete a task or list, unless it contains tasks."""
    response = requests.delete(url, timeout=TIMEOUT)
    if response.status_code == HTTPStatus.NO_CONTENT:
        _remember(url, exists=False, parent=None)


def _user_url(case: schemathesis.Case[Any]) -> str:
    """Return the URL of the user of a case."""
    start, _, rest = str(case.as_transport_kwargs()["url"]).partition(USERS_PATH)
    return start + USERS_PATH + rest.partition("/")[0]


def _remember(url: str, *, exists: bool, parent: str | None) -> None:
    """Store whether a task or list exists. The deletion of a task deletes its subtasks."""
    collection, resource = _resource(url)
    EXISTING[collection, resource] = exists
    PARENTS[collection, resource] = None if parent is None else parent.lower()
    if not exists:
        for key, value in PARENTS.items():
            if key[0] == collection and value == resource:
                EXISTING[key] = False


def _resource(url: str) -> tuple[str, str]:
    """Return the path of a collection and the ID of the task or list in it."""
    collection, _, resource = unquote(urlsplit(url).path.removesuffix(MOVE)).rpartition("/")
    return collection, resource.lower()


def _with_real_cursor(case: schemathesis.Case[Any]) -> dict[str, Any]:
    """Return the query with a valid cursor, or without a cursor if there is no second page.

    A cursor is valid for one user and one set of filters, sort and order. A generated cursor, or
    one from another query, gets 400 although it fits its schema.
    """
    query = {name: value for name, value in case.query.items() if name != "cursor"}
    first = case.derive(query={**query, "limit": 1}).as_transport_kwargs()
    first["headers"].pop("If-None-Match", None)  # 304 has no cursor
    # Most of the generated queries would have no second page.
    user = _user_url(case)
    for _ in range(2):
        if str(first["url"]).endswith("/lists"):
            requests.post(first["url"], json={"name": "-"}, timeout=TIMEOUT)
        else:
            requests.post(first["url"], json=_matching_task(user, query), timeout=TIMEOUT)
    response = requests.request(**first, timeout=TIMEOUT)
    # If this request is rejected, the case is also rejected and reported as a failure.
    cursor = response.json()["next_cursor"] if response.ok else None
    return query if cursor is None else {**query, "cursor": cursor}


def _with_changes(case: schemathesis.Case[Any], turn: int) -> dict[str, Any]:
    """Return the query with a token of the user, and make a change after it, which ends a wait.

    In one of eight cases, nothing is changed, and a token has expired.
    """
    user = _user_url(case)
    query = dict(case.query)
    if "since" in query:
        requests.post(f"{user}/tasks", json={"title": "-"}, timeout=TIMEOUT)
        query["since"] = requests.get(f"{user}/changes", timeout=TIMEOUT).json()["next_since"]
    if turn % 8:
        _store_task(user, LISTED_ID, turn)
    elif "since" in query:
        requests.delete(user, timeout=TIMEOUT)
        _forget_user(user)
    elif "wait" in query:
        query["wait"] %= 2
    return query


def _forget_user(url: str) -> None:
    """Store that no task, list or key of a user exists."""
    path = unquote(urlsplit(url).path)
    for key in EXISTING:
        if key[0].startswith(f"{path}/"):
            EXISTING[key] = False
    user = path.removeprefix(USERS_PATH)
    KEYS.difference_update([key for key in KEYS if key[0] == user])
    ONE_CHARACTER_KEYS.difference_update([key for key in ONE_CHARACTER_KEYS if key[0] == user])


def _matching_task(user: str, query: dict[str, Any]) -> dict[str, Any]:
    """Return a task that matches the filters, except those by `created_at` and `updated_at`."""
    task: dict[str, Any] = {
        "title": str(query.get("q", "-")),
        "completed": query.get("completed") in {True, "true"},
        "priority": str(query.get("priority", "none")).partition(",")[0],
        "labels": sorted(set(str(query["labels"]).split(","))) if "labels" in query else [],
    }
    if query.get("list_id", "none") != "none":
        task["list_id"] = query["list_id"]
        _put(f"{user}/lists/{query['list_id']}", {"name": "-"})
    elif query.get("parent_id", "none") != "none":
        task["parent_id"] = query["parent_id"]
        _put(f"{user}/tasks/{query['parent_id']}", TEXT)
    if query.get("has_due") in {True, "true"} or {"due_after", "due_before"} & query.keys():
        task["due"] = {**DUE, "date": _due_date(query)}
    return task


def _due_date(query: dict[str, Any]) -> str:
    """Return a date after `due_after`, or else before `due_before`."""
    after, before = query.get("due_after"), query.get("due_before")
    if after is not None and after != str(date.max):
        return str(date.fromisoformat(after) + timedelta(days=1))
    if before is not None and before != str(date.min):
        return str(date.fromisoformat(before) - timedelta(days=1))
    return str(DUE["date"])


def _add_current_tag(case: schemathesis.Case[Any], name: str) -> None:
    """Add the current ETag of the task or list, if it exists. A generated ETag never matches."""
    url = str(case.as_transport_kwargs()["url"]).removesuffix(MOVE)
    tag = requests.get(url, timeout=TIMEOUT).headers.get("ETag")
    tags = f"{case.headers[name]}, {tag}"
    if tag is not None and len(tags) <= MAX_ETAG_LIST_LENGTH:
        case.headers[name] = tags
        if name == "If-Match":
            # With a matching If-Match, `If-None-Match: *` is always false.
            case.headers.pop("If-None-Match", None)


@schemathesis.hook
def before_add_examples(
    context: schemathesis.HookContext, examples: list[schemathesis.Case[Any]]
) -> None:
    """Add requests that Schemathesis 4.32 never generates, most of them invalid."""
    valid = examples[0]
    for status, changed in [*_longest_queries(valid), *_invalid_requests(valid)]:
        case = valid.operation.Case(
            path_parameters={**valid.path_parameters, **changed.pop("path_parameters", {})},
            **{"body": valid.body, "media_type": valid.media_type, **changed},
        )
        EXPECTED[case.id] = status
        examples.append(case)


def _longest_queries(valid: schemathesis.Case[Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield queries with values at a limit, or one past it, with the expected status."""
    names = {each.name for each in valid.operation.iter_parameters() if each.location == "query"}
    for status, values in ((HTTPStatus.OK, LONGEST), (HTTPStatus.BAD_REQUEST, TOO_LONG)):
        for name in sorted(names & values.keys()):
            yield status, {"query": {name: values[name]}}


def _invalid_requests(valid: schemathesis.Case[Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the changes that make a valid request invalid, with the expected status."""
    yield HTTPStatus.BAD_REQUEST, {"query": {"undeclared": "1"}}
    if "user_id" in valid.path_parameters:
        # Schemathesis omits the empty segment, so the next one may be read as the user ID.
        is_user = valid.operation.path.count("/") == USER.count("/") + 1
        status = HTTPStatus.METHOD_NOT_ALLOWED if is_user else HTTPStatus.NOT_FOUND
        yield status, {"path_parameters": {"user_id": ""}}
    if isinstance(valid.body, dict):
        limit = MAX_BATCH_BYTES if _is_batch(valid) else MAX_BODY_BYTES
        yield HTTPStatus.REQUEST_ENTITY_TOO_LARGE, {"body": {"title": "x" * limit}}
    for parameter in valid.operation.iter_parameters():
        if parameter.name in {"If-Match", "If-None-Match"}:
            # In quotes, so that only the length is invalid.
            tag = f'"{"x" * (MAX_ETAG_LIST_LENGTH - 1)}"'
            yield HTTPStatus.BAD_REQUEST, {"headers": {parameter.name: tag}}
        if parameter.name == "Idempotency-Key":
            key = "x" * (MAX_KEY_LENGTH + 1)
            yield HTTPStatus.BAD_REQUEST, {"headers": {parameter.name: key}}
        if parameter.name in {"q", "labels"}:
            yield HTTPStatus.BAD_REQUEST, {"query": {parameter.name: ["one", "two"]}}


@schemathesis.check
def invalid_request_is_rejected(
    ctx: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case[Any]
) -> None:
    """Check the status of the requests of `before_add_examples`."""
    expected = EXPECTED.get(case.id, response.status_code)
    assert response.status_code == expected, f"{response.status_code} instead of {expected}"


@schemathesis.hook
def after_call(
    context: schemathesis.HookContext,
    case: schemathesis.Case[Any],
    response: schemathesis.Response,
) -> None:
    """Record the exchange for `coverage.py`, as one line of JSON.

    Schemathesis's reports would contain the contract thousands of times. HAR and VCR replace bytes
    that are not UTF-8.
    """
    sent, answer = response.request, response.content or b""
    # All bodies are JSON, so the body is text, bytes or None.
    body: Any = sent.body.encode() if isinstance(sent.body, str) else sent.body
    line = {
        "phase": _phase(case),
        "method": sent.method,
        "target": sent.path_url,
        "headers": dict(sent.headers),
        "body": None if body is None else body.decode("utf-8", "surrogateescape"),
        "status": response.status_code,
        "media_type": response.headers.get("content-type", [""])[0].partition(";")[0],
        "answer": answer.decode("utf-8", "replace") if len(answer) <= MAX_RECORDED_BYTES else None,
    }
    LINES.write(json.dumps(line) + "\n")


@schemathesis.check
def precondition_was_sent(
    ctx: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case[Any]
) -> None:
    """Check that only requests with a precondition get 412."""
    sent = {name.lower() for name in response.request.headers}
    if response.status_code == HTTPStatus.PRECONDITION_FAILED:
        has_tags = _is_batch(case) and any("if_match" in item for item in _items(response))
        assert has_tags or sent & {"if-match", "if-none-match"}, (
            "412 to a request without a precondition"
        )


@schemathesis.check
def references_were_sent(
    ctx: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case[Any]
) -> None:
    """Check that only a request with a reference, or the deletion of a list, gets 409."""
    if response.status_code != HTTPStatus.CONFLICT or response.request.method == "DELETE":
        return
    if _is_batch(case) and b"/problems/batch-conflict" in (response.content or b""):
        return
    references = [
        value
        for item in _items(response)
        for value in (*map(item.get, REFERENCES), (item.get("due") or {}).get("timezone"))
    ]
    assert any(references), "409 to a request without a reference"


def _items(response: schemathesis.Response) -> list[dict[str, Any]]:
    """Return the changes of the request: those of a batch, or its body."""
    sent: Any = response.request.body  # all bodies are JSON
    body = json.loads(sent)
    if not str(response.request.path_url).partition("?")[0].endswith(BATCH):
        return [body]
    return [item for kind in KINDS for item in body.get(kind, [])]


@schemathesis.check
def keys_make_one_task(
    ctx: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case[Any]
) -> None:
    """Check that a valid request gets 422 only for an idempotency key that was used before."""
    if response.status_code != HTTPStatus.UNPROCESSABLE_ENTITY:
        return
    reused = b"/problems/idempotency-key-reused" in (response.content or b"")
    valid = case.meta is not None and case.meta.generation.mode.is_positive
    assert reused or not valid, "a body that fits its schema was rejected"
    if reused and not _may_be_of_another_run(response):
        assert _key(response) in KEYS, "a new key was reported as reused"


def _may_be_of_another_run(response: schemathesis.Response) -> bool:
    return len(str(response.request.headers.get("Idempotency-Key", ""))) == 1


def _key(response: schemathesis.Response) -> tuple[str, str] | None:
    sent = response.request
    key = sent.headers.get("Idempotency-Key")
    user = unquote(sent.path_url).removeprefix(USERS_PATH).partition("/")[0]
    return None if key is None else (user, str(key))


@schemathesis.check
def resource_exists_until_deletion(
    ctx: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case[Any]
) -> None:
    """Check that a task or list exists from its creation to its deletion, and only then.

    Schemathesis's checks follow only links. `ensure_resource_availability` skips operations with a
    parameter that the link does not set, such as `If-Match`.
    """
    code, sent = response.status_code, response.request
    created = code == HTTPStatus.CREATED
    if code == HTTPStatus.NO_CONTENT and case.operation.path == USER and sent.method == "DELETE":
        _forget_user(str(sent.url))
    if code == HTTPStatus.OK and _is_batch(case) and sent.method == "POST":
        _remember_batch(response)
        return
    is_resource_request = (
        case.path_parameters.keys() & {"task_id", "list_id"}
        and sent.method == case.operation.method.upper()
    )
    if code not in PRESENCE or not (created or is_resource_request):
        return
    key = _key(response) if created else None
    if key in KEYS or (created and _may_be_of_another_run(response)):
        return  # the replayed response of an earlier request
    if key is not None:
        KEYS.add(key)
    url = response.headers.get("location", [""])[0] if created else str(sent.url)
    resource = _resource(url)
    before, after = PRESENCE[code]
    existed = EXISTING.get(resource, before)
    parent = PARENTS.get(resource)
    if code in {HTTPStatus.OK, HTTPStatus.CREATED} and sent.method != "HEAD":
        parent = json.loads(response.content or b"{}").get("parent_id")
    elif resource not in EXISTING and after:
        return  # its parent is unknown
    _remember(url, exists=after, parent=parent)
    assert existed == before, f"{code}, but it {'exists' if existed else 'does not exist'}"


def _remember_batch(response: schemathesis.Response) -> None:
    """Store which tasks exist after a batch, unless its response is that of an earlier one."""
    key = _key(response)
    tasks = str(response.request.url).partition("?")[0].removesuffix("/batch")
    if _may_be_of_another_run(response):  # then it is unknown which tasks exist
        collection = unquote(urlsplit(tasks).path)
        for resource in [each for each in EXISTING if each[0] == collection]:
            del EXISTING[resource]
        return
    if key in KEYS:
        return
    if key is not None:
        KEYS.add(key)
    result = json.loads(response.content or b"{}")
    for task in (*result["created"], *result["updated"]):
        _remember(f"{tasks}/{task['id']}", exists=True, parent=task["parent_id"])
    for id_ in result["deleted"]:
        _remember(f"{tasks}/{id_}", exists=False, parent=None)
