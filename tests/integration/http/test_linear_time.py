"""The time to handle a request is at most linear in its size, for any content.

Each case is a family of requests. The tests compare the CPU time for size n with that for size 4n.
Linear handling takes at most 4 times as long, quadratic handling 16 times.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from litestar import Request

from app.domain.tasks.schemas import ListTasksQuery, TaskPath
from app.http.body import _parse_strict_json
from app.http.etags import ETagCondition
from app.http.middleware import HTTPMiddleware
from app.http.parameters import IfNoneMatchHeaders, NoParameters, Parameters, UserPath
from app.http.problems import InvalidParameter, MalformedBody
from app.openapi.document import OpenAPIDocument
from tests.support.client import tasks_of

pytestmark = pytest.mark.requirement("NFR-017")

MAX_RATIO = 10  # between 4 (linear) and 16 (quadratic)
REPEATS = 5
BODY_SIZES = (2_000, 8_000, 32_000, 128_000)
HEAD_SIZES = (2_000, 8_000, 32_000)
FIELD_SIZES = (60, 240, 960)
ALICE = tasks_of("alice-of-the-linear-time")
TASK = f"{ALICE}/0198c5a2-7e1f-7b3a-9d55-2f6f0c1e8a44"

Sizes = tuple[int, ...]
Costs = Iterator[tuple[int, list[float]]]
Fields = list[tuple[bytes, bytes]]


class Sent(msgspec.Struct, frozen=True):
    """A request as a server passes it to the application."""

    method: str = "GET"
    path: str = ALICE
    query: bytes = b""
    fields: Fields = []
    body: bytes = b""


def body(content: bytes) -> Sent:
    return Sent("POST", fields=[(b"content-type", b"application/json")], body=content)


def query(content: bytes) -> Sent:
    return Sent(query=content)


def path(content: str) -> Sent:
    return Sent(path=content)


def field(name: str, value: bytes, method: str = "GET", location: str = TASK) -> Sent:
    return Sent(method, path=location, fields=[(name.encode(), value)])


def numbered(template: bytes, size: int, between: bytes = b",") -> bytes:
    """Return as many different pieces as fit into a size."""
    count = size // (len(template) + 4)
    return between.join(template % number for number in range(count))


def truncate(unit: bytes, size: int) -> bytes:
    """Return a piece, repeated as often as it fits into a size."""
    return unit * (size // len(unit))


class Pieces(msgspec.Struct, frozen=True):
    """The start, the repeated part and the end of a text."""

    first: bytes
    repeated: bytes
    last: bytes

    def of(self, size: int) -> bytes:
        return self.first + truncate(self.repeated, size) + self.last


def pieces_of(*pieces: bytes) -> st.SearchStrategy[Pieces]:
    """Generate texts from these pieces."""
    some = st.lists(st.sampled_from(pieces), max_size=3).map(b"".join)
    return st.builds(Pieces, some, some.filter(bool), some)


JSON_PIECES = (
    *(b'"', b"\\", b'\\"', b"\\\\", b"\\u0041", b"\\ud800", b"[", b"]", b"{", b"}", b":", b","),
    *(b'"title":', b'"a":1', b"1", b"-", b".", b"e", b"0", b" ", b"\n", b"\x00", b"\xff", b"null"),
)
QUERY_PIECES = (
    *(b"&", b"=", b"+", b"%", b"%41", b"%ff", b"a", b"0", b"q=", b"limit=", b"completed=true"),
    *(b"created_after=2026-01-01T00:00:00", b".", b"Z", b"%2B00:00", b"sort=", b"cursor="),
)
TAG_PIECES = (b'"', b"W/", b",", b" ", b"\t", b"a", b"*", b'"a"', b"\\", b"\xff")
EXAMPLES = settings(max_examples=40, deadline=None, derandomize=True, database=None)
CONTRACT = OpenAPIDocument.load()

Family = Callable[[int], Sent]

BODIES: dict[str, Family] = {
    "an unterminated text of escaped quotes": lambda n: body(b'["' + truncate(b'\\"', n)),
    "an unterminated text of backslashes": lambda n: body(b'["' + b"\\" * n),
    "an unterminated name of escaped quotes": lambda n: body(b'{"' + truncate(b'\\"', n)),
    "texts of one escaped quote": lambda n: body(b'{"title":1,"x":[' + truncate(b'"\\"",', n)),
    "a title of escaped quotes": lambda n: body(b'{"title":"' + truncate(b'\\"', n) + b'"}'),
    "quotes": lambda n: body(b'"' * n),
    "a text and an escaped quote in turn": lambda n: body(b"[" + truncate(b'"a"\\"', n)),
    "opened lists": lambda n: body(b"[" * n),
    "nested lists": lambda n: body(b"[" * (n // 2) + b"]" * (n // 2)),
    "opened objects": lambda n: body(truncate(b'{"a":', n)),
    "nested objects": lambda n: body(truncate(b'{"a":', n) + b"1" + b"}" * (n // 5)),
    "lists and objects in turn": lambda n: body(truncate(b'[{"":', n)),
    "closed lists": lambda n: body(b"]" * n),
    "lists of 90 levels": lambda n: body(
        b"[" + b",".join([b"[" * 90 + b"]" * 90] * (n // 181)) + b"]"
    ),
    "empty lists": lambda n: body(b"[" + truncate(b"[],", n) + b"[]]"),
    "unknown properties": lambda n: body(b"{%b}" % numbered(b'"p%d":1', n)),
    "unknown properties of an inner object": lambda n: body(
        b'{"title":{%b}}' % numbered(b'"p%d":1', n)
    ),
    "objects with unknown properties": lambda n: body(b"[%b]" % numbered(b'{"p%d":{}}', n)),
    "one repeated name": lambda n: body(b"{" + truncate(b'"title":"a",', n) + b'"title":"a"}'),
    "repeated unknown names": lambda n: body(b"{" + truncate(b'"a":1,"b":1,', n) + b'"c":1}'),
    "repeated escaped names": lambda n: body(b"{" + truncate(b'"titl\\u0065":"a",', n) + b'"a":1}'),
    "a text that repeats a name": lambda n: body(b'{"title":"%b"}' % truncate(b"title", n)),
    "a long name": lambda n: body(b'{"%b":1}' % (b"x" * n)),
    "a long name of slashes and tildes": lambda n: body(b'{"%b":1}' % truncate(b"/~", n)),
    "a long integer": lambda n: body(b'{"title":%b}' % (b"9" * n)),
    "a long negative integer": lambda n: body(b"[-%b" % (b"9" * n)),
    "a long fraction": lambda n: body(b'{"title":0.%b1}' % (b"0" * n)),
    "a long exponent": lambda n: body(b'{"title":1e%b}' % (b"9" * n)),
    "a long negative exponent": lambda n: body(b'{"title":1e-%b}' % (b"9" * n)),
    "zeros before a number": lambda n: body(b'{"title":%b1}' % (b"0" * n)),
    "numbers": lambda n: body(b"[%b]" % numbered(b"1e%d", n)),
    "constants that JSON lacks": lambda n: body(b"[" + truncate(b"NaN,", n) + b"1]"),
    "escaped letters": lambda n: body(b'{"title":"%b"}' % truncate(b"\\u0041", n)),
    "escaped halves of pairs": lambda n: body(b'{"title":"%b"}' % truncate(b"\\ud800", n)),
    "escaped pairs": lambda n: body(b'{"title":1,"x":"%b"}' % truncate(b"\\ud83d\\ude00", n)),
    "cut escapes": lambda n: body(b'["%b' % truncate(b"\\u0", n)),
    "white space": lambda n: body(b" " * n),
    "white space before the end": lambda n: body(b'{"title":1' + truncate(b"\r\n\t ", n)),
    "line ends and a fault": lambda n: body(b"\n" * n + b"x"),
    "commas": lambda n: body(b"[" + b"," * n),
    "colons": lambda n: body(b'{"a"' + b":" * n),
    "comments": lambda n: body(truncate(b"/*", n)),
    "what is not UTF-8": lambda n: body(b'{"title":"%b"}' % (b"\xff" * n)),
    "characters of four bytes": lambda n: body(b'{"title":"%b"}' % truncate("😀".encode(), n)),
    "controls": lambda n: body(b'{"title":"%b"}' % (b"\x00" * n)),
    "a long title": lambda n: body(b'{"title":"%b"}' % (b"a" * n)),
    "a title of spaces": lambda n: body(b'{"title":"%b"}' % (b" " * n)),
    "a title that ends with NUL": lambda n: body(b'{"title":"%b\\u0000"}' % (b"a" * n)),
    "spaces in a title that ends with NUL": lambda n: body(b'{"title":"%b\\u0000"}' % (b" " * n)),
    "a title of separators that ends with NUL": lambda n: body(
        b'{"title":"%b\\u0000"}' % truncate(b"\\u001c", n)
    ),
    "a long description": lambda n: body(
        b'{"title":"a","description":"%b"}' % (b"a" * n)  # too long from the third size
    ),
}
HEADS: dict[str, Family] = {
    "ampersands": lambda n: query(b"&" * n),
    "empty names": lambda n: query(truncate(b"=&", n)),
    "equals signs": lambda n: query(b"=" * n),
    "a repeated parameter": lambda n: query(truncate(b"limit=1&", n)),
    "unknown parameters": lambda n: query(numbered(b"p%d=1", n, b"&")),
    "one unknown parameter": lambda n: query(b"x" * n + b"=1"),
    "escaped letters": lambda n: query(b"q=" + truncate(b"%41", n)),
    "escaped bytes that are not UTF-8": lambda n: query(b"q=" + truncate(b"%ff", n)),
    "escapes that are none": lambda n: query(b"q=" + b"%" * n),
    "letters before an escape that is none": lambda n: query(b"q=" + b"a" * n + b"%"),
    "spaces": lambda n: query(b"q=" + b"+" * n),
    "a long search": lambda n: query(b"q=" + b"a" * n),
    "a long limit": lambda n: query(b"limit=" + b"9" * n),
    "a long instant": lambda n: query(b"created_after=2026-01-01T00:00:00.%bZ" % (b"9" * n)),
    "a long fraction without an offset": lambda n: query(
        b"created_after=2026-01-01T00:00:00." + b"9" * n
    ),
    "a long sort": lambda n: query(b"sort=" + b"a" * n),
    "a long cursor": lambda n: query(b"cursor=" + b"A" * n),
    "a long flag": lambda n: query(b"completed=" + b"true" * (n // 4)),
    "a long user": lambda n: path(tasks_of("a" * n)),
    "a long id of a task": lambda n: path(f"{ALICE}/{'0' * n}"),
    "slashes": lambda n: path("/" * n),
    "segments": lambda n: path("/a" * (n // 2)),
    "segments of a known path": lambda n: path("/api/v1/users" * (n // 13)),
    "escaped slashes": lambda n: path("%2F" * (n // 3)),
    "an escaped path": lambda n: path("/" + "%C3%A4" * (n // 6)),
    "an escaped path that is not UTF-8": lambda n: path("/" + "%ff" * (n // 3)),
    "dots": lambda n: path("/.." * (n // 3)),
    "segments with OPTIONS": lambda n: Sent("OPTIONS", path="/api/v1/users/a" * (n // 15)),
    "a field If-None-Match": lambda n: field("if-none-match", b'"' + b"a" * n),
    "fields If-None-Match": lambda n: Sent(
        path=TASK, fields=[(b"if-none-match", b'"a"')] * (n // 18)
    ),
    "unknown fields": lambda n: Sent(
        path=TASK, fields=[(b"x-%d" % number, b"") for number in range(n // 8)]
    ),
    "a request id": lambda n: field("x-request-id", b"a" * n),
    "a trace": lambda n: field("traceparent", b"00-" + b"0" * n),
    "an idempotency key": lambda n: field("idempotency-key", b"a" * n, "POST", ALICE),
    "a media type": lambda n: field("content-type", b"application/json" + b"; " * n, "POST", ALICE),
    "media types": lambda n: Sent("POST", fields=[(b"content-type", b"a")] * (n // 17)),
    "content codings": lambda n: Sent(
        "POST",
        fields=[(b"content-type", b"application/json")]
        + [(b"content-encoding", b"identity")] * (n // 28),
    ),
    "cookies": lambda n: field("cookie", truncate(b'a="\\"; ', n)),
    "an origin": lambda n: field("origin", b"https://" + b"a" * n, "OPTIONS"),
    "a Host": lambda n: field("host", b"a." * (n // 2)),
    "a field Accept": lambda n: field("accept", truncate(b"a/b;q=0,", n)),
}
# The contract allows 1,024 characters.
FIELDS: dict[str, Family] = {
    "entity tags": lambda n: field("if-none-match", truncate(b'"a", ', n) + b'"a"'),
    "weak entity tags": lambda n: field("if-none-match", truncate(b'W/"",', n) + b'W/""'),
    "entity tags without an end": lambda n: field("if-none-match", truncate(b'"a", ', n)),
    "entity tags and a fault": lambda n: field("if-none-match", truncate(b'W/"a"\t,\t', n) + b"x"),
    "blanks between entity tags": lambda n: field("if-none-match", b'"a"' + b" \t" * (n // 2)),
    "blanks and a comma": lambda n: field("if-match", b'"a"' + b" " * n + b",", "DELETE"),
    "commas after an entity tag": lambda n: field("if-match", b'"a"' + b"," * n, "DELETE"),
}
FAMILIES = [
    pytest.param(make, sizes, id=f"{place}: {name}")
    for place, sizes, families in (
        ("body", BODY_SIZES, BODIES),
        ("head", HEAD_SIZES, HEADS),
        ("field", FIELD_SIZES, FIELDS),
    )
    for name, make in families.items()
]


@pytest.fixture(autouse=True)
def uncollected() -> Iterator[None]:
    """Disable garbage collection, which takes longer in a test process than in a service."""
    gc.disable()
    yield
    gc.enable()


@contextmanager
def timed(times: list[float]) -> Iterator[None]:
    """Append the CPU time of a block."""
    before = time.process_time()
    yield
    times.append(time.process_time() - before)


def assert_linear(costs: Iterable[tuple[int, list[float]]]) -> None:
    """Check that each size takes at most `MOST` times the CPU time of the previous one.

    The minimum of the repeated measurements counts.
    """
    before: float | None = None
    for size, times in costs:
        cost = min(times)
        ratio = 1 if before is None else cost / before
        assert ratio <= MAX_RATIO, f"size {size} takes {cost:.6f} s, {ratio:.1f} times the last"
        before = cost


def costs_of(act: Callable[[bytes], object], pieces: Pieces, sizes: Sizes) -> Costs:
    """Measure an action on texts from these pieces, for each size."""
    for size in sizes:
        content, times = pieces.of(size), list[float]()
        for _ in range(REPEATS):
            with timed(times):
                act(content)
        yield size, times


async def handle(app: HTTPMiddleware, sent: Sent) -> int:
    """Send a request to the application and return the status."""
    scope: Any = {
        "type": "http",
        "method": sent.method,
        "path": sent.path,
        "raw_path": sent.path.encode(),
        "query_string": sent.query,
        "headers": sent.fields,
    }
    statuses = []

    async def receive() -> Any:
        return {"type": "http.request", "body": sent.body, "more_body": False}

    async def send(message: Any) -> None:
        statuses.append(message.get("status"))

    await app(scope, receive, send)
    return int(statuses[0])


@pytest.mark.parametrize(("make", "sizes"), FAMILIES)
async def test_request_takes_time_linear_in_its_size(
    app: HTTPMiddleware, make: Family, sizes: Sizes
) -> None:
    costs: list[tuple[int, list[float]]] = []
    for size in sizes:
        sent, times = make(size), list[float]()
        for _ in range(REPEATS):
            with timed(times):
                status = await handle(app, sent)
            assert status < 500
        costs.append((size, times))
        assert_linear(costs)  # fail now: non-linear handling of the next size might take hours


@given(pieces_of(*JSON_PIECES))
@EXAMPLES
def test_body_validation_takes_linear_time(pieces: Pieces) -> None:
    def parse_body(raw: bytes) -> None:
        with suppress(MalformedBody):
            CONTRACT.validate("TaskCreate", _parse_strict_json(raw))

    assert_linear(costs_of(parse_body, pieces, BODY_SIZES[:3]))


@given(pieces_of(*QUERY_PIECES))
@EXAMPLES
def test_query_parsing_takes_linear_time(pieces: Pieces) -> None:
    assert_linear(
        costs_of(
            lambda raw: read(Parameters(UserPath, ListTasksQuery, NoParameters), query(raw)),
            pieces,
            HEAD_SIZES,
        )
    )


@given(pieces_of(*TAG_PIECES))
@EXAMPLES
def test_etag_parsing_takes_linear_time(pieces: Pieces) -> None:
    def parse_query(raw: bytes) -> None:
        read(Parameters(TaskPath, NoParameters, IfNoneMatchHeaders), field("if-none-match", raw))
        ETagCondition.parse(raw.decode("latin-1"))

    assert_linear(costs_of(parse_query, pieces, FIELD_SIZES))


def read(parameters: Parameters[Any, Any, Any], sent: Sent) -> None:
    """Parse the parameters of a request, valid or not."""
    path_params = {"user_id": "alice", "task_id": TASK.rpartition("/")[2]}
    scope: Any = {
        "type": "http",
        "path_params": path_params,
        "query_string": sent.query,
        "headers": sent.fields,
    }
    with suppress(InvalidParameter):
        parameters.parse(Request(scope))
