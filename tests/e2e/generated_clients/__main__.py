"""Generate the clients, compile them and run each against a service.

Command: `python -m tests.e2e.generated_clients`.

The service is started here, with a database of its own. CLIENTS_WITHOUT_TOOLCHAIN=1 lets a target
pass whose toolchain this machine does not have; without it such a target is red like any other.
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

from tests.e2e.generated_clients.matrix import ROOT, Result, run
from tests.e2e.generated_clients.targets import TARGETS
from tools.fuzz.__main__ import serving

REPORTS = ROOT / "reports" / "clients"
AT_ONCE = 2  # the cores of a small machine


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    names = [target.name for target in TARGETS]
    parser = argparse.ArgumentParser(
        prog="python -m tests.e2e.generated_clients", description=__doc__
    )
    parser.add_argument("target", nargs="*", help=f"of {', '.join(names)}; all when absent")
    parser.add_argument("--contract", type=Path, default=ROOT / "openapi.yaml", help="a file")
    options = parser.parse_args(arguments)
    if unknown := set(options.target) - set(names):
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    chosen = [target for target in TARGETS if target.name in (options.target or names)]
    started = time.monotonic()
    with serving(REPORTS) as url, ThreadPoolExecutor(AT_ONCE) as pool:
        contract = options.contract.absolute()
        results = list(pool.map(lambda target: run(target, contract, url, REPORTS), chosen))
    report = "\n".join(told(results, time.monotonic() - started))
    (REPORTS.parent / "clients.md").write_text(f"# Generated clients\n\n{report}\n", "utf-8")
    print(report)
    return verdict(results, lenient=bool(environ.get("CLIENTS_WITHOUT_TOOLCHAIN")))


def verdict(results: Sequence[Result], *, lenient: bool) -> int:
    """The exit code: 0 when all are green, or lack a toolchain where that was asked for."""
    passing = (result.green or (lenient and result.lacks_toolchain) for result in results)
    return int(not (results and all(passing)))


def told(results: Sequence[Result], seconds: float) -> Iterator[str]:
    """The table, then warnings with their explanations, then complaints."""
    yield "| generator | versions | generated | compiled | scenario | warnings | seconds |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for result in results:
        cells = [result.target.name, result.versions, *result.stages.values(), result.heard]
        yield f"| {' | '.join(cells)} | {result.seconds:.0f} |"
    explained: dict[str, list[str]] = {}
    for result in results:
        for line, why in result.warnings.items():
            explained.setdefault(f"- {line}\n  {why or 'NOT EXPLAINED'}", []).append(
                result.target.name
            )
    yield "\nWarnings of the generators, each with its explanation:\n"
    yield from (f"{text} ({', '.join(names)})" for text, names in explained.items())
    complaints = [(result.target.name, text) for result in results for text in result.complaints]
    if complaints:
        yield "\nWhat is wrong:\n"
        yield from (f"- {name}: {text}" for name, text in complaints)
    green = sum(result.green for result in results)
    yield f"\nclients: {green} of {len(results)} green in {seconds:.0f} s"


if __name__ == "__main__":
    # As Ctrl-C does it: by way of the blocks above, which stop what they started.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main(sys.argv[1:], os.environ))
