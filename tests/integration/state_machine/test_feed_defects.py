"""The clients that follow the feed detect deliberate defects."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import bindparam, false, select

from app.db import repository as resources
from app.db.database import Database
from app.db.revisions import TAKE_REVISION, UserRecord, leave_tombstones
from app.domain.changes.problems import TokenExpired
from app.domain.changes.repository import ChangeRepository, FeedPage
from app.domain.changes.tokens import START, FeedPosition
from app.domain.tasks import batch
from app.domain.tasks.batch import TaskBatchRepository
from app.domain.users import repository as users
from tests.integration.state_machine.feed import Copies
from tests.integration.state_machine.machine import Service
from tests.integration.state_machine.test_defects import (
    DELETE,
    KEYED,
    MOVE,
    RESPACE,
    UPDATE,
    UPSERT,
    Defect,
    assert_detected,
    inject,
)

CHANGE = r"^WITH gate AS"
FEED = r"octets_before"
VERSION = r"int8send"
NEXT = r"revision = \(users\.revision \+ 1\)"
NEW = r"revision=revised\.revision"
OLD = "revision=tasks.revision"

DEFECTS = {
    # Revisions
    "revision of the snapshot": Defect(
        CHANGE,
        NEXT,
        "revision = (SELECT u.revision + 1 FROM users AS u WHERE u.user_id = users.user_id)",
    ),
    "changed task keeps its revision": Defect(UPDATE, NEW, OLD),
    "replaced task keeps its revision": Defect(
        UPSERT, r", revision = excluded\.revision", ", revision = tasks.revision"
    ),
    "moved task keeps its revision": Defect(MOVE, NEW, OLD),
    "respaced tasks keep their revisions": Defect(RESPACE, NEW, OLD),
    "repeated key takes a revision": Defect(
        KEYED, r"FROM claimed ON CONFLICT", "FROM gate ON CONFLICT"
    ),
    # Tombstones
    "no tombstone": Defect(DELETE, r"SELECT deleted\.id AS id \nFROM deleted UNION ALL ", ""),
    "no tombstones of subtasks": Defect(
        DELETE, r" UNION ALL SELECT deleted_subtasks\.id AS id \nFROM deleted_subtasks", ""
    ),
    "removed tombstones forgotten": Defect(
        DELETE, r"greatest\(users\.oldest_revision, \S+\)", "users.oldest_revision"
    ),
    "removed tombstones ignored": Defect(FEED, r"users\.oldest_revision AS", "0::bigint AS"),
    "tombstone of a recreated task": Defect(FEED, r"tombstones\.kind = 1 AND", "false AND"),
    # Pages
    "page repeats its first item": Defect(FEED, r"(, (?:0|1|[^,]+INTEGER\))\)) > \(", r"\1 >= ("),
    "page leaves out equal IDs": Defect(FEED, r"(revision, \w+\.id\)) >= \(", r"\1 > ("),
    "page in the order of IDs": Defect(
        FEED, r"ORDER BY all_keys\.revision, all_keys\.id", "ORDER BY all_keys.id"
    ),
    "has_more false after a full page": Defect(
        FEED, r"(all_keys\.kind \n LIMIT \$\d+::INTEGER)", r"\1 - 1"
    ),
    "feed of another user": Defect(FEED, r"tasks\.user_id = (\$\d+::VARCHAR)", r"\1 IS NOT NULL"),
    # Entity tags
    "tag without the changes of lists": Defect(
        VERSION,
        r"int8send\(users\.revision\)",
        "int8send((SELECT coalesce(max(t.revision), 0) FROM tasks AS t"
        " WHERE t.user_id = users.user_id))",
    ),
    "tag without the epoch": Defect(VERSION, r"uuid_send\(users\.epoch\)", "''::bytea"),
}


@pytest.mark.requirement("NFR-209")
@pytest.mark.parametrize("name", DEFECTS)
def test_defect_in_sql_is_detected(
    replicas: Service, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with inject(monkeypatch, DEFECTS[name]):
        assert_detected(replicas, Copies)


# --- other defects -------------------------------------------------------------------------------


def _issues_another_token(
    patch: pytest.MonkeyPatch, change: Callable[[FeedPosition, FeedPosition], FeedPosition]
) -> None:
    """Replace the token in the middle of a walk. `change` gets the previous one, too."""
    original = ChangeRepository.list_changes

    async def list_changes(
        self: ChangeRepository, user_id: str, since: FeedPosition, limit: int
    ) -> FeedPage:
        page = await original(self, user_id, since, limit)
        position = change(since, page.position) if page.has_more else page.position
        return FeedPage(page.items, position, has_more=page.has_more)

    patch.setattr(ChangeRepository, "list_changes", list_changes)


def _token_without_the_id(patch: pytest.MonkeyPatch) -> None:
    _issues_another_token(patch, lambda _, position: position._replace(id=UUID(int=2**128 - 1)))


def _token_without_the_kind(patch: pytest.MonkeyPatch) -> None:
    _issues_another_token(patch, lambda _, position: position._replace(kind=255))


def _token_of_the_page_before(patch: pytest.MonkeyPatch) -> None:
    _issues_another_token(patch, lambda since, position: position if since == START else since)


def _token_after_the_next_revision(patch: pytest.MonkeyPatch) -> None:
    original = FeedPosition.end

    def later(epoch: UUID, revision: int) -> FeedPosition:
        return original(epoch, revision)._replace(revision=revision + 1)

    patch.setattr(FeedPosition, "end", later)


def _epoch_ignored(patch: pytest.MonkeyPatch) -> None:
    original = ChangeRepository.list_changes
    read_epoch = select(UserRecord.epoch).where(UserRecord.user_id == bindparam("owner"))

    async def of_any_epoch(
        self: ChangeRepository, user_id: str, since: FeedPosition, limit: int
    ) -> FeedPage:
        try:
            return await original(self, user_id, since, limit)
        except TokenExpired:
            rows = await self.fetch(read_epoch, {"owner": user_id})
            if not rows:
                raise
            return await original(self, user_id, since._replace(epoch=rows[0][0]), limit)

    patch.setattr(ChangeRepository, "list_changes", of_any_epoch)


def _expired_token_accepted(patch: pytest.MonkeyPatch) -> None:
    original = ChangeRepository.list_changes

    async def restart(
        self: ChangeRepository, user_id: str, since: FeedPosition, limit: int
    ) -> FeedPage:
        try:
            return await original(self, user_id, since, limit)
        except TokenExpired:
            return await original(self, user_id, START, limit)

    patch.setattr(ChangeRepository, "list_changes", restart)


def _batch_with_two_revisions(patch: pytest.MonkeyPatch) -> None:
    original = TaskBatchRepository._write

    async def write(self: TaskBatchRepository, *arguments: Any) -> Any:
        await self._execute(TAKE_REVISION, new_etag=UUID(int=1))
        return await original(self, *arguments)

    patch.setattr(TaskBatchRepository, "_write", write)


def _batch_without_tombstones(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        batch,
        "leave_tombstones",
        lambda kind, deleted: leave_tombstones(kind, deleted.where(false())),
    )
    patch.setattr(batch, "DELETE_ROWS", batch._delete())


def _list_without_a_tombstone(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(resources, "LEAVE_TOMBSTONES", [select(1), select(1)])


def _new_list_without_a_revision(patch: pytest.MonkeyPatch) -> None:
    async def add(self: Any, data: Any, **options: Any) -> Any:
        return await resources.ResourceRepository.add(self, data, **options)

    patch.setattr(resources.RevisedRepository, "add", add)


def _erasure_keeps_the_epoch(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(users, "RENEW_EPOCH", select(1))


def _erasure_keeps_the_user(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(users, "DELETE_USER", select(1))


def _restored_database_keeps_its_epochs(patch: pytest.MonkeyPatch) -> None:
    async def keep(_: Database) -> int:
        return 0

    patch.setattr(Database, "renew_epochs", keep)


@pytest.mark.requirement("NFR-209")
@pytest.mark.parametrize(
    "defect",
    [
        _token_without_the_id,
        _token_without_the_kind,
        _token_of_the_page_before,
        _token_after_the_next_revision,
        _epoch_ignored,
        _expired_token_accepted,
        _batch_with_two_revisions,
        _batch_without_tombstones,
        _list_without_a_tombstone,
        _new_list_without_a_revision,
        _erasure_keeps_the_epoch,
        _erasure_keeps_the_user,
        _restored_database_keeps_its_epochs,
    ],
    ids=lambda defect: defect.__name__.strip("_"),
)
def test_defect_is_detected(
    replicas: Service,
    monkeypatch: pytest.MonkeyPatch,
    defect: Callable[[pytest.MonkeyPatch], None],
) -> None:
    defect(monkeypatch)
    assert_detected(replicas, Copies)
