"""The results of the tables of each size, side by side, and their limits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from msgspec import Struct

from app.domain.tasks.models import SECOND_KEY

MAX_SLOWDOWN = 1.5  # of the median, relative to the smallest table
ROUND_TRIP = "SELECT 1"
# Reported without a limit: they read more tasks of a user who has more. Such a search scans 2,000,
# and no user of the smallest table has that many. See data-model.md for the maximum.
UNLIMITED = {
    "search, word of medium frequency",
    "list, common label",
    "list, two labels by priority",
    "count, open tasks",
    "count, one list",
    "labels",
}
INDEXES = {
    "ix_tasks_user_id_created_at_id": "list, middle page",
    "ix_tasks_user_id_updated_at_id": "list, by updated_at",
    "ix_tasks_user_id_completed_created_at_id": "list, open tasks",
    "ix_tasks_user_id_completed_updated_at_id": "list, open tasks by updated_at",
    "ix_tasks_search": "search, rare word",
    SECOND_KEY: "get",
    "ix_tasks_user_id_completed_due_id": "list, by due date",
    "ix_tasks_user_id_completed_priority_id": "list, by priority",
    "ix_tasks_list": "list, one list",
    "ix_tasks_inbox": "list, inbox",
    "ix_tasks_parent": "list, subtasks",
    "ix_tasks_labels": "list, rare label",
    "ix_tasks_user_id_revision_id": "changes, first page",
}
# The created task of which an index has an entry, if it is not that of "create".
CREATES = {
    "ix_tasks_list": "create, every property",
    "ix_tasks_parent": "create, subtask",
    "ix_tasks_labels": "create, every property",
}
# The tasks of which an index has an entry, if not all.
ENTRIES = {
    "ix_tasks_list": "list_id IS NOT NULL",
    "ix_tasks_inbox": "list_id IS NULL AND parent_id IS NULL",
    "ix_tasks_parent": "parent_id IS NOT NULL",
    "ix_tasks_labels": "labels <> ''",
}
WRITES = ("create", "update", "delete")


class Cost(Struct, frozen=True):
    """Milliseconds and database blocks of a call."""

    p50: float
    p95: float
    buffers: float


class IndexEffect(Struct, frozen=True):
    """Blocks and log bytes with and without an index.

    Of a page that the index serves, and of a new and a changed task with an entry in the index.
    """

    buffers: tuple[int, int]
    create_buffers: tuple[int, int]
    create_wal: tuple[int, int]
    update_buffers: tuple[int, int]
    update_wal: tuple[int, int]


class TableResult(Struct, frozen=True):
    """The results of one table. Sizes are in bytes."""

    rows: int
    load_time: float
    costs: dict[str, Cost]
    sizes: dict[str, int]
    wal: dict[str, int]
    indexes: dict[str, IndexEffect]


def find_regressions(results: list[TableResult]) -> Iterator[str]:
    """Yield the operations that are too slow in the largest table."""
    first, last = results[0].costs, results[-1].costs
    for name, cost in last.items():
        baseline = first.get(name) or last["list, first page"]
        if name not in UNLIMITED and cost.p50 > MAX_SLOWDOWN * baseline.p50:
            yield f"{name}: {cost.p50 / baseline.p50:.2f} times as long, limit {MAX_SLOWDOWN}"


def render(results: list[TableResult]) -> str:
    """Return the tables in Markdown."""
    first, last = results[0], results[-1]
    sizes = [f"{result.rows:,}" for result in results]
    lines = ["p50 and p95 in milliseconds, blocks touched.", ""]
    lines += _row("operation", *sizes, "p50, last / first") + _row(*["---"] * (len(sizes) + 2))
    for name, cost in last.costs.items():
        baseline = first.costs.get(name) or last.costs["list, first page"]
        cells = [
            f"{each.p50:.2f} / {each.p95:.2f}, {each.buffers:.0f}" if each else "-"
            for each in (result.costs.get(name) for result in results)
        ]
        lines += _row(name, *cells, f"{cost.p50 / baseline.p50:.2f}")
    lines += ["", "MiB of the table and its indexes; bytes of the write-ahead log per change.", ""]
    lines += _row("", *sizes) + _row(*["---"] * (len(sizes) + 1))
    for name in last.sizes:
        lines += _row(name, *(f"{each.sizes[name] / 2**20:.1f}" for each in results))
    for name in WRITES:
        lines += _row(f"log, {name}", *(f"{each.wal[name]:,}" for each in results))
    lines += _row("load time, s", *(f"{each.load_time:.0f}" for each in results))
    lines += [
        "",
        f"With and without each index at {last.rows:,} rows: blocks, and bytes of the log.",
        "",
    ]
    header = ("page", "new task, blocks", "bytes", "changed task, blocks", "bytes")
    lines += _row("index", "serves", *header)
    lines += _row(*["---"] * 7)
    for name, effect in last.indexes.items():
        pairs = (
            effect.buffers, effect.create_buffers, effect.create_wal, effect.update_buffers,
            effect.update_wal,
        )  # fmt: skip
        lines += _row(
            name, INDEXES[name], *(f"{with_:,} / {without:,}" for with_, without in pairs)
        )
    return "\n".join(lines) + "\n"


def chart_data(results: list[TableResult], date: str, machine: str) -> dict[str, Any]:
    """Return the data of the chart: the median of each operation in each table."""
    names = results[-1].costs
    return {
        "title": "Time of a repository call by the size of the table",
        "date": date,
        "machine": machine,
        "rows": [result.rows for result in results],
        "p50": {
            name: [
                round(result.costs[name].p50, 2) if name in result.costs else None
                for result in results
            ]
            for name in names
        },
    }


def _row(*cells: str) -> list[str]:
    return ["| " + " | ".join(cells) + " |"]
