"""A large table `tasks`: the same rows each time."""

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
MIDDLING = "deadline"  # in about one of a hundred
RARE = "zeppelin"  # in five tasks of the largest user
RARE_TASKS = 5
TASKS_OF_OTHERS = 36.9  # on average
# Zipf's law in Mandelbrot's form.
_WEIGHTS = list(accumulate(1 / (rank + 8) for rank in range(1, len(WORDS) + 1)))


class Size(Struct, frozen=True):
    """How many tasks two users have, and how many users have 10 to 1,000."""

    large: int = 1_000_000
    reverse: int = 100_000
    others: int = 3_000

    @classmethod
    def of(cls, rows: int) -> Size:
        """A table of about so many rows: a tenth of them, a million at most, are one user's."""
        large, reverse = min(1_000_000, rows // 10), rows // 100
        return cls(large, reverse, round((rows - large - reverse) / TASKS_OF_OTHERS))


def tasks(size: Size) -> Iterator[tuple[Any, ...]]:
    """Rows in the order of their creation, those of all users mixed."""
    draw = random.Random(SEED)  # noqa: S311 - no secrets here
    owners = [LARGE] * size.large + [REVERSE] * size.reverse
    for number in range(size.others):
        owners += [f"user-{number:04}"] * min(1000, int(10 * (1 - draw.random()) ** -0.8))
    draw.shuffle(owners)
    step = YEAR / len(owners)
    number_of_large = 0
    for number, owner in enumerate(owners):
        created = START + step * (number + draw.random())
        updated = created + timedelta(days=60) * draw.random() ** 3
        title = _words(draw, 3, 7)
        if owner == LARGE:
            number_of_large += 1
            if number_of_large % (size.large // RARE_TASKS) == 0:
                title += " " + RARE
        if draw.random() < 0.3:
            title += f" #{draw.randrange(100_000)}"
        yield (
            owner,
            _uuid7(created, draw),
            title.capitalize(),
            _words(draw, 5, 25) + "." if draw.random() < 0.5 else None,
            updated if draw.random() < (0.1 if owner == REVERSE else 0.9) else None,
            created,
            updated,
            UUID(int=draw.getrandbits(128)),
        )


async def fill(database: asyncpg.Connection[Any], size: Size) -> None:
    """Put the rows into an empty table, whose indexes are made again afterwards."""
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
    await database.execute("REINDEX INDEX pk_tasks")  # as compact as the others, to compare sizes
    await database.execute("VACUUM ANALYZE tasks", timeout=3600)


async def sizes(database: asyncpg.Connection[Any]) -> list[tuple[str, int, int]]:
    """The table and its indexes: name, number of rows, bytes."""
    rows = await database.fetch(
        "SELECT relname, reltuples::bigint, pg_relation_size(oid) FROM pg_class "
        "WHERE relname = 'tasks' OR oid IN "
        "(SELECT indexrelid FROM pg_index WHERE indrelid = 'tasks'::regclass) ORDER BY relname"
    )
    return [tuple(row) for row in rows]


def _words(draw: random.Random, fewest: int, most: int) -> str:
    count = draw.randint(fewest, most)
    return " ".join(WORDS[bisect(_WEIGHTS, draw.random() * _WEIGHTS[-1])] for _ in range(count))


def _uuid7(at: datetime, draw: random.Random) -> UUID:
    """An id as the service makes it."""
    bits = int(at.timestamp() * 1000) << 80 | draw.getrandbits(80)
    return UUID(int=bits & ~(0xF << 76 | 0x3 << 62) | 0x7 << 76 | 0x2 << 62)
