"""Repositories: what a resource's own repository builds on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from time import monotonic
from typing import Any, ClassVar, Protocol

from asyncpg import Record
from sqlalchemy import ARRAY, ClauseElement, ColumnElement, Uuid, bindparam, func
from sqlalchemy.orm import InstrumentedAttribute

from app.http.etags import ETagCondition
from app.http.problems import PreconditionFailed, ProblemError

# `Database.fetch`: a statement, its values, `timeout` and `started_at`.
FetchCallable = Callable[..., Awaitable[list[Record]]]


class ChangeStatement(Protocol):
    """Gives the statement of a conditional change."""

    def __call__(self, *, any_etag: bool) -> ClauseElement:
        """`any_etag` is false for a statement with the condition `etag_matches`."""
        ...


def etag_matches(column: InstrumentedAttribute[Any]) -> ColumnElement[bool]:
    """The condition that a row has one of the ETags in the parameter `etags`."""
    return column == func.any(bindparam("etags", type_=ARRAY(Uuid)))


class StatementRepository:
    """A resource whose operations are one prepared statement each, on the pool.

    It has no session and holds nothing of a request, so one instance serves all of them.
    """

    not_found: ClassVar[type[ProblemError]]
    by_id: ClassVar[ClauseElement]  # reads the row that the statement of a change is about

    def __init__(self, fetch: FetchCallable) -> None:
        self.fetch = fetch

    async def _change(
        self,
        statement: ChangeStatement,
        values: Mapping[str, Any],
        if_match: ETagCondition | None,
    ) -> Record:
        """The row that a conditional update or delete returns.

        If it finds no row, a second statement tells 404 from 412, within the time that is left.

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
