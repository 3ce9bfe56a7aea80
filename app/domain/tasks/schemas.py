"""The structs of the task operations. Components of the contract have the same names."""

from __future__ import annotations

from datetime import date
from enum import StrEnum
from typing import Annotated
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, UnsetType

from app.db.positions import Position
from app.http.etags import EntityTag
from app.http.pagination import CursorToken, PageQuery
from app.http.parameters import (
    IdOrNone,
    ResourceId,
    Timestamp,
    UserId,
    parse_datetime,
)
from app.http.validation import PATTERN_MESSAGE, non_blank_text

Title = Annotated[str, non_blank_text(max_length=500)]
NO_NUL = {PATTERN_MESSAGE: "must not contain U+0000"}
Description = Annotated[
    str, Meta(max_length=16384, pattern=r"^[^\x00]*\Z", extra_json_schema=NO_NUL)
]
SearchQuery = Annotated[
    str, Meta(min_length=1, max_length=200, pattern=r"^[^\x00]*\Z", extra_json_schema=NO_NUL)
]
# Python has no year 0.
CalendarDate = Annotated[
    date,
    Meta(
        extra_json_schema={
            "minLength": 10,
            "maxLength": 10,
            "pattern": "^(000[1-9]|00[1-9]|0[1-9]|[1-9])",
        }
    ),
]
LocalTime = Annotated[
    str,
    Meta(
        min_length=5,
        max_length=5,
        pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]\Z",
        extra_json_schema={PATTERN_MESSAGE: "must be a time from 00:00 to 23:59"},
    ),
]
TimezoneName = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=64,
        pattern=r"^[A-Za-z0-9_+/-]+\Z",
        extra_json_schema={PATTERN_MESSAGE: "must contain only letters, digits and _ + / -"},
    ),
]
# A comma separates labels in a query. ECMA 262 counts U+FEFF as white space, Python does not.
_LABEL = (
    r"[^\s,\x00-\x1F\x7F-\x9F\uFEFF]"
    r"([^,\x00-\x1F\x7F-\x9F]*[^\s,\x00-\x1F\x7F-\x9F\uFEFF])?"
)
Label = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=64,
        pattern=rf"^{_LABEL}\Z",
        extra_json_schema={
            PATTERN_MESSAGE: "must contain no comma and no control character, and not begin or "
            "end with white space"
        },
    ),
]
Labels = Annotated[tuple[Label, ...], Meta(max_length=50, extra_json_schema={"uniqueItems": True})]
LabelFilter = Annotated[
    str,
    Meta(
        max_length=649,
        pattern=rf"^{_LABEL}(,{_LABEL}){{0,9}}\Z",
        extra_json_schema={PATTERN_MESSAGE: "must be one to ten labels with commas between them"},
    ),
]
PriorityFilter = Annotated[
    str,
    Meta(
        max_length=64,
        pattern=r"^(none|low|medium|high|urgent)(,(none|low|medium|high|urgent))*\Z",
        extra_json_schema={
            PATTERN_MESSAGE: "must be priorities with commas between them, such as high,urgent"
        },
    ),
]
MAX_COUNT = 10_000
MAX_LABELS = 1_000


class Priority(StrEnum):
    """How important a task is, in ascending order. The database stores the index."""

    NONE = "none"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    URGENT = "urgent"


class TaskSort(StrEnum):
    """The sort key of a list of tasks."""

    CREATED_AT = "created_at"
    UPDATED_AT = "updated_at"
    DUE = "due"
    PRIORITY = "priority"
    POSITION = "position"


# The types of the sort values, for cursors. Without an entry, it is a timestamp.
SORT_TYPES: dict[TaskSort, type[int | str]] = {TaskSort.PRIORITY: int, TaskSort.POSITION: str}


class SortOrder(StrEnum):
    """The direction of a list."""

    ASC = "asc"
    DESC = "desc"


class Due(msgspec.Struct, frozen=True):
    """When a task is due (contract, tag `organizing`)."""

    date: CalendarDate
    time: LocalTime | None
    timezone: TimezoneName | None


class DueInput(Due, frozen=True, forbid_unknown_fields=True):
    """`Due` in a request."""


class Task(msgspec.Struct, frozen=True):
    """A stored task. Text is unchanged; timestamps are in UTC with microseconds."""

    id: UUID
    user_id: UserId
    title: Title
    description: Description | None
    completed: bool
    completed_at: Timestamp | None
    list_id: UUID | None
    parent_id: UUID | None
    priority: Priority
    due: Due | None
    due_at: Timestamp | None
    labels: Labels
    position: Position
    created_at: Timestamp
    updated_at: Timestamp
    etag: EntityTag


def _check_unique(labels: Labels | UnsetType) -> None:
    """Reject repeated labels, which msgspec does not check. Raises ValueError."""
    if labels and len(set(labels)) < len(labels):
        msg = "labels are repeated"
        raise ValueError(msg)


# `omit_defaults` keeps payload digests stable: a property that is added later does not change the
# digest of an older request, so its retry is still recognized.
class TaskCreate(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The body of `createTask`."""

    title: Title
    description: Description | None = None
    completed: bool = False
    list_id: ResourceId | None = None
    parent_id: ResourceId | None = None
    priority: Priority = Priority.NONE
    due: DueInput | None = None
    labels: Labels = ()

    def __post_init__(self) -> None:
        """Check what the types do not express."""
        _check_unique(self.labels)


class TaskReplace(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `replaceTask`."""

    title: Title
    description: Description | None
    completed: bool
    list_id: ResourceId | None = None
    parent_id: ResourceId | None = None
    priority: Priority = Priority.NONE
    due: DueInput | None = None
    labels: Labels = ()

    def __post_init__(self) -> None:
        """Check what the types do not express."""
        _check_unique(self.labels)


class TaskPatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The properties to change. UNSET leaves a property unchanged (RFC 7396)."""

    title: Title | UnsetType = UNSET
    description: Description | UnsetType | None = UNSET
    completed: bool | UnsetType = UNSET
    list_id: ResourceId | UnsetType | None = UNSET
    parent_id: ResourceId | UnsetType | None = UNSET
    priority: Priority | UnsetType = UNSET
    due: DueInput | UnsetType | None = UNSET
    labels: Labels | UnsetType = UNSET

    def __post_init__(self) -> None:
        """Check what the types do not express."""
        _check_unique(self.labels)


class TaskMove(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `moveTask`. UNSET for both `list_id` and `parent_id` keeps the place."""

    after_id: ResourceId | None
    list_id: ResourceId | UnsetType | None = UNSET
    parent_id: ResourceId | UnsetType | None = UNSET


# No task is older, so that no computed value is out of range. The format alone allows leap seconds.
PastTimestamp = Annotated[
    str,
    Meta(
        max_length=64,
        pattern=r"^(19[7-9][0-9]|[2-9][0-9]{3})-[0-9]{2}-[0-9]{2}T([01][0-9]|2[0-3]):[0-5][0-9]:"
        r"[0-5][0-9](\.[0-9]+)?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])\Z",
        extra_json_schema={"format": "date-time"},
    ),
]
MAX_CHANGES = 100


# `omit_defaults` and UNSET: see `TaskCreate`.
class TaskBatchCreate(
    TaskCreate, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True
):
    """A task to create, optionally with an ID and times, as an import or an undo needs them."""

    id: ResourceId | UnsetType = UNSET
    created_at: PastTimestamp | UnsetType = UNSET
    completed_at: PastTimestamp | None = None

    def __post_init__(self) -> None:
        """Check what the types do not express."""
        super().__post_init__()
        for value in (self.created_at, self.completed_at):
            if isinstance(value, str):
                parse_datetime(value)


class TaskBatchUpdate(TaskPatch, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A task to change, and the properties to change. UNSET leaves a property unchanged."""

    id: ResourceId
    if_match: EntityTag | UnsetType = UNSET


class TaskBatchDelete(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A task to delete."""

    id: ResourceId
    if_match: EntityTag | UnsetType = UNSET


class TaskBatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The body of `changeTasks`."""

    create: Annotated[tuple[TaskBatchCreate, ...], Meta(max_length=MAX_CHANGES)] = ()
    update: Annotated[tuple[TaskBatchUpdate, ...], Meta(max_length=MAX_CHANGES)] = ()
    delete: Annotated[tuple[TaskBatchDelete, ...], Meta(max_length=MAX_CHANGES)] = ()


class TaskBatchResult(msgspec.Struct, frozen=True):
    """The created and updated tasks and the IDs of the deleted ones, in the request's order."""

    created: Annotated[list[Task], Meta(max_length=MAX_CHANGES)]
    updated: Annotated[list[Task], Meta(max_length=MAX_CHANGES)]
    deleted: Annotated[list[UUID], Meta(max_length=MAX_CHANGES)]


class TaskPage(msgspec.Struct, frozen=True):
    """A page of a list. `next_cursor` is None on the last page."""

    items: Annotated[list[Task], Meta(max_length=200)]
    next_cursor: CursorToken | None


class TaskPath(msgspec.Struct, frozen=True):
    """Path parameters of one task."""

    user_id: UserId
    task_id: UUID


class TaskCount(msgspec.Struct, frozen=True):
    """A number of tasks, and whether there are more."""

    count: Annotated[int, Meta(ge=0, le=MAX_COUNT)]
    is_capped: bool


class LabelCount(msgspec.Struct, frozen=True):
    """A label, and the number of open tasks that have it."""

    label: Label
    open_tasks: Annotated[int, Meta(ge=1, le=2_147_483_647)]


class LabelList(msgspec.Struct, frozen=True):
    """The labels of a user, and whether there are more."""

    items: Annotated[list[LabelCount], Meta(max_length=MAX_LABELS)]
    is_capped: bool


class CountTasksQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Query parameters of `countTasks`: the filters of `listTasks`."""

    completed: bool | None = None
    q: SearchQuery | None = None
    created_after: Timestamp | None = None
    created_before: Timestamp | None = None
    updated_after: Timestamp | None = None
    updated_before: Timestamp | None = None
    list_id: IdOrNone | UnsetType = UNSET
    parent_id: IdOrNone | UnsetType = UNSET
    priority: PriorityFilter | UnsetType = UNSET
    labels: LabelFilter | UnsetType = UNSET
    has_due: bool | UnsetType = UNSET
    due_after: CalendarDate | UnsetType = UNSET
    due_before: CalendarDate | UnsetType = UNSET


class ListTasksQuery(PageQuery, frozen=True, kw_only=True):
    """Query parameters of `listTasks`.

    UNSET is not part of the digest of a cursor, so cursors of contract 1.0.0 stay valid.
    """

    completed: bool | None = None
    q: SearchQuery | None = None
    created_after: Timestamp | None = None
    created_before: Timestamp | None = None
    updated_after: Timestamp | None = None
    updated_before: Timestamp | None = None
    sort: TaskSort = TaskSort.CREATED_AT
    order: SortOrder = SortOrder.DESC
    list_id: IdOrNone | UnsetType = UNSET
    parent_id: IdOrNone | UnsetType = UNSET
    priority: PriorityFilter | UnsetType = UNSET
    labels: LabelFilter | UnsetType = UNSET
    has_due: bool | UnsetType = UNSET
    due_after: CalendarDate | UnsetType = UNSET
    due_before: CalendarDate | UnsetType = UNSET
