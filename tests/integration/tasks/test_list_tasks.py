"""listTasks without search."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from msgspec.structs import replace

from app.asgi import create_app
from app.settings import Secret, Settings
from tests.support.client import ContractClient, assert_problem, tasks_of
from tests.support.lifespan import running

ALICE = tasks_of("alice")
START = datetime(2026, 1, 1, tzinfo=UTC)
URL_SAFE = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


async def insert(
    database: asyncpg.Connection,
    number: int,
    *,
    user: str = "alice",
    created: datetime | None = None,
    updated: datetime | None = None,
    completed: bool = False,
) -> UUID:
    """Insert a row. Its id, title and timestamps are derived from a number unless given."""
    id_ = UUID(int=number)
    created = created or START + timedelta(seconds=number)
    await database.execute(
        "INSERT INTO tasks (user_id, id, title, completed_at, created_at, updated_at, etag)"
        " VALUES ($1, $2, $3, $4, $5, $6, $7)",
        user,
        id_,
        f"task {number}",
        created if completed else None,
        created,
        updated or created,
        uuid4(),
    )
    return id_


async def numbers(client: ContractClient, **params: Any) -> list[int]:
    """Return the numbers of the tasks on one page."""
    page = await client.get(ALICE, params=params)
    assert page.status_code == 200, page.text
    return [UUID(task["id"]).int for task in page.json()["items"]]


async def paginate(client: ContractClient, **params: Any) -> list[list[int]]:
    """Paginate, and return the numbers on each page."""
    pages = []
    cursor: dict[str, str] = {}
    next_page = True
    while next_page:
        page = await client.get(ALICE, params={**params, **cursor})
        assert page.status_code == 200, page.text
        pages.append([UUID(task["id"]).int for task in page.json()["items"]])
        next_page = page.json()["next_cursor"] is not None
        cursor = {"cursor": page.json()["next_cursor"]}
    return pages


async def cursor_of(client: ContractClient, **params: Any) -> str:
    page = await client.get(ALICE, params={"limit": 1, **params})
    cursor: str = page.json()["next_cursor"]
    return cursor


# --- pages ---------------------------------------------------------------------------------------


@pytest.mark.requirement("FR-015")
async def test_unknown_user_has_no_tasks(client: ContractClient) -> None:
    page = await client.get(ALICE)
    assert page.json() == {"items": [], "next_cursor": None}


@pytest.mark.requirement("FR-015")
async def test_listed_task_equals_the_task_itself(client: ContractClient) -> None:
    created = await client.post(
        ALICE, json={"title": "Buy milk", "description": "Two.", "completed": True}
    )
    page = await client.get(ALICE)
    assert page.json() == {"items": [created.json()], "next_cursor": None}


@pytest.mark.requirement("FR-015")
async def test_default_limit_is_50(client: ContractClient, database: asyncpg.Connection) -> None:
    for number in range(51):
        await insert(database, number)
    assert await paginate(client) == [list(range(50, 0, -1)), [0]]


@pytest.mark.requirement("FR-015")
async def test_page_has_at_most_200_tasks(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    for number in range(201):
        await insert(database, number)
    assert await paginate(client, limit=200) == [list(range(200, 0, -1)), [0]]


@pytest.mark.requirement("FR-015")
@pytest.mark.parametrize(
    ("limit", "sizes"),
    [(1, [1] * 7), (2, [2, 2, 2, 1]), (3, [3, 3, 1]), (6, [6, 1]), (7, [7]), (8, [7]), (200, [7])],
)
async def test_every_page_but_the_last_is_full(
    client: ContractClient, database: asyncpg.Connection, limit: int, sizes: list[int]
) -> None:
    for number in range(7):
        await insert(database, number)
    assert [len(page) for page in await paginate(client, limit=limit)] == sizes


@pytest.mark.requirement("FR-015", "FR-021")
@pytest.mark.parametrize("limit", [0, -1, 201, 2**31, 2**63, 2**64])
async def test_limit_out_of_range_is_400(client: ContractClient, limit: int) -> None:
    response = await client.get(ALICE, params={"limit": limit})
    assert_problem(response, 400, "invalid-parameter", "limit")


# --- order ---------------------------------------------------------------------------------------


@pytest.mark.requirement("FR-015")
@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({}, [3, 2, 1]),
        ({"order": "desc"}, [3, 2, 1]),
        ({"order": "asc"}, [1, 2, 3]),
        ({"sort": "created_at"}, [3, 2, 1]),
        ({"sort": "created_at", "order": "asc"}, [1, 2, 3]),
        ({"sort": "updated_at"}, [1, 3, 2]),
        ({"sort": "updated_at", "order": "desc"}, [1, 3, 2]),
        ({"sort": "updated_at", "order": "asc"}, [2, 3, 1]),
    ],
    ids=str,
)
async def test_tasks_are_in_the_requested_order(
    client: ContractClient,
    database: asyncpg.Connection,
    params: dict[str, str],
    expected: list[int],
) -> None:
    for number, changed in ((1, 300), (2, 100), (3, 200)):
        await insert(database, number, updated=START + timedelta(seconds=changed))
    assert await numbers(client, **params) == expected
    assert await paginate(client, limit=1, **params) == [[number] for number in expected]


@pytest.mark.requirement("FR-015", "FR-016")
@pytest.mark.parametrize("sort", ["created_at", "updated_at"])
@pytest.mark.parametrize("limit", [1, 2, 3, 5])
@pytest.mark.parametrize(("order", "expected"), [("asc", range(1, 8)), ("desc", range(7, 0, -1))])
async def test_tasks_with_equal_timestamps_are_ordered_by_id(
    client: ContractClient,
    database: asyncpg.Connection,
    sort: str,
    limit: int,
    order: str,
    expected: Sequence[int],
) -> None:
    for number in (4, 2, 7, 1, 6, 3, 5):
        await insert(database, number, created=START)
    pages = await paginate(client, sort=sort, order=order, limit=limit)
    assert [number for page in pages for number in page] == list(expected)


@pytest.mark.requirement("FR-015", "FR-016")
async def test_timestamps_are_compared_to_the_microsecond(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    for number in (3, 1, 2):
        await insert(database, number, created=START + timedelta(microseconds=number))
    assert await paginate(client, limit=1, order="asc") == [[1], [2], [3]]


@pytest.mark.requirement("FR-015", "FR-016")
async def test_pagination_over_timestamps_far_from_now(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    for number, year in ((1, 2), (2, 1969), (3, 1970), (4, 9999)):
        await insert(database, number, created=datetime(year, 1, 1, tzinfo=UTC))
    assert await paginate(client, limit=1) == [[4], [3], [2], [1]]


# --- pagination ----------------------------------------------------------------------------------


@pytest.mark.requirement("FR-016")
@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_pagination_returns_stable_tasks_once_during_changes(
    client: ContractClient, database: asyncpg.Connection, order: str
) -> None:
    stable = list(range(10, 40, 2))
    for number in stable:
        await insert(database, number)
    seen: list[int] = []
    params: dict[str, Any] = {"limit": 4, "order": order}
    cursor: str | None = ""
    while cursor is not None:
        page = (await client.get(ALICE, params=params)).json()
        seen += [UUID(task["id"]).int for task in page["items"]]
        # Insert one task at the start, one at the end and one in the middle, and delete some.
        for number in (1000 + len(seen), len(seen) % 10, 11 + 2 * (len(seen) % 14)):
            await database.execute("DELETE FROM tasks WHERE id = $1", UUID(int=number))
            await insert(database, number)
        await database.execute(
            "DELETE FROM tasks WHERE id = $1", UUID(int=11 + 2 * (len(seen) % 7))
        )
        cursor = page["next_cursor"]
        params["cursor"] = cursor
    returned = [number for number in seen if number in set(stable)]
    assert returned == sorted(stable, reverse=order == "desc")


@pytest.mark.requirement("FR-016")
async def test_pagination_survives_deletion_of_the_cursor_task(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    for number in range(1, 5):
        await insert(database, number)
    cursor = await cursor_of(client, limit=2)
    await database.execute("DELETE FROM tasks WHERE id = $1", UUID(int=3))
    assert await numbers(client, limit=2, cursor=cursor) == [2, 1]


@pytest.mark.requirement("FR-016")
async def test_pagination_survives_deletion_of_the_remaining_tasks(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    for number in range(1, 5):
        await insert(database, number)
    cursor = await cursor_of(client)
    await database.execute("DELETE FROM tasks")
    page = await client.get(ALICE, params={"cursor": cursor})
    assert page.json() == {"items": [], "next_cursor": None}


@pytest.mark.requirement("FR-016")
async def test_updated_task_reappears_when_sorted_by_updated_at(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    for number in (1, 2, 3):
        await insert(database, number)
    cursor = await cursor_of(client, sort="updated_at", order="asc")
    await client.patch(f"{ALICE}/{UUID(int=1)}", json={"title": "changed"})
    params = {"sort": "updated_at", "order": "asc", "cursor": cursor}
    assert await numbers(client, **params) == [2, 3, 1]


@pytest.mark.requirement("FR-016")
async def test_pagination_keeps_its_filters(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    for number in range(8):
        await insert(database, number, completed=number % 2 == 0)
    pages = await paginate(client, completed="true", limit=2, created_after="2026-01-01T00:00:00Z")
    assert pages == [[6, 4], [2]]


# --- cursors -------------------------------------------------------------------------------------


@pytest.fixture
async def cursor(client: ContractClient, database: asyncpg.Connection) -> str:
    for number in range(5):
        await insert(database, number, completed=number % 2 == 0)
    return await cursor_of(client)


@pytest.mark.requirement("FR-017")
@pytest.mark.parametrize("position", range(56))
async def test_cursor_with_a_changed_character_is_400(
    client: ContractClient, cursor: str, position: int
) -> None:
    others = [character for character in URL_SAFE if character != cursor[position]]
    # Neighbours in the alphabet differ in the last bits only.
    for other in (
        others[0],
        others[31],
        others[-1],
        URL_SAFE[URL_SAFE.index(cursor[position]) ^ 1],
    ):
        changed = cursor[:position] + other + cursor[position + 1 :]
        response = await client.get(ALICE, params={"cursor": changed})
        assert_problem(response, 400, "invalid-cursor", "cursor")


@pytest.mark.requirement("FR-017")
async def test_forged_cursor_is_400(client: ContractClient) -> None:
    for forged in ("A" * 56, "_" * 56, "-" * 56):
        response = await client.get(ALICE, params={"cursor": forged})
        assert_problem(response, 400, "invalid-cursor", "cursor")


@pytest.mark.requirement("FR-017", "FR-021")
@pytest.mark.parametrize(
    "change",
    [
        lambda cursor: cursor[:-1],
        lambda cursor: cursor + "A" * 77,
        lambda cursor: cursor[:-1] + "=",
        lambda cursor: cursor[:-1] + "+",
        lambda cursor: cursor[:-1] + "/",
        lambda cursor: cursor[:-1] + " ",
        lambda cursor: cursor[:-1] + "é",
        lambda cursor: cursor + "\n",
        lambda cursor: cursor[:-1] + "\n",
        lambda cursor: cursor[:0],
        lambda cursor: cursor * 3,
    ],
    ids=["short", "long", "=", "+", "/", "space", "letter", "line", "last line", "empty", "thrice"],
)
async def test_cursor_that_violates_its_schema_is_400(
    client: ContractClient, cursor: str, change: Any
) -> None:
    response = await client.get(ALICE, params={"cursor": change(cursor)})
    assert_problem(response, 400, "invalid-parameter", "cursor")


@pytest.mark.requirement("FR-017", "FR-145")
@pytest.mark.parametrize("length", [57, 58, 59, 60, 112, 128, 129, 130, 131, 132])
async def test_cursor_with_the_length_of_no_sort_is_400(
    client: ContractClient, cursor: str, length: int
) -> None:
    for sort in ("created_at", "position"):
        params = {"cursor": (cursor * 3)[:length], "sort": sort}
        response = await client.get(ALICE, params=params)
        assert_problem(response, 400, "invalid-cursor", "cursor")


@pytest.mark.requirement("FR-017", "FR-145")
@pytest.mark.parametrize(
    "params",
    [
        {"order": "asc"},
        {"sort": "updated_at"},
        {"sort": "due"},
        {"sort": "priority"},
        {"sort": "position"},
        {"list_id": "none"},
        {"parent_id": "none"},
        {"priority": "none"},
        {"has_due": "false"},
        {"completed": "true"},
        {"completed": "false"},
        {"q": "task"},
        {"created_after": "2025-01-01T00:00:00Z"},
        {"created_before": "2100-01-01T00:00:00Z"},
        {"updated_after": "2025-01-01T00:00:00Z"},
        {"updated_before": "2100-01-01T00:00:00Z"},
    ],
    ids=str,
)
async def test_cursor_of_another_query_is_400(
    client: ContractClient, cursor: str, params: dict[str, str]
) -> None:
    response = await client.get(ALICE, params={**params, "cursor": cursor})
    assert_problem(response, 400, "invalid-cursor", "cursor")
    back = await client.get(ALICE, params={"cursor": await cursor_of(client, **params)})
    assert_problem(back, 400, "invalid-cursor", "cursor")


@pytest.mark.requirement("FR-017")
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"created_after": "2025-01-01T00:00:00Z"}, {"created_after": "2025-01-01T00:00:01Z"}),
        ({"created_after": "2025-01-01T00:00:00Z"}, {"updated_after": "2025-01-01T00:00:00Z"}),
        ({"completed": "false"}, {"completed": "true"}),
        ({"q": "task"}, {"q": "tas"}),
    ],
    ids=str,
)
@pytest.mark.usefixtures("cursor")
async def test_cursor_of_another_filter_value_is_400(
    client: ContractClient, one: dict[str, str], other: dict[str, str]
) -> None:
    params = {**other, "cursor": await cursor_of(client, **one)}
    response = await client.get(ALICE, params=params)
    assert_problem(response, 400, "invalid-cursor", "cursor")


@pytest.mark.requirement("FR-017", "FR-020")
@pytest.mark.parametrize("user", ["bob", "Alice", "alice1"])
async def test_cursor_of_another_user_is_400(
    client: ContractClient, cursor: str, user: str
) -> None:
    response = await client.get(tasks_of(user), params={"cursor": cursor})
    assert_problem(response, 400, "invalid-cursor", "cursor")


@pytest.mark.requirement("FR-016", "FR-017")
async def test_limit_may_change_between_pages(client: ContractClient, cursor: str) -> None:
    assert await numbers(client, cursor=cursor, limit=3) == [3, 2, 1]
    assert await numbers(client, cursor=cursor) == [3, 2, 1, 0]


@pytest.mark.requirement("FR-016", "FR-017")
async def test_cursor_accepts_explicit_defaults(client: ContractClient, cursor: str) -> None:
    params = {"cursor": cursor, "sort": "created_at", "order": "desc"}
    assert await numbers(client, **params) == [3, 2, 1, 0]


@pytest.mark.requirement("FR-016", "FR-017")
async def test_cursor_can_be_reused(client: ContractClient, cursor: str) -> None:
    assert await numbers(client, cursor=cursor) == await numbers(client, cursor=cursor)


@pytest.mark.requirement("FR-017", "NFR-002")
async def test_cursor_is_valid_on_another_replica(
    client: ContractClient, settings: Settings, cursor: str
) -> None:
    async with (
        running(create_app(settings)) as replica,
        ContractClient(replica) as other,
    ):
        assert await numbers(other, cursor=cursor) == await numbers(client, cursor=cursor)


@pytest.mark.requirement("FR-017")
@pytest.mark.parametrize("secrets", [("a" * 32, "b" * 32), ("a" * 32, None), (None, "a" * 32)])
@pytest.mark.usefixtures("cursor")
async def test_cursor_signed_with_another_secret_is_400(
    settings: Settings, secrets: tuple[str | None, str | None]
) -> None:
    one, other = (
        create_app(replace(settings, cursor_secret=secret and Secret(secret))) for secret in secrets
    )
    async with (
        running(one),
        running(other),
        ContractClient(one) as issuer,
        ContractClient(other) as verifier,
    ):
        cursor = await cursor_of(issuer)
        assert await numbers(issuer, cursor=cursor) == [3, 2, 1, 0]
        response = await verifier.get(ALICE, params={"cursor": cursor})
        assert_problem(response, 400, "invalid-cursor", "cursor")


@pytest.mark.requirement("FR-017")
@pytest.mark.parametrize("secret", ["a" * 65, "ä" * 500], ids=len)
@pytest.mark.usefixtures("cursor")
async def test_secret_may_be_long(settings: Settings, secret: str) -> None:
    app = create_app(replace(settings, cursor_secret=Secret(secret)))
    async with running(app), ContractClient(app) as client:
        assert await numbers(client, cursor=await cursor_of(client)) == [3, 2, 1, 0]


# --- filters -------------------------------------------------------------------------------------


@pytest.mark.requirement("FR-018")
@pytest.mark.parametrize(("value", "expected"), [("true", [2]), ("false", [3, 1])])
@pytest.mark.parametrize("sort", ["created_at", "updated_at"])
async def test_completed_filter(
    client: ContractClient,
    database: asyncpg.Connection,
    sort: str,
    value: str,
    expected: list[int],
) -> None:
    for number in (1, 2, 3):
        await insert(database, number, completed=number == 2)
    assert await numbers(client, completed=value, sort=sort) == expected


@pytest.mark.requirement("FR-018")
@pytest.mark.parametrize("field", ["created", "updated"])
@pytest.mark.parametrize(
    ("bound", "timestamp", "expected"),
    [
        ("after", "2026-01-01T00:00:02Z", [3]),
        ("after", "2026-01-01T00:00:01.999999Z", [3, 2]),
        ("after", "2026-01-01T00:00:03Z", []),
        ("before", "2026-01-01T00:00:02Z", [1]),
        ("before", "2026-01-01T00:00:02.000001Z", [2, 1]),
        ("before", "2026-01-01T00:00:01Z", []),
    ],
)
async def test_time_bounds_are_exclusive(
    client: ContractClient,
    database: asyncpg.Connection,
    field: str,
    bound: str,
    timestamp: str,
    expected: list[int],
) -> None:
    for number in (1, 2, 3):
        await insert(database, number)
    assert await numbers(client, **{f"{field}_{bound}": timestamp}) == expected


@pytest.mark.requirement("FR-018")
async def test_created_and_updated_bounds_are_independent(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    await insert(database, 1, updated=START + timedelta(days=1))
    assert await numbers(client, created_after="2026-01-01T12:00:00Z") == []
    assert await numbers(client, updated_after="2026-01-01T12:00:00Z") == [1]
    assert await numbers(client, created_before="2026-01-01T12:00:00Z") == [1]
    assert await numbers(client, updated_before="2026-01-01T12:00:00Z") == []


@pytest.mark.requirement("FR-018")
async def test_filters_are_combined(client: ContractClient, database: asyncpg.Connection) -> None:
    for number in range(20):
        await insert(database, number, completed=number % 2 == 0)
    params = {
        "completed": "true",
        "created_after": "2026-01-01T00:00:03Z",
        "created_before": "2026-01-01T00:00:17Z",
        "updated_after": "2026-01-01T00:00:05Z",
        "updated_before": "2026-01-01T00:00:15Z",
        "q": "task 1",
    }
    assert await numbers(client, **params) == [14, 12, 10]


@pytest.mark.requirement("FR-018")
async def test_contradictory_bounds_return_no_tasks(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    await insert(database, 1)
    bounds = {"created_after": "2027-01-01T00:00:00Z", "created_before": "2025-01-01T00:00:00Z"}
    assert await numbers(client, **bounds) == []


# --- timestamps ----------------------------------------------------------------------------------


@pytest.mark.requirement("FR-018")
@pytest.mark.parametrize(
    "timestamp",
    [
        "2026-01-01T00:00:02Z",
        "2026-01-01t00:00:02z",
        "2026-01-01T00:00:02+00:00",
        "2026-01-01T00:00:02-00:00",
        "2026-01-01T02:00:02+02:00",
        "2025-12-31T18:30:02-05:30",
        "2026-01-01T23:59:02+23:59",
        "2025-12-31T00:01:02-23:59",
        "2026-01-01T00:00:02.0Z",
        "2026-01-01T00:00:02.000000999Z",
        "2026-01-01T00:00:02." + "0" * 300 + "Z",
    ],
)
async def test_timestamp_may_have_any_offset_and_fraction(
    client: ContractClient, database: asyncpg.Connection, timestamp: str
) -> None:
    for number in (1, 2, 3):
        await insert(database, number)
    assert await numbers(client, created_after=timestamp) == [3]
    assert await numbers(client, created_before=timestamp) == [1]


@pytest.mark.requirement("FR-018")
async def test_fraction_is_truncated_to_microseconds(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    await insert(database, 1, created=START + timedelta(microseconds=123_457))
    assert await numbers(client, created_after="2026-01-01T00:00:00.123456999Z") == [1]
    assert await numbers(client, created_before="2026-01-01T00:00:00.123457999Z") == []


@pytest.mark.requirement("FR-018")
@pytest.mark.parametrize(
    ("bound", "timestamp", "expected"),
    [
        ("after", "0001-01-01T00:00:00+14:00", [1]),
        ("after", "0001-01-01T00:00:00Z", [1]),
        ("after", "0001-01-01T23:58:59+23:59", [1]),
        ("after", "9999-12-31T23:59:59-14:00", []),
        ("after", "9999-12-31T23:59:59.999999Z", []),
        ("before", "0001-01-01T00:00:00+14:00", []),
        ("before", "0001-01-01T00:00:00Z", []),
        ("before", "9999-12-31T23:59:59-14:00", [1]),
        ("before", "9999-12-31T23:59:59.999999Z", [1]),
        ("before", "9999-12-31T00:01:00-23:59", [1]),
    ],
)
@pytest.mark.parametrize("field", ["created", "updated"])
async def test_first_and_last_timestamps_are_accepted(
    client: ContractClient,
    database: asyncpg.Connection,
    field: str,
    bound: str,
    timestamp: str,
    expected: list[int],
) -> None:
    await insert(database, 1)
    assert await numbers(client, **{f"{field}_{bound}": timestamp}) == expected


@pytest.mark.requirement("FR-018", "FR-021")
@pytest.mark.parametrize(
    "name", ["created_after", "created_before", "updated_after", "updated_before"]
)
@pytest.mark.parametrize(
    "timestamp",
    [
        "",
        "now",
        "null",
        "1767225600",
        "2026-01-01",
        "2026-01-01T00:00:00",
        "2026-01-01 00:00:00Z",
        "2026-01-01T00:00Z",
        "2026-01-01T00:00:00 Z",
        "2026-01-01T00:00:00.Z",
        "2026-01-01T00:00:00,5Z",
        "2026-01-01T00:00:00+0000",
        "2026-01-01T00:00:00+00",
        "2026-01-01T00:00:00 02:00",
        "2026-01-01T00:00:00+24:00",
        "2026-01-01T00:00:00+00:60",
        "2026-01-01T00:00:00-01:99",
        "2026-01-01T00:00:00+00:00:30",
        "2026-01-01T00:00:60Z",
        "2016-12-31T23:59:60Z",
        "2026-01-01T00:60:00Z",
        "2026-01-01T24:00:00Z",
        "2026-01-01T25:00:00Z",
        "2026-02-29T00:00:00Z",
        "2026-13-01T00:00:00Z",
        "2026-00-01T00:00:00Z",
        "2026-01-00T00:00:00Z",
        "20260101T000000Z",
        "2026-W01-1T00:00:00Z",
        "+2026-01-01T00:00:00Z",
        "12026-01-01T00:00:00Z",
        "2026-01-01T00:00:00Z\n",
        "\u0662026-01-01T00:00:00Z",
        "2026-01-01T00:00:00Z[UTC]",
        "2026-01-01T00:00:00UTC",
    ],
)
async def test_invalid_timestamp_is_400(client: ContractClient, name: str, timestamp: str) -> None:
    response = await client.get(ALICE, params={name: timestamp})
    assert_problem(response, 400, "invalid-parameter", name)


@pytest.mark.requirement("FR-018", "FR-021")
async def test_unescaped_plus_is_a_space_and_400(client: ContractClient) -> None:
    response = await client.get(f"{ALICE}?created_after=2026-01-01T00:00:00+02:00")
    assert_problem(response, 400, "invalid-parameter", "created_after")
