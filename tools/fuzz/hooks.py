"""What the contract says but Schemathesis cannot know (`hooks` in schemathesis.toml)."""

# ruff: noqa: ARG001 - Schemathesis hands every hook all its arguments

from __future__ import annotations

import atexit
import faulthandler
import gzip
import json
import os
import re
import secrets
from collections.abc import Iterator
from http import HTTPStatus
from typing import IO, Any
from urllib.parse import unquote, urlsplit

import hypothesis
import requests
import schemathesis
from hypothesis import strategies as st

SECONDS = 10
DAY = 86_400.0  # for a run by hand
RECORD = os.environ.get("FUZZ_RECORD", os.devnull)
LARGEST = 16384  # bytes of an answer that is recorded; the contract itself has several times that
TAGS_AT_MOST = 1024  # characters: maxLength of ETagList
KEY_AT_MOST = 255  # characters: maxLength of IdempotencyKey
BODY_AT_MOST = 131072  # bytes
USERS = os.environ.get("FUZZ_USERS", "")  # what the ids of all users begin with
USER_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:|@+-]*")
USER_AT_MOST = 128  # characters
CONDITIONS = {"PUT": "If-Match", "PATCH": "If-Match", "DELETE": "If-Match", "GET": "If-None-Match"}

# From a thread that needs no lock of the interpreter, wherever the others stand.
faulthandler.dump_traceback_later(float(os.environ.get("FUZZ_SECONDS", DAY)), exit=True)

# Schemathesis 4.32 has Hypothesis climb towards requests that are accepted, which is one request
# over and over: of 1609 to replaceTask 152 differed. There is no setting for it.
hypothesis.target = lambda *_, **__: 0

LINES: IO[str] = gzip.open(RECORD, "wt", compresslevel=1, encoding="ascii")  # noqa: SIM115
atexit.register(LINES.close)

OPAQUE = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters='"'))
TAG = st.builds('{}"{}"'.format, st.sampled_from(["", "W/"]), OPAQUE)
THERE: dict[tuple[str, str], bool] = {}  # whether a task is there, by user and id
# Whether it must have been there before an answer, and is afterwards.
PRESENCE = {
    200: (True, True),
    201: (False, True),
    204: (True, False),
    304: (True, True),
    404: (False, False),
}
KEYS: set[tuple[str, str]] = set()  # idempotency keys that made a task, with the path
# What this run's own keys end with: a key is kept for a day, and so outlives a run.
SHORTEST: set[tuple[str, str]] = set()
OWN_KEY = f".{secrets.token_hex(4)}"
EXPECTED: dict[str, int] = {}  # the status for each request that is made here
schemathesis.openapi.format(
    "entity-tags", st.just("*") | st.lists(TAG, min_size=1, max_size=3).map(", ".join)
)


@schemathesis.hook
def before_load_schema(context: schemathesis.HookContext, raw_schema: dict[str, Any]) -> None:
    """Give the schema of entity tags a format, so that every phase has valid ones.

    In header fields the coverage phase of Schemathesis 4.32 knows letters and digits alone. Where a
    pattern wants more, such as a tag's quotes, it sends an invalid value and calls it valid.
    """
    raw_schema["components"]["schemas"]["ETagList"]["format"] = "entity-tags"


@schemathesis.hook
def before_call(
    context: schemathesis.HookContext, case: schemathesis.Case[Any], kwargs: dict[str, Any]
) -> None:
    """Put what only the service can make in the place of what was invented.

    Requests that are meant to be refused stay as they are, but for the user.
    """
    user = unquote(str(case.path_parameters.get("user_id", "")))
    if USER_ID.fullmatch(user) and len(user) <= USER_AT_MOST and not user.startswith(USERS):
        # Not encoded again: Schemathesis looks anew whether what a hook sets fits the schema.
        case.path_parameters["user_id"] = (USERS + user)[:USER_AT_MOST]
    if len(user) % 2:  # of no operation's parameters, so none of these cases is about it
        case.headers["traceparent"] = f"00-{'4bf92f35' * 4}-{'00f067aa' * 2}-01"
    if case.meta is not None and case.meta.generation.mode.is_positive:
        if "cursor" in case.query:
            case.query = _with_real_cursor(case)
        key = str(case.headers.get("Idempotency-Key", ""))
        if (user, key) in SHORTEST or len(key) > 1:
            # The coverage phase sends one key with every body; those are to be accepted.
            is_coverage = case.meta.phase.name.value == "coverage"
            end = f".{secrets.token_hex(8)}" if is_coverage else OWN_KEY
            case.headers["Idempotency-Key"] = key[: KEY_AT_MOST - len(end)] + end
        elif key:  # of a single character, the shortest there may be
            SHORTEST.add((user, key))
        name = CONDITIONS.get(case.method, "")
        # The half with an even length, so that the same case is the same in every run.
        if len(case.headers.get(name, "*")) % 2 == 0:
            _add_current_tag(case, name)


def _with_real_cursor(case: schemathesis.Case[Any]) -> dict[str, Any]:
    """The query with a cursor made for it, or without one where it has no second page.

    A cursor is valid for one user, filters, sort and order. One that was invented, or that a link
    brought from another query, is 400 though it fits its schema.
    """
    query = {name: value for name, value in case.query.items() if name != "cursor"}
    first = case.derive(query={**query, "limit": 1}).as_transport_kwargs()
    # Few of the lists asked for would have a second page of themselves.
    found: dict[str, Any] = {
        "title": str(query.get("q", "-")),
        "completed": query.get("completed") in {True, "true"},
    }
    for _ in range(2):
        requests.post(first["url"], json=found, timeout=SECONDS)
    response = requests.request(**first, timeout=SECONDS)
    # Where even this is refused, so will be the case, and that is then a failure.
    cursor = response.json()["next_cursor"] if response.ok else None
    return query if cursor is None else {**query, "cursor": cursor}


def _add_current_tag(case: schemathesis.Case[Any], name: str) -> None:
    """Add the tag that holds now, where there is one: an invented one never holds."""
    url = case.as_transport_kwargs()["url"]
    tag = requests.get(url, timeout=SECONDS).headers.get("ETag")
    tags = f"{case.headers[name]}, {tag}"
    if tag is not None and len(tags) <= TAGS_AT_MOST:
        case.headers[name] = tags
        if name == "If-Match":
            # Beside it `If-None-Match: *` never holds; the other half keeps both.
            case.headers.pop("If-None-Match", None)


@schemathesis.hook
def before_add_examples(
    context: schemathesis.HookContext, examples: list[schemathesis.Case[Any]]
) -> None:
    """Add requests that every operation must refuse and that Schemathesis 4.32 never makes."""
    sound = examples[0]
    for status, changed in _refused(sound):
        case = sound.operation.Case(
            path_parameters={**sound.path_parameters, **changed.pop("path_parameters", {})},
            **{"body": sound.body, "media_type": sound.media_type, **changed},
        )
        EXPECTED[case.id] = status
        examples.append(case)


def _refused(sound: schemathesis.Case[Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    """What to change in a sound request, and the status that must answer it."""
    yield HTTPStatus.BAD_REQUEST, {"query": {"undeclared": "1"}}
    if "user_id" in sound.path_parameters:
        yield HTTPStatus.NOT_FOUND, {"path_parameters": {"user_id": ""}}
    if isinstance(sound.body, dict):
        yield HTTPStatus.REQUEST_ENTITY_TOO_LARGE, {"body": {"title": "x" * BODY_AT_MOST}}
    for parameter in sound.operation.iter_parameters():
        if parameter.name in {"If-Match", "If-None-Match"}:
            # In quotes, so that the length is all that is wrong with it.
            tag = f'"{"x" * (TAGS_AT_MOST - 1)}"'
            yield HTTPStatus.BAD_REQUEST, {"headers": {parameter.name: tag}}
        if parameter.name == "Idempotency-Key":
            key = "x" * (KEY_AT_MOST + 1)
            yield HTTPStatus.BAD_REQUEST, {"headers": {parameter.name: key}}
        if parameter.name == "q":
            yield HTTPStatus.BAD_REQUEST, {"query": {"q": ["one", "two"]}}


@schemathesis.check
def refused_as_expected(
    ctx: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case[Any]
) -> None:
    """Requests of `before_add_examples` are answered as they must be."""
    expected = EXPECTED.get(case.id, response.status_code)
    assert response.status_code == expected, f"{response.status_code} instead of {expected}"


@schemathesis.hook
def after_call(
    context: schemathesis.HookContext,
    case: schemathesis.Case[Any],
    response: schemathesis.Response,
) -> None:
    """Record the exchange for `fuzz_coverage.py`, a line for each.

    Schemathesis's own reports keep the contract's document thousands of times, and HAR and VCR
    replace what is not UTF-8.
    """
    sent, answer = response.request, response.content or b""
    # Text, bytes or nothing, as JSON is the only kind of body.
    body: Any = sent.body.encode() if isinstance(sent.body, str) else sent.body
    line = {
        "phase": "explicit" if case.meta is None else case.meta.phase.name.value,
        "method": sent.method,
        "target": sent.path_url,
        "headers": dict(sent.headers),
        "body": None if body is None else body.decode("utf-8", "surrogateescape"),
        "status": response.status_code,
        "media_type": response.headers.get("content-type", [""])[0].partition(";")[0],
        "answer": answer.decode("utf-8", "replace") if len(answer) <= LARGEST else None,
    }
    LINES.write(json.dumps(line) + "\n")


@schemathesis.check
def precondition_was_sent(
    ctx: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case[Any]
) -> None:
    """412 answers a precondition alone; schemathesis.toml allows it for whole operations."""
    sent = {name.lower() for name in response.request.headers}
    if response.status_code == HTTPStatus.PRECONDITION_FAILED:
        assert sent & {"if-match", "if-none-match"}, "412 to a request without a precondition"


@schemathesis.check
def keys_make_one_task(
    ctx: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case[Any]
) -> None:
    """A sound request is refused for its idempotency key only when that was sent before."""
    if response.status_code != HTTPStatus.UNPROCESSABLE_ENTITY:
        return
    reused = b"/problems/idempotency-key-reused" in (response.content or b"")
    sound = case.meta is not None and case.meta.generation.mode.is_positive
    assert reused or not sound, "a body that fits its schema was refused"
    if reused and not _may_be_of_another_run(response):
        assert _key(response) in KEYS, "the key is new, and was said to be reused"


def _may_be_of_another_run(response: schemathesis.Response) -> bool:
    return len(str(response.request.headers.get("Idempotency-Key", ""))) == 1


def _key(response: schemathesis.Response) -> tuple[str, str] | None:
    sent = response.request
    key = sent.headers.get("Idempotency-Key")
    return None if key is None else (unquote(sent.path_url), str(key))


@schemathesis.check
def tasks_are_where_they_were_put(
    ctx: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case[Any]
) -> None:
    """A task is found from its creation to its deletion and never outside that time.

    Schemathesis's own checks follow its links alone, and `ensure_resource_availability` gives up
    where an operation has a parameter that the link does not set, such as `If-Match`.
    """
    code, sent = response.status_code, response.request
    created = code == HTTPStatus.CREATED
    of_a_task = "task_id" in case.path_parameters and sent.method == case.operation.method.upper()
    if code not in PRESENCE or not (created or of_a_task):
        return
    key = _key(response) if created else None
    if key in KEYS or (created and _may_be_of_another_run(response)):
        return  # the answer of a creation before, whatever became of its task
    if key is not None:
        KEYS.add(key)
    location = response.headers.get("location", [""])[0]
    path = urlsplit(location if created else str(sent.url)).path
    user, _, task = unquote(path).rpartition("/")
    before, after = PRESENCE[code]
    was = THERE.get((user, task.lower()), before)
    THERE[user, task.lower()] = after
    assert was == before, f"{code} though the task {'is' if was else 'is not'} there"
