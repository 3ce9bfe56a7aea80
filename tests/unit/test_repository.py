"""The statement of a list: what bounds it besides the filters that were asked for."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy.dialects.postgresql.asyncpg import dialect

from app.tasks.repository import _list
from app.tasks.schemas import SortOrder, TaskSort

pytestmark = pytest.mark.requirement("NFR-005")

INSTANT = "TIMESTAMP WITH TIME ZONE"


def bounds(sort: TaskSort, order: SortOrder, *filters: str, follows: bool = False) -> list[str]:
    """The conditions after the user's, and the order."""
    statement: Any = _list(frozenset(filters), sort, order, follows=follows)
    written = str(statement.compile(dialect=dialect()))  # type: ignore[no-untyped-call]
    sql = " ".join(written.split())
    conditions, _, ordering = sql.partition("WHERE ")[2].partition(" ORDER BY ")
    ordering, _, most = ordering.partition(" LIMIT ")
    assert most.startswith("$")
    return [*conditions.split(" AND ")[1:], ordering]


@pytest.mark.parametrize(
    ("sort", "filters", "conditions"),
    [
        # A task is not changed before it is made, so a bound on one instant may bound the other.
        (
            TaskSort.CREATED_AT,
            ["updated_before"],
            [f"tasks.updated_at < $2::{INSTANT}", f"tasks.created_at < $2::{INSTANT}"],
        ),
        (TaskSort.CREATED_AT, ["created_after"], [f"tasks.created_at > $2::{INSTANT}"]),
        (TaskSort.CREATED_AT, ["created_before"], [f"tasks.created_at < $2::{INSTANT}"]),
        (
            TaskSort.UPDATED_AT,
            ["created_after"],
            [f"tasks.created_at > $2::{INSTANT}", f"tasks.updated_at > $2::{INSTANT}"],
        ),
        (TaskSort.UPDATED_AT, ["updated_before"], [f"tasks.updated_at < $2::{INSTANT}"]),
        (TaskSort.UPDATED_AT, ["updated_after"], [f"tasks.updated_at > $2::{INSTANT}"]),
        (TaskSort.UPDATED_AT, ["completed"], ["tasks.completed = $2::BOOLEAN"]),
    ],
)
def test_a_list_is_bounded_on_the_column_that_orders_it(
    sort: TaskSort, filters: list[str], conditions: list[str]
) -> None:
    ordering = f"tasks.{sort} DESC, tasks.id DESC"
    assert bounds(sort, SortOrder.DESC, *filters) == [*conditions, ordering]


@pytest.mark.parametrize("sort", TaskSort)
@pytest.mark.parametrize(
    ("order", "sign"), [(SortOrder.ASC, ">"), (SortOrder.DESC, "<")], ids=["asc", "desc"]
)
def test_a_page_goes_on_behind_a_position(sort: TaskSort, order: SortOrder, sign: str) -> None:
    assert bounds(sort, order, follows=True) == [
        f"(tasks.{sort}, tasks.id) {sign} ($2::{INSTANT}, $3::UUID)",
        f"tasks.{sort} {order.upper()}, tasks.id {order.upper()}",
    ]
