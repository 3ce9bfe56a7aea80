"""The server's process: its address and options, initdb, start, end."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple
from urllib.parse import quote

from app.embedded_postgres.data_dir import SOCKET_DIR_PREFIX, read_postmaster_pid
from app.embedded_postgres.error import DATABASE_URL_HINT, EmbeddedError
from app.embedded_postgres.user import ServerUser, chown, make_preexec_fn

_INITDB_TIMEOUT = 120.0
_BUILTIN_LOCALE_SINCE = 17
_READY_TIMEOUT = 30.0  # replaying the WAL after a crash takes long
_STOP_SIGNALS = ((signal.SIGINT, 10.0), (signal.SIGQUIT, 5.0))  # fast shutdown, then immediate


class ServerAddress(NamedTuple):
    """How the server is reached, and the server options and initdb options that belong to it."""

    url: str
    settings: dict[str, str]
    authentication: tuple[str, ...]


@dataclass(frozen=True)
class PostgresServer:
    """The server of one cluster, which is made and started with these."""

    programs: Path
    cluster: Path
    durable: bool
    user: ServerUser | None
    address: ServerAddress
    log: IO[bytes]
    lock: int  # descriptor of server.lock, inherited by all processes of the server

    def options(self) -> list[str]:
        """Return command-line settings, which win over postgresql.conf and ALTER SYSTEM."""
        safety = "on" if self.durable else "off"
        settings = {
            "cluster_name": "tasks-api",
            "fsync": safety,
            "synchronous_commit": safety,
            "full_page_writes": safety,
            "jit": "off",  # costs more than it saves on short statements
            "log_min_messages": "warning",
            "log_timezone": "UTC",
            "max_connections": "100",
            "password_encryption": "scram-sha-256",
            "timezone": "UTC",
            **self.address.settings,
        }
        return [word for item in settings.items() for word in ("-c", "=".join(item))]

    def initdb_options(self, folder: Path) -> list[str]:
        """Return the command line of initdb for a cluster in the folder."""
        major = int(self.cluster.name.removeprefix("pg"))
        # The builtin provider sorts alike on every OS; not every C library has C.UTF-8.
        locale = ("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")
        options = [f"--pgdata={folder}", "--username=tasks", "--encoding=UTF8", "--data-checksums"]
        options += locale if major >= _BUILTIN_LOCALE_SINCE else ("--locale=C.UTF-8",)
        options += self.address.authentication
        return options if self.durable else [*options, "--no-sync"]

    def init_cluster(self) -> None:
        """Make the cluster aside and rename it: an interrupted start leaves no half of one."""
        others = ", ".join(sorted(path.name for path in self.cluster.parent.glob("pg[0-9][0-9]")))
        if others:  # an empty database beside the old one would look like lost data
            raise EmbeddedError(
                f"{self.cluster.parent} holds data of another PostgreSQL version ({others}), not "
                f"{self.cluster.name}. Dump and restore it, or choose another data folder."
            )
        fresh = self.cluster.with_suffix(".new")
        if fresh.exists():
            shutil.rmtree(fresh)
        fresh.mkdir(mode=0o700)
        chown(fresh, self.user)
        self.run("initdb", *self.initdb_options(fresh))
        arguments = ["-D", str(fresh), "-c", "exit_on_error=on"] + ["-F"] * (not self.durable)
        self.run("postgres", "--single", *arguments, "template1", given=b"CREATE DATABASE tasks;\n")
        fresh.rename(self.cluster)
        if self.durable:
            folder = os.open(self.cluster.parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)

    def spawn(
        self, program: str, *arguments: str, stdin: int = subprocess.DEVNULL
    ) -> subprocess.Popen[bytes]:
        """Start one of the programs as the account, with the log as its output."""
        try:
            return subprocess.Popen(  # noqa: S603 - our own binaries and options, no shell
                [str(self.programs / program), *arguments],
                stdin=stdin,
                stdout=self.log,
                stderr=self.log,
                cwd=self.cluster.anchor,  # ours may be closed to the server's uid
                # Messages in English; and initdb need not search for the name of the time zone.
                env={**os.environ, "LC_ALL": "C", "TZ": "UTC"},
                start_new_session=True,  # Ctrl-C is for the service, which drains first
                preexec_fn=make_preexec_fn(self.user),  # noqa: PLW1509 - see there
                pass_fds=(self.lock,),
            )
        except subprocess.SubprocessError as error:
            raise EmbeddedError(
                f"PostgreSQL refuses to run as root, and this process may not run it as another "
                f"user ({self.user}). {DATABASE_URL_HINT}"
            ) from error

    def run(self, program: str, *arguments: str, given: bytes = b"") -> None:
        """Run one of the programs to its end; raises EmbeddedError when it fails."""
        with self.spawn(program, *arguments, stdin=subprocess.PIPE) as process:
            try:
                process.communicate(given, timeout=_INITDB_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
            except BaseException:  # not only errors: Ctrl-C does not reach the child
                process.kill()
                process.wait()
                raise
        if process.returncode:
            limit = f"exit status {process.returncode}, time limit {_INITDB_TIMEOUT:.0f} s"
            raise self.startup_error(f"{program} failed ({limit})")

    def wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        """Return once the server accepts connections; raises EmbeddedError when it does not."""
        deadline = time.monotonic() + _READY_TIMEOUT
        while time.monotonic() < deadline:
            status = read_postmaster_pid(self.cluster)
            # The server writes this line once it accepts connections: no need to try one.
            if status[:1] == [str(process.pid)] and status[7:8] == ["ready"]:
                return
            if process.poll() is not None:
                raise self.startup_error("PostgreSQL stopped while starting")
            time.sleep(0.01)
        raise self.startup_error(f"PostgreSQL was not ready within {_READY_TIMEOUT:.0f} s")

    def startup_error(self, what: str) -> EmbeddedError:
        """Return an error with the end of the log, which says why."""
        path = self.cluster.with_name("postgres.log")
        last_lines = path.read_text(encoding="utf-8", errors="replace").splitlines()[-8:]
        return EmbeddedError("\n".join([f"{what}. The end of {path}:", *last_lines]))


def stop_server(process: subprocess.Popen[bytes]) -> None:
    """Stop the server, with a harder signal each time that it takes too long."""
    for number, seconds in _STOP_SIGNALS:
        process.send_signal(number)
        # A second Ctrl-C asks for haste, not for a server left behind.
        with suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
            process.wait(seconds)
            return
    process.kill()
    process.wait()


def choose_address(
    stack: ExitStack, folder: Path, base: Path, record: IO[str], account: ServerUser | None
) -> ServerAddress:
    """Make the folder of the server's socket; return the address in it."""
    if base == folder:
        path = folder / "run"
        if path.exists():  # a crash leaves a socket and its lock file, as bad as postmaster.pid
            shutil.rmtree(path)
        path.mkdir(mode=0o700)
    else:
        path = Path(tempfile.mkdtemp(prefix=SOCKET_DIR_PREFIX, dir=base))
        record.write(str(path))
        record.flush()
    stack.callback(shutil.rmtree, path, ignore_errors=True)
    chown(path, account)
    return _unix_socket(path)


def _unix_socket(folder: Path) -> ServerAddress:
    """Return the address in a folder that only the server's user and we may enter: no password."""
    in_list = '"{}"'.format(str(folder).replace('"', '""'))
    settings = {
        "listen_addresses": "",
        "port": "5432",  # else the server would take PGPORT
        "unix_socket_directories": in_list,
        "unix_socket_permissions": "0700",
    }
    url = f"postgresql://tasks@/tasks?host={quote(bytes(folder))}&port=5432"
    return ServerAddress(url, settings, ("--auth-local=trust", "--auth-host=reject"))
