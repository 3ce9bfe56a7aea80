"""Test the service with a simulated Neon and its URL: `python -m tools.postgres.neon`.

A proxy with a test CA routes by the server name of the TLS handshake (SNI). The name with `-pooler`
leads to PgBouncer, the name without it to PostgreSQL. Like Neon's proxy, it rejects connections
without a name, and all connections while the compute is suspended.
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
PORT = 5432  # Neon's URL has no port
ALICE = tasks_of("alice")
# Messages of Neon's proxy, with SQLSTATE XX000 (proxy/src/stream.rs of neondatabase/neon).
NO_ENDPOINT = "Endpoint ID is not specified."
SUSPENDED = "Couldn't connect to compute node"
POOL_RECYCLE = 2


def error_response(message: str) -> bytes:
    """Encode an ErrorResponse with SQLSTATE XX000."""
    fields = b"SERROR\0VERROR\0CXX000\0M" + message.encode() + b"\0\0"
    return b"E" + struct.pack("!I", len(fields) + 4) + fields


class Proxy:
    """A TLS proxy that routes by SNI. It counts connections by name, and bytes."""

    def __init__(self, certificate: trustme.LeafCert, servers: dict[str, Postgres]) -> None:
        self._certificate = certificate
        self._servers = servers
        self._tasks: set[asyncio.Task[None] | None] = set()
        self.connections: Counter[str] = Counter()
        self.bytes = 0
        self.is_suspended = False

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Accept connections."""
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
        if name not in self._servers or self.is_suspended:
            writer.write(error_response(SUSPENDED if self.is_suspended else NO_ENDPOINT))
            await writer.drain()
            return
        server = self._servers[name]
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
def start_servers() -> Iterator[tuple[Postgres, Postgres]]:
    """Start PostgreSQL and PgBouncer with the role and the database of the URL."""
    with postgres.running(int(os.environ.get("TEST_POSTGRES") or 18)) as compute:
        process.execute(
            compute.url(),
            "CREATE ROLE \"user\" LOGIN PASSWORD 'password'",
            'CREATE DATABASE neondb OWNER "user"',
        )
        with pgbouncer.running(compute) as pooler:
            yield compute, pooler


def with_hosts(hosts: Path, argv: Sequence[str]) -> list[str]:
    """Return the command line of a program that resolves names with this hosts file.

    The file is mounted over /etc/hosts in a separate mount namespace. Without root, this requires
    user namespaces, which most kernels allow.
    """
    options = [] if os.geteuid() == 0 else ["--map-root-user"]
    script = 'mount --bind "$0" /etc/hosts && exec "$@"'
    return ["unshare", "--mount", *options, "sh", "-c", script, str(hosts), *argv]


class Scenario:
    """The checks, in order. Each one raises AssertionError or prints its result."""

    def __init__(self, proxy: Proxy, hosts: Path, ca_file: Path) -> None:
        self._proxy = proxy
        self._hosts = hosts
        self._settings = {
            "DATABASE_URL": URL,
            "DATABASE_CA_FILE": ca_file,
            "DATABASE_POOL_RECYCLE": POOL_RECYCLE,
            "LOG_FORMAT": "json",
            "PORT": 0,
        }

    def run(self) -> None:
        """Run all checks."""
        print(f"DATABASE_URL={URL}")
        self._check_missing_name()
        self._check_migrate()
        self._check_untrusted_ca()
        argv = with_hosts(self._hosts, process.command("serve"))
        with process.launch_service(argv, self._settings) as service:
            service.await_alive()
            self._check_serve(service)
            self._check_idle(service)
            self._check_suspended(service)
            assert service.stop() == 0
            assert "password" not in (service.out + service.err).replace("password@", "")

    def _check_missing_name(self) -> None:
        async def connect() -> None:
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            await asyncpg.connect(host=ADDRESS, user="user", database="neondb", ssl=context)

        with pytest.raises(asyncpg.InternalServerError, match=NO_ENDPOINT) as rejected:
            asyncio.run(connect())
        print(f"no server name     rejected: {rejected.value}")
        self._proxy.connections.clear()

    def _command(self, name: str, **overrides: object) -> tuple[int, str]:
        argv = with_hosts(self._hosts, process.command(name))
        with process.launch_service(argv, {**self._settings, **overrides}) as done:
            status = done.process.wait(process.START_TIMEOUT)
            return status, done.out + done.err

    def _check_migrate(self) -> None:
        status, output = self._command("migrate")
        assert status == 0, output
        assert dict(self._proxy.connections) == {f"{ENDPOINT}.{DOMAIN}": 1}
        print(f"task migrate       {output.splitlines()[-1]}; one connection, without the pooler")
        self._proxy.connections.clear()
        status, output = self._command("doctor")
        assert status == 0, output
        assert set(self._proxy.connections) == {f"{ENDPOINT}-pooler.{DOMAIN}"}
        print(f"task doctor        {output.splitlines()[-1]}; through the pooler")

    def _check_untrusted_ca(self) -> None:
        status, output = self._command("doctor", DATABASE_CA_FILE="")
        assert status == 1
        assert "certificate verify failed" in output
        print(f"certifi's roots    {output.splitlines()[-1]}")
        self._proxy.connections.clear()

    def _check_serve(self, service: process.Service) -> None:
        assert httpx.get(f"{service.url}/readyz").status_code == 200
        created = httpx.post(service.url + ALICE, json={"title": "Buy milk"})
        assert created.status_code == 201
        listed = httpx.get(service.url + ALICE)
        assert [task["title"] for task in listed.json()["items"]] == ["Buy milk"]
        assert set(self._proxy.connections) == {f"{ENDPOINT}-pooler.{DOMAIN}"}
        print("task serve         ready; create 201, list 200; only through the pooler")

    def _check_idle(self, service: process.Service) -> None:
        before = (self._proxy.connections.total(), self._proxy.bytes)
        seconds = POOL_RECYCLE * 2 + 1
        deadline = time.monotonic() + seconds
        requests = 0
        while time.monotonic() < deadline:
            assert httpx.get(f"{service.url}/livez").status_code == 200
            requests += 1
            time.sleep(0.1)
        after = (self._proxy.connections.total(), self._proxy.bytes)
        assert after == before
        print(
            f"idle               {seconds} s, {requests} x /livez, recycled after "
            f"{DEFAULT_MAX_LIFETIME} s: 0 connections, 0 bytes"
        )

    def _check_suspended(self, service: process.Service) -> None:
        self._proxy.is_suspended = True
        statuses = Counter(httpx.get(service.url + ALICE, timeout=6).status_code for _ in range(5))
        assert set(statuses) == {503}
        assert httpx.get(f"{service.url}/readyz", timeout=6).status_code == 503
        lines = [line for line in service.out.splitlines() if SUSPENDED in line]
        assert len(lines) == 1, service.out
        assert "XX000" in lines[0]
        self._proxy.is_suspended = False
        started = time.monotonic()
        assert httpx.get(service.url + ALICE, timeout=6).status_code == 200
        milliseconds = (time.monotonic() - started) * 1000
        print(
            f"suspended          {dict(statuses)} and one line of log: {SUSPENDED}; started again: "
            f"first request 200 after {milliseconds:.0f} ms"
        )


async def scenario(folder: Path, compute: Postgres, pooler: Postgres) -> None:
    """Run the scenario with the proxy in front of both servers."""
    authority = trustme.CA()
    ca_file = folder / "ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    servers = {f"{ENDPOINT}.{DOMAIN}": compute, f"{ENDPOINT}-pooler.{DOMAIN}": pooler}
    hosts = folder / "hosts"
    hosts.write_text(f"127.0.0.1 localhost\n{ADDRESS} {' '.join(servers)}\n")
    proxy = Proxy(authority.issue_cert(f"*.{DOMAIN}"), servers)
    async with proxy.listening():
        await asyncio.to_thread(Scenario(proxy, hosts, ca_file).run)


def main() -> int:
    """Run the checks and print the results."""
    with TemporaryDirectory() as folder, start_servers() as (compute, pooler):
        asyncio.run(scenario(Path(folder), compute, pooler))
    print("neon: green")
    return 0


if __name__ == "__main__":
    sys.exit(main())
