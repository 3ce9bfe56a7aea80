"""An answer is sent as a whole, and nothing of it is kept back for good."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from app.server.transport import CoalescingTransport

pytestmark = pytest.mark.requirement("NFR-004")


class Wire(asyncio.Transport):
    """A connection that keeps what is sent, packet by packet."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[bytes] = []
        self.closing = False

    def write(self, data: Any) -> None:
        self.sent.append(bytes(data))

    def close(self) -> None:
        self.sent.append(b"end")

    def is_closing(self) -> bool:
        return self.closing

    def get_write_buffer_size(self) -> int:
        return 7


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
async def joined(wire: Wire) -> CoalescingTransport:
    made = CoalescingTransport(wire, asyncio.get_running_loop())
    made.buffer_next_write = True
    return made


async def test_headers_are_written_with_the_body(joined: CoalescingTransport, wire: Wire) -> None:
    joined.write(b"head ")
    assert wire.sent == []
    joined.write(b"body")
    joined.flush()
    assert wire.sent == [b"head body"]


async def test_later_data_is_written_immediately(joined: CoalescingTransport, wire: Wire) -> None:
    for data in (b"head ", b"one", b"two"):
        joined.write(data)
    assert wire.sent == [b"head one", b"two"]


async def test_headers_without_a_body_are_written_at_the_end_of_the_response(
    joined: CoalescingTransport, wire: Wire
) -> None:
    joined.write(b"head")
    joined.flush()
    joined.flush()
    assert wire.sent == [b"head"]


async def test_close_writes_buffered_headers(joined: CoalescingTransport, wire: Wire) -> None:
    joined.write(b"head")
    joined.close()
    assert wire.sent == [b"head", b"end"]


async def test_unbuffered_data_is_written_immediately(wire: Wire) -> None:
    CoalescingTransport(wire, asyncio.get_running_loop()).write(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert wire.sent == [b"HTTP/1.1 100 Continue\r\n\r\n"]


async def test_request_during_a_response_loses_no_data(
    joined: CoalescingTransport, wire: Wire
) -> None:
    joined.write(b"head ")
    joined.buffer_next_write = True
    for data in (b"one ", b"two", b" three"):
        joined.write(data)
    joined.flush()
    assert b"".join(wire.sent) == b"head one two three"


async def test_other_methods_are_delegated_to_the_transport(joined: CoalescingTransport) -> None:
    assert cast("asyncio.Transport", joined).get_write_buffer_size() == 7


async def test_headers_with_a_late_body_are_written_in_the_next_iteration(
    joined: CoalescingTransport, wire: Wire
) -> None:
    joined.write(b"head")
    await asyncio.sleep(0)
    assert wire.sent == [b"head"]


async def test_headers_are_not_written_to_a_closing_connection(
    joined: CoalescingTransport, wire: Wire
) -> None:
    joined.write(b"head")
    wire.closing = True
    await asyncio.sleep(0)
    assert wire.sent == []


@pytest.mark.requirement("NFR-017")
async def test_held_bytes_include_the_last_write(joined: CoalescingTransport) -> None:
    held = [joined.held_bytes()]
    joined.write(b"head ")
    for body in (b"a" * 10, b"b"):
        joined.write(body)
        held.append(joined.held_bytes())
    assert held == [7, 15, 7]
