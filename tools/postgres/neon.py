"""A stand-in for Neon, and the URL of its console, verbatim: `python -m tools.postgres.neon`.

TLS with an authority of ours, and a proxy that reads the server's name from the handshake: behind
the name with `-pooler` is PgBouncer, behind the one without it PostgreSQL. It refuses who sends no
name, and answers as Neon's does while the compute is suspended.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import struct
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import asyncpg
import httpx
import pytest
import trustme

from app.db.database import DEFAULT_MAX_LIFETIME
from tests.support import process
from tests.support.client import tasks_of
from tests.support.tls import SSL_REQUEST
from tools.postgres import pgbouncer, postgres
from tools.postgres.postgres import Postgres

ENDPOINT = "ep-cool-darkness-123456"
DOMAIN = "eu-central-1.aws.neon.tech"
URL = (
    f"postgresql://user:password@{ENDPOINT}-pooler.{DOMAIN}/neondb"
    "?sslmode=require&channel_binding=require"
)
ADDRESS = "127.77.0.1"
PORT = 5432  # a verbatim URL has none
ALICE = tasks_of("alice")
# Neon's proxy gives every error of its own this state (proxy/src/stream.rs of neondatabase/neon).
NO_ENDPOINT = "Endpoint ID is not specified."
SUSPENDED = "Couldn't connect to compute node"
RECYCLE_SECONDS = 2


def refusal(message: str) -> bytes:
    """An ErrorResponse with SQLSTATE XX000."""
    fields = b"SERROR\0VERROR\0CXX000\0M" + message.encode() + b"\0\0"
    return b"E" + struct.pack("!I", len(fields) + 4) + fields


class Proxy:
    """What clients talk to; counts connections and bytes by the name they asked for."""

    def __init__(self, certificate: trustme.LeafCert, behind: dict[str, Postgres]) -> None:
        self._certificate = certificate
        self._behind = behind
        self._tasks: set[asyncio.Task[None] | None] = set()
        self.connections: Counter[str] = Counter()
        self.bytes = 0
        self.is_suspended = False

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Take connections for the length of the block."""
        server = await asyncio.start_server(self._serve, ADDRESS, PORT)
        try:
            yield
        finally:
            server.close()
            for task in filter(None, self._tasks):
                task.cancel()
            await asyncio.gather(*filter(None, self._tasks), return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.add(asyncio.current_task())
        plain = writer.transport
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                await self._route(reader, writer)
        finally:
            writer.close()
            plain.abort()

    async def _route(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        names: list[str | None] = []
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._certificate.configure_cert(context)
        context.sni_callback = lambda _socket, name, _context: names.append(name)
        assert await reader.readexactly(len(SSL_REQUEST)) == SSL_REQUEST
        writer.write(b"S")
        await writer.start_tls(context)
        name = names[0] or "no name"
        self.connections[name] += 1
        (length,) = struct.unpack("!I", first := await reader.readexactly(4))
        first += await reader.readexactly(length - 4)
        if name not in self._behind or self.is_suspended:
            writer.write(refusal(SUSPENDED if self.is_suspended else NO_ENDPOINT))
            await writer.drain()
            return
        server = self._behind[name]
        from_server, to_server = await asyncio.open_connection(server.host, server.port)
        to_server.write(first)
        self.bytes += len(first)
        try:
            await asyncio.gather(self._pass(reader, to_server), self._pass(from_server, writer))
        finally:
            to_server.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while chunk := await reader.read(65536):
                self.bytes += len(chunk)
                writer.write(chunk)
                await writer.drain()
        writer.close()


@contextmanager
def machines() -> Iterator[tuple[Postgres, Postgres]]:
    """The compute and its pooler, with the role and the database of the URL."""
    with postgres.running(int(os.environ.get("TEST_POSTGRES") or 18)) as compute:
        process.execute(
            compute.url(),
            "CREATE ROLE \"user\" LOGIN PASSWORD 'password'",
            'CREATE DATABASE neondb OWNER "user"',
        )
        with pgbouncer.running(compute) as pooler:
            yield compute, pooler


def with_names(hosts: Path, words: Sequence[str]) -> list[str]:
    """The words of a program to which the names in a file of hosts are known.

    It gets a mount namespace of its own, where that file lies over /etc/hosts; nobody else sees it.
    Who is not root needs user namespaces, which most kernels allow.
    """
    rights = [] if os.geteuid() == 0 else ["--map-root-user"]
    script = 'mount --bind "$0" /etc/hosts && exec "$@"'
    return ["unshare", "--mount", *rights, "sh", "-c", script, str(hosts), *words]


class Scenario:
    """What is tried, in order; each part raises AssertionError, or tells what it saw."""

    def __init__(self, proxy: Proxy, hosts: Path, roots: Path) -> None:
        self._proxy = proxy
        self._hosts = hosts
        self._settings = {
            "DATABASE_URL": URL,
            "DATABASE_CA_FILE": roots,
            "DATABASE_POOL_RECYCLE": RECYCLE_SECONDS,
            "LOG_FORMAT": "json",
            "PORT": 0,
        }

    def run(self) -> None:
        """All of it."""
        print(f"DATABASE_URL={URL}")
        self._nameless()
        self._migrate()
        self._untrusted()
        words = with_names(self._hosts, process.command("serve"))
        with process.launch_service(words, self._settings) as service:
            service.await_alive()
            self._serve(service)
            self._idle(service)
            self._suspend(service)
            assert service.stop() == 0
            assert "password" not in (service.out + service.err).replace("password@", "")

    def _nameless(self) -> None:
        async def connect() -> None:
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            await asyncpg.connect(host=ADDRESS, user="user", database="neondb", ssl=context)

        with pytest.raises(asyncpg.InternalServerError, match=NO_ENDPOINT) as refused:
            asyncio.run(connect())
        print(f"no server name     refused: {refused.value}")
        self._proxy.connections.clear()

    def _command(self, name: str, **others: object) -> tuple[int, str]:
        words = with_names(self._hosts, process.command(name))
        with process.launch_service(words, {**self._settings, **others}) as done:
            status = done.process.wait(process.START_TIMEOUT)
            return status, done.out + done.err

    def _migrate(self) -> None:
        status, told = self._command("migrate")
        assert status == 0, told
        assert dict(self._proxy.connections) == {f"{ENDPOINT}.{DOMAIN}": 1}
        print(f"task migrate       {told.splitlines()[-1]}; one connection, past the pooler")
        self._proxy.connections.clear()
        status, told = self._command("doctor")
        assert status == 0, told
        assert set(self._proxy.connections) == {f"{ENDPOINT}-pooler.{DOMAIN}"}
        print(f"task doctor        {told.splitlines()[-1]}; through the pooler")

    def _untrusted(self) -> None:
        status, told = self._command("doctor", DATABASE_CA_FILE="")
        assert status == 1
        assert "certificate verify failed" in told
        print(f"certifi's roots    {told.splitlines()[-1]}")
        self._proxy.connections.clear()

    def _serve(self, service: process.Service) -> None:
        assert httpx.get(f"{service.url}/readyz").status_code == 200
        made = httpx.post(service.url + ALICE, json={"title": "Buy milk"})
        assert made.status_code == 201
        listed = httpx.get(service.url + ALICE)
        assert [task["title"] for task in listed.json()["items"]] == ["Buy milk"]
        assert set(self._proxy.connections) == {f"{ENDPOINT}-pooler.{DOMAIN}"}
        print("task serve         ready; create 201, list 200; through the pooler alone")

    def _idle(self, service: process.Service) -> None:
        before = (self._proxy.connections.total(), self._proxy.bytes)
        seconds = RECYCLE_SECONDS * 2 + 1
        until = time.monotonic() + seconds
        asked = 0
        while time.monotonic() < until:
            assert httpx.get(f"{service.url}/livez").status_code == 200
            asked += 1
            time.sleep(0.1)
        after = (self._proxy.connections.total(), self._proxy.bytes)
        assert after == before
        print(
            f"idle               {seconds} s, {asked} x /livez, recycled after "
            f"{DEFAULT_MAX_LIFETIME} s: 0 connections, 0 bytes"
        )

    def _suspend(self, service: process.Service) -> None:
        self._proxy.is_suspended = True
        answers = Counter(httpx.get(service.url + ALICE, timeout=6).status_code for _ in range(5))
        assert set(answers) == {503}
        assert httpx.get(f"{service.url}/readyz", timeout=6).status_code == 503
        lines = [line for line in service.out.splitlines() if SUSPENDED in line]
        assert len(lines) == 1, service.out
        assert "XX000" in lines[0]
        self._proxy.is_suspended = False
        started = time.monotonic()
        assert httpx.get(service.url + ALICE, timeout=6).status_code == 200
        milliseconds = (time.monotonic() - started) * 1000
        print(
            f"suspended          {dict(answers)} and one line of log: {SUSPENDED}; started again: "
            f"first request 200 after {milliseconds:.0f} ms"
        )


async def scenario(folder: Path, compute: Postgres, pooler: Postgres) -> None:
    """Run the scenario with the proxy in front of the two."""
    authority = trustme.CA()
    roots = folder / "roots.pem"
    authority.cert_pem.write_to_path(str(roots))
    behind = {f"{ENDPOINT}.{DOMAIN}": compute, f"{ENDPOINT}-pooler.{DOMAIN}": pooler}
    hosts = folder / "hosts"
    hosts.write_text(f"127.0.0.1 localhost\n{ADDRESS} {' '.join(behind)}\n")
    proxy = Proxy(authority.issue_cert(f"*.{DOMAIN}"), behind)
    async with proxy.listening():
        await asyncio.to_thread(Scenario(proxy, hosts, roots).run)


def main() -> int:
    """Print what was seen; an AssertionError is what was not."""
    with TemporaryDirectory() as folder, machines() as (compute, pooler):
        asyncio.run(scenario(Path(folder), compute, pooler))
    print("neon: green")
    return 0


if __name__ == "__main__":
    sys.exit(main())
