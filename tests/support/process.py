"""The service as a separate process, and scratch databases. Both are removed after use."""

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

from tests.support.database import database_variables, direct_url

ROOT = Path(__file__).parents[2]
# Timeouts for a hanging process, with a margin of ten for a busy machine.
START_TIMEOUT = 120.0
STOP_TIMEOUT = 60.0
# The service reads its settings from the environment, so it must not inherit other variables.
INHERITED = {"PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "COVERAGE_PROCESS_START", "PYTHONPATH"}


def environment(**settings: object) -> dict[str, str]:
    """Return the environment of a service with only these settings."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name in INHERITED or name.startswith("COVERAGE")
    }
    values = {name: str(value) for name, value in settings.items()}
    database = database_variables(values["DATABASE_URL"]) if "DATABASE_URL" in values else {}
    return {**inherited, **database, **values}


def command(name: str) -> list[str]:
    """Return the arguments that run a command of `python -m app`."""
    return [sys.executable, "-m", "app", name]


def run(name: str, clone: Path = ROOT, /, **settings: object) -> subprocess.CompletedProcess[str]:
    """Run a command of the service and wait for its end."""
    return run_program(command(name), settings, clone)


def run_program(
    arguments: list[str], settings: Mapping[str, object], clone: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    """Run a program with these settings and wait for its end."""
    return subprocess.run(
        arguments,
        cwd=clone,
        env=environment(**settings),
        capture_output=True,
        text=True,
        check=False,
        timeout=START_TIMEOUT,
    )


def eventually(condition: Callable[[], object], timeout: float = STOP_TIMEOUT) -> None:
    """Wait until a condition is true, else raise AssertionError."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout} s"
        time.sleep(0.02)


async def until(condition: Callable[[], Awaitable[object]], seconds: float = STOP_TIMEOUT) -> None:
    """Wait until a condition is true, else raise TimeoutError."""
    async with asyncio.timeout(seconds):
        while True:
            if await condition():
                return
            await asyncio.sleep(0.01)


def is_port_closed(port: int) -> bool:
    """Return whether no process listens on a port of this machine."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=10).close()
    except (ConnectionRefusedError, ConnectionResetError):  # the listener closed just now
        return True
    return False


class Service:
    """A running `python -m app serve`, and its output."""

    def __init__(self, process: subprocess.Popen[bytes], out: Path, err: Path) -> None:
        self.process = process
        self._out = out
        self._err = err

    @property
    def out(self) -> str:
        """The log so far."""
        return self._out.read_text("utf-8")

    @property
    def err(self) -> str:
        """The standard error so far, with the addresses of the service."""
        return self._err.read_text("utf-8")

    @property
    def pid(self) -> int:
        """The process id of the service, which may be a child of the started process."""
        return int(self.startup_value("process"))

    @property
    def url(self) -> str:
        """The base URL of the API, without its path."""
        return self.startup_value("Tasks API").removesuffix("/api/v1")

    def startup_value(self, label: str) -> str:
        """Return the value of a label in the startup output."""
        line = re.search(rf"^{label} +(\S+)", self.err, re.MULTILINE)
        assert line, self.err
        return line[1]

    def await_alive(self) -> None:
        """Wait until the service responds."""

        def announced() -> bool:
            assert self.process.poll() is None, self.err + self.out
            return bool(re.search(r"^process +\d+", self.err, re.MULTILINE))

        eventually(announced, START_TIMEOUT)
        assert httpx.get(f"{self.url}/livez").status_code == 200

    def stop(self, signal_number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and return the exit code."""
        os.kill(self.pid, signal_number)
        return self.process.wait(STOP_TIMEOUT)


@contextmanager
def launch_service(
    arguments: list[str],
    settings: Mapping[str, object],
    clone: Path = ROOT,
    log: int | None = None,
) -> Iterator[Service]:
    """Start a service and kill it at the end. It may not respond yet.

    Its log goes to the file descriptor `log`, or to a temporary file.
    """
    with tempfile.TemporaryDirectory() as directory:
        out, err = Path(directory) / "out", Path(directory) / "err"
        with out.open("wb") as out_file, err.open("wb") as err_file:
            process = subprocess.Popen(
                arguments,
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
            # After SIGKILL, the embedded server gets its parent-death signal and stops.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(STOP_TIMEOUT)


@contextmanager
def serving(clone: Path = ROOT, /, **settings: object) -> Iterator[Service]:
    """Start `python -m app serve`, on a free port unless PORT is given, and wait until it responds.

    It stops with this process, even if this process is killed.
    """
    settings = {"PORT": 0, "STOP_WITH_PARENT": os.getpid(), **settings}
    with launch_service(command("serve"), settings, clone) as service:
        service.await_alive()
        yield service


@contextmanager
def scratch_database(server_url: str, options: str = "") -> Iterator[str]:
    """Create an empty database and drop it at the end. Not for use in a running event loop."""
    name = f"scratch_{uuid4().hex}"
    execute(server_url, f"CREATE DATABASE {name} {options}")
    try:
        yield with_database(server_url, name)
    finally:
        execute(server_url, f"DROP DATABASE {name} WITH (FORCE)")


def with_database(url: str, name: str) -> str:
    """Return the URL of another database on the same server."""
    return make_url(url).set(database=name).render_as_string(hide_password=False)


def execute(url: str, *statements: str) -> None:
    """Run each statement in its own transaction."""

    async def on_a_connection() -> None:
        connection = await asyncpg.connect(direct_url(url))
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    asyncio.run(on_a_connection())


def fetch(url: str, query: str) -> list[tuple[object, ...]]:
    """Return the rows of a query."""

    async def on_a_connection() -> list[tuple[object, ...]]:
        connection = await asyncpg.connect(direct_url(url))
        try:
            return [tuple(row) for row in await connection.fetch(query)]
        finally:
            await connection.close()

    return asyncio.run(on_a_connection())
