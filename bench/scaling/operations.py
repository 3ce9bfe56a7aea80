"""The measured operations, as calls of the repository."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import date
from random import Random
from typing import Any, Self
from uuid import UUID, uuid4

import asyncpg
from msgspec import Struct

from app.domain.changes.repository import ChangeRepository
from app.domain.changes.tokens import START
from app.domain.tasks.repository import TaskRepository
from app.domain.tasks.schemas import (
    CountTasksQuery,
    DueInput,
    ListTasksQuery,
    Priority,
    SortOrder,
    TaskCreate,
    TaskMove,
    TaskPatch,
    TaskReplace,
    TaskSort,
)
from app.http.pagination import CursorPosition
from bench.scaling.data import (
    COMMON,
    COMMON_LABEL,
    LABELS,
    LARGE,
    MEDIUM,
    RARE,
    RARE_LABEL,
    REVERSE,
    list_id,
)

SAMPLE = 5_000
SUBTASKS = 5  # of the measured parent, in tables of any size
LIMIT = 20
DEEP_PAGE = 10_000
TASK = TaskReplace("Call the supplier about the invoice", "Two offers, by Friday.", completed=False)
DUE = DueInput(date(2025, 7, 1), "17:30", "Europe/Berlin")
LARGEST_LIST = str(list_id(LARGE, 0))

BY_POSITION: dict[str, Any] = {"sort": TaskSort.POSITION, "order": SortOrder.ASC}

Operation = Callable[[TaskRepository], Awaitable[object]]


class Table(Struct):
    """Sampled users and tasks of a table."""

    small: list[str]
    tasks: list[tuple[str, UUID]]  # none is a subtask
    tasks_to_delete: list[tuple[str, UUID]]
    list_tasks: list[str]  # of the largest list
    parent: str  # of the large user
    middle: CursorPosition
    deep: CursorPosition | None  # start of the ten-thousandth page, if it exists
    rng: Random

    @classmethod
    async def read(cls, database: asyncpg.Connection[Any]) -> Self:
        """Sample the users and tasks of a filled table."""
        rng = Random(1)  # noqa: S311 - no secret
        rows = await database.fetch(
            "SELECT user_id, id FROM tasks WHERE user_id LIKE 'user-%' AND parent_id IS NULL "
            "ORDER BY md5(id::text) LIMIT $1",
            2 * SAMPLE,
        )
        tasks = [(row[0], UUID(str(row[1]))) for row in rows]
        count = await database.fetchval("SELECT count(*) FROM tasks WHERE user_id = $1", LARGE)
        middle = await _position(database, count // 2)
        deep = (DEEP_PAGE - 1) * LIMIT
        half = len(tasks) // 2
        list_tasks = await database.fetch(
            "SELECT id FROM tasks WHERE user_id = $1 AND list_id = $2 "
            "ORDER BY md5(id::text) LIMIT $3",
            LARGE,
            UUID(LARGEST_LIST),
            SAMPLE,
        )
        parent = await database.fetchval(
            "SELECT parent_id FROM tasks WHERE user_id = $1 AND parent_id IS NOT NULL "
            "GROUP BY parent_id ORDER BY abs(count(*) - $2), parent_id LIMIT 1",
            LARGE,
            SUBTASKS,
        )
        return cls(
            small=sorted({user for user, _ in tasks}),
            tasks=tasks[:half],
            tasks_to_delete=tasks[half:],
            list_tasks=[str(row[0]) for row in list_tasks],
            parent=str(parent),
            middle=middle,
            deep=await _position(database, deep) if deep < count else None,
            rng=rng,
        )

    async def read_updates(
        self, database: asyncpg.Connection[Any], condition: str, number: int
    ) -> list[Operation]:
        """Return updates of tasks of small users that match a condition."""
        rows = await database.fetch(
            f"SELECT user_id, id FROM tasks WHERE user_id = any($1) AND {condition} "  # noqa: S608 - no input
            "ORDER BY md5(id::text) LIMIT $2",
            self.small[:100],
            number,
        )
        return [_update(row[0], UUID(str(row[1])), completed=True) for row in rows]

    def operations(self) -> dict[str, Callable[[], Operation]]:
        """Return a function for each operation that draws its next call."""
        lists = {
            "list, small user": lambda: _list(self.rng.choice(self.small)),
            "list, first page": lambda: _list(LARGE),
            "list, middle page": lambda: _list(LARGE, self.middle),
            "list, ten-thousandth page": lambda: _list(LARGE, self.deep),
            "list, open tasks": lambda: _list(LARGE, completed=False),
            "list, by updated_at": lambda: _list(LARGE, sort=TaskSort.UPDATED_AT),
            "list, open tasks by updated_at": lambda: _list(
                LARGE, sort=TaskSort.UPDATED_AT, completed=False
            ),
            "search, common word": lambda: _list(LARGE, q=COMMON),
            "search, rare word": lambda: _list(LARGE, q=RARE),
            "search, word of medium frequency": lambda: _list(LARGE, q=MEDIUM),
            "list, by due date": lambda: _list(LARGE, sort=TaskSort.DUE, order=SortOrder.ASC),
            "list, open tasks of the inbox by due date": lambda: _list(
                LARGE, sort=TaskSort.DUE, order=SortOrder.ASC, list_id="none", completed=False
            ),
            "list, by priority": lambda: _list(LARGE, sort=TaskSort.PRIORITY),
            "list, one list": lambda: _list(LARGE, list_id=LARGEST_LIST, **BY_POSITION),
            "list, inbox": lambda: _list(LARGE, list_id="none", **BY_POSITION),
            "list, subtasks": lambda: _list(LARGE, parent_id=self.parent, **BY_POSITION),
            "list, rare label": lambda: _list(LARGE, labels=RARE_LABEL),
            "list, common label": lambda: _list(LARGE, labels=COMMON_LABEL),
            "list, two labels by priority": lambda: _list(
                LARGE, labels=f"{COMMON_LABEL},{LABELS[1]}", sort=TaskSort.PRIORITY
            ),
            "changes, first page": lambda: _changes(LARGE),
            "count, open tasks": lambda: _count(LARGE, completed=False),
            "count, one list": lambda: _count(LARGE, list_id=LARGEST_LIST),
            "labels, small user": lambda: _list_labels(self.rng.choice(self.small)),
            "labels": lambda: _list_labels(LARGE),
        }
        if self.deep is None:
            del lists["list, ten-thousandth page"]
        return {"get": self._get, **lists, **self._changes()}

    def _changes(self) -> dict[str, Callable[[], Operation]]:
        return {
            "create": lambda: _create(self.rng.choice(self.small), None),
            "create, larger user": lambda: _create(REVERSE, None),
            "create, every property": lambda: _create_organized(self.rng.choice(self.small)),
            "create, subtask": self._create_subtask,
            "create with key": lambda: _create(self.rng.choice(self.small), str(uuid4())),
            "update": self._update,
            "replace": self._replace,
            "move": self._move,
            "delete": self._delete,
        }

    def _get(self) -> Operation:
        user, task = self.rng.choice(self.tasks)
        return lambda repository: repository.get_task(user, task)

    def _update(self) -> Operation:
        return _update(*self.rng.choice(self.tasks), completed=self.rng.random() < 0.5)

    def _replace(self) -> Operation:
        user, task = self.rng.choice(self.tasks)
        return lambda repository: repository.replace_task(
            user, task, TASK, if_match=None, must_not_exist=False
        )

    def _create_subtask(self) -> Operation:
        user, parent = self.rng.choice(self.tasks)
        new = TaskCreate(TASK.title, TASK.description, parent_id=str(parent))
        return lambda repository: repository.create_task(user, new, None)

    def _move(self) -> Operation:
        moved, after = self.rng.sample(self.list_tasks, 2)
        return lambda repository: repository.move_task(
            LARGE, UUID(moved), TaskMove(after), if_match=None
        )

    def _delete(self) -> Operation:
        user, task = self.tasks_to_delete.pop()
        return lambda repository: repository.delete_task(user, task, if_match=None)


def _list(user: str, after: CursorPosition | None = None, **query: Any) -> Operation:
    list_query = ListTasksQuery(limit=LIMIT, **query)
    return lambda repository: repository.list_tasks(user, list_query, after)


def _changes(user: str) -> Operation:
    return lambda tasks: ChangeRepository(tasks.fetch).list_changes(user, START, LIMIT)


def _count(user: str, **query: Any) -> Operation:
    count_query = CountTasksQuery(**query)
    return lambda repository: repository.count_tasks(user, count_query)


def _list_labels(user: str) -> Operation:
    return lambda repository: repository.list_labels(user)


def _update(user: str, task: UUID, *, completed: bool) -> Operation:
    change = TaskPatch(completed=completed)
    return lambda repository: repository.update_task(user, task, change, if_match=None)


def _create_organized(user: str) -> Operation:
    new = TaskCreate(
        TASK.title, TASK.description, list_id=str(list_id(user, 0)), priority=Priority.HIGH,
        due=DUE, labels=(COMMON_LABEL, LABELS[1]),
    )  # fmt: skip
    return lambda repository: repository.create_task(user, new, None)


def _create(user: str, key: str | None) -> Operation:
    new = TaskCreate(TASK.title, TASK.description)
    return lambda repository: repository.create_task(user, new, key)


async def _position(database: asyncpg.Connection[Any], offset: int) -> CursorPosition:
    """Return the last task before an offset in the list of the large user, newest first."""
    row = await database.fetchrow(
        "SELECT created_at, id FROM tasks WHERE user_id = $1 "
        "ORDER BY created_at DESC, id DESC OFFSET $2 LIMIT 1",
        LARGE,
        offset - 1,
    )
    assert row is not None
    return CursorPosition(row[0], UUID(str(row[1])))
