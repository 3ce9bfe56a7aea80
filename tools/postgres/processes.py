"""Start and stop programs that cannot run as root, as another user."""

from __future__ import annotations

import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from app.embedded_postgres.user import ServerUser, choose_user, chown, make_preexec_fn

START_TIMEOUT = 30.0
STOP_TIMEOUT = 10.0


@contextmanager
def folder(*programs: Path) -> Iterator[tuple[Path, ServerUser | None]]:
    """Yield a temporary folder for a daemon's files, and the user that it runs as."""
    with tempfile.TemporaryDirectory(prefix="tasks-backend-") as name:
        path = Path(name)
        user = choose_user(path / "none", [path.parent, *programs])
        chown(path, user)
        yield path, user


def write(path: Path, text: str, user: ServerUser | None) -> Path:
    """Write a file that only the daemon can read, because some contain keys or passwords."""
    path.touch(mode=0o600)
    path.write_text(text, "utf-8")
    chown(path, user)
    return path


def finish(argv: Sequence[str], user: ServerUser | None, log: Path) -> None:
    """Run a program. Raise CalledProcessError if it fails."""
    with log.open("ab") as out:
        subprocess.run(
            argv,
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            cwd="/",
            timeout=START_TIMEOUT,
            preexec_fn=make_preexec_fn(user),
        )


@contextmanager
def daemon(
    argv: Sequence[str], user: ServerUser | None, log: Path, is_ready: Callable[[], bool]
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a program in the foreground, wait until it is ready, and yield it."""
    with log.open("ab") as out:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            cwd="/",
            start_new_session=True,
            preexec_fn=make_preexec_fn(user),  # noqa: PLW1509 - the function takes no locks
        )
    try:
        deadline = time.monotonic() + START_TIMEOUT
        while not is_ready():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{argv[0]} did not start:\n{log.read_text('utf-8')}")
            time.sleep(0.05)
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_port(host: str = "127.0.0.1") -> int:
    """Return a free port."""
    with socket.create_server((host, 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def is_listening(host: str, port: int) -> bool:
    """Return whether a program accepts connections there."""
    with suppress(OSError), socket.create_connection((host, port), 1):
        return True
    return False
