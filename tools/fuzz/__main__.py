"""Fuzzes a running service against the contract: `python -m tools.fuzz [FOLDER]`.

FUZZ_EXAMPLES, FUZZ_SEED and FUZZ_URL choose the examples for each operation, the run to repeat and
a deployed service. Without FUZZ_URL the service is started here, on an empty database of its own.
FUZZ_ROUNDS repeats the whole with further seeds: what Schemathesis finds in answers it uses again,
so that one long run gets ever slower and comes back to the same.
The ids of all users begin with FUZZ_USERS, at a deployed service with `fuzz-`.
A run with fewer than FUZZ_CASES cases fails, and so does one that exercised too little of the
contract; `coverage.md` in the folder says what.
"""

# ruff: noqa: T201 - a command line prints

from __future__ import annotations

import argparse
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from app.embedded_postgres.user import make_preexec_fn
from app.openapi.document import OpenAPIDocument
from tests.support.long_task import progress, run
from tools.fuzz.coverage import Coverage, measure, report
from tools.fuzz.exchanges import recorded
from tools.fuzz.exercised import Reader

ROOT = Path(__file__).parents[2]
REPORTS = ROOT / "reports" / "fuzz"
SERVICE = (sys.executable, "-m", "app", "serve")
RECORD = "exchanges.ndjson.gz"
EXAMPLES = "100"
USERS = "fuzz-"
SEEDS = 2**32
START_SECONDS = 60
STOP_SECONDS = 30
# Several times what two busy cores need.
RUN_SECONDS = 150
RUN_SECONDS_EACH = 4
# Schemathesis itself stood still once, with a seed that in some hundred other runs did not.
ATTEMPTS = 2
ADDRESS = re.compile(r"^Tasks API +(http://\S+)/api/v1$", re.MULTILINE)


@dataclass(frozen=True)
class Outcome:
    """What a run showed."""

    exit_code: int
    summary: str
    failures: tuple[str, ...]
    shortcomings: tuple[str, ...]


class ServiceError(Exception):
    """The service did not start; the message is what it wrote."""


class UnfinishedError(Exception):
    """Schemathesis ended without a report, or did not end; the message says how often."""


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> Outcome:
    parser = argparse.ArgumentParser(prog="python -m tools.fuzz", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=REPORTS, help="for the reports")
    folder: Path = parser.parse_args(arguments).folder.absolute()
    examples = int(environ.get("FUZZ_EXAMPLES") or EXAMPLES)
    seed = int(environ.get("FUZZ_SEED") or secrets.randbelow(SEEDS))
    url = environ.get("FUZZ_URL")
    users = environ.get("FUZZ_USERS") or (USERS if url else "")
    rounds = [folder / f"round-{number}" for number in range(int(environ.get("FUZZ_ROUNDS") or 1))]
    with nullcontext(url) if url else serving(folder) as address:
        runs = [
            fuzz(address, examples=examples, seed=seed + number, users=users, folder=each)
            for number, each in enumerate(rounds)
        ]
    exchanges = chain.from_iterable(recorded(each / RECORD) for each in rounds)
    coverage = measure(exchanges, Reader(OpenAPIDocument.load().document))
    (folder / "coverage.md").write_text(report(coverage), "utf-8")
    print(report(coverage))
    outcome = judge(runs, coverage, least=int(environ.get("FUZZ_CASES") or 1))
    variables = f"FUZZ_EXAMPLES={examples} FUZZ_ROUNDS={len(rounds)} FUZZ_SEED={seed}"
    variables += f" FUZZ_USERS={users} FUZZ_URL={url or ''}"
    for shortcoming in outcome.shortcomings:
        print(shortcoming)
    print(f"again: {variables} python -m tools.fuzz")
    print(outcome.summary)
    return outcome


@contextmanager
def serving(
    folder: Path, *, database_url: str | None = None, command: Sequence[str] = SERVICE
) -> Iterator[str]:
    """The address of a service that runs for the length of the block; its log goes to `folder`.

    Without a database URL it gets an embedded PostgreSQL, which is deleted afterwards. DATABASE_URL
    of the environment is never used: it may be somebody's data.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "service.log"
    with tempfile.TemporaryDirectory(prefix="tasks-fuzz-") as data, path.open("wb") as log:
        # Without a database, what is said of one is said of somebody else's.
        kept = {
            name: value
            for name, value in os.environ.items()
            if database_url or not name.startswith("DATABASE_")
        }
        environ = kept | {
            "HOST": "127.0.0.1",
            "PORT": "0",
            "DATABASE_URL": database_url or "",
            "DATA_DIR": data,
            "LOG_LEVEL": "warning",
            "STOP_WITH_PARENT": str(os.getpid()),
        }
        process = subprocess.Popen(command, cwd=ROOT, env=environ, stdout=log, stderr=log)
        try:
            yield _address(process, path)
        finally:
            process.terminate()
            killer = threading.Timer(STOP_SECONDS, process.kill)
            killer.start()
            process.wait()
            killer.cancel()


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        if found := ADDRESS.search(log.read_text("utf-8")):
            return found[1]
        time.sleep(0.05)
    raise ServiceError(f"The service did not start:\n{log.read_text('utf-8')}")


def fuzz(
    url: str, *, examples: int, seed: int, users: str, folder: Path, seconds: float | None = None
) -> dict[str, Any]:
    """Run Schemathesis on the service at `url`; a record and reports go to `folder`.

    Gives its own report, with its exit code. A run that is not done after `seconds`, by default a
    time that no run should need, writes the stacks of its threads, is ended and made once more.
    Schemathesis's own `--max-time` is no bound: it makes a run go on until the time is spent.

    Raises UnfinishedError where no attempt ends with a report.
    """
    folder.mkdir(parents=True, exist_ok=True)
    result = folder / "run.json"
    program = shutil.which("schemathesis", path=str(Path(sys.executable).parent))
    command = [
        str(program),
        f"--config-file={ROOT / 'tools/fuzz/schemathesis.toml'}",
        "run",
        "openapi.yaml",
        f"--url={url}",
        f"--max-examples={examples}",
        f"--seed={seed}",
        f"--report-junit-path={folder / 'junit.xml'}",
        f"--report-json-path={result}",
    ]
    environ = os.environ | {
        "PYTHONHASHSEED": "0",  # so that no set has another order in the next run with this seed
        "FUZZ_RECORD": str(folder / RECORD),
        "FUZZ_SECONDS": str(seconds or RUN_SECONDS + RUN_SECONDS_EACH * examples),
        "FUZZ_USERS": users,
    }
    for attempt in range(1, ATTEMPTS + 1):
        result.write_bytes(b"")
        progress(f"Schemathesis, seed {seed}, attempt {attempt}")
        finished = subprocess.run(
            command,
            cwd=ROOT,
            env=environ,
            check=False,
            preexec_fn=make_preexec_fn(None),
        )
        if written := result.read_bytes():  # it is made at the beginning and filled at the end
            return {**json.loads(written), "exit_code": finished.returncode}
        print(f"Schemathesis has no report after attempt {attempt} of {ATTEMPTS}.", file=sys.stderr)
    raise UnfinishedError(f"Schemathesis made no report in {ATTEMPTS} attempts, seed {seed}")


def judge(runs: Sequence[Mapping[str, Any]], coverage: Coverage, *, least: int) -> Outcome:
    """Whether the runs prove anything, by their own reports (`--report json`) and their record."""
    cases = sum(run["test_cases"]["generated"] for run in runs)
    failures = tuple(failure["title"] for run in runs for failure in run["failures"])
    found = [text for run in runs for text in _shortcomings(run)] + coverage.shortcomings()
    if cases < least:
        found.append(f"only {cases} of {least} cases were made")
    summary = (
        f"fuzz: {cases} cases, {coverage.requests} of them different requests, {len(failures)} "
        f"failures, {len(found)} shortcomings, seed {runs[0]['seed']}; {coverage.summary}"
    )
    exit_code = max(run["exit_code"] for run in runs)
    return Outcome(exit_code or int(bool(found)), summary, failures, tuple(found))


def _shortcomings(run: Mapping[str, Any]) -> list[str]:
    operations = {f"{method} {path}" for path, method, _ in OpenAPIDocument.load().operations()}
    tested: int = run["operations"]["tested"]
    failures = [failure["title"] for failure in run["failures"]]
    warnings = [kind for kind, found in run["warnings"].items() if found]
    unfinished = [name for name, phase in run["phases"].items() if phase["status"] != "success"]
    accepting = {
        operation
        for operation, phases in run["valid_rates"].items()
        if any(phase["accepted"] for phase in phases.values())
    }
    shortcomings = {
        f"only {tested} of {len(operations)} operations were tested": tested != len(operations),
        f"failures: {', '.join(failures)}": failures,
        f"errors: {run['errors']}": run["errors"],
        f"warnings: {', '.join(warnings)}": warnings,
        f"phases without success: {', '.join(unfinished)}": unfinished,
        f"never accepted: {', '.join(sorted(operations - accepting))}": operations - accepting,
        "failures were left out of the count": run["filtered"] or run["baseline"],
    }
    return [text for text, holds in shortcomings.items() if holds]


if __name__ == "__main__":
    run(lambda: main(sys.argv[1:], os.environ).exit_code)
