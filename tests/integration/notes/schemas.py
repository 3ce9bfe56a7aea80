"""The structs of notes."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

import msgspec
from msgspec import Meta

from app.http.etags import EntityTag
from app.http.pagination import CursorToken
from app.http.parameters import Timestamp, UserId

Text = Annotated[str, Meta(min_length=1, max_length=100)]


class Note(msgspec.Struct, frozen=True):
    """A note as it is stored."""

    id: UUID
    user_id: UserId
    text: Text
    created_at: Timestamp
    updated_at: Timestamp
    etag: EntityTag


class NoteCreate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A new note."""

    text: Text


class NotePage(msgspec.Struct, frozen=True):
    """A page of notes."""

    items: list[Note]
    next_cursor: CursorToken | None


class NotePath(msgspec.Struct, frozen=True):
    """Path parameters of one note."""

    user_id: UserId
    note_id: UUID
