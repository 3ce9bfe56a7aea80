"""`task bench:query-plans`: check the query plans of the repository with 1.2 million tasks.

Fills a new database and prints every plan. Exits with 1 if a plan exceeds its limits (see
data-model.md).
"""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import timedelta
from itertools import product
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy import ClauseElement, Integer, Uuid, bindparam, func, select, text

from app.db.collections import read_version
from app.db.config import DatabaseConfig
from app.db.migrations import upgrade
from app.db.positions import MAX_LENGTH, SIBLINGS_TO_READ, Sibling
from app.db.revisions import MAX_REMOVED
from app.db.statements import compile_statement
from app.domain.changes.repository import ChangeRepository
from app.domain.changes.tokens import START as START_OF_FEED
from app.domain.changes.tokens import FeedPosition
from app.domain.lists.models import TaskListRecord
from app.domain.lists.repository import TaskListRepository
from app.domain.tasks.filters import FILTERS, filter_params
from app.domain.tasks.models import TaskRecord
from app.domain.tasks.pages import INDEXED, IS_OMITTED, MERGED, SORT_KEYS, is_indexed, is_ordered
from app.domain.tasks.repository import TaskRepository
from app.domain.tasks.schemas import (
    CountTasksQuery,
    ListTasksQuery,
    SortOrder,
    TaskCreate,
    TaskMove,
    TaskPatch,
    TaskReplace,
    TaskSort,
)
from app.domain.tasks.statements import SELECT_SEVERAL, delete_statement
from app.embedded_postgres import run_postgres
from app.http.etags import ETagCondition
from app.http.pagination import CursorPosition, PageQuery
from bench.scaling.data import (
    COMMON,
    COMMON_LABEL,
    LABELS,
    LARGE,
    MEDIUM,
    MEDIUM_LABEL,
    RARE,
    RARE_LABEL,
    RARE_TASKS,
    REVERSE,
    START,
    YEAR,
    Size,
    fill,
    sizes,
)
from bench.scaling.explain import (
    MODES,
    VERSION_INDEX,
    VERSION_ROWS,
    Call,
    CapturingSession,
    Case,
    Explainer,
    Plan,
    after_results,
    find_errors,
)
from tests.support.long_task import progress, run

LIMIT = 50
PAGE = LIMIT + 1  # one more row shows whether another page exists
# A search or a filter collects all matches, or scans the list until a page is full. The planner
# chooses the cheaper plan. For a word of medium frequency both touch this many rows.
SEARCH_ROWS = 30_000
# A count without an index reads this many rows until it has found 10,001 that match.
COUNT_ROWS = 400_000
# Tasks near the range that a scan skips.
RANGE_ROWS = 5_000
SEVERAL = "several filters"
# The keys of three tables, the tasks and lists of the page, and two lookups for each tombstone.
FEED_ROWS = 8 * PAGE
FEED_INDEXES = frozenset(
    {
        "ix_tasks_user_id_revision_id", "ix_lists_user_id_revision_id", "pk_tombstones", "pk_users",
        "pk_tasks", "uq_tasks_user_id_id_depth", "pk_lists",
    }
)  # fmt: skip
# A row whose description was omitted, so that the page is read again.
LONG_TEXT = [None] * IS_OMITTED + [True, None]
DAY = timedelta(days=1)
MIDDLE = START + YEAR * 0.4
TIME_SORTS = (TaskSort.CREATED_AT, TaskSort.UPDATED_AT)
# A position has an index for the tasks of a place, the others for all tasks of a user.
USER_SORTS = (*TIME_SORTS, TaskSort.DUE, TaskSort.PRIORITY)
# Ranges of one property, which may be anywhere in the order of another one.
RANGES = {
    TaskSort.CREATED_AT: {"created_after", "created_before"},
    TaskSort.UPDATED_AT: {"updated_after", "updated_before"},
    TaskSort.DUE: {"due_after", "due_before"},
}
# What PostgreSQL sends to check the foreign keys when a list or a task is deleted.
REFERENCE_CHECKS = {
    "`deleteList`: the check for tasks": ("list_id = :id", "ix_tasks_list"),
    "`deleteTask`: the check for subtasks": (
        "parent_id = :id AND parent_depth = 0",
        "ix_tasks_parent",
    ),
}


async def cases(database: asyncpg.Connection[Any]) -> list[Case]:
    """Return every statement for users of different sizes."""
    small, tasks = await _first_row(
        database,
        "SELECT user_id, count(*) FROM tasks GROUP BY user_id "
        "ORDER BY abs(count(*) - 100), user_id LIMIT 1",
    )
    return [
        *[case async for case in _lists(database, LARGE)],
        *[case async for case in _lists(database, REVERSE)],
        *[case async for case in _places(database, LARGE)],
        *[case async for case in _filters(database, LARGE)],
        *[case async for case in _moves(database, LARGE)],
        *[case async for case in _lists_of_tasks(database, LARGE)],
        *[case async for case in _deletes(database, LARGE)],
        *[case async for case in _feed(database, LARGE)],
        *[case async for case in _feed(database, REVERSE)],
        *[case async for case in _feed(database, small)],
        *[case async for case in _small_user(database, small, tasks)],
        *[case async for case in _searches(database, small, tasks)],
        *_ranges(),
        *[case async for case in _labels(database, small)],
        *[case async for case in _single_tasks(database)],
    ]


async def _small_user(
    database: asyncpg.Connection[Any], user: str, tasks: int
) -> AsyncIterator[Case]:
    """The statements of a user with few tasks. Each may read all of them, in two ranges."""
    for generator in (_lists, _places, _filters, _moves, _lists_of_tasks, _deletes):
        async for case in generator(database, user):
            yield replace(case, indexes=None, max_rows=2 * tasks + VERSION_ROWS)


def _list(
    name: str,
    user: str,
    *,
    row: str,
    after: CursorPosition | None = None,
    max_rows: int | None = None,
    indexes: frozenset[str] | None = None,
    **query: Any,
) -> Case:
    list_query = ListTasksQuery(limit=LIMIT, **query)
    filters = frozenset(filter_params(user, list_query) or {})

    def call(repository: TaskRepository) -> Awaitable[object]:
        return repository.list_tasks(user, list_query, after)

    return Case(
        name=name, call=call, user=user, row=row,
        max_rows=None if max_rows is None else max_rows + VERSION_ROWS,
        indexes=None if indexes is None else indexes | VERSION_INDEX,
        # Other statements are planned for their values.
        modes=MODES if is_indexed(filters, list_query.sort) else ("service",),
    )  # fmt: skip


def _row(sort: TaskSort, filters: frozenset[str], label: str, *, has_completed: bool) -> str:
    """Return the row of a list. `label` describes its filters without `completed`."""
    if label == SEVERAL or not any(_is_own(filters, each) for each in TaskSort):
        return label
    if not _is_own(filters, sort):
        return f"{label}, other sorts"
    names = [f"`sort={sort}`", label, "`completed`" if has_completed else ""]
    return ", ".join(name for name in names if name)


def _is_own(filters: frozenset[str], sort: TaskSort) -> bool:
    """Return whether the index of a sort also serves the filters."""
    return filters <= INDEXED[sort] | ({"priorities"} if sort is TaskSort.PRIORITY else set())


async def _lists(database: asyncpg.Connection[Any], user: str) -> AsyncIterator[Case]:
    """Each sort, unfiltered and by `completed`."""
    for sort, completed in product(USER_SORTS, (None, True, False)):
        filtered = "completed_" if sort in MERGED or completed is not None else ""
        index = f"ix_tasks_user_id_{filtered}{sort}_id"
        async for case in _pages(database, user, index, "", sort=sort, completed=completed):
            yield case


async def _places(database: asyncpg.Connection[Any], user: str) -> AsyncIterator[Case]:
    """The order of lists, of the inbox and of subtasks, unfiltered and by `completed`."""
    for place, completed in product(await _read_places(database, user), (None, True, False)):
        pages = _pages(
            database, user, place.index, place.label, sort=TaskSort.POSITION, completed=completed,
            **place.query,
        )  # fmt: skip
        async for case in pages:
            yield case


async def _pages(
    database: asyncpg.Connection[Any],
    user: str,
    index: str,
    label: str,
    *,
    sort: TaskSort,
    completed: bool | None,
    **filters: str,
) -> AsyncIterator[Case]:
    """Both orders, at the start and in the middle."""
    # Without `completed`, a page of open and a page of completed tasks may be merged.
    max_rows = PAGE * (2 if sort in MERGED and completed is None else 1)
    position, depth = await _halfway(database, user, sort, completed=completed, **filters)
    row = _row(sort, frozenset(), label, has_completed=completed is not None)
    for order in SortOrder:
        query: dict[str, Any] = {"sort": sort, "order": order, "completed": completed, **filters}
        for after, page in ((None, "first page"), (position, f"page at {depth:,}")):
            case = _list(
                f"{user}: {_describe(query)}, {page}", user, row=row, after=after,
                max_rows=max_rows, indexes=frozenset({index}), **query,
            )  # fmt: skip
            yield case
            yield replace(
                case,
                name=f"{case.name}, long texts",
                call=after_results(case.call, [LONG_TEXT]),
            )


def _describe(query: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in query.items() if value is not None)


async def _halfway(
    database: asyncpg.Connection[Any], user: str, sort: TaskSort, **query: Any
) -> tuple[CursorPosition | None, int]:
    """Return the position in the middle of a list, if any, and the number of tasks before it."""
    params = filter_params(user, CountTasksQuery(**query)) or {}
    conditions = [TaskRecord.user_id == bindparam("owner"), *(FILTERS[name] for name in params)]
    params |= {"owner": user}
    key = (SORT_KEYS[sort], TaskRecord.id)
    count = select(func.count()).select_from(TaskRecord).where(*conditions)
    ((tasks,),) = await _fetch(database, count, params)
    middle = bindparam("middle", type_=Integer)
    statement = select(*key).where(*conditions).order_by(*key).offset(middle).limit(1)
    params |= {"middle": tasks // 2}
    rows = await _fetch(database, statement, params)
    position = CursorPosition(rows[0][0], UUID(str(rows[0][1]))) if rows else None
    return position, tasks // 2


async def _fetch(
    database: asyncpg.Connection[Any], statement: ClauseElement, params: dict[str, Any]
) -> list[Any]:
    sql, arguments, _ = compile_statement(statement, params)
    rows: list[Any] = await database.fetch(sql, *arguments)
    return rows


class _Place(Struct, frozen=True):
    """A list, the inbox or the subtasks of a parent."""

    query: dict[str, str]
    index: str

    @property
    def label(self) -> str:
        """The filter, without its ID."""
        ((name, value),) = self.query.items()
        return f"`{name}={value if value == 'none' else 'ID'}`"


async def _read_places(database: asyncpg.Connection[Any], user: str) -> list[_Place]:
    """Return the largest and the smallest list of a user, the inbox, and the largest parent."""
    places = [_Place({"list_id": "none"}, "ix_tasks_inbox")]
    for column, index, direction in (
        ("list_id", "ix_tasks_list", "DESC"),
        ("list_id", "ix_tasks_list", "ASC"),
        ("parent_id", "ix_tasks_parent", "DESC"),
    ):
        (id_,) = await _first_row(
            database,
            f"SELECT {column} FROM tasks WHERE user_id = $1 AND {column} IS NOT NULL "  # noqa: S608 - no input
            f"GROUP BY {column} ORDER BY count(*) {direction}, {column} LIMIT 1",
            user,
        )
        places.append(_Place({column: str(id_)}, index))
    return places


async def _filters(database: asyncpg.Connection[Any], user: str) -> AsyncIterator[Case]:
    """Each filter and some combinations with each sort, and their counts.

    For all tasks and for open tasks.
    """
    date = MIDDLE.date()
    places = await _read_places(database, user)
    largest_list = places[1].query
    queries: list[tuple[str, dict[str, Any]]] = [
        ("", {}),
        *((place.label, place.query) for place in places),
        ("`parent_id=none`", {"parent_id": "none"}),
        ("`priority`", {"priority": "urgent"}),
        ("`priority`", {"priority": "none,low"}),
        ("`labels` with a common label", {"labels": COMMON_LABEL}),
        ("`labels` with a label of 1% of the tasks", {"labels": MEDIUM_LABEL}),
        ("`labels` with a rare label", {"labels": RARE_LABEL}),
        ("`labels` with two common labels", {"labels": f"{COMMON_LABEL},{LABELS[1]}"}),
        ("`labels` with a common and a rare label", {"labels": f"{COMMON_LABEL},{RARE_LABEL}"}),
        ("`labels` with an unknown label", {"labels": "unknown"}),
        ("`has_due=true`", {"has_due": True}),
        ("`has_due=false`", {"has_due": False}),
        ("`due_after`, `due_before`", {"due_after": date - DAY, "due_before": date + DAY}),
        ("`due_after` or `due_before`", {"due_after": date}),
        ("`due_after` or `due_before`", {"due_before": date}),
        (
            "`created_after`, `created_before`",
            {"created_after": MIDDLE, "created_before": MIDDLE + DAY},
        ),
        (
            "`updated_after`, `updated_before`",
            {"updated_after": MIDDLE, "updated_before": MIDDLE + DAY},
        ),
        (SEVERAL, {**largest_list, "priority": "urgent"}),
        (SEVERAL, {**largest_list, "labels": MEDIUM_LABEL}),
        (SEVERAL, {"list_id": "none", "has_due": True, "due_before": date}),
        (SEVERAL, {"priority": "high,urgent", "labels": COMMON_LABEL}),
        (SEVERAL, {"priority": "urgent", "q": MEDIUM}),
    ]
    for (label, query), completed in product(queries, (None, False)):
        filters = frozenset(filter_params(user, CountTasksQuery(**query)) or {})
        for sort, order in product(TaskSort, SortOrder):
            row = _row(sort, filters, label, has_completed=completed is not None)
            yield _filtered(
                user, filters, row, sort=sort, order=order, completed=completed, **query
            )
        yield _count(user, filters, label, completed=completed, **query)


def _filtered(
    user: str, filters: frozenset[str], row: str, *, sort: TaskSort, **query: Any
) -> Case:
    """Return the first page of a list with filters."""
    return _list(
        f"{user}: {_describe({'sort': sort, **query})}", user, row=row, sort=sort, **query,
        max_rows=None if row == SEVERAL or _is_unbounded(filters, sort) else SEARCH_ROWS,
    )  # fmt: skip


def _is_unbounded(filters: frozenset[str], sort: TaskSort) -> bool:
    """Return whether a list may read all tasks of the user (data-model.md, "Query plans")."""
    ranges = set[str]().union(*(names for other, names in RANGES.items() if other is not sort))
    return not is_ordered(filters, sort) or bool(filters & {*ranges, "labels"})


def _count(user: str, filters: frozenset[str], label: str, **query: Any) -> Case:
    count_query = CountTasksQuery(**query)
    return Case(
        name=f"{user}: count, {_describe(query)}",
        call=lambda repository: repository.count_tasks(user, count_query),
        user=user,
        row=f"`countTasks`, {label}" if label else "`countTasks`",
        max_rows=None if filters & {"labels", "has_due", *RANGES[TaskSort.DUE]} else COUNT_ROWS,
        modes=MODES if filters <= {"completed"} else ("service",),
    )


async def _first_row(
    database: asyncpg.Connection[Any], sql: str, *values: object
) -> tuple[Any, ...]:
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
        ranges = 2 if sort in MERGED else 1
        for after, page in ((None, "first page"), (position, f"page at {depth:,}")):
            # The planner expects that few tasks are left of a long run of equal keys.
            is_long_run = after is not None and sort in MERGED
            is_limited = (
                is_ordered(frozenset({"q"}), sort)
                and not is_long_run
                and (q == RARE or not is_rare)
            )
            yield _list(
                f"{user}: q={q!r} {sort}, {page}", user, after=after,
                row=f"`q`, `sort={sort}`" + (", in the middle" if after else ""),
                max_rows=ranges * max_rows if is_limited else None,
                indexes=search if is_rare and not is_long_run else None,
                q=q, sort=sort,
            )  # fmt: skip


def _ranges() -> Iterator[Case]:
    """Time ranges. If another column is sorted by, no index serves both."""
    for sort in TIME_SORTS:
        name = sort.removesuffix("_at")
        time_range: dict[str, Any] = {f"{name}_after": MIDDLE, f"{name}_before": MIDDLE + DAY}
        yield _list(
            f"{LARGE}: {name} within a day, {sort}", LARGE, row="", **time_range, sort=sort,
            max_rows=PAGE, indexes=frozenset({f"ix_tasks_user_id_{sort}_id"}),
        )  # fmt: skip
        yield _list(
            f"{LARGE}: {name} within a day, completed=False, {sort}", LARGE, row="", **time_range,
            max_rows=PAGE, indexes=frozenset({f"ix_tasks_user_id_completed_{sort}_id"}),
            sort=sort, completed=False,
        )  # fmt: skip
    other = {TaskSort.CREATED_AT: "updated", TaskSort.UPDATED_AT: "created"}
    for sort, order, days in product(TIME_SORTS, SortOrder, (1, 30)):
        name = other[sort]
        time_range = {f"{name}_after": MIDDLE, f"{name}_before": MIDDLE + days * DAY}
        # The range of the other timestamp implies the start of the scan.
        is_bounded = (sort is TaskSort.CREATED_AT) == (order is SortOrder.DESC)
        for q in (None, COMMON):
            yield _list(
                f"{LARGE}: {name} within {days} d, {q=}, {sort} {order}", LARGE, **time_range,
                row=SEVERAL if q else f"`{name}_after`, `{name}_before`, other sorts",
                max_rows=RANGE_ROWS if is_bounded and q is None else None,
                q=q, sort=sort, order=order,
            )  # fmt: skip


async def _labels(database: asyncpg.Connection[Any], small: str) -> AsyncIterator[Case]:
    """The labels in use, which are read from all open tasks."""
    for user in (LARGE, REVERSE, small):
        (tasks,) = await _first_row(
            database, "SELECT count(*) FROM tasks WHERE user_id = $1 AND NOT completed", user
        )
        (all_tasks,) = await _first_row(
            database, "SELECT count(*) FROM tasks WHERE user_id = $1", user
        )
        yield Case(
            name=f"{user}: labels",
            call=lambda repository, user=user: repository.list_labels(user),  # type: ignore[misc]
            user=user,
            row="`listLabels`",
            # The index has blocks, too. It is not worth its cost if there are few tasks.
            max_rows=(all_tasks if user == small else tasks + tasks // 100) + VERSION_ROWS,
        )


async def _single_tasks(database: asyncpg.Connection[Any]) -> AsyncIterator[Case]:
    task, etag = await _first_row(
        database,
        "SELECT id, etag FROM tasks WHERE user_id = $1 ORDER BY created_at OFFSET 20000 LIMIT 1",
        LARGE,
    )
    task = UUID(str(task))
    matching = ETagCondition(any=False, strong=(UUID(str(etag)),))
    replacement = TaskReplace("New title", None, completed=True)
    primary_key = frozenset({"pk_tasks", "uq_tasks_user_id_id_depth"})
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
    }
    for name, (call, indexes) in calls.items():
        # Besides the task, the parts of the statement read the rows of each other.
        yield Case(name=name, call=call, indexes=indexes | {"pk_users"}, max_rows=6, writes=True)


async def _deletes(database: asyncpg.Connection[Any], user: str) -> AsyncIterator[Case]:
    """The delete of a task with subtasks, and the checks of foreign keys."""
    parent, subtasks = await _first_row(
        database,
        "SELECT parent_id, count(*) FROM tasks WHERE user_id = $1 AND parent_id IS NOT NULL "
        "GROUP BY parent_id ORDER BY count(*) DESC LIMIT 1",
        user,
    )
    (etag,) = await _first_row(database, "SELECT etag FROM tasks WHERE id = $1", parent)
    params = {"owner": user, "task": parent, "new_etag": UUID(int=1), "etags": [etag]}
    (tombstones,) = await _first_row(
        database, "SELECT count(*) FROM tombstones WHERE user_id = $1", user
    )
    # Each deleted task is read again for its tombstone.
    rows = 2 * subtasks + 12
    for name, row, statement, max_rows in (
        (
            "delete",
            "`deleteTask`: the task and its subtasks",
            delete_statement(any_etag=True),
            rows,
        ),
        (
            "delete, if it matches",
            "`deleteTask`: the task and its subtasks",
            delete_statement(any_etag=False),
            rows,
        ),
        (
            "delete with old tombstones",
            "`deleteTask`: the same with old tombstones",
            delete_statement(any_etag=True, removes_tombstones=True),
            # If most users have few tombstones, the keys of all of the user are sorted.
            rows + 2 * MAX_REMOVED + tombstones,
        ),
    ):
        yield Case(
            name=f"{user}: {name}",
            call=lambda r, statement=statement: r.fetch(statement, params),  # type: ignore[misc]
            user=user,
            row=row,
            indexes=frozenset(
                {
                    "pk_tasks",
                    "uq_tasks_user_id_id_depth",
                    "ix_tasks_parent",
                    "pk_users",
                    "pk_tombstones",
                }
            ),
            max_rows=max_rows,
            writes=True,
        )
    # For an ID that nothing refers to.
    for row, (condition, index) in REFERENCE_CHECKS.items():
        statement = text(
            f"SELECT 1 FROM ONLY tasks x WHERE user_id = :owner AND {condition} FOR KEY SHARE OF x"  # noqa: S608 - no input
        ).bindparams(bindparam("id", type_=Uuid))
        yield Case(
            name=f"{user}: {row}",
            call=lambda r, statement=statement: r.fetch(  # type: ignore[misc]
                statement, {"owner": user, "id": UUID(int=1)}
            ),
            user=user,
            row=row,
            indexes=frozenset({index}),
            max_rows=0,
        )


async def _feed(database: asyncpg.Connection[Any], user: str) -> AsyncIterator[Case]:
    """Pages of the feed, and what a 304 of a collection reads."""
    epoch, revision = await _first_row(
        database, "SELECT epoch, revision FROM users WHERE user_id = $1", user
    )
    middle, id_ = await _first_row(
        database,
        "SELECT revision, id FROM tasks WHERE user_id = $1 ORDER BY abs(revision - $2) LIMIT 1",
        user,
        revision // 2,
    )
    epoch, id_ = UUID(str(epoch)), UUID(str(id_))
    for page, since, max_rows in (
        ("first page", START_OF_FEED, FEED_ROWS),
        ("a page in the middle", FeedPosition(epoch, middle, id_, 1, revision), FEED_ROWS),
        ("no change", FeedPosition.end(epoch, revision), VERSION_ROWS + 1),
    ):
        yield Case(
            name=f"{user}: feed, {page}",
            call=lambda r, since=since: ChangeRepository(r.fetch).list_changes(user, since, LIMIT),  # type: ignore[misc]
            user=user,
            row=f"`listChanges`: {page}",
            # A small user's tasks and lists may be found in another way.
            indexes=FEED_INDEXES if user == LARGE else None,
            max_rows=max_rows,
        )
    yield Case(
        name=f"{user}: 304",
        call=lambda r: read_version(r.fetch, user),
        user=user,
        row="304 of a collection",
        indexes=VERSION_INDEX,
        max_rows=VERSION_ROWS,
    )


async def _moves(database: asyncpg.Connection[Any], user: str) -> AsyncIterator[Case]:
    """The statements of a move in each place, also if its neighbors are respaced."""
    for place in await _read_places(database, user):
        position, _ = await _halfway(database, user, TaskSort.POSITION, **place.query)
        assert position
        (moved,) = await _first_row(
            database,
            "SELECT id FROM tasks WHERE user_id = $1 ORDER BY created_at LIMIT 1",
            user,
        )
        ids = [UUID(str(moved)), position.id]
        rows = await _fetch(database, SELECT_SEVERAL, {"owner": user, "ids": ids})
        target = {name: None if value == "none" else value for name, value in place.query.items()}
        move = TaskMove(str(position.id), **target)

        def call(
            repository: TaskRepository, move: TaskMove = move, moved: UUID = ids[0]
        ) -> Awaitable[object]:
            return repository.move_task(user, moved, move, if_match=None)

        near = [Sibling(UUID(int=1), _next_to(position))]
        distant = [Sibling(UUID(int=1), "z")]
        start = [Sibling(UUID(int=2), "0")]
        name, index = f"{user}: move, {_describe(place.query)}", frozenset({place.index})
        primary_key = frozenset({"pk_tasks", "uq_tasks_user_id_id_depth"})
        users = frozenset({"pk_users"})
        window = 2 * SIBLINGS_TO_READ
        for step, step_call, indexes, max_rows in (
            ("the two tasks", call, primary_key, 2),
            ("the next task", after_results(call, rows), index, 2),
            ("the tasks after a full gap", after_results(call, rows, near), index, window),
            ("the tasks before a full gap", after_results(call, rows, near, near), index, window),
            # Rows of the CTE and of the parameters count, too.
            (
                "respacing",
                after_results(call, rows, near, near, start),
                primary_key | users | index,
                34,
            ),
            ("the change", after_results(call, rows, distant), primary_key | users, 24),
        ):
            is_planned_once = indexes is index
            yield Case(
                name=f"{name}, {step}", call=step_call, user=user, row=f"`moveTask`: {step}",
                indexes=indexes, max_rows=max_rows,
                modes=MODES if is_planned_once else ("service",),
                writes=step in {"respacing", "the change"},
            )  # fmt: skip


def _next_to(position: CursorPosition) -> str:
    """Return a position so near to another one that there is no room between them."""
    return f"{position.sort_value!s:0<{MAX_LENGTH - 1}}1"


async def _lists_of_tasks(database: asyncpg.Connection[Any], user: str) -> AsyncIterator[Case]:
    """The pages of the lists of a user, one list, and the statements of `moveList`."""
    lists = TaskListRepository(session=CapturingSession())
    id_, created_at = await _first_row(
        database,
        "SELECT id, created_at FROM lists WHERE user_id = $1 ORDER BY id OFFSET 2 LIMIT 1",
        user,
    )
    middle = TaskListRecord(user_id=user, id=UUID(str(id_)), created_at=created_at)
    other = TaskListRecord(user_id=user, id=UUID(int=1))
    after = CursorPosition(middle.position, middle.id)
    query = PageQuery(limit=LIMIT)
    in_order, primary_key = frozenset({"ix_lists_user_id_position_id"}), frozenset({"pk_lists"})
    calls: tuple[tuple[str, Call, frozenset[str], int], ...] = (
        ("`listLists`", lambda _: lists.page(user, query, None), in_order, PAGE),
        ("`listLists`", lambda _: lists.page(user, query, after), in_order, PAGE),
        ("`getList`", lambda _: lists.find(user, middle.id), primary_key, 1),
        ("`moveList`: the next list", lambda _: lists._siblings(other, middle, 1), in_order, 2),
        (
            "`moveList`: the lists before a full gap",
            lambda _: lists._siblings(other, middle, SIBLINGS_TO_READ, before=True),
            in_order, SIBLINGS_TO_READ,
        ),
        (
            "`moveList`: the lists after a full gap",
            lambda _: lists._siblings(other, middle, SIBLINGS_TO_READ), in_order, SIBLINGS_TO_READ,
        ),
    )  # fmt: skip
    for row, call, indexes, max_rows in calls:
        yield Case(
            name=f"{user}: {row}", call=call, user=user, row=row, indexes=indexes,
            max_rows=max_rows,
        )  # fmt: skip


async def check(url: str, size: Size, report: Callable[[str], None]) -> list[str]:
    """Fill a migrated database, explain every case, and return the errors."""
    all_errors = []
    plans: list[tuple[Case, Plan]] = []
    async with Explainer.connect(DatabaseConfig.from_url(url)) as explainer:
        await fill(explainer.connection, size)
        report(await _sizes(explainer.connection))
        for case in await cases(explainer.connection):
            for mode in case.modes:
                plan = await explainer.explain(case.call, mode)
                errors = find_errors(case, plan)
                all_errors += [f"{case.name} ({mode}): {error}\n{plan.text}" for error in errors]
                report(
                    f"{'ERROR ' if errors else ''}{case.name} ({mode}): {plan.shape}; "
                    f"rows {plan.rows:,}, buffers {plan.buffers:,}, "
                    f"{plan.execution_time:.2f} ms + {plan.planning_time:.2f} ms planning"
                )
                if mode == "service":
                    report(plan.text + "\n")
                    plans.append((case, plan))
    report(table(plans))
    return all_errors


def table(plans: list[tuple[Case, Plan]]) -> str:
    """Return the table of data-model.md: the largest figures of each row, for two users.

    It names up to three ways to find the rows, the most frequent first.
    """
    rows = {case.row: [pair for pair in plans if pair[0].row == case.row] for case, _ in plans}
    lines = [
        "| request | access | rows | buffers | ms | rows, small user | buffers | ms |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row, pairs in rows.items():
        large = [plan for case, plan in pairs if case.user == LARGE]
        small = [plan for case, plan in pairs if case.user not in {LARGE, REVERSE}]
        ways = Counter(plan.access for plan in large).most_common(3)
        access = "; ".join(way for way, _ in ways)
        if row:
            lines.append(f"| {row} | {access} | {_largest(large)} | {_largest(small)} |")
    return "\n".join(lines) + "\n"


def _largest(plans: list[Plan]) -> str:
    return (
        f"{max(plan.rows for plan in plans):,} | {max(plan.buffers for plan in plans):,} "
        f"| {max(plan.execution_time for plan in plans):.2f}"
    )


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
