"""Generate the clients, compile them, and run each one against a service.

Command: `python -m tests.e2e.generated_clients`.

Clients of released contracts are generated, too, because they must work with the current service.
The program starts the service with a separate database. By default, a target without its toolchain
fails. With CLIENTS_WITHOUT_TOOLCHAIN=1 it passes.
"""

# ruff: noqa: T201 - a command line prints

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.e2e.generated_clients.matrix import (
    RELEASES,
    ROOT,
    STAGES,
    Result,
    run,
    run_release,
)
from tests.e2e.generated_clients.targets import TARGETS
from tools.fuzz.__main__ import serving

REPORTS = ROOT / "reports" / "clients"
MAX_WORKERS = 2  # the cores of a small machine


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    names = [target.name for target in TARGETS]
    parser = argparse.ArgumentParser(
        prog="python -m tests.e2e.generated_clients", description=__doc__
    )
    parser.add_argument("target", nargs="*", help=f"of {', '.join(names)}; all when absent")
    parser.add_argument("--contract", type=Path, default=ROOT / "openapi.yaml", help="the contract")
    options = parser.parse_args(arguments)
    if unknown := set(options.target) - set(names):
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    targets = [target for target in TARGETS if target.name in (options.target or names)]
    started = time.monotonic()
    with serving(REPORTS) as url, ThreadPoolExecutor(MAX_WORKERS) as pool:
        contract = options.contract.absolute()
        trials = [pool.submit(run, target, contract, url, REPORTS) for target in targets]
        trials += [
            pool.submit(run_release, target, release, url, REPORTS)
            for release in RELEASES
            for target in targets
        ]
        results = [trial.result() for trial in trials]
    report = "\n".join(format_report(results, time.monotonic() - started))
    (REPORTS.parent / "clients.md").write_text(f"# Generated clients\n\n{report}\n", "utf-8")
    print(report)
    return exit_code(results, lenient=bool(environ.get("CLIENTS_WITHOUT_TOOLCHAIN")))


def exit_code(results: Sequence[Result], *, lenient: bool) -> int:
    """Return 0 if all targets are green or, with `lenient`, lack a toolchain."""
    passing = (result.green or (lenient and result.lacks_toolchain) for result in results)
    return int(not (results and all(passing)))


def format_report(results: Sequence[Result], seconds: float) -> Iterator[str]:
    """Yield the table, the warnings with their explanations, and the errors."""
    columns = ("generator", "versions", "contract", *STAGES, "warnings", "seconds")
    yield f"| {' | '.join(columns)} |"
    yield f"| {' | '.join('---' for _ in columns)} |"
    for result in results:
        cells = [
            result.target.name,
            result.versions,
            result.contract,
            *result.stages.values(),
            result.warning_summary,
        ]
        yield f"| {' | '.join(cells)} | {result.seconds:.0f} |"
    explained: dict[str, list[str]] = {}
    for result in results:
        for line, why in result.warnings.items():
            explained.setdefault(f"- {line}\n  {why or 'NOT EXPLAINED'}", []).append(
                result.target.name
            )
    yield "\nWarnings of the generators, with their explanations:\n"
    yield from (f"{text} ({', '.join(names)})" for text, names in explained.items())
    errors = [(result.target.name, text) for result in results for text in result.errors]
    if errors:
        yield "\nErrors:\n"
        yield from (f"- {name}: {text}" for name, text in errors)
    green = sum(result.green for result in results)
    yield f"\nclients: {green} of {len(results)} green in {seconds:.0f} s"


if __name__ == "__main__":
    # Raise KeyboardInterrupt, so that the `with` blocks stop their processes.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main(sys.argv[1:], os.environ))
