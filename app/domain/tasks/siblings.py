"""Siblings: the tasks of one place, which is a list, the inbox or a parent, in their order."""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import msgspec
from sqlalchemy import (
    ARRAY,
    ClauseElement,
    ColumnElement,
    Select,
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

from app.db.positions import SIBLINGS_TO_READ, NoRoomError, Sibling, position_between, respace
from app.db.revisions import IS_GATE_PASSED, revised
from app.db.statements import UNNAMED, FetchCallable
from app.domain.tasks.filters import FILTERS
from app.domain.tasks.models import NEXT_UPDATED_AT, TaskRecord

_POSITION: ColumnElement[str] = TaskRecord.position.expression
_IDS = bindparam("ids", type_=ARRAY(Uuid))
LOCKED = (
    select(
        TaskRecord.id,
        _POSITION.label("position"),
        TaskRecord.list_id,
        TaskRecord.parent_id,
        TaskRecord.etag,
    )
    .where(
        TaskRecord.user_id == bindparam("owner"), TaskRecord.id == func.any(_IDS), IS_GATE_PASSED
    )
    .order_by(TaskRecord.id)  # one order, so that two moves do not deadlock
    .with_for_update(key_share=True)
    .cte("locked")
)


def _unchanged(name: str, ids: str, positions: str) -> ColumnElement[bool]:
    """Return whether these tasks still have the positions that were read.

    `ids` and `positions` are the names of parameters. `LOCKED` has the newest position of each.
    """
    id_param = bindparam(ids, type_=ARRAY(Uuid))
    read = (
        func.unnest(id_param, bindparam(positions, type_=ARRAY(Text)))
        .table_valued("id", "position")
        .render_derived(name)
    )
    number = (
        select(func.count())
        .select_from(LOCKED.join(read, read.c.id == LOCKED.c.id))
        .where(LOCKED.c.position == read.c.position)
        .scalar_subquery()
    )
    return func.cardinality(id_param) == number


NEIGHBORS_UNCHANGED = _unchanged("neighbors", "neighbor_ids", "neighbor_positions")
_PREVIOUS_UNCHANGED = _unchanged("previous", "ids", "old_positions")
_ANY_LOCKED = select(LOCKED.c.id).limit(literal_column("1")).cte("any_locked")
_NEW = (
    func.unnest(
        _IDS,
        bindparam("positions", type_=ARRAY(Text)),
        bindparam("etags", type_=ARRAY(Uuid)),
    )
    .table_valued("id", "position", "etag")
    .render_derived()
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


class Gap(NamedTuple):
    """A position, and the one or two siblings next to it. Without siblings there is none."""

    position: str
    neighbors: list[Sibling]


class Siblings:
    """The tasks of a place, without the task that moves."""

    def __init__(self, fetch: FetchCallable, user_id: str, task_id: UUID, place: Place) -> None:
        self._fetch = fetch
        self._params = {"owner": user_id, "task": task_id, place.filter: place.id}
        self._place = place

    async def gap_after(self, neighbor: Sibling | None, *, current: str) -> Gap:
        """Find a position directly after a sibling, or before all if it is None.

        `current` is the position of the task, which it keeps without siblings. If there is no room,
        up to MAX_NEIGHBORS siblings get new positions.
        """
        following = await self._read(neighbor, limit=1, is_forward=True)
        after = following[0].position if following else None
        if neighbor is None:  # there is always room before all
            return Gap(position_between(None, after, current=current), following)
        try:
            position = position_between(neighbor.position, after, current=current)
        except NoRoomError:
            return await self._respace(neighbor)
        return Gap(position, [neighbor, *following])

    async def _respace(self, neighbor: Sibling) -> Gap:
        following = await self._read(neighbor, limit=SIBLINGS_TO_READ, is_forward=True)
        nearest = await self._read(neighbor, limit=SIBLINGS_TO_READ - 1, is_forward=False)
        preceding = [*reversed(nearest), neighbor]
        siblings = [*preceding, *following]
        numbers = Counter(sibling.id for sibling in siblings)
        if moved := [sibling for sibling in siblings if numbers[sibling.id] > 1]:
            # No task has two positions, so the move begins again.
            return Gap(neighbor.position, moved)
        position, changed = respace(preceding, following)
        first = [sibling.id for sibling in siblings].index(next(iter(changed)))
        end = first + len(changed)
        params = {
            **self._params,
            "ids": list(changed),
            "old_positions": [sibling.position for sibling in siblings[first:end]],
            "positions": list(changed.values()),
            "etags": [uuid4() for _ in changed],
            "new_etag": uuid4(),
            "row_limit": len(changed) + 1,
            "end": siblings[end].position,
            "end_id": siblings[end].id,
        }
        params |= _start_params(siblings[first - 1] if first else None)
        await self._fetch(_respacing_statement(self._place.filter, has_start=first > 0), params)
        neighbors = [neighbor, *following[:1]]
        return Gap(position, [Sibling(id_, changed.get(id_, old)) for id_, old in neighbors])

    async def _read(self, start: Sibling | None, *, limit: int, is_forward: bool) -> list[Sibling]:
        statement = _siblings_statement(
            self._place.filter, has_start=start is not None, is_forward=is_forward
        )
        params = {**self._params, **_start_params(start), "row_limit": limit}
        return [Sibling(*row) for row in await self._fetch(statement, params)]


def _start_params(start: Sibling | None) -> dict[str, Any]:
    return {} if start is None else {"start": start.position, "start_id": start.id}


@cache
def _siblings_statement(place: str, *, has_start: bool, is_forward: bool) -> Select[UUID, str]:
    """Build the statement that reads positions of siblings, nearest first."""
    conditions = [
        TaskRecord.user_id == bindparam("owner"),
        FILTERS[place],
        TaskRecord.id != bindparam("task"),
    ]
    if has_start:
        item = tuple_(_POSITION, TaskRecord.id)
        start = tuple_(bindparam("start", type_=_POSITION.type), bindparam("start_id", type_=Uuid))
        conditions.append(item > start if is_forward else item < start)

    def ordered(*key: Any) -> list[Any]:  # noqa: ANN401 - SQLAlchemy's columns
        return [column.asc() if is_forward else column.desc() for column in key]

    # The indexes have `completed` before the position.
    rows = (
        union_all(
            *(
                select(TaskRecord.id, _POSITION.label("position"))
                .where(*conditions, TaskRecord.completed == literal_column(value))
                .order_by(*ordered(_POSITION, TaskRecord.id))
                .limit(bindparam("row_limit"))
                for value in ("false", "true")
            )
        )
        .subquery("siblings")
        .c
    )
    return (
        select(rows.id, rows.position)
        .order_by(*ordered(rows.position, rows.id))
        .limit(bindparam("row_limit"))
    )


@cache
def _respacing_statement(place: str, *, has_start: bool) -> ClauseElement:
    """Build the statement that stores new positions of the siblings between two others.

    If a sibling was moved in the meantime, away or between them, no position changes: a part of
    them would be in another order.
    """
    current = _siblings_statement(place, has_start=has_start, is_forward=True).subquery("current").c
    end = tuple_(bindparam("end", type_=_POSITION.type), bindparam("end_id", type_=Uuid))
    number = (
        select(func.count()).where(tuple_(current.position, current.id) < end).scalar_subquery()
    )
    # `number` is of the snapshot, which is older than the lock of the user.
    revision = revised(
        _ANY_LOCKED,
        _PREVIOUS_UNCHANGED,
        func.cardinality(_IDS) == number,
        needs_current_snapshot=True,
    )
    return (
        update(TaskRecord)
        .where(
            TaskRecord.user_id == bindparam("owner"),
            TaskRecord.id == _NEW.c.id,
            revision.c.revision.is_not(None),
        )
        .values(
            stored_position=_NEW.c.position,
            etag=_NEW.c.etag,
            updated_at=NEXT_UPDATED_AT,
            revision=revision.c.revision,
        )
        .execution_options(**UNNAMED)  # for the IDs in `LOCKED`
    )
