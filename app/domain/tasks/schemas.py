"""The structs of the contract's components about tasks, under the same names."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, UnsetType

from app.http.etags import EntityTag
from app.http.parameters import AnyETag, ETagList
from app.http.validation import PATTERN_MESSAGE

DEFAULT_LIMIT = 50

# `\Z`, not `$`: Python's `$` lets a trailing newline through, ECMA 262's does not.
UserId = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=128,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._:|@+-]*\Z",
        extra_json_schema={
            PATTERN_MESSAGE: "must start with a letter or digit and contain only letters, digits "
            "and . _ : | @ + -"
        },
    ),
]
# `\s` means different sets in Python and ECMA 262: the second class gives back what either takes
# though it is no white space. Spelled out, the set would hold U+2028, which no generated JavaScript
# survives (research/0033).
Title = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=500,
        pattern=r"^[^\x00]*(?:[^\s\x00\x85]|[\x1C-\x1F\uFEFF])[^\x00]*\Z",
        extra_json_schema={
            PATTERN_MESSAGE: "must contain a character that is not white space, and no U+0000"
        },
    ),
]
NO_NUL = {PATTERN_MESSAGE: "must not contain U+0000"}
Description = Annotated[
    str, Meta(max_length=16384, pattern=r"^[^\x00]*\Z", extra_json_schema=NO_NUL)
]
SearchQuery = Annotated[
    str, Meta(min_length=1, max_length=200, pattern=r"^[^\x00]*\Z", extra_json_schema=NO_NUL)
]
Limit = Annotated[int, Meta(ge=1, le=200)]
CursorToken = Annotated[
    str,
    Meta(
        min_length=56,
        max_length=56,
        pattern=r"^[A-Za-z0-9_-]+\Z",
        extra_json_schema={PATTERN_MESSAGE: "must contain only letters, digits, - and _"},
    ),
]
Timestamp = Annotated[datetime, Meta(tz=True)]
IdempotencyKey = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=255,
        pattern=r"^[!-~]+\Z",
        extra_json_schema={PATTERN_MESSAGE: "must contain only visible ASCII characters"},
    ),
]


class TaskSort(StrEnum):
    """What a list is ordered by; each value is the name of a column."""

    CREATED_AT = "created_at"
    UPDATED_AT = "updated_at"


class SortOrder(StrEnum):
    """The direction of a list."""

    ASC = "asc"
    DESC = "desc"


class Task(msgspec.Struct, frozen=True):
    """A task as it is stored. Text is exact; instants are UTC in microseconds."""

    id: UUID
    user_id: UserId
    title: Title
    description: Description | None
    completed: bool
    completed_at: Timestamp | None
    created_at: Timestamp
    updated_at: Timestamp
    etag: EntityTag


# Encoded without its defaults: a member that is added later does not change what older requests
# come to, and so a retry of one is still the same request.
class TaskCreate(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A new task."""

    title: Title
    description: Description | None = None
    completed: bool = False


class TaskReplace(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A whole task."""

    title: Title
    description: Description | None
    completed: bool


class TaskPatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The members to change; UNSET leaves one as it is (RFC 7396)."""

    title: Title | UnsetType = UNSET
    description: Description | UnsetType | None = UNSET
    completed: bool | UnsetType = UNSET


class TaskPage(msgspec.Struct, frozen=True):
    """A page of a list; `next_cursor` is None on the last one."""

    items: Annotated[list[Task], Meta(max_length=200)]
    next_cursor: CursorToken | None


class UserPath(msgspec.Struct, frozen=True):
    """Path parameters of the collection."""

    user_id: UserId


class TaskPath(msgspec.Struct, frozen=True):
    """Path parameters of one task."""

    user_id: UserId
    task_id: UUID


class ListTasksQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Query parameters of `listTasks`."""

    limit: Limit = DEFAULT_LIMIT
    cursor: CursorToken | None = None
    completed: bool | None = None
    q: SearchQuery | None = None
    created_after: Timestamp | None = None
    created_before: Timestamp | None = None
    updated_after: Timestamp | None = None
    updated_before: Timestamp | None = None
    sort: TaskSort = TaskSort.CREATED_AT
    order: SortOrder = SortOrder.DESC


class CreateTaskHeaders(msgspec.Struct, frozen=True):
    """Header parameters of `createTask`."""

    idempotency_key: IdempotencyKey | None = msgspec.field(name="Idempotency-Key", default=None)


class ReplaceTaskHeaders(msgspec.Struct, frozen=True):
    """Header parameters of `replaceTask`."""

    if_match: ETagList | None = msgspec.field(name="If-Match", default=None)
    if_none_match: AnyETag | None = msgspec.field(name="If-None-Match", default=None)
