"""Fuzz a running service against the contract: `python -m tools.fuzz [FOLDER]`.

- FUZZ_EXAMPLES: number of examples per operation (100).
- FUZZ_SEED: seed of a run to repeat (random).
- FUZZ_URL: a deployed service (default: start one on an empty database).
- FUZZ_ROUNDS: number of runs, each with another seed (1). Schemathesis reuses values from
  responses, so a single long run slows down and repeats requests.
- FUZZ_USERS: prefix of all user IDs (`fuzz-` for a deployed service).
- FUZZ_CASES: minimum number of cases (1). A run with fewer cases fails.

A run also fails if it covers too little of the contract. `coverage.md` in FOLDER has the details.
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
DEFAULT_EXAMPLES = "100"
USERS = "fuzz-"
SEEDS = 2**32
START_TIMEOUT = 60
STOP_TIMEOUT = 30
# Several times the duration on two busy cores.
RUN_TIMEOUT = 400
RUN_TIMEOUT_PER_EXAMPLE = 8
# Schemathesis hung once, with a seed that worked in about a hundred other runs.
ATTEMPTS = 2
ADDRESS = re.compile(r"^Tasks API +(http://\S+)/api/v1$", re.MULTILINE)


@dataclass(frozen=True)
class Outcome:
    """The result of a run."""

    exit_code: int
    summary: str
    failures: tuple[str, ...]
    shortcomings: tuple[str, ...]


class ServiceError(Exception):
    """The service did not start. The message contains its log."""


class UnfinishedError(Exception):
    """Schemathesis wrote no report or did not end. The message has the number of attempts."""


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> Outcome:
    parser = argparse.ArgumentParser(prog="python -m tools.fuzz", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=REPORTS, help="for the reports")
    folder: Path = parser.parse_args(arguments).folder.absolute()
    examples = int(environ.get("FUZZ_EXAMPLES") or DEFAULT_EXAMPLES)
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
    """Start a service, write its log to `folder`, and yield its URL.

    Without a database URL it gets an embedded PostgreSQL, which is deleted afterwards. DATABASE_URL
    of the environment is never used, because that database may contain real data.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "service.log"
    with tempfile.TemporaryDirectory(prefix="tasks-fuzz-") as data, path.open("wb") as log:
        # The DATABASE_ variables of the environment describe another database.
        inherited = {
            name: value
            for name, value in os.environ.items()
            if database_url or not name.startswith("DATABASE_")
        }
        environ = inherited | {
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
            killer = threading.Timer(STOP_TIMEOUT, process.kill)
            killer.start()
            process.wait()
            killer.cancel()


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + START_TIMEOUT
    while process.poll() is None and time.monotonic() < deadline:
        if match := ADDRESS.search(log.read_text("utf-8")):
            return match[1]
        time.sleep(0.05)
    raise ServiceError(f"The service did not start:\n{log.read_text('utf-8')}")


def fuzz(
    url: str, *, examples: int, seed: int, users: str, folder: Path, seconds: float | None = None
) -> dict[str, Any]:
    """Run Schemathesis on the service at `url`, and return its report with its exit code.

    The record and the reports are written to `folder`. After `seconds`, a run prints the stacks of
    its threads, is ended and repeated. Schemathesis's option `--max-time` is not a timeout: a run
    continues until the time has passed.

    Raises UnfinishedError if no attempt writes a report.
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
        "PYTHONHASHSEED": "0",  # the order of sets must not differ between runs with the same seed
        "FUZZ_RECORD": str(folder / RECORD),
        "FUZZ_SECONDS": str(seconds or RUN_TIMEOUT + RUN_TIMEOUT_PER_EXAMPLE * examples),
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
        if written := result.read_bytes():  # created empty at the start, written at the end
            return {**json.loads(written), "exit_code": finished.returncode}
        print(f"Schemathesis has no report after attempt {attempt} of {ATTEMPTS}.", file=sys.stderr)
    raise UnfinishedError(f"Schemathesis made no report in {ATTEMPTS} attempts, seed {seed}")


def judge(runs: Sequence[Mapping[str, Any]], coverage: Coverage, *, least: int) -> Outcome:
    """Return the outcome of runs from their JSON reports and the coverage."""
    cases = sum(run["test_cases"]["generated"] for run in runs)
    failures = tuple(failure["title"] for run in runs for failure in run["failures"])
    problems = [text for run in runs for text in _shortcomings(run)] + coverage.shortcomings()
    if cases < least:
        problems.append(f"only {cases} of {least} cases were made")
    summary = (
        f"fuzz: {cases} cases, {coverage.requests} of them different requests, {len(failures)} "
        f"failures, {len(problems)} shortcomings, seed {runs[0]['seed']}; {coverage.summary}"
    )
    exit_code = max(run["exit_code"] for run in runs)
    return Outcome(exit_code or int(bool(problems)), summary, failures, tuple(problems))


def _shortcomings(run: Mapping[str, Any]) -> list[str]:
    operations = {f"{method} {path}" for path, method, _ in OpenAPIDocument.load().operations()}
    tested: int = run["operations"]["tested"]
    failures = [failure["title"] for failure in run["failures"]]
    warnings = [name for name, operations in run["warnings"].items() if operations]
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
