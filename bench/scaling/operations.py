"""The operations whose cost is followed as the table grows, as calls of the repository."""

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
from bench.scaling.data import COMMON, LARGE, MIDDLING, RARE, REVERSE

SAMPLE = 5_000
LIMIT = 20
DEEP_PAGE = 10_000
WHOLE = TaskReplace(
    "Call the supplier about the invoice", "Two offers, by Friday.", completed=False
)

Operation = Callable[[TaskRepository], Awaitable[object]]


class Table(Struct):
    """What is asked for: users of each kind, and tasks of theirs, drawn by chance."""

    small: list[str]
    tasks: list[tuple[str, UUID]]
    doomed: list[tuple[str, UUID]]
    middle: CursorPosition
    deep: CursorPosition | None  # where the ten-thousandth page begins, if there is one
    draw: Random

    @classmethod
    async def read(cls, database: asyncpg.Connection[Any]) -> Self:
        """Look up what a filled table has."""
        draw = Random(1)  # noqa: S311 - no secret
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
            doomed=tasks[half:],
            middle=middle,
            deep=await _position(database, deep) if deep < count else None,
            draw=draw,
        )

    def operations(self) -> dict[str, Callable[[], Operation]]:
        """Each operation by its name: a function that draws the next call."""
        listed = {
            "list, small user": lambda: _list(self.draw.choice(self.small)),
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
            "search, word of medium frequency": lambda: _list(LARGE, q=MIDDLING),
        }
        if self.deep is None:
            del listed["list, ten-thousandth page"]
        return {"get": self._get, **listed, **self._changes()}

    def _changes(self) -> dict[str, Callable[[], Operation]]:
        return {
            "create": lambda: _create(self.draw.choice(self.small), None),
            "create, larger user": lambda: _create(REVERSE, None),
            "create with key": lambda: _create(self.draw.choice(self.small), str(uuid4())),
            "update": self._update,
            "replace": self._replace,
            "delete": self._delete,
        }

    def _get(self) -> Operation:
        user, task = self.draw.choice(self.tasks)
        return lambda repository: repository.get_task(user, task)

    def _update(self) -> Operation:
        user, task = self.draw.choice(self.tasks)
        change = TaskPatch(completed=self.draw.random() < 0.5)
        return lambda repository: repository.update_task(user, task, change, if_match=None)

    def _replace(self) -> Operation:
        user, task = self.draw.choice(self.tasks)
        return lambda repository: repository.replace_task(
            user, task, WHOLE, if_match=None, must_not_exist=False
        )

    def _delete(self) -> Operation:
        user, task = self.doomed.pop()
        return lambda repository: repository.delete_task(user, task, if_match=None)


def _list(user: str, after: CursorPosition | None = None, **query: Any) -> Operation:
    asked = ListTasksQuery(limit=LIMIT, **query)
    return lambda repository: repository.list_tasks(user, asked, after)


def _create(user: str, key: str | None) -> Operation:
    new = TaskCreate(WHOLE.title, WHOLE.description)
    return lambda repository: repository.create_task(user, new, key)


async def _position(database: asyncpg.Connection[Any], offset: int) -> CursorPosition:
    """The last task before an offset of the large user's list, newest first."""
    row = await database.fetchrow(
        "SELECT created_at, id FROM tasks WHERE user_id = $1 "
        "ORDER BY created_at DESC, id DESC OFFSET $2 LIMIT 1",
        LARGE,
        offset - 1,
    )
    assert row is not None
    return CursorPosition(row[0], UUID(str(row[1])))
