"""Path, query and header parameters, read strictly."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Annotated, Any, get_args
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema_rs import validator_for
from litestar import Request
from msgspec import Meta

from app.domain.tasks import schemas
from app.domain.tasks.schemas import ListTasksQuery, ReplaceTaskHeaders, TaskPath
from app.http import etags, headers, parameters
from app.http.pagination import CursorToken
from app.http.parameters import (
    IfMatchHeaders,
    IfNoneMatchHeaders,
    NoParameters,
    Parameters,
    Timestamp,
    UserId,
    UserPath,
)
from app.http.problems import FieldError, InvalidParameter
from app.openapi.document import OpenAPIDocument

pytestmark = pytest.mark.requirement("FR-021")


class Numbers(msgspec.Struct, frozen=True):
    """One parameter of each kind."""

    count: Annotated[int, Meta(ge=-5, le=5)] | None = None
    flag: bool | None = None
    at: Timestamp | None = None
    id: UUID | None = None
    text: str | None = None


class Count(msgspec.Struct, frozen=True):
    """A number without limits of its own."""

    count: int | None = None


QUERY = Parameters(NoParameters, Numbers, NoParameters)
UNBOUNDED = Parameters(NoParameters, Count, NoParameters)
LIST = Parameters(UserPath, ListTasksQuery, NoParameters)
REPLACE = Parameters(TaskPath, NoParameters, ReplaceTaskHeaders)


def request(
    query: bytes = b"",
    headers: list[tuple[bytes, bytes]] | None = None,
    **path: str,
) -> Request[Any, Any, Any]:
    """A request with nothing but parameters."""
    scope: Any = {
        "type": "http",
        "path_params": path,
        "query_string": query,
        "headers": headers or [],
    }
    return Request(scope)


def read(query: bytes) -> Numbers:
    """The query parameters."""
    return QUERY.parse(request(query))[1]


def faults(operation: Parameters[Any, Any, Any], given: Request[Any, Any, Any]) -> list[str | None]:
    """The names of the parameters at fault."""
    with pytest.raises(InvalidParameter) as raised:
        operation.parse(given)
    assert all(fault.pointer is None for fault in raised.value.errors)
    return [fault.parameter for fault in raised.value.errors]


def refused(query: str) -> list[str | None]:
    """The names of the query parameters at fault."""
    return faults(QUERY, request(query.encode("latin-1")))


# --- one kind each -------------------------------------------------------------------------------


@pytest.mark.parametrize(("raw", "value"), [("0", 0), ("5", 5), ("-5", -5), ("-0", 0), ("%35", 5)])
def test_an_integer_is_decimal_digits(raw: str, value: int) -> None:
    assert read(f"count={raw}".encode()).count == value


@pytest.mark.parametrize("digit", "123456789")
def test_an_integer_may_have_any_digit_and_so_many(digit: str) -> None:
    for raw in (digit, f"1{digit}", f"1{digit}0", digit * 18):
        assert UNBOUNDED.parse(request(f"count={raw}".encode()))[1].count == int(raw)
    assert faults(UNBOUNDED, request(f"count={digit * 19}".encode())) == ["count"]


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
def test_another_spelling_of_an_integer_is_refused(raw: str) -> None:
    assert refused(f"count={raw}") == ["count"]


@pytest.mark.requirement("FR-028")
def test_a_very_long_integer_is_refused_without_a_word_about_python() -> None:
    with pytest.raises(InvalidParameter) as raised:
        read(b"count=" + b"9" * 5000)
    assert "sys." not in raised.value.errors[0].detail
    assert len(raised.value.errors[0].detail) < 100


@pytest.mark.parametrize(("raw", "value"), [("true", True), ("false", False)])
def test_a_boolean_is_one_of_two_words(raw: str, *, value: bool) -> None:
    assert read(f"flag={raw}".encode()).flag is value


@pytest.mark.parametrize("raw", ["", "True", "FALSE", "1", "0", "null", "yes", "true%20"])
def test_another_boolean_is_refused(raw: str) -> None:
    assert refused(f"flag={raw}") == ["flag"]


@pytest.mark.requirement("FR-022")
@pytest.mark.parametrize(
    "raw", ["0198c5a2-7e1f-7b3a-9d55-2f6f0c1e8a44", "0198C5A2-7E1F-7B3A-9D55-2F6F0C1E8A44"]
)
def test_a_uuid_has_any_letter_case(raw: str) -> None:
    assert read(f"id={raw}".encode()).id == UUID(raw)


@pytest.mark.requirement("FR-022")
@pytest.mark.parametrize("digit", "0123456789abcdefABCDEF")
def test_a_uuid_may_have_any_digit_in_any_place(digit: str) -> None:
    raw = "-".join(digit * length for length in (8, 4, 4, 4, 12))
    assert read(f"id={raw}".encode()).id == UUID(raw)


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
def test_another_spelling_of_a_uuid_is_refused(raw: str) -> None:
    assert refused(f"id={raw}") == ["id"]


offsets = st.integers(-(24 * 60 - 1), 24 * 60 - 1).map(lambda m: timezone(timedelta(minutes=m)))


@pytest.mark.requirement("FR-018")
@given(st.datetimes(datetime(2, 1, 1), datetime(9998, 12, 31)), offsets)  # noqa: DTZ001 - bounds are naive
def test_an_instant_keeps_its_place_in_time_whatever_its_offset(
    local: datetime, offset: timezone
) -> None:
    instant = local.replace(tzinfo=offset)
    raw = instant.isoformat().replace("+", "%2B")
    value = read(f"at={raw}".encode()).at
    assert value == instant
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
        # Outside the calendar once they are in UTC: no task is there either.
        ("0001-01-01T00:00:00%2B00:01", "0001-01-01T00:00:00+00:00"),
        ("9999-12-31T23:59:59-23:59", "9999-12-31T23:59:59.999999+00:00"),
    ],
)
def test_an_instant_is_read(raw: str, value: str) -> None:
    assert read(f"at={raw}".encode()).at == datetime.fromisoformat(value)


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
def test_another_spelling_of_an_instant_is_refused(raw: str) -> None:
    assert refused(f"at={raw}") == ["at"]


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
def test_text_is_decoded_as_a_form_is(raw: str, value: str) -> None:
    assert read(f"text={raw}".encode()).text == value


@pytest.mark.parametrize("letter", sorted({*map(chr, range(0x21, 0x7F))} - {*"%&+"}))
def test_what_can_be_seen_stands_for_itself(letter: str) -> None:
    assert read(f"text={letter}".encode()).text == letter


@pytest.mark.parametrize("form", ["%{:02X}", "%{:02x}"])
def test_every_octet_may_be_escaped(form: str) -> None:
    text = "".join(map(chr, [*range(1, 0x900), 0xFFFD, 0x10FFFF]))
    raw = "".join(form.format(octet) for octet in text.encode())
    assert read(f"text={raw}".encode()).text == text


# --- a query string as a whole -------------------------------------------------------------------


def test_no_query_string_has_no_parameters() -> None:
    assert read(b"") == Numbers()


def test_the_name_of_a_parameter_is_decoded_too() -> None:
    assert read(b"%63ount=1").count == 1


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
def test_every_parameter_at_fault_is_named(query: str, names: list[str]) -> None:
    assert refused(query) == names


def test_a_long_unknown_name_is_cut() -> None:
    assert refused("x" * 129 + "=1") == ["x" * 128]


@pytest.mark.parametrize("escape", ["%", "%4", "%zz", "%u00e9", "%%41"])
def test_a_malformed_escape_is_refused_and_named(escape: str) -> None:
    assert refused(f"text={escape}") == ["text"]


@pytest.mark.parametrize("octets", ["%FF", "%C3", "%C3%28", "%ED%A0%80", "%C0%80"])
def test_what_is_not_utf_8_is_refused_and_named(octets: str) -> None:
    assert refused(f"text={octets}") == ["text"]


def test_octets_that_are_not_escaped_are_refused_and_named() -> None:
    # RFC 3986 has no such characters, and read as Latin-1 they would be others.
    assert faults(QUERY, request("text=é".encode())) == ["text"]


@pytest.mark.parametrize("fault", ["text=%zz", "text=%FF", "text"])
def test_a_malformed_parameter_hides_no_other_fault(fault: str) -> None:
    assert refused(f"{fault}&count=x&colour=red") == ["text", "count", "colour"]


def test_two_malformed_parameters_are_both_named() -> None:
    assert refused("text=%zz&count=%FF") == ["text", "count"]


@pytest.mark.parametrize("query", ["&", "count=1&", "&count=1", "count=1&&flag=true", "=1"])
def test_a_pair_without_a_name_is_refused(query: str) -> None:
    assert len(refused(query)) > 0


@pytest.mark.parametrize(
    ("query", "parameter", "detail"),
    [
        ("colour=red", "colour", "is not a parameter here"),
        ("count=1&count=1", "count", "is given more than once"),
        ("text", "text", "must be name=value"),
        ("=1", "", "must be name=value"),
        ("é", "\ufffd", "must be name=value"),
        ("x" * 129, "x" * 128, "must be name=value"),
        (
            "text=%zz",
            "text",
            "has a % without two hexadecimal digits or an octet that must be escaped",
        ),
        ("text=%FF", "text", "is not UTF-8"),
        ("count=x", "count", "must be an integer of at most 18 decimal digits"),
        ("count=6", "count", "Expected int <= 5"),
        ("flag=x", "flag", "must be true or false"),
        ("id=x", "id", "must be a UUID with its hyphens"),
        (
            "at=x",
            "at",
            "must be an instant with an offset, such as 2026-01-01T00:00:00Z (+ is %2B in a URL)",
        ),
        ("at=2026-02-29T00:00:00Z", "at", "is not an instant of the calendar"),
    ],
    ids=lambda text: text[:30] or "empty",
)
def test_a_fault_is_told_in_these_words(query: str, parameter: str, detail: str) -> None:
    with pytest.raises(InvalidParameter) as raised:
        QUERY.parse(request(query.encode("latin-1")))
    assert raised.value.errors == [FieldError(parameter=parameter, detail=detail)]


# --- path and header fields ----------------------------------------------------------------------


@pytest.mark.requirement("FR-022")
@pytest.mark.parametrize(
    "user", ["a", "9", "a" * 128, "alice@example.org", "auth0|5f7c", "a.b_c:d+e-f", "A"]
)
def test_a_user_id_is_taken(user: str) -> None:
    assert LIST.parse(request(user_id=user))[0] == UserPath(user)


@pytest.mark.requirement("FR-022")
@pytest.mark.parametrize(
    "user",
    ["", "a" * 129, ".a", "-a", "@a", "a b", "a/b", "é", "aé", "a\n", "a\x00", "a%20", "a\ufffdb"],
)
def test_another_user_id_is_refused(user: str) -> None:
    assert faults(LIST, request(user_id=user)) == ["user_id"]


def test_faults_in_all_three_places_are_told_at_once() -> None:
    given = request(
        b"limit=1", [(b"if-match", b"x"), (b"if-none-match", b'"x"')], user_id="-", task_id="1"
    )
    names = ["user_id", "task_id", "limit", "If-Match", "If-None-Match"]
    assert faults(REPLACE, given) == names


def test_a_header_field_is_read_without_the_blanks_around_it() -> None:
    read_one = Parameters(NoParameters, NoParameters, IfMatchHeaders).parse(
        request(headers=[(b"if-match", b' \t"a" ')])
    )
    assert read_one[2].if_match == '"a"'


def test_a_header_field_given_twice_is_refused_even_when_the_values_are_equal() -> None:
    given = request(headers=[(b"if-none-match", b"*"), (b"if-none-match", b"*")])
    assert faults(Parameters(NoParameters, NoParameters, IfNoneMatchHeaders), given) == [
        "If-None-Match"
    ]


def test_a_header_field_that_is_no_parameter_is_left_alone() -> None:
    given = request(headers=[(b"x-other", b"1"), (b"x-other", b"2"), (b"if-match", b"x")])
    assert Parameters(NoParameters, NoParameters, NoParameters).parse(given) == (
        NoParameters(),
        NoParameters(),
        NoParameters(),
    )


@pytest.mark.parametrize(
    "value",
    ["*", '"a"', '""', 'W/"a"', '"a","b"', '"a" ,\t"b"', '"a,b"', '"!#~"', '"' + "a" * 1022 + '"'],
    ids=lambda value: value[:20],
)
def test_a_list_of_entity_tags_is_taken(value: str) -> None:
    given = request(headers=[(b"if-match", value.encode("latin-1"))])
    assert Parameters(NoParameters, NoParameters, IfMatchHeaders).parse(given)[2] == IfMatchHeaders(
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
        # Only space and tab are taken off.
        "*\xa0",
        "X*X",
        '"a",XX"b"',
        '"' + "a" * 1023 + '"',
    ],
    ids=lambda value: value[:20] or "empty",
)
def test_what_is_no_list_of_entity_tags_is_refused(value: str) -> None:
    given = request(headers=[(b"if-match", value.encode("latin-1"))])
    assert faults(Parameters(NoParameters, NoParameters, IfMatchHeaders), given) == ["If-Match"]


@pytest.mark.requirement("FR-012")
@pytest.mark.parametrize("value", ['"a"', "*,*", "", '"*"', "**"])
def test_replace_understands_only_an_asterisk_as_if_none_match(value: str) -> None:
    given = request(
        headers=[(b"if-none-match", value.encode())], user_id="a", task_id=str(UUID(int=1))
    )
    assert faults(REPLACE, given) == ["If-None-Match"]


# --- held against the contract -------------------------------------------------------------------

CONSTRAINED = {
    "UserId": UserId,
    "Title": schemas.Title,
    "Cursor": CursorToken,
    "ETagList": parameters.ETagList,
}


def constraints(type_: Any) -> dict[str, Any]:
    """What a type demands of a string, in JSON Schema's words."""
    (meta,) = (part for part in get_args(type_) if isinstance(part, Meta))
    pattern = None if meta.pattern is None else re.sub(r"\\Z$", "$", meta.pattern)
    return {"minLength": meta.min_length, "maxLength": meta.max_length, "pattern": pattern}


def declared(schema: dict[str, Any]) -> dict[str, Any]:
    """The same of a schema of the contract."""
    return {name: schema.get(name) for name in ("minLength", "maxLength", "pattern")}


@pytest.mark.requirement("NFR-003")
@pytest.mark.parametrize("name", CONSTRAINED)
def test_a_type_demands_what_its_component_does(name: str, contract: OpenAPIDocument) -> None:
    schema = contract.document["components"]["schemas"][name]
    assert constraints(CONSTRAINED[name]) == declared(schema)


@pytest.mark.requirement("NFR-003")
def test_text_of_a_description_and_of_a_search_is_what_the_contract_says(
    contract: OpenAPIDocument,
) -> None:
    components = contract.document["components"]
    description = components["schemas"]["TaskReplace"]["properties"]["description"]
    assert constraints(schemas.Description) == declared(description)
    assert constraints(schemas.SearchQuery) == declared(components["parameters"]["Query"]["schema"])


@pytest.mark.requirement("NFR-003")
@pytest.mark.parametrize(
    "type_",
    [
        *CONSTRAINED.values(),
        schemas.Description,
        schemas.SearchQuery,
        etags.EntityTag,
        headers.RequestId,
        headers.AllowValue,
    ],
    ids=[*CONSTRAINED, "Description", "SearchQuery", "EntityTag", "RequestId", "Methods"],
)
def test_a_pattern_ends_where_the_text_does(type_: Any) -> None:
    (meta,) = (part for part in get_args(type_) if isinstance(part, Meta))
    assert meta.pattern is not None
    assert meta.pattern.startswith("^")
    assert meta.pattern.endswith(r"\Z")


@pytest.mark.requirement("FR-009", "NFR-011")
def test_a_title_is_blank_where_it_is_white_space_alone(contract: OpenAPIDocument) -> None:
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
    ("/api/v1/users/{user_id}/tasks", "get"): (UserPath, ListTasksQuery, NoParameters),
    ("/api/v1/users/{user_id}/tasks", "post"): (UserPath, NoParameters, schemas.CreateTaskHeaders),
    ("/api/v1/users/{user_id}/tasks/{task_id}", "get"): (
        TaskPath,
        NoParameters,
        IfNoneMatchHeaders,
    ),
    ("/api/v1/users/{user_id}/tasks/{task_id}", "put"): (
        TaskPath,
        NoParameters,
        ReplaceTaskHeaders,
    ),
    ("/api/v1/users/{user_id}/tasks/{task_id}", "patch"): (TaskPath, NoParameters, IfMatchHeaders),
    ("/api/v1/users/{user_id}/tasks/{task_id}", "delete"): (TaskPath, NoParameters, IfMatchHeaders),
}


@pytest.mark.requirement("NFR-003")
@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_an_operation_reads_the_parameters_that_it_declares(
    path: str, method: str, contract: OpenAPIDocument
) -> None:
    item = contract.document["paths"][path]
    nodes = item[method]["parameters"]
    components = contract.document["components"]["parameters"]
    resolved = [components[node["$ref"].rpartition("/")[2]] for node in nodes]
    for place, struct in zip(("path", "query", "header"), OPERATIONS[path, method], strict=True):
        names = {parameter["name"] for parameter in resolved if parameter["in"] == place}
        assert set(struct.__struct_encode_fields__) == names
