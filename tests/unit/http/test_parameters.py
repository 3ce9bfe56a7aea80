"""Strict parsing of path, query and header parameters."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Annotated, Any, get_args
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema_rs import validator_for
from litestar import Request
from msgspec import UNSET, Meta, UnsetType

from app.db.positions import Position
from app.domain.tasks import schemas
from app.domain.tasks.schemas import ListTasksQuery, TaskPath
from app.http import etags, headers, parameters
from app.http.pagination import CursorToken
from app.http.parameters import (
    CreateHeaders,
    IdOrNone,
    IfMatchHeaders,
    IfNoneMatchHeaders,
    NoParameters,
    Parameters,
    ReplaceHeaders,
    Timestamp,
    UserId,
    UserPath,
)
from app.http.problems import FieldError, InvalidParameter
from app.openapi.document import OpenAPIDocument

pytestmark = pytest.mark.requirement("FR-021")


class QueryParameters(msgspec.Struct, frozen=True):
    """One parameter of each type."""

    count: Annotated[int, Meta(ge=-5, le=5)] | None = None
    flag: bool | None = None
    at: Timestamp | None = None
    id: UUID | None = None
    text: str | None = None
    day: date | UnsetType = UNSET
    other: IdOrNone | UnsetType = UNSET
    is_set: bool | UnsetType = UNSET


class Count(msgspec.Struct, frozen=True):
    """An integer without limits."""

    count: int | None = None


QUERY = Parameters(NoParameters, QueryParameters, NoParameters)
UNBOUNDED = Parameters(NoParameters, Count, NoParameters)
LIST = Parameters(UserPath, ListTasksQuery, NoParameters)
REPLACE = Parameters(TaskPath, NoParameters, ReplaceHeaders)


def request(
    query: bytes = b"",
    headers: list[tuple[bytes, bytes]] | None = None,
    **path: str,
) -> Request[Any, Any, Any]:
    """Return a request that has only parameters."""
    scope: Any = {
        "type": "http",
        "path_params": path,
        "query_string": query,
        "headers": headers or [],
    }
    return Request(scope)


def parse_query(query: bytes) -> QueryParameters:
    return QUERY.parse(request(query))[1]


def invalid_names(
    operation: Parameters[Any, Any, Any], sent: Request[Any, Any, Any]
) -> list[str | None]:
    """Return the names of the invalid parameters."""
    with pytest.raises(InvalidParameter) as raised:
        operation.parse(sent)
    assert all(error.pointer is None for error in raised.value.errors)
    return [error.parameter for error in raised.value.errors]


def invalid_query_names(query: str) -> list[str | None]:
    """Return the names of the invalid query parameters."""
    return invalid_names(QUERY, request(query.encode("latin-1")))


# --- types ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("raw", "value"), [("0", 0), ("5", 5), ("-5", -5), ("-0", 0), ("%35", 5)])
def test_integer_is_decimal_digits(raw: str, value: int) -> None:
    assert parse_query(f"count={raw}".encode()).count == value


@pytest.mark.parametrize("digit", "123456789")
def test_integer_has_at_most_18_digits(digit: str) -> None:
    for raw in (digit, f"1{digit}", f"1{digit}0", digit * 18):
        assert UNBOUNDED.parse(request(f"count={raw}".encode()))[1].count == int(raw)
    assert invalid_names(UNBOUNDED, request(f"count={digit * 19}".encode())) == ["count"]


@pytest.mark.parametrize(
    "raw",
    [
        "",
        "+1",
        "%2B1",
        "1.0",
        "1e0",
        "01",
        "0x1",
        "1_0",
        "%201",
        "1%20",
        "null",
        "--1",
        "6",
        "-6",
        "%D9%A1",
        "1%0A",
        "99999999999999999999",
        "1" * 5000,
    ],
    ids=lambda raw: raw[:20] or "empty",
)
def test_other_integer_notation_is_rejected(raw: str) -> None:
    assert invalid_query_names(f"count={raw}") == ["count"]


@pytest.mark.requirement("FR-028")
def test_error_for_a_long_integer_does_not_mention_python() -> None:
    with pytest.raises(InvalidParameter) as raised:
        parse_query(b"count=" + b"9" * 5000)
    assert "sys." not in raised.value.errors[0].detail
    assert len(raised.value.errors[0].detail) < 100


@pytest.mark.parametrize(("raw", "value"), [("true", True), ("false", False)])
def test_boolean_is_true_or_false(raw: str, *, value: bool) -> None:
    assert parse_query(f"flag={raw}".encode()).flag is value


@pytest.mark.parametrize("raw", ["", "True", "FALSE", "1", "0", "null", "yes", "true%20"])
def test_other_boolean_notation_is_rejected(raw: str) -> None:
    assert invalid_query_names(f"flag={raw}") == ["flag"]


@pytest.mark.requirement("FR-022")
@pytest.mark.parametrize(
    "raw", ["0198c5a2-7e1f-7b3a-9d55-2f6f0c1e8a44", "0198C5A2-7E1F-7B3A-9D55-2F6F0C1E8A44"]
)
def test_uuid_is_case_insensitive(raw: str) -> None:
    assert parse_query(f"id={raw}".encode()).id == UUID(raw)


@pytest.mark.requirement("FR-022")
@pytest.mark.parametrize("digit", "0123456789abcdefABCDEF")
def test_uuid_accepts_every_hexadecimal_digit(digit: str) -> None:
    raw = "-".join(digit * length for length in (8, 4, 4, 4, 12))
    assert parse_query(f"id={raw}".encode()).id == UUID(raw)


@pytest.mark.requirement("FR-022")
@pytest.mark.parametrize(
    "raw",
    [
        "",
        "0198c5a27e1f7b3a9d552f6f0c1e8a44",
        "{0198c5a2-7e1f-7b3a-9d55-2f6f0c1e8a44}",
        "urn:uuid:0198c5a2-7e1f-7b3a-9d55-2f6f0c1e8a44",
        "0198c5a2-7e1f-7b3a-9d55-2f6f0c1e8a4",
        "0198c5a2-7e1f-7b3a-9d55-2f6f0c1e8a444",
        "0198c5a27-e1f-7b3a-9d55-2f6f0c1e8a44",
        "0198c5g2-7e1f-7b3a-9d55-2f6f0c1e8a44",
        "0198c5a2-7e1f-7b3a-9d55-2f6f0c1e8a44%0A",
    ],
    ids=lambda raw: raw or "empty",
)
def test_other_uuid_notation_is_rejected(raw: str) -> None:
    assert invalid_query_names(f"id={raw}") == ["id"]


@pytest.mark.requirement("FR-139")
@pytest.mark.parametrize(
    "raw",
    [
        "none",
        "0198c5a2-7e1f-7b3a-9d55-2f6f0c1e8a44",
        "0198C5A2-7E1F-7B3A-9D55-2F6F0C1E8A44",
    ],
)
def test_id_or_none_is_accepted(raw: str) -> None:
    assert parse_query(f"other={raw}".encode()).other == raw


@pytest.mark.requirement("FR-139")
@pytest.mark.parametrize(
    "raw",
    [
        "",
        "null",
        "None",
        "NONE",
        "none,none",
        "none%0A",
        "0198c5a27e1f7b3a9d552f6f0c1e8a44",
        "urn:uuid:0198c5a2-7e1f-7b3a-9d55-2f6f0c1e8a44",
        "0198c5a2-7e1f-7b3a-9d55-2f6f0c1e8a44,none",
        "0198c5a2-7e1f-7b3a-9d55-2f6f0c1e8a44%0A",
    ],
    ids=lambda raw: raw or "empty",
)
def test_other_id_or_none_is_rejected(raw: str) -> None:
    assert invalid_query_names(f"other={raw}") == ["other"]


@pytest.mark.requirement("FR-141")
@pytest.mark.parametrize("raw", ["0001-01-01", "2024-02-29", "2026-11-24", "9999-12-31"])
def test_date_is_parsed(raw: str) -> None:
    assert parse_query(f"day={raw}".encode()).day == date.fromisoformat(raw)


@pytest.mark.requirement("FR-141")
@pytest.mark.parametrize(
    "raw",
    [
        "",
        "none",
        "0000-01-01",
        "2026-02-29",
        "2026-13-01",
        "2026-00-01",
        "2026-01-00",
        "20261124",
        "2026-W48-2",
        "2026-328",
        "26-11-24",
        "12026-11-24",
        "%2B2026-11-24",
        "2026-1-1",
        "2026-11-24%0A",
        "2026-11-24T00:00:00Z",
        "%D9%A2026-11-24",
    ],
    ids=lambda raw: raw or "empty",
)
def test_other_date_notation_is_rejected(raw: str) -> None:
    assert invalid_query_names(f"day={raw}") == ["day"]


def test_absent_parameter_differs_from_every_value() -> None:
    parsed = parse_query(b"is_set=false")
    assert parsed.is_set is False
    assert parsed.day is parsed.other is parse_query(b"").is_set is UNSET


offsets = st.integers(-(24 * 60 - 1), 24 * 60 - 1).map(lambda m: timezone(timedelta(minutes=m)))


@pytest.mark.requirement("FR-018")
@given(st.datetimes(datetime(2, 1, 1), datetime(9998, 12, 31)), offsets)  # noqa: DTZ001 - bounds are naive
def test_timestamp_is_converted_to_utc(local: datetime, offset: timezone) -> None:
    timestamp = local.replace(tzinfo=offset)
    raw = timestamp.isoformat().replace("+", "%2B")
    value = parse_query(f"at={raw}".encode()).at
    assert value == timestamp
    assert value is not None
    assert value.tzinfo is UTC


@pytest.mark.requirement("FR-018")
@pytest.mark.parametrize(
    ("raw", "value"),
    [
        ("2026-11-23T08:00:00Z", "2026-11-23T08:00:00+00:00"),
        ("2026-11-23t08:00:00z", "2026-11-23T08:00:00+00:00"),
        ("2026-11-23T08:00:00-00:00", "2026-11-23T08:00:00+00:00"),
        ("2026-11-23T08:00:00%2B05:30", "2026-11-23T02:30:00+00:00"),
        ("2026-11-23T08:00:00-23:59", "2026-11-24T07:59:00+00:00"),
        ("2026-11-23T08:00:00.5Z", "2026-11-23T08:00:00.500000+00:00"),
        ("2026-11-23T08:00:00.1234569Z", "2026-11-23T08:00:00.123456+00:00"),
        ("2026-11-23T08:00:00.9999999999999Z", "2026-11-23T08:00:00.999999+00:00"),
        ("2024-02-29T23:59:59Z", "2024-02-29T23:59:59+00:00"),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00+00:00"),
        ("9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999999+00:00"),
        # Outside the calendar in UTC, where no task can be. The nearest valid time is used.
        ("0001-01-01T00:00:00%2B00:01", "0001-01-01T00:00:00+00:00"),
        ("9999-12-31T23:59:59-23:59", "9999-12-31T23:59:59.999999+00:00"),
    ],
)
def test_timestamp_is_parsed(raw: str, value: str) -> None:
    assert parse_query(f"at={raw}".encode()).at == datetime.fromisoformat(value)


@pytest.mark.parametrize(
    "raw",
    [
        "",
        "2026-11-23",
        "2026-11-23T08:00:00",
        "2026-11-23T08:00Z",
        "2026-11-23%2008:00:00Z",
        "2026-11-23T08:00:00+00:00",
        "2026-11-23T08:00:00%2B0000",
        "2026-11-23T08:00:00%2B00",
        "2026-11-23T08:00:00.Z",
        "2026-11-23T08:00:00,5Z",
        "2026-11-23T24:00:00Z",
        "2026-11-23T23:59:60Z",
        "2026-02-29T00:00:00Z",
        "2026-13-01T00:00:00Z",
        "2026-11-23T08:60:00Z",
        "2026-11-23T08:00:00%2B24:00",
        "2026-11-23T08:00:00%2B00:60",
        "2026-11-23T08:00:00-12:99",
        "26-11-23T08:00:00Z",
        "2026-W48-1T08:00:00Z",
        "1700000000",
        "%D9%A2026-11-23T08:00:00Z",
        "2026-11-23T08:00:00Z%0A",
        "null",
    ],
    ids=lambda raw: raw or "empty",
)
def test_other_timestamp_notation_is_rejected(raw: str) -> None:
    assert invalid_query_names(f"at={raw}") == ["at"]


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        ("a+b", "a b"),
        ("a%2Bb", "a+b"),
        ("a%26b%3Dc", "a&b=c"),
        ("a=b", "a=b"),
        ("a;b", "a;b"),
        ("%C3%A9", "é"),
        ("%F0%9F%A5%9B", "🥛"),
        ("null", "null"),
        ("", ""),
    ],
    ids=lambda text: text or "empty",
)
def test_text_is_form_decoded(raw: str, value: str) -> None:
    assert parse_query(f"text={raw}".encode()).text == value


@pytest.mark.parametrize("letter", sorted({*map(chr, range(0x21, 0x7F))} - {*"%&+"}))
def test_printable_character_is_literal(letter: str) -> None:
    assert parse_query(f"text={letter}".encode()).text == letter


@pytest.mark.parametrize("template", ["%{:02X}", "%{:02x}"])
def test_every_octet_may_be_percent_encoded(template: str) -> None:
    text = "".join(map(chr, [*range(1, 0x900), 0xFFFD, 0x10FFFF]))
    raw = "".join(template.format(octet) for octet in text.encode())
    assert parse_query(f"text={raw}".encode()).text == text


# --- query string --------------------------------------------------------------------------------


def test_empty_query_string_has_no_parameters() -> None:
    assert parse_query(b"") == QueryParameters()


def test_parameter_name_is_decoded() -> None:
    assert parse_query(b"%63ount=1").count == 1


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("colour=red", ["colour"]),
        ("COUNT=1", ["COUNT"]),
        ("colour=red&colour=blue", ["colour", "colour"]),
        ("count=1&count=1", ["count"]),
        ("count=1&%63ount=2", ["count"]),
        ("count=x&flag=x&at=x&id=x&colour=red", ["count", "flag", "at", "id", "colour"]),
        ("count=x&count=1&flag=x", ["count", "count", "flag"]),
    ],
)
def test_every_invalid_parameter_is_named(query: str, names: list[str]) -> None:
    assert invalid_query_names(query) == names


def test_long_unknown_name_is_truncated() -> None:
    assert invalid_query_names("x" * 129 + "=1") == ["x" * 128]


@pytest.mark.parametrize("escape", ["%", "%4", "%zz", "%u00e9", "%%41"])
def test_invalid_percent_encoding_is_rejected(escape: str) -> None:
    assert invalid_query_names(f"text={escape}") == ["text"]


@pytest.mark.parametrize("octets", ["%FF", "%C3", "%C3%28", "%ED%A0%80", "%C0%80"])
def test_invalid_utf_8_is_rejected(octets: str) -> None:
    assert invalid_query_names(f"text={octets}") == ["text"]


def test_unencoded_octets_are_rejected() -> None:
    # RFC 3986 allows no such characters. Decoded as Latin-1 they would change.
    assert invalid_names(QUERY, request("text=é".encode())) == ["text"]


@pytest.mark.parametrize("pair", ["text=%zz", "text=%FF", "text"])
def test_malformed_parameter_does_not_hide_other_errors(pair: str) -> None:
    assert invalid_query_names(f"{pair}&count=x&colour=red") == ["text", "count", "colour"]


def test_two_malformed_parameters_are_both_named() -> None:
    assert invalid_query_names("text=%zz&count=%FF") == ["text", "count"]


@pytest.mark.parametrize("query", ["&", "count=1&", "&count=1", "count=1&&flag=true", "=1"])
def test_pair_without_a_name_is_rejected(query: str) -> None:
    assert len(invalid_query_names(query)) > 0


@pytest.mark.parametrize(
    ("query", "parameter", "detail"),
    [
        ("colour=red", "colour", "unknown parameter"),
        ("count=1&count=1", "count", "must not be repeated"),
        ("text", "text", "must have the form name=value"),
        ("=1", "", "must have the form name=value"),
        ("é", "\ufffd", "must have the form name=value"),
        ("x" * 129, "x" * 128, "must have the form name=value"),
        ("text=%zz", "text", "invalid percent-encoding"),
        ("text=%FF", "text", "must be UTF-8"),
        ("count=x", "count", "must be an integer from -5 to 5"),
        ("count=6", "count", "must be an integer from -5 to 5"),
        ("flag=x", "flag", "must be true or false"),
        ("id=x", "id", "must be a UUID with hyphens"),
        (
            "at=x",
            "at",
            "must be a date-time with an offset, such as 2026-01-01T00:00:00Z (in a URL, + is %2B)",
        ),
        ("at=2026-02-29T00:00:00Z", "at", "not a valid date"),
        ("day=x", "day", "must be a date from 0001-01-01 to 9999-12-31"),
        ("day=2026-02-29", "day", "not a valid date"),
        ("other=xxxx", "other", "must be a UUID with hyphens, or none"),
        ("other=" + "x" * 37, "other", "must have at most 36 characters"),
        ("is_set=x", "is_set", "must be true or false"),
    ],
    ids=lambda text: text[:30] or "empty",
)
def test_error_detail(query: str, parameter: str, detail: str) -> None:
    with pytest.raises(InvalidParameter) as raised:
        QUERY.parse(request(query.encode("latin-1")))
    assert raised.value.errors == [FieldError(parameter=parameter, detail=detail)]


# --- path and headers ----------------------------------------------------------------------------


@pytest.mark.requirement("FR-022")
@pytest.mark.parametrize(
    "user", ["a", "9", "a" * 128, "alice@example.org", "auth0|5f7c", "a.b_c:d+e-f", "A"]
)
def test_valid_user_id_is_accepted(user: str) -> None:
    assert LIST.parse(request(user_id=user))[0] == UserPath(user)


@pytest.mark.requirement("FR-022")
@pytest.mark.parametrize(
    "user",
    ["", "a" * 129, ".a", "-a", "@a", "a b", "a/b", "é", "aé", "a\n", "a\x00", "a%20", "a\ufffdb"],
)
def test_invalid_user_id_is_rejected(user: str) -> None:
    assert invalid_names(LIST, request(user_id=user)) == ["user_id"]


def test_errors_in_path_query_and_headers_are_reported_together() -> None:
    sent = request(
        b"limit=1", [(b"if-match", b"x"), (b"if-none-match", b'"x"')], user_id="-", task_id="1"
    )
    names = ["user_id", "task_id", "limit", "If-Match", "If-None-Match"]
    assert invalid_names(REPLACE, sent) == names


def test_header_is_read_without_surrounding_whitespace() -> None:
    parsed = Parameters(NoParameters, NoParameters, IfMatchHeaders).parse(
        request(headers=[(b"if-match", b' \t"a" ')])
    )
    assert parsed[2].if_match == '"a"'


def test_repeated_header_is_rejected_even_with_equal_values() -> None:
    sent = request(headers=[(b"if-none-match", b"*"), (b"if-none-match", b"*")])
    assert invalid_names(Parameters(NoParameters, NoParameters, IfNoneMatchHeaders), sent) == [
        "If-None-Match"
    ]


def test_undeclared_header_is_ignored() -> None:
    sent = request(headers=[(b"x-other", b"1"), (b"x-other", b"2"), (b"if-match", b"x")])
    assert Parameters(NoParameters, NoParameters, NoParameters).parse(sent) == (
        NoParameters(),
        NoParameters(),
        NoParameters(),
    )


@pytest.mark.parametrize(
    "value",
    ["*", '"a"', '""', 'W/"a"', '"a","b"', '"a" ,\t"b"', '"a,b"', '"!#~"', '"' + "a" * 1022 + '"'],
    ids=lambda value: value[:20],
)
def test_etag_list_is_accepted(value: str) -> None:
    sent = request(headers=[(b"if-match", value.encode("latin-1"))])
    assert Parameters(NoParameters, NoParameters, IfMatchHeaders).parse(sent)[2] == IfMatchHeaders(
        value
    )


@pytest.mark.parametrize(
    "value",
    [
        "",
        "a",
        '"a',
        'a"',
        "'a'",
        'w/"a"',
        'W/ "a"',
        '*,"a"',
        '"a",',
        ',"a"',
        '"a" "b"',
        '"a b"',
        '"é"',
        '"a"b"',
        "**",
        # Only space and tab are stripped.
        "*\xa0",
        "X*X",
        '"a",XX"b"',
        '"' + "a" * 1023 + '"',
    ],
    ids=lambda value: value[:20] or "empty",
)
def test_invalid_etag_list_is_rejected(value: str) -> None:
    sent = request(headers=[(b"if-match", value.encode("latin-1"))])
    assert invalid_names(Parameters(NoParameters, NoParameters, IfMatchHeaders), sent) == [
        "If-Match"
    ]


@pytest.mark.requirement("FR-012")
@pytest.mark.parametrize("value", ['"a"', "*,*", "", '"*"', "**"])
def test_replace_accepts_only_an_asterisk_in_if_none_match(value: str) -> None:
    sent = request(
        headers=[(b"if-none-match", value.encode())], user_id="a", task_id=str(UUID(int=1))
    )
    assert invalid_names(REPLACE, sent) == ["If-None-Match"]


# --- contract ------------------------------------------------------------------------------------

CONSTRAINED = {
    "UserId": UserId,
    "Title": schemas.Title,
    "Cursor": CursorToken,
    "ETagList": parameters.ETagList,
    "IdOrNone": IdOrNone,
    "Label": schemas.Label,
    "Position": Position,
}
# Types of properties and parameters that are not components of their own.
INLINE = {
    "Description": schemas.Description,
    "SearchQuery": schemas.SearchQuery,
    "PriorityFilter": schemas.PriorityFilter,
    "LabelFilter": schemas.LabelFilter,
    "LocalTime": schemas.LocalTime,
    "TimezoneName": schemas.TimezoneName,
}


def constraints(type_: Any) -> dict[str, Any]:
    """Return the constraints of a string type as keywords of JSON Schema."""
    (meta,) = (part for part in get_args(type_) if isinstance(part, Meta))
    pattern = None if meta.pattern is None else re.sub(r"\\Z$", "$", meta.pattern)
    return {"minLength": meta.min_length, "maxLength": meta.max_length, "pattern": pattern}


def declared(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the same constraints of a schema in the contract."""
    return {name: schema.get(name) for name in ("minLength", "maxLength", "pattern")}


@pytest.mark.requirement("NFR-003")
@pytest.mark.parametrize("name", CONSTRAINED)
def test_type_has_the_constraints_of_its_component(name: str, contract: OpenAPIDocument) -> None:
    schema = contract.document["components"]["schemas"][name]
    assert constraints(CONSTRAINED[name]) == declared(schema)


@pytest.mark.requirement("NFR-003")
@pytest.mark.parametrize("name", INLINE)
def test_type_has_the_constraints_of_its_property(name: str, contract: OpenAPIDocument) -> None:
    components = contract.document["components"]
    due = components["schemas"]["DueInput"]["properties"]
    written = {
        "Description": components["schemas"]["TaskReplace"]["properties"]["description"],
        "SearchQuery": components["parameters"]["Query"]["schema"],
        "PriorityFilter": components["parameters"]["PriorityFilter"]["schema"],
        "LabelFilter": components["parameters"]["LabelFilter"]["schema"],
        "LocalTime": due["time"],
        "TimezoneName": due["timezone"],
    }
    assert constraints(INLINE[name]) == declared(written[name])


ANCHORED = {
    **CONSTRAINED,
    **INLINE,
    "ResourceId": parameters.ResourceId,
    "EntityTag": etags.EntityTag,
    "RequestId": headers.RequestId,
    "AllowValue": headers.AllowValue,
}


@pytest.mark.requirement("NFR-003")
@pytest.mark.parametrize("name", ANCHORED)
def test_pattern_is_anchored_at_both_ends(name: str) -> None:
    (meta,) = (part for part in get_args(ANCHORED[name]) if isinstance(part, Meta))
    assert meta.pattern is not None
    assert meta.pattern.startswith("^")
    assert meta.pattern.endswith(r"\Z")


@pytest.mark.requirement("FR-138", "NFR-003")
@pytest.mark.parametrize("template", ["{}", "a{}", "{}a", "a{}a"])
def test_code_and_contract_accept_the_same_labels(template: str, contract: OpenAPIDocument) -> None:
    in_contract = validator_for(contract.document["components"]["schemas"]["Label"])
    points = [*range(0xD800), *range(0xE000, 0x10000), 0x10000, 0x1F600, 0xE0001, 0x10FFFF]
    labels = [template.format(chr(point)) for point in points]

    def is_label(text: str) -> bool:
        try:
            return bool(msgspec.convert(text, schemas.Label))
        except msgspec.ValidationError:
            return False

    differing = [ascii(text) for text in labels if is_label(text) != in_contract.is_valid(text)]
    assert differing == []
    rejected = {text for text in labels if not is_label(text)}
    controls = {chr(point) for point in (*range(0x20), *range(0x7F, 0xA0))}
    assert {template.format(character) for character in {*controls, ","}} <= rejected


@pytest.mark.requirement("FR-009", "NFR-011")
def test_blank_title_is_only_whitespace(contract: OpenAPIDocument) -> None:
    (meta,) = (part for part in get_args(schemas.Title) if isinstance(part, Meta))
    assert meta.pattern
    in_code = re.compile(meta.pattern)
    in_contract = validator_for(contract.document["components"]["schemas"]["Title"])
    characters = [chr(point) for point in range(1, 0x3100)] + ["\ufeff", "\U0001f600"]
    blank = "".join(character for character in characters if not in_code.search(character))
    assert blank == (
        "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008"
        "\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
    )
    assert blank == "".join(text for text in characters if not in_contract.is_valid(text))


OPERATIONS = {
    ("/api/v1/users/{user_id}/tasks", "get"): (UserPath, ListTasksQuery, IfNoneMatchHeaders),
    ("/api/v1/users/{user_id}/tasks", "post"): (UserPath, NoParameters, CreateHeaders),
    ("/api/v1/users/{user_id}/tasks/{task_id}", "get"): (
        TaskPath,
        NoParameters,
        IfNoneMatchHeaders,
    ),
    ("/api/v1/users/{user_id}/tasks/{task_id}", "put"): (
        TaskPath,
        NoParameters,
        ReplaceHeaders,
    ),
    ("/api/v1/users/{user_id}/tasks/{task_id}", "patch"): (TaskPath, NoParameters, IfMatchHeaders),
    ("/api/v1/users/{user_id}/tasks/{task_id}", "delete"): (TaskPath, NoParameters, IfMatchHeaders),
    ("/api/v1/users/{user_id}/tasks/{task_id}/move", "post"): (
        TaskPath,
        NoParameters,
        IfMatchHeaders,
    ),
    ("/api/v1/users/{user_id}/tasks/count", "get"): (
        UserPath,
        schemas.CountTasksQuery,
        IfNoneMatchHeaders,
    ),
    ("/api/v1/users/{user_id}/tasks/batch", "post"): (UserPath, NoParameters, CreateHeaders),
    ("/api/v1/users/{user_id}/labels", "get"): (UserPath, NoParameters, IfNoneMatchHeaders),
}


@pytest.mark.requirement("NFR-003")
@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_operation_reads_the_parameters_it_declares(
    path: str, method: str, contract: OpenAPIDocument
) -> None:
    item = contract.document["paths"][path]
    nodes = item[method]["parameters"]
    components = contract.document["components"]["parameters"]
    resolved = [components[node["$ref"].rpartition("/")[2]] for node in nodes]
    for location, struct in zip(("path", "query", "header"), OPERATIONS[path, method], strict=True):
        names = {parameter["name"] for parameter in resolved if parameter["in"] == location}
        assert set(struct.__struct_encode_fields__) == names
