"""Validation messages, derived from JSON Schema keywords and msgspec types."""

from __future__ import annotations

from datetime import date, datetime
from enum import StrEnum
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from msgspec import Meta, UnsetType

from app.domain.tasks.schemas import CalendarDate
from app.http.problems import MAX_ERRORS, FieldError, InvalidBody, InvalidParameter
from app.http.validation import PATTERN_MESSAGE, describe_keyword, describe_mismatch

pytestmark = pytest.mark.requirement("FR-026")


class Color(StrEnum):
    """An enumeration."""

    RED = "red"
    BLUE = "blue"


ISBN = Annotated[
    str,
    Meta(
        min_length=2,
        max_length=4,
        pattern=r"^[0-9]+\Z",
        extra_json_schema={PATTERN_MESSAGE: "must contain only digits"},
    ),
]


A_UUID = "a UUID with hyphens"
A_DATE = "a date from 0001-01-01 to 9999-12-31"


@pytest.mark.parametrize(
    ("schema", "keyword", "message"),
    [
        ({"type": "string"}, "type", "must be a string"),
        ({"type": ["string", "null"]}, "type", "must be a string or null"),
        ({"type": "boolean"}, "type", "must be true or false"),
        ({"type": "array"}, "type", "must be an array"),
        ({"type": "integer", "minimum": 1}, "minimum", "must be an integer of at least 1"),
        ({"type": "integer", "maximum": 9}, "maximum", "must be an integer of at most 9"),
        (
            {"type": ["number", "null"], "minimum": 0.5, "maximum": 1e6},
            "maximum",
            "must be a number from 0.5 to 1000000 or null",
        ),
        ({"minLength": 1}, "minLength", "must not be empty"),
        ({"minLength": 2, "maxLength": 9}, "minLength", "must have at least 2 characters"),
        ({"minLength": 2, "maxLength": 9}, "maxLength", "must have at most 9 characters"),
        ({"minLength": 8, "maxLength": 8}, "minLength", "must have exactly 8 characters"),
        ({"minLength": 8, "maxLength": 8}, "maxLength", "must have exactly 8 characters"),
        ({"minItems": 1}, "minItems", "must not be empty"),
        ({"maxItems": 7}, "maxItems", "must have at most 7 items"),
        ({"enum": ["red", "blue"]}, "enum", "must be one of red, blue"),
        ({"enum": ["*"]}, "enum", "must be *"),
        ({"const": 3}, "const", "must be 3"),
        ({"type": "string", "format": "uuid"}, "format", "must be a UUID with hyphens"),
        ({"type": "string", "format": "uri"}, "format", "must be a string"),
        ({"pattern": "^x$", PATTERN_MESSAGE: "must be x"}, "pattern", "must be x"),
        ({"pattern": "^x$"}, "pattern", "has an invalid format"),
        ({"type": "string", "format": "uuid", "pattern": "^0"}, "pattern", f"must be {A_UUID}"),
        (
            {"type": ["string", "null"], "format": "uuid"},
            "format",
            "must be a UUID with hyphens or null",
        ),
        ({"type": "string", "format": "date"}, "format", f"must be {A_DATE}"),
        ({"type": "string", "format": "date", "pattern": "^[1-9]"}, "pattern", f"must be {A_DATE}"),
        ({"oneOf": [{"type": "object"}, {"type": "null"}]}, "oneOf", "must be an object or null"),
        ({"uniqueItems": True}, "uniqueItems", "must not contain an item twice"),
        ({"multipleOf": 2}, "multipleOf", "is invalid"),
    ],
)
def test_keyword_is_described_in_words(schema: dict[str, Any], keyword: str, message: str) -> None:
    assert describe_keyword(schema, keyword) == message


@pytest.mark.parametrize(
    ("type_", "raw", "message"),
    [
        (ISBN, "1", "must have at least 2 characters"),
        (ISBN | None, "12345", "must have at most 4 characters"),
        (ISBN, "abc", "must contain only digits"),
        (int, "abc", "must be an integer"),
        (Annotated[float, Meta(ge=0.1, le=4.5)], "5", "must be a number from 0.1 to 4.5"),
        (bool | None, "maybe", "must be true or false"),
        (Color, "green", "must be one of blue, red"),
        (Color | None, "green", "must be one of blue, red"),
        (Literal["*"], "x", "must be *"),
        (UUID, "x", f"must be {A_UUID}"),
        (date, "2026-02-30", f"must be {A_DATE}"),
        (CalendarDate | UnsetType, "x", f"must be {A_DATE}"),
        (ISBN | UnsetType, "12345", "must have at most 4 characters"),
        (bool | UnsetType, "maybe", "must be true or false"),
        (
            Annotated[datetime, Meta(tz=True)],
            "x",
            "must be a date-time with an offset, such as 2026-01-01T00:00:00Z (in a URL, + is %2B)",
        ),
    ],
)
def test_mismatch_of_a_type_is_described_in_words(type_: Any, raw: str, message: str) -> None:
    assert describe_mismatch(type_, raw) == message


# --- detail ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "detail"),
    [
        (0, InvalidBody.detail),
        (1, "/0: is required"),
        (2, "/0: is required (and 1 more error)"),
        (3, "/0: is required (and 2 more errors)"),
        (MAX_ERRORS - 1, "/0: is required (and 98 more errors)"),
        (MAX_ERRORS + 1, "/0: is required (and at least 100 more errors)"),
    ],
)
def test_detail_names_the_first_error_and_counts_the_others(count: int, detail: str) -> None:
    errors = [FieldError(pointer=f"/{number}", detail="is required") for number in range(count)]
    assert InvalidBody(errors=errors).to_problem("r").detail == detail


@pytest.mark.parametrize(
    ("error", "detail"),
    [
        (FieldError(parameter="limit", detail="is wrong"), "limit: is wrong"),
        (FieldError(pointer="", detail="must be an object"), "request body: must be an object"),
    ],
)
def test_detail_names_a_parameter_or_the_whole_body(error: FieldError, detail: str) -> None:
    assert InvalidParameter(errors=[error]).to_problem("r").detail == detail


def test_detail_with_a_long_pointer_is_truncated() -> None:
    error = FieldError(pointer="/" + "x" * 1023, detail="is required")
    assert InvalidBody(errors=[error]).to_problem("r").detail == error.pointer
