"""A transport that sends the head of an answer together with its body.

uvicorn writes them one after the other, and uvloop sends each at once: a system call more, and a
packet more, for each request (research/0047).
"""

from __future__ import annotations

import asyncio
from typing import Any


class CoalescingTransport:
    """Wraps a connection's transport. What is held back goes before whatever is written next.

    It is held until the event loop's next turn at the latest. A streaming response may have its
    first chunk much later, and clients act on the header section.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._buffered = b""
        self._written = 0  # bytes of the last write
        self.is_closing = transport.is_closing  # asked with each request
        self.buffer_next_write = False  # what is written next is the head of an answer

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the transport has
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send this, or hold it back when it is a head."""
        if self._buffered:
            data = self._buffered + data
            self._buffered = b""
        elif self.buffer_next_write:
            self.buffer_next_write = False
            self._buffered = data
            self._loop.call_soon(self.flush)
            return
        self._written = len(data)
        self._transport.write(data)

    def held_bytes(self) -> int:
        """How much memory unsent data holds, while there is some.

        What was written last is held as a whole until its last byte is sent.
        """
        return max(self._written, self._transport.get_write_buffer_size())

    def flush(self) -> None:
        """Send what is held back."""
        if self._buffered and not self.is_closing():  # a connection that is lost takes nothing more
            self.write(b"")

    def close(self) -> None:
        """End the connection after what is held back."""
        self.flush()
        self._transport.close()
