"""Idempotent creation of any resource (contract, "Safe retries").

A key and its resource are stored in one transaction: both exist or neither does. The response
follows from the key's row and the request's payload. A repeated request therefore gets the same
response, also if the resource was changed or deleted since.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from hashlib import blake2b
from typing import Any
from uuid import UUID

import msgspec
from advanced_alchemy.base import DefaultBase
from sqlalchemy import (
    CTE,
    BigInteger,
    CheckConstraint,
    ClauseElement,
    ColumnElement,
    DateTime,
    Index,
    LargeBinary,
    Text,
    bindparam,
    delete,
    func,
    select,
    text,
    tuple_,
    union_all,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Mapped, mapped_column

from app.db.statements import FetchCallable
from app.http.problems import IdempotencyKeyInUse, IdempotencyKeyReused

TTL_HOURS = 24
EXPIRED_PER_CREATE = 10  # more than are made, so the expired ones of a user become fewer
SWEEP_LIMIT = 10_000

_NOW = func.now()
_TTL = text(f"interval '{TTL_HOURS} hours'")
_UTC = text("'UTC'")


class IdempotencyKeyRecord(DefaultBase):
    """A row of `idempotency_keys`: a key that a user has sent, and the resource it created."""

    __tablename__ = "idempotency_keys"

    user_id: Mapped[str] = mapped_column(Text(collation="C"), primary_key=True)
    key: Mapped[str] = mapped_column(Text(collation="C"), primary_key=True)
    payload_digest: Mapped[bytes]
    # Named before there were other resources than tasks.
    resource_id: Mapped[UUID] = mapped_column("task_id")
    etag: Mapped[UUID]
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))

    __table_args__ = (
        CheckConstraint("key ~ '^[!-~]{1,255}$'", name="key_form"),
        Index("ix_idempotency_keys_user_id_created_at", "user_id", "created_at"),
    )


Key = IdempotencyKeyRecord
_EXPIRED = Key.created_at < _NOW - _TTL
_USER_ID = bindparam("owner", type_=Key.user_id.type)
_KEY = bindparam("key", type_=Key.key.type)
_COLUMNS = (Key.payload_digest, Key.resource_id, Key.etag, Key.created_at)

# Waits for nobody, unlike the unique index, and ends with the statement, which behind a pooler is
# all that a connection can be counted on for.
_lock = select(
    func.pg_try_advisory_xact_lock(bindparam("lock", type_=BigInteger)).label("held")
).cte("lock")
_new_key = {
    "user_id": _USER_ID,
    "key": _KEY,
    "payload_digest": bindparam("payload_digest", type_=LargeBinary),
    "task_id": bindparam("resource_id", type_=Key.resource_id.type),
    "etag": bindparam("new_etag", type_=Key.etag.type),
    "created_at": _NOW,
}
_insert_key = insert(Key).from_select(
    list(_new_key), select(*_new_key.values()).select_from(_lock).where(_lock.c.held)
)
_claimed = (
    _insert_key.on_conflict_do_update(
        index_elements=[Key.user_id, Key.key],
        set_={
            name: _insert_key.excluded[name]
            for name in ("payload_digest", "task_id", "etag", "created_at")
        },
        # `_EXPIRED` by functions that are IMMUTABLE, which a distributed PostgreSQL wants here.
        where=Key.created_at
        < func.timezone(_UTC, func.timezone(_UTC, _insert_key.excluded.created_at) - _TTL),
    )
    .returning(*_COLUMNS)
    .cte("claimed")
)
_deleted_expired = (
    delete(Key)
    .where(
        Key.user_id == _USER_ID,
        Key.key.in_(
            select(Key.key)
            .where(Key.user_id == _USER_ID, Key.key != _KEY, _EXPIRED)
            .order_by(Key.created_at)
            .limit(EXPIRED_PER_CREATE)
            .with_for_update(skip_locked=True)
        ),
    )
    .cte("forgotten")
)
_existing = select(*_COLUMNS).where(Key.user_id == _USER_ID, Key.key == _KEY, ~_EXPIRED)

# One row: what the key stands for, made now or before. None while another request has the lock or
# has ended since this statement began, so that its row cannot be seen.
CLAIM_KEY = union_all(select(_claimed), _existing).add_cte(_deleted_expired)

# Without a lock of its own, which a distributed PostgreSQL does not accept for many users.
DELETE_EXPIRED_KEYS = delete(Key).where(
    tuple_(Key.user_id, Key.key).in_(
        select(Key.user_id, Key.key).where(_EXPIRED).limit(SWEEP_LIMIT)
    )
)


def create_statement(
    model: type[DefaultBase],
    values: Callable[[CTE], Mapping[str, ColumnElement[Any]]],
) -> ClauseElement:
    """One statement that claims a key and inserts a row of `model`. Its rows are `CLAIM_KEY`'s.

    `values` gets the claimed key, of which there is no row if the key was used before, and gives
    the columns of the new row.
    """
    columns = values(_claimed)
    inserted = insert(model).from_select(
        list(columns), select(*columns.values()).select_from(_claimed)
    )
    claim = union_all(select(_claimed), _existing)
    return claim.add_cte(inserted.cte("stored"), _deleted_expired)


class Claim(msgspec.Struct, frozen=True):
    """What an idempotency key stands for: the resource that its first request created."""

    id: UUID
    etag: UUID
    created_at: datetime


def read_claim(rows: Sequence[Any], payload_digest: bytes) -> Claim:
    """The claim in the rows of `CLAIM_KEY`.

    Raises IdempotencyKeyInUse and IdempotencyKeyReused.
    """
    if not rows:
        raise IdempotencyKeyInUse
    digest, resource_id, etag, created_at = rows[0]
    if digest != payload_digest:
        raise IdempotencyKeyReused
    return Claim(resource_id, etag, created_at)


async def delete_expired_keys(fetch: FetchCallable) -> None:
    """Delete expired keys of users who create nothing more. Others' go with their new ones."""
    await fetch(DELETE_EXPIRED_KEYS)


def idempotency_params(
    user_id: str, key: str, payload: msgspec.Struct, *, collection: str = ""
) -> dict[str, Any]:
    """The parameters `owner`, `key`, `payload_digest` and `lock` of `CLAIM_KEY`.

    `collection` tells resources with equal payloads apart. It is empty for tasks, whose keys were
    stored before there was another resource.
    """
    # Of the decoded payload: whitespace and the order of properties make no difference.
    payload_digest = blake2b(
        msgspec.json.encode(payload), digest_size=32, person=collection.encode()[:16]
    ).digest()
    # 64 bits: if two keys have the same lock, one of two requests is told to retry.
    lock = blake2b(f"{user_id} {key}".encode(), digest_size=8).digest()
    return {
        "owner": user_id,
        "key": key,
        "payload_digest": payload_digest,
        "lock": int.from_bytes(lock, "big", signed=True),
    }
