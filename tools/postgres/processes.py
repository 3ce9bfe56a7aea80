"""Programs that refuse to run as root, started as somebody else and always stopped."""

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

READY_SECONDS = 30.0
STOP_SECONDS = 10.0


@contextmanager
def folder(*programs: Path) -> Iterator[tuple[Path, ServerUser | None]]:
    """A folder for a daemon's files, and whom it runs as; removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="tasks-backend-") as name:
        path = Path(name)
        account = choose_user(path / "none", [path.parent, *programs])
        chown(path, account)
        yield path, account


def write(path: Path, text: str, account: ServerUser | None) -> Path:
    """A file that the daemon alone may read: keys and passwords are among them."""
    path.touch(mode=0o600)
    path.write_text(text, "utf-8")
    chown(path, account)
    return path


def finish(words: Sequence[str], account: ServerUser | None, log: Path) -> None:
    """Run a program to its end. Raises CalledProcessError when it fails."""
    with log.open("ab") as out:
        subprocess.run(
            words,
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            cwd="/",
            timeout=READY_SECONDS,
            preexec_fn=make_preexec_fn(account),
        )


@contextmanager
def daemon(
    words: Sequence[str], account: ServerUser | None, log: Path, ready: Callable[[], bool]
) -> Iterator[subprocess.Popen[bytes]]:
    """A program in the foreground for the length of the block, ready at its start."""
    with log.open("ab") as out:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            cwd="/",
            start_new_session=True,
            preexec_fn=make_preexec_fn(account),  # noqa: PLW1509 - it takes no locks
        )
    try:
        deadline = time.monotonic() + READY_SECONDS
        while not ready():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{words[0]} did not start:\n{log.read_text('utf-8')}")
            time.sleep(0.05)
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on at the moment."""
    with socket.create_server((host, 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def is_listening(host: str, port: int) -> bool:
    """Whether somebody takes connections there."""
    with suppress(OSError), socket.create_connection((host, port), 1):
        return True
    return False
