"""A PostgreSQL server on a TCP port that can be killed, with the embedded programs."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any
from unittest.mock import patch

import asyncpg

from app import embedded_postgres
from app.db.config import DatabaseConfig
from app.db.migrations import upgrade
from app.embedded_postgres.server import PostgresServer, ServerAddress, stop_server
from app.embedded_postgres.user import ServerUser, choose_user, chown
from tools.postgres.processes import free_port

MAX_CONNECTIONS = 40
FILL_LOG_TIMEOUT = 30.0
# Audit table: a row for each change of a task or list, in the same transaction.
CREATE_HISTORY = """
    CREATE TABLE history (number bigserial, change text, id uuid, title text, etag uuid,
      updated_at timestamptz, place jsonb);
    CREATE FUNCTION record_change() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE
      changed jsonb := to_jsonb(CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END);
    BEGIN
      INSERT INTO history (change, id, title, etag, updated_at, place)
        VALUES (TG_OP, (changed->>'id')::uuid, coalesce(changed->>'title', changed->>'name'),
          (changed->>'etag')::uuid, (changed->>'updated_at')::timestamptz,
          jsonb_build_object('list_id', changed->'list_id', 'parent_id', changed->'parent_id',
            'position', changed->'position'));
      RETURN NULL;
    END $$;
    CREATE TRIGGER record_change AFTER INSERT OR UPDATE OR DELETE ON tasks
    FOR EACH ROW EXECUTE FUNCTION record_change();
    CREATE TRIGGER record_change AFTER INSERT OR UPDATE OR DELETE ON lists
    FOR EACH ROW EXECUTE FUNCTION record_change()
"""


class MissingToolError(Exception):
    """A program that a fault needs is missing; the message names it."""


def child_pids(pid: int) -> list[int]:
    """Return the child processes of a process (Linux)."""
    pids = Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii")
    return [int(child) for child in pids.split()]


class Postgres:
    """A database cluster and its server. Writes are durable, as in production."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self.user: ServerUser | None = choose_user(
            directory / "pg18", [embedded_postgres.find_binaries()]
        )
        self._log: IO[bytes] = (directory / "postgres.log").open("wb")
        self._lock = os.open(os.devnull, os.O_RDONLY)
        self.process: subprocess.Popen[bytes] | None = None
        chown(directory, self.user)
        self._server().init_cluster()

    @property
    def url(self) -> str:
        """The URL of the server without a proxy."""
        return self.url_at(self.port)

    def url_at(self, port: int) -> str:
        """Return the URL of the database through another port."""
        return f"postgresql://tasks@127.0.0.1:{port}/tasks"

    def _server(self) -> PostgresServer:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": str(MAX_CONNECTIONS),
            "superuser_reserved_connections": "0",  # the service is a superuser
        }
        cluster = self.directory / "pg18"
        address = ServerAddress(self.url, settings, ("--auth=trust",))
        durable = True
        programs = embedded_postgres.find_binaries()
        return PostgresServer(programs, cluster, durable, self.user, address, self._log, self._lock)

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def describe_state(self) -> str:
        """Return whether the server runs, and the end of its log."""
        lines = (self.directory / "postgres.log").read_text("utf-8", "replace").splitlines()[-3:]
        return f"PostgreSQL runs: {self.is_running}; {' / '.join(lines)}"

    async def start(self, environ: Mapping[str, str] | None = None) -> None:
        """Start the server and wait until it accepts connections. Call it in the main thread."""
        server = self._server()
        argv = ("-D", str(server.cluster), *server.options())
        with patch.dict(os.environ, environ or {}):  # inherited by the server
            self.process = server.spawn("postgres", *argv)
        await asyncio.to_thread(server.wait_until_ready, self.process)

    async def kill(self) -> None:
        """Send SIGKILL to the server and all its processes."""
        assert self.process
        pids = child_pids(self.process.pid)
        self.process.kill()
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await asyncio.to_thread(self.process.wait)
        (self.directory / "pg18" / "postmaster.pid").unlink(missing_ok=True)

    async def stop(self) -> None:
        """Stop the server as `pg_ctl stop -m fast` does. It ends open sessions."""
        if self.process and self.is_running:
            await asyncio.to_thread(stop_server, self.process)

    async def connect(self, **options: Any) -> asyncpg.Connection:
        settings = {"application_name": "tests"}
        return await asyncpg.connect(self.url, server_settings=settings, timeout=10, **options)

    async def create_schema(self, tablespace: Path | None = None) -> None:
        """Recreate the schema with an audit table, with its tables in `tablespace` if given."""
        connection = await self.connect()
        try:
            await connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
            if tablespace:
                await connection.execute(f"CREATE TABLESPACE small LOCATION '{tablespace}'")
            await asyncio.to_thread(upgrade, DatabaseConfig.from_url(self.url))
            await connection.execute(CREATE_HISTORY)
            if tablespace:
                await connection.execute(
                    "ALTER TABLE tasks SET TABLESPACE small;"
                    "ALTER TABLE lists SET TABLESPACE small;"
                    "ALTER TABLE history SET TABLESPACE small"
                )
        finally:
            await connection.close()

    async def delete_all(self) -> None:
        """Empty the tasks, the lists, their revisions and the audit table."""
        connection = await self.connect()
        await connection.execute("TRUNCATE tasks, lists, users, tombstones, history")
        await connection.close()

    async def drop_tablespace(self) -> None:
        """Drop the tablespace of `create_schema` with its tables."""
        connection = await self.connect()
        await connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        await connection.execute("DROP TABLESPACE small")
        await connection.close()

    async def move_log(self, disk: Path | None) -> None:
        """Move the write-ahead log to another disk, or back with None."""
        await self.stop()
        log = self.directory / "pg18" / "pg_wal"
        new = (disk or log.parent) / "pg_wal.new"
        shutil.copytree(log, new)
        for path in (new, *new.rglob("*")):
            chown(path, self.user)
        if log.is_symlink():
            log.unlink()
        else:
            shutil.rmtree(log)
        if disk:
            log.symlink_to(new)
        else:
            new.rename(log)
        await self.start()

    async def fill_log(self) -> None:
        """Write to the write-ahead log until the server ends."""
        deadline = time.monotonic() + FILL_LOG_TIMEOUT
        while self.is_running and time.monotonic() < deadline:
            with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                connection = await self.connect()
                while True:
                    await connection.execute(
                        "SELECT pg_logical_emit_message(false, 'tests', 'more'), pg_switch_wal()"
                    )
            await asyncio.sleep(0.05)

    async def terminate(self, port: int) -> None:
        """Terminate the backend of a client port."""
        connection = await self.connect()
        query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE client_port = $1"
        try:
            await connection.fetch(query, port)
        finally:
            await connection.close()

    def close(self) -> None:
        """Stop the server if it runs, and close its files."""
        if self.process and self.is_running:
            stop_server(self.process)
        self._log.close()
        os.close(self._lock)


@contextmanager
def small_disk(user: ServerUser | None, megabytes: int) -> Iterator[Path]:
    """Mount a small file system in memory (tmpfs). Raises MissingToolError unless root may."""
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if os.geteuid() != 0 or mount is None or umount is None:
        raise MissingToolError("mounting a tmpfs needs root")
    with tempfile.TemporaryDirectory(prefix="tasks-disk-") as name:
        options = ["-t", "tmpfs", "-o", f"size={megabytes}m,mode=0711", "tmpfs", name]
        result = subprocess.run([mount, *options], capture_output=True, text=True, check=False)
        if result.returncode:
            raise MissingToolError(f"a tmpfs cannot be mounted: {result.stderr.strip()}")
        try:
            directory = Path(name) / "space"
            directory.mkdir()
            chown(directory, user)
            Path(name).chmod(0o755)
            yield directory
        finally:
            subprocess.run([umount, "--lazy", name], check=True)
