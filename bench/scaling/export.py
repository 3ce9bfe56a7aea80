"""Export a user with many tasks, erase it, import it and export it again, and compare both exports.

`task bench:export` runs it. The service and the command `import` are processes of their own.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path

import asyncpg
import httpx
from msgspec import Struct

from app.db.config import DatabaseConfig
from app.db.migrations import upgrade
from app.embedded_postgres import run_postgres
from bench.load.workload import peak_memory
from bench.scaling.data import LARGE, Size, fill
from tests.support.long_task import progress, run
from tests.support.process import Service, command, environment, eventually, fetch, serving

REQUEST_TIMEOUT = 60.0  # for each part of a response
IMPORT_TIMEOUT = 3600.0
MAX_REQUESTS = 1000
ACTIVE_SECONDS = """
    SELECT (active_time / 1000)::float8 FROM pg_stat_database WHERE datname = current_database()
"""


class Step(Struct):
    """What a step did, in how many seconds. `memory` is the peak of its process in bytes."""

    name: str
    rows: int = 0
    seconds: float = 0
    database_seconds: float = 0
    memory: int = 0


class Measurement:
    """The steps on one database."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.steps: list[Step] = []

    @contextmanager
    def step(self, name: str) -> Iterator[Step]:
        """Measure a block, which sets the rows and the memory."""
        step = Step(name)
        ((active,),) = fetch(self._url, ACTIVE_SECONDS)
        started_at = time.perf_counter()
        yield step
        step.seconds = time.perf_counter() - started_at
        ((active_after,),) = fetch(self._url, ACTIVE_SECONDS)
        step.database_seconds = float(str(active_after)) - float(str(active))
        progress(f"{name}: {step.rows:,} rows in {step.seconds:.1f} s")
        self.steps.append(step)

    def export(self, service: Service, file: Path) -> None:
        """Write an export to a file."""
        with (
            self.step("export") as step,
            file.open("wb") as opened,
            httpx.stream("GET", f"{_user(service)}/export", timeout=REQUEST_TIMEOUT) as response,
        ):
            response.raise_for_status()
            for part in response.iter_raw():
                opened.write(part)
                step.rows += part.count(b"\n")
            step.rows -= 1  # the last line is no row
            step.memory = peak_memory(service.pid)

    def erase(self, service: Service, rows: int) -> None:
        """Erase the user, with as many requests as it needs. A 503 is repeated, too."""
        with self.step("erase") as step, httpx.Client(timeout=REQUEST_TIMEOUT) as client:
            statuses = [0]
            while statuses[-1] != httpx.codes.NO_CONTENT:
                assert len(statuses) <= MAX_REQUESTS
                statuses.append(client.delete(_user(service)).status_code)
            progress(f"statuses of the erasure: {dict(Counter(statuses[1:]))}")
            step.rows, step.memory = rows, peak_memory(service.pid)

    def import_(self, file: Path, rows: int) -> None:
        """Import an export."""
        with self.step("import") as step:
            process = subprocess.Popen(
                [*command("import"), str(file)], env=environment(DATABASE_URL=self._url)
            )

            def is_finished() -> bool:
                with suppress(IndexError):  # the process has ended
                    step.memory = peak_memory(process.pid)
                return process.poll() is not None

            try:
                eventually(is_finished, IMPORT_TIMEOUT)
            finally:
                process.kill()
                process.wait()
            assert process.returncode == 0
            step.rows = rows


def digests(file: Path) -> set[bytes]:
    """Return a digest of each line. The lines of an export differ."""
    with file.open("rb") as lines:
        return {blake2b(line, digest_size=16).digest() for line in lines}


def measure(url: str, size: Size, folder: Path) -> tuple[list[Step], int]:
    """Return the steps, and the number of lines that only one of the exports has."""
    upgrade(DatabaseConfig.from_url(url))
    progress("loading the rows")
    asyncio.run(_fill(url, size))
    measurement = Measurement(url)
    first, second = folder / "first", folder / "second"
    with serving(DATABASE_URL=url) as service:
        measurement.export(service, first)
        rows = measurement.steps[0].rows
        measurement.erase(service, rows)
        measurement.import_(first, rows)
        measurement.export(service, second)
    return measurement.steps, len(digests(first) ^ digests(second))


async def _fill(url: str, size: Size) -> None:
    database = await asyncpg.connect(url)
    try:
        await fill(database, size)
    finally:
        await database.close()


def _user(service: Service) -> str:
    return f"{service.url}/api/v1/users/{LARGE}"


def render(steps: list[Step]) -> str:
    """Return a table in Markdown."""
    lines = [
        "| step | rows | seconds | rows per second | database, seconds | peak memory, MB |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {step.name} | {step.rows:,} | {step.seconds:.1f} | {step.rows / step.seconds:,.0f} "
        f"| {step.database_seconds:.1f} | {step.memory / 1e6:.0f} |"
        for step in steps
    ]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Print a table. Return 1 if the exports differ."""
    parser = argparse.ArgumentParser(prog="python -m bench.scaling.export", description=__doc__)
    parser.add_argument("--tasks", type=int, default=1_000_000)
    size = Size(parser.parse_args(arguments).tasks, reverse=0, others=0)
    with (
        tempfile.TemporaryDirectory() as directory,
        run_postgres(Path(directory) / "data", durable=False) as url,
    ):
        steps, differences = measure(url, size, Path(directory))
    print(render(steps))
    print(f"Lines in only one of the exports: {differences}")
    return int(differences > 0)


if __name__ == "__main__":
    run(main)
