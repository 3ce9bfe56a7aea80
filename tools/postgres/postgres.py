"""Start a PostgreSQL on loopback with password authentication, with or without TLS."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import trustme

from app.embedded_postgres import find_binaries
from tools.postgres.processes import daemon, finish, folder, free_port, is_listening, write

PASSWORD = "a b%c/d"  # noqa: S105 - a dummy that must be encoded in a URL
ENCODED = "a%20b%25c%2Fd"
TLS_MAJOR = 15  # Debian's version: the wheel is built without TLS


class Postgres(NamedTuple):
    """The address of a server."""

    host: str
    port: int

    def url(self, query: str = "") -> str:
        """Return the URL of a database. `query` starts with a question mark."""
        return f"postgresql://tasks:{ENCODED}@{self.host}:{self.port}/postgres{query}"


@contextmanager
def running(major: int, certificate: trustme.LeafCert | None = None) -> Iterator[Postgres]:
    """Start a server and yield its address. With a certificate it requires TLS."""
    programs = find_binaries(major)
    with folder(programs / "postgres") as (path, account):
        log = path / "postgres.log"
        cluster = path / "data"
        secret = write(path / "password", PASSWORD, account)
        locale = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"] if major > 16 else []
        options = ["--auth=scram-sha-256", "--username=tasks", "--encoding=UTF8", "--no-sync"]
        options += ["--locale=C", *locale] if locale else ["--locale=C.UTF-8"]
        initdb = [str(programs / "initdb"), f"--pgdata={cluster}", f"--pwfile={secret}", *options]
        finish(initdb, account, log)
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(free_port()),
            "unix_socket_directories": "",
            "fsync": "off",
            "jit": "off",
            "max_connections": "200",
            "timezone": "UTC",
        }
        if certificate is not None:
            chain = "".join(pem.bytes().decode() for pem in certificate.cert_chain_pems)
            write(cluster / "server.crt", chain, account)
            write(cluster / "server.key", certificate.private_key_pem.bytes().decode(), account)
            write(cluster / "pg_hba.conf", "hostssl all all all scram-sha-256\n", account)
            settings["ssl"] = "on"
        options = [part for item in settings.items() for part in ("-c", "=".join(item))]
        port = int(settings["port"])
        server = [str(programs / "postgres"), "-D", str(cluster), *options]
        with daemon(server, account, log, lambda: is_listening("127.0.0.1", port)):
            yield Postgres("localhost" if certificate else "127.0.0.1", port)


def has_tls() -> bool:
    """Return whether Debian's PostgreSQL is installed."""
    return shutil.which("postgres", path=f"/usr/lib/postgresql/{TLS_MAJOR}/bin") is not None
