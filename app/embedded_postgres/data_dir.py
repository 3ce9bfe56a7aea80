"""The data folder: its locks, what a crash left in it, its log, the place of the socket."""

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
_MAX_SOCKET_PATH_BYTES = 103  # macOS; Linux would take 107
# initdb of a start that was killed runs to its end first, which takes long on a busy machine.
_ORPHAN_TIMEOUT = 30.0


@contextmanager
def lock_data_dir(folder: Path, account: ServerUser | None) -> Generator[IO[str]]:
    """Hold the folder; yields a record for the name of a socket folder elsewhere."""
    path = folder / "service.lock"
    try:
        handle = _lock(path, account)
    except BlockingIOError:
        holder = path.read_text(encoding="utf-8", errors="replace").partition("\n")[0] or "unknown"
        raise EmbeddedError(
            f"Another service (process {holder}) is using the data folder {folder}. Stop it first."
        ) from None
    with os.fdopen(handle, "r+", encoding="utf-8", errors="surrogateescape") as record:
        left = Path(record.read().partition("\n")[2])
        if left.name.startswith(SOCKET_DIR_PREFIX):
            shutil.rmtree(left, ignore_errors=True)
        record.seek(0)
        record.truncate()
        print(os.getpid(), file=record, flush=True)
        yield record


def wait_for_orphan(folder: Path, cluster: Path, account: ServerUser | None) -> int:
    """Wait for a server that outlived its service; returns a descriptor that holds server.lock."""
    deadline = time.monotonic() + _ORPHAN_TIMEOUT
    is_told = False
    while True:
        with suppress(BlockingIOError):
            return _lock(folder / "server.lock", account)
        status = read_postmaster_pid(cluster)
        if status and not is_told:  # Linux has told it already, which does no harm
            is_told = True
            with suppress(ProcessLookupError, PermissionError):
                os.kill(int(status[0]), signal.SIGINT)
        if time.monotonic() > deadline:
            holder = status[0] if status else "unknown"
            raise EmbeddedError(
                f"The last PostgreSQL of {folder} (process {holder}) does not stop."
            )
        time.sleep(0.01)


def read_postmaster_pid(cluster: Path) -> list[str]:
    """Return postmaster.pid: pid, data, start time, port, socket folder, host, memory, status."""
    with suppress(FileNotFoundError):
        text = (cluster / "postmaster.pid").read_text(encoding="utf-8", errors="surrogateescape")
        return [line.strip() for line in text.splitlines()]
    return []


def remove_stale_pid_file(cluster: Path) -> None:
    """Remove what a crash left: its process number may be another's by now and wedge a start."""
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


def open_log(folder: Path, account: ServerUser | None) -> IO[bytes]:
    """Return the log of this run, opened; that of the last one stays beside it."""
    path = folder / "postgres.log"
    with suppress(FileNotFoundError):
        path.replace(folder / "postgres.log.1")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND
    return os.fdopen(_open_file(path, flags, account), "wb")


def socket_parent_dir(folder: Path) -> Path:
    """Return where to make the socket folder: in ours, or elsewhere if its path cannot be used."""
    path = bytes(folder / "run" / ".s.PGSQL.5432")
    # Clients read a comma as the start of a second host, and a URL holds UTF-8.
    is_usable = len(path) <= _MAX_SOCKET_PATH_BYTES and b"," not in path and _is_utf8(path)
    return folder if is_usable else Path(tempfile.gettempdir()).resolve()


def _is_utf8(path: bytes) -> bool:
    with suppress(UnicodeDecodeError):
        path.decode()
        return True
    return False


def _open_file(path: Path, flags: int, account: ServerUser | None) -> int:
    # The server's user may write in this folder: root must not follow a link it has laid there.
    handle = os.open(path, flags | os.O_NOFOLLOW, 0o600)
    chown(path, account)
    return handle


def _lock(path: Path, account: ServerUser | None) -> int:
    """Return a descriptor that holds the lock; raises BlockingIOError when another one does."""
    handle = _open_file(path, os.O_RDWR | os.O_CREAT, account)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise
    return handle
