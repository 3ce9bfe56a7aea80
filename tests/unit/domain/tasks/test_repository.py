"""Statements of the task repository."""

from __future__ import annotations

from functools import partial
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.dialects.postgresql.asyncpg import dialect

from app.db.idempotency import idempotency_params
from app.domain.tasks.lists import list_statement
from app.domain.tasks.problems import TaskNotFound
from app.domain.tasks.repository import TaskRepository, _update_statement
from app.domain.tasks.schemas import SortOrder, TaskCreate, TaskPatch, TaskSort
from app.http.etags import ETagCondition

pytestmark = pytest.mark.requirement("NFR-005")

TIMESTAMPTZ = "TIMESTAMP WITH TIME ZONE"


def bounds(sort: TaskSort, order: SortOrder, *filters: str, has_cursor: bool = False) -> list[str]:
    """Return the conditions after the user's, then the ordering.

    $1 is the maximum length of a row's text.
    """
    statement: Any = list_statement(frozenset(filters), sort, order, has_cursor=has_cursor)
    compiled = str(statement.compile(dialect=dialect()))  # type: ignore[no-untyped-call]
    sql = " ".join(compiled.split())
    conditions, _, ordering = sql.partition("WHERE ")[2].partition(" ORDER BY ")
    ordering, _, limit = ordering.partition(" LIMIT ")
    assert limit.startswith("$")
    return [*conditions.split(" AND ")[1:], ordering]


@pytest.mark.parametrize(
    ("sort", "filters", "conditions"),
    [
        # updated_at is never before created_at, so a bound on one may also bound the other.
        (
            TaskSort.CREATED_AT,
            ["updated_before"],
            [f"tasks.updated_at < $3::{TIMESTAMPTZ}", f"tasks.created_at < $3::{TIMESTAMPTZ}"],
        ),
        (TaskSort.CREATED_AT, ["created_after"], [f"tasks.created_at > $3::{TIMESTAMPTZ}"]),
        (TaskSort.CREATED_AT, ["created_before"], [f"tasks.created_at < $3::{TIMESTAMPTZ}"]),
        (
            TaskSort.UPDATED_AT,
            ["created_after"],
            [f"tasks.created_at > $3::{TIMESTAMPTZ}", f"tasks.updated_at > $3::{TIMESTAMPTZ}"],
        ),
        (TaskSort.UPDATED_AT, ["updated_before"], [f"tasks.updated_at < $3::{TIMESTAMPTZ}"]),
        (TaskSort.UPDATED_AT, ["updated_after"], [f"tasks.updated_at > $3::{TIMESTAMPTZ}"]),
        (TaskSort.UPDATED_AT, ["completed"], ["tasks.completed = $3::BOOLEAN"]),
    ],
)
def test_list_is_bounded_on_its_sort_column(
    sort: TaskSort, filters: list[str], conditions: list[str]
) -> None:
    ordering = f"tasks.{sort} DESC, tasks.id DESC"
    assert bounds(sort, SortOrder.DESC, *filters) == [*conditions, ordering]


@pytest.mark.parametrize("sort", TaskSort)
@pytest.mark.parametrize(
    ("order", "sign"), [(SortOrder.ASC, ">"), (SortOrder.DESC, "<")], ids=["asc", "desc"]
)
def test_page_starts_after_the_cursor_position(sort: TaskSort, order: SortOrder, sign: str) -> None:
    assert bounds(sort, order, has_cursor=True) == [
        f"(tasks.{sort}, tasks.id) {sign} ($3::{TIMESTAMPTZ}, $4::UUID)",
        f"tasks.{sort} {order.upper()}, tasks.id {order.upper()}",
    ]


class EmptyDatabase:
    """A database whose statements return no rows; it records when each request started."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.started_at: list[float | None] = []
        self.now = 100.0
        monkeypatch.setattr("app.db.repository.monotonic", lambda: self.now)

    async def fetch(self, *_: object, started_at: float | None = None) -> list[Any]:
        self.now += 1
        self.started_at.append(started_at)
        return []


@pytest.mark.requirement("FR-033")
@pytest.mark.parametrize("operation", ["update", "delete"])
async def test_query_for_a_missing_task_gets_the_remaining_time(
    operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = EmptyDatabase(monkeypatch)
    tasks = TaskRepository(database.fetch)
    if_match = ETagCondition(any=False, strong=(UUID(int=1),))
    operations: dict[str, Any] = {
        "update": partial(tasks.update_task, patch=TaskPatch(title="a")),
        "delete": tasks.delete_task,
    }
    with pytest.raises(TaskNotFound):
        await operations[operation]("alice", UUID(int=2), if_match=if_match)
    assert database.started_at == [None, 100.0]


@pytest.mark.requirement("FR-046")
def test_payload_is_stored_as_a_256_bit_digest() -> None:
    first = idempotency_params("alice", "key-1", TaskCreate("a"))
    assert len(first["payload_digest"]) == 32
    assert -(2**63) <= first["lock"] < 2**63
    same = idempotency_params("alice", "key-1", TaskCreate("a"))
    others = [
        idempotency_params("alice", "key-1", TaskCreate("b")),
        idempotency_params("alice", "key-2", TaskCreate("a")),
        idempotency_params("bob", "key-1", TaskCreate("a")),
    ]
    assert same == first
    assert all(other not in ([first], first) for other in others)
    assert [other["lock"] == first["lock"] for other in others] == [True, False, False]


@pytest.mark.requirement("NFR-004")
def test_statement_is_built_once_per_set_of_fields_and_filters() -> None:
    fields, filters = frozenset({"title"}), frozenset({"completed"})
    update = _update_statement(fields, completed=True, any_etag=True)
    assert update is _update_statement(fields, completed=True, any_etag=True)
    sorted_by = (TaskSort.CREATED_AT, SortOrder.ASC)
    listed = list_statement(filters, *sorted_by, has_cursor=True)
    assert listed is list_statement(filters, *sorted_by, has_cursor=True)
