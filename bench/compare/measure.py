"""Measures each service and operation, in alternating rounds.

A disturbance of the machine then affects all services.
"""

from __future__ import annotations

import os
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import NamedTuple

import msgspec

from bench.compare import smoke
from bench.compare.data import Database, cpu_seconds
from bench.compare.operations import OPERATIONS, Requests
from bench.compare.targets import RunningTarget, Target
from bench.load.generator import LoadGenerator, LoadResult, percentile
from bench.load.workload import memory
from tests.support.long_task import progress

CONNECTIONS = 16
COUNT = 1_000  # requests per measurement of CPU time
WARM_UP_COUNT = 300
SATURATION_SECONDS = 1.0
OPEN_LOOP_SECONDS = 2.0
OPEN_LOOP_LOAD = 0.7  # share of the saturation
MAX_RATE = 20_000  # requests per second


class Sample(msgspec.Struct, frozen=True):
    """One measurement. Times are in seconds, sizes in bytes."""

    target: str
    operation: str
    metric: str
    value: float


class CPUTime(NamedTuple):
    """Seconds of CPU time per request."""

    service: float
    database: float


class LoadTarget:
    """A running service with its requests and the load generator.

    `second` is another process of the same service, for the throughput of two.
    """

    def __init__(
        self, first: RunningTarget, second: RunningTarget | None, database: Database
    ) -> None:
        self.name = first.name
        self._running = first
        self._database = database
        self._requests = Requests(first, database.url)
        self._one = LoadGenerator(first.port, connections=CONNECTIONS)
        self._two = second and LoadGenerator(first.port, second.port, connections=CONNECTIONS)

    def close(self) -> None:
        self._one.close()
        if self._two:
            self._two.close()

    @property
    def pid(self) -> int:
        return self._running.pid

    def cpu_time(self, operation: str, count: int = COUNT) -> CPUTime:
        """Send `count` requests and return the CPU time per request."""
        requests = self._requests.create(operation, count)
        pids = self._running.pid, self._database.pid
        before = [cpu_seconds(pid) for pid in pids]
        _assert_all_served(self._one.closed_loop(requests, CONNECTIONS), self.name, operation)
        after = [cpu_seconds(pid) for pid in pids]
        return CPUTime(*((a - b) / count for a, b in zip(after, before, strict=True)))

    def saturation(self, operation: str, workers: int) -> float:
        """Return the requests per second of one or two processes with 16 clients."""
        generator = self._one if workers == 1 else self._two
        assert generator
        requests = self._requests.create(operation, int(MAX_RATE * SATURATION_SECONDS))
        load = generator.closed_loop(requests, CONNECTIONS, SATURATION_SECONDS)
        _assert_all_served(load, self.name, operation)
        return len(load.accepted) / load.duration

    def latencies(self, operation: str, rate: float) -> list[float]:
        """Return the seconds from the due time of each request to its response (open loop)."""
        requests = self._requests.create(operation, int(rate * OPEN_LOOP_SECONDS))
        with _real_time_priority():
            load = self._one.open_loop(requests, rate)
        _assert_all_served(load, self.name, operation)
        return load.accepted

    def memory(self) -> int:
        """Return the memory of the process in bytes."""
        return memory(self._running.pid)


@contextmanager
def _real_time_priority() -> Iterator[None]:
    """Run this process with real-time priority, if it is allowed to.

    On two cores the generator otherwise waits for the service and the database, for up to 10 ms.
    That would count as latency of the service.
    """
    with suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def _assert_all_served(load: LoadResult, name: str, operation: str) -> None:
    # A rejection is cheaper than any other response, and would improve the result.
    statuses = {**load.other_statuses, 503: len(load.rejected)}
    unserved = {status: count for status, count in statuses.items() if count}
    assert not unserved, f"{name}, {operation}: {unserved}"


def start_targets(
    stack: ExitStack, targets: Iterable[Target], database: Database, *, workers: int
) -> list[LoadTarget]:
    """Start all services with `workers` processes each, and check their responses."""
    started: list[LoadTarget] = []
    for target in targets:
        running = [stack.enter_context(target.run(database.url)) for _ in range(workers)]
        smoke.check(f"http://127.0.0.1:{running[0].port}", database.url)
        progress(f"{target.name} passes the smoke test")
        load_target = LoadTarget(running[0], running[1] if workers > 1 else None, database)
        stack.callback(load_target.close)
        started.append(load_target)
    return started


def measure_cpu_time(
    targets: list[LoadTarget], operations: Iterable[str], rounds: int, count: int = COUNT
) -> Iterator[Sample]:
    """Measure CPU time. The order of the services rotates, because the first has other caches."""
    for target in targets:
        progress(f"CPU time, warming {target.name}")
        for operation in operations:
            target.cpu_time(operation, WARM_UP_COUNT)
    for number in range(rounds):
        for operation in operations:
            progress(f"CPU time, round {number + 1} of {rounds}: {operation}")
            first = number % len(targets)
            for target in targets[first:] + targets[:first]:
                cpu_time = target.cpu_time(operation, count)
                yield Sample(target.name, operation, "processor", cpu_time.service)
                yield Sample(target.name, operation, "database", cpu_time.database)


def measure_load(targets: list[LoadTarget], rounds: int) -> Iterator[Sample]:
    """Measure throughput at saturation, latency at 70% of it, and memory after all loads."""
    for number in range(rounds):
        for operation in OPERATIONS:
            progress(f"rates and latencies, round {number + 1} of {rounds}: {operation}")
            for target in targets:
                rate = target.saturation(operation, 1)
                yield Sample(target.name, operation, "rate of 1", rate)
                yield Sample(target.name, operation, "rate of 2", target.saturation(operation, 2))
                latencies = target.latencies(operation, OPEN_LOOP_LOAD * rate)
                for percent in (50, 95, 99):
                    value = percentile(latencies, percent)
                    yield Sample(target.name, operation, f"p{percent}", value)
    for target in targets:
        yield Sample(target.name, "mix", "memory", target.memory())


def measure_startup(targets: list[Target], database: Database, rounds: int) -> Iterator[Sample]:
    """Measure the time from the start of a process to its first response."""
    for number in range(rounds):
        progress(f"starts, round {number + 1} of {rounds}")
        for target in targets:
            with target.run(database.url) as running:
                yield Sample(target.name, "start", "seconds", running.startup_time)


class Results(msgspec.Struct, frozen=True):
    """All samples of a run, and their statistics."""

    samples: list[Sample]

    def values(self, target: str, operation: str, metric: str) -> list[float]:
        return [
            sample.value
            for sample in self.samples
            if (sample.target, sample.operation, sample.metric) == (target, operation, metric)
        ]

    def median(self, target: str, operation: str, metric: str) -> float:
        return statistics.median(self.values(target, operation, metric))

    def spread(self, target: str, operation: str, metric: str) -> float:
        """Return half of the interquartile range as a share of the median."""
        values = sorted(self.values(target, operation, metric))
        quarter = len(values) // 4
        distance = values[-1 - quarter] - values[quarter]
        return distance / 2 / statistics.median(values)

    def ratio(
        self, target: str, reference: str, operation: str, metric: str = "processor"
    ) -> float:
        """Return the median of the rounds' ratios of one service to another."""
        pairs = zip(
            self.values(target, operation, metric),
            self.values(reference, operation, metric),
            strict=True,
        )
        return statistics.median(value / reference_value for value, reference_value in pairs)

    def targets(self) -> list[str]:
        """Return the names of the services, in the order of the run."""
        return list(dict.fromkeys(sample.target for sample in self.samples))

    def metrics_by_operation(self) -> dict[str, set[str]]:
        metrics: dict[str, set[str]] = defaultdict(set)
        for sample in self.samples:
            metrics[sample.operation].add(sample.metric)
        return dict(metrics)
