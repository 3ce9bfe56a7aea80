"""The figures of each peer and operation, taken in turns: a bad moment then meets all of them."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from statistics import median
from typing import NamedTuple

import msgspec

from bench.compare import smoke
from bench.compare.catalogue import Peer, Running
from bench.compare.data import Database, processor_seconds
from bench.compare.operations import OPERATIONS, Requests
from bench.load.generator import LoadGenerator, LoadResult, percentile
from bench.load.workload import memory
from tests.support.long_task import progress

CONNECTIONS = 16
COUNT = 1_000  # requests whose processor time is measured together
WARM = 300
SATURATION_SECONDS = 1.0
OPEN_SECONDS = 2.0
OPEN_LOAD = 0.7  # of the saturation
MOST_PER_SECOND = 20_000


class Sample(msgspec.Struct, frozen=True):
    """One measurement. Seconds and bytes."""

    peer: str
    operation: str
    figure: str
    value: float


class Cost(NamedTuple):
    """What a fixed load cost, in seconds of processor time per request."""

    service: float
    database: float


class Stand:
    """A running peer, its requests, and the generator that sends them."""

    def __init__(self, first: Running, second: Running | None, database: Database) -> None:
        """`second` is a further process of the same peer, for what two can do."""
        self.name = first.name
        self._running = first
        self._database = database
        self._requests = Requests(first, database.url)
        self._one = LoadGenerator(first.port, connections=CONNECTIONS)
        self._two = second and LoadGenerator(first.port, second.port, connections=CONNECTIONS)

    def close(self) -> None:
        """Close the connections."""
        self._one.close()
        if self._two:
            self._two.close()

    @property
    def pid(self) -> int:
        """The process that serves."""
        return self._running.pid

    def cost(self, operation: str, count: int = COUNT) -> Cost:
        """The processor time of a request, of the peer and of the database."""
        requests = self._requests.of(operation, count)
        pids = self._running.pid, self._database.pid
        before = [processor_seconds(pid) for pid in pids]
        _held(self._one.closed_loop(requests, CONNECTIONS), self.name, operation)
        after = [processor_seconds(pid) for pid in pids]
        return Cost(*((a - b) / count for a, b in zip(after, before, strict=True)))

    def saturation(self, operation: str, workers: int) -> float:
        """Requests per second that as many processes answer when 16 clients wait for them."""
        generator = self._one if workers == 1 else self._two
        assert generator
        requests = self._requests.of(operation, int(MOST_PER_SECOND * SATURATION_SECONDS))
        load = generator.closed_loop(requests, CONNECTIONS, SATURATION_SECONDS)
        _held(load, self.name, operation)
        return len(load.accepted) / load.duration

    def latencies(self, operation: str, rate: float) -> list[float]:
        """Seconds from when each request was due to its answer, on a timetable (an open loop)."""
        requests = self._requests.of(operation, int(rate * OPEN_SECONDS))
        with _first_in_line():
            load = self._one.open_loop(requests, rate)
        _held(load, self.name, operation)
        return load.accepted

    def memory(self) -> int:
        """Bytes that the process holds."""
        return memory(self._running.pid)


@contextmanager
def _first_in_line() -> Iterator[None]:
    """Have this process run before all others, where it may.

    On two cores the generator else waits for the service and the database, at times for 10 ms, and
    that would count as a latency of the service.
    """
    with suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def _held(load: LoadResult, name: str, operation: str) -> None:
    """See that every request was served: a refusal would be the cheapest answer of all."""
    others = {**load.other_statuses, 503: len(load.rejected)}
    unserved = {status: number for status, number in others.items() if number}
    assert not unserved, f"{name}, {operation}: {unserved}"


def stands(
    stack: ExitStack, peers: Iterable[Peer], database: Database, *, workers: int
) -> list[Stand]:
    """All peers, running and warm, after each has shown that it does the work."""
    found: list[Stand] = []
    for peer in peers:
        running = [stack.enter_context(peer.running(database.url)) for _ in range(workers)]
        smoke.check(f"http://127.0.0.1:{running[0].port}")
        progress(f"{peer.name} answers as it should")
        stand = Stand(running[0], running[1] if workers > 1 else None, database)
        stack.callback(stand.close)
        found.append(stand)
    return found


def costs(
    those: list[Stand], operations: Iterable[str], rounds: int, count: int = COUNT
) -> Iterator[Sample]:
    """Processor times. What comes first in a round meets another state, so it goes around."""
    for stand in those:
        progress(f"processor time, warming {stand.name}")
        for operation in operations:
            stand.cost(operation, WARM)
    for turn in range(rounds):
        for operation in operations:
            progress(f"processor time, round {turn + 1} of {rounds}: {operation}")
            at = turn % len(those)
            for stand in those[at:] + those[:at]:
                cost = stand.cost(operation, count)
                yield Sample(stand.name, operation, "processor", cost.service)
                yield Sample(stand.name, operation, "database", cost.database)


def loads(those: list[Stand], rounds: int) -> Iterator[Sample]:
    """What each can do at most, and how long requests take at 70% of that."""
    for turn in range(rounds):
        for operation in OPERATIONS:
            progress(f"rates and latencies, round {turn + 1} of {rounds}: {operation}")
            for stand in those:
                rate = stand.saturation(operation, 1)
                yield Sample(stand.name, operation, "rate of 1", rate)
                yield Sample(stand.name, operation, "rate of 2", stand.saturation(operation, 2))
                seconds = stand.latencies(operation, OPEN_LOAD * rate)
                for share in (50, 95, 99):
                    value = percentile(seconds, share)
                    yield Sample(stand.name, operation, f"p{share}", value)
    for stand in those:
        yield Sample(stand.name, "mix", "memory", stand.memory())


def starts(peers: Iterable[Peer], database: Database, rounds: int) -> Iterator[Sample]:
    """From the start of a process to its first answer."""
    those = list(peers)
    for turn in range(rounds):
        progress(f"starts, round {turn + 1} of {rounds}")
        for peer in those:
            with peer.running(database.url) as running:
                yield Sample(peer.name, "start", "seconds", running.started_within)


class Figures(msgspec.Struct, frozen=True):
    """All samples, and what they come to."""

    samples: list[Sample]

    def values(self, peer: str, operation: str, figure: str) -> list[float]:
        """Every value of one figure."""
        return [
            sample.value
            for sample in self.samples
            if (sample.peer, sample.operation, sample.figure) == (peer, operation, figure)
        ]

    def middle(self, peer: str, operation: str, figure: str) -> float:
        """The median of one figure."""
        return median(self.values(peer, operation, figure))

    def spread(self, peer: str, operation: str, figure: str) -> float:
        """The half of the distance between the quarters, as a part of the median."""
        values = sorted(self.values(peer, operation, figure))
        quarter = len(values) // 4
        distance = values[-1 - quarter] - values[quarter]
        return distance / 2 / median(values)

    def ratio(self, peer: str, to: str, operation: str, figure: str = "processor") -> float:
        """How many times as much one peer takes as another: the median of the rounds' ratios."""
        pairs = zip(
            self.values(peer, operation, figure), self.values(to, operation, figure), strict=True
        )
        return median(ours / theirs for ours, theirs in pairs)

    def peers(self) -> list[str]:
        """Their names, in the order of the run."""
        return list(dict.fromkeys(sample.peer for sample in self.samples))

    def by_operation(self) -> dict[str, set[str]]:
        """Which figures there are of each operation."""
        found: dict[str, set[str]] = defaultdict(set)
        for sample in self.samples:
            found[sample.operation].add(sample.figure)
        return dict(found)
