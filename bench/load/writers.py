"""`task bench:writers`: the creates per second of 16 writers, for one user and for many.

Writers of one user wait for each other (research/0076). Two processes of the service share the
requests, so that the database decides. Exits with 1 if a request was not served.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from bench.compare.report import describe_machine
from bench.load.generator import LoadGenerator, percentile
from bench.load.workload import create_request, filled_database
from tests.support.long_task import progress, run
from tests.support.process import serving

WRITERS = 16
SECONDS = float(os.environ.get("WRITERS_SECONDS") or 10)
ROUNDS = 3
MAX_REQUESTS_PER_SECOND = 10_000
MANY = 1_000
REPORT = Path("reports/writers.md")


def measure() -> Iterator[tuple[int, float, float, float]]:
    """Yield the number of users, the creates per second, and p50 and p99 in milliseconds."""
    with (
        filled_database() as (url, _),
        serving(DATABASE_URL=url) as first,
        serving(DATABASE_URL=url) as second,
    ):
        ports = [int(service.url.rpartition(":")[2]) for service in (first, second)]
        generator = LoadGenerator(*ports, connections=WRITERS)
        for number in range(ROUNDS + 1):
            for users in (1, MANY):
                progress(f"round {number} of {ROUNDS}: {users} users")
                requests = [create_request(f"user-{n}") for n in range(users)]
                repeats = int(SECONDS * MAX_REQUESTS_PER_SECOND) // users
                load = generator.closed_loop(requests * repeats, WRITERS, SECONDS)
                assert not load.rejected, "the service rejected requests"
                assert not +load.other_statuses, load.other_statuses
                p50, p99 = (percentile(load.accepted, each) * 1000 for each in (50, 99))
                if number:  # the first round warms the service and creates the users
                    yield users, len(load.accepted) / load.duration, p50, p99
        generator.close()


def main() -> None:
    """Write the table."""
    lines = [
        f"Creates of {WRITERS} writers through two processes, {describe_machine()}",
        "",
        "| users | creates per second | p50 in ms | p99 in ms |",
        "|---:|---:|---:|---:|",
    ]
    print(*lines, sep="\n", flush=True)
    for users, rate, p50, p99 in measure():
        lines.append(f"| {users:,} | {rate:,.0f} | {p50:.1f} | {p99:.1f} |")
        print(lines[-1], flush=True)
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text("\n".join([*lines, ""]), "utf-8")


if __name__ == "__main__":
    run(main)
