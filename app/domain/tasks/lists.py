"""The statements that read a page of a list, and how much a page may hold (contract, "Lists").

A page is limited by its number of tasks and by its bytes. A row whose description is too long for a
full page comes without it and is marked; then the page is read again by a statement that counts the
bytes and stops. That one takes half as much again, so it is not used for every page
(research/0053).
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
    # Each lexeme holds its user, so one index serves both (data-model.md, "Search").
    "q": TaskRecord.search.op("@@")(cast(func.lower(bindparam("q", type_=Text)), TSQUERY)),
}
# With these filters one index has what is looked for in the order that is asked for, whatever the
# values are. With others the shorter way depends on the values.
INDEXED = {
    TaskSort.CREATED_AT: {"completed", "created_after", "created_before"},
    TaskSort.UPDATED_AT: {"completed", "updated_after", "updated_before"},
}

Columns = tuple[Any, ...]

MAX_PAGE_BYTES = 1_048_576
MAX_TITLE_BYTES = 2_000
# As JSON, at most: of a page beside its tasks, of a task beside its texts, of a character.
PAGE_OVERHEAD_BYTES, TASK_OVERHEAD_BYTES, MAX_CHARACTER_BYTES = 128, 640, 6

_TOO_LONG = func.octet_length(TaskRecord.description) > bindparam("longest", type_=Integer)
# The last column marks a row that is not on the page as it stands.
_COLUMNS_WITHOUT_LONG_TEXTS = [
    case((_TOO_LONG, null()), else_=column).label(column.name)
    if column is TaskRecord.description
    else column
    for column in COLUMNS
]
_COLUMNS_WITHOUT_LONG_TEXTS.append(_TOO_LONG.label("marked"))


def max_description_bytes(limit: int) -> int:
    """The bytes of a description of which a page of `limit` tasks can hold as many."""
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
    """The statement for one set of filters; there are 1,024."""
    key = (getattr(TaskRecord, sort), TaskRecord.id)
    conditions = [TaskRecord.user_id == bindparam("owner"), *(FILTERS[f] for f in sorted(filters))]
    # A task is not changed before it is made, so a bound on one instant may bound the other.
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
    statement = select(*columns).where(*conditions).limit(bindparam("most"))
    statement = statement.order_by(*_order_by(key, order))
    if counts_bytes:
        statement = _limit_bytes(statement, sort, order)
    return statement if filters <= INDEXED[sort] else statement.execution_options(**UNNAMED)


def _limit_bytes(page: Select[*Columns], sort: TaskSort, order: SortOrder) -> Select[*Columns]:
    """A page up to its first task, marked, that has no room."""
    rows = page.subquery("page").c
    ordering = _order_by((rows[sort], rows.id), order)
    octets = func.octet_length(rows.title) + func.coalesce(func.octet_length(rows.description), 0)
    total = cast(func.sum(octets).over(order_by=ordering, rows=(None, 0)), BigInteger)
    summed = select(*rows, octets.label("octets"), total.label("total")).subquery("summed").c
    columns = [column for column in summed if column.name not in {"octets", "total"}]
    marked: ColumnElement[bool] = summed.total > MAX_PAGE_BYTES
    return (
        select(*columns, marked.label("marked"))
        .where(summed.total - summed.octets <= MAX_PAGE_BYTES)
        .order_by(*_order_by((summed[sort], summed.id), order))
    )


def _order_by(key: tuple[Any, ...], order: SortOrder) -> list[ColumnElement[Any]]:
    return [column.asc() if order is SortOrder.ASC else column.desc() for column in key]


def truncate_page(tasks: list[Task]) -> list[Task]:
    """The first tasks of a page that have room in it as JSON."""
    room = MAX_PAGE_BYTES - PAGE_OVERHEAD_BYTES
    characters = sum(len(task.title) + len(task.description or "") for task in tasks)
    if MAX_CHARACTER_BYTES * characters + TASK_OVERHEAD_BYTES * len(tasks) <= room:
        return tasks
    for number, task in enumerate(tasks):
        room -= len(msgspec.json.encode(task)) + 1
        if room < 0:
            return tasks[:number]
    return tasks
