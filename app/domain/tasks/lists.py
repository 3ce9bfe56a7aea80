"""The statements that read a page of tasks, and the size limits of a page (contract, "Lists").

A page is limited by its number of tasks and by its bytes. The first statement omits descriptions
that are too long for a full page, and marks their rows. If a row is marked, a second statement
reads the page again and stops at the limit of bytes. It takes half as much time again, so it is not
used for every page (research/0053).
"""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec
from sqlalchemy import (
    BigInteger,
    ClauseElement,
    ColumnElement,
    Integer,
    Select,
    Text,
    Uuid,
    bindparam,
    case,
    cast,
    func,
    null,
    select,
    tuple_,
)
from sqlalchemy.dialects.postgresql import TSQUERY

from app.db.statements import UNNAMED
from app.domain.tasks.models import TaskRecord
from app.domain.tasks.schemas import SortOrder, Task, TaskSort

# In the order of the fields of Task.
COLUMNS = (
    TaskRecord.id,
    TaskRecord.user_id,
    TaskRecord.title,
    TaskRecord.description,
    TaskRecord.completed,
    TaskRecord.completed_at,
    TaskRecord.created_at,
    TaskRecord.updated_at,
    TaskRecord.etag,
)
FILTERS = {
    "completed": TaskRecord.completed == bindparam("completed"),
    "created_after": TaskRecord.created_at > bindparam("created_after"),
    "created_before": TaskRecord.created_at < bindparam("created_before"),
    "updated_after": TaskRecord.updated_at > bindparam("updated_after"),
    "updated_before": TaskRecord.updated_at < bindparam("updated_before"),
    # Each lexeme starts with its user's prefix, so one index covers both (data-model.md, "Search").
    "q": TaskRecord.search.op("@@")(cast(func.lower(bindparam("q", type_=Text)), TSQUERY)),
}
# With only these filters, one index returns the rows in the requested order for all values. With
# other filters the best plan depends on the values.
INDEXED = {
    TaskSort.CREATED_AT: {"completed", "created_after", "created_before"},
    TaskSort.UPDATED_AT: {"completed", "updated_after", "updated_before"},
}

Columns = tuple[Any, ...]

MAX_PAGE_BYTES = 1_048_576
MAX_TITLE_BYTES = 2_000
# Maximum sizes as JSON: a page without its tasks, a task without its texts, a character.
PAGE_OVERHEAD_BYTES, TASK_OVERHEAD_BYTES, MAX_CHARACTER_BYTES = 128, 640, 6

_TOO_LONG = func.octet_length(TaskRecord.description) > bindparam(
    "max_description_bytes", type_=Integer
)
# The last column marks a row whose description was omitted.
_COLUMNS_WITHOUT_LONG_TEXTS = [
    case((_TOO_LONG, null()), else_=column).label(column.name)
    if column is TaskRecord.description
    else column
    for column in COLUMNS
]
_COLUMNS_WITHOUT_LONG_TEXTS.append(_TOO_LONG.label("is_omitted"))


def max_description_bytes(limit: int) -> int:
    """Return the size, in bytes, up to which descriptions fit into a full page of `limit` tasks."""
    return MAX_PAGE_BYTES // (limit + 1) - MAX_TITLE_BYTES


@cache
def list_statement(
    filters: frozenset[str],
    sort: TaskSort,
    order: SortOrder,
    *,
    has_cursor: bool,
    counts_bytes: bool = False,
) -> ClauseElement:
    """Build the statement for one set of filters. There are 1,024 statements."""
    key = (getattr(TaskRecord, sort), TaskRecord.id)
    conditions = [TaskRecord.user_id == bindparam("owner"), *(FILTERS[f] for f in sorted(filters))]
    # `updated_at` is never before `created_at`, so a bound of one may also bound the other.
    if sort is TaskSort.CREATED_AT and "updated_before" in filters:
        conditions.append(TaskRecord.created_at < bindparam("updated_before"))
    if sort is TaskSort.UPDATED_AT and "created_after" in filters:
        conditions.append(TaskRecord.updated_at > bindparam("created_after"))
    if has_cursor:
        position = tuple_(bindparam("after", type_=key[0].type), bindparam("after_id", type_=Uuid))
        conditions.append(
            tuple_(*key) > position if order is SortOrder.ASC else tuple_(*key) < position
        )
    columns = COLUMNS if counts_bytes else _COLUMNS_WITHOUT_LONG_TEXTS
    statement = select(*columns).where(*conditions).limit(bindparam("row_limit"))
    statement = statement.order_by(*_order_by(key, order))
    if counts_bytes:
        statement = _limit_bytes(statement, sort, order)
    return statement if filters <= INDEXED[sort] else statement.execution_options(**UNNAMED)


def _limit_bytes(page: Select[*Columns], sort: TaskSort, order: SortOrder) -> Select[*Columns]:
    """Limit a page to the tasks that fit, and add the first task that does not, marked."""
    rows = page.subquery("page").c
    ordering = _order_by((rows[sort], rows.id), order)
    octets = func.octet_length(rows.title) + func.coalesce(func.octet_length(rows.description), 0)
    total = cast(func.sum(octets).over(order_by=ordering, rows=(None, 0)), BigInteger)
    summed = select(*rows, octets.label("octets"), total.label("total")).subquery("summed").c
    columns = [column for column in summed if column.name not in {"octets", "total"}]
    is_omitted: ColumnElement[bool] = summed.total > MAX_PAGE_BYTES
    return (
        select(*columns, is_omitted.label("is_omitted"))
        .where(summed.total - summed.octets <= MAX_PAGE_BYTES)
        .order_by(*_order_by((summed[sort], summed.id), order))
    )


def _order_by(key: tuple[Any, ...], order: SortOrder) -> list[ColumnElement[Any]]:
    return [column.asc() if order is SortOrder.ASC else column.desc() for column in key]


def truncate_page(tasks: list[Task]) -> list[Task]:
    """Return the first tasks that fit into a page as JSON."""
    remaining_bytes = MAX_PAGE_BYTES - PAGE_OVERHEAD_BYTES
    characters = sum(len(task.title) + len(task.description or "") for task in tasks)
    if MAX_CHARACTER_BYTES * characters + TASK_OVERHEAD_BYTES * len(tasks) <= remaining_bytes:
        return tasks
    for number, task in enumerate(tasks):
        remaining_bytes -= len(msgspec.json.encode(task)) + 1
        if remaining_bytes < 0:
            return tasks[:number]
    return tasks
