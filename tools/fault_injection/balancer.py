"""A simple load balancer: it probes /readyz, and only retries requests that were not sent."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

PROBE_INTERVAL = 0.1
PROBE_TIMEOUT = 1.5
LENGTH = re.compile(rb"^content-length: *(\d+)\r$", re.IGNORECASE | re.MULTILINE)
CONNECTION_CLOSE = re.compile(rb"^connection: *close\r$", re.IGNORECASE | re.MULTILINE)
READINESS_REQUEST = b"GET /readyz HTTP/1.1\r\nHost: balancer\r\nConnection: close\r\n\r\n"
STATUSES_WITHOUT_BODY = {b"204", b"304"}


class Upstream:
    """A keep-alive connection to a replica."""

    def __init__(
        self, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.port = port
        self.reader = reader
        self.writer = writer


class Balancer:
    """Forwards each request to a ready replica. Supports only HTTP/1.1 with Content-Length."""

    def __init__(self, ports: Sequence[int]) -> None:
        self.ports = ports
        self.ready: set[int] = set()
        self.port = 0
        self._next_ports = itertools.cycle(ports)

    async def all_ready(self) -> bool:
        """Return whether all replicas receive requests."""
        return self.ready == {*self.ports}

    async def probe(self, port: int) -> None:
        """Probe a replica repeatedly."""
        while True:
            if await self._is_ready(port):
                self.ready.add(port)
            else:
                self.ready.discard(port)
            await asyncio.sleep(PROBE_INTERVAL)

    async def _is_ready(self, port: int) -> bool:
        try:
            async with asyncio.timeout(PROBE_TIMEOUT):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(READINESS_REQUEST)
                status = (await reader.read()).split(b" ", 2)[1]
                writer.close()
        except (OSError, TimeoutError, IndexError):
            return False
        return status == b"200"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward the requests of one client, one after the other."""
        upstream: Upstream | None = None
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                while True:
                    request, _ = await _message(reader)
                    if upstream and not self._is_usable(upstream):
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

    def _is_usable(self, upstream: Upstream) -> bool:
        return upstream.port in self.ready and not upstream.reader.at_eof()

    async def _connect(self) -> Upstream:
        """Connect to the next replica.

        A replica that rejects the connection received nothing, so the next one is tried.
        """
        for port in itertools.islice(self._next_ports, 2 * len(self.ports)):
            # If no replica is ready, try all of them.
            if port in self.ready or not self.ready:
                try:
                    return Upstream(port, *await asyncio.open_connection("127.0.0.1", port))
                except (ConnectionRefusedError, ConnectionResetError):  # reset while closing
                    self.ready.discard(port)
        raise ConnectionRefusedError("no replica listens")


async def _message(reader: asyncio.StreamReader) -> tuple[bytes, bool]:
    """Read a request or response.

    Returns it without `Connection: close`, and whether it had that header.
    """
    headers = await reader.readuntil(b"\r\n\r\n")
    length = LENGTH.search(headers)
    has_no_body = headers.split(b" ", 2)[1] in STATUSES_WITHOUT_BODY
    body = await reader.readexactly(int(length[1])) if length and not has_no_body else b""
    forwarded = re.sub(rb"(?im)^connection: *close\r\n", b"", headers)
    return forwarded + body, CONNECTION_CLOSE.search(headers) is not None


@asynccontextmanager
async def run_balancer(ports: Sequence[int]) -> AsyncIterator[Balancer]:
    """Run a balancer in front of these replicas."""
    balancer = Balancer(ports)
    server = await asyncio.start_server(balancer.serve, "127.0.0.1", 0)
    balancer.port = server.sockets[0].getsockname()[1]
    probes = [asyncio.create_task(balancer.probe(port)) for port in ports]
    try:
        yield balancer
    finally:
        for task in probes:
            task.cancel()
        server.close()
