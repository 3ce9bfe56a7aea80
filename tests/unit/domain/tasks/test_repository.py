"""Statements of the task repository."""

from __future__ import annotations

from functools import partial
from typing import Any
from uuid import UUID

import pytest

from app.db.database import DatabaseError
from app.db.idempotency import idempotency_params
from app.db.statements import COMPILED_CACHE_SIZE, _compile
from app.domain.tasks.pages import list_statement
from app.domain.tasks.problems import HierarchyConflict, TaskNotFound
from app.domain.tasks.repository import (
    DELETE_ATTEMPTS,
    PUT_ATTEMPTS,
    TaskRepository,
)
from app.domain.tasks.rows import PROPERTY_COLUMNS
from app.domain.tasks.schemas import SortOrder, TaskCreate, TaskPatch, TaskReplace, TaskSort
from app.domain.tasks.statements import STATEMENT_CACHE_SIZE, update_statement
from app.http.etags import ETagCondition
from app.http.problems import DatabaseUnavailable, PreconditionFailed

pytestmark = pytest.mark.requirement("NFR-005")


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


class Rejecting:
    """A database that rejects the first statements, and then returns no rows."""

    def __init__(self, error: Exception, times: int) -> None:
        self.errors = [error] * times
        self.calls = 0

    async def fetch(self, *_: object) -> list[Any]:
        self.calls += 1
        if self.errors:
            raise self.errors.pop()
        return []


DUPLICATE = DatabaseError("SQLSTATE 23505", "uq_tasks_user_id_id_depth")
# A conditional insert has no ON CONFLICT, so that a request that loses a race takes no revision.
DUPLICATES = (DUPLICATE, DatabaseError("SQLSTATE 23505", "pk_tasks"))


async def put(database: Rejecting) -> None:
    repository = TaskRepository(database.fetch)
    body = TaskReplace("a", None, completed=False)
    await repository.replace_task("alice", UUID(int=1), body, if_match=None, must_not_exist=True)


@pytest.mark.requirement("FR-012")
@pytest.mark.parametrize("error", DUPLICATES, ids=lambda error: error.constraint)
@pytest.mark.parametrize(("times", "calls"), [(0, 1), (1, 2), (PUT_ATTEMPTS - 1, PUT_ATTEMPTS)])
async def test_put_is_repeated_if_another_request_inserted_the_id(
    error: DatabaseError, times: int, calls: int
) -> None:
    database = Rejecting(error, times)
    with pytest.raises(PreconditionFailed):
        await put(database)
    assert database.calls == calls


@pytest.mark.requirement("FR-012")
async def test_put_is_repeated_a_limited_number_of_times() -> None:
    database = Rejecting(DUPLICATE, PUT_ATTEMPTS)
    with pytest.raises(DatabaseUnavailable):
        await put(database)
    assert database.calls == PUT_ATTEMPTS


@pytest.mark.parametrize("constraint", [None, "ck_tasks_title_length"])
async def test_put_is_not_repeated_after_other_errors(constraint: str | None) -> None:
    database = Rejecting(DatabaseError("SQLSTATE 23505", constraint), 1)
    with pytest.raises(DatabaseError):
        await put(database)
    assert database.calls == 1


@pytest.mark.requirement("FR-121")
@pytest.mark.parametrize(("times", "expected"), [(1, TaskNotFound), (99, DatabaseUnavailable)])
async def test_delete_is_repeated_if_a_subtask_was_created(
    times: int, expected: type[Exception]
) -> None:
    database = Rejecting(HierarchyConflict(), times)
    repository = TaskRepository(database.fetch)
    with pytest.raises(expected):
        await repository.delete_task("alice", UUID(int=1), if_match=None)
    assert database.calls == min(times + 1, DELETE_ATTEMPTS)


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
    update = update_statement(fields, completed=True, any_etag=True)
    assert update is update_statement(fields, completed=True, any_etag=True)
    sorted_by = (TaskSort.CREATED_AT, SortOrder.ASC)
    listed = list_statement(filters, *sorted_by, has_cursor=True)
    assert listed is list_statement(filters, *sorted_by, has_cursor=True)


@pytest.mark.requirement("NFR-004")
def test_cached_statements_are_bounded_in_number() -> None:
    # Every set of changed properties, with each value of `completed` and of `If-Match`.
    properties = len(PROPERTY_COLUMNS)
    assert 2**properties * 3 * 2 < STATEMENT_CACHE_SIZE == update_statement.cache_info().maxsize
    assert _compile.cache_info().maxsize == COMPILED_CACHE_SIZE
