"""Revisions: the number of the last change of a user, in the row of the user and in changed rows.

Every change begins with a lock that all changes of the user share, then checks and locks its rows,
and then takes a revision (research/0077). Revisions therefore become visible in their order, and a
reader of `revision > n` misses nothing (research/0076).
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar
from uuid import UUID

from advanced_alchemy.base import DefaultBase
from sqlalchemy import (
    CTE,
    BigInteger,
    ColumnElement,
    DateTime,
    FromClause,
    Integer,
    Select,
    SmallInteger,
    Text,
    Uuid,
    bindparam,
    delete,
    func,
    literal_column,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.dialects.postgresql.dml import Insert
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.sql.dml import ReturningInsert

from app.db.models import ResourceRecord

TOMBSTONE_DAYS = 30
# More than the deletes between two removals, so that the number of old tombstones decreases.
MAX_REMOVED = 100

_TTL = text(f"interval '{TOMBSTONE_DAYS} days'")
_ONE = literal_column("1", Integer)
_ZERO = literal_column("0", BigInteger)
_OWNER = bindparam("owner", type_=Text)


class UserRecord(DefaultBase):
    """A row of `users`. A user has one from the first change on."""

    __tablename__ = "users"

    user_id: Mapped[str] = mapped_column(Text(collation="C"), primary_key=True)
    revision: Mapped[int] = mapped_column(BigInteger)
    epoch: Mapped[UUID]
    # The highest revision of a removed tombstone.
    oldest_revision: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))

    __table_args__ = ({"postgresql_with": {"fillfactor": 50}},)


class TombstoneRecord(DefaultBase):
    """A row of `tombstones`: a task or list that was deleted."""

    __tablename__ = "tombstones"

    # The primary key is the order of the feed, and the only index.
    user_id: Mapped[str] = mapped_column(Text(collation="C"), primary_key=True)
    revision: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    id: Mapped[UUID] = mapped_column(primary_key=True)
    # Without a CHECK constraint, which takes a twentieth of the time of a delete.
    kind: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    deleted_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class RevisedRecord(ResourceRecord):
    """A row with the revision of its last change. It leaves a tombstone."""

    __abstract__ = True

    kind: ClassVar[int]  # in `tombstones`
    revision: Mapped[int] = mapped_column(BigInteger, server_default=text("0"), sort_order=7)


# All changes of a user wait for this lock. It ends with the transaction.
LOCK_USER = select(
    func.pg_advisory_xact_lock(func.hashtextextended(_OWNER, literal_column("0", BigInteger)))
)
GATE = LOCK_USER.cte("gate")
# In the condition of a row that is locked: PostgreSQL evaluates it before it locks the row.
IS_GATE_PASSED: ColumnElement[bool] = select(GATE).exists()


def take_revision(
    source: FromClause,
    *conditions: ColumnElement[bool],
    removed: CTE | None = None,
    needs_current_snapshot: bool = False,
) -> ReturningInsert[int]:
    """Build the statement that increases the revision of a user and returns it.

    It does nothing if `source` has no row that meets the conditions. `source` has at most one.
    `removed` has the revisions of the tombstones that the statement removes. With
    `needs_current_snapshot`, it does nothing either if another request took a revision between the
    snapshot of the statement and the lock of the user.
    """
    oldest: ColumnElement[Any] = _ZERO
    first_revision: ColumnElement[Any] = _ONE
    if removed is not None:
        highest = select(func.max(removed.c.revision)).scalar_subquery()
        oldest = func.coalesce(highest, _ZERO)
    # A new user gets an epoch. It is random, as is the ETag of the first change.
    epoch = bindparam("new_etag", type_=Uuid)
    if needs_current_snapshot:
        current = select(UserRecord.revision).where(UserRecord.user_id == _OWNER)
        first_revision = func.coalesce(current.scalar_subquery(), _ZERO) + _ONE
    first = select(_OWNER, first_revision, epoch, oldest).select_from(source).where(*conditions)
    columns = ["user_id", "revision", "epoch", "oldest_revision"]
    statement = insert(UserRecord).from_select(columns, first)
    next_values: dict[str, Any] = {"revision": UserRecord.revision + _ONE}
    if removed is not None:
        next_values["oldest_revision"] = func.greatest(
            UserRecord.oldest_revision, statement.excluded.oldest_revision
        )
    is_next = UserRecord.revision + _ONE == statement.excluded.revision
    return statement.on_conflict_do_update(
        index_elements=[UserRecord.user_id],
        set_=next_values,
        where=is_next if needs_current_snapshot else None,
    ).returning(UserRecord.revision)


def revised(
    source: FromClause,
    *conditions: ColumnElement[bool],
    removed: CTE | None = None,
    needs_current_snapshot: bool = False,
) -> CTE:
    """Build the part of a statement that takes a revision, with the column `revision`."""
    statement = take_revision(
        source, *conditions, removed=removed, needs_current_snapshot=needs_current_snapshot
    )
    return statement.cte("revised")


def removed_tombstones(*conditions: ColumnElement[bool]) -> CTE:
    """Build the part of a statement that removes old tombstones of a user, the oldest first.

    All tombstones of one revision are as old as each other, and are removed together.
    """
    oldest = (
        select(TombstoneRecord.revision)
        .where(TombstoneRecord.user_id == _OWNER)
        .order_by(TombstoneRecord.revision)
        .limit(literal_column(str(MAX_REMOVED)))
        .subquery("oldest")
    )
    return (
        delete(TombstoneRecord)
        .where(
            TombstoneRecord.user_id == _OWNER,
            # A range of the index, so that the rows of other tombstones are not read.
            TombstoneRecord.revision <= select(func.max(oldest.c.revision)).scalar_subquery(),
            TombstoneRecord.deleted_at < func.now() - _TTL,
            *conditions,
        )
        .returning(TombstoneRecord.revision)
        .cte("removed")
    )


def leave_tombstones(kind: int, deleted: Select[*tuple[Any, ...]]) -> Insert:
    """Build the statement that inserts a tombstone for each row (`id`, `revision`) of `deleted`."""
    rows = deleted.subquery("gone").c
    values = select(_OWNER, rows.revision, rows.id, literal_column(str(kind), Integer), func.now())
    return insert(TombstoneRecord).from_select(
        ["user_id", "revision", "id", "kind", "deleted_at"], values
    )


# Every user gets the same one: distributed PostgreSQL accepts no random function here.
_renewed = (
    update(UserRecord)
    .values(epoch=bindparam("epoch", type_=Uuid))
    .returning(UserRecord.user_id)
    .cte("renewed")
)
RENEW_EPOCHS = select(func.count()).select_from(_renewed)

_CHANGED = select(_ONE.label("changed")).subquery("changes")
# For transactions of several statements, after LOCK_USER.
_RAW = {"dml_strategy": "raw"}  # the parameters are not columns of entities
TAKE_REVISION = take_revision(_CHANGED).execution_options(**_RAW)
TAKE_REVISION_OF_DELETE = take_revision(_CHANGED, removed=removed_tombstones()).execution_options(
    **_RAW
)
LEAVE_TOMBSTONES = {
    kind: leave_tombstones(
        kind,
        select(
            bindparam("id", type_=Uuid).label("id"),
            bindparam("revision", type_=BigInteger).label("revision"),
        ),
    ).execution_options(**_RAW)
    for kind in (0, 1)
}
