"""Reproducible rows for a large table `tasks`."""

from __future__ import annotations

import random
from bisect import bisect
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from typing import Any
from uuid import UUID

import asyncpg
from msgspec import Struct

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
        owners += [f"user-{number:04}"] * min(1000, int(10 * (1 - rng.random()) ** -0.8))
    rng.shuffle(owners)
    step = YEAR / len(owners)
    large_tasks = 0
    for number, owner in enumerate(owners):
        created = START + step * (number + rng.random())
        updated = created + timedelta(days=60) * rng.random() ** 3
        title = _words(rng, 3, 7)
        if owner == LARGE:
            large_tasks += 1
            if large_tasks % (size.large // RARE_TASKS) == 0:
                title += " " + RARE
        if rng.random() < 0.3:
            title += f" #{rng.randrange(100_000)}"
        yield (
            owner,
            _uuid7(created, rng),
            title.capitalize(),
            _words(rng, 5, 25) + "." if rng.random() < 0.5 else None,
            updated if rng.random() < (0.1 if owner == REVERSE else 0.9) else None,
            created,
            updated,
            UUID(int=rng.getrandbits(128)),
        )


async def fill(database: asyncpg.Connection[Any], size: Size) -> None:
    """Load the rows into an empty table. The indexes are recreated afterwards."""
    indexes = await database.fetch(
        "SELECT indexname, indexdef FROM pg_indexes "
        "WHERE tablename = 'tasks' AND indexname LIKE 'ix%' ORDER BY indexname"
    )
    for name, _ in indexes:
        await database.execute(f"DROP INDEX {name}")
    await database.copy_records_to_table(
        "tasks",
        records=tasks(size),
        columns=[
            "user_id", "id", "title", "description",
            "completed_at", "created_at", "updated_at", "etag",
        ],
        timeout=3600,
    )  # fmt: skip
    for _, definition in indexes:
        await database.execute(definition, timeout=3600)
    await database.execute("REINDEX INDEX pk_tasks")  # so that all index sizes are comparable
    await database.execute("VACUUM ANALYZE tasks", timeout=3600)


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
