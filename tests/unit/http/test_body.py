"""Strict parsing and validation of request bodies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import httpx
import msgspec
import pytest
from litestar import Litestar, Request, Response, post
from litestar.datastructures import State
from msgspec import Meta

from app.http.body import JSON, MERGE_PATCH, JSONBody
from app.http.cors import CORSPolicy
from app.http.exception_handlers import EXCEPTION_HANDLERS
from app.http.middleware import HTTPMiddleware
from app.openapi.document import OpenAPIDocument
from tests.support.client import assert_problem

CONTRACT = OpenAPIDocument(
    b"""
    components:
      schemas:
        Counter:
          type: object
          additionalProperties: false
          required: [count]
          properties:
            count: {type: integer, minimum: 0, maximum: 1000000}
            name: {type: string, maxLength: 5}
            inner: {type: array, items: {type: integer}}
            place:
              oneOf:
                - {$ref: '#/components/schemas/Place'}
                - {type: 'null'}
        Place:
          type: object
          additionalProperties: false
          required: [row]
          properties:
            row: {type: [integer, 'null']}
    """
)


class Place(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An object in a body."""

    row: int | None


class Counter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A body with an integer, which no body in the contract has."""

    count: Annotated[int, Meta(ge=0, le=1_000_000)]
    name: Annotated[str, Meta(max_length=5)] = ""
    inner: list[int] = []
    place: Place | None = None


class BodyState(msgspec.Struct):
    """The part of the application state that a body needs."""

    openapi: OpenAPIDocument


BODY = JSONBody(Counter, JSON)
PATCH_BODY = JSONBody(Counter, MERGE_PATCH, JSON)


@post("/", status_code=200)
async def post_json(request: Request[Any, Any, Any]) -> Response[Counter]:
    return Response(await BODY.parse(request))


@post("/patch", status_code=200)
async def post_patch(request: Request[Any, Any, Any]) -> Response[Counter]:
    return Response(await PATCH_BODY.parse(request))


LITESTAR_APP = Litestar(
    route_handlers=[post_json, post_patch],
    exception_handlers=EXCEPTION_HANDLERS,
    state=State({"app_state": BodyState(CONTRACT)}),
    openapi_config=None,
    logging_config=None,
)
APP = HTTPMiddleware(LITESTAR_APP, LITESTAR_APP.routes, CORSPolicy(()))


async def send(
    content: bytes,
    headers: dict[str, str] | Sequence[tuple[str, str | bytes]] | None = None,
    path: str = "/",
) -> httpx.Response:
    """Send a body as JSON, unless `headers` is given."""
    transport = httpx.ASGITransport(app=APP)  # type: ignore[arg-type]  # the type stubs of ASGI differ
    async with httpx.AsyncClient(transport=transport, base_url="http://tasks.test") as client:
        sent = {"Content-Type": JSON} if headers is None else headers
        return await client.post(path, content=content, headers=sent)  # type: ignore[arg-type]  # httpx accepts bytes


# --- JSON ----------------------------------------------------------------------------------------


@pytest.mark.requirement("NFR-003")
@pytest.mark.parametrize(
    ("raw", "count"),
    [
        ("7", 7),
        ("7.0", 7),
        ("7e0", 7),
        ("70e-1", 7),
        ("0.7E+1", 7),
        ("-0", 0),
        ("-0.0", 0),
        ("1e6", 1_000_000),
    ],
)
async def test_integral_number_in_any_notation_is_an_integer(raw: str, count: int) -> None:
    response = await send(b'{"count":%s}' % raw.encode())
    assert response.json() == {"count": count, "name": "", "inner": [], "place": None}


@pytest.mark.requirement("NFR-003")
async def test_integral_number_in_a_list_is_an_integer() -> None:
    response = await send(b'{"count":1,"inner":[1.0,2,3e0]}')
    assert response.json()["inner"] == [1, 2, 3]


@pytest.mark.requirement("FR-026")
@pytest.mark.parametrize(
    "raw",
    [
        "7.5",
        '"7"',
        "true",
        "null",
        "[7]",
        "-1",
        "-1.0",
        "1000001",
        "1e7",
        "18446744073709551616",
        "9" * 400,
        "9" * 5000,
        "1e400",
        "-1e400",
    ],
    ids=lambda raw: f"{raw[:20]} of {len(raw)}",
)
async def test_other_number_violates_the_schema(raw: str) -> None:
    response = await send(b'{"count":%s}' % raw.encode())
    assert_problem(response, 422, "invalid-body", "/count")


@pytest.mark.requirement("FR-026")
async def test_every_error_has_its_pointer() -> None:
    response = await send(b'{"name":"too long","inner":[1,"2",3.5],"a/b~c":1,"other":2}')
    problem = assert_problem(
        response,
        422,
        "invalid-body",
        "/count",
        "/name",
        "/inner/1",
        "/inner/2",
        "/a~1b~0c",
        "/other",
    )
    assert problem["detail"] == "/name: must have at most 5 characters (and 5 more errors)"
    assert {error["pointer"]: error["detail"] for error in problem["errors"]} == {
        "/count": "is required",
        "/name": "must have at most 5 characters",
        "/inner/1": "must be an integer",
        "/inner/2": "must be an integer",
        "/a~1b~0c": "unknown property",
        "/other": "unknown property",
    }


@pytest.mark.requirement("FR-026")
async def test_detail_names_the_only_error() -> None:
    problem = assert_problem(await send(b"{}"), 422, "invalid-body", "/count")
    assert problem["detail"] == "/count: is required"


@pytest.mark.requirement("FR-026")
@pytest.mark.parametrize("raw", [b"[]", b"null", b"1", b'"text"', b"true"])
async def test_body_that_is_not_an_object_has_one_root_error(raw: bytes) -> None:
    response = await send(raw)
    assert response.json()["errors"][0]["pointer"] == ""
    assert (response.status_code, len(response.json()["errors"])) == (422, 1)


@pytest.mark.requirement("FR-026", "FR-028")
async def test_error_does_not_contain_the_value() -> None:
    response = await send(b'{"count":1,"name":"hunter2-hunter2"}')
    assert "hunter2" not in response.text


@pytest.mark.requirement("FR-026")
async def test_pointer_is_truncated_to_the_contract_limit() -> None:
    response = await send(b'{"count":1,"%s":1}' % (b"x" * 3000))
    assert_problem(response, 422, "invalid-body", "/" + "x" * 1023)


@pytest.mark.requirement("FR-026")
async def test_at_most_100_errors_are_listed() -> None:
    properties = b",".join(b'"m%d":1' % number for number in range(101))
    problem = (await send(b'{"count":1,%s}' % properties)).json()
    assert len(problem["errors"]) == 100
    assert problem["detail"] == "/m0: unknown property (and at least 100 more errors)"


@pytest.mark.requirement("FR-026")
async def test_exactly_100_errors_are_counted() -> None:
    properties = b",".join(b'"m%d":1' % number for number in range(100))
    problem = (await send(b'{"count":1,%s}' % properties)).json()
    assert len(problem["errors"]) == 100
    assert problem["detail"] == "/m0: unknown property (and at least 99 more errors)"


@pytest.mark.requirement("FR-023")
@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b" ",
        b"{",
        b'{"count":1',
        b'{"count":1}}',
        b'{"count":1} x',
        b'{"count":1,}',
        b"{'count':1}",
        b"{count:1}",
        b'{"count":01}',
        b'{"count":+1}',
        b'{"count":.5}',
        b'{"count":NaN}',
        b'{"count":Infinity}',
        b'{"count":1}//',
        b'{"count":1,"name":"a\nb"}',
        b'{"count":1,"name":"\\x"}',
        b'{"count":1,"name":"\\ud800"}',
        b'{"count":1,"\\udc00":1}',
        b'{"count":1,"name":"\xff"}',
        b'{"count":1,"name":"\xed\xa0\x80"}',
        b'{"count":1,"\xff":1}',
        b'{"count":"\xff"}',
        b'\xef\xbb\xbf{"count":1}',
        '{"count":1}'.encode("utf-16"),
        b'{"count":1}\x00',
    ],
)
async def test_body_that_is_not_utf_8_json_is_malformed(raw: bytes) -> None:
    assert_problem(await send(raw), 400, "malformed-body")


@pytest.mark.requirement("FR-023")
@pytest.mark.parametrize(
    "rest",
    [
        b"",
        b"} x",
        b',"name":NaN}',
        b',"name":-Infinity}',
        b',"name":"a\nb"}',
        b',"name":"\\x"}',
        b',"name":"\\ud800"}',
        b',"name":"\xff"}',
        b',"name":"\xed\xa0\x80"}',
        b',"other":["\xff"]}',
        b',"\xff":1}',
        b',"\xed\xa0\x80":1}',
        b',"other":01}',
    ],
)
async def test_malformed_body_is_reported_before_schema_errors(rest: bytes) -> None:
    assert_problem(await send(b'{"count":"x"' + rest), 400, "malformed-body")


@pytest.mark.requirement("FR-023")
@pytest.mark.parametrize(
    "raw",
    [
        b'{"count":1,"count":1}',
        b'{"count":1,"count":2}',
        b'{"count":1,"c\\u006funt":2}',
        b'{"count":1,"name":"a","name":"a"}',
        b'{"count":1,"other":1,"other":2}',
        b'{"count":1,"inner":[{"a":1,"a":2}]}',
        b'{"count":"1","count":2}',
        b'{"count":1.0,"count":1.0}',
        b'{"count":1,"other":{"a":{"b":1,"b":2}}}',
        b'[{"a":1,"a":2}]',
        b'{"count":1,"place":{"row":1,"row":1}}',
        b'{"count":1,"place":{"row":1,"r\\u006fw":2}}',
        b'{"count":1,"place":null,"place":{"row":1}}',
    ],
)
async def test_duplicate_property_name_is_malformed(raw: bytes) -> None:
    problem = assert_problem(await send(raw), 400, "malformed-body")
    assert problem["detail"] == "The request body contains a duplicate property name."


@pytest.mark.requirement("FR-023")
@pytest.mark.parametrize("raw", [b'{"count":1,"name":"count"}', b'{"count":1,"name":"\\u0061"}'])
async def test_value_equal_to_a_property_name_is_accepted(raw: bytes) -> None:
    assert (await send(raw)).status_code == 200


@pytest.mark.requirement("FR-023")
@pytest.mark.parametrize(
    "raw",
    [
        b'{"count":1,"name":"row","place":{"row":1}}',
        b'{"count":1,"name":"place","place":{"row":null}}',
    ],
)
async def test_value_equal_to_a_nested_property_name_is_accepted(raw: bytes) -> None:
    assert (await send(raw)).status_code == 200


@pytest.mark.requirement("FR-113", "NFR-003")
async def test_integral_number_in_an_object_is_an_integer() -> None:
    response = await send(b'{"count":1,"place":{"row":3.0}}')
    assert response.json()["place"] == {"row": 3}


@pytest.mark.requirement("FR-026", "FR-113")
@pytest.mark.parametrize(
    ("raw", "pointer", "detail"),
    [
        (b'"x"', "/place", "must be an object or null"),
        (b"[]", "/place", "must be an object or null"),
        (b"{}", "/place/row", "is required"),
        (b'{"row":"x"}', "/place/row", "must be an integer or null"),
        (b'{"row":1,"seat/a":2}', "/place/seat~1a", "unknown property"),
    ],
)
async def test_error_in_an_object_has_its_pointer(raw: bytes, pointer: str, detail: str) -> None:
    response = await send(b'{"count":1,"place":%s}' % raw)
    problem = assert_problem(response, 422, "invalid-body", pointer)
    assert problem["detail"] == f"{pointer}: {detail}"


@pytest.mark.requirement("FR-023", "FR-036")
@pytest.mark.parametrize("depth", [300, 900, 1100, 10_000, 60_000])
@pytest.mark.parametrize(
    ("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")], ids=["list", "object"]
)
async def test_deeply_nested_body_is_malformed(depth: int, opening: bytes, closing: bytes) -> None:
    raw = b'{"count":1,"other":' + opening * depth + b"1" + closing * depth + b"}"
    assert_problem(await send(raw), 400, "malformed-body")


@pytest.mark.requirement("FR-023", "FR-026")
async def test_moderately_nested_body_is_validated_by_its_schema() -> None:
    raw = b'{"count":1,"other":' + b"[" * 50 + b"]" * 50 + b"}"
    assert_problem(await send(raw), 422, "invalid-body", "/other")


@pytest.mark.requirement("FR-023")
@pytest.mark.parametrize(
    ("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")], ids=["list", "object"]
)
async def test_nesting_limit_is_100_levels(opening: bytes, closing: bytes) -> None:
    allowed, too_deep = (b'{"other":' + opening * n + b"1" + closing * n + b"}" for n in (99, 100))
    assert (await send(allowed)).status_code == 422
    problem = assert_problem(await send(too_deep), 400, "malformed-body")
    assert problem["detail"] == "The request body is nested more than 100 levels deep."


@pytest.mark.requirement("FR-023", "FR-026")
@pytest.mark.parametrize(
    "other",
    [
        b"[[]" + b",[]" * 200 + b"]",
        b'"' + b"[" * 200 + b'"',
        b'"\\"' + b"{" * 200 + b'"',
        b'["' + b"[" * 200 + b'",{"' + b"{" * 200 + b'":"\\\\"}]',
    ],
)
async def test_adjacent_or_quoted_brackets_do_not_count_as_nesting(other: bytes) -> None:
    response = await send(b'{"count":1,"other":' + other + b"}")
    assert_problem(response, 422, "invalid-body", "/other")


@pytest.mark.requirement("FR-023")
@pytest.mark.parametrize(
    ("raw", "detail"),
    [
        (b'{"count":1', "The request body is not valid JSON: Input data was truncated."),
        (
            b'{"count":"x"} x',
            "The request body is not valid JSON: Extra data: line 1 column 15 (char 14).",
        ),
        (
            b'{"count":"x","name":NaN}',
            "The request body is not valid JSON: NaN is not a JSON value.",
        ),
        (
            b'{"count":1,"name":"\xff"}',
            "The request body is not UTF-8, or escapes half of a surrogate pair.",
        ),
        (
            b'{"count":"x","name":"\\ud800"}',
            "The request body is not UTF-8, or escapes half of a surrogate pair.",
        ),
    ],
)
async def test_malformed_body_detail(raw: bytes, detail: str) -> None:
    assert assert_problem(await send(raw), 400, "malformed-body")["detail"] == detail


@pytest.mark.requirement("FR-023")
async def test_body_of_a_disconnected_client_is_malformed() -> None:
    sent: list[Any] = []
    scope: Any = {
        "type": "http",
        "method": "POST",
        "path": "/",
        "raw_path": b"/",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
    }

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    async def record(message: Any) -> None:
        sent.append(message)

    await APP(scope, receive, record)

    start, body = sent
    assert start["status"] == 400
    assert msgspec.json.decode(body["body"])["detail"] == "The request body ended unexpectedly."


@pytest.mark.requirement("FR-026")
@pytest.mark.parametrize(
    ("raw", "detail"),
    [
        ("1e400", "must be an integer from 0 to 1000000"),
        ("-1e400", "must be an integer from 0 to 1000000"),
        ("9" * 400, "must be an integer from 0 to 1000000"),
        ("-" + "9" * 400, "must be an integer from 0 to 1000000"),
        ("7.5", "must be an integer from 0 to 1000000"),
    ],
    ids=lambda text: text[:20],
)
async def test_number_out_of_range_keeps_its_sign_and_type(raw: str, detail: str) -> None:
    problem = assert_problem(
        await send(b'{"count":%s}' % raw.encode()), 422, "invalid-body", "/count"
    )
    assert problem["errors"][0]["detail"] == detail


# --- media types ---------------------------------------------------------------------------------


@pytest.mark.requirement("FR-024")
@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "Application/JSON",
        "application/json;charset=utf-8",
        "application/json; charset=UTF-8",
        'application/json; charset="utf-8"',
        "application/json ; Charset=Utf-8",
    ],
)
async def test_json_in_utf_8_is_accepted(content_type: str) -> None:
    assert (await send(b'{"count":1}', {"Content-Type": content_type})).status_code == 200


@pytest.mark.requirement("FR-024")
@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "text/plain",
        "text/json",
        "application/jsonp",
        "application/vnd.api+json",
        "application/merge-patch+json",
        "application/*",
        "*/*",
        "application/json, application/json",
        "application/json; charset=latin-1",
        "application/json; charset=utf-16",
        "application/json; charset=utf-8; profile=x",
        "application/json; profile=x",
        'application/json; charset="utf-8',
        'application/json; charset=utf-8"',
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
    ],
    ids=lambda content_type: content_type or "empty",
)
async def test_other_content_type_is_unsupported(content_type: str) -> None:
    response = await send(b'{"count":1}', {"Content-Type": content_type})
    assert_problem(response, 415, "unsupported-media-type", "Content-Type")


@pytest.mark.requirement("FR-024")
async def test_missing_content_type_is_unsupported() -> None:
    response = await send(b'{"count":1}', {})
    assert_problem(response, 415, "unsupported-media-type", "Content-Type")


@pytest.mark.requirement("FR-024")
@pytest.mark.parametrize("coding", ["gzip", "br", "identity, gzip", "x"])
async def test_content_encoding_is_unsupported(coding: str) -> None:
    response = await send(b'{"count":1}', {"Content-Type": JSON, "Content-Encoding": coding})
    assert_problem(response, 415, "unsupported-media-type", "Content-Encoding")


@pytest.mark.requirement("FR-024")
async def test_content_encoding_in_a_second_header_is_unsupported() -> None:
    headers = [
        ("Content-Type", JSON),
        ("Content-Encoding", "identity"),
        ("Content-Encoding", "gzip"),
    ]
    assert (await send(b'{"count":1}', headers)).status_code == 415


@pytest.mark.requirement("FR-024")
async def test_repeated_content_type_is_rejected() -> None:
    headers = [("Content-Type", JSON), ("Content-Type", "text/plain")]
    assert (await send(b'{"count":1}', headers)).status_code == 415


@pytest.mark.requirement("FR-024")
@pytest.mark.parametrize("content_type", [MERGE_PATCH, JSON, f"{MERGE_PATCH}; charset=utf-8"])
async def test_merge_patch_accepts_both_content_types(content_type: str) -> None:
    response = await send(b'{"count":1}', {"Content-Type": content_type}, "/patch")
    assert response.status_code == 200


@pytest.mark.requirement("FR-024")
async def test_merge_patch_error_lists_both_content_types() -> None:
    response = await send(b'{"count":1}', {"Content-Type": "text/plain"}, "/patch")
    problem = assert_problem(response, 415, "unsupported-media-type", "Content-Type")
    detail = "must be application/merge-patch+json or application/json"
    assert problem["errors"][0]["detail"] == detail
    assert problem["detail"] == f"Content-Type: {detail}"


@pytest.mark.requirement("FR-024")
@pytest.mark.parametrize(
    ("headers", "parameter", "detail"),
    [
        ([], "Content-Type", "must be sent once"),
        ([("Content-Type", JSON)] * 2, "Content-Type", "must be sent once"),
        ([("Content-Type", "text/plain")], "Content-Type", "must be application/json"),
        # Only space and tab are whitespace here.
        ([("Content-Type", "\xa0application/json")], "Content-Type", "must be application/json"),
        ([("Content-Type", "Xapplication/json")], "Content-Type", "must be application/json"),
        (
            [("Content-Type", "application/json;\xa0charset=utf-8")],
            "Content-Type",
            "only the parameter charset=utf-8 is allowed",
        ),
        (
            [("Content-Type", "application/json;charset=utf-8X")],
            "Content-Type",
            "only the parameter charset=utf-8 is allowed",
        ),
        (
            [("Content-Type", "application/json;a=b;charset=utf-8")],
            "Content-Type",
            "only the parameter charset=utf-8 is allowed",
        ),
        (
            [("Content-Type", JSON), ("Content-Encoding", "gzip")],
            "Content-Encoding",
            "content encodings are not supported",
        ),
    ],
)
async def test_content_type_error_detail(
    headers: list[tuple[str, str]], parameter: str, detail: str
) -> None:
    sent = [(name, value.encode("latin-1")) for name, value in headers]
    response = await send(b'{"count":1}', sent)
    problem = assert_problem(response, 415, "unsupported-media-type", parameter)
    assert problem["detail"] == f"{parameter}: {detail}"
    assert problem["errors"][0]["detail"] == detail


@pytest.mark.requirement("FR-024")
@pytest.mark.parametrize("coding", ["identity", "Identity", " identity "])
async def test_identity_content_encoding_is_accepted(coding: str) -> None:
    headers = [("Content-Type", JSON.encode()), ("Content-Encoding", coding.encode())]
    assert (await send(b'{"count":1}', headers)).status_code == 200


@pytest.mark.requirement("FR-024")
async def test_content_type_is_checked_before_the_body() -> None:
    response = await send(b"{", {"Content-Type": "text/plain"})
    assert_problem(response, 415, "unsupported-media-type", "Content-Type")
