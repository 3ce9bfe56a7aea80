"""Raw bytes over a real socket: bodies, headers and data that no HTTP client would send."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import asyncpg
import httpx
import pytest

from app.settings import Settings
from tests.support.client import assert_problem, tasks_of
from tests.support.live import LiveServer, read_response, read_responses, request, serve_in_thread

pytestmark = pytest.mark.usefixtures("database")

ALICE = tasks_of("alice")
JSON = "Content-Type: application/json"
SMALL = b'{"title": "Buy milk"}'
MAX_BODY_BYTES = 131_072
MAX_HEADER_BYTES = 32_768


@pytest.fixture(scope="module")
def live(settings: Settings) -> Iterator[LiveServer]:
    with serve_in_thread(settings) as server:
        yield server


def create(live: LiveServer, body: bytes, *headers: str) -> httpx.Response:
    return live.call("POST", ALICE, *(headers or (JSON,)), body=body)


async def count(database: asyncpg.Connection) -> int:
    number_of_tasks: int = await database.fetchval("SELECT count(*) FROM tasks")
    return number_of_tasks


def chunked(*chunks: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)


# --- bodies that are not JSON --------------------------------------------------------------------

NOT_JSON = {
    "nothing": b"",
    "white space alone": b" \n",
    "text": b"Buy milk",
    "not closed": b'{"title": "Buy milk"',
    "a value that breaks the schema, and not closed": b'{"title": 1',
    "two values": SMALL + SMALL,
    "something after it": SMALL + b" x",
    "a comma too many": b'{"title": "Buy milk",}',
    "single quotes": b"{'title': 'Buy milk'}",
    "a comment": b'{"title": "Buy milk"} // now',
    "NaN": b'{"title": NaN}',
    "Infinity": b'{"title": -Infinity}',
    "a leading zero": b'{"title": 01}',
    "a raw U+0000": b'{"title": "Buy \x00 milk"}',
    "a raw tab in a text": b'{"title": "Buy\tmilk"}',
    "a raw line feed in a text": b'{"title": "Buy\nmilk"}',
    "an unknown escape": b'{"title": "\\x41"}',
    "a form feed before it": b"\x0c" + SMALL,
    "a lone high surrogate": b'{"title": "\\ud800"}',
    "a lone low surrogate": b'{"title": "\\udc00"}',
    "surrogates in the wrong order": b'{"title": "\\udc00\\ud800"}',
    "a lone surrogate in a name": b'{"title": "a", "\\ud800": 1}',
    "a byte-order mark": b"\xef\xbb\xbf" + SMALL,
    "UTF-16": SMALL.decode().encode("utf-16"),
    "UTF-32": SMALL.decode().encode("utf-32"),
    "Latin-1": b'{"title": "caf\xe9"}',
    "an overlong NUL": b'{"title": "\xc0\x80"}',
    "an encoded surrogate": b'{"title": "\xed\xa0\x80"}',
    "beyond U+10FFFF": b'{"title": "\xf4\x90\x80\x80"}',
    "a cut character": b'{"title": "\xe2\x82"}',
    "invalid UTF-8 in an unknown name": b'{"title": "a", "\xff": 1}',
    "invalid UTF-8 after a value that breaks the schema": b'{"title": 1, "x": "\xff"}',
}


@pytest.mark.requirement("FR-023")
@pytest.mark.parametrize("body", NOT_JSON.values(), ids=NOT_JSON)
def test_body_that_is_not_utf8_json_is_400(live: LiveServer, body: bytes) -> None:
    assert_problem(create(live, body), 400, "malformed-body")


REPEATED = {
    "plain": b'{"title": "a", "title": "b"}',
    "the same value": b'{"title": "a", "title": "a"}',
    "escaped": b'{"title": "a", "\\u0074itle": "b"}',
    "escaped twice": b'{"\\u0074itle": "a", "title": "b"}',
    "with a value that breaks the schema": b'{"title": 1, "title": "b"}',
    "an unknown name": b'{"title": "a", "x": 1, "x": 2}',
    "nested": b'{"title": "a", "x": {"y": 1, "y": 2}}',
    "nested in a list": b'{"title": [{"y": 1, "y": 2}]}',
    "the empty name": b'{"title": "a", "": 1, "": 2}',
    "with a number out of range": b'{"title": "a", "title": 1e400}',
}


@pytest.mark.requirement("FR-023")
@pytest.mark.parametrize("body", REPEATED.values(), ids=REPEATED)
def test_duplicate_property_is_400(live: LiveServer, body: bytes) -> None:
    assert_problem(create(live, body), 400, "malformed-body")


@pytest.mark.requirement("FR-001", "FR-023")
def test_property_name_inside_a_string_is_not_a_duplicate(live: LiveServer) -> None:
    body = b'{"title": "say \\"title\\"", "description": "\\u0022title\\u0022"}'
    created = create(live, body)
    assert created.status_code == 201
    assert created.json()["description"] == '"title"'


NESTED = {
    "lists in place of the object": b"[" * 100_000,
    "lists in a member": b'{"title": ' + b"[" * 100_000,
    "objects in an unknown member": b'{"title": "a", "x": ' + b'{"a":' * 20_000,
    "two thousand lists, closed": b'{"title": ' + b"[" * 2_000 + b"]" * 2_000 + b"}",
    "three hundred lists, closed": b'{"title": ' + b"[" * 300 + b"]" * 300 + b"}",
    "three hundred objects, closed": b'{"x": ' + b'{"a":' * 300 + b"1" + b"}" * 301,
}


@pytest.mark.requirement("FR-023", "FR-027")
@pytest.mark.parametrize("body", NESTED.values(), ids=NESTED)
def test_deeply_nested_body_is_400(live: LiveServer, body: bytes) -> None:
    assert_problem(create(live, body), 400, "malformed-body")


NUMBERS = {
    "beyond a double": b"1e400",
    "below a double": b"-1e400",
    "nearly nothing": b"1e-400",
    "30 digits": b"9" * 30,
    "5000 digits": b"9" * 5000,
    "minus 5000 digits": b"-" + b"9" * 5000,
    "5000 decimals": b"0." + b"9" * 5000,
}


@pytest.mark.requirement("FR-026")
@pytest.mark.parametrize("number", NUMBERS.values(), ids=NUMBERS)
@pytest.mark.parametrize("field", ["title", "description", "completed"])
def test_number_of_any_size_is_422(live: LiveServer, field: str, number: bytes) -> None:
    body = b'{"title": "a", "%s": %s}' % (field.encode(), number)
    body = body.replace(b'"title": "a", "title"', b'"title"')
    assert_problem(create(live, body), 422, "invalid-body", f"/{field}")


@pytest.mark.requirement("FR-026", "FR-008")
@pytest.mark.parametrize("field", ["title", "description"])
def test_escaped_u0000_is_422(live: LiveServer, field: str) -> None:
    body = b'{"title": "a", "%s": "a\\u0000b"}' % field.encode()
    body = body.replace(b'"title": "a", "title"', b'"title"')
    assert_problem(create(live, body), 422, "invalid-body", f"/{field}")


# --- bodies that are too long or truncated -------------------------------------------------------


def padded(size: int) -> bytes:
    return SMALL[:-1] + b" " * (size - len(SMALL)) + b"}"


@pytest.mark.requirement("FR-025")
def test_body_of_131072_bytes_is_accepted(live: LiveServer) -> None:
    assert create(live, padded(MAX_BODY_BYTES)).status_code == 201


@pytest.mark.requirement("FR-025")
def test_chunked_body_of_131072_bytes_is_accepted(live: LiveServer) -> None:
    body = padded(MAX_BODY_BYTES)
    header_bytes = request("POST", ALICE, JSON, "Transfer-Encoding: chunked")
    data = header_bytes + chunked(body[:70_000], body[70_000:], b"")
    assert live.exchange(data, method="POST", target=ALICE).status_code == 201


@pytest.mark.requirement("FR-025", "FR-026")
def test_invalid_body_of_131072_bytes_is_422(live: LiveServer) -> None:
    body = b'{"title": "' + b"x" * (MAX_BODY_BYTES - 13) + b'"}'
    assert len(body) == MAX_BODY_BYTES
    assert_problem(create(live, body), 422, "invalid-body", "/title")


@pytest.mark.requirement("FR-025")
async def test_body_one_byte_too_long_is_413(
    live: LiveServer, database: asyncpg.Connection
) -> None:
    assert_problem(create(live, padded(MAX_BODY_BYTES + 1)), 413, "content-too-large")
    assert await count(database) == 0


@pytest.mark.requirement("FR-025")
async def test_chunked_body_one_byte_too_long_is_413(
    live: LiveServer, database: asyncpg.Connection
) -> None:
    body = padded(MAX_BODY_BYTES + 1)
    header_bytes = request("POST", ALICE, JSON, "Transfer-Encoding: chunked")
    data = header_bytes + chunked(body[:70_000], body[70_000:], b"")
    assert_problem(live.exchange(data, method="POST", target=ALICE), 413, "content-too-large")
    assert await count(database) == 0


@pytest.mark.requirement("FR-025")
def test_content_length_over_the_limit_is_413_before_the_body(live: LiveServer) -> None:
    data = request("POST", ALICE, JSON, "Content-Length: 1000000000")
    assert_problem(live.exchange(data, method="POST", target=ALICE), 413, "content-too-large")


@pytest.mark.requirement("FR-025")
def test_endless_chunked_body_is_413(live: LiveServer) -> None:
    header_bytes = request("POST", ALICE, JSON, "Transfer-Encoding: chunked")
    data = header_bytes + chunked(*[b" " * 60_000] * 4)
    assert_problem(live.exchange(data, method="POST", target=ALICE), 413, "content-too-large")


@pytest.mark.requirement("FR-024", "FR-025")
def test_media_type_is_checked_before_length(live: LiveServer) -> None:
    body = padded(MAX_BODY_BYTES + 1)
    response = create(live, body, "Content-Type: text/plain")
    assert_problem(response, 415, "unsupported-media-type", "Content-Type")


@pytest.mark.requirement("FR-023")
async def test_truncated_body_is_400(live: LiveServer, database: asyncpg.Connection) -> None:
    data = request("POST", ALICE, JSON, "Content-Length: 500") + SMALL
    response = live.exchange(data, method="POST", target=ALICE, half_close=True)
    assert_problem(response, 400, "malformed-body")
    assert await count(database) == 0


@pytest.mark.requirement("FR-023")
async def test_truncated_chunked_body_is_400(
    live: LiveServer, database: asyncpg.Connection
) -> None:
    data = request("POST", ALICE, JSON, "Transfer-Encoding: chunked") + chunked(SMALL)
    response = live.exchange(data, method="POST", target=ALICE, half_close=True)
    assert_problem(response, 400, "malformed-body")
    assert await count(database) == 0


@pytest.mark.requirement("FR-001", "FR-027")
def test_half_closed_client_gets_its_response(live: LiveServer) -> None:
    data = request("POST", ALICE, JSON, body=SMALL)
    created = live.exchange(data, method="POST", target=ALICE, half_close=True)
    assert created.status_code == 201


@pytest.mark.requirement("FR-027")
def test_truncated_headers_are_400(live: LiveServer) -> None:
    assert_problem(
        live.exchange(b"GET /livez HTTP/1.1\r\nHo", half_close=True), 400, "malformed-request"
    )


# --- media type and content coding ---------------------------------------------------------------

DECLARED = {
    "plain": "application/json",
    "upper case": "APPLICATION/JSON",
    "with a charset": "application/json; charset=utf-8",
    "with a charset and no space": "application/json;charset=utf-8",
    "with a charset in upper case": "application/json; CHARSET=UTF-8",
    "with a quoted charset": 'application/json; charset="utf-8"',
    "with white space": "application/json \t; charset=utf-8",
}


@pytest.mark.requirement("FR-024")
@pytest.mark.parametrize("declared", DECLARED.values(), ids=DECLARED)
def test_utf8_json_is_accepted(live: LiveServer, declared: str) -> None:
    assert create(live, SMALL, f"Content-Type: {declared}").status_code == 201


UNSUPPORTED = {
    "empty": "",
    "text": "text/plain",
    "a form": "application/x-www-form-urlencoded",
    "a merge patch, to createTask": "application/merge-patch+json",
    "another kind of JSON": "application/problem+json",
    "text/json": "text/json",
    "any": "*/*",
    "a list": "application/json, application/json",
    "no subtype": "application",
    "another charset": "application/json; charset=iso-8859-1",
    "UTF-16": "application/json; charset=utf-16",
    "a misspelt charset": "application/json; charset=utf8",
    "an empty charset": "application/json; charset=",
    "another parameter": "application/json; version=1",
    "the charset and another": "application/json; charset=utf-8; version=1",
    "the charset twice": "application/json; charset=utf-8; charset=utf-8",
    "a quote not closed": 'application/json; charset="utf-8',
    "a quote not opened": 'application/json; charset=utf-8"',
    "a no-break space after it": "application/json\xa0",
    "a next-line character before it": "\x85application/json",
    "a no-break space in front of the charset": "application/json;\xa0charset=utf-8",
}


@pytest.mark.requirement("FR-024")
@pytest.mark.parametrize("declared", UNSUPPORTED.values(), ids=UNSUPPORTED)
async def test_media_type_other_than_utf8_json_is_415(
    live: LiveServer, database: asyncpg.Connection, declared: str
) -> None:
    response = create(live, SMALL, f"Content-Type: {declared}")
    assert_problem(response, 415, "unsupported-media-type", "Content-Type")
    assert await count(database) == 0


@pytest.mark.requirement("FR-024")
def test_body_without_media_type_is_415(live: LiveServer) -> None:
    response = create(live, SMALL, "X-Other: 1")
    assert_problem(response, 415, "unsupported-media-type", "Content-Type")


@pytest.mark.requirement("FR-024")
@pytest.mark.parametrize(
    "coding", ["gzip", "br", "deflate", "x", "identity, gzip", "gzip, identity"]
)
def test_content_encoding_is_415(live: LiveServer, coding: str) -> None:
    response = create(live, SMALL, JSON, f"Content-Encoding: {coding}")
    assert_problem(response, 415, "unsupported-media-type", "Content-Encoding")


@pytest.mark.requirement("FR-024")
@pytest.mark.parametrize("order", [("gzip", "identity"), ("identity", "gzip")])
def test_content_encoding_in_either_of_two_headers_is_415(
    live: LiveServer, order: tuple[str, str]
) -> None:
    response = create(live, SMALL, JSON, *(f"Content-Encoding: {coding}" for coding in order))
    assert_problem(response, 415, "unsupported-media-type", "Content-Encoding")


@pytest.mark.requirement("FR-021", "FR-024")
@pytest.mark.parametrize(
    "types",
    [
        ("application/json", "text/plain"),
        ("text/plain", "application/json"),
        ("application/json", "application/json"),
    ],
    ids=" ".join,
)
def test_two_content_type_headers_are_415(live: LiveServer, types: tuple[str, str]) -> None:
    response = create(live, SMALL, *(f"Content-Type: {one}" for one in types))
    assert_problem(response, 415, "unsupported-media-type", "Content-Type")


# --- content length ------------------------------------------------------------------------------

AMBIGUOUS = {
    "two lengths": ("Content-Length: 21", "Content-Length: 22"),
    "one length twice": ("Content-Length: 21", "Content-Length: 21"),
    "a list of lengths": ("Content-Length: 21, 21",),
    "no number": ("Content-Length: x",),
    "a negative length": ("Content-Length: -1",),
    "a signed length": ("Content-Length: +21",),
    "hexadecimal": ("Content-Length: 0x15",),
    "beyond 64 bits": ("Content-Length: 99999999999999999999999",),
    "chunks and a length": ("Transfer-Encoding: chunked", "Content-Length: 21"),
    "a length and chunks": ("Content-Length: 21", "Transfer-Encoding: chunked"),
    "chunks that are not last": ("Transfer-Encoding: chunked, gzip",),
}


@pytest.mark.requirement("FR-023", "FR-027")
@pytest.mark.parametrize("headers", AMBIGUOUS.values(), ids=AMBIGUOUS)
async def test_ambiguous_content_length_is_400(
    live: LiveServer, database: asyncpg.Connection, headers: tuple[str, ...]
) -> None:
    data = request("POST", ALICE, JSON, *headers) + SMALL
    response = live.exchange(data, method="POST", target=ALICE)
    assert_problem(response, 400, "malformed-request")
    assert await count(database) == 0


@pytest.mark.requirement("FR-027")
async def test_chunk_without_a_size_is_400(live: LiveServer, database: asyncpg.Connection) -> None:
    data = request("POST", ALICE, JSON, "Transfer-Encoding: chunked") + b"zz\r\n"
    response = live.exchange(data, method="POST", target=ALICE)
    assert_problem(response, 400, "malformed-request")
    assert await count(database) == 0


# --- header limits -------------------------------------------------------------------------------


@pytest.mark.requirement("FR-027", "FR-029")
@pytest.mark.parametrize("target", ["/" + "a" * 40_000, "/livez?" + "a" * 40_000], ids=len)
def test_long_request_line_is_431(live: LiveServer, target: str) -> None:
    assert_problem(live.call("GET", target), 431, "header-fields-too-large")


@pytest.mark.requirement("FR-027", "FR-029")
@pytest.mark.parametrize(
    "header", ["X: " + "a" * 40_000, "X" * 40_000 + ": a"], ids=["value", "name"]
)
def test_long_header_is_431(live: LiveServer, header: str) -> None:
    assert_problem(live.call("GET", "/livez", header), 431, "header-fields-too-large")


@pytest.mark.requirement("FR-027", "FR-029")
def test_many_headers_over_the_limit_are_431(live: LiveServer) -> None:
    headers = [f"X-{number}: {'a' * 100}" for number in range(400)]
    assert_problem(live.call("GET", "/livez", *headers), 431, "header-fields-too-large")


@pytest.mark.requirement("FR-027")
def test_many_short_headers_over_the_limit_are_431(live: LiveServer) -> None:
    assert_problem(live.call("GET", "/livez", *["a: b"] * 6_000), 431, "header-fields-too-large")


def padded_headers(size: int) -> bytes:
    empty = request("GET", "/livez", "Connection: close", "X: ")
    return empty.replace(b"X: ", b"X: " + b"a" * (size - len(empty)))


@pytest.mark.requirement("FR-027")
def test_headers_of_32768_bytes_are_accepted(live: LiveServer) -> None:
    assert live.exchange(padded_headers(MAX_HEADER_BYTES)).status_code == 200


@pytest.mark.requirement("FR-027")
def test_headers_one_byte_too_long_are_431(live: LiveServer) -> None:
    assert_problem(
        live.exchange(padded_headers(MAX_HEADER_BYTES + 1)), 431, "header-fields-too-large"
    )


@pytest.mark.requirement("FR-027")
def test_headers_in_several_segments_are_joined(live: LiveServer) -> None:
    with live.connect() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in (
            b"GET /livez HTTP/1.1\r\nHo",
            b"st: tasks.example\r\nX-A: b",
            b"b",
            b"\r\n\r\n",
        ):
            connection.sendall(piece)
            time.sleep(0.05)  # so that the server reads each piece separately
        assert read_response(connection).status_code == 200


@pytest.mark.requirement("FR-027")
@pytest.mark.parametrize("start", ["X: ", "X"], ids=["value", "name"])
def test_endless_header_is_431(live: LiveServer, start: str) -> None:
    data = f"GET /livez HTTP/1.1\r\nHost: tasks.test\r\n{start}".encode() + b"a" * 1_000_000
    assert_problem(live.exchange(data), 431, "header-fields-too-large")


@pytest.mark.requirement("FR-027")
def test_body_does_not_count_as_headers(live: LiveServer) -> None:
    header = "X: " + "a" * 30_000
    assert create(live, padded(60_000), JSON, header).status_code == 201


@pytest.mark.requirement("FR-027")
def test_each_request_of_a_connection_may_have_long_headers(live: LiveServer) -> None:
    data = request("GET", "/livez", "X: " + "a" * 30_000)
    with live.connect() as connection:
        connection.sendall(data)
        first = read_response(connection)
        connection.sendall(data)
        second = read_response(connection)
    assert [first.status_code, second.status_code] == [200, 200]


# --- malformed HTTP ------------------------------------------------------------------------------

GARBAGE = {
    "words": b"Buy milk\r\n\r\n",
    "a TLS handshake": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "zeros": bytes(64),
    "an unknown version": b"GET /livez HTTP/9.9\r\n\r\n",
    "no target": b"GET  HTTP/1.1\r\nHost: tasks.test\r\n\r\n",
    "a target without a slash": request("GET", "livez"),
    "a space in the target": request("GET", ALICE + "?q=buy milk"),
    "a tab in the target": request("GET", ALICE + "?q=buy\tmilk"),
    "a control character in the target": request("GET", ALICE + "?q=a\x01b"),
    "a raw byte in the path": request("GET", "/livez\xe9"),
    "raw UTF-8 in the path": request("GET", tasks_of("\xc3\xa9")),
    "raw UTF-8 in the query": request("GET", ALICE + "?q=\xc3\xa9"),
    "a raw byte in the query": request("GET", ALICE + "?q=\xff"),
    "a header field without a colon": request("GET", "/livez", "Xab"),
    "a header field without a name": request("GET", "/livez", ": a"),
    "a space before the colon": request("GET", "/livez", "X : a"),
    "a folded header field": request("GET", "/livez", "X: a", " b"),
    "a NUL in a header field": request("GET", "/livez", "X: a\0b"),
    "a bare carriage return": request("GET", "/livez", "X: a\rb"),
}


@pytest.mark.requirement("FR-027", "FR-028", "FR-029")
@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE)
def test_non_http_data_is_400(live: LiveServer, data: bytes) -> None:
    response = live.exchange(data)
    assert_problem(response, 400, "malformed-request")
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["connection"] == "close"


@pytest.mark.requirement("FR-027")
def test_service_continues_after_non_http_data(live: LiveServer) -> None:
    live.exchange(GARBAGE["zeros"])
    assert live.call("GET", "/livez").status_code == 200


@pytest.mark.requirement("FR-027")
@pytest.mark.parametrize("host", ["a b", "a<b", "a/b"])
def test_invalid_host_is_400(live: LiveServer, host: str) -> None:
    data = f"GET {ALICE} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    assert_problem(live.exchange(data, target=ALICE), 400, "malformed-request")


@pytest.mark.requirement("FR-021", "FR-027")
def test_two_hosts_are_400(live: LiveServer) -> None:
    data = request("GET", "/livez", "Host: tasks.example")
    assert_problem(live.exchange(data), 400, "malformed-request")


@pytest.mark.requirement("FR-030")
@pytest.mark.parametrize("method", ["FOO", "get", "BREW"])
def test_unknown_method_is_malformed(live: LiveServer, method: str) -> None:
    assert_problem(live.call(method, "/livez"), 400, "malformed-request")


# --- valid but unusual HTTP ----------------------------------------------------------------------


@pytest.mark.requirement("FR-029", "FR-035")
@pytest.mark.parametrize(
    "data",
    [
        b"GET /livez HTTP/1.1\r\nHost:\r\n\r\n",
        b"GET /livez HTTP/1.0\r\n\r\n",
        b"GET http://tasks.test/livez HTTP/1.1\r\nHost: tasks.test\r\n\r\n",
        b"\r\nGET /livez HTTP/1.1\r\nHost: tasks.test\r\n\r\n",
    ],
    ids=["an empty host", "HTTP/1.0", "an absolute target", "an empty line first"],
)
def test_unusual_valid_request_is_served(live: LiveServer, data: bytes) -> None:
    assert live.exchange(data).json() == {"status": "alive"}


@pytest.mark.requirement("FR-035")
def test_http_1_0_closes_the_connection(live: LiveServer) -> None:
    with live.connect() as connection:
        connection.sendall(b"GET /livez HTTP/1.0\r\n\r\n")
        assert read_response(connection).status_code == 200
        assert connection.recv(1) == b""


@pytest.mark.requirement("FR-035")
def test_upgrade_is_ignored(live: LiveServer) -> None:
    headers = ["Connection: upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"]
    response = live.exchange(request("GET", "/livez", *headers))
    assert response.json() == {"status": "alive"}


@pytest.mark.requirement("FR-001")
def test_expect_100_continue_gets_100(live: LiveServer) -> None:
    header_bytes = request(
        "POST", ALICE, JSON, "Expect: 100-continue", f"Content-Length: {len(SMALL)}"
    )
    with live.connect() as connection:
        connection.sendall(header_bytes)
        interim = connection.recv(1000)
        connection.sendall(SMALL)
        created = read_response(connection, "POST")
    assert interim == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert created.status_code == 201


@pytest.mark.requirement("FR-024", "FR-025")
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ((JSON, "Content-Length: 131073"), 413),
        (("Content-Type: text/plain", "Content-Length: 20"), 415),
    ],
)
def test_rejected_expect_gets_no_100(
    live: LiveServer, headers: tuple[str, ...], status: int
) -> None:
    with live.connect() as connection:
        connection.sendall(request("POST", ALICE, "Expect: 100-continue", *headers))
        first = connection.recv(12)
    assert first == b"HTTP/1.1 %d" % status


@pytest.mark.requirement("FR-030")
@pytest.mark.parametrize("target", ["/livez", "/nope", "/livez?x=1", "/openapi.json", "/docs"])
def test_head_response_has_no_body_bytes(live: LiveServer, target: str) -> None:
    with live.connect() as connection:
        connection.sendall(request("HEAD", target, "Connection: close"))
        with connection.makefile("rb") as stream:
            header_bytes, _, body = stream.read().partition(b"\r\n\r\n")
    assert header_bytes.startswith(b"HTTP/1.1 ")
    assert body == b""


@pytest.mark.requirement("FR-030")
def test_connection_continues_after_head(live: LiveServer) -> None:
    with live.connect() as connection:
        connection.sendall(request("HEAD", "/openapi.json") + request("GET", "/livez"))
        head, get = read_responses(connection, "HEAD", "GET")
    assert head.status_code == 200
    assert get.json() == {"status": "alive"}


@pytest.mark.requirement("FR-027", "FR-029")
def test_pipelined_requests_get_ordered_responses(live: LiveServer) -> None:
    targets = ["/livez", "/readyz", "/nope", "/livez?x=1", "/livez"]
    data = b"".join(request("GET", target) for target in targets)
    with live.connect() as connection:
        connection.sendall(data)
        responses = read_responses(connection, *["GET"] * len(targets))
    assert [response.status_code for response in responses] == [200, 200, 404, 400, 200]


@pytest.mark.requirement("FR-025", "FR-027")
def test_connection_continues_after_an_unread_body(live: LiveServer) -> None:
    data = request("POST", ALICE, "Content-Type: text/plain", body=b"GET /nope HTTP/1.1\r\n\r\n")
    with live.connect() as connection:
        connection.sendall(data)
        assert read_response(connection, "POST").status_code == 415
        connection.sendall(request("GET", "/livez"))
        assert read_response(connection).json() == {"status": "alive"}


@pytest.mark.requirement("FR-002", "FR-006")
@pytest.mark.parametrize(("method", "status"), [("GET", 200), ("OPTIONS", 204)])
@pytest.mark.parametrize("body", [b"{", b"\xff", b" " * 200_000], ids=["cut", "byte", "long"])
def test_unexpected_body_is_ignored(
    live: LiveServer, method: str, status: int, body: bytes
) -> None:
    response = live.call(method, ALICE, "Content-Type: text/plain", body=body)
    assert response.status_code == status


@pytest.mark.requirement("FR-006")
@pytest.mark.parametrize("body", [b"{", b" " * 200_000], ids=["cut", "long"])
async def test_body_of_a_delete_is_ignored(
    live: LiveServer, database: asyncpg.Connection, body: bytes
) -> None:
    location = create(live, SMALL).headers["location"]
    assert live.call("DELETE", location, body=body).status_code == 204
    assert await count(database) == 0
