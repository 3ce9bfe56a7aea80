"""Idempotent creation of any resource (contract, "Safe retries").

A key and its resource are stored in one transaction: both exist or neither does. The response
follows from the key's row and the request's payload, or it is stored with the key. A repeated
request therefore gets the same response, also if the resource was changed or deleted since.
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
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Mapped, mapped_column

from app.db.revisions import GATE, RevisedRecord, revised
from app.db.statements import FetchCallable
from app.http.problems import IdempotencyKeyInUse, IdempotencyKeyReused

TTL_HOURS = 24
EXPIRED_PER_CREATE = 10  # more than one, so that the number of a user's expired keys decreases
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
    # The column name is older than the second resource.
    resource_id: Mapped[UUID] = mapped_column("task_id")
    etag: Mapped[UUID]
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    # Of a request whose response does not follow from the other columns and the payload.
    response: Mapped[bytes | None]

    __table_args__ = (
        CheckConstraint("key ~ '^[!-~]{1,255}$'", name="key_form"),
        Index("ix_idempotency_keys_user_id_created_at", "user_id", "created_at"),
    )


Key = IdempotencyKeyRecord
_EXPIRED = Key.created_at < _NOW - _TTL
_USER_ID = bindparam("owner", type_=Key.user_id.type)
_KEY = bindparam("key", type_=Key.key.type)
_COLUMNS = (Key.payload_digest, Key.resource_id, Key.etag, Key.created_at)

# This lock never waits, unlike the unique index. It ends with the statement: behind a transaction
# pooler the next statement may use another connection. The lock of the user is the first lock.
_lock = (
    select(func.pg_try_advisory_xact_lock(bindparam("lock", type_=BigInteger)).label("acquired"))
    .select_from(GATE)
    .cte("lock")
)
_new_key = {
    "user_id": _USER_ID,
    "key": _KEY,
    "payload_digest": bindparam("payload_digest", type_=LargeBinary),
    "task_id": bindparam("resource_id", type_=Key.resource_id.type),
    "etag": bindparam("new_etag", type_=Key.etag.type),
    "created_at": _NOW,
}
_insert_key = insert(Key).from_select(
    list(_new_key), select(*_new_key.values()).select_from(_lock).where(_lock.c.acquired)
)
_claimed = (
    _insert_key.on_conflict_do_update(
        index_elements=[Key.user_id, Key.key],
        set_={
            name: _insert_key.excluded[name]
            for name in ("payload_digest", "task_id", "etag", "created_at", "response")
        },
        # `_EXPIRED` with IMMUTABLE functions, which distributed PostgreSQL requires here.
        where=Key.created_at
        < func.timezone(_UTC, func.timezone(_UTC, _insert_key.excluded.created_at) - _TTL),
    )
    .returning(*_COLUMNS)
    .cte("claimed")
)
# A CTE, because PostgreSQL may evaluate a subquery several times, each with the next keys.
_expired = (
    select(Key.key)
    .where(Key.user_id == _USER_ID, Key.key != _KEY, _EXPIRED)
    .order_by(Key.created_at)
    .limit(EXPIRED_PER_CREATE)
    .with_for_update(skip_locked=True)
    .cte("expired")
)
_deleted_expired = (
    delete(Key)
    .where(Key.user_id == _USER_ID, Key.key.in_(select(_expired.c.key)))
    .cte("deleted_expired")
)
_existing = select(*_COLUMNS).where(Key.user_id == _USER_ID, Key.key == _KEY, ~_EXPIRED)

# One row: the claim of the key, new or existing. No row while another request has the lock, or if
# that request committed after this statement's snapshot.
_claim = union_all(select(_claimed), _existing)
CLAIM_KEY = _claim.add_cte(_deleted_expired)

# For a session, after CLAIM_KEY.
READ_RESPONSE = select(Key.response).where(Key.user_id == _USER_ID, Key.key == _KEY)
STORE_RESPONSE = (
    update(Key)
    # A parameter of an UPDATE has not the name of a column.
    .where(Key.user_id == _USER_ID, Key.key == bindparam("used_key", type_=Key.key.type))
    .values(response=bindparam("new_response", type_=LargeBinary))
    .execution_options(dml_strategy="core_only", synchronize_session=False)
)

# No row locks: distributed PostgreSQL does not accept them for several users.
DELETE_EXPIRED_KEYS = delete(Key).where(
    tuple_(Key.user_id, Key.key).in_(
        select(Key.user_id, Key.key).where(_EXPIRED).limit(SWEEP_LIMIT)
    )
)


def create_statement(
    model: type[RevisedRecord],
    values: Callable[[CTE], Mapping[str, ColumnElement[Any]]],
) -> ClauseElement:
    """Build a statement that claims a key, takes a revision and inserts a row of `model`.

    It returns the rows of `CLAIM_KEY`. `values` maps the claimed key to the columns of the new row.
    The claimed key has no row if the key was used before.
    """
    revision = revised(_claimed)
    columns = {**values(_claimed), "revision": revision.c.revision}
    inserted = insert(model).from_select(
        list(columns), select(*columns.values()).select_from(_claimed, revision)
    )
    return _claim.add_cte(inserted.cte("inserted"), _deleted_expired)


class Claim(msgspec.Struct, frozen=True):
    """The resource that the first request with an idempotency key created."""

    id: UUID
    etag: UUID
    created_at: datetime


def read_claim(rows: Sequence[Any], payload_digest: bytes) -> Claim:
    """Return the claim in the rows of `CLAIM_KEY`.

    Raises IdempotencyKeyInUse and IdempotencyKeyReused.
    """
    if not rows:
        raise IdempotencyKeyInUse
    digest, resource_id, etag, created_at = rows[0]
    if digest != payload_digest:
        raise IdempotencyKeyReused
    return Claim(resource_id, etag, created_at)


async def delete_expired_keys(fetch: FetchCallable) -> None:
    """Delete expired keys of inactive users. Each creation deletes expired keys of its own user."""
    await fetch(DELETE_EXPIRED_KEYS)


def advisory_lock_key(user_id: str, name: object) -> int:
    """Return the 64-bit key of PostgreSQL's advisory lock for something that a user named."""
    digest = blake2b(f"{user_id} {name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def idempotency_params(
    user_id: str, key: str, payload: msgspec.Struct, *, collection: str = ""
) -> dict[str, Any]:
    """Return the parameters `owner`, `key`, `payload_digest` and `lock` of `CLAIM_KEY`.

    `collection` distinguishes resources with equal payloads. It is empty for tasks, whose stored
    keys are older than the second resource.
    """
    # Digest of the decoded payload: whitespace and the order of properties make no difference.
    payload_digest = blake2b(
        msgspec.json.encode(payload), digest_size=32, person=collection.encode()[:16]
    ).digest()
    return {
        "owner": user_id,
        "key": key,
        "payload_digest": payload_digest,
        # If two keys have the same lock, one of two concurrent requests receives 409 and retries.
        "lock": advisory_lock_key(user_id, key),
    }
