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


async def test_a_head_goes_with_its_body(joined: CoalescingTransport, wire: Wire) -> None:
    joined.write(b"head ")
    assert wire.sent == []
    joined.write(b"body")
    joined.flush()
    assert wire.sent == [b"head body"]


async def test_what_follows_goes_at_once(joined: CoalescingTransport, wire: Wire) -> None:
    for data in (b"head ", b"one", b"two"):
        joined.write(data)
    assert wire.sent == [b"head one", b"two"]


async def test_a_head_without_a_body_goes_at_the_end_of_the_answer(
    joined: CoalescingTransport, wire: Wire
) -> None:
    joined.write(b"head")
    joined.flush()
    joined.flush()
    assert wire.sent == [b"head"]


async def test_the_end_of_the_connection_takes_a_head_along(
    joined: CoalescingTransport, wire: Wire
) -> None:
    joined.write(b"head")
    joined.close()
    assert wire.sent == [b"head", b"end"]


async def test_where_no_head_is_due_nothing_is_kept_back(wire: Wire) -> None:
    CoalescingTransport(wire, asyncio.get_running_loop()).write(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert wire.sent == [b"HTTP/1.1 100 Continue\r\n\r\n"]


async def test_a_request_that_comes_in_the_midst_of_an_answer_loses_none_of_it(
    joined: CoalescingTransport, wire: Wire
) -> None:
    joined.write(b"head ")
    joined.buffer_next_write = True
    for data in (b"one ", b"two", b" three"):
        joined.write(data)
    joined.flush()
    assert b"".join(wire.sent) == b"head one two three"


async def test_the_rest_is_the_transports_own(joined: CoalescingTransport) -> None:
    assert cast("asyncio.Transport", joined).get_write_buffer_size() == 7


async def test_a_head_whose_body_is_late_goes_in_the_next_turn_of_the_loop(
    joined: CoalescingTransport, wire: Wire
) -> None:
    joined.write(b"head")
    await asyncio.sleep(0)
    assert wire.sent == [b"head"]


async def test_a_head_is_not_sent_on_a_connection_that_is_lost(
    joined: CoalescingTransport, wire: Wire
) -> None:
    joined.write(b"head")
    wire.closing = True
    await asyncio.sleep(0)
    assert wire.sent == []


@pytest.mark.requirement("NFR-017")
async def test_the_last_write_is_held_as_a_whole(joined: CoalescingTransport) -> None:
    held = [joined.held_bytes()]
    joined.write(b"head ")
    for body in (b"a" * 10, b"b"):
        joined.write(body)
        held.append(joined.held_bytes())
    assert held == [7, 15, 7]
