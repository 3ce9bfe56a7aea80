"""The structs of `listChanges`. Components of the contract have the same names."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated
from uuid import UUID

import msgspec
from msgspec import Meta

from app.domain.lists.schemas import TaskList
from app.domain.tasks.schemas import Task
from app.http.pagination import DEFAULT_LIMIT, Limit
from app.http.validation import PATTERN_MESSAGE

TOKEN_LENGTH = 88
MAX_WAIT = 30  # seconds
# `\Z`, not `$`: Python's `$` matches before a trailing newline, ECMA 262's does not.
ChangeToken = Annotated[
    str,
    Meta(
        min_length=TOKEN_LENGTH,
        max_length=TOKEN_LENGTH,
        pattern=r"^[A-Za-z0-9_-]+\Z",
        extra_json_schema={PATTERN_MESSAGE: "must contain only letters, digits, - and _"},
    ),
]


class ChangeKind(StrEnum):
    """What was changed."""

    TASK = "task"
    LIST = "list"


class Change(msgspec.Struct, frozen=True):
    """The current state of a task or list, or that it was deleted."""

    kind: ChangeKind
    id: UUID
    deleted: bool
    task: Task | None
    list: TaskList | None


class ChangePage(msgspec.Struct, frozen=True):
    """A page of the feed."""

    items: Annotated[list[Change], Meta(max_length=200)]
    next_since: ChangeToken
    has_more: bool


class ListChangesQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Query parameters of `listChanges`."""

    since: ChangeToken | None = None
    limit: Limit = DEFAULT_LIMIT
    wait: Annotated[int, Meta(ge=0, le=MAX_WAIT)] = 0
