"""The statements that read a page of tasks, and the size limits of a page (contract, "Lists").

A page is limited by its number of tasks and by its bytes. The first statement omits descriptions
that are too long for a full page, and marks their rows. If a row is marked, a second statement
reads the page again and stops at the limit of bytes. It takes half as much time again, so it is not
used for every page (research/0053).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import msgspec
from sqlalchemy import (
    BigInteger,
    ClauseElement,
    ColumnElement,
    Integer,
    Select,
    Uuid,
    bindparam,
    case,
    cast,
    func,
    literal_column,
    null,
    select,
    tuple_,
    union_all,
)

from app.db.collections import VERSION
from app.db.statements import UNNAMED
from app.domain.tasks.filters import DUE, FILTERS, FIRST_DATE, PLACES
from app.domain.tasks.models import TaskRecord
from app.domain.tasks.rows import COLUMNS
from app.domain.tasks.schemas import SortOrder, Task, TaskSort

SORT_KEYS: dict[TaskSort, ColumnElement[Any]] = {
    TaskSort.CREATED_AT: TaskRecord.created_at.expression,
    TaskSort.UPDATED_AT: TaskRecord.updated_at.expression,
    TaskSort.DUE: DUE,
    TaskSort.PRIORITY: TaskRecord.priority.expression,
    TaskSort.POSITION: TaskRecord.position.expression,
}
# With only these filters, one index returns the rows for all values, if it has the requested order.
# With other filters the best plan depends on the values.
INDEXED = {
    TaskSort.CREATED_AT: {"completed", "created_after", "created_before"},
    TaskSort.UPDATED_AT: {"completed", "updated_after", "updated_before"},
    TaskSort.DUE: {"completed", "due_after", "due_before", "has_due", "has_no_due"},
    TaskSort.PRIORITY: {"completed"},
    TaskSort.POSITION: {"completed", *PLACES},
}
# Their indexes begin with `completed`. Without this filter, two ranges of the index are merged.
MERGED = {TaskSort.DUE, TaskSort.PRIORITY, TaskSort.POSITION}
STATEMENT_CACHE_SIZE = 1024

Columns = tuple[Any, ...]

MAX_PAGE_BYTES = 1_048_576
MAX_TITLE_BYTES = 2_000
# Maximum sizes as JSON: a page without its tasks, a task without its texts, a character.
PAGE_OVERHEAD_BYTES, TASK_OVERHEAD_BYTES, MAX_CHARACTER_BYTES = 192, 1_280, 6

_TEXT_BYTES = func.octet_length(TaskRecord.labels) + func.coalesce(
    func.octet_length(TaskRecord.description), 0
)
_TOO_LONG = bindparam("max_text_bytes", type_=Integer) < _TEXT_BYTES
_VERSION = VERSION.label("version")
# The column after those of the task marks a row whose description was omitted.
IS_OMITTED = len(COLUMNS)
_COLUMNS_WITHOUT_LONG_TEXTS = [
    case((_TOO_LONG, null()), else_=column).label(column.name)
    if column is TaskRecord.description
    else column
    for column in COLUMNS
]
_COLUMNS_WITHOUT_LONG_TEXTS.append(_TOO_LONG.label("is_omitted"))


def max_text_bytes(limit: int) -> int:
    """Return the bytes of description and labels that fit into a full page of `limit` tasks."""
    return MAX_PAGE_BYTES // (limit + 1) - MAX_TITLE_BYTES


def is_ordered(filters: frozenset[str], sort: TaskSort) -> bool:
    """Return whether an index has the order of a list. Positions have one for each kind of place.

    Without such an index, all tasks that match are collected.
    """
    return sort is not TaskSort.POSITION or not filters.isdisjoint(PLACES)


def is_indexed(filters: frozenset[str], sort: TaskSort) -> bool:
    """Return whether one index returns exactly the rows of a list, for all values."""
    return is_ordered(filters, sort) and filters <= INDEXED[sort]


@lru_cache(STATEMENT_CACHE_SIZE)
def list_statement(
    filters: frozenset[str],
    sort: TaskSort,
    order: SortOrder,
    *,
    has_cursor: bool,
    counts_bytes: bool = False,
) -> ClauseElement:
    """Build the statement for one set of filters.

    Unless it counts bytes, its last column is the version of the collection.
    """
    key = SORT_KEYS[sort]
    conditions = [TaskRecord.user_id == bindparam("owner"), *(FILTERS[f] for f in sorted(filters))]
    # `updated_at` is never before `created_at`, so a bound of one may also bound the other.
    if sort is TaskSort.CREATED_AT and "updated_before" in filters:
        conditions.append(TaskRecord.created_at < bindparam("updated_before"))
    if sort is TaskSort.UPDATED_AT and "created_after" in filters:
        conditions.append(TaskRecord.updated_at > bindparam("created_after"))
    if has_cursor:
        # The default key of cursors is public, so an integer may be beyond the column's type.
        type_ = BigInteger() if sort is TaskSort.PRIORITY else key.type
        after: ColumnElement[Any] = bindparam("after", type_=type_)
        if sort is TaskSort.DUE:
            after = func.greatest(after, FIRST_DATE)  # asyncpg sends the first time as infinity
        position = tuple_(after, bindparam("after_id", type_=Uuid))
        item = tuple_(key, TaskRecord.id)
        conditions.append(item > position if order is SortOrder.ASC else item < position)
    columns = COLUMNS if counts_bytes else _COLUMNS_WITHOUT_LONG_TEXTS
    if sort in MERGED and is_ordered(filters, sort) and "completed" not in filters:
        statement = _merge(columns, key, conditions, order, with_key=counts_bytes)
    else:
        last_column = key.label("sort_key") if counts_bytes else _VERSION
        statement = _page((*columns, last_column), key, conditions, order)
    if counts_bytes:
        statement = _limit_bytes(statement, order)
    return statement if is_indexed(filters, sort) else statement.execution_options(**UNNAMED)


def _page(
    columns: Sequence[Any],
    key: ColumnElement[Any],
    conditions: Sequence[ColumnElement[bool]],
    order: SortOrder,
) -> Select[*Columns]:
    statement = select(*columns).where(*conditions).limit(bindparam("row_limit"))
    return statement.order_by(*_order_by((key, TaskRecord.id), order))


def _merge(
    columns: Sequence[Any],
    key: ColumnElement[Any],
    conditions: Sequence[ColumnElement[bool]],
    order: SortOrder,
    *,
    with_key: bool,
) -> Select[*Columns]:
    """Read a page of open and a page of completed tasks, and keep the first rows of both."""
    columns = (*columns, key.label("sort_key"))
    rows = (
        union_all(
            *(
                _page(
                    columns,
                    key,
                    [*conditions, TaskRecord.completed == literal_column(value)],
                    order,
                )
                for value in ("false", "true")
            )
        )
        .subquery("merged")
        .c
    )
    ordering = _order_by((rows.sort_key, rows.id), order)
    returned: list[ColumnElement[Any]] = list(rows)
    if not with_key:
        returned[-1] = _VERSION
    return select(*returned).order_by(*ordering).limit(bindparam("row_limit"))


def _limit_bytes(page: Select[*Columns], order: SortOrder) -> Select[*Columns]:
    """Limit a page to the tasks that fit, and add the first task that does not, marked."""
    rows = page.subquery("page").c
    ordering = _order_by((rows.sort_key, rows.id), order)
    octets = (
        func.octet_length(rows.title)
        + func.octet_length(rows.labels)
        + func.coalesce(func.octet_length(rows.description), 0)
    )
    total = cast(func.sum(octets).over(order_by=ordering, rows=(None, 0)), BigInteger)
    summed = select(*rows, octets.label("octets"), total.label("total")).subquery("summed").c
    columns = [column for column in summed if column.name not in {"sort_key", "octets", "total"}]
    is_omitted: ColumnElement[bool] = summed.total > MAX_PAGE_BYTES
    return (
        select(*columns, is_omitted.label("is_omitted"))
        .where(summed.total - summed.octets <= MAX_PAGE_BYTES)
        .order_by(*_order_by((summed.sort_key, summed.id), order))
    )


@lru_cache(STATEMENT_CACHE_SIZE)
def count_statement(filters: frozenset[str]) -> ClauseElement:
    """Build the statement that counts the tasks for one set of filters, up to a limit.

    It also returns the version of the collection.
    """
    conditions = [TaskRecord.user_id == bindparam("owner"), *(FILTERS[f] for f in sorted(filters))]
    rows = (
        select(literal_column("1", Integer()))
        .where(*conditions)
        .limit(bindparam("row_limit"))
        .subquery()
    )
    statement = select(func.count(), _VERSION).select_from(rows)
    return statement if filters <= {"completed"} else statement.execution_options(**UNNAMED)


def _order_by(key: tuple[Any, ...], order: SortOrder) -> list[ColumnElement[Any]]:
    return [column.asc() if order is SortOrder.ASC else column.desc() for column in key]


def truncate_page(tasks: list[Task]) -> list[Task]:
    """Return the first tasks that fit into a page as JSON."""
    remaining_bytes = MAX_PAGE_BYTES - PAGE_OVERHEAD_BYTES
    characters = sum(
        len(task.title) + len(task.description or "") + sum(map(len, task.labels)) for task in tasks
    )
    if MAX_CHARACTER_BYTES * characters + TASK_OVERHEAD_BYTES * len(tasks) <= remaining_bytes:
        return tasks
    for number, task in enumerate(tasks):
        remaining_bytes -= len(msgspec.json.encode(task)) + 1
        if remaining_bytes < 0:
            return tasks[:number]
    return tasks
