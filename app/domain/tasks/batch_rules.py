"""The rules of a batch that no schema states, and the columns that its changes set."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from msgspec import UNSET
from uuid_utils.compat import uuid7

from app.domain.tasks.problems import BatchConflict, HierarchyConflict, TaskNotFound
from app.domain.tasks.rows import PROPERTY_COLUMNS, column_params
from app.domain.tasks.schemas import (
    MAX_CHANGES,
    TaskBatch,
    TaskBatchCreate,
    TaskBatchDelete,
    TaskBatchUpdate,
)
from app.http.etags import format_etag
from app.http.parameters import parse_datetime
from app.http.problems import FieldError, PreconditionFailed, ProblemError, ReferenceNotFound

PLACE = ("list_id", "parent_id")


class Place(NamedTuple):
    """The list and the parent of a task."""

    list_id: UUID | None
    parent_id: UUID | None


class Create(NamedTuple):
    """A task to create. Without a time, it is that of the transaction."""

    pointer: str
    id: UUID
    data: TaskBatchCreate
    columns: Mapping[str, Any]
    created_at: datetime | None
    completed_at: datetime | None


class Update(NamedTuple):
    """The columns of a task to change."""

    pointer: str
    id: UUID
    data: TaskBatchUpdate
    columns: Mapping[str, Any]

    @property
    def is_empty(self) -> bool:
        """Whether nothing changes, as by a PATCH of `{}`."""
        return not self.columns and self.data.completed is UNSET


class Delete(NamedTuple):
    """A task to delete."""

    pointer: str
    id: UUID
    data: TaskBatchDelete


class Changes(NamedTuple):
    """The changes of a batch, each kind in the order of the request."""

    creates: list[Create]
    updates: list[Update]
    deletes: list[Delete]

    def existing(self) -> list[Update | Delete]:
        """Return the changes of tasks that must exist."""
        return [*self.updates, *self.deletes]

    def all(self) -> list[Create | Update | Delete]:
        """Return all changes."""
        return [*self.creates, *self.existing()]

    @property
    def changed(self) -> list[Update]:
        """The updates that change something."""
        return [update for update in self.updates if not update.is_empty]

    @property
    def is_empty(self) -> bool:
        """Whether the batch changes nothing."""
        return not (self.creates or self.changed or self.deletes)

    def placed(self) -> list[Create | Update]:
        """Return the changes that set a list or a parent."""
        return [*self.creates, *(update for update in self.updates if _sets_place(update.columns))]

    def references(self, column: str) -> set[UUID]:
        """Return the lists or parents that the changes set."""
        return {id_ for change in self.placed() if (id_ := change.columns.get(column))}


def _sets_place(columns: Mapping[str, Any]) -> bool:
    return not columns.keys().isdisjoint(PLACE)


def read_changes(batch: TaskBatch) -> Changes:
    """Return the changes of a batch.

    Raises BatchConflict, and ReferenceNotFound with all unknown time zones.
    """
    _check_number(batch)
    errors: list[FieldError] = []
    creates = [
        Create(
            pointer := f"/create/{number}",
            uuid7() if data.id is UNSET else UUID(data.id),
            data,
            _columns(pointer, {name: getattr(data, name) for name in PROPERTY_COLUMNS}, errors),
            None if data.created_at is UNSET else parse_datetime(data.created_at),
            None if data.completed_at is None else parse_datetime(data.completed_at),
        )
        for number, data in enumerate(batch.create)
    ]
    updates = [
        Update(pointer := f"/update/{number}", UUID(data.id), data, _columns(
            pointer,
            {name: sent for name in PROPERTY_COLUMNS if (sent := getattr(data, name)) is not UNSET},
            errors,
        ))
        for number, data in enumerate(batch.update)
    ]  # fmt: skip
    deletes = [
        Delete(f"/delete/{number}", UUID(data.id), data) for number, data in enumerate(batch.delete)
    ]
    changes = Changes(creates, updates, deletes)
    _check_ids(changes)
    if errors:
        raise ReferenceNotFound(errors=errors)
    return changes


def _check_number(batch: TaskBatch) -> None:
    number = len(batch.create) + len(batch.update) + len(batch.delete)
    if not 1 <= number <= MAX_CHANGES:
        detail = f"A batch has 1 to {MAX_CHANGES} changes, and this one has {number}."
        raise BatchConflict(detail)


def _columns(pointer: str, sent: Mapping[str, Any], errors: list[FieldError]) -> dict[str, Any]:
    """Return the columns of properties. Add an error for an unknown time zone."""
    try:
        params = column_params(sent)
    except ReferenceNotFound as problem:
        errors += [
            FieldError(pointer=f"{pointer}{error.pointer}", detail=error.detail)
            for error in problem.errors
        ]
        return {}
    return {name.removeprefix("new_"): value for name, value in params.items()}


def _check_ids(changes: Changes) -> None:
    seen: set[UUID] = set()
    errors: list[FieldError] = []
    for change in changes.all():
        if change.id in seen:
            detail = "another change of this batch has this ID"
            errors.append(FieldError(pointer=f"{change.pointer}/id", detail=detail))
        seen.add(change.id)
    errors += [
        FieldError(pointer=f"{create.pointer}/completed_at", detail="must be null for an open task")
        for create in changes.creates
        if create.completed_at is not None and not create.data.completed
    ]
    _raise(BatchConflict, errors)


def check_existence(changes: Changes, existing: Mapping[UUID, Any], now: datetime) -> None:
    """Check which tasks exist, and that no time is in the future.

    Raises TaskNotFound, and then BatchConflict.
    """
    detail = "this user has no task with this ID"
    missing = [
        FieldError(pointer=change.pointer, detail=detail)
        for change in changes.existing()
        if change.id not in existing
    ]
    _raise(TaskNotFound, missing)
    errors = [
        FieldError(pointer=f"{create.pointer}/id", detail="a task with this ID exists")
        for create in changes.creates
        if create.id in existing
    ]
    errors += [
        FieldError(pointer=f"{create.pointer}/{name}", detail="must not be in the future")
        for create in changes.creates
        for name in ("created_at", "completed_at")
        if (getattr(create, name) or now) > now
    ]
    _raise(BatchConflict, errors)


def check_preconditions(changes: Changes, etags: Mapping[UUID, UUID]) -> None:
    """Compare `if_match` with the ETags of the tasks. Raises PreconditionFailed."""
    errors = [
        FieldError(pointer=change.pointer, detail="the task has a different ETag")
        for change in changes.existing()
        if change.data.if_match not in (UNSET, format_etag(etags[change.id]))
    ]
    if errors:
        raise PreconditionFailed(PreconditionFailed.detail, errors=errors)


def check_places(
    changes: Changes, places: Mapping[UUID, Place], lists: set[UUID], parents: set[UUID]
) -> None:
    """Check lists and parents as they are after all creates and updates.

    `places` has the stored tasks that changes name, `lists` the lists that exist, and `parents` the
    tasks with subtasks that the batch does not move.

    Raises ReferenceNotFound, and then HierarchyConflict.
    """
    after = dict(places)
    for change in changes.placed():
        before = after.get(change.id, Place(None, None))
        after[change.id] = Place(
            *(change.columns.get(name, getattr(before, name)) for name in PLACE)
        )
    occupied = parents | {
        parent for _, parent in (after[change.id] for change in changes.placed()) if parent
    }
    unknown: list[FieldError] = []
    conflicts: list[FieldError] = []
    for change in changes.placed():
        list_id, parent_id = (change.columns.get(name) for name in PLACE)
        if list_id is not None and list_id not in lists:
            detail = "this user has no list with this ID"
            unknown.append(FieldError(pointer=f"{change.pointer}/list_id", detail=detail))
        if parent_id is not None and parent_id not in after:
            detail = "this user has no task with this ID"
            unknown.append(FieldError(pointer=f"{change.pointer}/parent_id", detail=detail))
        elif error := _conflict(change.id, after, occupied):
            name, detail = error
            conflicts.append(FieldError(pointer=f"{change.pointer}/{name}", detail=detail))
    _raise(ReferenceNotFound, unknown)
    _raise(HierarchyConflict, conflicts)


def _conflict(
    id_: UUID, places: Mapping[UUID, Place], parents: set[UUID]
) -> tuple[str, str] | None:
    """Return the property that breaks a rule of subtasks, and the rule."""
    list_id, parent_id = places[id_]
    if parent_id is None:
        return None
    if list_id is not None:
        return "list_id", "must be null for a subtask"
    if parent_id == id_:
        return "parent_id", "a task cannot be its own subtask"
    # The parent of a task that keeps it is a task of the first level.
    if places.get(parent_id, Place(None, None)).parent_id is not None:
        return "parent_id", "this task is a subtask"
    if id_ in parents:
        return "parent_id", "a task with subtasks cannot be a subtask"
    return None


def _raise(problem_type: type[ProblemError], errors: list[FieldError]) -> None:
    if errors:
        raise problem_type(errors=errors)
