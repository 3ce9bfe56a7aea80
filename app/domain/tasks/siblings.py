"""Siblings: the tasks of one place, which is a list, the inbox or a parent, in their order."""

from __future__ import annotations

from functools import cache
from typing import Any
from uuid import UUID, uuid4

import msgspec
from asyncpg import Record
from sqlalchemy import (
    ARRAY,
    ClauseElement,
    Text,
    Uuid,
    bindparam,
    func,
    literal_column,
    select,
    tuple_,
    union_all,
    update,
)

from app.db.positions import MAX_WINDOW, NoRoomError, position_between, respace
from app.db.statements import FetchCallable
from app.domain.tasks.filters import FILTERS
from app.domain.tasks.models import NEXT_UPDATED_AT, POSITION, TaskRecord

_IDS = bindparam("ids", type_=ARRAY(Uuid))
_LOCKED = (
    select(TaskRecord.id)
    .where(TaskRecord.user_id == bindparam("owner"), TaskRecord.id == func.any(_IDS))
    .order_by(TaskRecord.id)  # one order, so that two moves do not deadlock
    .with_for_update()
    .cte("locked")
)
_NEW = (
    func.unnest(
        _IDS,
        bindparam("positions", type_=ARRAY(Text)),
        bindparam("etags", type_=ARRAY(Uuid)),
    )
    .table_valued("id", "position", "etag")
    .render_derived()
)
RESPACE = (
    update(TaskRecord)
    .where(
        TaskRecord.user_id == bindparam("owner"),
        TaskRecord.id == _NEW.c.id,
        TaskRecord.id.in_(select(_LOCKED.c.id)),
    )
    .values(position=_NEW.c.position, etag=_NEW.c.etag, updated_at=NEXT_UPDATED_AT)
)


class Place(msgspec.Struct, frozen=True):
    """A list, the inbox or a parent: a filter and its parameter."""

    filter: str
    id: UUID | None

    @classmethod
    def of(cls, list_id: UUID | None, parent_id: UUID | None) -> Place:
        """Return the place of a task with these references."""
        if parent_id is not None:
            return cls("subtask_of", parent_id)
        return cls("in_inbox" if list_id is None else "in_list", list_id)


class Siblings:
    """The tasks of a place, without the task that moves."""

    def __init__(self, fetch: FetchCallable, user_id: str, task_id: UUID, place: Place) -> None:
        self._fetch = fetch
        self._params = {"owner": user_id, "task": task_id, place.filter: place.id}
        self._place = place

    async def position_after(self, neighbor: tuple[str, UUID] | None) -> str:
        """Return a position directly after a sibling, or before all if it is None.

        If there is no room, up to 2 * MAX_WINDOW siblings get new positions.
        """
        following = await self._read(neighbor, limit=1, is_forward=True)
        before = None if neighbor is None else neighbor[0]
        after = following[0]["position"] if following else None
        try:
            return position_between(before, after)
        except NoRoomError:
            return await self._respace(neighbor)

    async def _respace(self, neighbor: tuple[str, UUID] | None) -> str:
        following = await self._read(neighbor, limit=MAX_WINDOW + 1, is_forward=True)
        preceding = []
        if neighbor is not None:
            preceding = await self._read(neighbor, limit=MAX_WINDOW, is_forward=False)
            preceding = [{"position": neighbor[0], "id": neighbor[1]}, *preceding]
        position, changed = respace(
            [(row["id"], row["position"]) for row in reversed(preceding)],
            [(row["id"], row["position"]) for row in following],
        )
        params = {
            **self._params,
            "ids": list(changed),
            "positions": list(changed.values()),
            "etags": [uuid4() for _ in changed],
        }
        await self._fetch(RESPACE, params)
        return position

    async def _read(
        self, start: tuple[str, UUID] | None, *, limit: int, is_forward: bool
    ) -> list[Record]:
        statement = _siblings_statement(
            self._place.filter, has_start=start is not None, is_forward=is_forward
        )
        params = {**self._params, "row_limit": limit}
        if start is not None:
            params |= {"start": start[0], "start_id": start[1]}
        return await self._fetch(statement, params)


@cache
def _siblings_statement(place: str, *, has_start: bool, is_forward: bool) -> ClauseElement:
    """Build the statement that reads positions of siblings, nearest first."""
    conditions = [
        TaskRecord.user_id == bindparam("owner"),
        FILTERS[place],
        TaskRecord.id != bindparam("task"),
    ]
    if has_start:
        item = tuple_(POSITION, TaskRecord.id)
        start = tuple_(bindparam("start", type_=POSITION.type), bindparam("start_id", type_=Uuid))
        conditions.append(item > start if is_forward else item < start)

    def ordered(*key: Any) -> list[Any]:  # noqa: ANN401 - SQLAlchemy's columns
        return [column.asc() if is_forward else column.desc() for column in key]

    # The indexes have `completed` before the position.
    rows = union_all(
        *(
            select(TaskRecord.id, POSITION.label("position"))
            .where(*conditions, TaskRecord.completed == literal_column(value))
            .order_by(*ordered(POSITION, TaskRecord.id))
            .limit(bindparam("row_limit"))
            for value in ("false", "true")
        )
    ).subquery("siblings").c
    return (
        select(rows.id, rows.position)
        .order_by(*ordered(rows.position, rows.id))
        .limit(bindparam("row_limit"))
    )
