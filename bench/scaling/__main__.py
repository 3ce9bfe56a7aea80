"""`task bench:scaling`: what each operation costs in a table of ten thousand to ten million tasks.

Each table is loaded by COPY into a server of its own and asked by the repository itself, on the
service's pool, one call after the other. Times are those of the whole call, without HTTP. The
server has a quarter of the machine's memory, as PostgreSQL's documentation recommends, and each
user has been there before, as in a service that has been running.
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
from app.domain.tasks.repository import TaskRepository
from bench.compare.report import describe_machine, draw
from bench.load.generator import percentile
from bench.scaling.data import Size, fill, sizes
from bench.scaling.explain import Explainer
from bench.scaling.operations import Table
from bench.scaling.report import (
    INDEXES,
    NOTHING,
    WRITES,
    Cost,
    Figures,
    Without,
    chart_data,
    missed,
    text,
)
from tests.support.long_task import progress, run
from tests.support.process import ROOT, execute

FOLDER = ROOT / "reports" / "growth"
ROUNDS, CALLS, WARM = 5, 60, 20
EXPLAINED = 7
WRITTEN = 200
EACH_USER_ONCE = """
    SELECT count(pages.title)
    FROM (SELECT DISTINCT user_id FROM tasks) users, LATERAL (
        SELECT title FROM tasks WHERE tasks.user_id = users.user_id
        ORDER BY created_at DESC, id DESC LIMIT 20
    ) pages
"""
ROUND_TRIP = sqlalchemy.text(NOTHING)


async def measure(url: str, rows: int) -> Figures:
    """Fill a table and ask."""
    connection = DatabaseConfig.from_url(url)
    database = Database(connection, pool_size=1, timeout=60)
    async with Explainer.connect(connection) as explainer:
        progress(f"loading about {rows:,} rows")
        started = time.monotonic()
        await fill(explainer.plain, Size.of(rows))
        loaded = time.monotonic() - started
        await explainer.plain.execute(EACH_USER_ONCE, timeout=3600)
        progress(f"about {rows:,} rows, loaded in {loaded:.0f} s")
        table = await Table.read(explainer.plain)
        repository = TaskRepository(session=database.sessions, wrap_exceptions=False)
        times = await _times(table, repository)
        figures = Figures(
            rows=await explainer.plain.fetchval("SELECT count(*) FROM tasks"),
            loaded=loaded,
            costs={
                name: Cost(
                    percentile(seconds, 50) * 1000,
                    percentile(seconds, 95) * 1000,
                    await _buffers(table, name, explainer),
                )
                for name, seconds in times.items()
            },
            sizes={name: size for name, _, size in await sizes(explainer.plain)},
            wal={name: await _wal(table, name, repository, explainer) for name in WRITES},
            indexes={name: await _without(name, table, explainer) for name in INDEXES},
        )
    await database.close()
    return figures


async def _times(table: Table, repository: TaskRepository) -> dict[str, list[float]]:
    """Seconds of calls, the operations in turns: what the machine does meets all of them."""
    operations = table.operations()
    times: dict[str, list[float]] = {name: [] for name in (NOTHING, *operations)}
    for turn in range(ROUNDS + 1):
        progress(f"calls, round {turn} of {ROUNDS}")
        for name, seconds in times.items():
            draw = operations.get(name, lambda: _nothing)
            for _ in range(CALLS if turn else WARM):
                call = draw()
                started = time.perf_counter()
                await call(repository)
                if turn:
                    seconds.append(time.perf_counter() - started)
    return times


async def _nothing(repository: TaskRepository) -> None:
    """A round trip."""
    await repository.session.fetch(ROUND_TRIP)


async def _buffers(table: Table, name: str, explainer: Explainer) -> float:
    if name == NOTHING:
        return 0
    draw = table.operations()[name]
    return median([(await explainer.explain(draw(), "service")).buffers for _ in range(EXPLAINED)])


async def _wal(table: Table, name: str, repository: TaskRepository, explainer: Explainer) -> int:
    """Bytes of the write-ahead log for one change."""
    draw = table.operations()[name]
    before = await explainer.plain.fetchval("SELECT pg_current_wal_insert_lsn()")
    for _ in range(WRITTEN):
        await draw()(repository)
    written = "SELECT pg_current_wal_insert_lsn() - $1::pg_lsn"
    return int(await explainer.plain.fetchval(written, before)) // WRITTEN


async def _without(index: str, table: Table, explainer: Explainer) -> Without:
    """Drop an index, look, and put it back."""
    progress(f"without {index}")
    operations = table.operations()
    page, create = operations[INDEXES[index]](), operations["create"]
    plain = explainer.plain
    found: list[tuple[int, int]] = []
    for drop in ("SELECT", f"DROP INDEX {index}"):
        transaction = plain.transaction()
        await transaction.start()
        try:
            await plain.execute(drop)
            plan = await explainer.explain(page, "service")
            written = [(await explainer.explain(create(), "service")).wal for _ in range(EXPLAINED)]
            found.append((plan.buffers, int(median(written))))
        finally:
            await transaction.rollback()
    (buffers, wal), (buffers_without, wal_without) = found
    return Without((buffers, buffers_without), (wal, wal_without))


@contextmanager
def server() -> Iterator[str]:
    """The URL of a migrated database on a server with memory."""
    megabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4 // 2**20
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        data = Path(folder) / "data"
        with embedded_postgres.run_postgres(data, durable=False) as url:
            execute(url, f"ALTER SYSTEM SET shared_buffers = '{megabytes}MB'")
            execute(url, "ALTER SYSTEM SET maintenance_work_mem = '1GB'")
        with embedded_postgres.run_postgres(data, durable=False) as url:
            upgrade(DatabaseConfig.from_url(url))
            yield url


def main() -> int:
    """Measure each size; 1 when an operation is not flat."""
    parser = argparse.ArgumentParser(prog="task bench:scaling --", description=__doc__)
    parser.add_argument("--most", type=int, default=7, help="the largest table, as a power of ten")
    all_figures: list[Figures] = []
    for power in range(4, parser.parse_args().most + 1):
        with server() as url:
            all_figures.append(asyncio.run(measure(url, 10**power)))
        progress(f"{all_figures[-1].rows:,} rows, measured")
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "growth.json").write_bytes(msgspec.json.format(msgspec.json.encode(all_figures)))
    (FOLDER / "growth.md").write_text(text(all_figures), "utf-8")
    today = datetime.now(UTC).date().isoformat()
    draw(FOLDER / "scaling.json", chart_data(all_figures, today, describe_machine()))
    print(text(all_figures))
    faults = list(missed(all_figures))
    print(*faults, f"{len(faults)} operations are not flat", sep="\n")
    return 1 if faults else 0


if __name__ == "__main__":
    run(main)
