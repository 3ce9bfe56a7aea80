"""PgBouncer in transaction mode, with fewer sessions than the service has connections."""

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
    """A PgBouncer in front of a PostgreSQL."""

    def __init__(self, folder: Path, database: int, account: ServerUser | None) -> None:
        program = shutil.which("pgbouncer", path="/usr/sbin:/usr/bin:/usr/local/bin")
        if program is None:
            raise MissingToolError("pgbouncer is not installed (Debian's package of that name)")
        self.port = free_port()
        self._account = account
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir()
        users, log, configuration = (
            folder / name for name in ("users.txt", "log", "pgbouncer.ini")
        )
        users.write_text('"tasks" ""\n', "utf-8")
        log.touch()
        configuration.write_text(
            CONFIGURATION.format(database=database, port=self.port, users=users, log=log), "utf-8"
        )
        for path in (folder, users, log, configuration):
            chown(path, account)
        self._words = [program, str(configuration)]

    async def start(self) -> None:
        """Start it, and wait until it answers."""
        self._process = self._spawn()

        async def answers() -> bool:
            try:
                await self.order("SHOW VERSION")
            except OSError:
                return False
            return True

        await until(answers)

    def _spawn(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self._words,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            preexec_fn=make_preexec_fn(self._account),  # noqa: PLW1509 - it takes no locks
        )

    async def order(self, command: str) -> None:
        """Give a command to its admin console."""
        console = await asyncpg.connect(f"postgresql://tasks@127.0.0.1:{self.port}/pgbouncer")
        try:
            await console.execute(command)
        finally:
            await console.close()

    def stop(self) -> None:
        """End it at once; its clients are cut."""
        assert self._process
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(10)
