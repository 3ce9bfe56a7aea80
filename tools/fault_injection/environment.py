"""What a fault is injected into: a database, a network before it, and the service."""

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
from tools.fault_injection.balancer import Balancer, balanced
from tools.fault_injection.contract import CHECK
from tools.fault_injection.pooler import Pooler
from tools.fault_injection.postgres import MissingToolError, Postgres, small_disk
from tools.fault_injection.proxy import Proxy, proxied
from tools.postgres.processes import free_port

PROBE_SECONDS = 0.1
PROBE_LIMIT_SECONDS = 10.0
FAKETIME = "libfaketime.so.1"


class Replica:
    """One service that can be ended and started again, as an orchestrator does."""

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
    def process_id(self) -> int:
        assert self.service
        return self.service.process.pid

    def address_space(self) -> int:
        """How much memory it has mapped, in bytes (Linux)."""
        pages = Path(f"/proc/{self.process_id}/statm").read_text("ascii").split()[0]
        return int(pages) * resource.getpagesize()

    @property
    def is_running(self) -> bool:
        return self.service is not None and self.service.process.poll() is None

    async def end(self, number: signal.Signals) -> tuple[int, float]:
        """Send a signal and wait; the exit code, and the seconds it took."""
        assert self.service
        began = time.monotonic()
        self.service.process.send_signal(number)
        code = await asyncio.to_thread(self.service.process.wait, 30)
        return code, time.monotonic() - began

    def close(self) -> None:
        self._running.close()


@dataclass
class Stage:
    """Everything that a fault may lay hands on."""

    postgres: Postgres
    proxy: Proxy
    replicas: list[Replica]
    url: str  # where the clients send their requests
    balancer: Balancer | None = None
    pooler: Pooler | None = None
    disk: Path | None = None
    clock: Path | None = None  # the file by which the time is set
    complaints: list[str] = field(default_factory=list)  # of the fault itself

    @property
    def replica(self) -> Replica:
        return self.replicas[0]


@dataclass
class Probe:
    """What the probes of a balancer and of an orchestrator were told."""

    answers: list[tuple[float, float, str, int]] = field(default_factory=list)
    undocumented: list[str] = field(default_factory=list)

    async def run(self, url: str) -> None:
        """Ask /readyz and /livez again and again."""
        async with (
            httpx.AsyncClient(base_url=url, timeout=PROBE_LIMIT_SECONDS, trust_env=False) as client,
            asyncio.TaskGroup() as group,
        ):
            group.create_task(self._ask(client, "/readyz"))
            group.create_task(self._ask(client, "/livez"))

    async def _ask(self, client: httpx.AsyncClient, path: str) -> None:
        while True:
            began, status = time.monotonic(), 0
            try:
                # As probes do: a connection for each.
                response = await client.get(path, headers={"Connection": "close"})
                status = response.status_code
                CHECK.check("GET", path, response)
            except httpx.TransportError:
                pass  # no status at all
            except AssertionError as violation:
                self.undocumented.append(f"GET {path}: {violation}")
            self.answers.append((began, time.monotonic(), path, status))
            await asyncio.sleep(PROBE_SECONDS)

    def statuses(self, path: str, since: float, to: float) -> list[int]:
        """The answers to requests that began and ended between two instants."""
        return [
            status
            for began, ended, asked, status in self.answers
            if asked == path and since <= began and ended <= to
        ]

    def first(self, path: str, since: float) -> float | None:
        """The instant of the first 200 after another."""
        return next(
            (e for _, e, p, s in self.answers if p == path and e > since and s == 200), None
        )


@dataclass(frozen=True)
class Scene:
    """How a stage is set."""

    pooler: bool = False
    replicas: int = 1
    megabytes: int = 0  # of the database's disk; 0 is the machine's own
    is_of_log: bool = False  # that disk holds the write-ahead log, and not the tables
    service_clock: bool = False
    database_clock: bool = False

    @asynccontextmanager
    async def set(self, postgres: Postgres, folder: Path) -> AsyncIterator[Stage]:
        """The stage, with the service answering. Raises MissingToolError."""
        clock, fake = self._clock(folder) if self.has_clock else (None, {})
        with self._disk(postgres) as disk:
            if self.database_clock:
                await postgres.shut_down()
                await postgres.start(fake)
            if disk and self.is_of_log:
                await postgres.move_log(disk)
            await postgres.prepare(None if self.is_of_log else disk)
            try:
                async with self._network(postgres, folder) as (pooler, proxy):
                    settings: dict[str, object] = {"DATABASE_URL": postgres.url_at(proxy.port)}
                    settings |= fake if self.service_clock else {}
                    settings |= {"DATABASE_TRANSACTION_POOLING": "true"} if pooler else {}
                    async with self._service(settings) as (replicas, url, balancer):
                        yield Stage(postgres, proxy, replicas, url, balancer, pooler, disk, clock)
            finally:
                await self._clear(postgres)

    async def _clear(self, postgres: Postgres) -> None:
        if self.database_clock:
            await postgres.shut_down()
            await postgres.start()
        if self.is_of_log:
            await postgres.move_log(None)
        elif self.megabytes:
            await postgres.drop_tablespace()

    @contextmanager
    def _disk(self, postgres: Postgres) -> Iterator[Path | None]:
        if self.megabytes:
            with small_disk(postgres.account, self.megabytes) as disk:
                yield disk
        else:
            yield None

    @asynccontextmanager
    async def _network(
        self, postgres: Postgres, folder: Path
    ) -> AsyncIterator[tuple[Pooler | None, Proxy]]:
        """The way from the service to the database."""
        if not self.pooler:
            async with proxied(postgres.port) as proxy:
                yield None, proxy
            return
        place = folder / f"pooler-{time.monotonic_ns()}"
        pooler = Pooler(place, postgres.port, postgres.account)
        await pooler.start()
        try:
            async with proxied(pooler.port) as proxy:
                yield pooler, proxy
        finally:
            pooler.stop()

    @asynccontextmanager
    async def _service(
        self, settings: Mapping[str, object]
    ) -> AsyncIterator[tuple[list[Replica], str, Balancer | None]]:
        """The replicas, where their clients find them, and what stands there."""
        replicas = [Replica(settings) for _ in range(self.replicas)]
        try:
            for replica in replicas:
                await replica.start()
            ports = [replica.port for replica in replicas]
            if len(ports) == 1:
                yield replicas, f"http://127.0.0.1:{ports[0]}", None
            else:
                async with balanced(ports) as balancer:
                    yield replicas, f"http://127.0.0.1:{balancer.port}", balancer
        finally:
            for replica in replicas:
                await asyncio.to_thread(replica.close)

    @property
    def has_clock(self) -> bool:
        return self.service_clock or self.database_clock

    def _clock(self, folder: Path) -> tuple[Path, dict[str, str]]:
        """A file that sets the time of a process, and the environment that makes it do so."""
        library = next(Path("/usr/lib").glob(f"*/faketime/{FAKETIME}"), None)
        if library is None:
            raise MissingToolError("libfaketime is not installed (Debian's package faketime)")
        file = folder / "clock"
        file.write_text("+0\n", "ascii")
        file.chmod(0o644)
        return file, {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_NO_CACHE": "1",
            # A clock that is set changes the time of day alone.
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
