"""Entity tags of collections, made of the epoch and the revision of a user (research/0082)."""

from __future__ import annotations

from hashlib import blake2b
from typing import NamedTuple

from sqlalchemy import LargeBinary, bindparam, func, select

from app.db.revisions import UserRecord
from app.db.statements import FetchCallable
from app.http.etags import ETagCondition

ETAG_BYTES = 16

# For the columns of a statement that reads a collection. The rows and the version are then of one
# snapshot.
VERSION = (
    select(
        func.uuid_send(UserRecord.epoch, type_=LargeBinary).concat(
            func.int8send(UserRecord.revision, type_=LargeBinary)
        )
    )
    .where(UserRecord.user_id == bindparam("owner", type_=UserRecord.user_id.type))
    .scalar_subquery()
)
READ_VERSION = select(VERSION)


class CollectionVersion(NamedTuple):
    """What the collections of a user contain: every change up to a revision.

    It is None for a user without a revision, such as an unknown one.
    """

    value: bytes | None

    @property
    def etag(self) -> str:
        """The weak entity tag of all collections of the user."""
        digest = blake2b(self.value or b"", digest_size=ETAG_BYTES, person=b"collection")
        return f'W/"{digest.hexdigest()}"'

    def is_in(self, if_none_match: str) -> bool:
        """Return whether a client with this `If-None-Match` has the collection.

        Changes of a user without a revision are not counted, so no tag proves anything.
        """
        condition = ETagCondition.parse(if_none_match)
        return condition is not None and (
            condition.any or (self.value is not None and condition.matches_weak(self.etag))
        )


async def read_version(fetch: FetchCallable, user_id: str) -> CollectionVersion:
    """Return the current version of a user's collections."""
    ((value,),) = await fetch(READ_VERSION, {"owner": user_id})
    return CollectionVersion(value)
