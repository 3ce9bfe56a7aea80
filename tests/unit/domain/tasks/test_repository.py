"""The statement of a list: what bounds it besides the filters that were asked for."""

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

INSTANT = "TIMESTAMP WITH TIME ZONE"


def bounds(sort: TaskSort, order: SortOrder, *filters: str, follows: bool = False) -> list[str]:
    """The conditions after the user's, and the order. $1 is the longest text of a row."""
    statement: Any = list_statement(frozenset(filters), sort, order, has_cursor=follows)
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
            [f"tasks.updated_at < $3::{INSTANT}", f"tasks.created_at < $3::{INSTANT}"],
        ),
        (TaskSort.CREATED_AT, ["created_after"], [f"tasks.created_at > $3::{INSTANT}"]),
        (TaskSort.CREATED_AT, ["created_before"], [f"tasks.created_at < $3::{INSTANT}"]),
        (
            TaskSort.UPDATED_AT,
            ["created_after"],
            [f"tasks.created_at > $3::{INSTANT}", f"tasks.updated_at > $3::{INSTANT}"],
        ),
        (TaskSort.UPDATED_AT, ["updated_before"], [f"tasks.updated_at < $3::{INSTANT}"]),
        (TaskSort.UPDATED_AT, ["updated_after"], [f"tasks.updated_at > $3::{INSTANT}"]),
        (TaskSort.UPDATED_AT, ["completed"], ["tasks.completed = $3::BOOLEAN"]),
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
        f"(tasks.{sort}, tasks.id) {sign} ($3::{INSTANT}, $4::UUID)",
        f"tasks.{sort} {order.upper()}, tasks.id {order.upper()}",
    ]


class Waiting:
    """A database whose statements find nothing, and which notes since when their time counts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.since: list[float | None] = []
        self.now = 100.0
        monkeypatch.setattr("app.db.repository.monotonic", lambda: self.now)

    async def fetch(self, *_: object, started_at: float | None = None) -> list[Any]:
        self.now += 1
        self.since.append(started_at)
        return []


@pytest.mark.requirement("FR-033")
@pytest.mark.parametrize("change", ["update", "delete"])
async def test_the_question_why_a_change_found_nothing_has_the_time_that_is_left(
    change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Waiting(monkeypatch)
    tasks = TaskRepository(database.fetch)
    if_match = ETagCondition(any=False, strong=(UUID(int=1),))
    changes: dict[str, Any] = {
        "update": partial(tasks.update_task, patch=TaskPatch(title="a")),
        "delete": tasks.delete_task,
    }
    with pytest.raises(TaskNotFound):
        await changes[change]("alice", UUID(int=2), if_match=if_match)
    assert database.since == [None, 100.0]


@pytest.mark.requirement("FR-046")
def test_a_payload_is_kept_as_a_digest_of_256_bits() -> None:
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
def test_a_statement_is_built_once_for_each_set_of_members_and_filters() -> None:
    members, filters = frozenset({"title"}), frozenset({"completed"})
    update = _update_statement(members, completed=True, any_etag=True)
    assert update is _update_statement(members, completed=True, any_etag=True)
    sorted_by = (TaskSort.CREATED_AT, SortOrder.ASC)
    listed = list_statement(filters, *sorted_by, has_cursor=True)
    assert listed is list_statement(filters, *sorted_by, has_cursor=True)
