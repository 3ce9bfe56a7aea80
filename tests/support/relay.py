"""A TCP relay to a database, to block, close and count connections."""

from __future__ import annotations

import asyncio

from sqlalchemy.engine import URL, make_url

from tests.support.database import database_config_for


async def open_stream(url: URL) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to a server by TCP or by a Unix socket."""
    host, port = str(url.host), url.port or 5432
    openers = {
        True: lambda: asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}"),
        False: lambda: asyncio.open_connection(host, port),
    }
    return await openers[host.startswith("/")]()


class Relay:
    """A TCP relay that can be blocked and that counts bytes and connections."""

    def __init__(self, url: str) -> None:
        self._target = database_config_for(url).url
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.port = 0
        self.connections = 0
        self.bytes = 0
        self.sent_to_server = bytearray()  # bytes from the client

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Close the port and all connections."""
        assert self._server
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def freeze(self) -> None:
        """Hold back all bytes in both directions, without closing connections."""
        self._flowing.clear()

    def thaw(self) -> None:
        self._flowing.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        self.connections += 1
        to_server: asyncio.StreamWriter | None = None
        try:
            await self._flowing.wait()
            from_server, to_server = await open_stream(self._target)
            await asyncio.gather(
                self._pass(reader, to_server, self.sent_to_server), self._pass(from_server, writer)
            )
        except (asyncio.CancelledError, OSError):
            pass
        finally:
            self._tasks.discard(task)
            for end in filter(None, [writer, to_server]):
                end.close()

    async def _pass(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        log: bytearray | None = None,
    ) -> None:
        while chunk := await reader.read(65536):
            self.bytes += len(chunk)
            if log is not None:
                log += chunk
            await self._flowing.wait()
            writer.write(chunk)
            await writer.drain()
        writer.close()


def url_via_port(port: int, url: str) -> str:
    """Return the URL of a database through a port on 127.0.0.1."""
    base = make_url(url).difference_update_query(["host", "port"])
    return base.set(host="127.0.0.1", port=port).render_as_string(hide_password=False)
