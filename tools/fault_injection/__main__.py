"""Breaks what the service stands on while it is used: `python -m tools.fault_injection [NAME ...]`.

Each fault is injected while clients write, and a ledger is kept of what they were told. What was
really done is then read from the database. Exit code 1 when a row has anything lost, doubled or
undocumented. FAULTS_WITHOUT_TOOLS=1 leaves out what this machine has no means for.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from pathlib import Path

from tests.support.long_task import progress
from tests.support.long_task import run as run_task
from tests.support.process import ROOT, until
from tools.fault_injection.catalogue import FAULTS, Fault
from tools.fault_injection.environment import Probe, Stage
from tools.fault_injection.load import ANSWER_SECONDS, CLIENTS, Client, Ledger
from tools.fault_injection.postgres import MissingToolError, Postgres
from tools.fault_injection.verify import hold_service_against, settle

REPORT = ROOT / "reports" / "faults.md"
WARM_SECONDS = 1.0
CALM_SECONDS = 1.0  # without a failure, after which the service counts as recovered
RECOVERY_SECONDS = 15.0
NOTICE_SECONDS = 0.3  # after which readiness must have noticed
LIVENESS_SECONDS = 2.0
# Where /livez, which does nothing, takes as long, the machine is too busy to hold anything against
# a limit of one second; the table shows it.
BUSY_SECONDS = 0.5
TOLD = 5  # complaints of a kind that are printed


@dataclass
class Row:
    """What came of one fault."""

    fault: Fault
    ledger: Ledger = field(default_factory=Ledger)
    seconds: float = 0.0  # that the fault lasted
    recovered: float | None = None  # seconds from its end to the first write that succeeded
    ready: float | None = None  # and to the first 200 of /readyz
    calm: float = 0.0  # and to the last request that failed
    readiness: str = ""
    lag: float = 0.0  # the longest that /livez took
    untrue: list[str] = field(default_factory=list)  # what the probes said against the truth
    missing: str = ""  # the tool without which it could not be injected
    broken: str = ""  # why the run could not be brought to its end

    @property
    def is_kept(self) -> bool:
        """Whether the promise was kept."""
        ledger = self.ledger
        wrong = ledger.lost or ledger.doubled or ledger.undocumented or self.untrue
        return not (wrong or self.broken or self.recovered is None or self.ready is None)


async def run(faults: Sequence[Fault], postgres: Postgres, folder: Path) -> list[Row]:
    """The rows of faults that have their scene in common, and so one service, never restarted."""
    rows: list[Row] = []
    while len(rows) < len(faults):
        begun = len(rows)
        try:
            if not postgres.is_running:
                await postgres.start()
            async with faults[begun].scene.set(postgres, folder) as stage:
                for fault in faults[begun:]:
                    rows.append(Row(fault))
                    progress(fault.name)
                    await postgres.empty()
                    await _under_load(rows[-1], stage)
                    print(line(rows[-1]), flush=True)
        except MissingToolError as lacking:
            lacked = [Row(fault, missing=str(lacking)) for fault in faults[begun:]]
            print(*map(line, lacked), sep="\n", flush=True)
            rows += lacked
        except Exception as broken:  # noqa: BLE001 - the other faults are still to be seen
            rows += [Row(faults[begun])] if len(rows) == begun else []
            rows[-1].broken = f"{type(broken).__name__}: {broken}; {postgres.last_words()}"
            print(line(rows[-1]), flush=True)
    return rows


async def _under_load(row: Row, stage: Stage) -> None:
    ledger, stopped, probe = row.ledger, asyncio.Event(), Probe()
    clients = [Client(n, stage.url, ledger, row.fault.allowed) for n in range(CLIENTS)]
    load = asyncio.gather(*(client.run(stopped) for client in clients))
    probing = asyncio.create_task(probe.run(stage.url))
    process = stage.replica.process_id
    await asyncio.sleep(WARM_SECONDS)
    await until(lambda: _all_at_work(clients))
    began = time.monotonic()
    await row.fault.inject(stage)
    ended = time.monotonic()
    await _until_calm(ledger, probe, ended)
    stopped.set()
    await load
    probing.cancel()
    row.seconds = ended - began
    row.recovered = _after(ended, next((at for at in ledger.successes if at > ended), None))
    row.ready = _after(ended, probe.first("/readyz", ended))
    row.calm = max(0.0, max(ledger.unknowns, default=0.0) - ended)
    _judge_probes(row, probe, began, ended)
    ledger.undocumented += probe.undocumented + stage.complaints
    if not row.fault.ends_process and stage.replica.process_id != process:
        ledger.undocumented.append("the service was restarted")
    if not all(replica.is_running for replica in stage.replicas):
        ledger.undocumented.append("the service has ended")
    session = await stage.postgres.connect()
    await settle(ledger, session)
    await hold_service_against(ledger, stage.url, session)
    await session.close()


async def _all_at_work(clients: Sequence[Client]) -> bool:
    return all(client.chain for client in clients)


async def _until_calm(ledger: Ledger, probe: Probe, ended: float) -> None:
    """Wait until requests have succeeded for a while and the service says that it is ready."""
    while (now := time.monotonic()) < ended + RECOVERY_SECONDS:
        last = max([ended, *ledger.unknowns])
        if now > last + CALM_SECONDS and probe.first("/readyz", ended):
            return
        await asyncio.sleep(0.1)


def _after(ended: float, at: float | None) -> float | None:
    return None if at is None else at - ended


def _judge_probes(row: Row, probe: Probe, began: float, ended: float) -> None:
    alive = [(e - b, status) for b, e, path, status in probe.answers if path == "/livez"]
    row.lag = max((took for took, status in alive if status == 200), default=0.0)
    if not row.fault.ends_process:
        wrong = [told for told in alive if told[1] != 200 or told[0] > LIVENESS_SECONDS]
        row.untrue += [f"/livez was {status} after {took:.2f} s" for took, status in wrong]
    limit = ANSWER_SECONDS + 2 * row.lag  # the machine delays the request, and its answer
    late = [(took, name) for took, name in row.ledger.late if took > limit]
    row.ledger.undocumented += [f"{name}: after {took:.2f} s" for took, name in late]
    during = probe.statuses("/readyz", began + NOTICE_SECONDS, ended)
    row.readiness = f"{sum(status == 503 for status in during)} of {len(during)}"
    if row.fault.ready is False:
        row.untrue += [f"/readyz was {s} during the fault" for s in during if s != 503]
    if row.lag > BUSY_SECONDS:
        return
    if row.fault.ready:
        row.untrue += [f"/readyz was {s} during the fault" for s in during if s != 200]
    if row.ready is not None:
        later = probe.statuses("/readyz", ended + row.ready, float("inf"))
        row.untrue += [f"/readyz was {s} after the recovery" for s in later if s != 200]


HEAD = (
    "| fault | lasted s | acknowledged | unknown | lost | doubled | undocumented "
    "| not ready during | probes untrue | first write after s | ready after s "
    "| last failure after s | slowest answer s | slowest /livez s |\n"
    "| --- |" + " ---: |" * 13
)


def line(row: Row) -> str:
    """A row of the table."""
    if row.missing:
        return f"| {row.fault.name} | not injected: {row.missing} |" + " |" * 12
    ledger = row.ledger
    counts = (len(found) for found in (ledger.lost, ledger.doubled, ledger.undocumented))
    cells = [
        row.fault.name,
        f"{row.seconds:.1f}",
        ledger.acknowledged,
        len(ledger.unknowns),
        *counts,
        row.readiness,
        len(row.untrue),
        _figure(row.recovered),
        _figure(row.ready),
        _figure(row.calm),
        _figure(ledger.slowest),
        _figure(row.lag),
    ]
    return f"| {' | '.join(map(str, cells))} |"


def _figure(seconds: float | None) -> str:
    return "never" if seconds is None else f"{seconds:.2f}"


def _complaints(row: Row) -> Iterator[str]:
    ledger = row.ledger
    kinds = {
        "broken off": [row.broken] if row.broken else [],
        "lost": ledger.lost,
        "doubled": ledger.doubled,
        "undocumented": ledger.undocumented,
        "untrue": row.untrue,
    }
    for kind, found in kinds.items():
        yield from (f"- {row.fault.name}, {kind}: {text}" for text in found[:TOLD])
        if len(found) > TOLD:
            yield f"- {row.fault.name}, {kind}: {len(found) - TOLD} more"


def verdict(rows: Sequence[Row], *, lenient: bool) -> int:
    """The exit code: 0 when the promise was kept in every row."""
    kept = ((lenient if row.missing else row.is_kept) for row in rows)
    return int(not (rows and all(kept)))


async def run_all(faults: Sequence[Fault]) -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="tasks-faults-") as name:
        folder = Path(name)
        postgres = Postgres(folder)
        try:
            await postgres.start()
            rows: list[Row] = []
            print(HEAD, flush=True)
            for _, alike in groupby(faults, key=attrgetter("scene")):
                rows += await run(list(alike), postgres, folder)
            return rows
        finally:
            postgres.close()


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    names = [fault.name for fault in FAULTS]
    parser = argparse.ArgumentParser(prog="python -m tools.fault_injection", description=__doc__)
    parser.add_argument("fault", nargs="*", help=f"of {', '.join(names)}; all when absent")
    options = parser.parse_args(arguments)
    if unknown := set(options.fault) - set(names):
        parser.error(f"no such fault: {', '.join(sorted(unknown))}")
    chosen = [fault for fault in FAULTS if fault.name in (options.fault or names)]
    started = time.monotonic()
    rows = asyncio.run(run_all(chosen))
    kept = sum(row.is_kept and not row.missing for row in rows)
    seconds = time.monotonic() - started
    summary = f"faults: {kept} of {len(rows)} kept the promise, in {seconds:.0f} s"
    wrong = [complaint for row in rows for complaint in _complaints(row)]
    end = [*(["", "What is wrong:", "", *wrong] if wrong else []), "", summary]
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text("\n".join(["# Faults", "", HEAD, *map(line, rows), *end, ""]), "utf-8")
    print("\n".join(end))
    return verdict(rows, lenient=bool(environ.get("FAULTS_WITHOUT_TOOLS")))


if __name__ == "__main__":
    run_task(lambda: main(sys.argv[1:], os.environ))
