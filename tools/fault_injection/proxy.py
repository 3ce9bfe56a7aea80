"""A TCP proxy on loopback that misbehaves on request: the network of the fault tests."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

CHUNK = 65536
# Closes at once with a reset, whatever was still to be sent (SO_LINGER, socket(7)).
RESET = struct.pack("ii", 1, 0)


class Link:
    """One connection through the proxy: a client's end and a server's end."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.client = client
        self.server = server
        self.deaf = False  # what the client sends is dropped, and nothing is closed

    @property
    def server_port(self) -> int:
        """The port by which the server knows this connection."""
        port: int = self.server.get_extra_info("sockname")[1]
        return port

    def reset(self) -> None:
        """End both connections with a reset, as a firewall that has forgotten them does."""
        for end in (self.client, self.server):
            held = end.get_extra_info("socket")
            if held is not None and not end.is_closing():
                held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            end.transport.abort()

    def forget(self) -> None:
        """The server's side is gone and the client is not told: a half-open connection."""
        self.deaf = True
        self.server.transport.abort()


# Sees a chunk before it is passed on, and may return other bytes for it, none at all included.
Hook = Callable[[Link, bytes], Awaitable[bytes]]


class Proxy:
    """Passes bytes on. What is set here holds for every connection, old and new."""

    def __init__(self, target: int | str) -> None:
        self.target = target  # a port of loopback, or the path of a unix socket
        self.port = 0
        self.links: set[Link] = set()
        self.delay = 0.0  # seconds, for each chunk and direction
        self.bytes_per_second = 0  # in each direction of each connection; 0 is no limit
        self.is_black_hole = False
        self.on_request: Hook | None = None
        self.on_response: Hook | None = None
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Listen, on the port of the last time if there was one."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def refuse(self) -> None:
        """Listen no more, and reset what is open."""
        if self._server:
            self._server.close()
        self.reset()

    def reset(self) -> None:
        """Reset every connection."""
        for link in list(self.links):
            link.reset()

    def forget(self) -> None:
        """Make every connection half-open; new ones work."""
        for link in list(self.links):
            link.forget()

    async def close(self) -> None:
        """End everything."""
        self.refuse()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        try:
            with suppress(OSError):
                await self._join(reader, writer)
        except asyncio.CancelledError:
            pass  # the end of the run; asyncio would report it as a fault of this callback
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while self.is_black_hole:
            if not await reader.read(CHUNK):
                return
        from_server, to_server = await self._connect()
        link = Link(writer, to_server)
        self.links.add(link)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass(link, reader, to_server, request=True))
                group.create_task(self._pass(link, from_server, writer, request=False))
        except* OSError:
            pass
        finally:
            self.links.discard(link)
            to_server.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self.target, str):
            return await asyncio.open_unix_connection(self.target)
        return await asyncio.open_connection("127.0.0.1", self.target)

    async def _pass(
        self,
        link: Link,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        request: bool,
    ) -> None:
        while chunk := await reader.read(CHUNK):
            if self.is_black_hole or link.deaf:
                continue
            hook = self.on_request if request else self.on_response
            if hook:
                chunk = await hook(link, chunk)
            await asyncio.sleep(self.delay)
            async for piece in self._pieces(chunk):
                writer.write(piece)
                await writer.drain()
        # A side that ends is passed on at once, except where nothing is passed on.
        if not (link.deaf or self.is_black_hole):
            writer.close()

    async def _pieces(self, chunk: bytes) -> AsyncIterator[bytes]:
        rate = self.bytes_per_second  # as it is now: it may be lifted meanwhile
        if not rate:
            yield chunk
            return
        size = max(1, rate // 20)
        for start in range(0, len(chunk), size):
            piece = chunk[start : start + size]
            await asyncio.sleep(len(piece) / rate)
            yield piece


@asynccontextmanager
async def proxied(target: int | str) -> AsyncIterator[Proxy]:
    """A proxy in front of a server, open for the length of the block."""
    made = Proxy(target)
    await made.open()
    try:
        yield made
    finally:
        await made.close()
