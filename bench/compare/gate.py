"""Whether a change made the service dearer, told in two minutes: processor time alone.

Both services run at once and are measured in turns, so what the machine does meets both of them.
One run may be unlucky: a ratio is worse when it is so in three runs, one after the other, by 15% on
the machine where the ratios were recorded and by half on others.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from statistics import median

import msgspec

from bench.compare.catalogue import BARE, OURS, peer
from bench.compare.data import database
from bench.compare.measure import Figures, costs, stands
from bench.compare.operations import OPERATIONS
from bench.compare.report import machine

RECORDED = Path(__file__).with_name("recorded.json")
WORSE = 1.15
# Where calls of the system are cheaper, the bare service, which does little else, gains more.
WORSE_ELSEWHERE = 1.5
RUNS = 3
ROUNDS, COUNT = 9, 800


class Recorded(msgspec.Struct, frozen=True):
    """The ratios, and where they were measured."""

    machine: str
    ratios: dict[str, float]

    @property
    def worse(self) -> float:
        """How many times the recorded ratio is too much here."""
        return WORSE if machine() == self.machine else WORSE_ELSEWHERE


def ratios() -> dict[str, float]:
    """How many times as much processor time as the bare service each operation takes."""
    with database() as server, ExitStack() as stack:
        those = stands(stack, [peer(BARE), peer(OURS)], server, workers=1)
        figures = Figures(list(costs(those, OPERATIONS, ROUNDS, COUNT)))
    return {name: round(figures.ratio(OURS, BARE, name), 2) for name in OPERATIONS}


def main(*, record: bool) -> int:
    """Measure up to three times, and judge; or record what is measured."""
    if record:
        runs = [ratios() for _ in range(RUNS)]
        middle = {name: median(run[name] for run in runs) for name in OPERATIONS}
        new = Recorded(machine(), middle)
        RECORDED.write_bytes(msgspec.json.format(msgspec.json.encode(new)) + b"\n")
        return 0
    recorded = msgspec.json.decode(RECORDED.read_bytes(), type=Recorded)
    most = {name: recorded.worse * ratio for name, ratio in recorded.ratios.items()}
    worse: dict[str, float] = dict.fromkeys(OPERATIONS, 0.0)
    for run in range(1, RUNS + 1):
        found = ratios()
        print(f"run {run}: " + ", ".join(f"{name} {ratio}" for name, ratio in found.items()))
        worse = {name: found[name] for name in worse if found[name] > most[name]}
        if not worse:
            return 0
    for name, ratio in worse.items():
        print(f"{name}: {ratio} times {BARE}, at most {most[name]:.2f}, {RUNS} runs in a row")
    return 1
