"""What the metrics cost: the service with and without them, in turns, processor time alone."""

from __future__ import annotations

from contextlib import ExitStack
from statistics import median

from bench.compare.catalogue import OURS, peer
from bench.compare.data import database
from bench.compare.measure import Figures, costs, stands
from bench.compare.operations import OPERATIONS
from tools.postgres.processes import free_port

METERED = f"{OURS}, metrics"
AT_MOST = 1.05  # of the processor time without; a single operation's ratio differs by as much
ROUNDS, COUNT = 15, 800


def main() -> int:
    """Measure and judge."""
    plain = peer(OURS)
    metered = plain._replace(name=METERED, settings={"METRICS_PORT": str(free_port())})
    with database() as server, ExitStack() as stack:
        those = stands(stack, [plain, metered], server, workers=1)
        figures = Figures(list(costs(those, OPERATIONS, ROUNDS, COUNT)))
    ratios = {name: figures.ratio(METERED, OURS, name) for name in OPERATIONS}
    print(", ".join(f"{name} {ratio:.3f}" for name, ratio in ratios.items()))
    middle = median(ratios.values())
    print(f"with metrics: {middle:.3f} times the processor time without, at most {AT_MOST}")
    return 1 if middle > AT_MOST else 0
