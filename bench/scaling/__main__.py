"""`task bench:scaling`: measure each operation in tables of 10,000 to 10,000,000 tasks.

Each table is loaded with COPY into a new server. The repository runs one call after the other on
the service's pool. Times are those of the whole call, without HTTP. The server has a quarter of
the machine's memory as shared buffers, as PostgreSQL's documentation recommends. The tasks of each
user are read once before the measurement, so that they are cached as in a running service.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import msgspec
import sqlalchemy

from app import embedded_postgres
from app.db.config import DatabaseConfig
from app.db.database import Database
from app.db.migrations import upgrade
from app.domain.tasks.models import SECOND_KEY
from app.domain.tasks.repository import TaskRepository
from bench.compare.report import describe_machine, draw
from bench.load.generator import percentile
from bench.scaling.data import Size, fill, sizes
from bench.scaling.explain import Explainer
from bench.scaling.operations import Operation, Table
from bench.scaling.report import (
    CREATES,
    ENTRIES,
    INDEXES,
    ROUND_TRIP,
    WRITES,
    Cost,
    IndexEffect,
    TableResult,
    chart_data,
    find_regressions,
    render,
)
from tests.support.long_task import progress, run
from tests.support.process import ROOT, execute

REPORT_DIR = ROOT / "reports" / "scaling"
ROUNDS, CALLS, WARM_UP_CALLS = 5, 60, 20
EXPLAINED_CALLS = 7
WAL_CALLS = 200
READ_EACH_USER = """
    SELECT count(pages.title)
    FROM (SELECT DISTINCT user_id FROM tasks) users, LATERAL (
        SELECT title FROM tasks WHERE tasks.user_id = users.user_id
        ORDER BY created_at DESC, id DESC LIMIT 20
    ) pages
"""
ROUND_TRIP_STATEMENT = sqlalchemy.text(ROUND_TRIP)


async def measure(url: str, rows: int) -> TableResult:
    """Fill a table and measure all operations."""
    config = DatabaseConfig.from_url(url)
    database = Database(config, pool_size=1, timeout=60)
    async with Explainer.connect(config) as explainer:
        progress(f"loading about {rows:,} rows")
        started_at = time.monotonic()
        await fill(explainer.connection, Size.of(rows))
        load_time = time.monotonic() - started_at
        await explainer.connection.execute(READ_EACH_USER, timeout=3600)
        progress(f"about {rows:,} rows, loaded in {load_time:.0f} s")
        table = await Table.read(explainer.connection)
        repository = TaskRepository(database.fetch)
        latencies = await _measure_latencies(table, repository)
        result = TableResult(
            rows=await explainer.connection.fetchval("SELECT count(*) FROM tasks"),
            load_time=load_time,
            costs={
                name: Cost(
                    percentile(seconds, 50) * 1000,
                    percentile(seconds, 95) * 1000,
                    await _count_buffers(table, name, explainer),
                )
                for name, seconds in latencies.items()
            },
            sizes={name: size for name, _, size in await sizes(explainer.connection)},
            wal={name: await _wal_bytes(table, name, repository, explainer) for name in WRITES},
            indexes={name: await _index_effect(name, table, explainer) for name in INDEXES},
        )
    await database.close()
    return result


async def _measure_latencies(table: Table, repository: TaskRepository) -> dict[str, list[float]]:
    """Return the seconds of each call, measured in alternating rounds.

    A disturbance of the machine then affects all operations.
    """
    operations = table.operations()
    latencies: dict[str, list[float]] = {name: [] for name in (ROUND_TRIP, *operations)}
    for round_number in range(ROUNDS + 1):
        progress(f"calls, round {round_number} of {ROUNDS}")
        for name, seconds in latencies.items():
            draw_call = operations.get(name, lambda: _round_trip)
            for _ in range(CALLS if round_number else WARM_UP_CALLS):
                call = draw_call()
                started_at = time.perf_counter()
                await call(repository)
                if round_number:
                    seconds.append(time.perf_counter() - started_at)
    return latencies


async def _round_trip(repository: TaskRepository) -> None:
    await repository.fetch(ROUND_TRIP_STATEMENT)


async def _count_buffers(table: Table, name: str, explainer: Explainer) -> float:
    if name == ROUND_TRIP:
        return 0
    draw_call = table.operations()[name]
    return median(
        [(await explainer.explain(draw_call(), "service")).buffers for _ in range(EXPLAINED_CALLS)]
    )


async def _wal_bytes(
    table: Table, name: str, repository: TaskRepository, explainer: Explainer
) -> int:
    """Return the bytes of the write-ahead log per change."""
    draw_call = table.operations()[name]
    before = await explainer.connection.fetchval("SELECT pg_current_wal_insert_lsn()")
    for _ in range(WAL_CALLS):
        await draw_call()(repository)
    difference = "SELECT pg_current_wal_insert_lsn() - $1::pg_lsn"
    return int(await explainer.connection.fetchval(difference, before)) // WAL_CALLS


async def _index_effect(index: str, table: Table, explainer: Explainer) -> IndexEffect:
    """Explain a page, creates and updates with and without an index."""
    progress(f"without {index}")
    operations = table.operations()
    page, create = operations[INDEXES[index]](), operations[CREATES.get(index, "create")]
    connection = explainer.connection
    updates = await table.read_updates(connection, ENTRIES.get(index, "true"), EXPLAINED_CALLS)
    measured: list[tuple[int, ...]] = []
    drop = f"DROP INDEX {index}"
    if index == SECOND_KEY:
        drop = f"ALTER TABLE tasks DROP CONSTRAINT {index} CASCADE"
    for statement in ("SELECT", drop):
        transaction = connection.transaction()
        await transaction.start()
        try:
            await connection.execute(statement)
            plan = await explainer.explain(page, "service")
            creates = [create() for _ in range(EXPLAINED_CALLS)]
            writes = [await _least_write(calls, explainer) for calls in (creates, updates)]
            measured.append((plan.buffers, *writes[0], *writes[1]))
        finally:
            await transaction.rollback()
    return IndexEffect(*zip(*measured, strict=True))


async def _least_write(calls: list[Operation], explainer: Explainer) -> tuple[int, int]:
    """Return the blocks and the log bytes of the cheapest change.

    Others also clean up a block, or split one.
    """
    plans = [await explainer.explain(call, "service") for call in calls]
    return min(plan.buffers for plan in plans), min(plan.wal for plan in plans)


@contextmanager
def run_server() -> Iterator[str]:
    """Run a server with large buffers and a migrated database. Yield its URL."""
    megabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4 // 2**20
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        data_dir = Path(directory) / "data"
        with embedded_postgres.run_postgres(data_dir, durable=False) as url:
            execute(url, f"ALTER SYSTEM SET shared_buffers = '{megabytes}MB'")
            execute(url, "ALTER SYSTEM SET maintenance_work_mem = '1GB'")
        with embedded_postgres.run_postgres(data_dir, durable=False) as url:
            upgrade(DatabaseConfig.from_url(url))
            yield url


def main() -> int:
    """Return 1 if an operation is too slow in the largest table."""
    parser = argparse.ArgumentParser(prog="task bench:scaling --", description=__doc__)
    parser.add_argument(
        "--max-power", type=int, default=7, help="the largest table, as a power of ten"
    )
    results: list[TableResult] = []
    for power in range(4, parser.parse_args().max_power + 1):
        with run_server() as url:
            results.append(asyncio.run(measure(url, 10**power)))
        progress(f"{results[-1].rows:,} rows, measured")
    REPORT_DIR.mkdir(parents=True, exist_ok=True)
    (REPORT_DIR / "results.json").write_bytes(msgspec.json.format(msgspec.json.encode(results)))
    (REPORT_DIR / "results.md").write_text(render(results), "utf-8")
    today = datetime.now(UTC).date().isoformat()
    draw(REPORT_DIR / "scaling.json", chart_data(results, today, describe_machine()))
    print(render(results))
    regressions = list(find_regressions(results))
    print(
        *regressions, f"{len(regressions)} operations are too slow in the largest table", sep="\n"
    )
    return 1 if regressions else 0


if __name__ == "__main__":
    run(main)
