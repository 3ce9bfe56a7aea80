"""What a service does at 1, 3 and 10 times its capacity: `python -m bench.load.overload`.

Prints a row after each load, and exits with 1 if a goal is missed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import NamedTuple

from app.settings import Settings
from bench.load.generator import LoadGenerator, LoadResult, percentile
from bench.load.workload import loaded_service, memory, mix, processor
from tests.support.long_task import progress, run
from tests.support.process import Service

SECONDS = 8.0
# A load that begins suddenly fills the limit before anything shows that it will last.
FIRST_SECONDS = 1.0
CLOSED_SECONDS = 4.0
UNLOADED = 0.1  # of the capacity
UNLOADED_ANSWERS = 300  # so many make a 99th percentile, if they come in time
UNLOADED_SECONDS = 30.0
REQUESTS_AT_MOST = 400_000
BURSTS = 10  # in a row that must be served completely
BURST_SECONDS = 0.05  # from the end of a burst to the next one
BROWSER = 6  # connections that a browser opens to a host
SILENCE_SECONDS = 1.0


class Goal(NamedTuple):
    """What the service must do at so many times its capacity."""

    served: float
    """Share of the capacity that is accepted, at least."""
    slower: float
    """99th percentile of the accepted requests, as a multiple of the unloaded one, at most."""


GOALS = {1: Goal(0.5, 20.0), 3: Goal(0.5, 4.0), 10: Goal(0.0, 10.0)}
GROWS_AT_MOST = 32 * 2**20  # bytes of the service's memory


class Row(NamedTuple):
    """What one load did."""

    name: str
    load: LoadResult
    grown: int
    """Bytes by which the service's memory grew, against before all loads."""
    processor: float
    """Share of a processor that the service used."""
    recovery: float | None
    """Seconds from the end of the load until bursts within the limit are served completely."""
    first: float = 0.0
    """99th percentile of the accepted requests in FIRST_SECONDS, which count nowhere else."""
    rejected: int = 0
    """Requests of bursts within the limit that were rejected after a second of silence."""

    def __str__(self) -> str:
        load, seconds = self.load, self.load.duration
        figures = [
            f"{self.name:9}",
            f"{load.rate:8.0f}",
            f"{len(load.send_delays) / seconds:8.0f}",
            f"{len(load.accepted) / seconds:9.0f}",
            f"{len(load.rejected) / seconds:8.0f}",
            f"{percentile(load.accepted, 50) * 1000:7.1f}",
            f"{percentile(load.accepted, 99) * 1000:7.1f}",
            f"{self.first * 1000:7.1f}",
            f"{percentile(load.rejected, 99) * 1000:12.1f}",
            f"{percentile(load.send_delays, 99) * 1000:7.1f}",
            f"{self.processor * 100:7.0f}%",
            f"{load.cpu_time / seconds * 100:8.0f}%",
            f"{self.grown / 2**20:+7.1f}",
            "       -" if self.recovery is None else f"{self.recovery:8.2f}",
            f"{self.rejected:8}",
        ]
        return " ".join(figures) + (" BEHIND" if load.is_behind else "")


HEAD = (
    "load       offered     sent  accepted rejected     p50     p99  first p99 rejected    late "
    "service generator  memory recovery rejected"
)
UNITS = (
    "                /s       /s        /s       /s      ms      ms  s p99           ms  p99 ms "
    "      processor       MiB        s    later"
)


def main() -> int:
    """Measure and judge."""
    limit = int(os.environ.get("MAX_CONCURRENT_REQUESTS") or Settings().max_concurrent_requests)
    progress(f"starting a service with a limit of {limit} concurrent requests")
    with loaded_service(MAX_CONCURRENT_REQUESTS=limit) as (service, _):
        port = int(service.url.rpartition(":")[2])
        generator = LoadGenerator(port, connections=int(os.environ.get("CONNECTIONS") or 4 * limit))
        generator.closed_loop(mix(service.url, 10_000), 8, CLOSED_SECONDS)  # to warm up
        capacity = max(_capacity(generator, service, clients) for clients in (4, 8, 16))
        print(f"capacity   {capacity:.0f} requests/s")
        print(HEAD, UNITS, sep="\n", flush=True)
        before = memory(service.pid)
        light = capacity * UNLOADED
        seconds = min(UNLOADED_SECONDS, max(SECONDS, UNLOADED_ANSWERS / light))
        unloaded = _measured("unloaded", generator, service, light, seconds)
        unloaded = unloaded._replace(grown=memory(service.pid) - before)
        print(unloaded, flush=True)
        rows = {0: unloaded}
        for times in GOALS:
            row = _measured(f"{times} times", generator, service, capacity * times, SECONDS)
            row = row._replace(
                grown=memory(service.pid) - before,
                recovery=_recovery(generator, service, limit),
                rejected=_rejected_later(generator, service, limit),
            )
            print(row, flush=True)
            rows[times] = row
        generator.close()
    faults = list(_faults(rows, capacity))
    print(*faults, sep="\n")
    return 1 if faults else 0


def _capacity(generator: LoadGenerator, service: Service, clients: int) -> float:
    """Requests per second that so many clients get answered, each waiting for its answers."""
    requests = mix(service.url, 20_000)
    used = processor(service.pid)
    load = generator.closed_loop(requests, clients, CLOSED_SECONDS)
    used = processor(service.pid) - used
    rate = len(load.accepted) / load.duration
    shares = f"service {used / load.duration:.0%}, generator {load.cpu_time / load.duration:.0%}"
    print(f"closed     {clients} clients {rate:.0f} requests/s, processor: {shares}", flush=True)
    return rate


def _measured(
    name: str, generator: LoadGenerator, service: Service, rate: float, seconds: float
) -> Row:
    requests = mix(service.url, min(REQUESTS_AT_MOST, int(rate * seconds)))
    first = generator.open_loop(requests[: int(rate * FIRST_SECONDS)], rate)
    used = processor(service.pid)
    load = generator.open_loop(requests, rate)
    used = processor(service.pid) - used
    load.other_statuses += first.other_statuses
    return Row(name, load, 0, used / load.duration, None, first=percentile(first.accepted, 99))


def _recovery(generator: LoadGenerator, service: Service, limit: int) -> float:
    """Seconds from the end of a load to the first of BURSTS in a row that are served completely.

    The bursts begin at once, so that one that is rejected must not prolong the overload.
    """
    burst = mix(service.url, limit)
    ended, served, since = time.perf_counter(), 0, 0.0
    while served < BURSTS and time.perf_counter() < ended + 10 * SILENCE_SECONDS:
        at = time.perf_counter()
        complete = not generator.closed_loop(burst, clients=limit).rejected
        since = at - ended if complete and served == 0 else since
        served = served + 1 if complete else 0
        time.sleep(BURST_SECONDS)
    return since if served == BURSTS else float("inf")


def _rejected_later(generator: LoadGenerator, service: Service, limit: int) -> int:
    """How many requests of bursts within the limit are rejected after a short load and silence.

    The load has more clients than the limit, and each sends without a pause.
    """
    rejected = 0
    for clients in (limit, min(limit, BROWSER)):
        generator.closed_loop(mix(service.url, 100_000), 4 * limit, seconds=1.0)
        time.sleep(SILENCE_SECONDS)
        burst = mix(service.url, clients)
        for _ in range(BURSTS):
            rejected += len(generator.closed_loop(burst, clients).rejected)
            time.sleep(BURST_SECONDS)
    return rejected


def _faults(rows: dict[int, Row], capacity: float) -> Iterator[str]:
    """The goals that were missed."""
    normal = percentile(rows[0].load.accepted, 99)
    for times, row in rows.items():
        yield from _faults_of(row)
        if times in GOALS:
            yield from _faults_of_speed(row, GOALS[times], capacity, normal)
    if not rows[max(rows)].load.rejected:
        yield f"{rows[max(rows)].name}: nothing was rejected"


def _faults_of(row: Row) -> Iterator[str]:
    if row.load.other_statuses:
        yield f"{row.name}: neither served nor rejected, by status: {dict(row.load.other_statuses)}"
    if row.load.is_behind:
        yield f"{row.name}: the generator fell behind, so this load was not offered"
    if row.grown > GROWS_AT_MOST:
        yield f"{row.name}: the service grew by {row.grown / 2**20:.0f} MiB"
    if row.recovery is not None and row.recovery > SILENCE_SECONDS:
        yield f"{row.name}: bursts within the limit were rejected for {row.recovery:.2f} s"
    if row.rejected:
        yield f"{row.name}: {row.rejected} requests within the limit were rejected later"


def _faults_of_speed(row: Row, goal: Goal, capacity: float, normal: float) -> Iterator[str]:
    served = len(row.load.accepted) / row.load.duration / capacity
    slower = percentile(row.load.accepted, 99) / normal
    print(f"{row.name}: served {served:.0%} of the capacity, p99 {slower:.1f} x unloaded")
    if served < goal.served:
        yield f"{row.name}: less than {goal.served:.0%} of the capacity was served"
    if slower > goal.slower:
        yield f"{row.name}: p99 is {slower:.1f} times that without load"


if __name__ == "__main__":
    run(main)
