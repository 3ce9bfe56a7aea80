"""`task bench:query-plans`: check the query plans of the repository with 1.2 million tasks.

Fills a new database and prints every plan. Exits with 1 if a plan exceeds its limits (see
data-model.md).
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
from msgspec.structs import replace

from app.db.config import DatabaseConfig
from app.db.migrations import upgrade
from app.domain.tasks.repository import TaskRepository
from app.domain.tasks.schemas import (
    ListTasksQuery,
    SortOrder,
    TaskCreate,
    TaskPatch,
    TaskReplace,
    TaskSort,
)
from app.embedded_postgres import run_postgres
from app.http.etags import ETagCondition
from app.http.pagination import CursorPosition
from bench.scaling.data import (
    COMMON,
    LARGE,
    MEDIUM,
    RARE,
    RARE_TASKS,
    REVERSE,
    START,
    YEAR,
    Size,
    fill,
    sizes,
)
from bench.scaling.explain import MODES, Call, Case, Explainer, Mode, find_errors
from tests.support.long_task import progress, run

LIMIT = 50
PAGE = LIMIT + 1  # one more row shows whether another page exists
# A search collects all matches, or scans the list until a page is full. The planner chooses the
# cheaper plan. For a word of medium frequency both touch this many rows.
SEARCH_ROWS = 30_000
# Tasks near the range that a scan skips.
RANGE_ROWS = 5_000


async def cases(database: asyncpg.Connection[Any]) -> list[Case]:
    """Return every statement for users of different sizes."""
    small, tasks = await _row(
        database,
        "SELECT user_id, count(*) FROM tasks GROUP BY user_id "
        "HAVING count(*) BETWEEN 25 AND 50 ORDER BY user_id LIMIT 1",
    )
    return [
        *[case async for case in _lists(database, LARGE)],
        *[case async for case in _lists(database, REVERSE)],
        *[_list(f"{small}: {sort}", small, max_rows=PAGE, sort=sort) for sort in TaskSort],
        *[case async for case in _searches(database, small, tasks)],
        *_ranges(),
        *[case async for case in _single_tasks(database)],
    ]


def _list(
    name: str,
    user: str,
    *,
    after: CursorPosition | None = None,
    max_rows: int | None = None,
    indexes: frozenset[str] | None = None,
    modes: tuple[Mode, ...] = MODES,
    **query: Any,
) -> Case:
    list_query = ListTasksQuery(limit=LIMIT, **query)

    def call(repository: TaskRepository) -> Awaitable[object]:
        return repository.list_tasks(user, list_query, after)

    return Case(name=name, call=call, max_rows=max_rows, indexes=indexes, modes=modes)


async def _lists(database: asyncpg.Connection[Any], user: str) -> AsyncIterator[Case]:
    """Each sort and order, unfiltered and by `completed`, at the start and in the middle."""
    for sort, order, completed in product(TaskSort, SortOrder, (None, True, False)):
        filtered = "" if completed is None else "completed_"
        index = frozenset({f"ix_tasks_user_id_{filtered}{sort}_id"})
        name = f"{user}: {sort} {order}" + ("" if completed is None else f", {completed=}")
        position, depth = await _halfway(database, user, sort, completed=completed)
        for after, page in ((None, "first page"), (position, f"page at {depth:,}")):
            case = _list(
                f"{name}, {page}", user, after=after, max_rows=PAGE, indexes=index,
                sort=sort, order=order, completed=completed,
            )  # fmt: skip
            yield case
            yield replace(case, name=f"{case.name}, long texts", counts_bytes=True)


async def _halfway(
    database: asyncpg.Connection[Any], user: str, sort: TaskSort, *, completed: bool | None = None
) -> tuple[CursorPosition, int]:
    """Return the position in the middle of a list, and the number of tasks before it."""
    condition = "user_id = $1 AND completed = coalesce($2, completed)"
    (count,) = await _row(
        database,
        f"SELECT count(*) FROM tasks WHERE {condition}",  # noqa: S608 - no input
        user,
        completed,
    )
    sort_value, task = await _row(
        database,
        f"SELECT {sort}, id FROM tasks WHERE {condition} ORDER BY {sort}, id "  # noqa: S608 - no input
        "OFFSET $3 LIMIT 1",
        user,
        completed,
        count // 2,
    )
    return CursorPosition(sort_value, UUID(str(task))), count // 2


async def _row(database: asyncpg.Connection[Any], sql: str, *values: object) -> tuple[Any, ...]:
    """Return the first row, which must exist."""
    row = await database.fetchrow(sql, *values)
    assert row is not None
    return tuple(row)


async def _searches(
    database: asyncpg.Connection[Any], small: str, tasks: int
) -> AsyncIterator[Case]:
    """Words from rare to common, only in the service's mode, which plans for the word."""
    search = frozenset({"ix_tasks_search"})
    words = (COMMON, f"{COMMON} check", "invoice", MEDIUM, RARE, f"{COMMON} {RARE}", "c")
    for user, q, sort in product((LARGE, REVERSE, small), words, TaskSort):
        position, depth = await _halfway(database, user, sort)
        is_rare = user == LARGE and RARE in q
        max_rows = tasks if user == small else RARE_TASKS if is_rare else SEARCH_ROWS
        for after, page in ((None, "first page"), (position, f"page at {depth:,}")):
            yield _list(
                f"{user}: q={q!r} {sort}, {page}", user, after=after,
                max_rows=None if is_rare and q != RARE else max_rows,
                indexes=search if is_rare else None, modes=("service",), q=q, sort=sort,
            )  # fmt: skip


def _ranges() -> Iterator[Case]:
    """Time ranges. If another column is sorted by, no index serves both."""
    day = START + YEAR * 0.4
    for sort in TaskSort:
        name = sort.removesuffix("_at")
        time_range: dict[str, Any] = {f"{name}_after": day, f"{name}_before": day + YEAR / 365}
        yield _list(
            f"{LARGE}: {name} within a day, {sort}", LARGE, **time_range, sort=sort,
            max_rows=PAGE, indexes=frozenset({f"ix_tasks_user_id_{sort}_id"}),
        )  # fmt: skip
        yield _list(
            f"{LARGE}: {name} within a day, completed=False, {sort}", LARGE, **time_range,
            max_rows=PAGE, indexes=frozenset({f"ix_tasks_user_id_completed_{sort}_id"}),
            sort=sort, completed=False,
        )  # fmt: skip
    other = {TaskSort.CREATED_AT: "updated", TaskSort.UPDATED_AT: "created"}
    for sort, order, days in product(TaskSort, SortOrder, (1, 30)):
        name = other[sort]
        time_range = {f"{name}_after": day, f"{name}_before": day + YEAR * days / 365}
        # The range of the other timestamp implies the start of the scan.
        is_bounded = (sort is TaskSort.CREATED_AT) == (order is SortOrder.DESC)
        for q in (None, COMMON):
            yield _list(
                f"{LARGE}: {name} within {days} d, {q=}, {sort} {order}", LARGE, **time_range,
                max_rows=RANGE_ROWS if is_bounded and q is None else None, modes=("service",),
                q=q, sort=sort, order=order,
            )  # fmt: skip


async def _single_tasks(database: asyncpg.Connection[Any]) -> AsyncIterator[Case]:
    task, etag = await _row(
        database,
        "SELECT id, etag FROM tasks WHERE user_id = $1 ORDER BY created_at OFFSET 20000 LIMIT 1",
        LARGE,
    )
    task = UUID(str(task))
    matching = ETagCondition(any=False, strong=(UUID(str(etag)),))
    replacement = TaskReplace("New title", None, completed=True)
    primary_key = frozenset({"pk_tasks"})
    yield Case(name="get", call=lambda r: r.get_task(LARGE, task), indexes=primary_key, max_rows=1)
    calls: dict[str, tuple[Call, frozenset[str]]] = {
        "create": (lambda r: r.create_task(LARGE, TaskCreate("New"), None), frozenset()),
        "replace": (
            lambda r: r.replace_task(LARGE, task, replacement, if_match=None, must_not_exist=False),
            primary_key,
        ),
        "replace, if absent": (
            lambda r: r.replace_task(LARGE, task, replacement, if_match=None, must_not_exist=True),
            primary_key,
        ),
        "replace, if it matches": (
            lambda r: r.replace_task(
                LARGE, task, replacement, if_match=matching, must_not_exist=False
            ),
            primary_key,
        ),
        "update": (
            lambda r: r.update_task(LARGE, task, TaskPatch(completed=False), if_match=None),
            primary_key,
        ),
        "update, if it matches": (
            lambda r: r.update_task(LARGE, task, TaskPatch(title="New"), if_match=matching),
            primary_key,
        ),
        "delete": (lambda r: r.delete_task(LARGE, task, if_match=None), primary_key),
        "delete, if it matches": (
            lambda r: r.delete_task(LARGE, task, if_match=matching),
            primary_key,
        ),
    }
    for name, (call, indexes) in calls.items():
        yield Case(name=name, call=call, indexes=indexes, max_rows=1, writes=True)


async def check(url: str, size: Size, report: Callable[[str], None]) -> list[str]:
    """Fill a migrated database, explain every case, and return the errors."""
    all_errors = []
    async with Explainer.connect(DatabaseConfig.from_url(url)) as explainer:
        await fill(explainer.connection, size)
        report(await _sizes(explainer.connection))
        for case in await cases(explainer.connection):
            for mode in case.modes:
                plan = await explainer.explain(case.call, mode, counts_bytes=case.counts_bytes)
                errors = find_errors(case, plan)
                all_errors += [f"{case.name} ({mode}): {error}\n{plan.text}" for error in errors]
                report(
                    f"{'ERROR ' if errors else ''}{case.name} ({mode}): {plan.shape}; "
                    f"rows {plan.rows:,}, buffers {plan.buffers:,}, "
                    f"{plan.execution_time:.2f} ms + {plan.planning_time:.2f} ms planning"
                )
                if mode == "service":
                    report(plan.text + "\n")
    return all_errors


async def _sizes(database: asyncpg.Connection[Any]) -> str:
    lines = [
        f"{name}: {count:,} rows, {size / 2**20:.0f} MiB"
        for name, count, size in await sizes(database)
    ]
    return "\n".join([await database.fetchval("SELECT version()"), *lines, ""])


def main(size: Size) -> int:
    """Print all plans and errors. Return 1 if there is an error."""
    with (
        tempfile.TemporaryDirectory() as directory,
        run_postgres(Path(directory) / "data", durable=False) as url,
    ):
        upgrade(DatabaseConfig.from_url(url))
        progress("loading the rows")
        errors = asyncio.run(check(url, size, print))
    print(*errors, f"{len(errors)} errors", sep="\n")
    return 1 if errors else 0


if __name__ == "__main__":
    run(lambda: main(Size()))
