"""Tokens of the feed: opaque, tamper-evident positions (research/0078).

A token is the URL-safe base64 of the user's epoch (16 bytes), the revision (8), the ID (16) and the
kind (1) of the last item, the first needed revision (8), and a keyed digest (17) of these and the
user. The sum is a multiple of three, so base64 has no unused bits, which could be changed without
detection.
"""

from __future__ import annotations

import hmac
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import blake2b
from typing import NamedTuple
from uuid import UUID

from app.domain.changes.problems import InvalidToken
from app.http.problems import FieldError

DIGEST_BYTES = 17
_POSITION = struct.Struct(">16sq16sBq")
# All replicas need the same key, also if none is configured. It need not be secret: a forged token
# can only name a position in a feed that its client may read anyway.
_DEFAULT_KEY = b"tasks-api: not a secret"
_MIN_ID, _MAX_ID = UUID(int=0), UUID(int=2**128 - 1)
_MAX_KIND = 255


class FeedPosition(NamedTuple):
    """The place of an item in the feed of a user. The next page begins after it.

    `start` is the user's revision when the first walk began. The copy of the client was empty then,
    so it needs no earlier tombstone.
    """

    epoch: UUID
    revision: int
    id: UUID
    kind: int
    start: int

    @classmethod
    def end(cls, epoch: UUID, revision: int) -> FeedPosition:
        """Return the position after all items up to a revision."""
        return cls(epoch, revision, _MAX_ID, _MAX_KIND, revision)

    @property
    def complete_revision(self) -> int:
        """The last revision of which no item follows."""
        return self.revision if self.kind == _MAX_KIND else self.revision - 1


# Before all items. It is also the position of a user who has no epoch yet.
START = FeedPosition(_MIN_ID, -1, _MIN_ID, 0, 0)


class ChangeTokenCodec:
    """Encodes and decodes tokens with one key. All replicas share `secret`; None selects a key."""

    def __init__(self, secret: str | None) -> None:
        key = _DEFAULT_KEY if secret is None else secret.encode()
        # BLAKE2b accepts keys of at most 64 bytes; a digest of the key allows any length.
        self._key = blake2b(key, person=b"change token 1").digest()

    def encode(self, user_id: str, position: FeedPosition) -> str:
        """Return the token of a position."""
        epoch, revision, id_, kind, start = position
        packed = _POSITION.pack(epoch.bytes, revision, id_.bytes, kind, start)
        return urlsafe_b64encode(packed + self._digest(user_id, packed)).decode()

    def decode(self, user_id: str, token: str | None) -> FeedPosition:
        """Return the position of a token, or START without one. Raises InvalidToken."""
        if token is None:
            return START
        raw = urlsafe_b64decode(token)  # `ChangeToken` allows no other text
        packed, digest = raw[: _POSITION.size], raw[_POSITION.size :]
        if not hmac.compare_digest(digest, self._digest(user_id, packed)):
            raise _invalid_token()
        epoch, revision, id_, kind, start = _POSITION.unpack(packed)
        return FeedPosition(UUID(bytes=epoch), revision, UUID(bytes=id_), kind, start)

    def _digest(self, user_id: str, packed: bytes) -> bytes:
        return blake2b(user_id.encode() + packed, key=self._key, digest_size=DIGEST_BYTES).digest()


def _invalid_token() -> InvalidToken:
    detail = "not issued by this service for this user"
    return InvalidToken(InvalidToken.detail, errors=[FieldError(parameter="since", detail=detail)])
