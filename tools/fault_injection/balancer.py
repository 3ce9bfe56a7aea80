"""A balancer that is no cleverer than most: it asks /readyz, and repeats what was never sent."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

PROBE_SECONDS = 0.1
PROBE_LIMIT_SECONDS = 1.5
LENGTH = re.compile(rb"^content-length: *(\d+)\r$", re.IGNORECASE | re.MULTILINE)
CLOSES = re.compile(rb"^connection: *close\r$", re.IGNORECASE | re.MULTILINE)
READINESS = b"GET /readyz HTTP/1.1\r\nHost: balancer\r\nConnection: close\r\n\r\n"
BODILESS = {b"204", b"304"}


class Upstream:
    """A connection to a replica, kept from one request to the next."""

    def __init__(
        self, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.port = port
        self.reader = reader
        self.writer = writer


class Balancer:
    """Hands each request to a replica that is ready; HTTP/1.1 with lengths, as the tests need."""

    def __init__(self, ports: Sequence[int]) -> None:
        self.ports = ports
        self.ready: set[int] = set()
        self.port = 0
        self._turns = itertools.cycle(ports)

    async def knows_all_ready(self) -> bool:
        """Whether every replica gets requests."""
        return self.ready == {*self.ports}

    async def probe(self, port: int) -> None:
        """Ask a replica again and again."""
        while True:
            if await self._is_ready(port):
                self.ready.add(port)
            else:
                self.ready.discard(port)
            await asyncio.sleep(PROBE_SECONDS)

    async def _is_ready(self, port: int) -> bool:
        try:
            async with asyncio.timeout(PROBE_LIMIT_SECONDS):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(READINESS)
                status = (await reader.read()).split(b" ", 2)[1]
                writer.close()
        except (OSError, TimeoutError, IndexError):
            return False
        return status == b"200"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass the requests of one client on, one after the other."""
        upstream: Upstream | None = None
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                while True:
                    request, _ = await _message(reader)
                    if upstream and not self._may_be_used(upstream):
                        upstream.writer.close()
                        upstream = None
                    upstream = upstream or await self._connect()
                    upstream.writer.write(request)
                    response, closes = await _message(upstream.reader)
                    if closes:
                        upstream.writer.close()
                        upstream = None
                    writer.write(response)
        finally:
            if upstream:
                upstream.writer.close()
            writer.close()

    def _may_be_used(self, upstream: Upstream) -> bool:
        return upstream.port in self.ready and not upstream.reader.at_eof()

    async def _connect(self) -> Upstream:
        """A connection to the next replica; one that refuses was sent nothing, so another may."""
        for port in itertools.islice(self._turns, 2 * len(self.ports)):
            # With none to choose from a slow answer is better than no answer.
            if port in self.ready or not self.ready:
                try:
                    return Upstream(port, *await asyncio.open_connection("127.0.0.1", port))
                except (ConnectionRefusedError, ConnectionResetError):  # reset as it closed
                    self.ready.discard(port)
        raise ConnectionRefusedError("no replica listens")


async def _message(reader: asyncio.StreamReader) -> tuple[bytes, bool]:
    """A request or a response with its body, `Connection: close` taken out and told instead."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = LENGTH.search(head)
    bodiless = head.split(b" ", 2)[1] in BODILESS
    body = await reader.readexactly(int(length[1])) if length and not bodiless else b""
    kept = re.sub(rb"(?im)^connection: *close\r\n", b"", head)
    return kept + body, CLOSES.search(head) is not None


@asynccontextmanager
async def balanced(ports: Sequence[int]) -> AsyncIterator[Balancer]:
    """A balancer before these replicas for the length of the block."""
    balancer = Balancer(ports)
    server = await asyncio.start_server(balancer.serve, "127.0.0.1", 0)
    balancer.port = server.sockets[0].getsockname()[1]
    probing = [asyncio.create_task(balancer.probe(port)) for port in ports]
    try:
        yield balancer
    finally:
        for task in probing:
            task.cancel()
        server.close()
