"""Reproducible rows for large tables `lists` and `tasks`."""

from __future__ import annotations

import random
from bisect import bisect
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, time, timedelta
from functools import cache
from itertools import accumulate
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

import asyncpg
from msgspec import Struct

from app.db.positions import initial_position

SEED = 20_260_101
START = datetime(2025, 1, 1, tzinfo=UTC)
YEAR = timedelta(days=365)
LARGE = "large"  # nine of ten tasks are completed
REVERSE = "reverse"  # one of ten
# Most frequent first.
WORDS = """
call check the with order invoice customer send meeting team report update for review plan and new
contract project from mail write budget office draft about before week monday print book supplier
offer price delivery next friday read answer table number address form sign website copy change
list phone garden repair buy milk kitchen bread clean window car school doctor birthday present
holiday ticket train hotel passport insurance tax bank transfer rent electricity water heating
roof paint wall lamp cable computer printer password backup server database release test error
message screen button page design logo photo video music guitar lesson homework exam teacher
course language english french spanish german italian piano running shoes bicycle tyre chain
helmet swimming yoga dentist glasses medicine pharmacy vet dog food cat litter bird cage fish tank
plant seeds soil tree apple cherry lawn hedge fence gate key lock door bell carpet curtain sofa
chair desk shelf drawer mirror towel soap laundry iron shirt trousers jacket coat gloves scarf
umbrella wallet watch ring necklace battery charger adapter speaker headphones microphone camera
lens tripod film album frame poster reading museum theatre cinema concert opera festival market
bakery butcher grocer cheese butter eggs flour sugar salt pepper rice pasta tomato onion garlic
carrot potato lettuce cucumber lemon orange banana grape melon coffee tea juice wine beer party
guest invitation speech toast cake candle balloon card envelope stamp parcel courier customs
warehouse pallet truck driver route map fuel toll bridge tunnel harbour ferry island beach tent
stove rope compass mountain hut ridge glacier valley river canoe paddle fishing licence permit
notary lawyer court appeal deadline
""".split()  # noqa: SIM905 - a list of 300 quoted words is harder to read
COMMON = "call"  # in about three of ten tasks
MEDIUM = "deadline"  # in about one of a hundred
RARE = "zeppelin"  # in five tasks of the largest user
RARE_TASKS = 5
MEAN_TASKS_PER_USER = 36.9  # of the small users
LABELS = """
errands home work waiting phone computer shop family reading money health travel garden someday
agenda writing car school music repair gift taxes photo sport recipe insurance club neighbors memo
""".split()  # noqa: SIM905 - as above
COMMON_LABEL, MEDIUM_LABEL = LABELS[0], LABELS[-1]
RARE_LABEL = "volcano"  # of five tasks of the largest user
LISTS_PER_USER = {LARGE: 200, REVERSE: 50}
LISTS_OF_OTHERS = 5
PRIORITY_WEIGHTS = (70, 12, 10, 6, 2)  # from `none` to `urgent`
ZONES = ("Europe/Berlin", "America/New_York", "Asia/Calcutta")
COLUMNS = (
    "user_id", "id", "title", "description", "completed_at", "created_at", "updated_at", "etag",
    "list_id", "parent_id", "depth", "priority", "due_date", "due_time", "due_timezone", "labels",
    "position", "revision",
)  # fmt: skip
LIST_COLUMNS = ("user_id", "id", "name", "created_at", "updated_at", "etag")
# One tombstone for 100 tasks. The rows of users without a task make a scan of all users expensive.
TOMBSTONES = """
    INSERT INTO tombstones (user_id, revision, id, kind, deleted_at)
    SELECT user_id, revision, gen_random_uuid(), 1, updated_at FROM tasks WHERE revision % 100 = 0
"""
USERS = """
    INSERT INTO users (user_id, revision, epoch)
    SELECT user_id, max(revision), gen_random_uuid() FROM tasks GROUP BY user_id
    UNION ALL SELECT 'empty-' || n, 1, gen_random_uuid() FROM generate_series(1, 10000) n
"""
# Zipf-Mandelbrot law.
_WEIGHTS = list(accumulate(1 / (rank + 8) for rank in range(1, len(WORDS) + 1)))


class Size(Struct, frozen=True):
    """The numbers of tasks of two users, and the number of users with 10 to 1,000 tasks."""

    large: int = 1_000_000
    reverse: int = 100_000
    others: int = 3_000

    @classmethod
    def of(cls, rows: int) -> Size:
        """Return a size of about `rows`. One user has a tenth of them, at most a million."""
        large, reverse = min(1_000_000, rows // 10), rows // 100
        return cls(large, reverse, round((rows - large - reverse) / MEAN_TASKS_PER_USER))


def tasks(size: Size) -> Iterator[tuple[Any, ...]]:
    """Yield rows in the order of their creation, with all users mixed."""
    rng = random.Random(SEED)  # noqa: S311 - no secret
    owners = [LARGE] * size.large + [REVERSE] * size.reverse
    for number in range(size.others):
        owners += [_user(number)] * min(1000, int(10 * (1 - rng.random()) ** -0.8))
    rng.shuffle(owners)
    step = YEAR / len(owners)
    organizer = _Organizer()
    rare_step = size.large // RARE_TASKS
    large_tasks = 0
    for number, owner in enumerate(owners):
        created = START + step * (number + rng.random())
        updated = created + timedelta(days=60) * rng.random() ** 3
        title = _words(rng, 3, 7)
        has_rare_label = False
        if owner == LARGE:
            large_tasks += 1
            if large_tasks % rare_step == 0:
                title += " " + RARE
            has_rare_label = large_tasks % rare_step == rare_step // 2
        if rng.random() < 0.3:
            title += f" #{rng.randrange(100_000)}"
        task = _uuid7(created, rng)
        yield (
            owner,
            task,
            title.capitalize(),
            _words(rng, 5, 25) + "." if rng.random() < 0.5 else None,
            updated if rng.random() < (0.1 if owner == REVERSE else 0.9) else None,
            created,
            updated,
            UUID(int=rng.getrandbits(128)),
            *organizer.properties(owner, task, created, has_rare_label=has_rare_label),
            number + 1,
        )


class _Organizer:
    """Draws lists, subtasks, priorities, due dates, labels and positions.

    Half of the tasks are in lists, and a seventh are subtasks. Four of ten have a due date, and
    three of ten have labels. One of twenty was moved.
    """

    def __init__(self) -> None:
        self._rng = random.Random(SEED)  # noqa: S311 - no secret
        self._parents: dict[str, UUID] = {}

    def properties(
        self, owner: str, task: UUID, created: datetime, *, has_rare_label: bool
    ) -> tuple[Any, ...]:
        """Return the values of COLUMNS from `list_id`."""
        rng = self._rng
        (priority,) = rng.choices(range(5), PRIORITY_WEIGHTS)
        labels = set(self._labels()) | ({RARE_LABEL} if has_rare_label else set())
        is_moved = rng.random() < 0.05
        position = initial_position(START + YEAR * rng.random(), task) if is_moved else None
        return (
            *self._place(owner, task), priority, *self._due(created), ",".join(sorted(labels)),
            position,
        )  # fmt: skip

    def _place(self, owner: str, task: UUID) -> tuple[UUID | None, UUID | None, int]:
        """Return list, parent and depth. A parent has subtasks until the next one is drawn."""
        rng = self._rng
        drawn = rng.random()
        parent = self._parents.get(owner)
        if parent and drawn < 0.15:
            return None, parent, 1
        if rng.random() < 0.2:
            self._parents[owner] = task
        if drawn < 0.65:
            # The first lists have the most tasks.
            number = int(_list_count(owner) * rng.random() ** 3)
            return list_id(owner, number), None, 0
        return None, None, 0

    def _due(self, created: datetime) -> tuple[Any, ...]:
        rng = self._rng
        if rng.random() < 0.6:
            return None, None, None
        date = (created + timedelta(days=90) * rng.random() ** 2).date()
        if rng.random() < 0.7:
            return date, None, None
        local = time(rng.randrange(7, 22), rng.choice((0, 15, 30, 45)))
        return date, local, rng.choice(ZONES) if rng.random() < 0.5 else None

    def _labels(self) -> list[str]:
        rng = self._rng
        if rng.random() < 0.7:
            return []
        return [LABELS[int(len(LABELS) * rng.random() ** 2)] for _ in range(rng.randint(1, 3))]


def lists(size: Size) -> Iterator[tuple[Any, ...]]:
    """Yield the lists of all users."""
    for owner in (LARGE, REVERSE, *map(_user, range(size.others))):
        for number in range(_list_count(owner)):
            id_ = list_id(owner, number)
            yield owner, id_, f"List {number}", START, START, id_


@cache
def list_id(owner: str, number: int) -> UUID:
    """Return the ID of a user's list. The first lists have the most tasks."""
    return uuid5(NAMESPACE_URL, f"{owner}/lists/{number}")


def _list_count(owner: str) -> int:
    return LISTS_PER_USER.get(owner, LISTS_OF_OTHERS)


def _user(number: int) -> str:
    return f"user-{number:04}"


async def fill(
    database: asyncpg.Connection[Any], size: Size, columns: Sequence[str] = COLUMNS
) -> None:
    """Load the first `columns` into empty tables. Indexes and foreign keys are recreated."""
    foreign_keys = await database.fetch(
        "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint "
        "WHERE conrelid = 'tasks'::regclass AND contype = 'f'"
    )
    for name, _ in foreign_keys:
        await database.execute(f"ALTER TABLE tasks DROP CONSTRAINT {name}")
    indexes = await database.fetch(
        "SELECT indexname, indexdef FROM pg_indexes "
        "WHERE tablename = 'tasks' AND indexname LIKE 'ix%' ORDER BY indexname"
    )
    for name, _ in indexes:
        await database.execute(f"DROP INDEX {name}")
    if "list_id" in columns:
        await database.copy_records_to_table("lists", records=lists(size), columns=LIST_COLUMNS)
        await database.execute("VACUUM ANALYZE lists")
    await database.copy_records_to_table(
        "tasks",
        records=(row[: len(columns)] for row in tasks(size)),
        columns=columns,
        timeout=3600,
    )
    keys = await database.fetch("SELECT indexname FROM pg_indexes WHERE tablename = 'tasks'")
    for _, definition in indexes:
        await database.execute(definition, timeout=3600)
    for (index,) in keys:  # so that all index sizes are comparable
        await database.execute(f"REINDEX INDEX {index}", timeout=3600)
    for name, definition in foreign_keys:
        await database.execute(
            f"ALTER TABLE tasks ADD CONSTRAINT {name} {definition}", timeout=3600
        )
    await database.execute("VACUUM ANALYZE tasks", timeout=3600)
    if "revision" in columns:
        await _fill_feed(database)


async def _fill_feed(database: asyncpg.Connection[Any]) -> None:
    for table, statement in {"users": USERS, "tombstones": TOMBSTONES}.items():
        await database.execute(statement, timeout=3600)
        await database.execute(f"VACUUM ANALYZE {table}")


async def sizes(database: asyncpg.Connection[Any]) -> list[tuple[str, int, int]]:
    """Return the name, row count and bytes of the table and its indexes."""
    rows = await database.fetch(
        "SELECT relname, reltuples::bigint, pg_relation_size(oid) FROM pg_class "
        "WHERE relname = 'tasks' OR oid IN "
        "(SELECT indexrelid FROM pg_index WHERE indrelid = 'tasks'::regclass) ORDER BY relname"
    )
    return [tuple(row) for row in rows]


def _words(rng: random.Random, minimum: int, maximum: int) -> str:
    count = rng.randint(minimum, maximum)
    return " ".join(WORDS[bisect(_WEIGHTS, rng.random() * _WEIGHTS[-1])] for _ in range(count))


def _uuid7(timestamp: datetime, rng: random.Random) -> UUID:
    bits = int(timestamp.timestamp() * 1000) << 80 | rng.getrandbits(80)
    return UUID(int=bits & ~(0xF << 76 | 0x3 << 62) | 0x7 << 76 | 0x2 << 62)
