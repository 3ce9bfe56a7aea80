"""Endless input in each part of a message is limited in memory and time."""

from __future__ import annotations

import time
import tracemalloc
from typing import Any

import pytest

from app.server.parser import MAX_FRAMING_BYTES, MAX_HEADER_BYTES, MAX_TOTAL_FRAMING_BYTES
from app.server.protocol import HTTPProtocol
from tests.unit.server.test_protocol import (  # noqa: F401 - importing the fixture enables it
    CHUNKED,
    cancel_tasks,
    connect,
    read_body,
    respond,
    run_pending,
)

pytestmark = pytest.mark.requirement("FR-025", "FR-027", "NFR-017")

REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n"
LENGTH = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\n"
SEGMENT = 4096
MAX_MEMORY = 1_048_576  # 32 KiB of small headers occupy 17 times as much

# Input before the part, repeated input, application, and limit in bytes.
PARTS: dict[str, tuple[bytes, bytes, Any, int]] = {
    "method": (b"", b"A", read_body, MAX_HEADER_BYTES),
    "target": (b"GET /", b"a", read_body, MAX_HEADER_BYTES),
    "version": (b"GET / HTTP/1.1", b"1", read_body, MAX_HEADER_BYTES),
    "header name": (REQUEST, b"a", read_body, MAX_HEADER_BYTES),
    "header value": (REQUEST + b"X: ", b"a", read_body, MAX_HEADER_BYTES),
    "spaces before a header value": (REQUEST + b"X:", b" ", read_body, MAX_HEADER_BYTES),
    "header section": (REQUEST, b"a: b\r\n", read_body, MAX_HEADER_BYTES),
    "digits of a chunk size": (CHUNKED, b"0", read_body, MAX_FRAMING_BYTES),
    "extension of a chunk": (CHUNKED + b"1;", b"a", read_body, MAX_FRAMING_BYTES),
    "trailer field name": (CHUNKED + b"0\r\n", b"a", read_body, MAX_FRAMING_BYTES),
    "trailer field value": (CHUNKED + b"0\r\nX: ", b"a", read_body, MAX_FRAMING_BYTES),
    "trailer section": (CHUNKED + b"0\r\n", b"a: b\r\n", read_body, MAX_FRAMING_BYTES),
    "small chunks": (
        CHUNKED,
        b"1;abcdefgh\r\na\r\n",
        read_body,
        MAX_TOTAL_FRAMING_BYTES * 15 // 14,
    ),
    "content after the response": (LENGTH, b"a", respond, MAX_TOTAL_FRAMING_BYTES),
    "chunks after the response": (CHUNKED, b"1\r\na\r\n", respond, MAX_TOTAL_FRAMING_BYTES),
}


async def connect_before(before: bytes, application: Any) -> HTTPProtocol:
    """Return a connection that expects the part next."""
    protocol, _ = connect(application)
    protocol.data_received(before)
    await run_pending()
    return protocol


@pytest.mark.parametrize("part", PARTS)
async def test_endless_part_is_limited_in_size_and_memory(
    part: str,
) -> None:
    before, repeated, application, limit = PARTS[part]
    protocol = await connect_before(before, application)
    segment = repeated * (SEGMENT // len(repeated))
    tracemalloc.start()
    try:
        sent = 0
        while not protocol.reading_stopped:
            protocol.data_received(segment)
            sent += len(segment)
            assert sent <= limit + 2 * SEGMENT, "did not stop at its limit"
            await run_pending()  # lets the application consume its input
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MAX_MEMORY


def cpu_seconds(protocol: HTTPProtocol, data: bytes) -> float:
    """Return the CPU seconds for this input, byte by byte."""
    started = time.process_time()
    for number in range(len(data)):
        protocol.data_received(data[number : number + 1])
    return time.process_time() - started


@pytest.mark.parametrize("part", PARTS)
async def test_parsing_time_is_not_quadratic(part: str) -> None:
    """Four times the input takes at most nine times as long. Quadratic time would be sixteen.

    Compares the best of five runs, so that other load on the machine does not matter.
    """
    before, repeated, application, _ = PARTS[part]
    short = repeated * (7_000 // len(repeated))
    best = {data: float("inf") for data in (short, short * 4)}
    for _ in range(5):
        for data, least in best.items():
            best[data] = min(least, cpu_seconds(await connect_before(before, application), data))
    assert best[short * 4] < 9 * best[short]
