"""A TCP proxy on loopback that simulates network faults."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

CHUNK = 65536
# Close with a reset and discard unsent data (SO_LINGER, socket(7)).
RESET = struct.pack("ii", 1, 0)


class Link:
    """One connection through the proxy, with its client and server sides."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.client = client
        self.server = server
        self.drops_input = False  # drops what the client sends, and closes nothing

    @property
    def server_port(self) -> int:
        """The client port of this connection, as the server sees it."""
        port: int = self.server.get_extra_info("sockname")[1]
        return port

    def reset(self) -> None:
        """Reset both sides, as a firewall without state for the connection does."""
        for side in (self.client, self.server):
            side_socket = side.get_extra_info("socket")
            if side_socket is not None and not side.is_closing():
                side_socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            side.transport.abort()

    def make_half_open(self) -> None:
        """Close the server side without a notice to the client."""
        self.drops_input = True
        self.server.transport.abort()


# Receives a chunk before it is forwarded. Returns the bytes to forward, which may be empty.
Hook = Callable[[Link, bytes], Awaitable[bytes]]


class Proxy:
    """Forwards bytes. The attributes apply to all connections, existing and new."""

    def __init__(self, target: int | str) -> None:
        self.target = target  # a port on loopback, or the path of a Unix socket
        self.port = 0
        self.links: set[Link] = set()
        self.delay = 0.0  # seconds per chunk and direction
        self.bytes_per_second = 0  # per connection and direction; 0 is unlimited
        self.is_black_hole = False
        self.on_request: Hook | None = None
        self.on_response: Hook | None = None
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Listen, on the same port as before if the proxy was open."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def stop_listening(self) -> None:
        """Stop listening, and reset all connections."""
        if self._server:
            self._server.close()
        self.reset()

    def reset(self) -> None:
        for link in list(self.links):
            link.reset()

    def make_half_open(self) -> None:
        """Make all connections half-open. New connections work."""
        for link in list(self.links):
            link.make_half_open()

    async def close(self) -> None:
        """Stop listening and end all connections."""
        self.stop_listening()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        try:
            with suppress(OSError):
                await self._forward_connection(reader, writer)
        except asyncio.CancelledError:
            pass  # the end of the run; asyncio would report it as an error of this callback
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _forward_connection(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while self.is_black_hole:
            if not await reader.read(CHUNK):
                return
        from_server, to_server = await self._connect()
        link = Link(writer, to_server)
        self.links.add(link)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._forward(link, reader, to_server, request=True))
                group.create_task(self._forward(link, from_server, writer, request=False))
        except* OSError:
            pass
        finally:
            self.links.discard(link)
            to_server.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self.target, str):
            return await asyncio.open_unix_connection(self.target)
        return await asyncio.open_connection("127.0.0.1", self.target)

    async def _forward(
        self,
        link: Link,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        request: bool,
    ) -> None:
        while chunk := await reader.read(CHUNK):
            if self.is_black_hole or link.drops_input:
                continue
            hook = self.on_request if request else self.on_response
            if hook:
                chunk = await hook(link, chunk)
            await asyncio.sleep(self.delay)
            async for piece in self._pieces(chunk):
                writer.write(piece)
                await writer.drain()
        # Forward the close of one side immediately, unless nothing is forwarded.
        if not (link.drops_input or self.is_black_hole):
            writer.close()

    async def _pieces(self, chunk: bytes) -> AsyncIterator[bytes]:
        rate = self.bytes_per_second  # read once: it may change meanwhile
        if not rate:
            yield chunk
            return
        size = max(1, rate // 20)
        for start in range(0, len(chunk), size):
            piece = chunk[start : start + size]
            await asyncio.sleep(len(piece) / rate)
            yield piece


@asynccontextmanager
async def run_proxy(target: int | str) -> AsyncIterator[Proxy]:
    """Run a proxy in front of a server."""
    proxy = Proxy(target)
    await proxy.open()
    try:
        yield proxy
    finally:
        await proxy.close()
