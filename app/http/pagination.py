"""Pagination cursors: opaque, tamper-evident positions in a list (contract, "Lists").

A cursor is the URL-safe base64 of the sort value of the last item, its ID (16 bytes) and a keyed
digest (18 bytes). The digest covers both, the scope of the list and the query. The sort value has 8
bytes for an integer or a timestamp in microseconds, and 65 bytes for a text. All sums are multiples
of three, so base64 has no unused bits, which could be changed without detection.
"""

from __future__ import annotations

import binascii
import hmac
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import Annotated
from uuid import UUID

import msgspec
from msgspec import Meta

from app.http.problems import FieldError, InvalidCursor
from app.http.validation import PATTERN_MESSAGE

DEFAULT_LIMIT = 50
DIGEST_BYTES = 18
MAX_TEXT_BYTES = 64
_POSITION = struct.Struct(">q16s")
_TEXT_POSITION = struct.Struct(f">{MAX_TEXT_BYTES + 1}s16s")  # padded with U+0000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# All replicas need the same key, also if none is configured. It need not be secret: a forged cursor
# can only name a position in a list that its client may read anyway.
_DEFAULT_KEY = b"tasks-api: not a secret"

Limit = Annotated[int, Meta(ge=1, le=200)]
# `\Z`, not `$`: Python's `$` matches before a trailing newline, ECMA 262's does not.
CursorToken = Annotated[
    str,
    Meta(
        min_length=56,
        max_length=132,
        pattern=r"^[A-Za-z0-9_-]+\Z",
        extra_json_schema={PATTERN_MESSAGE: "must contain only letters, digits, - and _"},
    ),
]
SortValue = datetime | int | str


class PageQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Query parameters of every list. A resource adds its filters in a subclass."""

    limit: Limit = DEFAULT_LIMIT
    cursor: CursorToken | None = None


class CursorPosition(msgspec.Struct, frozen=True):
    """The sort key of an item. The next page begins after it."""

    sort_value: SortValue
    id: UUID


class CursorCodec:
    """Encodes and decodes cursors with one key.

    All replicas share `secret`. None selects the public default key.

    `scope` identifies the list of a cursor. It is the user ID for a list of tasks, and the path of
    the collection for other resources. User IDs and paths differ, because paths have slashes.
    """

    def __init__(self, secret: str | None) -> None:
        key = _DEFAULT_KEY if secret is None else secret.encode()
        # BLAKE2b accepts keys of at most 64 bytes; a digest of the key allows any length.
        self._key = blake2b(key, person=b"cursor key 1").digest()

    def encode(self, scope: str, query: PageQuery, position: CursorPosition) -> str:
        """Return the cursor of the page after `position`.

        A timestamp has a time zone. A text has at most `MAX_TEXT_BYTES` bytes and no U+0000.
        """
        packed = _pack(position)
        return urlsafe_b64encode(packed + self._digest(scope, query, packed)).decode()

    def next_cursor(
        self, scope: str, query: PageQuery, position: CursorPosition | None
    ) -> str | None:
        """Return the cursor of the next page, or None after the last page."""
        return None if position is None else self.encode(scope, query, position)

    def decode(
        self, scope: str, query: PageQuery, sort_type: type[SortValue] = datetime
    ) -> CursorPosition | None:
        """Return the position in the query's cursor, or None without a cursor.

        `sort_type` is the type of the query's sort values: datetime, int or str.

        Raises InvalidCursor unless `encode` returned the cursor for this scope and query.
        """
        if query.cursor is None:
            return None
        layout = _TEXT_POSITION if sort_type is str else _POSITION
        try:
            raw = urlsafe_b64decode(query.cursor)
        except binascii.Error:
            raise _invalid_cursor() from None
        packed, digest = raw[: layout.size], raw[layout.size :]
        if not hmac.compare_digest(digest, self._digest(scope, query, packed)):
            raise _invalid_cursor()
        try:
            return _unpack(packed, sort_type)
        except (OverflowError, ValueError):
            # A forged cursor with a valid digest: the default key is public.
            raise _invalid_cursor() from None

    def _digest(self, scope: str, query: PageQuery, packed: bytes) -> bytes:
        # A client may change `limit` between pages. All other parameters identify the list.
        bound = msgspec.structs.replace(query, cursor=None, limit=1)
        message = msgspec.json.encode((scope, bound)) + packed
        return blake2b(message, key=self._key, digest_size=DIGEST_BYTES).digest()


def _pack(position: CursorPosition) -> bytes:
    value = position.sort_value
    if isinstance(value, str):
        encoded = value.encode()
        if len(encoded) > MAX_TEXT_BYTES:
            raise ValueError("The text is too long for a cursor.")
        return _TEXT_POSITION.pack(encoded, position.id.bytes)
    if isinstance(value, datetime):
        value = (value - _EPOCH) // timedelta(microseconds=1)
    return _POSITION.pack(value, position.id.bytes)


def _unpack(packed: bytes, sort_type: type[SortValue]) -> CursorPosition:
    """Decode a position. Raises OverflowError and ValueError."""
    if sort_type is str:
        padded, id_ = _TEXT_POSITION.unpack(packed)
        text = padded.rstrip(b"\0")
        if len(text) > MAX_TEXT_BYTES or b"\0" in text:
            raise ValueError
        return CursorPosition(text.decode(), UUID(bytes=id_))
    value, id_ = _POSITION.unpack(packed)
    if sort_type is datetime:
        value = _EPOCH + timedelta(microseconds=value)
    return CursorPosition(value, UUID(bytes=id_))


def _invalid_cursor() -> InvalidCursor:
    detail = "invalid, or belongs to a different query"
    return InvalidCursor(
        InvalidCursor.detail, errors=[FieldError(parameter="cursor", detail=detail)]
    )
