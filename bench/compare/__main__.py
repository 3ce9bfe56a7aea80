"""`task bench`: compare the service with baselines on the same rows, in one run."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import ExitStack

from bench.compare import check, metrics_overhead, report
from bench.compare.data import run_database
from bench.compare.measure import (
    Results,
    Sample,
    measure_cpu_time,
    measure_load,
    measure_startup,
    start_targets,
)
from bench.compare.operations import OPERATIONS
from bench.compare.targets import BARE_ASGI, FASTAPI, TASKS_API, Target, list_targets
from tests.support.long_task import run

ROUNDS = 5
START_ROUNDS = 3
# Goals of the specification, as ratios of CPU time.
MAX_RATIO_TO_BARE = {"get": 2.0, "list 20": 2.0, "create": 2.0}
DEFAULT_MAX_RATIO_TO_BARE = 2.5
MIN_FASTAPI_RATIO = {"get": 5.0, "list 20": 5.0, "create": 5.0}
MAX_P99_TO_P50 = 5.0
MAX_STARTUP_TIME = 1.5  # seconds
MAX_MEMORY_BYTES = 100e6


def main() -> int:
    """Write the report, and return 1 if a goal is missed."""
    parser = argparse.ArgumentParser(prog="task bench --", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--costs", action="store_true", help="measure CPU time only")
    parser.add_argument("--only", nargs="*", default=[], help="measure only these services")
    parser.add_argument("--check", action="store_true", help="check the recorded ratios")
    parser.add_argument("--record", action="store_true", help="record the ratios for --check")
    parser.add_argument("--metrics", action="store_true", help="measure the cost of the metrics")
    arguments = parser.parse_args()
    if arguments.check or arguments.record:
        return check.main(record=arguments.record)
    if arguments.metrics:
        return metrics_overhead.main()
    chosen = [
        target for target in list_targets() if not arguments.only or target.name in arguments.only
    ]
    results = Results(list(_samples(chosen, arguments)))
    table = report.write(results, report.describe_run(arguments.rounds))
    print(table.read_text("utf-8"))
    missed = [] if arguments.only else [*_missed_cpu_goals(results)]
    if not (arguments.only or arguments.costs):
        missed += _missed_load_goals(results)
    print(*missed, sep="\n")
    return 1 if missed else 0


def _samples(chosen: list[Target], arguments: argparse.Namespace) -> Iterator[Sample]:
    with run_database() as database, ExitStack() as stack:
        if not arguments.costs:
            yield from measure_startup(chosen, database, START_ROUNDS)
        targets = start_targets(stack, chosen, database, workers=1 if arguments.costs else 2)
        yield from measure_cpu_time(targets, OPERATIONS, arguments.rounds)
        if not arguments.costs:
            yield from measure_load(targets, arguments.rounds)


def _missed_cpu_goals(results: Results) -> Iterator[str]:
    for operation in OPERATIONS:
        goal = MAX_RATIO_TO_BARE.get(operation, DEFAULT_MAX_RATIO_TO_BARE)
        if (ratio := results.ratio(TASKS_API, BARE_ASGI, operation)) > goal:
            yield f"{operation}: {ratio:.2f} times the CPU time of {BARE_ASGI}, goal {goal}"
    for operation, goal in MIN_FASTAPI_RATIO.items():
        if (ratio := results.ratio(FASTAPI, TASKS_API, operation)) < goal:
            yield f"{operation}: {FASTAPI} takes {ratio:.2f} times the CPU time, goal {goal}"


def _missed_load_goals(results: Results) -> Iterator[str]:
    for operation in OPERATIONS:
        p50, p99 = (results.median(TASKS_API, operation, name) for name in ("p50", "p99"))
        if p99 > MAX_P99_TO_P50 * p50:
            yield f"{operation}: p99 is {p99 / p50:.1f} times p50, goal {MAX_P99_TO_P50}"
    if (seconds := results.median(TASKS_API, "start", "seconds")) > MAX_STARTUP_TIME:
        yield f"first response after {seconds:.2f} s, goal {MAX_STARTUP_TIME}"
    if (memory := results.median(TASKS_API, "mix", "memory")) > MAX_MEMORY_BYTES:
        yield f"{memory / 1e6:.0f} MB of memory, goal {MAX_MEMORY_BYTES / 1e6:.0f}"


if __name__ == "__main__":
    run(main)
