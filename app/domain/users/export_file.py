"""Reads the file of an export, and checks every line before anything is stored (research/0088)."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from enum import IntEnum
from functools import partial
from typing import BinaryIO, NamedTuple

import msgspec

from app.domain.changes.schemas import Change, ChangeKind
from app.domain.lists.schemas import TaskList
from app.domain.tasks.due import timezone_names
from app.domain.tasks.pages import MAX_PAGE_BYTES
from app.domain.tasks.schemas import Task
from app.domain.users.schemas import ExportEnd
from app.openapi.document import OpenAPIDocument

BATCH_ITEMS, BATCH_BYTES = 500, MAX_PAGE_BYTES
# SQLite keeps the lines in a file without a name, and this much of it in memory.
CACHE_KIBIBYTES = 16_384
CREATE_ITEMS = """
    CREATE TABLE items (id BLOB, kind TEXT, level INTEGER, number INTEGER, line BLOB,
    PRIMARY KEY (id, kind))
"""
PUT_ITEM = "INSERT OR REPLACE INTO items VALUES (?, ?, ?, ?, ?)"
REMOVE_ITEM = "DELETE FROM items WHERE id = ? AND kind = ?"
COUNT_ITEMS = "SELECT count(*) FROM items"
READ_LEVEL = "SELECT number, line FROM items WHERE level = ? ORDER BY rowid"
# Outside these years, a time may be out of range after a conversion. The first one is 1970-01-01 in
# the time zone with the largest offset that the contract allows.
FIRST_TIME, LAST_TIME = datetime(1969, 12, 31, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)

_CHANGE = msgspec.json.Decoder(Change)
_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class UserImportError(Exception):
    """An export cannot be imported. The message is for the operator."""


class Level(IntEnum):
    """The order of an import: a task refers to its list, and a subtask to its parent."""

    LIST = 0
    TASK = 1
    SUBTASK = 2


class ExportedItem(NamedTuple):
    """A task or list, and the number of its line."""

    number: int
    resource: Task | TaskList


class ExportFile:
    """The items of a complete export, in a temporary database of SQLite."""

    def __init__(self) -> None:
        self.user_id = ""  # without items
        self._items = sqlite3.connect("")
        self._items.execute("PRAGMA journal_mode = OFF")
        self._items.execute(f"PRAGMA cache_size = -{CACHE_KIBIBYTES}")
        self._items.execute(CREATE_ITEMS)

    def read(self, file: BinaryIO) -> int:
        """Read a file to its end, and return the number of tasks and lists.

        Raises UserImportError.
        """
        end: ExportEnd | None = None
        number = 0
        for number, line in enumerate(iter(partial(file.readline, MAX_PAGE_BYTES), b""), 1):
            if end is not None:
                raise UserImportError(f"Line {number} follows the last line of the export.")
            decoded = _decode(number, line)
            if isinstance(decoded, ExportEnd):
                end = decoded
            else:
                self._add(number, line, decoded)
        if end is None:
            raise UserImportError("The export is incomplete: its last line is missing.")
        if end.lines != number - 1:
            msg = f"The export is incomplete: it has {number - 1} of {end.lines} lines."
            raise UserImportError(msg)
        ((count,),) = self._items.execute(COUNT_ITEMS)
        items: int = count
        return items

    def batches(self, level: Level) -> Iterator[list[ExportedItem]]:
        """Yield the items of a level in parts of limited size."""
        batch: list[ExportedItem] = []
        size = 0
        for number, line in self._items.execute(READ_LEVEL, [level]):
            batch.append(ExportedItem(number, _resource_of(number, _CHANGE.decode(line))))
            size += len(line)
            if len(batch) == BATCH_ITEMS or size > BATCH_BYTES:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch

    def close(self) -> None:
        """Remove the temporary database."""
        self._items.close()

    def _add(self, number: int, line: bytes, change: Change) -> None:
        """Store an item. Its last line counts (contract, tag `users`)."""
        if change.deleted:
            self._items.execute(REMOVE_ITEM, [change.id.bytes, change.kind])
            return
        resource = _resource_of(number, change)
        if not self.user_id:
            self.user_id = resource.user_id
        level = Level.LIST
        checks = [
            (resource.id == change.id, "id", "must be the ID of the line"),
            (resource.user_id == self.user_id, "user_id", "must be that of the other lines"),
            (resource.created_at >= FIRST_TIME, "created_at", "must be in 1970 or later"),
            (
                resource.created_at <= resource.updated_at < LAST_TIME,
                "updated_at",
                "must not be before created_at, nor after 9998",
            ),
        ]
        if isinstance(resource, Task):
            level = Level.TASK if resource.parent_id is None else Level.SUBTASK
            checks += _task_checks(resource)
        for is_valid, name, detail in checks:
            if not is_valid:
                raise UserImportError(f"Line {number}: /{change.kind}/{name} {detail}.")
        self._items.execute(PUT_ITEM, [change.id.bytes, change.kind, level, number, line])


def _task_checks(task: Task) -> list[tuple[bool, str, str]]:
    """Return the rules of a task that its type does not express, each with its property."""
    timezone = None if task.due is None else task.due.timezone
    return [
        (
            task.completed == (task.completed_at is not None),
            "completed_at",
            "must be null for an open task, and a time for a completed one",
        ),
        (
            task.completed_at is None or FIRST_TIME <= task.completed_at < LAST_TIME,
            "completed_at",
            "must be in the years 1970 to 9998",
        ),
        (task.list_id is None or task.parent_id is None, "list_id", "must be null for a subtask"),
        (task.parent_id != task.id, "parent_id", "must be another task"),
        (len(set(task.labels)) == len(task.labels), "labels", "must not contain an item twice"),
        (
            timezone is None or timezone in timezone_names(),
            "due/timezone",
            "is not the name of an IANA time zone",
        ),
    ]


def _resource_of(number: int, change: Change) -> Task | TaskList:
    """Return the task or list of a line. Raises UserImportError."""
    resource = change.task if change.kind is ChangeKind.TASK else change.list
    if resource is None:
        raise UserImportError(f"Line {number}: /{change.kind} must be an object.")
    return resource


def _decode(number: int, line: bytes) -> Change | ExportEnd:
    """Decode a line. Raises UserImportError with the first error and its property."""
    try:
        return _CHANGE.decode(line)
    except _ERRORS as error:
        mismatch = str(error)
    try:
        value = msgspec.json.decode(line)
    except _ERRORS:
        if not line.endswith(b"\n"):
            msg = f"The export is incomplete: line {number} has no end, or is too long."
            raise UserImportError(msg) from None
        raise UserImportError(f"Line {number} is not valid JSON.") from None
    with suppress(msgspec.ValidationError):
        return msgspec.convert(value, ExportEnd)
    errors = OpenAPIDocument.load().validate("Change", value)
    detail = f"{errors[0].pointer} {errors[0].detail}" if errors else mismatch
    raise UserImportError(f"Line {number}: {detail}.")
