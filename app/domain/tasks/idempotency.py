"""The statement that makes one task of any number of requests (contract, "Safe retries").

A key is stored in the statement that stores its task: both are there or neither is. The answer
follows from the key's row and the request's own payload, so a repeated request gets it again
whatever has become of the task since.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import msgspec
from sqlalchemy import (
    BigInteger,
    Boolean,
    LargeBinary,
    bindparam,
    case,
    delete,
    func,
    select,
    text,
    tuple_,
    union_all,
)
from sqlalchemy.dialects.postgresql import insert

from app.domain.tasks.models import IdempotencyKeyRecord as Key
from app.domain.tasks.models import TaskRecord
from app.domain.tasks.schemas import TaskCreate

TTL_HOURS = 24
EXPIRED_PER_CREATE = 10  # more than are made, so the expired ones of a user become fewer
SWEEP_LIMIT = 10_000

NOW = func.now()
_TTL = text(f"interval '{TTL_HOURS} hours'")
_UTC = text("'UTC'")
_EXPIRED = Key.created_at < NOW - _TTL
_USER_ID = bindparam("owner", type_=Key.user_id.type)
_KEY = bindparam("key", type_=Key.key.type)
_COLUMNS = (Key.payload_digest, Key.task_id, Key.etag, Key.created_at)

# Waits for nobody, unlike the unique index, and ends with the statement, which behind a pooler is
# all that a connection can be counted on for.
_lock = select(
    func.pg_try_advisory_xact_lock(bindparam("lock", type_=BigInteger)).label("held")
).cte("lock")
_new_key = {
    "user_id": _USER_ID,
    "key": _KEY,
    "payload_digest": bindparam("payload_digest", type_=LargeBinary),
    "task_id": bindparam("task", type_=Key.task_id.type),
    "etag": bindparam("new_etag", type_=Key.etag.type),
    "created_at": NOW,
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
_new_task = {
    "user_id": _USER_ID,
    "id": _claimed.c.task_id,
    "title": bindparam("new_title", type_=TaskRecord.title.type),
    "description": bindparam("new_description", type_=TaskRecord.description.type),
    "completed_at": case((bindparam("new_completed", type_=Boolean), _claimed.c.created_at)),
    "created_at": _claimed.c.created_at,
    "updated_at": _claimed.c.created_at,
    "etag": _claimed.c.etag,
}
_inserted = (
    insert(TaskRecord)
    .from_select(list(_new_task), select(*_new_task.values()).select_from(_claimed))
    .cte("stored")
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
CREATE_IDEMPOTENTLY = union_all(select(_claimed), _existing).add_cte(_inserted, _deleted_expired)

# Without a lock of its own, which a distributed PostgreSQL does not accept for many users.
DELETE_EXPIRED_KEYS = delete(Key).where(
    tuple_(Key.user_id, Key.key).in_(
        select(Key.user_id, Key.key).where(_EXPIRED).limit(SWEEP_LIMIT)
    )
)


def idempotency_params(user_id: str, key: str, new: TaskCreate) -> dict[str, Any]:
    """The parameters of `CREATE_IDEMPOTENTLY` that the key and the payload decide."""
    # Of the decoded payload: white space and the order of members are no difference.
    payload = blake2b(msgspec.json.encode(new), digest_size=32).digest()
    # 64 bits: two keys with one lock would at worst send one of two requests away to come again.
    lock = blake2b(f"{user_id} {key}".encode(), digest_size=8).digest()
    return {
        "key": key,
        "payload_digest": payload,
        "lock": int.from_bytes(lock, "big", signed=True),
    }
