"""The measured operations, as calls of the repository."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from random import Random
from typing import Any, Self
from uuid import UUID, uuid4

import asyncpg
from msgspec import Struct

from app.domain.tasks.repository import TaskRepository
from app.domain.tasks.schemas import ListTasksQuery, TaskCreate, TaskPatch, TaskReplace, TaskSort
from app.http.pagination import CursorPosition
from bench.scaling.data import COMMON, LARGE, MEDIUM, RARE, REVERSE

SAMPLE = 5_000
LIMIT = 20
DEEP_PAGE = 10_000
TASK = TaskReplace("Call the supplier about the invoice", "Two offers, by Friday.", completed=False)

Operation = Callable[[TaskRepository], Awaitable[object]]


class Table(Struct):
    """Sampled users and tasks of a table."""

    small: list[str]
    tasks: list[tuple[str, UUID]]
    tasks_to_delete: list[tuple[str, UUID]]
    middle: CursorPosition
    deep: CursorPosition | None  # start of the ten-thousandth page, if it exists
    rng: Random

    @classmethod
    async def read(cls, database: asyncpg.Connection[Any]) -> Self:
        """Sample the users and tasks of a filled table."""
        rng = Random(1)  # noqa: S311 - no secret
        rows = await database.fetch(
            "SELECT user_id, id FROM tasks WHERE user_id LIKE 'user-%' "
            "ORDER BY md5(id::text) LIMIT $1",
            2 * SAMPLE,
        )
        tasks = [(row[0], UUID(str(row[1]))) for row in rows]
        count = await database.fetchval("SELECT count(*) FROM tasks WHERE user_id = $1", LARGE)
        middle = await _position(database, count // 2)
        deep = (DEEP_PAGE - 1) * LIMIT
        half = len(tasks) // 2
        return cls(
            small=sorted({user for user, _ in tasks}),
            tasks=tasks[:half],
            tasks_to_delete=tasks[half:],
            middle=middle,
            deep=await _position(database, deep) if deep < count else None,
            rng=rng,
        )

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
        }
        if self.deep is None:
            del lists["list, ten-thousandth page"]
        return {"get": self._get, **lists, **self._changes()}

    def _changes(self) -> dict[str, Callable[[], Operation]]:
        return {
            "create": lambda: _create(self.rng.choice(self.small), None),
            "create, larger user": lambda: _create(REVERSE, None),
            "create with key": lambda: _create(self.rng.choice(self.small), str(uuid4())),
            "update": self._update,
            "replace": self._replace,
            "delete": self._delete,
        }

    def _get(self) -> Operation:
        user, task = self.rng.choice(self.tasks)
        return lambda repository: repository.get_task(user, task)

    def _update(self) -> Operation:
        user, task = self.rng.choice(self.tasks)
        change = TaskPatch(completed=self.rng.random() < 0.5)
        return lambda repository: repository.update_task(user, task, change, if_match=None)

    def _replace(self) -> Operation:
        user, task = self.rng.choice(self.tasks)
        return lambda repository: repository.replace_task(
            user, task, TASK, if_match=None, must_not_exist=False
        )

    def _delete(self) -> Operation:
        user, task = self.tasks_to_delete.pop()
        return lambda repository: repository.delete_task(user, task, if_match=None)


def _list(user: str, after: CursorPosition | None = None, **query: Any) -> Operation:
    list_query = ListTasksQuery(limit=LIMIT, **query)
    return lambda repository: repository.list_tasks(user, list_query, after)


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
