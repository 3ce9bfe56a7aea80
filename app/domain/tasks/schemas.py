"""The structs of the contract's components about tasks, under the same names."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, UnsetType

from app.http.etags import EntityTag
from app.http.pagination import CursorToken, PageQuery
from app.http.parameters import AnyETag, ETagList, IdempotencyKey, Timestamp, UserId
from app.http.validation import PATTERN_MESSAGE

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


class TaskPath(msgspec.Struct, frozen=True):
    """Path parameters of one task."""

    user_id: UserId
    task_id: UUID


class ListTasksQuery(PageQuery, frozen=True, kw_only=True):
    """Query parameters of `listTasks`."""

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
