"""What a service does at 1, 3 and 10 times its capacity: `python -m tests.overload.overload`.

Prints a table and ends with 1 when a goal is missed.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from typing import NamedTuple

from app.settings import Settings
from tests.overload.generator import Generator, Load, percentile
from tests.overload.work import loaded_service, memory, mix, processor
from tests.support.process import Service

TIMES = (1, 3, 10)
SECONDS = 8.0
CLOSED_SECONDS = 4.0
UNLOADED = 0.1  # of the capacity
UNLOADED_ANSWERS = 300  # so many make a 99th percentile, if they come in time
UNLOADED_SECONDS = 30.0
REQUESTS_AT_MOST = 400_000
PROBE_SECONDS = 0.02
# Goals.
SLOWER_AT_MOST = 4.0  # p99 of what is accepted at ten times the capacity, against unloaded
GROWS_AT_MOST = 32 * 2**20  # bytes of the service's memory
RECOVERS_WITHIN = 1.0  # seconds
CALM = 20  # answers in a row that are as without load


class Row(NamedTuple):
    """What one load did."""

    name: str
    load: Load
    grown: int
    """Bytes by which the service's memory grew, against before all loads."""
    processor: float
    """Share of a processor that the service used."""
    recovery: float | None

    def __str__(self) -> str:
        load, seconds = self.load, self.load.seconds
        figures = [
            f"{self.name:9}",
            f"{load.rate:8.0f}",
            f"{len(load.late) / seconds:8.0f}",
            f"{len(load.accepted) / seconds:9.0f}",
            f"{len(load.refused) / seconds:8.0f}",
            f"{percentile(load.accepted, 50) * 1000:7.1f}",
            f"{percentile(load.accepted, 99) * 1000:7.1f}",
            f"{percentile(load.refused, 99) * 1000:11.1f}",
            f"{percentile(load.late, 99) * 1000:7.1f}",
            f"{self.processor * 100:7.0f}%",
            f"{load.processor / seconds * 100:8.0f}%",
            f"{self.grown / 2**20:+7.1f}",
            "       -" if self.recovery is None else f"{self.recovery:8.2f}",
        ]
        return " ".join(figures) + (" BEHIND" if load.is_behind else "")


HEAD = (
    "load       offered     sent  accepted  refused     p50     p99 p99 refused    late "
    "service generator  memory recovery"
)
UNITS = (
    "                /s       /s        /s       /s      ms      ms          ms  p99 ms "
    "      processor       MiB        s"
)


def main() -> int:
    """Measure and judge."""
    at_once = os.environ.get("REQUESTS_AT_ONCE") or Settings().requests_at_once
    with loaded_service(REQUESTS_AT_ONCE=at_once) as (service, _):
        generator = Generator(int(service.url.rpartition(":")[2]))
        generator.closed_loop(mix(service.url, 10_000), 8, CLOSED_SECONDS)  # to warm up
        capacity = max(_capacity(generator, service, clients) for clients in (4, 8, 16))
        print(f"capacity   {capacity:.0f} requests/s")
        print(HEAD, UNITS, sep="\n")
        before = memory(service.pid)
        light = capacity * UNLOADED
        seconds = min(UNLOADED_SECONDS, max(SECONDS, UNLOADED_ANSWERS / light))
        unloaded = _measured("unloaded", generator, service, light, seconds)
        unloaded = unloaded._replace(grown=memory(service.pid) - before)
        normal = percentile(unloaded.load.accepted, 99)
        print(unloaded, flush=True)
        rows = [unloaded]
        for times in TIMES:
            row = _measured(f"{times} times", generator, service, capacity * times, SECONDS)
            row = row._replace(
                grown=memory(service.pid) - before,
                recovery=_recovery(generator, service, SLOWER_AT_MOST * normal),
            )
            print(row, flush=True)
            rows.append(row)
        generator.close()
    faults = list(_faults(rows, normal))
    print(*faults, sep="\n")
    return 1 if faults else 0


def _capacity(generator: Generator, service: Service, clients: int) -> float:
    """Requests per second that so many clients get answered, each waiting for its answers."""
    requests = mix(service.url, 20_000)
    used = processor(service.pid)
    load = generator.closed_loop(requests, clients, CLOSED_SECONDS)
    used = processor(service.pid) - used
    rate = len(load.accepted) / load.seconds
    shares = f"service {used / load.seconds:.0%}, generator {load.processor / load.seconds:.0%}"
    print(f"closed     {clients} clients {rate:.0f} requests/s, processor: {shares}", flush=True)
    return rate


def _measured(
    name: str, generator: Generator, service: Service, rate: float, seconds: float
) -> Row:
    requests = mix(service.url, min(REQUESTS_AT_MOST, int(rate * seconds)))
    used = processor(service.pid)
    load = generator.open_loop(requests, rate)
    used = processor(service.pid) - used
    return Row(name, load, 0, used / load.seconds, None)


def _recovery(generator: Generator, service: Service, normal: float) -> float:
    """Seconds from the end of a load to the first of CALM answers in a row that are as usual."""
    requests = mix(service.url, 1)
    ended, calm, since = time.perf_counter(), 0, 0.0
    while calm < CALM and time.perf_counter() < ended + 10 * RECOVERS_WITHIN:
        at = time.perf_counter()
        load = generator.closed_loop(requests, clients=1)
        usual = bool(load.accepted) and load.accepted[0] <= normal
        since = at - ended if usual and calm == 0 else since
        calm = calm + 1 if usual else 0
        time.sleep(PROBE_SECONDS)
    return since if calm == CALM else float("inf")


def _faults(rows: list[Row], normal: float) -> Iterator[str]:
    """The goals that were missed."""
    for row in rows:
        if row.load.others:
            yield f"{row.name}: answers that are neither 2xx nor refusals: {dict(row.load.others)}"
        if row.load.is_behind:
            yield f"{row.name}: the generator fell behind, so this load was not offered"
        if row.grown > GROWS_AT_MOST:
            yield f"{row.name}: the service grew by {row.grown / 2**20:.0f} MiB"
        if row.recovery is not None and row.recovery > RECOVERS_WITHIN:
            yield f"{row.name}: recovered after {row.recovery:.2f} s"
    slower = percentile(rows[-1].load.accepted, 99) / normal
    print(f"p99 of what is accepted at {rows[-1].name}: {slower:.1f} times that without load")
    if slower > SLOWER_AT_MOST:
        yield f"{rows[-1].name}: p99 is {slower:.1f} times that without load"
    if not rows[-1].load.refused:
        yield f"{rows[-1].name}: nothing was refused"


if __name__ == "__main__":
    sys.exit(main())
