"""The filters, sorts and counts of tasks, compared with a model of the contract without SQL."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, time, timedelta
from functools import partial
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from app.http.middleware import HTTPMiddleware
from tests.support.client import ContractClient, assert_problem, tasks_of
from tests.support.tasks import UNKNOWN_ID, create, insert_list, titles

ALICE = tasks_of("alice")
START = datetime(2026, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)
LISTS = [UUID(int=1001), UUID(int=1002)]
PRIORITIES = ["none", "low", "medium", "high", "urgent"]
LABELS = ["a", "A", "a b", "é", "e\u0301", "\U0001f95b", "x\\y", 'say "x"', "it's", "{x}", "NULL"]
DATES = [date(1, 1, 1), date(2026, 11, 23), date(2026, 11, 24), date(9999, 12, 31)]
TIMES = [None, time(0, 0), time(12, 30), time(23, 59)]
ZONES = [None, "Pacific/Kiritimati", "Etc/GMT+12"]
POSITIONS = [None, None, "0", "0639", "A", "Z", "a", "z", "z" * 64]
INSERT = """
    INSERT INTO tasks (user_id, id, title, completed_at, list_id, parent_id, depth, priority,
        due_date, due_time, due_timezone, labels, position, created_at, updated_at, etag)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8,
        -- The driver sends the first and the last date as infinity.
        CASE WHEN $9::date IS NOT NULL
            THEN greatest(date '0001-01-01', least(date '9999-12-31', $9)) END,
        $10, $11, $12, $13, $14, $15, $16)
"""


class Row(NamedTuple):
    """A task of the model."""

    id: UUID
    title: str
    is_completed: bool
    list_id: UUID | None
    parent_id: UUID | None
    priority: int
    due: tuple[date, time | None] | None
    due_timezone: str | None
    labels: frozenset[str]
    stored_position: str | None
    created_at: datetime
    updated_at: datetime

    @property
    def position(self) -> str:
        micros = (self.created_at - datetime(1, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
        return self.stored_position or f"{micros:018}{self.id.hex[-8:]}"

    @property
    def due_key(self) -> datetime:
        if self.due is None:
            return datetime.max  # noqa: DTZ901 - local times
        day, at = self.due
        return datetime.combine(day, at or time(23, 59, 59))

    def values(self, user: str) -> tuple[object, ...]:
        """Return the values of `INSERT`."""
        day, at = self.due or (None, None)
        return (
            user,
            self.id,
            self.title,
            self.created_at if self.is_completed else None,
            self.list_id,
            self.parent_id,
            int(self.parent_id is not None),
            self.priority,
            day,
            at,
            self.due and self.due_timezone,
            ",".join(sorted(self.labels)),
            self.stored_position,
            self.created_at,
            self.updated_at,
            uuid4(),
        )


SORT_KEYS: dict[str, Any] = {
    "created_at": lambda row: row.created_at,
    "updated_at": lambda row: row.updated_at,
    "due": lambda row: row.due_key,
    "priority": lambda row: row.priority,
    "position": lambda row: row.position,
}


def matches(row: Row, query: Mapping[str, str]) -> bool:
    """Return whether a task matches all filters, as the contract describes them."""
    day = row.due[0] if row.due else None
    tests: dict[str, Callable[[str], bool]] = {
        "completed": lambda value: row.is_completed == (value == "true"),
        "list_id": lambda value: (
            row.list_id is None and row.parent_id is None
            if value == "none"
            else str(row.list_id) == value
        ),
        "parent_id": lambda value: (
            row.parent_id is None if value == "none" else str(row.parent_id) == value
        ),
        "priority": lambda value: PRIORITIES[row.priority] in value.split(","),
        "labels": lambda value: set(value.split(",")) <= row.labels,
        "has_due": lambda value: (day is not None) == (value == "true"),
        "due_after": lambda value: day is not None and day > date.fromisoformat(value),
        "due_before": lambda value: day is not None and day < date.fromisoformat(value),
        "q": row.title.split()[-1].startswith,
        "created_after": lambda value: row.created_at > datetime.fromisoformat(value),
        "created_before": lambda value: row.created_at < datetime.fromisoformat(value),
        "updated_after": lambda value: row.updated_at > datetime.fromisoformat(value),
        "updated_before": lambda value: row.updated_at < datetime.fromisoformat(value),
    }
    return all(tests[name](value) for name, value in query.items())


def expected(rows: list[Row], filters: Mapping[str, str], sort: str, order: str) -> list[str]:
    found = [row for row in rows if matches(row, filters)]
    key = SORT_KEYS[sort]
    found.sort(key=lambda row: (key(row), row.id), reverse=order == "desc")
    return [str(row.id) for row in found]


# --- strategies ----------------------------------------------------------------------------------

seconds = st.integers(0, 4).map(lambda number: START + SECOND * number)


@st.composite
def datasets(draw: st.DrawFn) -> list[Row]:
    """Draw tasks whose values often are equal, with lists and subtasks."""
    rows: list[Row] = []
    for number in range(draw(st.integers(0, 10))):
        parents = [row.id for row in rows if row.parent_id is None]
        parent_id = draw(st.sampled_from([None, None, *parents]))
        created_at = draw(seconds)
        rows.append(
            Row(
                # IDs are not in the order of creation.
                id=UUID(int=(number * 7) % 11 + 1),
                title=f"task {draw(st.sampled_from(['milk', 'bread']))}",
                is_completed=draw(st.booleans()),
                list_id=None if parent_id else draw(st.sampled_from([None, *LISTS])),
                parent_id=parent_id,
                priority=draw(st.integers(0, 4)),
                due=draw(
                    st.none() | st.tuples(st.sampled_from(DATES[1:3]), st.sampled_from(TIMES))
                    | st.tuples(st.sampled_from(DATES), st.sampled_from(TIMES))
                ),
                due_timezone=draw(st.sampled_from(ZONES)),
                labels=draw(st.frozensets(st.sampled_from(LABELS[:3]), max_size=3)
                    | st.frozensets(st.sampled_from(LABELS), max_size=4)),
                stored_position=draw(st.sampled_from(POSITIONS)),
                created_at=created_at,
                updated_at=created_at + SECOND * draw(st.integers(0, 2)),
            )
        )  # fmt: skip
    return rows


some_ids = st.sampled_from([*range(1, 12)]).map(lambda number: str(UUID(int=number)))
timestamps = seconds.map(datetime.isoformat)
comma_separated = partial(st.lists, min_size=1, max_size=3)
filter_values: dict[str, st.SearchStrategy[str]] = {
    "completed": st.sampled_from(["true", "false"]),
    "list_id": st.sampled_from(["none", *map(str, LISTS), UNKNOWN_ID]),
    "parent_id": st.sampled_from(["none", "none", UNKNOWN_ID]) | some_ids,
    "priority": comma_separated(st.sampled_from(PRIORITIES)).map(",".join),
    "labels": comma_separated(st.sampled_from(LABELS)).map(",".join) | st.sampled_from(LABELS[:3]),
    "has_due": st.sampled_from(["true", "false"]),
    "due_after": st.sampled_from(DATES).map(date.isoformat),
    "due_before": st.sampled_from(DATES).map(date.isoformat),
    "q": st.sampled_from(["milk", "m", "bread", "x"]),
    "created_after": timestamps,
    "created_before": timestamps,
    "updated_after": timestamps,
    "updated_before": timestamps,
}


@st.composite
def queries(draw: st.DrawFn) -> tuple[dict[str, str], str, str, int]:
    """Draw the filters, the sort, the order and the limit of a query."""
    # Most queries have few filters, so that they find tasks.
    names = draw(st.lists(st.sampled_from([*filter_values]), max_size=3, unique=True) | st.just([]))
    names = draw(st.just(names) | st.just([*filter_values]))
    return (
        {name: draw(filter_values[name]) for name in names},
        draw(st.sampled_from([*SORT_KEYS])),
        draw(st.sampled_from(["asc", "desc"])),
        draw(st.integers(1, 4)),
    )


async def paginate(client: httpx.AsyncClient, params: dict[str, Any]) -> list[str]:
    """Return the IDs on all pages, and check the length of each page and cursor."""
    found: list[str] = []
    while True:
        response = await client.get(ALICE, params=params)
        assert response.status_code == 200, response.text
        page = response.json()
        found += [task["id"] for task in page["items"]]
        assert len(found) == len(set(found))
        if page["next_cursor"] is None:
            assert len(page["items"]) <= params["limit"]
            return found
        assert len(page["items"]) == params["limit"]
        assert len(page["next_cursor"]) == (132 if params["sort"] == "position" else 56)
        params = params | {"cursor": page["next_cursor"]}


@pytest.fixture
async def plain_client(app: HTTPMiddleware) -> Any:
    """A client without checks against the contract, which take longer than the requests."""
    transport = httpx.ASGITransport(app=app)  # type: ignore[arg-type]  # httpx declares ASGI differently
    async with httpx.AsyncClient(transport=transport, base_url="http://tasks.test") as client:
        yield client


@pytest.mark.requirement("FR-139", "FR-140", "FR-141", "FR-142", "FR-143", "FR-144", "FR-145")
@pytest.mark.requirement("FR-116", "FR-147")
@given(rows=datasets(), drawn=st.lists(queries(), min_size=8, max_size=8))
@hypothesis_settings(
    max_examples=80,
    deadline=None,
    # The fixtures are made once; the test empties the tables itself.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
async def test_every_query_returns_the_tasks_of_the_model(
    plain_client: httpx.AsyncClient,
    database: asyncpg.Connection,
    rows: list[Row],
    drawn: list[tuple[dict[str, str], str, str, int]],
) -> None:
    await database.execute("TRUNCATE tasks, lists")
    for user in ("alice", "bob"):
        for id_ in LISTS:
            await insert_list(database, user, id_)
        # Another user has the same tasks with the same IDs.
        await database.executemany(INSERT, [row.values(user) for row in rows])
    for filters, sort, order, limit in drawn:
        ids = expected(rows, filters, sort, order)
        params = {**filters, "sort": sort, "order": order, "limit": limit}
        assert await paginate(plain_client, params) == ids
        count = await plain_client.get(f"{ALICE}/count", params=filters)
        assert count.json() == {"count": len(ids), "is_capped": False}


# --- single filters ------------------------------------------------------------------------------


@pytest.mark.requirement("FR-139")
async def test_list_filter_returns_no_subtasks(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    list_id = await insert_list(database)
    parent = await create(client, title="in the list", list_id=list_id)
    await create(client, title="subtask", parent_id=parent["id"])
    await create(client, title="in the inbox")
    assert await titles(client, list_id=list_id) == ["in the list"]
    assert await titles(client, list_id="none") == ["in the inbox"]
    assert await titles(client, list_id=list_id.upper()) == ["in the list"]
    assert await titles(client, parent_id=parent["id"]) == ["subtask"]
    assert await titles(client, parent_id=parent["id"].upper()) == ["subtask"]
    assert await titles(client, parent_id="none") == ["in the inbox", "in the list"]
    assert await titles(client, list_id="none", parent_id="none") == ["in the inbox"]
    assert await titles(client, list_id="none", parent_id=parent["id"]) == []
    assert await titles(client, list_id=list_id, parent_id=parent["id"]) == []


@pytest.mark.requirement("FR-139", "FR-115")
@pytest.mark.parametrize("name", ["list_id", "parent_id"])
async def test_unknown_id_of_a_filter_matches_nothing(client: ContractClient, name: str) -> None:
    await create(client)
    assert await titles(client, **{name: UNKNOWN_ID}) == []
    count = await client.get(f"{ALICE}/count", params={name: UNKNOWN_ID})
    assert count.json() == {"count": 0, "is_capped": False}


@pytest.mark.requirement("FR-140")
async def test_priorities_are_alternatives_and_labels_are_not(client: ContractClient) -> None:
    await create(client, title="1", priority="high", labels=["a", "b"])
    await create(client, title="2", priority="low", labels=["a"])
    await create(client, title="3", labels=["b"])
    assert await titles(client, priority="high,low", order="asc") == ["1", "2"]
    assert await titles(client, priority="none") == ["3"]
    assert await titles(client, priority="high,high") == ["1"]
    assert await titles(client, labels="b,a") == ["1"]
    assert await titles(client, labels="b,b", order="asc") == ["1", "3"]
    assert await titles(client, labels="c") == []
    assert await titles(client, labels="a,c") == []


@pytest.mark.requirement("FR-137", "FR-140")
@pytest.mark.parametrize("label", LABELS, ids=ascii)
async def test_label_is_compared_exactly(client: ContractClient, label: str) -> None:
    for other in LABELS:
        await create(client, title=other, labels=[other, "zz"])
    assert await titles(client, labels=label) == [label]
    assert await titles(client, labels=f"zz,{label}") == [label]


@pytest.mark.requirement("FR-140")
@pytest.mark.parametrize("label", ["err", "errand", "errands ", "ERRANDS", "errands:", "%", "e*"])
async def test_label_is_not_compared_by_prefix_or_case(client: ContractClient, label: str) -> None:
    await create(client, labels=["errands"])
    response = await client.get(ALICE, params={"labels": label})
    assert response.status_code == (400 if label.endswith(" ") else 200)
    assert response.json().get("items", []) == []


@pytest.mark.requirement("FR-140")
async def test_filter_has_at_most_ten_labels(client: ContractClient) -> None:
    labels = [f"label {number}" for number in range(11)]
    await create(client, title="all", labels=labels)
    assert await titles(client, labels=",".join(labels[:10])) == ["all"]
    response = await client.get(ALICE, params={"labels": ",".join(labels)})
    assert_problem(response, 400, "invalid-parameter", "labels")
    longest = ["\U0001f95b" * 63 + str(number) for number in range(10)]
    await create(client, title="long", labels=longest)
    assert await titles(client, labels=",".join(longest)) == ["long"]


@pytest.mark.requirement("FR-141")
@pytest.mark.parametrize(
    ("params", "found"),
    [
        ({"due_after": "2026-11-23"}, "bc"),
        ({"due_after": "2026-11-24"}, ""),
        ({"due_before": "2026-11-25"}, "abc"),
        ({"due_before": "2026-11-24"}, "a"),
        ({"due_after": "2026-11-22", "due_before": "2026-11-24"}, "a"),
        ({"due_after": "2026-11-24", "due_before": "2026-11-23"}, ""),
        ({"due_after": "0001-01-01"}, "abc"),
        ({"due_after": "9999-12-31"}, ""),
        ({"due_before": "0001-01-01"}, ""),
        ({"due_before": "9999-12-31"}, "abc"),
        ({"has_due": "true"}, "abc"),
        ({"has_due": "false"}, "d"),
        ({"has_due": "false", "due_before": "9999-12-31"}, ""),
    ],
    ids=str,
)
async def test_due_dates_are_compared_as_stored(
    client: ContractClient, params: dict[str, str], found: str
) -> None:
    # On the other side of the date line, each of these dates is a day earlier or later.
    for title, due in {
        "a": {"date": "2026-11-23", "time": "23:59", "timezone": "Etc/GMT+12"},
        "b": {"date": "2026-11-24", "time": "00:00", "timezone": "Pacific/Kiritimati"},
        "c": {"date": "2026-11-24", "time": None, "timezone": None},
        "d": None,
    }.items():
        await create(client, title=title, due=due)
    assert "".join(await titles(client, order="asc", **params)) == found


@pytest.mark.requirement("FR-143")
async def test_due_order(client: ContractClient) -> None:
    days = [
        ("0001-01-01", None),
        ("2026-11-23", "00:00"),
        ("2026-11-23", "23:59"),
        ("2026-11-23", None),
        ("2026-11-24", "00:00"),
        ("9999-12-31", "23:59"),
        ("9999-12-31", None),
    ]
    expected_titles = [f"{day} {at}" for day, at in days]
    for day, at in reversed(days):
        await create(
            client, title=f"{day} {at}", due={"date": day, "time": at, "timezone": "Asia/Tokyo"}
        )
    for title in ("without 1", "without 2"):
        await create(client, title=title)
    ascending = [*expected_titles, "without 1", "without 2"]
    for limit in (1, 2, 50):
        for order, found in (("asc", ascending), ("desc", ascending[::-1])):
            assert await titles(client, sort="due", order=order, limit=limit) == found


@pytest.mark.requirement("FR-144")
async def test_priority_order(client: ContractClient) -> None:
    for priority in ("urgent", "none", "high", "low", "medium"):
        for number in (1, 2):
            await create(client, title=f"{priority} {number}", priority=priority)
    ascending = [f"{priority} {number}" for priority in PRIORITIES for number in (1, 2)]
    for order, found in (("asc", ascending), ("desc", ascending[::-1])):
        assert await titles(client, sort="priority", order=order, limit=3) == found


@pytest.mark.requirement("FR-144")
async def test_positions_are_compared_by_code_point(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    ordered = ["0", "00", "1", "A", "AA", "Z", "a", "aB", "aa", "z", "z" * 64]
    for position in reversed(ordered):
        task = await create(client, title=position)
        await database.execute(
            "UPDATE tasks SET position = $2 WHERE id = $1", UUID(task["id"]), position
        )
    assert ordered == sorted(ordered)
    assert await titles(client, sort="position", order="asc", limit=2) == ordered
    assert await titles(client, sort="position", order="desc", limit=3) == ordered[::-1]


# --- cursors -------------------------------------------------------------------------------------

OTHER_FILTERS: list[dict[str, str]] = [
    {},
    {"list_id": "none"},
    {"list_id": UNKNOWN_ID},
    {"parent_id": "none"},
    {"priority": "none"},
    {"priority": "none,low"},
    {"labels": "a"},
    {"labels": "a,b"},
    {"has_due": "true"},
    {"has_due": "false"},
    {"due_after": "2026-11-22"},
    {"due_after": "2026-11-21"},
    {"due_before": "2026-11-25"},
    {"completed": "false"},
]


@pytest.mark.requirement("FR-017", "FR-145")
@pytest.mark.parametrize("sort", SORT_KEYS)
@pytest.mark.parametrize("issued_for", OTHER_FILTERS, ids=str)
async def test_cursor_is_bound_to_its_filters(
    client: ContractClient, database: asyncpg.Connection, issued_for: dict[str, str], sort: str
) -> None:
    # All of these tasks match every filter, except those with other values.
    due = {"date": "2026-11-24", "time": None, "timezone": None}
    has_due = issued_for.get("has_due") != "false"
    list_id = await insert_list(database, id_=UUID(UNKNOWN_ID))
    for _ in range(2):
        await create(
            client,
            labels=["a", "b"],
            due=due if has_due else None,
            list_id=list_id if issued_for.get("list_id") == UNKNOWN_ID else None,
        )
    params = {"sort": sort, "limit": "1"}
    page = (await client.get(ALICE, params={**params, **issued_for})).json()
    cursor = page["next_cursor"]
    assert len(cursor) == (132 if sort == "position" else 56)
    for filters in OTHER_FILTERS:
        response = await client.get(ALICE, params={**params, **filters, "cursor": cursor})
        if filters == issued_for:
            assert len(response.json()["items"]) == 1
        else:
            assert_problem(response, 400, "invalid-cursor", "cursor")


@pytest.mark.requirement("FR-017", "FR-145")
async def test_cursor_is_bound_to_its_sort_and_order(client: ContractClient) -> None:
    for _ in range(2):
        await create(client)
    variants = [(sort, order) for sort in SORT_KEYS for order in ("asc", "desc")]
    for sort, order in variants:
        params = {"sort": sort, "order": order, "limit": "1"}
        cursor = (await client.get(ALICE, params=params)).json()["next_cursor"]
        for other in variants:
            query = {"sort": other[0], "order": other[1], "cursor": cursor}
            response = await client.get(ALICE, params=query)
            assert response.status_code == (200 if other == (sort, order) else 400)


@pytest.mark.requirement("FR-016", "FR-145")
@pytest.mark.parametrize("sort", ["due", "priority", "position"])
async def test_pagination_survives_deletion_of_the_cursor_task(
    client: ContractClient, sort: str
) -> None:
    tasks = [await create(client, title=str(number)) for number in range(4)]
    params = {"sort": sort, "order": "asc", "limit": "2"}
    page = (await client.get(ALICE, params=params)).json()
    await client.delete(f"{ALICE}/{tasks[1]['id']}")
    assert await titles(client, cursor=page["next_cursor"], **params) == ["2", "3"]
