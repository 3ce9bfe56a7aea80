"""The service as a process of its own, and scratch databases; nothing of either is left behind."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

import asyncpg
import httpx
from sqlalchemy.engine import make_url

from tests.support.database import direct, variables

ROOT = Path(__file__).parents[2]
# Bounds for a process that hangs, on a machine that is busy with ten times as much.
START_SECONDS = 120.0
STOP_SECONDS = 60.0
# A service takes its settings from the environment alone, and so none from whoever runs the tests.
INHERITED = {"PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "COVERAGE_PROCESS_START", "PYTHONPATH"}


def environment(**settings: object) -> dict[str, str]:
    """The environment of a service with these settings and no others."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in INHERITED or name.startswith("COVERAGE")
    }
    given = {name: str(value) for name, value in settings.items()}
    reached = variables(given["DATABASE_URL"]) if "DATABASE_URL" in given else {}
    return {**kept, **reached, **given}


def command(name: str) -> list[str]:
    """The words that start `python -m app`."""
    return [sys.executable, "-m", "app", name]


def run(name: str, clone: Path = ROOT, /, **settings: object) -> subprocess.CompletedProcess[str]:
    """Run a command of the service to its end."""
    return run_words(command(name), settings, clone)


def run_words(
    words: list[str], settings: Mapping[str, object], clone: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    """Run a program with these settings to its end."""
    return subprocess.run(
        words,
        cwd=clone,
        env=environment(**settings),
        capture_output=True,
        text=True,
        check=False,
        timeout=START_SECONDS,
    )


def eventually(condition: Callable[[], object], seconds: float = STOP_SECONDS) -> None:
    """Wait until a condition holds; AssertionError when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.02)


async def until(condition: Callable[[], Awaitable[object]], seconds: float = STOP_SECONDS) -> None:
    """The same inside a running loop; TimeoutError when it does not hold in time."""
    async with asyncio.timeout(seconds):
        while True:
            if await condition():
                return
            await asyncio.sleep(0.01)


def is_refusing(port: int) -> bool:
    """Whether nobody listens on a port of this machine."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=10).close()
    except (ConnectionRefusedError, ConnectionResetError):  # reset as a listener closed
        return True
    return False


class Service:
    """A running `python -m app serve`, with what it has written so far."""

    def __init__(self, process: subprocess.Popen[bytes], out: Path, err: Path) -> None:
        self.process = process
        self._out = out
        self._err = err

    @property
    def out(self) -> str:
        """The log; complete when the process has ended."""
        return self._out.read_text("utf-8")

    @property
    def err(self) -> str:
        """What it told the person who started it."""
        return self._err.read_text("utf-8")

    @property
    def pid(self) -> int:
        """The service's own process, which need not be the one that was started here."""
        return int(self.told("process"))

    @property
    def url(self) -> str:
        """Where the API is, without its path."""
        return self.told("Tasks API").removesuffix("/api/v1")

    def told(self, label: str) -> str:
        """The word behind a label in what the service printed at its start."""
        line = re.search(rf"^{label} +(\S+)", self.err, re.MULTILINE)
        assert line, self.err
        return line[1]

    def await_alive(self) -> None:
        """Wait until the service answers."""

        def announced() -> bool:
            assert self.process.poll() is None, self.err + self.out
            return bool(re.search(r"^process +\d+", self.err, re.MULTILINE))

        eventually(announced, START_SECONDS)
        assert httpx.get(f"{self.url}/livez").status_code == 200

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and return the exit code."""
        os.kill(self.pid, number)
        return self.process.wait(STOP_SECONDS)


@contextmanager
def launched(
    words: list[str],
    settings: Mapping[str, object],
    clone: Path = ROOT,
    log: int | None = None,
) -> Iterator[Service]:
    """A process that serves, ended whatever happens; not yet answering.

    Its log goes to the file descriptor `log`, or to a file.
    """
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        with out.open("wb") as out_file, err.open("wb") as err_file:
            process = subprocess.Popen(
                words,
                cwd=clone,
                env=environment(**settings),
                stdin=subprocess.DEVNULL,
                stdout=out_file if log is None else log,
                stderr=err_file,
                start_new_session=True,
            )
        try:
            yield Service(process, out, err)
        finally:
            # Of SIGKILL the embedded server learns from the kernel, and stops by itself.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(STOP_SECONDS)


@contextmanager
def serving(clone: Path = ROOT, /, **settings: object) -> Iterator[Service]:
    """`python -m app serve`, answering; on any free port unless PORT is given.

    It ends with this process, also where that is killed.
    """
    settings = {"PORT": 0, "STOP_WITH_PARENT": os.getpid(), **settings}
    with launched(command("serve"), settings, clone) as service:
        service.await_alive()
        yield service


@contextmanager
def scratch_database(server_url: str, options: str = "") -> Iterator[str]:
    """The URL of an empty database on a server of the tests; not for use inside a running loop."""
    name = f"scratch_{uuid4().hex}"
    execute(server_url, f"CREATE DATABASE {name} {options}")
    try:
        yield with_database(server_url, name)
    finally:
        execute(server_url, f"DROP DATABASE {name} WITH (FORCE)")


def with_database(url: str, name: str) -> str:
    """The URL of another database on the same server."""
    return make_url(url).set(database=name).render_as_string(hide_password=False)


def execute(url: str, *statements: str) -> None:
    """Run statements, each in a transaction of its own."""

    async def on_a_connection() -> None:
        connection = await asyncpg.connect(direct(url))
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    asyncio.run(on_a_connection())


def fetch(url: str, query: str) -> list[tuple[object, ...]]:
    """The rows of a query."""

    async def on_a_connection() -> list[tuple[object, ...]]:
        connection = await asyncpg.connect(direct(url))
        try:
            return [tuple(row) for row in await connection.fetch(query)]
        finally:
            await connection.close()

    return asyncio.run(on_a_connection())
