"""Check CPU time per request against the recorded ratios to the bare service.

Both services run concurrently and are measured in alternating rounds, so a disturbance of the
machine affects both. An operation fails if its ratio is too high in three consecutive runs. The
limit is 15% above the recorded ratio, and 50% on another machine than the recorded one.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from statistics import median

import msgspec

from bench.compare.data import run_database
from bench.compare.measure import Results, measure_cpu_time, start_targets
from bench.compare.operations import OPERATIONS
from bench.compare.report import describe_machine
from bench.compare.targets import BARE_ASGI, TASKS_API, find_target

RECORDED = Path(__file__).with_name("recorded.json")
TOLERANCE = 1.15
# The bare service does little but system calls, so it gains more where they are cheaper.
TOLERANCE_ON_OTHER_MACHINE = 1.5
RUNS = 3
ROUNDS, COUNT = 9, 800


class Recorded(msgspec.Struct, frozen=True):
    """The recorded ratios, and the machine on which they were measured."""

    machine: str
    ratios: dict[str, float]

    @property
    def tolerance(self) -> float:
        """The limit on this machine, as a multiple of the recorded ratio."""
        is_same_machine = describe_machine() == self.machine
        return TOLERANCE if is_same_machine else TOLERANCE_ON_OTHER_MACHINE


def measure_ratios() -> dict[str, float]:
    """Return the CPU time of each operation as a multiple of that of the bare service."""
    with run_database() as database, ExitStack() as stack:
        chosen = [find_target(BARE_ASGI), find_target(TASKS_API)]
        targets = start_targets(stack, chosen, database, workers=1)
        results = Results(list(measure_cpu_time(targets, OPERATIONS, ROUNDS, COUNT)))
    return {name: round(results.ratio(TASKS_API, BARE_ASGI, name), 2) for name in OPERATIONS}


def main(*, record: bool) -> int:
    """Check up to three runs, or record the medians of three."""
    if record:
        runs = [measure_ratios() for _ in range(RUNS)]
        medians = {name: median(ratios[name] for ratios in runs) for name in OPERATIONS}
        new = Recorded(describe_machine(), medians)
        RECORDED.write_bytes(msgspec.json.format(msgspec.json.encode(new)) + b"\n")
        return 0
    recorded = msgspec.json.decode(RECORDED.read_bytes(), type=Recorded)
    limits = {name: recorded.tolerance * ratio for name, ratio in recorded.ratios.items()}
    failed: dict[str, float] = dict.fromkeys(OPERATIONS, 0.0)
    for run in range(1, RUNS + 1):
        ratios = measure_ratios()
        print(f"run {run}: " + ", ".join(f"{name} {ratio}" for name, ratio in ratios.items()))
        failed = {name: ratios[name] for name in failed if ratios[name] > limits[name]}
        if not failed:
            return 0
    for name, ratio in failed.items():
        print(f"{name}: {ratio} times {BARE_ASGI}, limit {limits[name]:.2f}, in {RUNS} runs")
    return 1
