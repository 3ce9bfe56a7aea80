"""PostgreSQL server process: address, options, initdb, start and stop."""

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
_MIN_BUILTIN_LOCALE_MAJOR = 17
_READY_TIMEOUT = 30.0  # seconds; crash recovery replays the WAL
_STOP_SIGNALS = ((signal.SIGINT, 10.0), (signal.SIGQUIT, 5.0))  # fast shutdown, then immediate


class ServerAddress(NamedTuple):
    """libpq URL of the server, with the server settings and initdb options that it requires."""

    url: str
    settings: dict[str, str]
    authentication: tuple[str, ...]


@dataclass(frozen=True)
class PostgresServer:
    """The server of one cluster; `binaries` and `cluster` are directories."""

    binaries: Path
    cluster: Path
    durable: bool
    user: ServerUser | None
    address: ServerAddress
    log: IO[bytes]
    lock: int  # file descriptor of server.lock, inherited by all processes of the server

    def options(self) -> list[str]:
        """Return command-line settings, which override postgresql.conf and ALTER SYSTEM."""
        durability = "on" if self.durable else "off"
        settings = {
            "cluster_name": "tasks-api",
            "fsync": durability,
            "synchronous_commit": durability,
            "full_page_writes": durability,
            "jit": "off",  # compiling takes longer than it saves on short statements
            "log_min_messages": "warning",
            "log_timezone": "UTC",
            "max_connections": "100",
            "password_encryption": "scram-sha-256",
            "timezone": "UTC",
            **self.address.settings,
        }
        return [argument for item in settings.items() for argument in ("-c", "=".join(item))]

    def initdb_options(self, path: Path) -> list[str]:
        """Return the arguments of initdb for a cluster at this path."""
        major = int(self.cluster.name.removeprefix("pg"))
        # The builtin provider sorts identically on every OS; some C libraries lack C.UTF-8.
        locale = ("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")
        options = [f"--pgdata={path}", "--username=tasks", "--encoding=UTF8", "--data-checksums"]
        options += locale if major >= _MIN_BUILTIN_LOCALE_MAJOR else ("--locale=C.UTF-8",)
        options += self.address.authentication
        return options if self.durable else [*options, "--no-sync"]

    def init_cluster(self) -> None:
        """Create the cluster and the database `tasks`.

        A new cluster is renamed when complete: an interrupted start leaves no partial cluster.
        Raises EmbeddedError if a program fails or data of another PostgreSQL version exists.
        """
        other = ", ".join(sorted(path.name for path in self.cluster.parent.glob("pg[0-9][0-9]")))
        if other:  # a new empty database would look like lost data
            raise EmbeddedError(
                f"{self.cluster.parent} holds data of another PostgreSQL version ({other}), not "
                f"{self.cluster.name}. Dump and restore it, or choose another data folder."
            )
        partial = self.cluster.with_suffix(".new")
        if partial.exists():
            shutil.rmtree(partial)
        partial.mkdir(mode=0o700)
        chown(partial, self.user)
        self.run("initdb", *self.initdb_options(partial))
        arguments = ["-D", str(partial), "-c", "exit_on_error=on"] + ["-F"] * (not self.durable)
        create = b"CREATE DATABASE tasks;\n"
        self.run("postgres", "--single", *arguments, "template1", stdin=create)
        partial.rename(self.cluster)
        if self.durable:
            data_dir = os.open(self.cluster.parent, os.O_RDONLY)
            os.fsync(data_dir)
            os.close(data_dir)

    def spawn(
        self, program: str, *arguments: str, stdin: int = subprocess.DEVNULL
    ) -> subprocess.Popen[bytes]:
        """Start a PostgreSQL program as the server's user, with its output in the log."""
        try:
            return subprocess.Popen(  # noqa: S603 - fixed binaries and options, no shell
                [str(self.binaries / program), *arguments],
                stdin=stdin,
                stdout=self.log,
                stderr=self.log,
                cwd=self.cluster.anchor,  # the user may have no access to the current directory
                # English messages, and TZ saves initdb its search for the system's time zone.
                env={**os.environ, "LC_ALL": "C", "TZ": "UTC"},
                start_new_session=True,  # Ctrl-C must reach only the service, which drains first
                preexec_fn=make_preexec_fn(self.user),  # noqa: PLW1509 - make_preexec_fn says why
                pass_fds=(self.lock,),
            )
        except subprocess.SubprocessError as error:
            raise EmbeddedError(
                f"PostgreSQL refuses to run as root, and this process may not run it as another "
                f"user ({self.user}). {DATABASE_URL_HINT}"
            ) from error

    def run(self, program: str, *arguments: str, stdin: bytes = b"") -> None:
        """Run a PostgreSQL program; raises EmbeddedError on failure or after _INITDB_TIMEOUT."""
        with self.spawn(program, *arguments, stdin=subprocess.PIPE) as process:
            try:
                process.communicate(stdin, timeout=_INITDB_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
            except BaseException:  # also KeyboardInterrupt: Ctrl-C does not reach the child
                process.kill()
                process.wait()
                raise
        if process.returncode:
            limit = f"exit status {process.returncode}, time limit {_INITDB_TIMEOUT:.0f} s"
            raise self.startup_error(f"{program} failed ({limit})")

    def wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        """Wait until the server accepts connections.

        Raises EmbeddedError if the server stops or is not ready after _READY_TIMEOUT.
        """
        deadline = time.monotonic() + _READY_TIMEOUT
        while time.monotonic() < deadline:
            status = read_postmaster_pid(self.cluster)
            # The server writes this status when it accepts connections.
            if status[:1] == [str(process.pid)] and status[7:8] == ["ready"]:
                return
            if process.poll() is not None:
                raise self.startup_error("PostgreSQL stopped while starting")
            time.sleep(0.01)
        raise self.startup_error(f"PostgreSQL was not ready within {_READY_TIMEOUT:.0f} s")

    def startup_error(self, message: str) -> EmbeddedError:
        """Return an error with the message and the last lines of the log."""
        path = self.cluster.with_name("postgres.log")
        last_lines = path.read_text(encoding="utf-8", errors="replace").splitlines()[-8:]
        return EmbeddedError("\n".join([f"{message}. The end of {path}:", *last_lines]))


def stop_server(process: subprocess.Popen[bytes]) -> None:
    """Stop the server; after each timeout, escalate to the next signal."""
    for number, timeout in _STOP_SIGNALS:
        process.send_signal(number)
        # A second Ctrl-C escalates immediately. It must not leave the server running.
        with suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
            process.wait(timeout)
            return
    process.kill()
    process.wait()


def choose_address(
    stack: ExitStack,
    data_dir: Path,
    socket_parent: Path,
    lock_file: IO[str],
    user: ServerUser | None,
) -> ServerAddress:
    """Create the socket directory, which `stack` removes, and return the address in it."""
    if socket_parent == data_dir:
        socket_dir = data_dir / "run"
        if socket_dir.exists():  # a crash leaves a socket and its lock file, which block a start
            shutil.rmtree(socket_dir)
        socket_dir.mkdir(mode=0o700)
    else:
        socket_dir = Path(tempfile.mkdtemp(prefix=SOCKET_DIR_PREFIX, dir=socket_parent))
        lock_file.write(str(socket_dir))
        lock_file.flush()
    stack.callback(shutil.rmtree, socket_dir, ignore_errors=True)
    chown(socket_dir, user)
    return _unix_socket(socket_dir)


def _unix_socket(socket_dir: Path) -> ServerAddress:
    """Return the address of a socket without password: only the server's user can open it."""
    quoted = '"{}"'.format(str(socket_dir).replace('"', '""'))
    settings = {
        "listen_addresses": "",
        "port": "5432",  # overrides PGPORT
        "unix_socket_directories": quoted,
        "unix_socket_permissions": "0700",
    }
    url = f"postgresql://tasks@/tasks?host={quote(bytes(socket_dir))}&port=5432"
    return ServerAddress(url, settings, ("--auth-local=trust", "--auth-host=reject"))
