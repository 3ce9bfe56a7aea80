"""The CPU time of the metrics: the service with and without them, in alternating rounds."""

from __future__ import annotations

from contextlib import ExitStack
from statistics import median

from bench.compare.data import run_database
from bench.compare.measure import Results, measure_cpu_time, start_targets
from bench.compare.operations import OPERATIONS
from bench.compare.targets import TASKS_API, find_target
from tools.postgres.processes import free_port

WITH_METRICS = f"{TASKS_API}, metrics"
MAX_RATIO = 1.05  # with metrics / without; the ratio of a single operation varies by as much
ROUNDS, COUNT = 15, 800


def main() -> int:
    """Return 1 if the median ratio of the operations is above MAX_RATIO."""
    without_metrics = find_target(TASKS_API)
    with_metrics = without_metrics._replace(
        name=WITH_METRICS, settings={"METRICS_PORT": str(free_port())}
    )
    with run_database() as database, ExitStack() as stack:
        targets = start_targets(stack, [without_metrics, with_metrics], database, workers=1)
        results = Results(list(measure_cpu_time(targets, OPERATIONS, ROUNDS, COUNT)))
    ratios = {name: results.ratio(WITH_METRICS, TASKS_API, name) for name in OPERATIONS}
    print(", ".join(f"{name} {ratio:.3f}" for name, ratio in ratios.items()))
    overall = median(ratios.values())
    print(f"with metrics: {overall:.3f} times the CPU time without, limit {MAX_RATIO}")
    return 1 if overall > MAX_RATIO else 0
