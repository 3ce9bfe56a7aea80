"""`task bench:replicas`: one, two, four and eight processes on one database, through PgBouncer.

If the CPU time per request, summed over all processes, is constant, the service scales with the
number of CPUs.
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
COUNT_SESSIONS = """
    SELECT count(*) FROM pg_stat_activity
    WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
"""


class Result(Struct, frozen=True):
    """The result for a number of processes."""

    processes: int
    requests_per_second: float
    cpu_time: float
    """Microseconds per request, summed over all processes."""
    client_connections: int
    """Connections of the processes to PgBouncer."""
    server_connections: int
    """Connections of PgBouncer to the database."""


def measure(url: str, direct_url: str, processes: int) -> Result:
    """Start the processes and divide a load evenly between them."""
    settings = {
        "DATABASE_URL": url,
        "DATABASE_DIRECT_URL": direct_url,
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
        cpu_before = _cpu_seconds(services)
        load = generator.closed_loop(requests, CLIENTS)
        cpu_time = _cpu_seconds(services) - cpu_before
        assert len(load.accepted) == REQUESTS, load.other_statuses
        client_connections = sum(
            _count_connections(service.pid, urlsplit(url).port or 0) for service in services
        )
        ((server_connections,),) = fetch(direct_url, COUNT_SESSIONS)
    return Result(
        processes,
        REQUESTS / load.duration,
        cpu_time / REQUESTS * 1e6,
        client_connections,
        int(str(server_connections)),
    )


def _cpu_seconds(services: list[Service]) -> float:
    return sum(cpu_seconds(service.pid) for service in services)


def _count_connections(pid: int, port: int) -> int:
    """Return the number of connections of a process to a port (Linux)."""
    sockets = {
        link.name
        for entry in Path(f"/proc/{pid}/fd").iterdir()
        if (link := entry.readlink()).name.startswith("socket:")
    }
    rows = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text("ascii").splitlines()]
    return sum(
        row[2].endswith(f":{port:04X}") and f"socket:[{row[9]}]" in sockets for row in rows[1:]
    )


def measure_all() -> Iterator[Result]:
    with postgres.running(MAJOR) as server, pgbouncer.running(server) as pooler:
        variables = {"DATABASE_URL": server.url()}
        upgrade(Settings.from_env(variables).database_config())
        execute(server.url(), FILL, "VACUUM ANALYZE tasks")
        for processes in PROCESSES:
            progress(f"{processes} processes")
            yield measure(pooler.url(), server.url(), processes)


def main() -> int:
    """Print a table. Return 1 if the database has more connections than the pooler's limit."""
    print("| processes | requests/s | CPU, us/request | to PgBouncer | to PostgreSQL |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    within_limit = True
    for result in measure_all():
        print(
            f"| {result.processes} | {result.requests_per_second:,.0f} | {result.cpu_time:.0f} "
            f"| {result.client_connections} | {result.server_connections} |",
            flush=True,
        )
        within_limit = within_limit and result.server_connections <= pgbouncer.POOL_SIZE
    return 0 if within_limit else 1


if __name__ == "__main__":
    run(main)
