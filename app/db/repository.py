"""Base classes of the repositories.

`ResourceRepository` is for ordinary resources, `StatementRepository` for those whose CPU time per
request matters (research/0059).
"""

from __future__ import annotations

from collections.abc import Mapping
from time import monotonic
from typing import Any, ClassVar, Protocol, TypeVar
from uuid import UUID, uuid4

import msgspec
from advanced_alchemy.filters import LimitOffset
from advanced_alchemy.repository import SQLAlchemyAsyncRepository
from asyncpg import Record
from sqlalchemy import (
    ARRAY,
    ClauseElement,
    ColumnElement,
    Uuid,
    bindparam,
    func,
    select,
    tuple_,
    update,
)
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.sql.dml import ReturningInsert
from uuid_utils.compat import uuid7

from app.db.idempotency import CLAIM_KEY, advisory_lock_key, idempotency_params, read_claim
from app.db.models import ResourceRecord
from app.db.positions import (
    SIBLINGS_TO_READ,
    NoRoomError,
    PositionedRecord,
    Sibling,
    position_between,
    respace,
)
from app.db.revisions import (
    LEAVE_TOMBSTONES,
    LOCK_USER,
    TAKE_REVISION,
    TAKE_REVISION_OF_DELETE,
    RevisedRecord,
)
from app.db.statements import FetchCallable
from app.http.etags import ETagCondition, format_etag
from app.http.pagination import CursorPosition, PageQuery, SortValue
from app.http.problems import FieldError, PreconditionFailed, ProblemError, ReferenceNotFound

RecordT = TypeVar("RecordT", bound=ResourceRecord)
RevisedT = TypeVar("RevisedT", bound=RevisedRecord)
PositionedT = TypeVar("PositionedT", bound=PositionedRecord)


class ChangeStatement(Protocol):
    """Builds the statement of a conditional change."""

    def __call__(self, *, any_etag: bool) -> ClauseElement:
        """`any_etag` is false for a statement with the condition `etag_matches`."""
        ...


def etag_matches(column: InstrumentedAttribute[Any] | ColumnElement[Any]) -> ColumnElement[bool]:
    """Build the condition that a row has one of the ETags in the parameter `etags`."""
    return column == func.any(bindparam("etags", type_=ARRAY(Uuid)))


class StatementRepository:
    """A repository whose operations are one prepared statement each.

    It has no session and no state of a request, so one instance handles all requests.
    """

    not_found: ClassVar[type[ProblemError]]
    by_id: ClassVar[ClauseElement]  # reads the row that a change names

    def __init__(self, fetch: FetchCallable) -> None:
        self.fetch = fetch

    async def _change(
        self,
        statement: ChangeStatement,
        values: Mapping[str, Any],
        if_match: ETagCondition | None,
    ) -> Record:
        """Execute a conditional update or delete, and return its row.

        If no row matches, a second statement distinguishes 404 from 412. Both statements share one
        time limit.

        Raises `not_found` and PreconditionFailed.
        """
        started_at = monotonic()
        any_etag = if_match is None or if_match.any
        etags = () if if_match is None else if_match.strong
        rows = await self.fetch(statement(any_etag=any_etag), {**values, "etags": etags})
        if rows:
            return rows[0]
        if any_etag or not await self.fetch(self.by_id, values, started_at=started_at):
            raise self.not_found
        raise PreconditionFailed


class UserTransaction:
    """The transaction of one user in a session, which `Database.session` commits or rolls back."""

    def __init__(self, session: AsyncSession, user_id: str) -> None:
        self._session = session
        self._user_id = user_id

    async def _execute(self, statement: ClauseElement, **params: Any) -> Any:  # noqa: ANN401 - SQLAlchemy's
        executable: Any = statement
        return await self._session.execute(executable, {"owner": self._user_id, **params})


class ResourceRepository(SQLAlchemyAsyncRepository[RecordT]):
    """Advanced Alchemy's repository for one resource. Each request has an instance and a session.

    `Database.session` opens the session and commits it. All inherited methods may be called.
    """

    not_found: ClassVar[type[ProblemError]]
    # The attribute that orders pages, and whether the order is descending. Then follows the ID.
    sort: ClassVar[tuple[str, bool]] = ("created_at", True)

    def __init__(self, *, session: AsyncSession, **options: Any) -> None:  # noqa: ANN401 - the library's
        # `Database.session` translates exceptions. The library would report every error of the
        # driver as a conflict (research/0006). INSERT and UPDATE return computed columns.
        options = {"wrap_exceptions": False, "auto_refresh": False, **options}
        super().__init__(session=session, **options)

    async def find(
        self, user_id: str, id_: UUID, *, if_match: ETagCondition | None = None, lock: bool = False
    ) -> RecordT:
        """Return one row. `lock` locks it until the end of the transaction.

        Raises `not_found` and PreconditionFailed.
        """
        # FOR NO KEY UPDATE: inserts of rows that refer to this one need not wait.
        for_update = {"key_share": True} if lock else None
        record = await self.get_one_or_none(user_id=user_id, id=id_, with_for_update=for_update)
        if record is None:
            raise self.not_found
        if if_match is not None and not if_match.matches_strong(format_etag(record.etag)):
            raise PreconditionFailed
        return record

    async def page(
        self,
        user_id: str,
        query: PageQuery,
        after: CursorPosition | None,
        *filters: ColumnElement[bool],
    ) -> tuple[list[RecordT], CursorPosition | None]:
        """Return the first rows after a position in the order of `sort`, and the next position.

        The next position is None after the last page.
        """
        model = self.model_type
        attribute, descending = self.sort
        if after is not None:
            filters = (*filters, self._follows(after.sort_value, after.id))
        rows = await self.get_many(
            model.user_id == user_id,
            *filters,
            LimitOffset(limit=query.limit + 1, offset=0),
            order_by=[(attribute, descending), ("id", descending)],
        )
        page = rows[: query.limit]
        if len(page) == len(rows):
            return page, None
        return page, CursorPosition(getattr(page[-1], attribute), page[-1].id)

    def _follows(self, sort_value: SortValue, id_: UUID) -> ColumnElement[bool]:
        """Build the condition that a row follows another one in the order of `sort`."""
        attribute, descending = self.sort
        key = tuple_(getattr(self.model_type, attribute), self.model_type.id)
        other = (sort_value, id_)
        return key < other if descending else key > other

    async def create(
        self, user_id: str, values: Mapping[str, Any], payload: msgspec.Struct, key: str | None
    ) -> RecordT:
        """Insert a row, at most once for an idempotency key.

        Raises IdempotencyKeyInUse and IdempotencyKeyReused.
        """
        await self._begin_change(user_id)
        record = self.model_type(user_id=user_id, **values)
        if key is None:
            return await self.add(record)
        collection = str(self.model_type.__tablename__)
        params = idempotency_params(user_id, key, payload, collection=collection)
        params |= {"resource_id": uuid7(), "new_etag": uuid4()}
        claimed = await self.session.execute(CLAIM_KEY, params)
        claim = read_claim(claimed.all(), params["payload_digest"])
        record.id, record.etag = claim.id, claim.etag
        record.created_at = record.updated_at = claim.created_at
        return await self.add(record) if claim.id == params["resource_id"] else record

    async def change(
        self, user_id: str, id_: UUID, values: Mapping[str, Any], if_match: ETagCondition | None
    ) -> RecordT:
        """Change columns of a row. Raises `not_found` and PreconditionFailed.

        If there are values, this is a change even if they are those of the row.
        """
        if values:
            await self._begin_change(user_id)
        record = await self.find(user_id, id_, if_match=if_match, lock=True)
        return await self._write(record, values) if values else record

    async def _write(self, record: RecordT, values: Mapping[str, Any]) -> RecordT:
        """Change columns of a row that `find` has locked."""
        # The library writes nothing if all values are those of the row. The ETag is always new.
        changed = self.model_type(user_id=record.user_id, id=record.id, etag=uuid4(), **values)
        return await self.update(changed)

    async def put(
        self,
        user_id: str,
        id_: UUID,
        values: Mapping[str, Any],
        *,
        if_match: ETagCondition | None,
        must_not_exist: bool,
    ) -> tuple[RecordT, bool]:
        """Insert or replace a row. Return it and whether it is new. Raises PreconditionFailed."""
        if if_match is not None and must_not_exist:
            raise PreconditionFailed(PreconditionFailed.contradictory)
        await self._begin_change(user_id)
        # There may be no row to lock, so its ID is locked.
        await self._lock(user_id, id_)
        try:
            record = await self.find(user_id, id_, if_match=if_match, lock=True)
        except self.not_found:
            if if_match is not None:
                raise PreconditionFailed from None
            return await self.add(self.model_type(user_id=user_id, id=id_, **values)), True
        if must_not_exist:
            raise PreconditionFailed(PreconditionFailed.exists)
        return await self._write(record, values), False

    async def remove(self, user_id: str, id_: UUID, if_match: ETagCondition | None) -> None:
        """Delete a row. Raises `not_found` and PreconditionFailed."""
        await self._begin_change(user_id)
        await self.find(user_id, id_, if_match=if_match, lock=True)
        await self.delete((user_id, id_))

    async def _begin_change(self, user_id: str) -> None:
        """Do what must precede every change of a user."""

    async def _lock(self, user_id: str, name: object) -> None:
        """Lock something of a user that is not a row, until the end of the transaction."""
        lock = func.pg_advisory_xact_lock(advisory_lock_key(user_id, name))
        await self.session.execute(select(lock))


class RevisedRepository(ResourceRepository[RevisedT]):
    """A repository whose changes take a revision and leave tombstones (research/0076).

    Each change begins with the lock of the user, so that no other change of this user follows its
    checks.
    """

    _revision: int | None = None  # of the transaction

    async def remove(self, user_id: str, id_: UUID, if_match: ETagCondition | None) -> None:
        """Delete a row, and leave a tombstone."""
        await super().remove(user_id, id_, if_match)
        revision = await self._take_revision(user_id, TAKE_REVISION_OF_DELETE)
        params = {"owner": user_id, "id": id_, "revision": revision}
        await self.session.execute(LEAVE_TOMBSTONES[self.model_type.kind], params)

    async def add(self, data: RevisedT, **options: Any) -> RevisedT:  # noqa: ANN401 - the library's
        """Insert a row with a revision."""
        data.revision = await self._take_revision(data.user_id)
        return await super().add(data, **options)

    async def _write(self, record: RevisedT, values: Mapping[str, Any]) -> RevisedT:
        revision = await self._take_revision(record.user_id)
        return await super()._write(record, {**values, "revision": revision})

    async def _begin_change(self, user_id: str) -> None:
        """Wait for other changes of the user, until the end of the transaction."""
        await self.session.execute(LOCK_USER, {"owner": user_id})

    async def _take_revision(
        self, user_id: str, statement: ReturningInsert[int] = TAKE_REVISION
    ) -> int:
        """Increase the revision of the user, once in a transaction, and return it."""
        if self._revision is None:
            params = {"owner": user_id, "new_etag": uuid4()}
            self._revision = (await self.session.execute(statement, params)).scalar_one()
        return self._revision


class PositionedRepository(RevisedRepository[PositionedT]):
    """A repository of rows in an order that the user determines."""

    sort = ("position", False)
    unknown_neighbor: ClassVar[str]  # the detail of an error in `after_id`

    async def move(
        self, user_id: str, id_: UUID, after_id: UUID | None, if_match: ETagCondition | None
    ) -> PositionedT:
        """Place a row directly after another one of the user, or first.

        Raises `not_found`, PreconditionFailed and ReferenceNotFound.
        """
        # Otherwise a row that one move places among others would be in a different place after
        # another move has respaced them.
        await self._begin_change(user_id)
        record = await self.find(user_id, id_, if_match=if_match, lock=True)
        neighbor = None
        if after_id is not None:
            neighbor = await self.get_one_or_none(user_id=user_id, id=after_id)
            if neighbor is None or neighbor is record:
                error = FieldError(pointer="/after_id", detail=self.unknown_neighbor)
                raise ReferenceNotFound(errors=[error])
        following = await self._siblings(record, neighbor, 1)
        try:
            position = position_between(
                neighbor.position if neighbor else None,
                following[0].position if following else None,
                current=record.position,
            )
        except NoRoomError:
            position = await self._respace(record, neighbor)
        return await self._write(record, {"stored_position": position})

    async def _siblings(
        self, record: PositionedT, neighbor: PositionedT | None, limit: int, *, before: bool = False
    ) -> list[Sibling]:
        """Return the rows after a neighbor in ascending order, without the row that moves.

        With `before`, return the neighbor and the rows before it in descending order.
        """
        conditions = [self.model_type.user_id == record.user_id, self.model_type.id != record.id]
        if neighbor is not None:
            follows = self._follows(neighbor.position, neighbor.id)
            conditions.append(~follows if before else follows)
        rows = await self.get_many(
            *conditions,
            LimitOffset(limit=limit, offset=0),
            order_by=[("position", before), ("id", before)],
        )
        return [Sibling(row.id, row.position) for row in rows]

    async def _respace(self, record: PositionedT, neighbor: PositionedT | None) -> str:
        """Make room after a neighbor, and return the position of the row that moves."""
        before = await self._siblings(record, neighbor, SIBLINGS_TO_READ, before=True)
        after = await self._siblings(record, neighbor, SIBLINGS_TO_READ)
        position, neighbors = respace(before[::-1], after)
        revision = await self._take_revision(record.user_id)
        rows = [
            {
                "user_id": record.user_id,
                "id": id_,
                "stored_position": value,
                "etag": uuid4(),
                "revision": revision,
            }
            for id_, value in neighbors.items()
        ]
        await self.session.execute(update(self.model_type), rows)
        return position
