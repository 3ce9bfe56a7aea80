"""Cursors: a position in one list, opaque and tamper-evident (contract, "Lists").

A cursor is the URL-safe base64 of 42 bytes, a multiple of three so that no bit is left over that
could be changed unnoticed: the instant of the last task in microseconds (8), its id (16) and a
keyed digest (18) over both, the user and the query.
"""

from __future__ import annotations

import hmac
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from uuid import UUID

import msgspec

from app.domain.tasks.schemas import ListTasksQuery
from app.http.problems import FieldError, InvalidCursor
from app.settings import Secret

DIGEST_BYTES = 18
_POSITION = struct.Struct(">q16s")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Every replica needs the same key, so there is one even where none is set. It is no secret, and
# need not be: a forged cursor can only name a place in the list that its bearer may read anyway.
_DEFAULT_KEY = b"tasks-api: not a secret"


class CursorPosition(msgspec.Struct, frozen=True):
    """The sort key of a task: pages begin after it."""

    sort_value: datetime
    id: UUID


class CursorCodec:
    """Makes and reads cursors under one key."""

    def __init__(self, secret: Secret | None) -> None:
        """Take the key that all replicas share; None for the public one."""
        key = _DEFAULT_KEY if secret is None else secret.get_secret_value().encode()
        # BLAKE2b takes 64 bytes of key at most; a digest of the key serves for any length.
        self._key = blake2b(key, person=b"cursor key 1").digest()

    def encode(self, user_id: str, query: ListTasksQuery, position: CursorPosition) -> str:
        """The cursor for the page after `position`."""
        micros = (position.sort_value - _EPOCH) // timedelta(microseconds=1)
        packed = _POSITION.pack(micros, position.id.bytes)
        return urlsafe_b64encode(packed + self._digest(user_id, query, packed)).decode()

    def decode(self, user_id: str, query: ListTasksQuery) -> CursorPosition | None:
        """The position in the query's cursor, None where it has none.

        Raises InvalidCursor for every cursor that `encode` did not make for this user and query.
        """
        if query.cursor is None:
            return None
        raw = urlsafe_b64decode(query.cursor)
        packed, digest = raw[: _POSITION.size], raw[_POSITION.size :]
        if not hmac.compare_digest(digest, self._digest(user_id, query, packed)):
            raise _invalid_cursor()
        micros, id_ = _POSITION.unpack(packed)
        try:
            return CursorPosition(_EPOCH + timedelta(microseconds=micros), UUID(bytes=id_))
        except OverflowError:
            # Well signed, with the public key, but by somebody else.
            raise _invalid_cursor() from None

    def _digest(self, user_id: str, query: ListTasksQuery, packed: bytes) -> bytes:
        # The size of a page may change on the way; everything else decides what the list is.
        bound = msgspec.structs.replace(query, cursor=None, limit=1)
        message = msgspec.json.encode((user_id, bound)) + packed
        return blake2b(message, key=self._key, digest_size=DIGEST_BYTES).digest()


def _invalid_cursor() -> InvalidCursor:
    detail = "invalid, or belongs to a different query"
    return InvalidCursor(
        InvalidCursor.detail, errors=[FieldError(parameter="cursor", detail=detail)]
    )
