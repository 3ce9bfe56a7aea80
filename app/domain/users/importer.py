"""Stores the items of an export in the database (research/0088)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import UUID, uuid4

from sqlalchemy.ext.asyncio import AsyncSession

from app.db.database import Database
from app.db.positions import initial_position
from app.db.repository import UserTransaction
from app.db.revisions import LOCK_USER, TAKE_REVISION
from app.domain.tasks.rows import PROPERTY_COLUMNS, column_params
from app.domain.tasks.schemas import Task
from app.domain.users.export_file import ExportedItem, ExportFile, Level, UserImportError
from app.domain.users.statements import INSERTS, READS, REFERENCES
from app.http.etags import parse_etag

_PLACE = ("list_id", "parent_id")


class ImportResult(NamedTuple):
    """The numbers of items that were stored, that existed, and that existed with other content."""

    stored: int = 0
    unchanged: int = 0
    different: int = 0


async def store_export(export: ExportFile, user_id: str, database: Database) -> ImportResult:
    """Store the items that a user does not have, each batch in one transaction.

    Raises UserImportError, and the exceptions of `Database.session`.
    """
    results: list[ImportResult] = []
    for level in Level:
        for batch in export.batches(level):
            async with database.session() as session:
                results.append(await _Batch(session, user_id, level).store(batch))
    return ImportResult(*map(sum, zip(ImportResult(), *results, strict=True)))


class _Batch(UserTransaction):
    """Stores items of one level in the transaction of a session."""

    def __init__(self, session: AsyncSession, user_id: str, level: Level) -> None:
        super().__init__(session, user_id)
        self._level = level

    async def store(self, items: Sequence[ExportedItem]) -> ImportResult:
        """Store the items that do not exist, with one revision. Raises UserImportError."""
        await self._execute(LOCK_USER)
        ids = [item.resource.id for item in items]
        rows = await self._execute(READS[self._level], ids=ids)
        stored: dict[UUID, UUID] = {row.id: row.etag for row in rows}
        new = [item for item in items if item.resource.id not in stored]
        if new:
            await self._check_references(new)
            taken = await self._execute(TAKE_REVISION, new_etag=uuid4())
            columns = [_columns(item.resource) for item in new]
            arrays = {f"{name}s": [row[name] for row in columns] for name in columns[0]}
            await self._execute(INSERTS[self._level], new_revision=taken.scalar_one(), **arrays)
        different = sum(
            stored.get(item.resource.id) not in (None, parse_etag(item.resource.etag))
            for item in items
        )
        return ImportResult(len(new), len(stored) - different, different)

    async def _check_references(self, items: Sequence[ExportedItem]) -> None:
        """Check that the lists or parents exist. Lists refer to nothing."""
        if self._level not in REFERENCES:
            return
        name, statement, detail = REFERENCES[self._level]
        referred: dict[UUID | None, int] = {
            getattr(item.resource, name): item.number for item in reversed(items)
        }
        referred.pop(None, None)
        rows = await self._execute(statement, ids=list(referred))
        for id_ in referred.keys() - {row.id for row in rows}:
            raise UserImportError(f"Line {referred[id_]}: /task/{name}: {detail}.")


def _columns(resource: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return the columns of a row."""
    position = resource.position
    if position == initial_position(resource.created_at, resource.id):
        position = None  # as of a resource that was never moved
    columns: dict[str, Any] = {
        "id": resource.id,
        "stored_position": position,
        "created_at": resource.created_at,
        "updated_at": resource.updated_at,
        "etag": parse_etag(resource.etag),
    }
    if not isinstance(resource, Task):
        return {**columns, "name": resource.name}
    properties = {name: getattr(resource, name) for name in PROPERTY_COLUMNS if name not in _PLACE}
    params = column_params(properties)
    return {
        **columns,
        **{name.removeprefix("new_"): value for name, value in params.items()},
        "list_id": resource.list_id,
        "parent_id": resource.parent_id,
        "depth": int(resource.parent_id is not None),
        "completed_at": resource.completed_at,
    }
