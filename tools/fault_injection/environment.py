"""The environment of a fault: a database, a network and the service."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tests.support.process import Service, serving
from tools.fault_injection.balancer import Balancer, run_balancer
from tools.fault_injection.contract import CHECK
from tools.fault_injection.pooler import Pooler
from tools.fault_injection.postgres import MissingToolError, Postgres, small_disk
from tools.fault_injection.proxy import Proxy, run_proxy
from tools.postgres.processes import free_port

PROBE_INTERVAL = 0.1
PROBE_TIMEOUT = 10.0
FAKETIME = "libfaketime.so.1"


class Replica:
    """A service that can be stopped and started again."""

    def __init__(self, settings: Mapping[str, object]) -> None:
        self.port = free_port()
        self.settings = {
            "LOG_LEVEL": "warning",
            "STOP_WITH_PARENT": os.getpid(),
            **settings,
            "PORT": self.port,
        }
        self._running = ExitStack()
        self.service: Service | None = None

    async def start(self) -> None:
        self._running.close()
        context = serving(**self.settings)
        self.service = await asyncio.to_thread(self._running.enter_context, context)

    @property
    def pid(self) -> int:
        assert self.service
        return self.service.process.pid

    def address_space(self) -> int:
        """Return the size of the address space in bytes (Linux)."""
        pages = Path(f"/proc/{self.pid}/statm").read_text("ascii").split()[0]
        return int(pages) * resource.getpagesize()

    @property
    def is_running(self) -> bool:
        return self.service is not None and self.service.process.poll() is None

    async def send_signal(self, number: signal.Signals) -> tuple[int, float]:
        """Send a signal and wait. Return the exit code and the seconds until the end."""
        assert self.service
        started_at = time.monotonic()
        self.service.process.send_signal(number)
        exit_code = await asyncio.to_thread(self.service.process.wait, 30)
        return exit_code, time.monotonic() - started_at

    def close(self) -> None:
        self._running.close()


@dataclass
class Environment:
    """Everything that a fault can change."""

    postgres: Postgres
    proxy: Proxy
    replicas: list[Replica]
    url: str  # of the service or the balancer
    balancer: Balancer | None = None
    pooler: Pooler | None = None
    disk: Path | None = None
    clock: Path | None = None  # the file that sets the time
    errors: list[str] = field(default_factory=list)  # found by the fault

    @property
    def replica(self) -> Replica:
        return self.replicas[0]


@dataclass
class Probe:
    """Probes /readyz and /livez, and records the responses."""

    responses: list[tuple[float, float, str, int]] = field(default_factory=list)
    """Start, end, path and status; the status is 0 without a response."""
    undocumented: list[str] = field(default_factory=list)

    async def run(self, url: str) -> None:
        """Probe until cancelled."""
        async with (
            httpx.AsyncClient(base_url=url, timeout=PROBE_TIMEOUT, trust_env=False) as client,
            asyncio.TaskGroup() as group,
        ):
            group.create_task(self._probe(client, "/readyz"))
            group.create_task(self._probe(client, "/livez"))

    async def _probe(self, client: httpx.AsyncClient, path: str) -> None:
        while True:
            started_at, status = time.monotonic(), 0
            try:
                # Orchestrators open a connection for each probe.
                response = await client.get(path, headers={"Connection": "close"})
                status = response.status_code
                CHECK.check("GET", path, response)
            except httpx.TransportError:
                pass  # no response
            except AssertionError as error:
                self.undocumented.append(f"GET {path}: {error}")
            self.responses.append((started_at, time.monotonic(), path, status))
            await asyncio.sleep(PROBE_INTERVAL)

    def statuses(self, path: str, start: float, end: float) -> list[int]:
        """Return the statuses of probes that started and ended in an interval."""
        return [
            status
            for started_at, ended_at, probed_path, status in self.responses
            if probed_path == path and start <= started_at and ended_at <= end
        ]

    def first_success(self, path: str, after: float) -> float | None:
        """Return the time of the first 200 after `after`."""
        return next(
            (
                ended_at
                for _, ended_at, probed_path, status in self.responses
                if probed_path == path and ended_at > after and status == 200
            ),
            None,
        )


@dataclass(frozen=True)
class Setup:
    """The options of an environment."""

    pooler: bool = False
    replicas: int = 1
    megabytes: int = 0  # size of the database's disk; 0 is the machine's disk
    is_log_disk: bool = False  # that disk has the write-ahead log instead of the tables
    service_clock: bool = False
    database_clock: bool = False

    @asynccontextmanager
    async def open(self, postgres: Postgres, directory: Path) -> AsyncIterator[Environment]:
        """Start the environment with a running service. Raises MissingToolError."""
        clock, fake_clock = self._clock(directory) if self.has_clock else (None, {})
        with self._disk(postgres) as disk:
            if self.database_clock:
                await postgres.stop()
                await postgres.start(fake_clock)
            if disk and self.is_log_disk:
                await postgres.move_log(disk)
            await postgres.create_schema(None if self.is_log_disk else disk)
            try:
                async with self._network(postgres, directory) as (pooler, proxy):
                    settings: dict[str, object] = {"DATABASE_URL": postgres.url_at(proxy.port)}
                    settings |= fake_clock if self.service_clock else {}
                    settings |= {"DATABASE_TRANSACTION_POOLING": "true"} if pooler else {}
                    async with self._service(settings) as (replicas, url, balancer):
                        yield Environment(
                            postgres, proxy, replicas, url, balancer, pooler, disk, clock
                        )
            finally:
                await self._restore(postgres)

    async def _restore(self, postgres: Postgres) -> None:
        if self.database_clock:
            await postgres.stop()
            await postgres.start()
        if self.is_log_disk:
            await postgres.move_log(None)
        elif self.megabytes:
            await postgres.drop_tablespace()

    @contextmanager
    def _disk(self, postgres: Postgres) -> Iterator[Path | None]:
        if self.megabytes:
            with small_disk(postgres.user, self.megabytes) as disk:
                yield disk
        else:
            yield None

    @asynccontextmanager
    async def _network(
        self, postgres: Postgres, directory: Path
    ) -> AsyncIterator[tuple[Pooler | None, Proxy]]:
        """Start the proxy, and the pooler if the setup has one."""
        if not self.pooler:
            async with run_proxy(postgres.port) as proxy:
                yield None, proxy
            return
        pooler_directory = directory / f"pooler-{time.monotonic_ns()}"
        pooler = Pooler(pooler_directory, postgres.port, postgres.user)
        await pooler.start()
        try:
            async with run_proxy(pooler.port) as proxy:
                yield pooler, proxy
        finally:
            pooler.stop()

    @asynccontextmanager
    async def _service(
        self, settings: Mapping[str, object]
    ) -> AsyncIterator[tuple[list[Replica], str, Balancer | None]]:
        """Start the replicas. Yield them, the URL for clients, and the balancer."""
        replicas = [Replica(settings) for _ in range(self.replicas)]
        try:
            for replica in replicas:
                await replica.start()
            ports = [replica.port for replica in replicas]
            if len(ports) == 1:
                yield replicas, f"http://127.0.0.1:{ports[0]}", None
            else:
                async with run_balancer(ports) as balancer:
                    yield replicas, f"http://127.0.0.1:{balancer.port}", balancer
        finally:
            for replica in replicas:
                await asyncio.to_thread(replica.close)

    @property
    def has_clock(self) -> bool:
        return self.service_clock or self.database_clock

    def _clock(self, directory: Path) -> tuple[Path, dict[str, str]]:
        """Return the file that sets the time, and environment variables for libfaketime."""
        library = next(Path("/usr/lib").glob(f"*/faketime/{FAKETIME}"), None)
        if library is None:
            raise MissingToolError("libfaketime is not installed (Debian's package faketime)")
        file = directory / "clock"
        file.write_text("+0\n", "ascii")
        file.chmod(0o644)
        return file, {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_NO_CACHE": "1",
            # Setting a clock changes only the time of day.
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
