"""A PostgreSQL that can be killed: the embedded one's programs, on a port, without its care."""

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
LOG_SECONDS = 30.0
# What was really done, whoever asked for it: a row for each change, in the change's transaction.
HISTORY = """
    CREATE TABLE history (number bigserial, change text, id uuid, title text, etag uuid,
      updated_at timestamptz);
    CREATE FUNCTION remember() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
      IF TG_OP = 'DELETE' THEN
        INSERT INTO history (change, id, title, etag, updated_at)
          VALUES (TG_OP, OLD.id, OLD.title, OLD.etag, OLD.updated_at);
      ELSE
        INSERT INTO history (change, id, title, etag, updated_at)
          VALUES (TG_OP, NEW.id, NEW.title, NEW.etag, NEW.updated_at);
      END IF;
      RETURN NULL;
    END $$;
    CREATE TRIGGER remember AFTER INSERT OR UPDATE OR DELETE ON tasks
    FOR EACH ROW EXECUTE FUNCTION remember()
"""


class MissingToolError(Exception):
    """This machine has no means to inject a fault; the message says which."""


def children(process: int) -> list[int]:
    """The processes that another one has started (Linux)."""
    told = Path(f"/proc/{process}/task/{process}/children").read_text("ascii")
    return [int(word) for word in told.split()]


class Postgres:
    """One cluster and, while it runs, its server. Writes are durable, as in production."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.account: ServerUser | None = choose_user(
            folder / "pg18", [embedded_postgres.find_binaries()]
        )
        self._log: IO[bytes] = (folder / "postgres.log").open("wb")
        self._lock = os.open(os.devnull, os.O_RDONLY)
        self.process: subprocess.Popen[bytes] | None = None
        chown(folder, self.account)
        self._server().init_cluster()

    @property
    def url(self) -> str:
        """Straight to the server, past every proxy."""
        return self.url_at(self.port)

    def url_at(self, port: int) -> str:
        """The database behind another port."""
        return f"postgresql://tasks@127.0.0.1:{port}/tasks"

    def _server(self) -> PostgresServer:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": str(MAX_CONNECTIONS),
            "superuser_reserved_connections": "0",  # the service's user is one
        }
        cluster = self.folder / "pg18"
        address = ServerAddress(self.url, settings, ("--auth=trust",))
        durable = True
        programs = embedded_postgres.find_binaries()
        return PostgresServer(
            programs, cluster, durable, self.account, address, self._log, self._lock
        )

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def last_words(self) -> str:
        """The end of the server's log, and whether it has ended."""
        lines = (self.folder / "postgres.log").read_text("utf-8", "replace").splitlines()[-3:]
        return f"PostgreSQL runs: {self.is_running}; {' / '.join(lines)}"

    async def start(self, environ: Mapping[str, str] | None = None) -> None:
        """Start the server and wait until it takes connections. Call it in the main thread."""
        server = self._server()
        words = ("-D", str(server.cluster), *server.options())
        with patch.dict(os.environ, environ or {}):  # which the server inherits
            self.process = server.spawn("postgres", *words)
        await asyncio.to_thread(server.wait_until_ready, self.process)

    async def kill(self) -> None:
        """Send SIGKILL to the server and to every process of it."""
        assert self.process
        pids = children(self.process.pid)
        self.process.kill()
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await asyncio.to_thread(self.process.wait)
        (self.folder / "pg18" / "postmaster.pid").unlink(missing_ok=True)

    async def shut_down(self) -> None:
        """Stop the server as `pg_ctl stop -m fast` does: open sessions are ended."""
        if self.process and self.is_running:
            await asyncio.to_thread(stop_server, self.process)

    async def connect(self, **options: Any) -> asyncpg.Connection:
        """A session of the tests' own."""
        settings = {"application_name": "tests"}
        return await asyncpg.connect(self.url, server_settings=settings, timeout=10, **options)

    async def prepare(self, tablespace: Path | None = None) -> None:
        """Make the schema anew, empty and with a history; in a folder if one is given."""
        session = await self.connect()
        try:
            await session.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
            if tablespace:
                await session.execute(f"CREATE TABLESPACE small LOCATION '{tablespace}'")
            await asyncio.to_thread(upgrade, DatabaseConfig.from_url(self.url))
            await session.execute(HISTORY)
            if tablespace:
                await session.execute(
                    "ALTER TABLE tasks SET TABLESPACE small;"
                    "ALTER TABLE history SET TABLESPACE small"
                )
        finally:
            await session.close()

    async def empty(self) -> None:
        """Forget every task, and that there were any."""
        session = await self.connect()
        await session.execute("TRUNCATE tasks, history")
        await session.close()

    async def drop_tablespace(self) -> None:
        """Forget the folder of `prepare`, and what lay in it."""
        session = await self.connect()
        await session.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        await session.execute("DROP TABLESPACE small")
        await session.close()

    async def move_log(self, disk: Path | None) -> None:
        """Have the write-ahead log on another disk, or among the other files again."""
        await self.shut_down()
        log = self.folder / "pg18" / "pg_wal"
        new = (disk or log.parent) / "pg_wal.new"
        shutil.copytree(log, new)
        for path in (new, *new.rglob("*")):
            chown(path, self.account)
        if log.is_symlink():
            log.unlink()
        else:
            shutil.rmtree(log)
        if disk:
            log.symlink_to(new)
        else:
            new.rename(log)
        await self.start()

    async def use_up_log(self) -> None:
        """Have the server begin new files of its write-ahead log until it has ended."""
        deadline = time.monotonic() + LOG_SECONDS
        while self.is_running and time.monotonic() < deadline:
            with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                session = await self.connect()
                while True:
                    await session.execute(
                        "SELECT pg_logical_emit_message(false, 'tests', 'more'), pg_switch_wal()"
                    )
            await asyncio.sleep(0.05)

    async def terminate(self, port: int) -> None:
        """End the backend that serves a client's port."""
        session = await self.connect()
        query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE client_port = $1"
        try:
            await session.fetch(query, port)
        finally:
            await session.close()

    def close(self) -> None:
        """Stop the server, whatever its state, and forget its files."""
        if self.process and self.is_running:
            stop_server(self.process)
        self._log.close()
        os.close(self._lock)


@contextmanager
def small_disk(account: ServerUser | None, megabytes: int) -> Iterator[Path]:
    """A file system of a few megabytes in memory (tmpfs), which root alone may mount."""
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if os.geteuid() != 0 or mount is None or umount is None:
        raise MissingToolError("a tmpfs is mounted by root alone")
    with tempfile.TemporaryDirectory(prefix="tasks-disk-") as name:
        options = ["-t", "tmpfs", "-o", f"size={megabytes}m,mode=0711", "tmpfs", name]
        done = subprocess.run([mount, *options], capture_output=True, text=True, check=False)
        if done.returncode:
            raise MissingToolError(f"no tmpfs may be mounted here: {done.stderr.strip()}")
        try:
            folder = Path(name) / "space"
            folder.mkdir()
            chown(folder, account)
            Path(name).chmod(0o755)
            yield folder
        finally:
            subprocess.run([umount, "--lazy", name], check=True)
