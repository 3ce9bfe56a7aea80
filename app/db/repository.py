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
from sqlalchemy import ARRAY, ClauseElement, ColumnElement, Uuid, bindparam, func, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute
from uuid_utils.compat import uuid7

from app.db.idempotency import CLAIM_KEY, advisory_lock_key, idempotency_params, read_claim
from app.db.models import ResourceRecord
from app.db.statements import FetchCallable
from app.http.etags import ETagCondition, format_etag
from app.http.pagination import CursorPosition, PageQuery
from app.http.problems import PreconditionFailed, ProblemError

RecordT = TypeVar("RecordT", bound=ResourceRecord)


class ChangeStatement(Protocol):
    """Builds the statement of a conditional change."""

    def __call__(self, *, any_etag: bool) -> ClauseElement:
        """`any_etag` is false for a statement with the condition `etag_matches`."""
        ...


def etag_matches(column: InstrumentedAttribute[Any]) -> ColumnElement[bool]:
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


class ResourceRepository(SQLAlchemyAsyncRepository[RecordT]):
    """Advanced Alchemy's repository for one resource. Each request has an instance and a session.

    `Database.session` opens the session and commits it. All inherited methods may be called.
    """

    not_found: ClassVar[type[ProblemError]]

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
        record = await self.get_one_or_none(user_id=user_id, id=id_, with_for_update=lock or None)
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
        """Return the newest rows after a position, and the next position or None."""
        model = self.model_type
        key = (model.created_at, model.id)
        if after is not None:
            filters = (*filters, tuple_(*key) < (after.sort_value, after.id))
        rows = await self.get_many(
            model.user_id == user_id,
            *filters,
            LimitOffset(limit=query.limit + 1, offset=0),
            order_by=[("created_at", True), ("id", True)],
        )
        page = rows[: query.limit]
        if len(page) == len(rows):
            return page, None
        return page, CursorPosition(page[-1].created_at, page[-1].id)

    async def create(
        self, user_id: str, values: Mapping[str, Any], payload: msgspec.Struct, key: str | None
    ) -> RecordT:
        """Insert a row, at most once for an idempotency key.

        Raises IdempotencyKeyInUse and IdempotencyKeyReused.
        """
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
        """Change columns of a row. Raises `not_found` and PreconditionFailed."""
        await self.find(user_id, id_, if_match=if_match, lock=True)
        return await self.update(self.model_type(user_id=user_id, id=id_, **values))

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
        # There may be no row to lock, so its ID is locked.
        lock = func.pg_advisory_xact_lock(advisory_lock_key(user_id, id_))
        await self.session.execute(select(lock))
        if not await self.exists(user_id=user_id, id=id_):
            if if_match is not None:
                raise PreconditionFailed
            return await self.add(self.model_type(user_id=user_id, id=id_, **values)), True
        if must_not_exist:
            raise PreconditionFailed(PreconditionFailed.exists)
        return await self.change(user_id, id_, values, if_match), False

    async def remove(self, user_id: str, id_: UUID, if_match: ETagCondition | None) -> None:
        """Delete a row. Raises `not_found` and PreconditionFailed."""
        await self.find(user_id, id_, if_match=if_match, lock=True)
        await self.delete((user_id, id_))
