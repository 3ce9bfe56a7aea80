"""Start PgBouncer with strict settings: no prepared statements, few connections."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tools.postgres.postgres import PASSWORD, Postgres
from tools.postgres.processes import daemon, folder, free_port, is_listening, write

POOL_SIZE = 4  # for each user and database, fewer than the ten connections of one service


def find_program() -> Path:
    """Return the path of Debian's PgBouncer. Raise FileNotFoundError if it is missing."""
    path_of_program = shutil.which("pgbouncer", path="/usr/sbin:/usr/bin")
    if path_of_program is None:
        raise FileNotFoundError("pgbouncer is not installed (Debian's package of that name)")
    return Path(path_of_program)


@contextmanager
def running(server: Postgres, mode: str = "transaction") -> Iterator[Postgres]:
    """Start a pooler for every database of a server, and yield its address."""
    with folder(find_program()) as (path, account):
        port = free_port()
        users = write(path / "users.txt", f'"tasks" "{PASSWORD}"\n', account)
        log = path / "pgbouncer.log"
        settings = {
            "pool_mode": mode,
            "listen_addr": "127.0.0.1",
            "listen_port": port,
            "unix_socket_dir": "",
            "auth_type": "scram-sha-256",
            "auth_file": users,
            # As at Neon, users are looked up in the database.
            "auth_query": "SELECT usename, passwd FROM pg_shadow WHERE usename = $1",
            "default_pool_size": POOL_SIZE,
            "max_client_conn": 500,
            "server_idle_timeout": 5,
            "server_login_retry": 0,
            "query_wait_timeout": 30,
            "ignore_startup_parameters": "extra_float_digits",  # as at Neon, no other parameter
            "log_connections": 0,
            "log_disconnections": 0,
        }
        lines = [
            "[databases]",
            f"* = host={server.host} port={server.port} auth_user=tasks",
            "[pgbouncer]",
            *(f"{name} = {value}" for name, value in settings.items()),
            "",
        ]
        configuration = write(path / "pgbouncer.ini", "\n".join(lines), account)
        with daemon(
            [str(find_program()), str(configuration)],
            account,
            log,
            lambda: is_listening("127.0.0.1", port),
        ):
            yield Postgres("127.0.0.1", port)
