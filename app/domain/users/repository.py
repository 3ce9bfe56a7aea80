"""All data of a user in the database."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from uuid import uuid4

import msgspec

from app.db.repository import UserTransaction
from app.db.revisions import LOCK_USER
from app.domain.changes.repository import ChangeRepository, FeedPage
from app.domain.changes.tokens import START
from app.domain.users.schemas import ExportEnd
from app.domain.users.statements import (
    DELETE_KEYS,
    DELETE_ROWS,
    DELETE_USER,
    RENEW_EPOCH,
)

MAX_DELETED = 10_000  # rows of one request
MAX_DELETED_KEYS = 500  # of them, because a key may have a response of 1 MiB
EXPORT_LIMIT = 200  # items of a page


class UserRepository(UserTransaction):
    """Erases one user. Each request has an instance and a session."""

    async def erase(self) -> bool:
        """Delete rows of the user, and return whether none is left."""
        await self._execute(LOCK_USER)
        remaining = MAX_DELETED
        for statement in (*DELETE_ROWS, DELETE_KEYS):
            limit = min(remaining, MAX_DELETED_KEYS) if statement is DELETE_KEYS else remaining
            deleted = (await self._execute(statement, row_limit=limit)).scalar_one()
            remaining -= deleted
            if deleted == limit:
                # The copies of clients are invalid from the first request on.
                await self._execute(RENEW_EPOCH, new_epoch=uuid4())
                return False
        await self._execute(DELETE_USER)
        return True


async def read_first_page(changes: ChangeRepository, user_id: str) -> FeedPage:
    """Return the first page of an export."""
    return await changes.list_changes(user_id, START, EXPORT_LIMIT)


async def export_lines(
    changes: ChangeRepository, user_id: str, page: FeedPage
) -> AsyncGenerator[bytes]:
    """Yield the lines of an export after its first page was read (research/0085).

    Each page has its own connection, and is read when the client has received the previous one.
    """
    start = page.position.start
    lines = 0
    while True:
        # A row that is deleted during the export may be in a line before.
        items = [item.json for item in page.items if not item.deleted or item.revision > start]
        lines += len(items)
        if items:
            yield b"\n".join([*items, b""])
        if not page.has_more:
            break
        page = await changes.list_changes(user_id, page.position, EXPORT_LIMIT)
    yield msgspec.json.encode(ExportEnd("end", lines)) + b"\n"
