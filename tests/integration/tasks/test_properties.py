"""The properties of tasks in createTask, replaceTask and updateTask."""

from __future__ import annotations

from datetime import date, time
from itertools import product
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest

from tests.support.client import ContractClient, assert_problem, tasks_of
from tests.support.tasks import EMPTY, create, errors_of, insert_list, path_of, read, stored

ALICE = tasks_of("alice")
LIST = UUID("0198c5a2-9c40-7d11-8a3e-51b6c2d4e9f0")
PARENT = UUID("0198c5a2-8b2c-7c44-b1a0-93d7e5f60718")
PATH = f"{ALICE}/{UUID(int=1)}"
MILK: dict[str, Any] = {"title": "Buy milk", "description": None, "completed": False}
PARENT_BODY = {**MILK, "title": "the parent"}
DUE = {"date": "2026-11-24", "time": "17:30", "timezone": "Europe/Berlin"}
DAY = {"date": "2026-11-24", "time": None, "timezone": None}
# Two values of each property: one in the request, and the values in the response that it implies.
VALUES: dict[str, tuple[Any, dict[str, Any]]] = {
    "list": ({"list_id": str(LIST)}, {"list_id": str(LIST)}),
    "list in capitals": ({"list_id": str(LIST).upper()}, {"list_id": str(LIST)}),
    "parent": ({"parent_id": str(PARENT)}, {"parent_id": str(PARENT)}),
    "parent in capitals": ({"parent_id": str(PARENT).upper()}, {"parent_id": str(PARENT)}),
    "priority": ({"priority": "urgent"}, {"priority": "urgent"}),
    "day": ({"due": DAY}, {"due": DAY}),
    "local time": ({"due": {**DAY, "time": "00:00"}}, {"due": {**DAY, "time": "00:00"}}),
    "day in a zone": (
        {"due": {**DUE, "time": None}},
        {"due": {**DUE, "time": None}},
    ),
    "exact time": ({"due": DUE}, {"due": DUE, "due_at": "2026-11-24T16:30:00Z"}),
    "labels": ({"labels": ["shop", "Errands"]}, {"labels": ["Errands", "shop"]}),
    "all": (
        {"list_id": str(LIST), "priority": "low", "due": DUE, "labels": ["b", "a"]},
        {
            "list_id": str(LIST),
            "priority": "low",
            "due": DUE,
            "due_at": "2026-11-24T16:30:00Z",
            "labels": ["a", "b"],
        },
    ),
}
EXPLICITLY_EMPTY = {name: EMPTY[name] for name in EMPTY if name != "due_at"}


@pytest.fixture(autouse=True)
async def references(client: ContractClient, database: asyncpg.Connection) -> None:
    """A list and a task to which other tasks can refer."""
    await insert_list(database, id_=LIST)
    response = await client.put(f"{ALICE}/{PARENT}", json=PARENT_BODY)
    assert response.status_code == 201


async def send(client: ContractClient, method: str, properties: dict[str, Any]) -> httpx.Response:
    """Create a task, or replace or update an existing one."""
    if method == "POST":
        return await client.post(ALICE, json={"title": "Buy milk", **properties})
    body = {**MILK, **properties} if method == "PUT" else properties
    return await client.request(method, PATH, json=body)


def only(task: dict[str, Any]) -> dict[str, Any]:
    """Return the properties that contract 1.0.0 does not have, except `position`."""
    return {name: task[name] for name in EMPTY}


# --- set -----------------------------------------------------------------------------------------


@pytest.mark.requirement("FR-111", "FR-112", "FR-113", "FR-132", "FR-133", "FR-137")
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
@pytest.mark.parametrize(("sent", "expected"), VALUES.values(), ids=VALUES)
async def test_property_is_stored_and_returned(
    client: ContractClient, method: str, sent: dict[str, Any], expected: dict[str, Any]
) -> None:
    if method == "PATCH":
        await client.put(PATH, json=MILK)
    response = await send(client, method, sent)
    assert response.status_code == {"POST": 201, "PUT": 201, "PATCH": 200}[method]
    task = response.json()
    assert only(task) == EMPTY | expected
    assert (task["title"], task["description"], task["completed"]) == ("Buy milk", None, False)
    assert await read(client, task) == task
    page = (await client.get(ALICE, params={"limit": 1})).json()
    assert page["items"] == [task]


@pytest.mark.requirement("FR-111")
async def test_columns_of_a_task_with_every_property(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    task = await create(
        client, list_id=str(LIST), priority="urgent", due=DUE, labels=["b", "a", "é"]
    )
    row = await database.fetchrow("SELECT * FROM tasks WHERE id = $1", UUID(task["id"]))
    assert row is not None
    assert (row["list_id"], row["parent_id"]) == (LIST, None)
    assert (row["depth"], row["parent_depth"], row["priority"]) == (0, 0, 4)
    assert (row["due_date"], row["due_time"]) == (date(2026, 11, 24), time(17, 30))
    assert (row["due_timezone"], row["labels"]) == ("Europe/Berlin", "a,b,é")
    assert row["position"] is None


@pytest.mark.requirement("FR-111", "FR-119")
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
async def test_columns_of_a_subtask(
    client: ContractClient, database: asyncpg.Connection, method: str
) -> None:
    if method == "PATCH":
        await client.put(PATH, json=MILK)
    task = (await send(client, method, {"parent_id": str(PARENT)})).json()
    row = await database.fetchrow("SELECT * FROM tasks WHERE id = $1", UUID(task["id"]))
    assert row is not None
    assert (row["parent_id"], row["depth"], row["parent_depth"]) == (PARENT, 1, 0)
    await client.patch(path_of(task), json={"parent_id": None})
    row = await database.fetchrow("SELECT * FROM tasks WHERE id = $1", UUID(task["id"]))
    assert row is not None
    assert (row["parent_id"], row["depth"], row["parent_depth"]) == (None, 0, 0)


@pytest.mark.requirement("FR-111", "FR-144")
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
async def test_each_priority_is_kept(client: ContractClient, method: str) -> None:
    await client.put(PATH, json=MILK)
    for priority in ("none", "low", "medium", "high", "urgent"):
        task = (await send(client, method, {"priority": priority})).json()
        assert (await read(client, task))["priority"] == priority


@pytest.mark.requirement("FR-111")
@pytest.mark.parametrize("method", ["POST", "PUT"])
@pytest.mark.parametrize("name", [*EXPLICITLY_EMPTY, "all"])
async def test_explicit_empty_value_equals_an_absent_property(
    client: ContractClient, method: str, name: str
) -> None:
    properties = EXPLICITLY_EMPTY if name == "all" else {name: EXPLICITLY_EMPTY[name]}
    task = (await send(client, method, properties)).json()
    assert only(task) == EMPTY


@pytest.mark.requirement("FR-111", "FR-123")
async def test_position_follows_from_the_creation(client: ContractClient) -> None:
    first, second = await create(client), await create(client)
    assert first["position"] < second["position"]
    assert first["position"].endswith(first["id"][-8:])
    assert (await read(client, first))["position"] == first["position"]


# --- clear and leave -----------------------------------------------------------------------------

FULL = {"priority": "high", "due": DUE, "labels": ["a", "b"], "list_id": str(LIST)}


@pytest.fixture
async def full(client: ContractClient) -> dict[str, Any]:
    """A task with every property except a parent."""
    response = await client.put(PATH, json={**MILK, **FULL})
    task: dict[str, Any] = response.json()
    return task


@pytest.mark.requirement("FR-112")
async def test_replacing_without_a_property_clears_it(
    client: ContractClient, full: dict[str, Any]
) -> None:
    replaced = (await client.put(PATH, json=MILK)).json()
    assert only(full) != EMPTY == only(replaced)
    assert replaced["created_at"] == full["created_at"]
    assert replaced["position"] == full["position"]
    assert await read(client, replaced) == replaced


@pytest.mark.requirement("FR-112")
@pytest.mark.parametrize("headers", [{}, {"If-Match": "*"}], ids=str)
@pytest.mark.parametrize("name", FULL)
async def test_replacing_keeps_only_the_properties_sent(
    client: ContractClient, full: dict[str, Any], name: str, headers: dict[str, str]
) -> None:
    body = {**MILK, name: FULL[name]}
    replaced = (await client.put(PATH, json=body, headers=headers)).json()
    kept = {name: full[name]} | ({"due_at": full["due_at"]} if name == "due" else {})
    assert only(replaced) == EMPTY | kept


@pytest.mark.requirement("FR-113")
@pytest.mark.parametrize(
    ("patch", "expected"),
    [
        ({"list_id": None}, {"list_id": None}),
        ({"parent_id": None}, {}),
        ({"priority": "none"}, {"priority": "none"}),
        ({"due": None}, {"due": None, "due_at": None}),
        ({"due": DAY}, {"due": DAY, "due_at": None}),
        ({"labels": []}, {"labels": []}),
        ({"labels": ["c"]}, {"labels": ["c"]}),
        ({"title": "Buy bread"}, {"title": "Buy bread"}),
        ({"completed": True}, {"completed": True}),
        (EXPLICITLY_EMPTY, EMPTY),
        ({"list_id": None, "parent_id": str(PARENT)}, {"list_id": None, "parent_id": str(PARENT)}),
    ],
    ids=str,
)
async def test_patch_changes_only_the_properties_sent(
    client: ContractClient, full: dict[str, Any], patch: dict[str, Any], expected: dict[str, Any]
) -> None:
    response = await client.patch(PATH, json=patch)
    patched = response.json()
    assert response.status_code == 200
    changing = {"updated_at", "etag", "completed_at"}
    assert {name: patched[name] for name in full if name not in changing} == {
        name: {**full, **expected}[name] for name in full if name not in changing
    }
    assert patched["etag"] != full["etag"]
    assert await read(client, patched) == patched


@pytest.mark.requirement("FR-113")
@pytest.mark.parametrize("headers", [{}, {"If-Match": "*"}], ids=str)
async def test_empty_patch_keeps_every_property(
    client: ContractClient, full: dict[str, Any], headers: dict[str, str]
) -> None:
    response = await client.patch(PATH, json={}, headers=headers)
    assert response.json() == full


@pytest.mark.requirement("FR-113")
@pytest.mark.usefixtures("full")
@pytest.mark.parametrize("name", FULL)
async def test_equal_value_is_a_change(client: ContractClient, name: str) -> None:
    before = (await client.get(PATH)).json()
    patched = (await client.patch(PATH, json={name: FULL[name]})).json()
    assert patched["etag"] != before["etag"]
    assert patched["updated_at"] > before["updated_at"]
    assert only(patched) == only(before)


@pytest.mark.requirement("FR-113", "FR-119")
async def test_parent_of_a_subtask_can_be_cleared_and_replaced(
    client: ContractClient, full: dict[str, Any]
) -> None:
    assert full["parent_id"] is None
    other = await create(client, title="another parent")
    await client.patch(PATH, json={"list_id": None, "parent_id": str(PARENT)})
    moved = (await client.patch(PATH, json={"parent_id": other["id"]})).json()
    assert (moved["parent_id"], moved["list_id"]) == (other["id"], None)
    listed = (await client.patch(PATH, json={"parent_id": None, "list_id": str(LIST)})).json()
    assert (listed["parent_id"], listed["list_id"]) == (None, str(LIST))


@pytest.mark.requirement("FR-124")
@pytest.mark.parametrize("method", ["PUT", "PATCH"])
async def test_change_of_the_list_keeps_the_position(
    client: ContractClient, full: dict[str, Any], method: str
) -> None:
    for list_id in (None, str(LIST)):
        changed = (await send(client, method, {"list_id": list_id})).json()
        assert changed["list_id"] == list_id
        assert changed["position"] == full["position"]


# --- errors --------------------------------------------------------------------------------------

NULLABLE_ID = "must be a UUID with hyphens or null"
A_DATE = "must be a date from 0001-01-01 to 9999-12-31"
A_TIME = "must be a time from 00:00 to 23:59"
A_ZONE = "must contain only letters, digits and _ + / -"
A_LABEL = "must contain no comma and no control character, and not begin or end with white space"
PRIORITIES = "must be one of none, low, medium, high, urgent"


def wrong_due(**changes: Any) -> dict[str, Any]:
    return {"due": {**DUE, **changes}}


INVALID: list[tuple[dict[str, Any], list[tuple[str, str]]]] = [
    ({"list_id": str(LIST).replace("-", "")}, [("/list_id", NULLABLE_ID)]),
    ({"list_id": ""}, [("/list_id", NULLABLE_ID)]),
    ({"list_id": "none"}, [("/list_id", NULLABLE_ID)]),
    ({"list_id": f"urn:uuid:{LIST}"}, [("/list_id", NULLABLE_ID)]),
    ({"list_id": f"{{{LIST}}}"}, [("/list_id", NULLABLE_ID)]),
    ({"list_id": f"{LIST}\n"}, [("/list_id", NULLABLE_ID)]),
    ({"list_id": 1}, [("/list_id", NULLABLE_ID)]),
    ({"parent_id": str(PARENT).replace("-", "")}, [("/parent_id", NULLABLE_ID)]),
    ({"parent_id": f" {PARENT}"}, [("/parent_id", NULLABLE_ID)]),
    ({"parent_id": [str(PARENT)]}, [("/parent_id", NULLABLE_ID)]),
    ({"priority": None}, [("/priority", PRIORITIES)]),
    ({"priority": "High"}, [("/priority", PRIORITIES)]),
    ({"priority": ""}, [("/priority", PRIORITIES)]),
    ({"priority": 3}, [("/priority", PRIORITIES)]),
    ({"due": "2026-11-24"}, [("/due", "must be an object or null")]),
    ({"due": []}, [("/due", "must be an object or null")]),
    ({"due": False}, [("/due", "must be an object or null")]),
    (
        {"due": {}},
        [
            ("/due/date", "is required"),
            ("/due/time", "is required"),
            ("/due/timezone", "is required"),
        ],
    ),
    ({"due": {"date": "2026-11-24", "time": None}}, [("/due/timezone", "is required")]),
    ({"due": {"date": "2026-11-24", "timezone": None}}, [("/due/time", "is required")]),
    ({"due": {"time": "17:30", "timezone": "UTC"}}, [("/due/date", "is required")]),
    (wrong_due(zone="UTC"), [("/due/zone", "unknown property")]),
    (wrong_due(date=None), [("/due/date", A_DATE)]),
    (wrong_due(date=""), [("/due/date", A_DATE)]),
    (wrong_due(date="0000-01-01"), [("/due/date", A_DATE)]),
    (wrong_due(date="0000-12-31"), [("/due/date", A_DATE)]),
    (wrong_due(date="10000-01-01"), [("/due/date", A_DATE)]),
    (wrong_due(date="-001-01-01"), [("/due/date", A_DATE)]),
    (wrong_due(date="2026-02-29"), [("/due/date", A_DATE)]),
    (wrong_due(date="2026-11-31"), [("/due/date", A_DATE)]),
    (wrong_due(date="2026-13-01"), [("/due/date", A_DATE)]),
    (wrong_due(date="2026-1-1"), [("/due/date", A_DATE)]),
    (wrong_due(date="20261124"), [("/due/date", A_DATE)]),
    (wrong_due(date="2026-W48-2"), [("/due/date", A_DATE)]),
    (wrong_due(date="2026-11-24T17:30:00Z"), [("/due/date", A_DATE)]),
    (wrong_due(date="2026-11-24\n"), [("/due/date", A_DATE)]),
    (wrong_due(date=20261124), [("/due/date", A_DATE)]),
    (wrong_due(time=""), [("/due/time", "must have exactly 5 characters")]),
    (wrong_due(time="7:30"), [("/due/time", "must have exactly 5 characters")]),
    (
        wrong_due(time="17:30:00"),
        [("/due/time", A_TIME), ("/due/time", "must have exactly 5 characters")],
    ),
    (wrong_due(time="24:00"), [("/due/time", A_TIME)]),
    (wrong_due(time="17:60"), [("/due/time", A_TIME)]),
    (wrong_due(time="17.30"), [("/due/time", A_TIME)]),
    (wrong_due(time="\u0661\u0667:30"), [("/due/time", A_TIME)]),
    (wrong_due(time=1730), [("/due/time", "must be a string or null")]),
    (wrong_due(timezone=""), [("/due/timezone", "must not be empty")]),
    (wrong_due(timezone="Europe Berlin"), [("/due/timezone", A_ZONE)]),
    (wrong_due(timezone="../etc/passwd"), [("/due/timezone", A_ZONE)]),
    (wrong_due(timezone="UTC\n"), [("/due/timezone", A_ZONE)]),
    (wrong_due(timezone="UTC\0"), [("/due/timezone", A_ZONE)]),
    (wrong_due(timezone="a" * 65), [("/due/timezone", "must have at most 64 characters")]),
    (wrong_due(timezone=1), [("/due/timezone", "must be a string or null")]),
    ({"labels": None}, [("/labels", "must be an array")]),
    ({"labels": "errands"}, [("/labels", "must be an array")]),
    ({"labels": {"a": 1}}, [("/labels", "must be an array")]),
    ({"labels": ["a", 1]}, [("/labels/1", "must be a string")]),
    ({"labels": [None]}, [("/labels/0", "must be a string")]),
    ({"labels": ["a", "b", "a"]}, [("/labels", "must not contain an item twice")]),
    ({"labels": ["\U0001f95b"] * 2}, [("/labels", "must not contain an item twice")]),
    (
        {"labels": [f"{number}" for number in range(51)]},
        [("/labels", "must have at most 50 items")],
    ),
    ({"labels": [""]}, [("/labels/0", "must not be empty")]),
    ({"labels": ["ok", "x" * 65]}, [("/labels/1", "must have at most 64 characters")]),
    ({"labels": ["\U0001f95b" * 65]}, [("/labels/0", "must have at most 64 characters")]),
    ({"labels": ["a,b"]}, [("/labels/0", A_LABEL)]),
    ({"labels": [","]}, [("/labels/0", A_LABEL)]),
    ({"labels": [" a"]}, [("/labels/0", A_LABEL)]),
    ({"labels": ["a "]}, [("/labels/0", A_LABEL)]),
    ({"labels": [" "]}, [("/labels/0", A_LABEL)]),
    ({"labels": ["a\u00a0"]}, [("/labels/0", A_LABEL)]),
    ({"labels": ["\u3000a"]}, [("/labels/0", A_LABEL)]),
    ({"labels": ["a\ufeff"]}, [("/labels/0", A_LABEL)]),
    ({"labels": ["a\n"]}, [("/labels/0", A_LABEL)]),
    ({"labels": ["a\tb"]}, [("/labels/0", A_LABEL)]),
    ({"labels": ["a\0b"]}, [("/labels/0", A_LABEL)]),
    ({"labels": ["a\x7fb"]}, [("/labels/0", A_LABEL)]),
    ({"labels": ["a\x9fb"]}, [("/labels/0", A_LABEL)]),
    ({"due_at": None}, [("/due_at", "unknown property")]),
    ({"position": "A"}, [("/position", "unknown property")]),
    ({"depth": 0}, [("/depth", "unknown property")]),
    (
        {
            "list_id": "x",
            "parent_id": "y",
            "priority": None,
            "due": {**DUE, "date": "x", "time": "x", "extra": 1},
            "labels": ["a", " "],
            "position": "A",
        },
        [
            ("/due/date", A_DATE),
            ("/due/extra", "unknown property"),
            ("/due/time", "must have exactly 5 characters"),
            ("/labels/1", A_LABEL),
            ("/list_id", NULLABLE_ID),
            ("/parent_id", NULLABLE_ID),
            ("/position", "unknown property"),
            ("/priority", PRIORITIES),
        ],
    ),
]


@pytest.mark.requirement("FR-111", "FR-113", "FR-132", "FR-137", "FR-138")
@pytest.mark.parametrize(("properties", "errors"), INVALID, ids=lambda value: ascii(value)[:70])
async def test_invalid_value_is_reported_with_its_pointer(
    client: ContractClient,
    database: asyncpg.Connection,
    properties: dict[str, Any],
    errors: list[tuple[str, str]],
) -> None:
    await client.put(PATH, json=MILK)
    before = await stored(database)
    for method in ("POST", "PUT", "PATCH"):
        response = await send(client, method, properties)
        problem = assert_problem(response, 422, "invalid-body", *(pointer for pointer, _ in errors))
        assert sorted(errors_of(response)) == sorted(errors)
        first = problem["errors"][0]
        assert problem["detail"].startswith(f"{first['pointer']}: {first['detail']}")
    assert await stored(database) == before


@pytest.mark.requirement("FR-132")
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
async def test_first_and_last_dates_are_kept(client: ContractClient, method: str) -> None:
    await client.put(PATH, json=MILK)
    days = ["0001-01-01", "0999-12-31", "2024-02-29", "9999-12-31"]
    for day, at in product(days, [None, "00:00", "23:59"]):
        due = {"date": day, "time": at, "timezone": None}
        task = (await send(client, method, {"due": due})).json()
        assert (task["due"], task["due_at"]) == (due, None)
        assert (await read(client, task))["due"] == due


@pytest.mark.requirement("FR-113")
@pytest.mark.parametrize(
    "body",
    [
        b'{"due":{"date":"2026-11-24","date":"2026-11-25","time":null,"timezone":null}}',
        b'{"due":{"date":"2026-11-24","d\\u0061te":"2026-11-25","time":null,"timezone":null}}',
        b'{"due":null,"due":null}',
        b'{"labels":[],"labels":["a"]}',
    ],
)
async def test_duplicate_property_is_400(client: ContractClient, body: bytes) -> None:
    await client.put(PATH, json=MILK)
    response = await client.patch(PATH, content=body, headers={"Content-Type": "application/json"})
    assert_problem(response, 400, "malformed-body")


@pytest.mark.requirement("FR-137")
@pytest.mark.parametrize("labels", [["title"], ["due", "date", "labels"]], ids=str)
async def test_label_may_be_the_name_of_a_property(
    client: ContractClient, labels: list[str]
) -> None:
    task = await create(client, labels=labels, due=DUE)
    assert task["labels"] == sorted(labels)
