"""The statements of the feed."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    ColumnElement,
    Integer,
    Select,
    Subquery,
    Text,
    Uuid,
    and_,
    any_,
    bindparam,
    cast,
    exists,
    func,
    literal_column,
    select,
    tuple_,
    union_all,
)
from sqlalchemy.dialects.postgresql import ARRAY, insert

from app.db.revisions import RevisedRecord, TombstoneRecord, UserRecord
from app.domain.lists.models import TaskListRecord
from app.domain.tasks.models import TaskRecord
from app.domain.tasks.pages import MAX_PAGE_BYTES
from app.domain.tasks.rows import COLUMNS as TASK_COLUMNS

_OWNER = bindparam("owner", type_=UserRecord.user_id.type)
_LIMIT = bindparam("row_limit", type_=Integer)
_REVISION = bindparam("since_revision", type_=BigInteger)
_ID = bindparam("since_id", type_=Uuid)
_KIND = bindparam("since_kind", type_=Integer)
_FALSE = literal_column("false", Boolean)
_TRUE = literal_column("true", Boolean)
_ONE = literal_column("1", Integer)
LIST_COLUMNS = (
    TaskListRecord.id,
    TaskListRecord.user_id,
    TaskListRecord.name,
    TaskListRecord.stored_position,
    TaskListRecord.created_at,
    TaskListRecord.updated_at,
    TaskListRecord.etag,
)


def _keys(
    record: type[RevisedRecord | TombstoneRecord],
    kind: ColumnElement[int],
    deleted: ColumnElement[bool],
    *conditions: ColumnElement[bool],
) -> Select[*tuple[Any, ...]]:
    """Read the first keys of one table after a position, in the order of an index."""
    key = (record.revision, record.id)
    return (
        select(*key, kind.label("kind"), deleted.label("deleted"))
        .where(
            record.user_id == _OWNER,
            # The first condition is the range of the index.
            tuple_(*key) >= tuple_(_REVISION, _ID),
            tuple_(*key, kind) > tuple_(_REVISION, _ID, _KIND),
            *conditions,
        )
        .order_by(*key)
        .limit(_LIMIT)
    )


def _live(record: type[RevisedRecord]) -> Select[*tuple[Any, ...]]:
    return _keys(record, literal_column(str(record.kind), Integer), _FALSE)


def _is_recreated(record: type[RevisedRecord]) -> ColumnElement[bool]:
    return and_(
        TombstoneRecord.kind == literal_column(str(record.kind)),
        exists().where(record.user_id == _OWNER, record.id == TombstoneRecord.id),
    )


_ALL_KEYS = union_all(
    _live(TaskListRecord),
    _live(TaskRecord),
    _keys(
        TombstoneRecord,
        cast(TombstoneRecord.kind, Integer),
        _TRUE,
        ~_is_recreated(TaskListRecord),
        ~_is_recreated(TaskRecord),
    ),
).subquery("all_keys")
_ORDER = (_ALL_KEYS.c.revision, _ALL_KEYS.c.id, _ALL_KEYS.c.kind)
_PAGE = select(_ALL_KEYS).order_by(*_ORDER).limit(_LIMIT).subquery("page")


# Each is restricted to the user before the join, as distributed PostgreSQL requires.
_USER = (
    select(UserRecord.epoch, UserRecord.revision, UserRecord.oldest_revision)
    .where(UserRecord.user_id == _OWNER)
    .subquery("current_user")
)
_TASKS = select(*TASK_COLUMNS).where(TaskRecord.user_id == _OWNER).subquery("current_tasks")
_LISTS = select(*LIST_COLUMNS).where(TaskListRecord.user_id == _OWNER).subquery("current_lists")


def _is_row(rows: Subquery, kind: int) -> ColumnElement[bool]:
    return and_(
        rows.c.id == _PAGE.c.id,
        _PAGE.c.kind == literal_column(str(kind)),
        ~_PAGE.c.deleted,
    )


_ZERO = literal_column("0", Integer)
_OCTETS = func.coalesce(
    func.octet_length(_TASKS.c.title)
    + func.octet_length(_TASKS.c.labels)
    + func.coalesce(func.octet_length(_TASKS.c.description), _ZERO),
    _ZERO,
)
_TOTAL = cast(
    func.sum(_OCTETS).over(order_by=(_PAGE.c.revision, _PAGE.c.id, _PAGE.c.kind), rows=(None, 0)),
    BigInteger,
)
_ROWS = (
    select(
        _PAGE.c.revision,
        _PAGE.c.id,
        _PAGE.c.kind,
        _PAGE.c.deleted,
        *(column.label(f"task_{number}") for number, column in enumerate(_TASKS.c)),
        *(column.label(f"list_{number}") for number, column in enumerate(_LISTS.c)),
        (_TOTAL - _OCTETS).label("octets_before"),
    )
    .select_from(_PAGE)
    .outerjoin(_TASKS, _is_row(_TASKS, TaskRecord.kind))
    .outerjoin(_LISTS, _is_row(_LISTS, TaskListRecord.kind))
    .subquery("rows")
)
_RETURNED = [column for column in _ROWS.c if column.name != "octets_before"]
USER_COLUMNS = tuple(_USER.c)
# One row at least, with the columns of the user. The row of the user and the items are of one
# snapshot. The last row may exceed the limit of bytes.
READ_CHANGES = (
    select(*USER_COLUMNS, *_RETURNED)
    .select_from(select(_ONE.label("one")).subquery("one"))
    .outerjoin(_USER, literal_column("true", Boolean))
    .outerjoin(_ROWS, _ROWS.c.octets_before <= literal_column(str(MAX_PAGE_BYTES)))
    .order_by(_ROWS.c.revision, _ROWS.c.id, _ROWS.c.kind)
)
# Of the users for whom requests wait. They may be on any shard (research/0083).
READ_REVISIONS = select(UserRecord.user_id, UserRecord.epoch, UserRecord.revision).where(
    UserRecord.user_id == any_(bindparam("owners", type_=ARRAY(Text)))
)
# For a user who has only rows of version 1.1.0 (research/0080).
_FIRST = insert(UserRecord).values(
    user_id=_OWNER, revision=literal_column("0"), epoch=bindparam("epoch", type_=Uuid)
)
CREATE_USER = _FIRST.on_conflict_do_nothing(index_elements=[UserRecord.user_id])
