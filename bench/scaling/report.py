"""What the tables of each size have to tell, side by side."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from msgspec import Struct

FLAT = 1.5  # times as long as in the smallest table, at most
NOTHING = "SELECT 1"
# Told and not held to it: a page of such a word is found by passing over 2,000 tasks, which the
# smallest table has of nobody. data-model.md says how many it are at most.
GROWING = {"search, word of medium frequency"}
INDEXES = {
    "ix_tasks_user_id_created_at_id": "list, middle page",
    "ix_tasks_user_id_updated_at_id": "list, by updated_at",
    "ix_tasks_user_id_completed_created_at_id": "list, open tasks",
    "ix_tasks_user_id_completed_updated_at_id": "list, open tasks by updated_at",
    "ix_tasks_search": "search, rare word",
}
WRITES = ("create", "update", "delete")


class Cost(Struct, frozen=True):
    """Milliseconds of a call, and the blocks of the database that it touches."""

    p50: float
    p95: float
    buffers: float


class Without(Struct, frozen=True):
    """A page with an index and without it, in blocks, and what the index costs a new task."""

    buffers: tuple[int, int]
    wal: tuple[int, int]


class Figures(Struct, frozen=True):
    """What one table has to tell. Sizes in bytes."""

    rows: int
    loaded: float
    costs: dict[str, Cost]
    sizes: dict[str, int]
    wal: dict[str, int]
    indexes: dict[str, Without]


def missed(all_figures: list[Figures]) -> Iterator[str]:
    """The operations that are not flat."""
    first, last = all_figures[0].costs, all_figures[-1].costs
    for name, cost in last.items():
        before = first.get(name) or last["list, first page"]
        if name not in GROWING and cost.p50 > FLAT * before.p50:
            yield f"{name}: {cost.p50 / before.p50:.2f} times as long, allowed {FLAT}"


def text(all_figures: list[Figures]) -> str:
    """The tables, in Markdown."""
    first, last = all_figures[0], all_figures[-1]
    sizes = [f"{figures.rows:,}" for figures in all_figures]
    lines = ["p50 and p95 in milliseconds, blocks touched.", ""]
    lines += _row("operation", *sizes, "p50, last / first") + _row(*["---"] * (len(sizes) + 2))
    for name, cost in last.costs.items():
        before = first.costs.get(name) or last.costs["list, first page"]
        cells = [
            f"{found.p50:.2f} / {found.p95:.2f}, {found.buffers:.0f}" if found else "-"
            for found in (figures.costs.get(name) for figures in all_figures)
        ]
        lines += _row(name, *cells, f"{cost.p50 / before.p50:.2f}")
    lines += ["", "MiB of the table and its indexes; bytes of the log for one change.", ""]
    lines += _row("", *sizes) + _row(*["---"] * (len(sizes) + 1))
    for name in last.sizes:
        lines += _row(name, *(f"{each.sizes[name] / 2**20:.1f}" for each in all_figures))
    for name in WRITES:
        lines += _row(f"log, {name}", *(f"{each.wal[name]:,}" for each in all_figures))
    lines += _row("loaded within, s", *(f"{each.loaded:.0f}" for each in all_figures))
    lines += ["", f"What an index is worth, at {last.rows:,}: blocks, and bytes of the log.", ""]
    lines += _row("index", "serves", "blocks with", "without", "new task with", "without")
    lines += _row(*["---"] * 6)
    for name, found in last.indexes.items():
        counts = [f"{count:,}" for count in (*found.buffers, *found.wal)]
        lines += _row(name, INDEXES[name], *counts)
    return "\n".join(lines) + "\n"


def chart_data(all_figures: list[Figures], date: str, machine: str) -> dict[str, Any]:
    """Return what the chart shows: the median of each operation in each table."""
    names = all_figures[-1].costs
    return {
        "title": "Time of a repository call by the size of the table",
        "date": date,
        "machine": machine,
        "rows": [figures.rows for figures in all_figures],
        "p50": {
            name: [
                round(figures.costs[name].p50, 2) if name in figures.costs else None
                for figures in all_figures
            ]
            for name in names
        },
    }


def _row(*cells: str) -> list[str]:
    return ["| " + " | ".join(cells) + " |"]
