"""`task bench:profile`: flame graphs of get and create in reports/bench/profile-*.

A function of the service is one below app/, counted without the functions that it calls. System
calls and extension functions are counted separately.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from bench.compare.data import run_database
from bench.compare.measure import LoadTarget, start_targets
from bench.compare.report import REPORT_DIR
from bench.compare.targets import BENCH_VENV, TASKS_API, find_target
from tests.support.long_task import progress, run

OPERATIONS = ("get", "create")
DURATION = 15  # seconds
SAMPLES_PER_SECOND = 500
BATCH_SIZE = 500  # requests between two checks of the profiler
MAX_SHARE = 0.05
PRINTED_FUNCTIONS = 12


def profile(target: LoadTarget, operation: str, output_format: str, path: Path) -> None:
    """Sample the process under load with py-spy, and write the result to a file."""
    argv = [str(BENCH_VENV / "bin" / "py-spy"), "record", "--pid", str(target.pid)]
    argv += ["--duration", str(DURATION), "--rate", str(SAMPLES_PER_SECOND)]
    argv += ["--native", "--format", output_format, "--output", str(path)]
    target.cpu_time(operation)
    progress(f"{operation}, {output_format}")
    profiler = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 3 * DURATION
    while profiler.poll() is None:
        assert time.monotonic() < deadline, "py-spy does not end"
        target.cpu_time(operation, BATCH_SIZE)
    assert profiler.returncode == 0, "py-spy failed; it may need root"


def function_shares(stacks: str) -> dict[str, float]:
    """Return the share of each function at the top of a stack, of the samples within requests."""
    counts = Counter[str]()
    for line in stacks.splitlines():
        stack, _, count = line.rpartition(" ")
        if "RequestResponseCycle.run_asgi" in stack or "data_received" in stack:
            # A Python frame is "name (file:line)", a native frame is "name (library)".
            counts[re.sub(r":\d+\)$", ")", stack.rpartition(";")[2])] += int(count)
    total = counts.total()
    return {function: count / total for function, count in counts.most_common()}


def main() -> int:
    """Return 1 if a function of the service takes more than MAX_SHARE of the time."""
    REPORT_DIR.mkdir(parents=True, exist_ok=True)
    heavy: list[str] = []
    with run_database() as database, ExitStack() as stack:
        (target,) = start_targets(stack, [find_target(TASKS_API)], database, workers=1)
        for operation in OPERATIONS:
            raw = REPORT_DIR / f"profile-{operation}.txt"
            profile(target, operation, "flamegraph", raw.with_suffix(".svg"))
            profile(target, operation, "raw", raw)
            shares = function_shares(raw.read_text("utf-8"))
            print(f"{operation}: share of a request's time, without called functions")
            for function, share in list(shares.items())[:PRINTED_FUNCTIONS]:
                print(f"{share:7.1%}  {function}")
            app_shares = {name: share for name, share in shares.items() if "(app/" in name}
            print(f"{sum(app_shares.values()):7.1%}  all functions below app/")
            above = {name: share for name, share in app_shares.items() if share > MAX_SHARE}
            heavy += [f"{operation}: {name} {share:.1%}" for name, share in above.items()]
    print(*heavy, f"{len(heavy)} functions below app/ above {MAX_SHARE:.0%}", sep="\n")
    return 1 if heavy else 0


if __name__ == "__main__":
    run(main)
