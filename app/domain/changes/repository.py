"""The feed in the database."""

from __future__ import annotations

from typing import NamedTuple
from uuid import uuid4

import msgspec
from asyncpg import Record

from app.db.positions import initial_position
from app.db.statements import FetchCallable
from app.domain.changes.problems import TokenExpired
from app.domain.changes.schemas import Change, ChangeKind
from app.domain.changes.statements import (
    CREATE_USER,
    READ_CHANGES,
    USER_COLUMNS,
)
from app.domain.changes.tokens import START, FeedPosition
from app.domain.lists.schemas import TaskList
from app.domain.tasks.pages import MAX_PAGE_BYTES, PAGE_OVERHEAD_BYTES
from app.domain.tasks.rows import COLUMNS, to_task
from app.http.etags import format_etag

_KEY = len(USER_COLUMNS)
_TASK = _KEY + 4  # after revision, ID, kind and whether it is deleted
_LIST = _TASK + len(COLUMNS)
_KINDS = dict(enumerate((ChangeKind.LIST, ChangeKind.TASK)))


class FeedItem(NamedTuple):
    """An item of the feed as JSON."""

    json: bytes
    deleted: bool
    revision: int


class FeedPage(msgspec.Struct, frozen=True):
    """Items of the feed, and the position after the last one."""

    items: list[FeedItem]
    position: FeedPosition
    has_more: bool


class ChangeRepository:
    """The changes of all users. One instance handles all requests."""

    def __init__(self, fetch: FetchCallable) -> None:
        self.fetch = fetch

    async def list_changes(self, user_id: str, since: FeedPosition, limit: int) -> FeedPage:
        """Return the first changes after a position. Raises TokenExpired."""
        params = {
            "owner": user_id,
            "since_revision": since.revision,
            "since_id": since.id,
            "since_kind": since.kind,
            "row_limit": limit + 1,
        }
        rows = await self.fetch(READ_CHANGES, params)
        if rows[0]["epoch"] is None and rows[0][_KEY] is not None:
            await self.fetch(CREATE_USER, {"owner": user_id, "epoch": uuid4()})
            rows = await self.fetch(READ_CHANGES, params)
        epoch, revision, oldest_revision = rows[0][:_KEY]
        if since != START and (
            epoch != since.epoch
            or oldest_revision > max(since.complete_revision, since.start)
            or revision < max(since.revision, since.start)
        ):
            raise TokenExpired
        if epoch is None:
            return FeedPage([], START, has_more=False)
        items = [] if rows[0][_KEY] is None else rows
        page = _encode(items[:limit])
        if len(page) == len(items):
            return FeedPage(page, FeedPosition.end(epoch, revision), has_more=False)
        last = rows[len(page) - 1]
        start = revision if since == START else since.start
        last_revision, last_id, last_kind = last[_KEY : _KEY + 3]
        position = FeedPosition(epoch, last_revision, last_id, last_kind, start)
        return FeedPage(page, position, has_more=True)


def _encode(rows: list[Record]) -> list[FeedItem]:
    """Return the first changes that fit into a page."""
    encoded: list[FeedItem] = []
    remaining_bytes = MAX_PAGE_BYTES - PAGE_OVERHEAD_BYTES
    for row in rows:
        item = msgspec.json.encode(_to_change(row))
        remaining_bytes -= len(item) + 1
        if remaining_bytes < 0:
            break
        encoded.append(FeedItem(item, row["deleted"], row[_KEY]))
    return encoded


def _to_change(row: Record) -> Change:
    _, id_, code, deleted = row[_KEY:_TASK]
    kind = _KINDS[code]
    task = task_list = None
    if not deleted and kind is ChangeKind.TASK:
        task = to_task(row[_TASK:_LIST])
    elif not deleted:
        id_, user_id, name, stored_position, created_at, updated_at, etag = row[_LIST:]
        position = stored_position or initial_position(created_at, id_)
        task_list = TaskList(
            id_, user_id, name, position, created_at, updated_at, format_etag(etag)
        )
    return Change(kind, id_, deleted, task, task_list)
