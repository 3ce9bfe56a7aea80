"""The state machine detects deliberate defects of the service and of the database."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import lru_cache
from itertools import count
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
import pytest
from hypothesis.errors import Flaky
from sqlalchemy import ClauseElement

from app.db import repository as resources
from app.db import statements
from app.db.positions import initial_position, respace
from app.db.repository import PositionedRepository, ResourceRepository
from app.domain.tasks import repository, rows, siblings
from app.domain.tasks.due import timezone_names
from app.domain.tasks.repository import TaskRepository
from app.domain.tasks.schemas import Task, TaskPatch
from app.domain.tasks.statements import update_statement
from app.http.pagination import CursorPosition
from tests.integration.state_machine.machine import Machine, Service, Users, explore

EXAMPLES = 60

USER = r"user_id = (\$\d+::VARCHAR COLLATE \"C\")"
ANY_USER = r"id IS NOT NULL AND \1 IS NOT NULL"
POSITION = r"(coalesce\(tasks\.position, lpad.*?right\(CAST\(tasks\.id AS TEXT\), 8\)\))"
UPDATED_AT = r"updated_at=greatest\(now\(\), .*?interval '1 microsecond'\)\)"
GET = r"^SELECT tasks\.id.*AND tasks\.id = \$2::UUID$"
LIST = r"^SELECT .* ORDER BY .* LIMIT "
COUNT = r"^SELECT count\(\*\)"
LABELS = r"^SELECT used\.label"
UPDATE = r"^(?!.*(neighbors|previous)\(id, position\)).* UPDATE tasks SET"
DELETE = r"\bdeleted AS \n"
UPSERT = r"DO UPDATE SET title"
MOVE = r"neighbors\(id, position\)"
SIBLINGS = r"^SELECT siblings\.id"
RESPACE = r"previous\(id, position\)"
KEYED = r"INSERT INTO idempotency_keys"


class Defect(NamedTuple):
    """A replacement in the SQL of some statements of tasks."""

    statement: str
    pattern: str
    replacement: str


DEFECTS = {
    # Isolation
    "get reads another user": Defect(GET, USER, ANY_USER),
    "list reads another user": Defect(LIST, USER, ANY_USER),
    "count reads another user": Defect(COUNT, USER, ANY_USER),
    "labels of another user": Defect(LABELS, USER, ANY_USER),
    "update changes another user": Defect(UPDATE, USER, ANY_USER),
    "delete changes another user": Defect(DELETE, rf"tasks\.{USER}", rf"tasks.{ANY_USER}"),
    "siblings of another user": Defect(SIBLINGS, USER, ANY_USER),
    "key of another user": Defect(KEYED, rf"{USER}( AND idempotency_keys.key =)", r"\1 != ''\2"),
    # Changes
    "subtasks not deleted": Defect(DELETE, r"tasks_1\.parent_id =", r"false AND \g<0>"),
    "depth not set": Defect(UPDATE, r"depth=(\$\d+)", r"depth=tasks.depth + 0 * \1"),
    "If-Match ignored": Defect(UPDATE, r"tasks\.etag = any\((.*?)\)", r"\1 IS NOT NULL"),
    "updated_at unchanged": Defect(UPDATE, UPDATED_AT, "updated_at=tasks.updated_at"),
    "PUT resets the position": Defect(
        UPSERT, r"labels = excluded\.labels", r"\g<0>, position = NULL"
    ),
    "PUT keeps labels": Defect(UPSERT, r"labels = excluded\.labels", "labels = tasks.labels"),
    # Order
    "move keeps the ETag": Defect(MOVE, r"etag=(\$\d+::UUID)", r"etag=coalesce(tasks.etag, \1)"),
    "move keeps the list": Defect(
        MOVE, r"list_id=(\$\d+::UUID)", r"list_id=coalesce(tasks.list_id, \1)"
    ),
    "move overwrites the place": Defect(
        MOVE, r"locked\.\w+ IS NOT DISTINCT FROM (\$\d+::UUID)", r"(\1 IS NULL OR true)"
    ),
    "wrong neighbor": Defect(SIBLINGS, "ASC", "DESC"),
    "completed neighbors ignored": Defect(SIBLINGS, "completed = true", "completed = false"),
    "task is its own neighbor": Defect(SIBLINGS, r"tasks\.id != (\$\d+::UUID)", r"\1 IS NOT NULL"),
    "respacing keeps ETags": Defect(RESPACE, r"etag=anon_1\.etag", "etag=tasks.etag"),
    "positions compared without case": Defect(LIST, POSITION, r"lower(\1)"),
    # Pages
    "cursor repeats a task": Defect(LIST, r"tasks\.id\) ([<>]) \(", r"tasks.id) \1= ("),
    "completed tasks left out": Defect(LIST, "completed = true", "completed = false"),
    "halves not merged": Defect(LIST, r"merged\.sort_key (ASC|DESC), ", ""),
    "no time before any time": Defect(LIST, "'23:59:59'", "'00:00:00'"),
    "no due date first": Defect(LIST, "'infinity'", "'-infinity'"),
    "priorities in the other order": Defect(LIST, "priority ASC", "priority DESC"),
    # Filters
    "due_after inclusive": Defect(LIST, r"\+ (\$\d+::INTEGER) AS", r"+ 0 * \1 AS"),
    "has_due negated": Defect(LIST, "'infinity'::timestamp > ", "'infinity'::timestamp = "),
    "any label": Defect(LIST, "@>", "&&"),
    "priority negated": Defect(LIST, r"priority = any\(", "priority != all("),
    "inbox with subtasks": Defect(LIST, r" AND tasks\.parent_id IS NULL", ""),
    "count with another filter": Defect(COUNT, r"tasks\.completed = ", "tasks.completed != "),
    "labels of completed tasks": Defect(LABELS, r"NOT tasks\.completed", "true"),
    "labels in another order": Defect(LABELS, r"used\.label COLLATE \"C\" ", "used.label DESC "),
}


def assert_detected(service: Service, machine: type[Machine] = Users) -> None:
    """Check that a step fails. A race may not fail again, or draw other values, when repeated."""
    service.failures.clear()
    with pytest.raises((AssertionError, Flaky)):
        explore(service, machine, examples=EXAMPLES, steps=50)
    assert service.failures


@contextmanager
def inject(patch: pytest.MonkeyPatch, defect: Defect) -> Iterator[None]:
    """Replace SQL, and check that a statement was replaced."""
    original = statements._compile
    replaced: list[str] = []

    @lru_cache(None)
    def compile_with_defect(statement: ClauseElement) -> Any:
        template = original(statement)
        sql = template.sql
        if re.search(defect.statement, sql, re.DOTALL):
            sql = re.sub(defect.pattern, defect.replacement, sql, flags=re.DOTALL)
        replaced.extend([sql] if sql != template.sql else [])
        return template._replace(sql=sql)

    patch.setattr(statements, "_compile", compile_with_defect)
    yield
    assert replaced


@pytest.mark.parametrize("name", DEFECTS)
def test_defect_in_sql_is_detected(
    service: Service, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with inject(monkeypatch, DEFECTS[name]):
        assert_detected(service)


# --- other defects -------------------------------------------------------------------------------


def _repeats_etags(patch: pytest.MonkeyPatch) -> None:
    numbers = count()
    for module in (repository, rows):
        patch.setattr(module, "uuid4", lambda: UUID(int=next(numbers) % 5))


def _continues_beside_a_task(patch: pytest.MonkeyPatch, by: int) -> None:
    def beside(value: Any, id_: UUID) -> CursorPosition:
        return CursorPosition(value, UUID(int=(id_.int + by) % 2**128))

    patch.setattr(repository, "CursorPosition", beside)


def _repeats_a_task_descending(patch: pytest.MonkeyPatch) -> None:
    _continues_beside_a_task(patch, 1)


def _repeats_a_task_ascending(patch: pytest.MonkeyPatch) -> None:
    _continues_beside_a_task(patch, -1)


def _continues_without_the_id(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(repository, "CursorPosition", lambda value, _: CursorPosition(value, UUID(int=0)))


def _writes_what_was_not_sent(patch: pytest.MonkeyPatch) -> None:
    original = TaskRepository.update_task

    async def generous(
        self: TaskRepository, user_id: str, task_id: UUID, change: TaskPatch, **options: Any
    ) -> Task:
        whole = {"completed": False} | {
            name: value
            for name, value in msgspec.structs.asdict(change).items()
            if value is not msgspec.UNSET
        }
        return await original(self, user_id, task_id, TaskPatch(**whole), **options)

    patch.setattr(TaskRepository, "update_task", generous)


def _keeps_the_order_of_labels(patch: pytest.MonkeyPatch) -> None:
    for module in (repository, rows):
        patch.setattr(module, "sorted", list, raising=False)


def _omits_due_at(patch: pytest.MonkeyPatch) -> None:
    for module in (repository, rows):
        patch.setattr(module, "due_at", lambda _: None)


def _accepts_lower_case_time_zones(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(rows, "timezone_names", lambda: timezone_names() | {"Europe/berlin"})


def _returns_another_position(patch: pytest.MonkeyPatch) -> None:
    def later(created_at: datetime, id_: UUID) -> str:
        return initial_position(created_at + timedelta(seconds=1), id_)

    for module in (repository, rows):
        patch.setattr(module, "initial_position", later)


def _respaces_in_another_order(patch: pytest.MonkeyPatch) -> None:
    def swapped(*arguments: Any) -> Any:
        position, changed = respace(*arguments)
        return position, dict(zip(changed, [*changed.values()][::-1], strict=True))

    patch.setattr(siblings, "respace", swapped)


def _takes_the_last_list_as_neighbor(patch: pytest.MonkeyPatch) -> None:
    original: Any = PositionedRepository._siblings

    async def reverse(self: Any, *arguments: Any, before: bool = False) -> Any:
        return await original(self, *arguments, before=not before)

    patch.setattr(PositionedRepository, "_siblings", reverse)


def _finds_lists_of_another_user(patch: pytest.MonkeyPatch) -> None:
    async def of_any_user(self: Any, _: str, id_: UUID, **__: Any) -> Any:
        return next(iter(await self.get_many(self.model_type.id == id_)), None)

    patch.setattr(ResourceRepository, "find", of_any_user)


def _repeats_a_list(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(resources, "CursorPosition", lambda _, id_: CursorPosition("0", id_))


@pytest.mark.parametrize(
    "defect",
    [
        _repeats_etags,
        _repeats_a_task_descending,
        _repeats_a_task_ascending,
        _continues_without_the_id,
        _writes_what_was_not_sent,
        _keeps_the_order_of_labels,
        _omits_due_at,
        _accepts_lower_case_time_zones,
        _returns_another_position,
        _respaces_in_another_order,
        _takes_the_last_list_as_neighbor,
        _finds_lists_of_another_user,
        _repeats_a_list,
    ],
    ids=lambda defect: defect.__name__.strip("_"),
)
def test_defect_is_detected(
    service: Service,
    monkeypatch: pytest.MonkeyPatch,
    defect: Callable[[pytest.MonkeyPatch], None],
) -> None:
    update_statement.cache_clear()
    defect(monkeypatch)
    assert_detected(service)


# --- defects of the database ---------------------------------------------------------------------


@pytest.fixture
def drop_constraint(service: Service) -> Iterator[Callable[[str], None]]:
    """Return a function that drops a constraint of the tasks until the end of the test."""
    dropped: list[tuple[str, str]] = []

    def drop(name: str) -> None:
        query = "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = '{}'"
        [(definition,)] = service.fetch(query.format(name))
        dropped.append((name, definition))
        service.execute(f"ALTER TABLE tasks DROP CONSTRAINT {name}")

    yield drop
    service.execute("TRUNCATE tasks, lists")
    for name, definition in dropped:
        service.execute(f"ALTER TABLE tasks ADD CONSTRAINT {name} {definition}")


@pytest.mark.parametrize(
    "constraint", ["fk_tasks_list_id", "fk_tasks_parent_id", "ck_tasks_list_or_parent"]
)
def test_missing_constraint_is_detected(
    service: Service, drop_constraint: Callable[[str], None], constraint: str
) -> None:
    drop_constraint(constraint)
    assert_detected(service)


@pytest.mark.requirement("FR-117", "FR-120")
def test_sql_finds_dangling_references_second_levels_and_equal_positions(
    service: Service, drop_constraint: Callable[[str], None]
) -> None:
    for name in ("fk_tasks_list_id", "fk_tasks_parent_id", "ck_tasks_list_or_parent"):
        drop_constraint(name)
    insert = """
        INSERT INTO tasks (user_id, id, title, list_id, parent_id, depth, position, created_at,
          updated_at, etag)
        SELECT 'alice', $1, 'milk', $2, $3, num_nonnulls($3::uuid), $4, now(), now(), $1
    """
    a, b, c, d = (UUID(int=number) for number in range(1, 5))
    service.execute(insert, a, None, None, "V")
    assert service.integrity_errors() == []
    service.execute(insert, b, None, None, "V")
    assert service.integrity_errors() == ["1 tasks with the position of a sibling"]
    service.execute("UPDATE tasks SET position = 'W' WHERE id = $1", b)
    service.execute(insert, c, b, None, None)
    assert service.integrity_errors() == ["1 tasks in a list that does not exist"]
    service.execute(
        "UPDATE tasks SET list_id = NULL, parent_id = $2, depth = 1 WHERE id = $1", c, d
    )
    assert service.integrity_errors() == ["1 subtasks of a task that does not exist"]
    service.execute(insert, d, None, b, None)
    assert service.integrity_errors() == ["1 subtasks of a subtask"]
    service.execute("DELETE FROM tasks WHERE id = $1", c)
    service.execute("UPDATE tasks SET list_id = $1 WHERE id = $2", a, d)
    service.execute(
        "INSERT INTO lists (user_id, id, name, position, created_at, updated_at, etag)"
        " SELECT 'alice', id, 'milk', 'V', now(), now(), id FROM unnest($1::uuid[]) id",
        [a, b],
    )
    assert service.integrity_errors() == [
        "1 subtasks in a list",
        "1 lists with the position of another list",
    ]
