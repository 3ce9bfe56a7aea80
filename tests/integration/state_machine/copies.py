"""Clients that keep copies through `listChanges` only, and what the database has."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple
from uuid import UUID

from app.domain.changes.tokens import START, ChangeTokenCodec
from tests.integration.state_machine.model import JSON, require

KINDS = ("list", "task")  # as in `tombstones`
MAX_SAVED = 12
CODEC = ChangeTokenCodec(None)

Key = tuple[str, UUID]


class Position(NamedTuple):
    """The place of an item in the feed."""

    revision: int
    id: UUID
    kind: int

    @property
    def key(self) -> Key:
        return KINDS[self.kind], self.id


BEGINNING = Position(-1, UUID(int=0), 0)


@dataclass
class Stored:
    """What the database has of a user."""

    epoch: UUID | None = None
    revision: int = 0
    keys: int = 0  # idempotency keys
    rows: dict[Key, tuple[Position, str]] = field(default_factory=dict)  # with the entity tag
    tombstones: set[Position] = field(default_factory=set)

    @property
    def end(self) -> Position:
        """The position after all items."""
        return Position(self.revision, UUID(int=2**128 - 1), len(KINDS))

    def items_after(self, last: Position) -> list[tuple[Position, str | None]]:
        """Return the items of the feed after a position: the entity tag, or None if deleted."""
        items: dict[Position, str | None] = dict(self.rows.values())
        items |= {it: None for it in self.tombstones if it.key not in self.rows}
        return sorted((it, items[it]) for it in items if it > last)


class Saved(NamedTuple):
    """What a client has stored. It may continue from there, also later."""

    since: str | None = None
    copy: dict[Key, JSON] = {}  # noqa: RUF012 - never changed
    returned: frozenset[tuple[Key, str]] = frozenset()
    # None if other requests were sent next to the last page.
    last: Position | None = BEGINNING


class Client:
    """A client with a copy of the tasks and lists of one user."""

    def __init__(self, user: str, limit: int) -> None:
        self.user = user
        self.limit = limit
        self.path = f"/api/v1/users/{user}/changes"
        self.now = Saved()
        self.earlier = [self.now]

    @property
    def params(self) -> JSON:
        since = self.now.since
        return {"limit": self.limit} | ({} if since is None else {"since": since})

    def restart(self) -> None:
        """Discard the copy."""
        self.now = Saved()

    def receive(self, page: JSON, last: Position | None) -> None:
        """Apply a page. No version of a task or list may be returned twice."""
        copy, returned = dict(self.now.copy), set(self.now.returned)
        require(len(page["items"]) <= self.limit, f"{page} with the limit {self.limit}")
        require(len(page["items"]) == self.limit or not page["has_more"], f"{page} is not full")
        for item in page["items"]:
            key, version = key_of(item)
            if version is None:
                copy.pop(key, None)
                continue
            require((key, version) not in returned, f"{item} was returned before")
            returned.add((key, version))
            copy[key] = item[key[0]]
            require(copy[key]["id"] == item["id"], f"{item}")
        self.now = Saved(page["next_since"], copy, frozenset(returned), last)
        self.earlier = [*self.earlier, self.now][-MAX_SAVED:]


class Read(NamedTuple):
    """A page that a client requested next to other requests."""

    user: str
    since: str | None
    status: int
    is_first: bool  # so the token is older than the other requests


class Collection(NamedTuple):
    """A collection as it was read. `stored` is None if other requests were sent next to it."""

    etag: str
    body: JSON
    stored: Stored | None


def is_expired(since: str | None, user: str, stored: Stored, removed: int) -> bool:
    """Return whether the epoch of a token is gone, or a tombstone after its position."""
    if since is None:
        return False
    position = CODEC.decode(user, since)
    is_removed = removed > max(position.revision, position.start)
    return position != START and (position.epoch != stored.epoch or is_removed)


def key_of(item: JSON) -> tuple[Key, str | None]:
    """Return the key and the entity tag of an item, or None if it is deleted."""
    key = (item["kind"], UUID(item["id"]))
    return key, None if item["deleted"] else item[item["kind"]]["etag"]
