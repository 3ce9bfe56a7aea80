"""`task bench:soak`: mixed load for half an hour, and the memory of the service meanwhile."""

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

SECONDS = float(os.environ.get("SOAK_SECONDS") or 1800)
CLIENTS = 4
# Caches fill and the allocator finds its size at first.
WARM_UP = max(20.0, min(180.0, SECONDS / 6))
GROWTH_AT_MOST = 0.05
MOMENTS = 20
MIB = 1024 * 1024
REPORT = Path("reports/soak.md")


class Moment(msgspec.Struct, frozen=True):
    """What was seen at the end of a stretch of the load."""

    seconds: float
    requests: int
    p99: float
    memory: int

    def row(self) -> str:
        """A row of the table."""
        return (
            f"| {self.seconds:.0f} | {self.requests} | {self.p99 * 1000:.0f} "
            f"| {self.memory / MIB:.1f} |"
        )


def grown(moments: list[Moment]) -> float:
    """By which part of itself the memory grew after the warm-up, the first moment."""
    return moments[-1].memory / moments[0].memory - 1


def main() -> None:
    """Load, look, and judge the last look by the one after the warm-up."""
    rows = ["| seconds | requests | p99 in ms | MiB |", "| ---: | ---: | ---: | ---: |"]
    print(*rows, sep="\n", flush=True)
    moments: list[Moment] = []
    others = Counter[int]()
    with loaded_service() as (service, _):
        requests = mix(service.url, 20_000)
        generator = LoadGenerator(int(service.url.rpartition(":")[2]))
        progress(f"loading for {SECONDS:.0f} s, a row for each of {MOMENTS + 1} stretches")
        started = time.monotonic()
        while (passed := time.monotonic() - started) < SECONDS:
            # The first stretch ends with the warm-up, the others are as long as each other.
            stretch = WARM_UP if not moments else (SECONDS - WARM_UP) / MOMENTS
            until = passed + min(stretch, SECONDS - passed)
            count, slow = 0, list[float]()
            while (left := until - (time.monotonic() - started)) > 0:
                load = generator.closed_loop(requests, CLIENTS, left)
                others += load.other_statuses
                others[503] += len(load.rejected)
                count += len(load.accepted)
                slow.append(percentile(load.accepted, 99))
            now = time.monotonic() - started
            moments.append(Moment(now, count, max(slow, default=0.0), memory(service.pid)))
            rows.append(moments[-1].row())
            print(rows[-1], flush=True)
        generator.close()
    growth = grown(moments)
    refused = {status: number for status, number in others.items() if number}
    verdict = (
        f"{sum(moment.requests for moment in moments)} requests, others than 2xx: {refused}; "
        f"memory after the warm-up {moments[0].memory / MIB:.1f} MiB, at the end "
        f"{moments[-1].memory / MIB:.1f} MiB: {growth:+.1%}, at most {GROWTH_AT_MOST:+.0%}"
    )
    print(verdict)
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text("\n".join([*rows, "", verdict, ""]), "utf-8")
    sys.exit(bool(refused) or growth > GROWTH_AT_MOST)


if __name__ == "__main__":
    run(main)
