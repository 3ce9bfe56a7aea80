"""Fuzzes a running service against the contract: `python -m tests.contract.fuzz [FOLDER]`.

FUZZ_EXAMPLES, FUZZ_SEED and FUZZ_URL choose the examples for each operation, the run to repeat and
a deployed service. Without FUZZ_URL the service is started here, on an empty database of its own.
"""

# ruff: noqa: T201 - a command line prints

from __future__ import annotations

import argparse
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.contract import Contract

ROOT = Path(__file__).parents[2]
REPORTS = ROOT / "reports" / "fuzz"
SERVICE = (sys.executable, "-m", "app", "serve")
EXAMPLES = "100"
SEEDS = 2**32
START_SECONDS = 60
STOP_SECONDS = 30
# Several times what two busy cores need.
RUN_SECONDS = 300
RUN_SECONDS_EACH = 3
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


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> Outcome:
    parser = argparse.ArgumentParser(prog="python -m tests.contract.fuzz", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=REPORTS, help="for the reports")
    folder: Path = parser.parse_args(arguments).folder.absolute()
    examples = int(environ.get("FUZZ_EXAMPLES") or EXAMPLES)
    seed = int(environ.get("FUZZ_SEED") or secrets.randbelow(SEEDS))
    url = environ.get("FUZZ_URL")
    with nullcontext(url) if url else serving(folder) as address:
        outcome = fuzz(address, examples=examples, seed=seed, folder=folder)
    variables = f"FUZZ_EXAMPLES={examples} FUZZ_SEED={seed}" + (f" FUZZ_URL={url}" if url else "")
    for shortcoming in outcome.shortcomings:
        print(shortcoming)
    print(f"again: {variables} python -m tests.contract.fuzz")
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
        environ = os.environ | {
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


def fuzz(url: str, *, examples: int, seed: int, folder: Path) -> Outcome:
    """Run Schemathesis on the service at `url`; JUnit, HAR and JSON reports go to `folder`.

    Raises subprocess.TimeoutExpired after a time that no run should need. Schemathesis's own
    `--max-time` is no bound: it makes a run go on until the time is spent.
    """
    folder.mkdir(parents=True, exist_ok=True)
    report = folder / "run.json"
    report.unlink(missing_ok=True)
    program = shutil.which("schemathesis", path=str(Path(sys.executable).parent))
    command = [
        str(program),
        f"--config-file={ROOT / 'schemathesis.toml'}",
        "run",
        "openapi.yaml",
        f"--url={url}",
        f"--max-examples={examples}",
        f"--seed={seed}",
        f"--report-junit-path={folder / 'junit.xml'}",
        f"--report-har-path={folder / 'har.json'}",
        f"--report-json-path={report}",
    ]
    finished = subprocess.run(
        command,
        cwd=ROOT,
        # So that no set has another order in the next run with this seed.
        env=os.environ | {"PYTHONHASHSEED": "0"},
        timeout=RUN_SECONDS + RUN_SECONDS_EACH * examples,
        check=False,
    )
    return judge(json.loads(report.read_bytes()), finished.returncode)


def judge(report: Mapping[str, Any], exit_code: int) -> Outcome:
    """Whether the run proves anything, by its own report (`--report json`)."""
    operations = {f"{method} {path}" for path, method, _ in Contract.load().operations()}
    tested: int = report["operations"]["tested"]
    cases: int = report["test_cases"]["generated"]
    failures = tuple(failure["title"] for failure in report["failures"])
    warnings = [kind for kind, found in report["warnings"].items() if found]
    unfinished = [name for name, phase in report["phases"].items() if phase["status"] != "success"]
    accepting = {
        operation
        for operation, phases in report["valid_rates"].items()
        if any(phase["accepted"] for phase in phases.values())
    }
    shortcomings = {
        f"only {tested} of {len(operations)} operations were tested": tested != len(operations),
        "there was no case": cases == 0,
        f"failures: {', '.join(failures)}": failures,
        f"errors: {report['errors']}": report["errors"],
        f"warnings: {', '.join(warnings)}": warnings,
        f"phases without success: {', '.join(unfinished)}": unfinished,
        f"never accepted: {', '.join(sorted(operations - accepting))}": operations - accepting,
        "failures were left out of the count": report["filtered"] or report["baseline"],
    }
    found = tuple(text for text, holds in shortcomings.items() if holds)
    summary = (
        f"fuzz: {tested} operations, {cases} cases, {report['test_cases']['unique_failures']} "
        f"failures, {len(warnings)} warnings, seed {report['seed']}"
    )
    return Outcome(exit_code or int(bool(found)), summary, failures, found)


if __name__ == "__main__":
    # As Ctrl-C does it: by way of the blocks above, which stop what they started.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main(sys.argv[1:], os.environ).exit_code)
