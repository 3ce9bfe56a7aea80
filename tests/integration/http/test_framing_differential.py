"""Compares the requests that this service and uvicorn's h11 protocol parse from a connection.

Both run the same small application on sockets in one event loop. DIFFERENCES lists the intended
differences with their reasons.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st
from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from app.http.cors import CORSPolicy
from app.server.admission import AdmissionControl
from app.server.protocol import HTTPProtocol

pytestmark = pytest.mark.requirement("FR-023", "FR-027")

TIMEOUT = 30  # reached only if a server hangs
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

ParsedRequest = tuple[str, str, bytes]  # method, path, body


@dataclass
class Sent:
    """A request: its bytes and its expected interpretation."""

    method: str
    path: str
    fields: list[str]
    body: bytes = b""
    encoded: bytes = b""
    version: str = "1.1"

    @property
    def wire(self) -> bytes:
        lines = [f"{self.method} {self.path} HTTP/{self.version}", *self.fields, "", ""]
        return "\r\n".join(lines).encode() + self.encoded

    @property
    def parsed_request(self) -> ParsedRequest:
        return self.method, self.path, self.body

    @property
    def is_last(self) -> bool:
        return self.version == "1.0" or "Connection: close" in self.fields


@dataclass
class Script:
    """The requests and segments of a client on one connection."""

    requests: list[Sent]
    rest: bytes
    """The bytes after the requests: none, an incomplete request or invalid data."""
    cuts: list[int] = field(default_factory=list)

    @property
    def expected(self) -> list[Sent]:
        """The requests up to the first that closes the connection."""
        last = next((n for n, each in enumerate(self.requests) if each.is_last), None)
        return self.requests if last is None else self.requests[: last + 1]

    @property
    def statuses(self) -> list[int]:
        """The expected statuses of this service."""
        expected = [200] * len(self.expected)
        is_open = not (expected and self.expected[-1].is_last)
        return [*expected, 400] if self.rest and is_open else expected

    def segments(self) -> Iterator[bytes]:
        whole = b"".join(each.wire for each in self.requests) + self.rest
        at = sorted({split % (len(whole) + 1) for split in self.cuts})
        for begin, end in zip([0, *at], [*at, len(whole)], strict=True):
            yield whole[begin:end]


contents = st.binary(max_size=40) | st.sampled_from(
    [b"GET /inner HTTP/1.1\r\nHost: a\r\n\r\n", b"0\r\n\r\n", b"\r\n\r\n"]
)


@st.composite
def chunked(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Generate content, and its chunked coding with extensions and trailers."""
    pieces = draw(st.lists(contents.filter(bool), max_size=3))
    extension = draw(st.sampled_from([b"", b";a", b";a=b", b';a="b c"']))
    size = draw(st.sampled_from([b"%x%b\r\n", b"%X%b\r\n", b"000%x%b\r\n"]))
    trailer = draw(
        st.sampled_from([b"", b"X: y\r\n", b"Host: b\r\nConnection: upgrade\r\nUpgrade: h2c\r\n"])
    )
    chunks = (size % (len(piece), extension) + piece + b"\r\n" for piece in pieces)
    return b"".join(pieces), b"".join(chunks) + b"0\r\n" + trailer + b"\r\n"


@st.composite
def requests(draw: st.DrawFn) -> Sent:
    sent = Sent(draw(st.sampled_from(METHODS)), f"/{draw(st.integers(0, 9))}", ["Host: a"])
    framing = draw(st.sampled_from(["none", "none", "length", "chunks", "chunks"]))
    if framing == "length":
        sent.body = sent.encoded = draw(contents)
        sent.fields.append(f"Content-Length: {len(sent.body)}")
    elif framing == "chunks":
        sent.body, sent.encoded = draw(chunked())
        sent.fields.append(
            draw(st.sampled_from(["Transfer-Encoding: chunked", "transfer-encoding: Chunked"]))
        )
    sent.fields += draw(
        st.sampled_from(
            [
                [],
                [],
                ["Connection: keep-alive"],
                ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AA"],
                ["Connection: upgrade", "Upgrade: websocket"],
                ["Upgrade: x/1"],
                ["Connection: close"],
            ]
        )
    )
    sent.fields += draw(st.sampled_from([[], [], ["Expect: 100-continue"], ["X: " + "a" * 300]]))
    if framing != "chunks" and draw(st.integers(0, 9)) == 0:
        sent.version = "1.0"
    return sent


BROKEN = [
    b"Buy milk\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX : a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n",
]


@st.composite
def scripts(draw: st.DrawFn) -> Script:
    whole = draw(st.lists(requests(), min_size=1, max_size=5))
    ending = draw(st.sampled_from(["complete", "complete", "cut", "broken"]))
    rest = b""
    if ending == "cut":
        started = draw(requests()).wire
        rest = started[: draw(st.integers(1, len(started) - 1))]
    elif ending == "broken":
        rest = draw(st.sampled_from(BROKEN))
    splits = draw(st.lists(st.integers(0, 2000), max_size=8))
    return Script(whole, rest, splits)


class Application:
    """An ASGI application that records each request and responds with its number."""

    def __init__(self) -> None:
        self.parsed_requests: list[ParsedRequest] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        problem = scope["state"].get("problem")
        status = 200 if problem is None else problem.status
        body = b""
        event = {"more_body": problem is None}
        try:
            while event["more_body"]:
                event = await receive()
                if event["type"] == "http.disconnect":
                    return
                body += event["body"]
        except Exception as exception:  # noqa: BLE001 - a ProblemError of this service
            status = cast("Any", exception).status
        if status == 200:
            self.parsed_requests.append((scope["method"], scope["path"], body))
        number = b"%d" % len(self.parsed_requests)
        headers = [(b"content-length", b"%d" % len(number))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": number})


def factory(application: Application, protocol: Any) -> Any:
    config = Config(
        cast("Any", application), http=protocol, ws="none", log_config=None, lifespan="off"
    )
    config.load()
    state = AdmissionControl(1000, CORSPolicy(())) if protocol is HTTPProtocol else ServerState()
    return lambda: protocol(config, state, {})


def responses(received: bytes, methods: list[str]) -> list[tuple[int, bytes]]:
    """Parse the final responses, and check that no other bytes were received."""
    result: list[tuple[int, bytes]] = []
    rest = received
    while rest:
        head, end, rest = rest.partition(b"\r\n\r\n")
        assert end, received
        status = int(head.split()[1])
        if status == 100:
            continue
        method = methods[len(result)] if len(result) < len(methods) else "GET"
        length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        size = 0 if method == "HEAD" else int(length[1]) if length else len(rest)
        result.append((status, rest[:size]))
        rest = rest[size:]
    return result


async def turns() -> None:
    """Let the server in the same event loop run."""
    for _ in range(4):
        await asyncio.sleep(0)


async def send(connection: socket.socket, segments: list[bytes]) -> None:
    """Send segments that the server reads separately, until it closes the connection."""
    with suppress(BrokenPipeError, ConnectionResetError):
        for segment in segments:
            await asyncio.get_running_loop().sock_sendall(connection, segment)
            await turns()


async def converse(
    application: Application, protocol: Any, segments: list[bytes], complete: int
) -> bytes:
    """Send the segments, await the responses, close, and read the remaining bytes."""
    make = factory(application, protocol)
    loop = asyncio.get_running_loop()
    client, server = socket.socketpair()
    received, finished = bytearray(), asyncio.Event()

    async def read_all() -> None:
        while data := await loop.sock_recv(client, 65_536):
            received.extend(data)
            if len(re.findall(rb"HTTP/1\.1 [2-5]", received)) >= complete:
                finished.set()
        finished.set()

    with client:
        client.setblocking(False)  # noqa: FBT003 - signature of socket
        server.setblocking(False)  # noqa: FBT003
        await loop.connect_accepted_socket(make, server)
        async with asyncio.timeout(TIMEOUT):
            reading = asyncio.create_task(read_all())
            await send(client, segments)
            await finished.wait()
            if not reading.done():
                client.shutdown(socket.SHUT_WR)
            await asyncio.gather(reading, return_exceptions=True)
            await turns()  # the application gets the disconnect
    return bytes(received)


def run(protocol: Any, segments: list[bytes], complete: int) -> tuple[Application, bytes]:
    application = Application()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        received = runner.run(converse(application, protocol, segments, complete))
    return application, received


@given(scripts())
@settings(max_examples=200, deadline=None)
def test_both_parse_the_same_requests_and_respond_in_order(script: Script) -> None:
    expected = [each.parsed_request for each in script.expected]
    methods = [each.method for each in script.expected]
    segments = list(script.segments())
    application, received = run(HTTPProtocol, segments, len(expected))
    reference, h11_received = run(H11Protocol, segments, len(expected))
    assert application.parsed_requests == reference.parsed_requests == expected
    responses_of_service = responses(received, methods)
    assert [status for status, _ in responses_of_service] == script.statuses
    numbers = [
        b"" if method == "HEAD" else b"%d" % number for number, method in enumerate(methods, 1)
    ]
    assert [body for _, body in responses_of_service][: len(expected)] == numbers
    assert [body for _, body in responses(h11_received, methods)][: len(expected)] == numbers


CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
# The bytes, the statuses of this service, those of h11, and the reason for the difference.
DIFFERENCES = {
    "CONNECT": (
        b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
        [501],
        [200],
        "its target is no path, and no operation of the contract has it",
    ),
    "a method that nobody has": (
        b"BREW / HTTP/1.1\r\nHost: a\r\n\r\n",
        [400],
        [200],
        "llhttp knows a list of methods, which the contract repeats",
    ),
    "a length beside chunks": (
        CHUNKED.replace(b"Host: a", b"Host: a\r\nContent-Length: 1") + b"0\r\n\r\n",
        [400],
        [200],
        "RFC 9112, section 6.1, allows either; a proxy in front may heed the length",
    ),
    "chunks in HTTP/1.0": (
        b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        [400],
        [200],
        "RFC 9112, section 6.1: its framing may be wrong",
    ),
    "another transfer coding": (
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
        [501],
        [400],
        "RFC 9112, section 6.1; uvicorn sends 400 for whatever h11 refuses",
    ),
    "one length twice": (
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na",
        [400],
        [200],
        "RFC 9112, section 6.3, allows either",
    ),
    "a folded field": (
        b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n",
        [400],
        [200],
        "RFC 9112, section 5.2, allows either",
    ),
    "line feeds alone": (
        b"GET / HTTP/1.1\nHost: a\n\n",
        [400],
        [200],
        "RFC 9112, section 2.2, allows either",
    ),
    "another version": (
        b"GET / HTTP/1.2\r\nHost: a\r\n\r\n",
        [400],
        [200],
        "the contract has HTTP/1.0 and HTTP/1.1",
    ),
    "a trailer that ends the connection": (
        (CHUNKED + b"0\r\nConnection: close\r\n\r\n") * 2,
        [200],
        [200, 200],
        "llhttp heeds it, so the connection is ended; RFC 9110, section 6.5.1, forbids to send it",
    ),
    "a trailer about framing": (
        CHUNKED + b"0\r\nContent-Length: 5\r\n\r\n",
        [400],
        [200],
        "llhttp refuses it; RFC 9110, section 6.5.1, forbids to send it",
    ),
    "an empty line before it": (
        b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        [200],
        [400],
        "RFC 9112, section 2.2: a server should ignore it",
    ),
}


@pytest.mark.parametrize("name", DIFFERENCES)
def test_known_difference_is_as_described(name: str) -> None:
    requests, service, h11, _ = DIFFERENCES[name]
    _, received = run(HTTPProtocol, [requests], len(service))
    _, h11_received = run(H11Protocol, [requests], len(h11))
    assert [status for status, _ in responses(received, [])] == service
    assert [status for status, _ in responses(h11_received, [])] == h11
