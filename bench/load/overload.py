"""`task bench:load`: load a service with 1, 3 and 10 times its capacity.

Prints a row for each load. Exits with 1 if a goal is missed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import NamedTuple

from app.settings import Settings
from bench.load.generator import LoadGenerator, LoadResult, percentile
from bench.load.workload import cpu_seconds, loaded_service, memory, mix
from tests.support.long_task import progress, run
from tests.support.process import Service

LOAD_SECONDS = 8.0
# A sudden load fills the concurrency limit before the service can detect an overload.
FIRST_SECONDS = 1.0
CLOSED_LOOP_SECONDS = 4.0
UNLOADED_SHARE = 0.1  # of the capacity
UNLOADED_REQUESTS = 300  # enough for a 99th percentile
MAX_UNLOADED_SECONDS = 30.0
MAX_REQUESTS = 400_000
BURSTS = 10  # consecutive bursts that must be served completely
BURST_PAUSE = 0.05  # seconds
BROWSER_CONNECTIONS = 6  # per host
PAUSE_SECONDS = 1.0


class Goal(NamedTuple):
    """The limits at a multiple of the capacity."""

    min_served: float
    """Accepted requests as a share of the capacity."""
    max_slowdown: float
    """99th percentile of the accepted requests, as a multiple of the unloaded one."""


GOALS = {1: Goal(0.5, 20.0), 3: Goal(0.5, 4.0), 10: Goal(0.0, 10.0)}
MAX_MEMORY_GROWTH = 32 * 2**20  # bytes


class Row(NamedTuple):
    """The results of one load."""

    name: str
    load: LoadResult
    memory_growth: int
    """Growth of the service's memory since before all loads, in bytes."""
    cpu_share: float
    """CPU time of the service as a share of one CPU."""
    recovery: float | None
    """Seconds from the end of the load until bursts within the limit are served completely."""
    first_p99: float = 0.0
    """99th percentile of the accepted requests in FIRST_SECONDS. They are in no other value."""
    rejected_later: int = 0
    """Rejected requests of bursts within the limit, after a second without load."""

    def __str__(self) -> str:
        load, seconds = self.load, self.load.duration
        cells = [
            f"{self.name:9}",
            f"{load.rate:8.0f}",
            f"{len(load.send_delays) / seconds:8.0f}",
            f"{len(load.accepted) / seconds:9.0f}",
            f"{len(load.rejected) / seconds:8.0f}",
            f"{percentile(load.accepted, 50) * 1000:7.1f}",
            f"{percentile(load.accepted, 99) * 1000:7.1f}",
            f"{self.first_p99 * 1000:7.1f}",
            f"{percentile(load.rejected, 99) * 1000:12.1f}",
            f"{percentile(load.send_delays, 99) * 1000:7.1f}",
            f"{self.cpu_share * 100:7.0f}%",
            f"{load.cpu_time / seconds * 100:8.0f}%",
            f"{self.memory_growth / 2**20:+7.1f}",
            "       -" if self.recovery is None else f"{self.recovery:8.2f}",
            f"{self.rejected_later:8}",
        ]
        return " ".join(cells) + (" BEHIND" if load.is_behind else "")


HEADER = (
    "load       offered     sent  accepted rejected     p50     p99  first p99 rejected    late "
    "service generator  memory recovery rejected"
)
UNITS = (
    "                /s       /s        /s       /s      ms      ms  s p99           ms  p99 ms "
    "            CPU       MiB        s    later"
)


def main() -> int:
    """Return 1 if a goal is missed."""
    limit = int(os.environ.get("MAX_CONCURRENT_REQUESTS") or Settings().max_concurrent_requests)
    progress(f"starting a service with a limit of {limit} concurrent requests")
    with loaded_service(MAX_CONCURRENT_REQUESTS=limit) as (service, _):
        port = int(service.url.rpartition(":")[2])
        generator = LoadGenerator(port, connections=int(os.environ.get("CONNECTIONS") or 4 * limit))
        generator.closed_loop(mix(service.url, 10_000), 8, CLOSED_LOOP_SECONDS)  # warm-up
        capacity = max(_measure_capacity(generator, service, clients) for clients in (4, 8, 16))
        print(f"capacity   {capacity:.0f} requests/s")
        print(HEADER, UNITS, sep="\n", flush=True)
        before = memory(service.pid)
        light = capacity * UNLOADED_SHARE
        seconds = min(MAX_UNLOADED_SECONDS, max(LOAD_SECONDS, UNLOADED_REQUESTS / light))
        unloaded = _measure("unloaded", generator, service, light, seconds)
        unloaded = unloaded._replace(memory_growth=memory(service.pid) - before)
        print(unloaded, flush=True)
        rows = {0: unloaded}
        for times in GOALS:
            row = _measure(f"{times} times", generator, service, capacity * times, LOAD_SECONDS)
            row = row._replace(
                memory_growth=memory(service.pid) - before,
                recovery=_measure_recovery(generator, service, limit),
                rejected_later=_count_rejected_later(generator, service, limit),
            )
            print(row, flush=True)
            rows[times] = row
        generator.close()
    missed = list(_missed_goals(rows, capacity))
    print(*missed, sep="\n")
    return 1 if missed else 0


def _measure_capacity(generator: LoadGenerator, service: Service, clients: int) -> float:
    """Return the requests per second with clients that wait for their responses."""
    requests = mix(service.url, 20_000)
    cpu_time = cpu_seconds(service.pid)
    load = generator.closed_loop(requests, clients, CLOSED_LOOP_SECONDS)
    cpu_time = cpu_seconds(service.pid) - cpu_time
    rate = len(load.accepted) / load.duration
    shares = (
        f"service {cpu_time / load.duration:.0%}, generator {load.cpu_time / load.duration:.0%}"
    )
    print(f"closed     {clients} clients {rate:.0f} requests/s, CPU: {shares}", flush=True)
    return rate


def _measure(
    name: str, generator: LoadGenerator, service: Service, rate: float, seconds: float
) -> Row:
    requests = mix(service.url, min(MAX_REQUESTS, int(rate * seconds)))
    first = generator.open_loop(requests[: int(rate * FIRST_SECONDS)], rate)
    cpu_time = cpu_seconds(service.pid)
    load = generator.open_loop(requests, rate)
    cpu_time = cpu_seconds(service.pid) - cpu_time
    load.other_statuses += first.other_statuses
    first_p99 = percentile(first.accepted, 99)
    return Row(name, load, 0, cpu_time / load.duration, None, first_p99=first_p99)


def _measure_recovery(generator: LoadGenerator, service: Service, limit: int) -> float:
    """Return the seconds from the end of a load to the first of BURSTS complete bursts in a row.

    The bursts start immediately, so rejected requests must not prolong the overload.
    """
    burst = mix(service.url, limit)
    ended_at, served, recovery = time.perf_counter(), 0, 0.0
    while served < BURSTS and time.perf_counter() < ended_at + 10 * PAUSE_SECONDS:
        started_at = time.perf_counter()
        complete = not generator.closed_loop(burst, clients=limit).rejected
        recovery = started_at - ended_at if complete and served == 0 else recovery
        served = served + 1 if complete else 0
        time.sleep(BURST_PAUSE)
    return recovery if served == BURSTS else float("inf")


def _count_rejected_later(generator: LoadGenerator, service: Service, limit: int) -> int:
    """Count the rejected requests of bursts within the limit, after an overload and a pause.

    The overload has more clients than the limit, and each sends without a pause.
    """
    rejected = 0
    for clients in (limit, min(limit, BROWSER_CONNECTIONS)):
        generator.closed_loop(mix(service.url, 100_000), 4 * limit, seconds=1.0)
        time.sleep(PAUSE_SECONDS)
        burst = mix(service.url, clients)
        for _ in range(BURSTS):
            rejected += len(generator.closed_loop(burst, clients).rejected)
            time.sleep(BURST_PAUSE)
    return rejected


def _missed_goals(rows: dict[int, Row], capacity: float) -> Iterator[str]:
    unloaded_p99 = percentile(rows[0].load.accepted, 99)
    for times, row in rows.items():
        yield from _missed_limits(row)
        if times in GOALS:
            yield from _missed_speed_goals(row, GOALS[times], capacity, unloaded_p99)
    if not rows[max(rows)].load.rejected:
        yield f"{rows[max(rows)].name}: nothing was rejected"


def _missed_limits(row: Row) -> Iterator[str]:
    if row.load.other_statuses:
        yield f"{row.name}: neither served nor rejected, by status: {dict(row.load.other_statuses)}"
    if row.load.is_behind:
        yield f"{row.name}: the generator fell behind, so the load was lower than requested"
    if row.memory_growth > MAX_MEMORY_GROWTH:
        yield f"{row.name}: the memory grew by {row.memory_growth / 2**20:.0f} MiB"
    if row.recovery is not None and row.recovery > PAUSE_SECONDS:
        yield f"{row.name}: bursts within the limit were rejected for {row.recovery:.2f} s"
    if row.rejected_later:
        yield f"{row.name}: {row.rejected_later} requests within the limit were rejected later"


def _missed_speed_goals(
    row: Row, goal: Goal, capacity: float, unloaded_p99: float
) -> Iterator[str]:
    served = len(row.load.accepted) / row.load.duration / capacity
    slowdown = percentile(row.load.accepted, 99) / unloaded_p99
    print(f"{row.name}: served {served:.0%} of the capacity, p99 {slowdown:.1f} x unloaded")
    if served < goal.min_served:
        yield f"{row.name}: less than {goal.min_served:.0%} of the capacity was served"
    if slowdown > goal.max_slowdown:
        yield f"{row.name}: p99 is {slowdown:.1f} times that without load"


if __name__ == "__main__":
    run(main)
