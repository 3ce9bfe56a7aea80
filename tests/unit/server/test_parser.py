"""Endless input in each part of a message costs bounded memory and time, and is ended."""

from __future__ import annotations

import time
import tracemalloc
from typing import Any

import pytest

from app.server.parser import MAX_FRAMING_BYTES, MAX_HEADER_BYTES, MAX_TOTAL_FRAMING_BYTES
from app.server.protocol import HTTPProtocol
from tests.unit.server.test_protocol import (  # noqa: F401 - a fixture is used by being here
    CHUNKED,
    answer,
    connected,
    no_task_is_left,
    read,
    settle,
)

pytestmark = pytest.mark.requirement("FR-025", "FR-027", "NFR-017")

REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n"
LENGTH = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\n"
SEGMENT = 4096
MEMORY = 1_048_576  # what is kept of 32 KiB in thousands of small fields is 17 times as much

# What comes before the part, what is repeated in it, the application, and the limit in bytes.
PARTS: dict[str, tuple[bytes, bytes, Any, int]] = {
    "method": (b"", b"A", read, MAX_HEADER_BYTES),
    "target": (b"GET /", b"a", read, MAX_HEADER_BYTES),
    "version": (b"GET / HTTP/1.1", b"1", read, MAX_HEADER_BYTES),
    "name of a field": (REQUEST, b"a", read, MAX_HEADER_BYTES),
    "value of a field": (REQUEST + b"X: ", b"a", read, MAX_HEADER_BYTES),
    "spaces before a value": (REQUEST + b"X:", b" ", read, MAX_HEADER_BYTES),
    "header section": (REQUEST, b"a: b\r\n", read, MAX_HEADER_BYTES),
    "digits of a chunk size": (CHUNKED, b"0", read, MAX_FRAMING_BYTES),
    "extension of a chunk": (CHUNKED + b"1;", b"a", read, MAX_FRAMING_BYTES),
    "name of a trailer field": (CHUNKED + b"0\r\n", b"a", read, MAX_FRAMING_BYTES),
    "value of a trailer field": (CHUNKED + b"0\r\nX: ", b"a", read, MAX_FRAMING_BYTES),
    "trailer section": (CHUNKED + b"0\r\n", b"a: b\r\n", read, MAX_FRAMING_BYTES),
    "small chunks": (CHUNKED, b"1;abcdefgh\r\na\r\n", read, MAX_TOTAL_FRAMING_BYTES * 15 // 14),
    "content after the response": (LENGTH, b"a", answer, MAX_TOTAL_FRAMING_BYTES),
    "chunks after the response": (CHUNKED, b"1\r\na\r\n", answer, MAX_TOTAL_FRAMING_BYTES),
}


async def begun(before: bytes, application: Any) -> HTTPProtocol:
    """A connection that waits for the part."""
    protocol, _ = connected(application)
    protocol.data_received(before)
    await settle()
    return protocol


@pytest.mark.parametrize("part", PARTS)
async def test_endless_part_is_limited_in_size_and_memory(
    part: str,
) -> None:
    before, repeated, application, limit = PARTS[part]
    protocol = await begun(before, application)
    segment = repeated * (SEGMENT // len(repeated))
    tracemalloc.start()
    try:
        sent = 0
        while not protocol.reading_stopped:
            protocol.data_received(segment)
            sent += len(segment)
            assert sent <= limit + 2 * SEGMENT, "not ended at its limit"
            await settle()  # the application takes what it is given
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MEMORY


def seconds(protocol: HTTPProtocol, data: bytes) -> float:
    """Processor time for this, byte by byte."""
    started = time.process_time()
    for number in range(len(data)):
        protocol.data_received(data[number : number + 1])
    return time.process_time() - started


@pytest.mark.parametrize("part", PARTS)
async def test_parsing_time_is_not_quadratic(part: str) -> None:
    """Four times as much takes at most nine times as long, where a square would be sixteen.

    The best of several turns of each is compared, so that a busy machine does not matter.
    """
    before, repeated, application, _ = PARTS[part]
    short = repeated * (7_000 // len(repeated))
    best = {data: float("inf") for data in (short, short * 4)}
    for _ in range(5):
        for data, least in best.items():
            best[data] = min(least, seconds(await begun(before, application), data))
    assert best[short * 4] < 9 * best[short]
