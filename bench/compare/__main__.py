"""`task bench`: this service and others of its kind, on the same rows, in one run."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import ExitStack

from bench.compare import gate, metered, report
from bench.compare.catalogue import BARE, OURS, USUAL, Peer, peers
from bench.compare.data import database
from bench.compare.measure import Figures, Sample, costs, loads, stands, starts
from bench.compare.operations import OPERATIONS
from tests.support.long_task import run

ROUNDS = 5
START_ROUNDS = 3
# Of the specification: times the processor time of the peers.
OF_BARE = {"get": 2.0, "list 20": 2.0, "create": 2.0}
OF_BARE_OTHERWISE = 2.5
BELOW_USUAL = {"get": 5.0, "list 20": 5.0, "create": 5.0}
P99_OF_P50 = 5.0
START_SECONDS = 1.5
MEMORY_BYTES = 100e6


def main() -> int:
    """Measure, write and judge."""
    parser = argparse.ArgumentParser(prog="task bench --", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--costs", action="store_true", help="processor time alone")
    parser.add_argument("--only", nargs="*", default=[], help="these peers alone")
    parser.add_argument("--gate", action="store_true", help="hold the ratios to what is recorded")
    parser.add_argument("--record", action="store_true", help="record the ratios for the gate")
    parser.add_argument("--metrics", action="store_true", help="what the metrics cost")
    arguments = parser.parse_args()
    if arguments.gate or arguments.record:
        return gate.main(record=arguments.record)
    if arguments.metrics:
        return metered.main()
    chosen = [each for each in peers() if not arguments.only or each.name in arguments.only]
    figures = Figures(list(_samples(chosen, arguments)))
    table = report.write(figures, report.circumstances(arguments.rounds))
    print(table.read_text("utf-8"))
    faults = [] if arguments.only else [*_dear(figures)]
    if not (arguments.only or arguments.costs):
        faults += _slow(figures)
    print(*faults, sep="\n")
    return 1 if faults else 0


def _samples(chosen: list[Peer], arguments: argparse.Namespace) -> Iterator[Sample]:
    with database() as server, ExitStack() as stack:
        if not arguments.costs:
            yield from starts(chosen, server, START_ROUNDS)
        those = stands(stack, chosen, server, workers=1 if arguments.costs else 2)
        yield from costs(those, OPERATIONS, arguments.rounds)
        if not arguments.costs:
            yield from loads(those, arguments.rounds)


def _dear(figures: Figures) -> Iterator[str]:
    """The goals of processor time that were not reached."""
    for operation in OPERATIONS:
        most = OF_BARE.get(operation, OF_BARE_OTHERWISE)
        if (ratio := figures.ratio(OURS, BARE, operation)) > most:
            yield f"{operation}: {ratio:.2f} times the processor time of {BARE}, goal {most}"
    for operation, least in BELOW_USUAL.items():
        if (ratio := figures.ratio(USUAL, OURS, operation)) < least:
            yield f"{operation}: {USUAL} takes {ratio:.2f} times as much, goal {least}"


def _slow(figures: Figures) -> Iterator[str]:
    """The other goals that were not reached."""
    for operation in OPERATIONS:
        p50, p99 = (figures.middle(OURS, operation, name) for name in ("p50", "p99"))
        if p99 > P99_OF_P50 * p50:
            yield f"{operation}: p99 is {p99 / p50:.1f} times p50, goal {P99_OF_P50}"
    if (seconds := figures.middle(OURS, "start", "seconds")) > START_SECONDS:
        yield f"first answer after {seconds:.2f} s, goal {START_SECONDS}"
    if (held := figures.middle(OURS, "mix", "memory")) > MEMORY_BYTES:
        yield f"{held / 1e6:.0f} MB of memory, goal {MEMORY_BYTES / 1e6:.0f}"


if __name__ == "__main__":
    run(main)
