"""What the contract says but Schemathesis cannot know (`hooks` in schemathesis.toml)."""

# ruff: noqa: ARG001 - Schemathesis hands every hook all its arguments

from __future__ import annotations

from typing import Any

import requests
import schemathesis
from hypothesis import strategies as st

SECONDS = 10
TAGS_AT_MOST = 1024  # characters: maxLength of EntityTags
CONDITIONS = {"PUT": "If-Match", "PATCH": "If-Match", "DELETE": "If-Match", "GET": "If-None-Match"}

OPAQUE = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters='"'))
TAG = st.builds('{}"{}"'.format, st.sampled_from(["", "W/"]), OPAQUE)
schemathesis.openapi.format(
    "entity-tags", st.just("*") | st.lists(TAG, min_size=1, max_size=3).map(", ".join)
)


@schemathesis.hook
def before_load_schema(context: schemathesis.HookContext, raw_schema: dict[str, Any]) -> None:
    """Give the schema of entity tags a format, so that every phase has valid ones.

    In header fields the coverage phase of Schemathesis 4.32 knows letters and digits alone. Where a
    pattern wants more, such as a tag's quotes, it sends an invalid value and calls it valid.
    """
    raw_schema["components"]["schemas"]["EntityTags"]["format"] = "entity-tags"


@schemathesis.hook
def before_call(
    context: schemathesis.HookContext, case: schemathesis.Case[Any], kwargs: dict[str, Any]
) -> None:
    """Put what only the service can make in the place of what was invented.

    Requests that are meant to be refused stay as they are.
    """
    if case.meta is not None and case.meta.generation.mode.is_positive:
        if "cursor" in case.query:
            case.query = _with_real_cursor(case)
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


@schemathesis.check
def precondition_was_sent(
    ctx: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case[Any]
) -> None:
    """412 answers a precondition alone; schemathesis.toml allows it for whole operations."""
    sent = {name.lower() for name in response.request.headers}
    if response.status_code == requests.codes.precondition_failed:
        assert sent & {"if-match", "if-none-match"}, "412 to a request without a precondition"


@schemathesis.deserializer(
    # One entry of its own would not do: Schemathesis takes the first of the family.
    "text/yaml",
    "text/x-yaml",
    "text/vnd.yaml",
    "application/x-yaml",
    "application/yaml",
)
def read_yaml(ctx: schemathesis.DeserializationContext, response: schemathesis.Response) -> str:
    """The contract describes the document as a text, not as what a parser makes of it."""
    return response.text
