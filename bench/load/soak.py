"""`task bench:soak`: check the memory of the service under mixed load for half an hour."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from pathlib import Path

import msgspec

from bench.load.generator import LoadGenerator, percentile
from bench.load.workload import loaded_service, memory, mix
from tests.support.long_task import progress, run

DURATION = float(os.environ.get("SOAK_SECONDS") or 1800)
CLIENTS = 4
# The memory grows at first, while caches fill.
WARM_UP = max(20.0, min(180.0, DURATION / 6))
MAX_GROWTH = 0.05
MEASUREMENTS = 20
MIB = 1024 * 1024
REPORT = Path("reports/soak.md")


class Measurement(msgspec.Struct, frozen=True):
    """The state at the end of an interval."""

    seconds: float
    requests: int
    p99: float
    memory: int

    def row(self) -> str:
        return (
            f"| {self.seconds:.0f} | {self.requests} | {self.p99 * 1000:.0f} "
            f"| {self.memory / MIB:.1f} |"
        )


def memory_growth(measurements: list[Measurement]) -> float:
    """Return the relative memory growth since the warm-up, which ends at the first measurement."""
    return measurements[-1].memory / measurements[0].memory - 1


def main() -> None:
    """Exit with 1 if the memory grew too much, or if a request was not served."""
    rows = ["| seconds | requests | p99 in ms | MiB |", "| ---: | ---: | ---: | ---: |"]
    print(*rows, sep="\n", flush=True)
    measurements: list[Measurement] = []
    unserved_by_status = Counter[int]()
    with loaded_service() as (service, _):
        requests = mix(service.url, 20_000)
        generator = LoadGenerator(int(service.url.rpartition(":")[2]))
        progress(f"loading for {DURATION:.0f} s, a row for each of {MEASUREMENTS + 1} intervals")
        started_at = time.monotonic()
        while (elapsed := time.monotonic() - started_at) < DURATION:
            # The first interval is the warm-up. The others have equal lengths.
            interval = WARM_UP if not measurements else (DURATION - WARM_UP) / MEASUREMENTS
            until = elapsed + min(interval, DURATION - elapsed)
            count, p99s = 0, list[float]()
            while (remaining := until - (time.monotonic() - started_at)) > 0:
                load = generator.closed_loop(requests, CLIENTS, remaining)
                unserved_by_status += load.other_statuses
                unserved_by_status[503] += len(load.rejected)
                count += len(load.accepted)
                p99s.append(percentile(load.accepted, 99))
            elapsed = time.monotonic() - started_at
            measurements.append(
                Measurement(elapsed, count, max(p99s, default=0.0), memory(service.pid))
            )
            rows.append(measurements[-1].row())
            print(rows[-1], flush=True)
        generator.close()
    growth = memory_growth(measurements)
    unserved = {status: number for status, number in unserved_by_status.items() if number}
    verdict = (
        f"{sum(each.requests for each in measurements)} requests, not served: {unserved}; "
        f"memory after the warm-up {measurements[0].memory / MIB:.1f} MiB, at the end "
        f"{measurements[-1].memory / MIB:.1f} MiB: {growth:+.1%}, limit {MAX_GROWTH:+.0%}"
    )
    print(verdict)
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text("\n".join([*rows, "", verdict, ""]), "utf-8")
    sys.exit(bool(unserved) or growth > MAX_GROWTH)


if __name__ == "__main__":
    run(main)
