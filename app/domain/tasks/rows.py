"""Rows of the table as tasks of the contract, and bodies of requests as parameters."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, time
from typing import Any
from uuid import UUID, uuid4

from asyncpg import Record
from msgspec import UNSET

from app.db.positions import Sibling, initial_position
from app.domain.tasks.due import due_at, timezone_names
from app.domain.tasks.filters import PRIORITIES
from app.domain.tasks.models import TaskRecord
from app.domain.tasks.schemas import (
    Due,
    Priority,
    Task,
    TaskCreate,
    TaskMove,
    TaskReplace,
    TaskSort,
)
from app.domain.tasks.siblings import Place
from app.http.etags import format_etag
from app.http.parameters import MAX_DATETIME, parse_resource_id
from app.http.problems import FieldError, ReferenceNotFound

# In the order in which `to_task` reads them.
COLUMNS = (
    TaskRecord.id,
    TaskRecord.user_id,
    TaskRecord.title,
    TaskRecord.description,
    TaskRecord.completed,
    TaskRecord.completed_at,
    TaskRecord.list_id,
    TaskRecord.parent_id,
    TaskRecord.priority,
    TaskRecord.due_date,
    TaskRecord.due_time,
    TaskRecord.due_timezone,
    TaskRecord.labels,
    TaskRecord.stored_position,
    TaskRecord.created_at,
    TaskRecord.updated_at,
    TaskRecord.etag,
)
# The columns that each property of a body sets. Their parameters have the prefix `new_`.
PROPERTY_COLUMNS = {
    "title": ("title",),
    "description": ("description",),
    "list_id": ("list_id",),
    "parent_id": ("parent_id", "depth"),
    "priority": ("priority",),
    "due": ("due_date", "due_time", "due_timezone"),
    "labels": ("labels",),
}
PRIORITY_NAMES: tuple[Priority, ...] = tuple(Priority)


def to_task(row: Record | tuple[Any, ...]) -> Task:
    """Return the task of a row that begins with COLUMNS."""
    (
        id_, user_id, title, description, completed, completed_at, list_id, parent_id, priority,
        due_date, due_time, due_timezone, labels, position, created_at, updated_at, etag,
    ) = row[:17]  # fmt: skip
    due = None
    if due_date is not None:
        due = Due(due_date, due_time and due_time.isoformat("minutes"), due_timezone)
    level: int = priority
    return Task(
        id_,
        user_id,
        title,
        description,
        completed,
        completed_at,
        list_id,
        parent_id,
        PRIORITY_NAMES[level],
        due,
        due_at(due),
        tuple(labels.split(",")) if labels else (),
        position or initial_position(created_at, id_),
        created_at,
        updated_at,
        format_etag(etag),
    )


def to_sibling(row: Record | None, place: Place, task_id: UUID) -> Sibling:
    """Return the task after which another one is placed. Raises ReferenceNotFound."""
    if row is None or row["id"] == task_id or Place.of(row["list_id"], row["parent_id"]) != place:
        detail = "this user has no other task with this ID in this place"
        raise ReferenceNotFound(errors=[FieldError(pointer="/after_id", detail=detail)])
    return Sibling(row["id"], row_position(row))


def row_position(row: Record) -> str:
    """Return the position of a row, also of a task that was never moved."""
    return row["position"] or initial_position(row["created_at"], row["id"])


def sort_value(task: Task, sort: TaskSort) -> datetime | int | str:
    """Return the value of the sort expression for a task. That of a due date counts as UTC."""
    if sort is TaskSort.DUE:
        if task.due is None:
            return MAX_DATETIME
        local_time = time.fromisoformat(task.due.time or "23:59:59")
        return datetime.combine(task.due.date, local_time, UTC)
    if sort is TaskSort.PRIORITY:
        return PRIORITIES[task.priority]
    value: datetime | str = getattr(task, sort)
    return value


def bind_params(user_id: str, task_id: UUID, data: TaskCreate | TaskReplace) -> dict[str, Any]:
    """Return the parameters of a statement that inserts a task. Raises ReferenceNotFound."""
    params = column_params({name: getattr(data, name) for name in PROPERTY_COLUMNS})
    params |= {
        "owner": user_id,
        "task": task_id,
        "new_completed": data.completed,
        "new_etag": uuid4(),
    }
    return params


def column_params(properties: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of the columns that these properties set.

    Raises ReferenceNotFound for an unknown time zone.
    """
    params = {f"new_{name}": value for name, value in properties.items()}
    if "list_id" in properties:
        params["new_list_id"] = parse_resource_id(properties["list_id"])
    if "parent_id" in properties:
        params["new_parent_id"] = parse_resource_id(properties["parent_id"])
        params["new_depth"] = int(properties["parent_id"] is not None)
    if "priority" in properties:
        params["new_priority"] = PRIORITIES[properties["priority"]]
    if "labels" in properties:
        params["new_labels"] = ",".join(sorted(properties["labels"]))
    if "due" in properties:
        params |= _due_params(params.pop("new_due"))
    return params


def _due_params(due: Due | None) -> dict[str, Any]:
    if due is None:
        return dict.fromkeys(("new_due_date", "new_due_time", "new_due_timezone"))
    if due.timezone is not None and due.timezone not in timezone_names():
        detail = "is not the name of an IANA time zone"
        raise ReferenceNotFound(errors=[FieldError(pointer="/due/timezone", detail=detail)])
    return {
        "new_due_date": due.date,
        "new_due_time": None if due.time is None else time.fromisoformat(due.time),
        "new_due_timezone": due.timezone,
    }


def place_params(current: Record, move: TaskMove) -> dict[str, Any]:
    """Return the parameters of the list and the parent after a move."""
    list_id, parent_id = current["list_id"], current["parent_id"]
    if move.list_id is not UNSET or move.parent_id is not UNSET:
        list_id = None if move.list_id is UNSET else parse_resource_id(move.list_id)
        parent_id = None if move.parent_id is UNSET else parse_resource_id(move.parent_id)
    return {
        "new_list_id": list_id,
        "new_parent_id": parent_id,
        "new_depth": int(parent_id is not None),
    }
