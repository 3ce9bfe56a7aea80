"""`task bench:versions`: compare CPU time with the previous version, in one run.

The previous version is extracted from the repository. Each version has its own PostgreSQL with its
own schema, and both are measured in alternating rounds. Exits with 1 if a limit is exceeded.
"""

from __future__ import annotations

import argparse
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from bench.compare.data import run_database
from bench.compare.measure import LoadTarget, Results, Sample, measure_cpu_time, start_targets
from bench.compare.operations import OPERATIONS_OF_SYNC
from bench.compare.report import MICRO, REPORT_DIR, describe_machine
from bench.compare.targets import Target
from tests.support.long_task import run
from tests.support.process import ROOT, command

# The last commit of version 1.1.0.
PREVIOUS_COMMIT = "e0326a5b650313dad0c307a65b3f3ff800892d2a"
BEFORE, AFTER = "before", "after"
ROUNDS, COUNT = 15, 600
COUNT_OF_SYNC = 200  # requests, each of which may have 20 changes
METRICS = {"the service": "processor", "PostgreSQL": "database"}


class Limit(NamedTuple):
    """The highest ratios of CPU time after to CPU time before."""

    service: float
    database: float


# Two measurements of one version differ by up to a tenth.
UNCHANGED = Limit(1.1, 1.1)
LIMITS = {
    "get": UNCHANGED,
    "list 20": UNCHANGED,
    "create": Limit(1.1, 1.25),
    "patch": Limit(1.1, 1.25),
    "delete": Limit(1.1, 1.25),
}


@contextmanager
def previous_version(commit: str) -> Iterator[Path]:
    """Extract a commit into a temporary directory."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        archive, clone = Path(directory) / "archive.tar", Path(directory) / "clone"
        argv = ["git", "archive", f"--output={archive}", commit]
        subprocess.run(argv, cwd=ROOT, check=True)
        with tarfile.open(archive) as files:
            files.extractall(clone, filter="data")
        yield clone


def measure(commit: str, rounds: int) -> Iterator[Sample]:
    """Measure both versions, and then the operations that the previous one does not have."""
    with previous_version(commit) as clone, ExitStack() as stack:
        targets: list[LoadTarget] = []
        for name, directory in ((BEFORE, clone), (AFTER, ROOT)):
            database = stack.enter_context(run_database(directory))
            target = Target(name, command("serve"), directory=directory)
            targets += start_targets(stack, [target], database, workers=1)
        yield from measure_cpu_time(targets, LIMITS, rounds, COUNT)
        yield from measure_cpu_time(targets[1:], OPERATIONS_OF_SYNC, rounds, COUNT_OF_SYNC)


def render(results: Results) -> str:
    """Return the table in Markdown."""
    lines = [
        "| operation | service before | after | ratio | PostgreSQL before | after | ratio |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name in LIMITS:
        cells = [cell for metric in METRICS.values() for cell in _cells(results, name, metric)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    for name in OPERATIONS_OF_SYNC:
        service, database = (_microseconds(results, AFTER, name, each) for each in METRICS.values())
        lines.append(f"| {name} | | {service} | | | {database} | |")
    return "\n".join(lines) + "\n"


def _cells(results: Results, operation: str, metric: str) -> Iterable[str]:
    for target in (BEFORE, AFTER):
        yield _microseconds(results, target, operation, metric)
    yield f"{results.ratio(AFTER, BEFORE, operation, metric):.2f}"


def _microseconds(results: Results, target: str, operation: str, metric: str) -> str:
    return f"{results.median(target, operation, metric) * MICRO:.0f}"


def exceeded_limits(results: Results) -> Iterator[str]:
    for name, limits in LIMITS.items():
        for (process, metric), limit in zip(METRICS.items(), limits, strict=True):
            if (ratio := results.ratio(AFTER, BEFORE, name, metric)) > limit:
                yield f"{name}: {ratio:.2f} times the CPU time of {process}, limit {limit}"


def main() -> int:
    """Write the table, and return 1 if a limit is exceeded."""
    parser = argparse.ArgumentParser(prog="task bench:versions --", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--commit", default=PREVIOUS_COMMIT)
    arguments = parser.parse_args()
    results = Results(list(measure(arguments.commit, arguments.rounds)))
    text = (
        "CPU time in microseconds per request, the median of "
        f"{arguments.rounds} rounds, on {describe_machine()}\n\n{render(results)}"
    )
    REPORT_DIR.mkdir(parents=True, exist_ok=True)
    (REPORT_DIR / "versions.md").write_text(text, "utf-8")
    print(text)
    exceeded = list(exceeded_limits(results))
    print(*exceeded, sep="\n")
    return 1 if exceeded else 0


if __name__ == "__main__":
    run(main)
