"""PgBouncer in transaction mode, with fewer server connections than client connections."""

from __future__ import annotations

import shutil
import signal
import subprocess
from pathlib import Path

import asyncpg

from app.embedded_postgres.user import ServerUser, chown, make_preexec_fn
from tests.support.process import until
from tools.fault_injection.postgres import MissingToolError
from tools.postgres.processes import free_port

CONFIGURATION = """
[databases]
tasks = host=127.0.0.1 port={database} dbname=tasks user=tasks
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {users}
admin_users = tasks
pool_mode = transaction
default_pool_size = 5
max_client_conn = 200
server_login_retry = 1
ignore_startup_parameters = extra_float_digits
logfile = {log}
"""


class Pooler:
    """A PgBouncer in front of a PostgreSQL server."""

    def __init__(self, directory: Path, database_port: int, user: ServerUser | None) -> None:
        program = shutil.which("pgbouncer", path="/usr/sbin:/usr/bin:/usr/local/bin")
        if program is None:
            raise MissingToolError("pgbouncer is not installed (Debian's package of that name)")
        self.port = free_port()
        self._user = user
        self._process: subprocess.Popen[bytes] | None = None
        directory.mkdir()
        users, log, configuration = (
            directory / name for name in ("users.txt", "log", "pgbouncer.ini")
        )
        users.write_text('"tasks" ""\n', "utf-8")
        log.touch()
        configuration.write_text(
            CONFIGURATION.format(database=database_port, port=self.port, users=users, log=log),
            "utf-8",
        )
        for path in (directory, users, log, configuration):
            chown(path, user)
        self._argv = [program, str(configuration)]

    async def start(self) -> None:
        """Start PgBouncer, and wait until it accepts connections."""
        self._process = self._spawn()

        async def is_ready() -> bool:
            try:
                await self.run_command("SHOW VERSION")
            except OSError:
                return False
            return True

        await until(is_ready)

    def _spawn(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self._argv,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            preexec_fn=make_preexec_fn(self._user),  # noqa: PLW1509 - it takes no locks
        )

    async def run_command(self, command: str) -> None:
        """Run a command of the admin console."""
        console = await asyncpg.connect(f"postgresql://tasks@127.0.0.1:{self.port}/pgbouncer")
        try:
            await console.execute(command)
        finally:
            await console.close()

    def stop(self) -> None:
        """Stop PgBouncer immediately. It closes all client connections."""
        assert self._process
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(10)
