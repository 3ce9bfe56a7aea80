"""The structs of notes."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

import msgspec
from msgspec import Meta

from app.http.etags import EntityTag
from app.http.pagination import CursorToken
from app.http.parameters import AnyETag, ETagList, IdempotencyKey, Timestamp, UserId

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


class CreateNoteHeaders(msgspec.Struct, frozen=True):
    """Header parameters of `createNote`."""

    idempotency_key: IdempotencyKey | None = msgspec.field(name="Idempotency-Key", default=None)


class ReplaceNoteHeaders(msgspec.Struct, frozen=True):
    """Header parameters of `replaceNote`."""

    if_match: ETagList | None = msgspec.field(name="If-Match", default=None)
    if_none_match: AnyETag | None = msgspec.field(name="If-None-Match", default=None)
