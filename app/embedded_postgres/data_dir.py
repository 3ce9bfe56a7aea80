"""Data directory: lock files, recovery after a crash, log file, socket directory."""

import fcntl
import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from app.embedded_postgres.error import EmbeddedError
from app.embedded_postgres.user import ServerUser, chown

SOCKET_DIR_PREFIX = "tasks-pg-"
_MAX_SOCKET_PATH_BYTES = 103  # the limit of macOS; Linux allows 107
# Seconds. After a killed start, initdb may still run, which takes long on a busy machine.
_ORPHAN_TIMEOUT = 30.0


@contextmanager
def lock_data_dir(data_dir: Path, user: ServerUser | None) -> Generator[IO[str]]:
    """Lock the data directory; yield the lock file, which stores an outside socket directory.

    A crash may leave that socket directory: the next call removes it. Raises EmbeddedError if
    another service holds the lock.
    """
    path = data_dir / "service.lock"
    try:
        handle = _lock(path, user)
    except BlockingIOError:
        holder = path.read_text(encoding="utf-8", errors="replace").partition("\n")[0] or "unknown"
        raise EmbeddedError(
            f"Another service (process {holder}) is using the data folder {data_dir}. "
            "Stop it first."
        ) from None
    with os.fdopen(handle, "r+", encoding="utf-8", errors="surrogateescape") as lock_file:
        socket_dir = Path(lock_file.read().partition("\n")[2])
        if socket_dir.name.startswith(SOCKET_DIR_PREFIX):
            shutil.rmtree(socket_dir, ignore_errors=True)
        lock_file.seek(0)
        lock_file.truncate()
        print(os.getpid(), file=lock_file, flush=True)
        yield lock_file


def wait_for_orphan(data_dir: Path, cluster: Path, user: ServerUser | None) -> int:
    """Stop a server that outlived its service; return a file descriptor that holds server.lock.

    Raises EmbeddedError if the server still runs after _ORPHAN_TIMEOUT.
    """
    deadline = time.monotonic() + _ORPHAN_TIMEOUT
    is_signalled = False
    while True:
        with suppress(BlockingIOError):
            return _lock(data_dir / "server.lock", user)
        status = read_postmaster_pid(cluster)
        if status and not is_signalled:  # on Linux PR_SET_PDEATHSIG has done so; twice is harmless
            is_signalled = True
            with suppress(ProcessLookupError, PermissionError):
                os.kill(int(status[0]), signal.SIGINT)
        if time.monotonic() > deadline:
            holder = status[0] if status else "unknown"
            raise EmbeddedError(
                f"The last PostgreSQL of {data_dir} (process {holder}) does not stop."
            )
        time.sleep(0.01)


def read_postmaster_pid(cluster: Path) -> list[str]:
    """Return the lines of postmaster.pid, or an empty list if there is none.

    The lines: process ID, data directory, start time, port, socket directory, listen address,
    shared memory key, status.
    """
    with suppress(FileNotFoundError):
        text = (cluster / "postmaster.pid").read_text(encoding="utf-8", errors="surrogateescape")
        return [line.strip() for line in text.splitlines()]
    return []


def remove_stale_pid_file(cluster: Path) -> None:
    """Remove a stale postmaster.pid: PostgreSQL does not start if its process ID was reused.

    Raises EmbeddedError if a server still accepts connections.
    """
    status = read_postmaster_pid(cluster)
    if status[4:5] and _accepts_connections(f"{status[4]}/.s.PGSQL.{status[3]}"):
        raise EmbeddedError(
            f"A PostgreSQL that no service started (process {status[0]}) uses {cluster}. Stop it."
        )
    (cluster / "postmaster.pid").unlink(missing_ok=True)


def _accepts_connections(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe, suppress(OSError):
        probe.connect(path)
        return True
    return False


def open_log(data_dir: Path, user: ServerUser | None) -> IO[bytes]:
    """Open a new postgres.log; the previous one becomes postgres.log.1."""
    path = data_dir / "postgres.log"
    with suppress(FileNotFoundError):
        path.replace(data_dir / "postgres.log.1")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND
    return os.fdopen(_open_file(path, flags, user), "wb")


def socket_parent_dir(data_dir: Path) -> Path:
    """Return the data directory if a socket path in it is valid, else the temporary directory."""
    path = bytes(data_dir / "run" / ".s.PGSQL.5432")
    # libpq splits hosts at commas, and the path becomes part of a URL, which is UTF-8.
    is_usable = len(path) <= _MAX_SOCKET_PATH_BYTES and b"," not in path and _is_utf8(path)
    return data_dir if is_usable else Path(tempfile.gettempdir()).resolve()


def _is_utf8(path: bytes) -> bool:
    with suppress(UnicodeDecodeError):
        path.decode()
        return True
    return False


def _open_file(path: Path, flags: int, user: ServerUser | None) -> int:
    # The server's user can create symbolic links here, which root must not follow.
    handle = os.open(path, flags | os.O_NOFOLLOW, 0o600)
    chown(path, user)
    return handle


def _lock(path: Path, user: ServerUser | None) -> int:
    """Return a file descriptor that holds the lock; raises BlockingIOError if it is taken."""
    handle = _open_file(path, os.O_RDWR | os.O_CREAT, user)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise
    return handle
