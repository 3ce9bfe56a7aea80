"""Inject faults while clients write: `python -m tools.fault_injection [NAME ...]`.

The log of acknowledged writes is compared with an audit table in the database. Exits with 1 if a
write was lost, duplicated or not in the feed, or if a response is undocumented.
FAULTS_WITHOUT_TOOLS=1 skips faults that need a program that is not installed.
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
from tools.fault_injection.environment import Environment, Probe
from tools.fault_injection.follower import Follower
from tools.fault_injection.load import CLIENTS, MAX_LATENCY, Client, WriteLog
from tools.fault_injection.postgres import MissingToolError, Postgres
from tools.fault_injection.verify import reconcile, verify_lists

REPORT = ROOT / "reports" / "faults.md"
WARM_UP_SECONDS = 1.0
RECOVERED_SECONDS = 1.0  # without a failure
RECOVERY_TIMEOUT = 15.0
READINESS_DELAY = 0.3  # seconds until readiness must show the fault
LIVENESS_TIMEOUT = 2.0
# /livez does no work. If it is slower than this, the machine is too busy for a limit of one second.
MAX_LIVENESS_LATENCY = 0.5
MAX_PRINTED = 5  # errors per category


@dataclass
class Row:
    """The results of one fault."""

    fault: Fault
    log: WriteLog = field(default_factory=WriteLog)
    seconds: float = 0.0  # duration of the fault
    recovered: float | None = None  # seconds from its end to the first successful write
    ready: float | None = None  # to the first 200 of /readyz
    last_failure: float = 0.0  # to the last failed request
    readiness: str = ""
    liveness_latency: float = 0.0  # maximum of /livez
    wrong_readiness: list[str] = field(default_factory=list)  # unexpected probe responses
    missing_tool: str = ""  # so the fault was not injected
    failure: str = ""  # why the run failed

    @property
    def passed(self) -> bool:
        log = self.log
        errors = [*log.lost, *log.applied_twice, *log.undocumented, *log.missing]
        failed = errors or self.wrong_readiness or self.failure
        return not (failed or self.recovered is None or self.ready is None)


async def run(faults: Sequence[Fault], postgres: Postgres, directory: Path) -> list[Row]:
    """Inject faults with the same setup into one environment. A failure restarts it."""
    rows: list[Row] = []
    while len(rows) < len(faults):
        first = len(rows)
        try:
            if not postgres.is_running:
                await postgres.start()
            async with faults[first].setup.open(postgres, directory) as environment:
                for fault in faults[first:]:
                    rows.append(Row(fault))
                    progress(fault.name)
                    await postgres.delete_all()
                    await _inject_under_load(rows[-1], environment)
                    print(format_row(rows[-1]), flush=True)
        except MissingToolError as error:
            skipped = [Row(fault, missing_tool=str(error)) for fault in faults[first:]]
            print(*map(format_row, skipped), sep="\n", flush=True)
            rows += skipped
        except Exception as error:  # noqa: BLE001 - the other faults still run
            rows += [Row(faults[first])] if len(rows) == first else []
            rows[-1].failure = f"{type(error).__name__}: {error}; {postgres.describe_state()}"
            print(format_row(rows[-1]), flush=True)
    return rows


async def _inject_under_load(row: Row, environment: Environment) -> None:
    log, stopped, probe = row.log, asyncio.Event(), Probe()
    clients = [Client(n, environment.url, log, row.fault.allowed) for n in range(CLIENTS)]
    follower = Follower(environment.url, log, row.fault.allowed)
    load = asyncio.gather(*(client.run(stopped) for client in clients))
    following = asyncio.create_task(follower.run())
    probe_task = asyncio.create_task(probe.run(environment.url))
    pid = environment.replica.pid
    await asyncio.sleep(WARM_UP_SECONDS)
    await until(lambda: _have_all_started(clients))
    started_at = time.monotonic()
    await row.fault.inject(environment)
    ended_at = time.monotonic()
    await _wait_for_recovery(log, probe, ended_at)
    stopped.set()
    await load
    follower.stopped.set()
    await following
    probe_task.cancel()
    row.seconds = ended_at - started_at
    row.recovered = _seconds_after(
        ended_at, next((at for at in log.successes if at > ended_at), None)
    )
    row.ready = _seconds_after(ended_at, probe.first_success("/readyz", ended_at))
    row.last_failure = max(0.0, max(log.unknowns, default=0.0) - ended_at)
    _check_probes(row, probe, started_at, ended_at)
    log.undocumented += probe.undocumented + environment.errors
    if not row.fault.ends_process and environment.replica.pid != pid:
        log.undocumented.append("the service was restarted")
    if not all(replica.is_running for replica in environment.replicas):
        log.undocumented.append("the service has ended")
    connection = await environment.postgres.connect()
    await reconcile(log, connection)
    await verify_lists(log, environment.url, connection)
    await follower.verify(connection)
    await connection.close()


async def _have_all_started(clients: Sequence[Client]) -> bool:
    return all(client.chain for client in clients)


async def _wait_for_recovery(log: WriteLog, probe: Probe, ended_at: float) -> None:
    """Wait until the service is ready and requests succeed for RECOVERED_SECONDS."""
    while (now := time.monotonic()) < ended_at + RECOVERY_TIMEOUT:
        last = max([ended_at, *log.unknowns])
        if now > last + RECOVERED_SECONDS and probe.first_success("/readyz", ended_at):
            return
        await asyncio.sleep(0.1)


def _seconds_after(ended_at: float, at: float | None) -> float | None:
    return None if at is None else at - ended_at


def _check_probes(row: Row, probe: Probe, started_at: float, ended_at: float) -> None:
    liveness = [
        (end - start, status) for start, end, path, status in probe.responses if path == "/livez"
    ]
    row.liveness_latency = max(
        (latency for latency, status in liveness if status == 200), default=0.0
    )
    if not row.fault.ends_process:
        failed = [
            (latency, status)
            for latency, status in liveness
            if status != 200 or latency > LIVENESS_TIMEOUT
        ]
        row.wrong_readiness += [
            f"/livez was {status} after {latency:.2f} s" for latency, status in failed
        ]
    # A busy machine delays both the request and its response.
    limit = MAX_LATENCY + 2 * row.liveness_latency
    late = [(latency, name) for latency, name in row.log.late if latency > limit]
    row.log.undocumented += [f"{name}: after {latency:.2f} s" for latency, name in late]
    during = probe.statuses("/readyz", started_at + READINESS_DELAY, ended_at)
    row.readiness = f"{sum(status == 503 for status in during)} of {len(during)}"
    if row.fault.ready is False:
        row.wrong_readiness += [f"/readyz was {s} during the fault" for s in during if s != 503]
    if row.liveness_latency > MAX_LIVENESS_LATENCY:
        return
    if row.fault.ready:
        row.wrong_readiness += [f"/readyz was {s} during the fault" for s in during if s != 200]
    if row.ready is not None:
        after_recovery = probe.statuses("/readyz", ended_at + row.ready, float("inf"))
        row.wrong_readiness += [
            f"/readyz was {s} after the recovery" for s in after_recovery if s != 200
        ]


HEADER = (
    "| fault | lasted s | acknowledged | unknown | lost | duplicated | undocumented "
    "| not in the feed | not ready during | wrong readiness | first write after s | ready after s "
    "| last failure after s | slowest response s | slowest /livez s |\n"
    "| --- |" + " ---: |" * 14
)


def format_row(row: Row) -> str:
    if row.missing_tool:
        return f"| {row.fault.name} | not injected: {row.missing_tool} |" + " |" * 13
    log = row.log
    categories = (log.lost, log.applied_twice, log.undocumented, log.missing)
    counts = (len(errors) for errors in categories)
    cells = [
        row.fault.name,
        f"{row.seconds:.1f}",
        log.acknowledged,
        len(log.unknowns),
        *counts,
        row.readiness,
        len(row.wrong_readiness),
        _format_seconds(row.recovered),
        _format_seconds(row.ready),
        _format_seconds(row.last_failure),
        _format_seconds(log.slowest),
        _format_seconds(row.liveness_latency),
    ]
    return f"| {' | '.join(map(str, cells))} |"


def _format_seconds(seconds: float | None) -> str:
    return "never" if seconds is None else f"{seconds:.2f}"


def _list_errors(row: Row) -> Iterator[str]:
    log = row.log
    categories = {
        "failed": [row.failure] if row.failure else [],
        "lost": log.lost,
        "duplicated": log.applied_twice,
        "undocumented": log.undocumented,
        "not in the feed": log.missing,
        "wrong readiness": row.wrong_readiness,
    }
    for category, errors in categories.items():
        yield from (f"- {row.fault.name}, {category}: {text}" for text in errors[:MAX_PRINTED])
        if len(errors) > MAX_PRINTED:
            yield f"- {row.fault.name}, {category}: {len(errors) - MAX_PRINTED} more"


def exit_code(rows: Sequence[Row], *, skip_missing: bool) -> int:
    """Return 0 if every fault passed."""
    passed = ((skip_missing if row.missing_tool else row.passed) for row in rows)
    return int(not (rows and all(passed)))


async def run_all(faults: Sequence[Fault]) -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="tasks-faults-") as name:
        directory = Path(name)
        postgres = Postgres(directory)
        try:
            await postgres.start()
            rows: list[Row] = []
            print(HEADER, flush=True)
            for _, group in groupby(faults, key=attrgetter("setup")):
                rows += await run(list(group), postgres, directory)
            return rows
        finally:
            postgres.close()


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    names = [fault.name for fault in FAULTS]
    parser = argparse.ArgumentParser(prog="python -m tools.fault_injection", description=__doc__)
    parser.add_argument("fault", nargs="*", help=f"of {', '.join(names)}; default: all")
    options = parser.parse_args(arguments)
    if unknown := set(options.fault) - set(names):
        parser.error(f"no such fault: {', '.join(sorted(unknown))}")
    chosen = [fault for fault in FAULTS if fault.name in (options.fault or names)]
    started_at = time.monotonic()
    rows = asyncio.run(run_all(chosen))
    passed = sum(row.passed and not row.missing_tool for row in rows)
    seconds = time.monotonic() - started_at
    summary = f"faults: {passed} of {len(rows)} passed, in {seconds:.0f} s"
    errors = [error for row in rows for error in _list_errors(row)]
    footer = [*(["", "Errors:", "", *errors] if errors else []), "", summary]
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(
        "\n".join(["# Faults", "", HEADER, *map(format_row, rows), *footer, ""]), "utf-8"
    )
    print("\n".join(footer))
    return exit_code(rows, skip_missing=bool(environ.get("FAULTS_WITHOUT_TOOLS")))


if __name__ == "__main__":
    run_task(lambda: main(sys.argv[1:], os.environ))
