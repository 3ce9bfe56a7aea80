"""The structs of the list operations. Components of the contract have the same names."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, UnsetType

from app.db.positions import Position
from app.http.etags import EntityTag
from app.http.pagination import CursorToken
from app.http.parameters import (
    ResourceId,
    Timestamp,
    UserId,
)
from app.http.validation import non_blank_text

ListName = Annotated[str, non_blank_text(max_length=200)]


class TaskList(msgspec.Struct, frozen=True):
    """A stored list. Text is unchanged; timestamps are in UTC with microseconds."""

    id: UUID
    user_id: UserId
    name: ListName
    position: Position
    created_at: Timestamp
    updated_at: Timestamp
    etag: EntityTag


class TaskListCreate(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The body of `createList`."""

    name: ListName


class TaskListReplace(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `replaceList`."""

    name: ListName


class TaskListPatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The properties to change. UNSET leaves a property unchanged (RFC 7396)."""

    name: ListName | UnsetType = UNSET


class TaskListMove(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `moveList`. None means the first place."""

    after_id: ResourceId | None


class TaskListPage(msgspec.Struct, frozen=True):
    """A page of lists. `next_cursor` is None on the last page."""

    items: Annotated[list[TaskList], Meta(max_length=200)]
    next_cursor: CursorToken | None


class ListPath(msgspec.Struct, frozen=True):
    """Path parameters of one list."""

    user_id: UserId
    list_id: UUID
