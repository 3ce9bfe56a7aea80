"""The structs of the task operations. Components of the contract have the same names."""

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

# `\s` differs between Python and ECMA 262. The second class adds the characters that only one of
# them includes and that are not white space. A complete list would contain U+2028, which breaks
# generated JavaScript (research/0033).
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
    """The sort key of a list. Each value is the name of a column."""

    CREATED_AT = "created_at"
    UPDATED_AT = "updated_at"


class SortOrder(StrEnum):
    """The direction of a list."""

    ASC = "asc"
    DESC = "desc"


class Task(msgspec.Struct, frozen=True):
    """A stored task. Text is unchanged; timestamps are in UTC with microseconds."""

    id: UUID
    user_id: UserId
    title: Title
    description: Description | None
    completed: bool
    completed_at: Timestamp | None
    created_at: Timestamp
    updated_at: Timestamp
    etag: EntityTag


# `omit_defaults` keeps payload digests stable: a property that is added later does not change the
# digest of an older request, so its retry is still recognized.
class TaskCreate(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The body of `createTask`."""

    title: Title
    description: Description | None = None
    completed: bool = False


class TaskReplace(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `replaceTask`."""

    title: Title
    description: Description | None
    completed: bool


class TaskPatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The properties to change. UNSET leaves a property unchanged (RFC 7396)."""

    title: Title | UnsetType = UNSET
    description: Description | UnsetType | None = UNSET
    completed: bool | UnsetType = UNSET


class TaskPage(msgspec.Struct, frozen=True):
    """A page of a list. `next_cursor` is None on the last page."""

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
