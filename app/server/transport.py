"""Transport that sends response headers and body in one write.

uvicorn writes them separately, and uvloop sends each write immediately. That is one more system
call and packet per request (research/0047).
"""

from __future__ import annotations

import asyncio
from typing import Any


class CoalescingTransport:
    """Wrapper of a transport that prepends buffered headers to the next write.

    Headers are buffered until the next iteration of the event loop at most. The first chunk of a
    streaming response may come much later, and clients act on the headers.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._buffered = b""
        self._written = 0  # bytes of the last write
        self.is_closing = transport.is_closing  # called per request: skips `__getattr__`
        self.buffer_next_write = False  # the next write is a response's headers

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - any attribute of the transport
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send data, or buffer it if `buffer_next_write` is set."""
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
        """Return the memory that unsent data holds, in bytes; only valid while data is unsent.

        The last write stays in memory as a whole until its last byte is sent.
        """
        return max(self._written, self._transport.get_write_buffer_size())

    def flush(self) -> None:
        """Send buffered headers."""
        if self._buffered and not self.is_closing():  # a lost connection accepts no writes
            self.write(b"")

    def close(self) -> None:
        """Send buffered headers, then close the connection."""
        self.flush()
        self._transport.close()
