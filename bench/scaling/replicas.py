"""`task bench:replicas`: one, two, four and eight processes on one database, through PgBouncer.

The processor time of all of them together is what a larger machine would divide: where it
stays the same for a request, processes do not stand in each other's way.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

from msgspec import Struct

from app.db.migrations import upgrade
from app.settings import Settings
from bench.compare.data import cpu_seconds
from bench.load.generator import LoadGenerator
from bench.load.workload import FILL, mix
from tests.support.long_task import progress, run
from tests.support.process import Service, execute, fetch, serving
from tools.postgres import pgbouncer, postgres

PROCESSES = (1, 2, 4, 8)
CLIENTS = 32
REQUESTS = 6_000
MAJOR = 18
SESSIONS = """
    SELECT count(*) FROM pg_stat_activity
    WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
"""


class Figures(Struct, frozen=True):
    """What so many processes did."""

    processes: int
    per_second: float
    processor: float
    """Microseconds of all processes for a request."""
    opened: int
    """Connections of the processes to PgBouncer."""
    sessions: int
    """Connections of PgBouncer to the database."""


def measure(url: str, behind: str, processes: int) -> Figures:
    """Load so many processes evenly."""
    settings = {
        "DATABASE_URL": url,
        "DATABASE_DIRECT_URL": behind,
        "DATABASE_TRANSACTION_POOLING": "true",
    }
    with ExitStack() as stack:
        services = [
            stack.enter_context(
                serving(**settings, MAX_CONCURRENT_REQUESTS=CLIENTS, LOG_FORMAT="json")
            )
            for _ in range(processes)
        ]
        ports = [urlsplit(service.url).port or 0 for service in services]
        generator = LoadGenerator(*ports, connections=CLIENTS)
        stack.callback(generator.close)
        generator.closed_loop(mix(services[0].url, REQUESTS // 4, seed=0), CLIENTS)
        requests = mix(services[0].url, REQUESTS)
        before = _processor(services)
        load = generator.closed_loop(requests, CLIENTS)
        spent = _processor(services) - before
        assert len(load.accepted) == REQUESTS, load.other_statuses
        opened = sum(_opened(service.pid, urlsplit(url).port or 0) for service in services)
        ((sessions,),) = fetch(behind, SESSIONS)
    return Figures(
        processes,
        REQUESTS / load.duration,
        spent / REQUESTS * 1e6,
        opened,
        int(str(sessions)),
    )


def _processor(services: list[Service]) -> float:
    return sum(cpu_seconds(service.pid) for service in services)


def _opened(pid: int, port: int) -> int:
    """How many connections a process has to a port (Linux)."""
    sockets = {
        link.name
        for entry in Path(f"/proc/{pid}/fd").iterdir()
        if (link := entry.readlink()).name.startswith("socket:")
    }
    rows = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text("ascii").splitlines()]
    return sum(
        row[2].endswith(f":{port:04X}") and f"socket:[{row[9]}]" in sockets for row in rows[1:]
    )


def all_figures() -> Iterator[Figures]:
    """One after the other, on one database."""
    with postgres.running(MAJOR) as server, pgbouncer.running(server) as pooler:
        variables = {"DATABASE_URL": server.url()}
        upgrade(Settings.from_env(variables).database_config())
        execute(server.url(), FILL, "VACUUM ANALYZE tasks")
        for processes in PROCESSES:
            progress(f"{processes} processes")
            yield measure(pooler.url(), server.url(), processes)


def main() -> int:
    """Print a table; 1 when the database sees more connections than the pooler may have."""
    print("| processes | requests/s | processor, us/request | to PgBouncer | to PostgreSQL |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    bounded = True
    for one in all_figures():
        print(
            f"| {one.processes} | {one.per_second:,.0f} | {one.processor:.0f} "
            f"| {one.opened} | {one.sessions} |",
            flush=True,
        )
        bounded = bounded and one.sessions <= pgbouncer.POOL_SIZE
    return 0 if bounded else 1


if __name__ == "__main__":
    run(main)
