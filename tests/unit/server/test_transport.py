"""The coalescing transport joins headers and body, and loses no data."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from app.server.transport import CoalescingTransport

pytestmark = pytest.mark.requirement("NFR-004")


class Wire(asyncio.Transport):
    """A transport that records each write."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.closing = False

    def write(self, data: Any) -> None:
        self.writes.append(bytes(data))

    def close(self) -> None:
        self.writes.append(b"end")

    def is_closing(self) -> bool:
        return self.closing

    def get_write_buffer_size(self) -> int:
        return 7


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
async def coalescing(wire: Wire) -> CoalescingTransport:
    transport = CoalescingTransport(wire, asyncio.get_running_loop())
    transport.buffer_next_write = True
    return transport


async def test_headers_are_written_with_the_body(
    coalescing: CoalescingTransport, wire: Wire
) -> None:
    coalescing.write(b"head ")
    assert wire.writes == []
    coalescing.write(b"body")
    coalescing.flush()
    assert wire.writes == [b"head body"]


async def test_later_data_is_written_immediately(
    coalescing: CoalescingTransport, wire: Wire
) -> None:
    for data in (b"head ", b"one", b"two"):
        coalescing.write(data)
    assert wire.writes == [b"head one", b"two"]


async def test_headers_without_a_body_are_written_at_the_end_of_the_response(
    coalescing: CoalescingTransport, wire: Wire
) -> None:
    coalescing.write(b"head")
    coalescing.flush()
    coalescing.flush()
    assert wire.writes == [b"head"]


async def test_close_writes_buffered_headers(coalescing: CoalescingTransport, wire: Wire) -> None:
    coalescing.write(b"head")
    coalescing.close()
    assert wire.writes == [b"head", b"end"]


async def test_unbuffered_data_is_written_immediately(wire: Wire) -> None:
    CoalescingTransport(wire, asyncio.get_running_loop()).write(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert wire.writes == [b"HTTP/1.1 100 Continue\r\n\r\n"]


async def test_request_during_a_response_loses_no_data(
    coalescing: CoalescingTransport, wire: Wire
) -> None:
    coalescing.write(b"head ")
    coalescing.buffer_next_write = True
    for data in (b"one ", b"two", b" three"):
        coalescing.write(data)
    coalescing.flush()
    assert b"".join(wire.writes) == b"head one two three"


async def test_other_methods_are_delegated_to_the_transport(
    coalescing: CoalescingTransport,
) -> None:
    assert cast("asyncio.Transport", coalescing).get_write_buffer_size() == 7


async def test_headers_with_a_late_body_are_written_in_the_next_iteration(
    coalescing: CoalescingTransport, wire: Wire
) -> None:
    coalescing.write(b"head")
    await asyncio.sleep(0)
    assert wire.writes == [b"head"]


async def test_headers_are_not_written_to_a_closing_connection(
    coalescing: CoalescingTransport, wire: Wire
) -> None:
    coalescing.write(b"head")
    wire.closing = True
    await asyncio.sleep(0)
    assert wire.writes == []


@pytest.mark.requirement("NFR-017")
async def test_held_bytes_include_the_last_write(coalescing: CoalescingTransport) -> None:
    held = [coalescing.held_bytes()]
    coalescing.write(b"head ")
    for body in (b"a" * 10, b"b"):
        coalescing.write(body)
        held.append(coalescing.held_bytes())
    assert held == [7, 15, 7]
