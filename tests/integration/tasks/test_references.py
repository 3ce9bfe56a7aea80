"""References of tasks to lists, parents and time zones, and the order of checks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest

from app.db.idempotency import advisory_lock_key
from tests.support.client import FOREIGN_TAG, ContractClient, assert_problem, tasks_of
from tests.support.tasks import (
    UNKNOWN_ID,
    create,
    errors_of,
    insert_list,
    path_of,
    read,
    stored,
)

ALICE = tasks_of("alice")
ID = UUID(int=1)
PATH = f"{ALICE}/{ID}"
MILK: dict[str, Any] = {"title": "Buy milk", "description": None, "completed": False}
NO_LIST = ("/list_id", "this user has no list with this ID")
NO_TASK = ("/parent_id", "this user has no task with this ID")
NO_ZONE = ("/due/timezone", "is not the name of an IANA time zone")
IS_SUBTASK = ("/parent_id", "this task is a subtask")
HAS_SUBTASKS = ("/parent_id", "a task with subtasks cannot be a subtask")
IS_ITSELF = ("/parent_id", "a task cannot be its own subtask")
BOTH = ("/list_id", "must be null for a subtask")
UNKNOWN_ZONE = {"date": "2026-11-24", "time": None, "timezone": "Europe/Bonn"}
# Requests that create or change a task, with the status of their success.
WRITES = {
    "POST": 201,
    "POST with a key": 201,
    "PUT, new": 201,
    "PUT, only new": 201,
    "PUT": 200,
    "PUT with If-Match": 200,
    "PATCH": 200,
    "PATCH with If-Match": 200,
}


async def write(client: ContractClient, kind: str, properties: dict[str, Any]) -> httpx.Response:
    """Send a request of this kind. It changes the task at `PATH`, or creates a task."""
    method = kind.split(maxsplit=1)[0].strip(",")
    headers = {
        "POST with a key": {"Idempotency-Key": "k"},
        "PUT, only new": {"If-None-Match": "*"},
        "PUT with If-Match": {"If-Match": "*"},
        "PATCH with If-Match": {"If-Match": "*"},
    }.get(kind, {})
    url = {"POST": ALICE}.get(method, f"{ALICE}/{UUID(int=2)}" if "new" in kind else PATH)
    body = {
        "POST": {"title": "Buy milk", **properties},
        "PUT": {**MILK, **properties},
        "PATCH": properties,
    }[method]
    return await client.request(method, url, json=body, headers=headers)


@pytest.fixture(autouse=True)
async def task(client: ContractClient) -> dict[str, Any]:
    """The task that the requests change."""
    created: dict[str, Any] = (await client.put(PATH, json=MILK)).json()
    return created


async def assert_conflict(
    database: asyncpg.Connection,
    response: httpx.Response,
    slug: str,
    error: tuple[str, str],
    before: list[dict[str, Any]],
) -> None:
    """Check a 409, and that no task or key was stored."""
    problem = assert_problem(response, 409, slug, error[0])
    assert errors_of(response) == [error]
    assert problem["detail"] == f"{error[0]}: {error[1]}"
    assert "retry-after" not in response.headers
    assert await stored(database) == before
    assert await database.fetchval("SELECT count(*) FROM idempotency_keys") == 0


# --- unknown references --------------------------------------------------------------------------


@pytest.mark.requirement("FR-115")
@pytest.mark.parametrize("kind", WRITES)
@pytest.mark.parametrize(
    ("properties", "error"),
    [({"list_id": UNKNOWN_ID}, NO_LIST), ({"parent_id": UNKNOWN_ID}, NO_TASK)],
    ids=["list", "parent"],
)
async def test_unknown_reference_is_409(
    client: ContractClient,
    database: asyncpg.Connection,
    kind: str,
    properties: dict[str, Any],
    error: tuple[str, str],
) -> None:
    before = await stored(database)
    response = await write(client, kind, properties)
    await assert_conflict(database, response, "reference-not-found", error, before)


@pytest.mark.requirement("FR-115", "FR-135")
@pytest.mark.parametrize("kind", WRITES)
async def test_unknown_time_zone_is_409(
    client: ContractClient, database: asyncpg.Connection, kind: str
) -> None:
    before = await stored(database)
    for name in ("Europe/Bonn", "europe/berlin", "UTC/UTC", "Europe", "Etc", "tzdata", "/"):
        response = await write(client, kind, {"due": {**UNKNOWN_ZONE, "timezone": name}})
        await assert_conflict(database, response, "reference-not-found", NO_ZONE, before)


@pytest.mark.requirement("FR-115", "FR-116")
@pytest.mark.parametrize("kind", WRITES)
async def test_reference_to_another_user_is_unknown(
    client: ContractClient, database: asyncpg.Connection, kind: str
) -> None:
    list_id = await insert_list(database, "bob")
    parent_id = (await create(client, "bob"))["id"]
    before = await stored(database)
    for properties, error in (
        ({"list_id": list_id}, NO_LIST),
        ({"parent_id": parent_id}, NO_TASK),
    ):
        response = await write(client, kind, properties)
        await assert_conflict(database, response, "reference-not-found", error, before)


@pytest.mark.requirement("FR-116")
@pytest.mark.parametrize("kind", WRITES)
async def test_reference_to_an_id_of_two_users_is_to_the_own_one(
    client: ContractClient, database: asyncpg.Connection, kind: str
) -> None:
    shared = UUID(int=7)
    for user in ("alice", "bob"):
        await insert_list(database, user, shared)
        await client.put(f"{tasks_of(user)}/{shared}", json={**MILK, "title": user})
    response = await write(client, kind, {"list_id": str(shared)})
    assert response.status_code == WRITES[kind]
    await client.delete(f"{tasks_of('bob')}/{shared}")
    assert (await client.get(f"{ALICE}/{shared}")).status_code == 200
    assert (await client.get(tasks_of("bob"), params={"list_id": str(shared)})).json() == {
        "items": [],
        "next_cursor": None,
    }


@pytest.mark.requirement("FR-115", "FR-117")
@pytest.mark.parametrize("name", ["list_id", "parent_id"])
async def test_id_of_the_other_kind_is_unknown(
    client: ContractClient, database: asyncpg.Connection, name: str
) -> None:
    id_ = str(ID) if name == "list_id" else await insert_list(database)
    before = await stored(database)
    response = await write(client, "POST", {name: id_})
    error = NO_LIST if name == "list_id" else NO_TASK
    await assert_conflict(database, response, "reference-not-found", error, before)


@pytest.mark.requirement("FR-117")
async def test_deleted_list_and_parent_are_unknown(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    list_id = await insert_list(database)
    parent = await create(client)
    await database.execute("DELETE FROM lists")
    await client.delete(path_of(parent))
    before = await stored(database)
    for properties, error in (
        ({"list_id": list_id}, NO_LIST),
        ({"parent_id": parent["id"]}, NO_TASK),
    ):
        response = await write(client, "PATCH", properties)
        await assert_conflict(database, response, "reference-not-found", error, before)


# --- subtasks ------------------------------------------------------------------------------------


@pytest.mark.requirement("FR-119")
@pytest.mark.parametrize("kind", WRITES)
async def test_parent_may_not_be_a_subtask(
    client: ContractClient, database: asyncpg.Connection, kind: str
) -> None:
    subtask = await create(client, parent_id=(await create(client))["id"])
    before = await stored(database)
    response = await write(client, kind, {"parent_id": subtask["id"]})
    await assert_conflict(database, response, "hierarchy-conflict", IS_SUBTASK, before)


@pytest.mark.requirement("FR-119")
@pytest.mark.parametrize("kind", [kind for kind in WRITES if WRITES[kind] == 200])
async def test_task_with_subtasks_may_not_be_a_subtask(
    client: ContractClient, database: asyncpg.Connection, kind: str
) -> None:
    await create(client, parent_id=str(ID))
    other = await create(client)
    before = await stored(database)
    response = await write(client, kind, {"parent_id": other["id"]})
    await assert_conflict(database, response, "hierarchy-conflict", HAS_SUBTASKS, before)


@pytest.mark.requirement("FR-119")
@pytest.mark.parametrize("kind", [kind for kind in WRITES if "POST" not in kind])
async def test_task_may_not_be_its_own_parent(
    client: ContractClient, database: asyncpg.Connection, kind: str
) -> None:
    before = await stored(database)
    itself = UUID(int=2) if "new" in kind else ID
    response = await write(client, kind, {"parent_id": str(itself)})
    await assert_conflict(database, response, "hierarchy-conflict", IS_ITSELF, before)


@pytest.mark.requirement("FR-119")
@pytest.mark.parametrize("kind", [kind for kind in WRITES if WRITES[kind] == 200])
async def test_task_with_subtasks_may_not_be_its_own_parent(
    client: ContractClient, database: asyncpg.Connection, kind: str
) -> None:
    await create(client, parent_id=str(ID))
    before = await stored(database)
    response = await write(client, kind, {"parent_id": str(ID)})
    await assert_conflict(database, response, "hierarchy-conflict", IS_ITSELF, before)


@pytest.mark.requirement("FR-119")
@pytest.mark.parametrize("kind", WRITES)
async def test_task_may_not_have_a_parent_and_a_list(
    client: ContractClient, database: asyncpg.Connection, kind: str
) -> None:
    properties = {"list_id": await insert_list(database), "parent_id": (await create(client))["id"]}
    before = await stored(database)
    response = await write(client, kind, properties)
    await assert_conflict(database, response, "hierarchy-conflict", BOTH, before)


@pytest.mark.requirement("FR-113", "FR-119")
@pytest.mark.parametrize("headers", [{}, {"If-Match": "*"}], ids=str)
async def test_patch_may_not_leave_a_task_with_a_parent_and_a_list(
    client: ContractClient, database: asyncpg.Connection, headers: dict[str, str]
) -> None:
    list_id, parent = await insert_list(database), await create(client)
    in_list = await create(client, list_id=list_id)
    subtask = await create(client, parent_id=parent["id"])
    before = await stored(database)
    for changed, patch in (
        (in_list, {"parent_id": parent["id"]}),
        (subtask, {"list_id": list_id}),
    ):
        response = await client.patch(path_of(changed), json=patch, headers=headers)
        await assert_conflict(database, response, "hierarchy-conflict", BOTH, before)


@pytest.mark.requirement("FR-119")
@pytest.mark.parametrize("kind", WRITES)
async def test_task_of_a_list_may_be_a_parent(
    client: ContractClient, database: asyncpg.Connection, kind: str
) -> None:
    parent = await create(client, list_id=await insert_list(database))
    response = await write(client, kind, {"parent_id": parent["id"]})
    assert response.status_code == WRITES[kind]
    assert response.json()["list_id"] is None


@pytest.mark.requirement("FR-119")
async def test_task_without_its_last_subtask_may_be_a_subtask(client: ContractClient) -> None:
    parent, other = await create(client), await create(client)
    subtask = await create(client, parent_id=parent["id"])
    await client.patch(path_of(subtask), json={"parent_id": None})
    response = await client.patch(path_of(parent), json={"parent_id": other["id"]})
    assert response.status_code == 200


@pytest.mark.requirement("FR-119")
async def test_former_subtask_may_be_a_parent(client: ContractClient) -> None:
    parent = await create(client)
    subtask = await create(client, parent_id=parent["id"])
    await client.patch(path_of(subtask), json={"parent_id": None})
    swapped = await client.patch(path_of(parent), json={"parent_id": subtask["id"]})
    assert swapped.json()["parent_id"] == subtask["id"]


@pytest.mark.requirement("FR-122")
@pytest.mark.parametrize(
    "patch",
    [
        {"completed": True},
        {"title": "Buy bread"},
        {"priority": "high"},
        {"due": None},
        {"labels": ["a"]},
        {"list_id": "a list"},
    ],
    ids=str,
)
async def test_change_of_a_task_changes_no_other_row(
    client: ContractClient, database: asyncpg.Connection, patch: dict[str, Any]
) -> None:
    list_id = await insert_list(database)
    parent = await create(client, list_id=list_id)
    subtasks = [await create(client, parent_id=parent["id"]) for _ in range(2)]
    others = [await create(client, list_id=list_id), await create(client)]
    list_before = await database.fetch("SELECT * FROM lists")
    if "list_id" in patch:
        patch = {"list_id": await insert_list(database, id_=UUID(int=3))}
        list_before = await database.fetch("SELECT * FROM lists")
    response = await client.patch(path_of(parent), json=patch)
    assert response.status_code == 200
    assert [await read(client, each) for each in subtasks] == subtasks
    await client.patch(path_of(subtasks[0]), json={"completed": True})
    assert await read(client, parent) == response.json()
    assert [await read(client, each) for each in others] == others
    assert await database.fetch("SELECT * FROM lists") == list_before


# --- order of checks -----------------------------------------------------------------------------

INVALID = {"priority": None}
TWO_CAUSES = {"list_id": UNKNOWN_ID, "due": UNKNOWN_ZONE}


@pytest.mark.requirement("FR-118")
@pytest.mark.parametrize("kind", WRITES)
async def test_body_is_validated_before_references(client: ContractClient, kind: str) -> None:
    response = await write(client, kind, {**TWO_CAUSES, **INVALID})
    assert_problem(response, 422, "invalid-body", "/priority")


@pytest.mark.requirement("FR-118")
@pytest.mark.parametrize("kind", WRITES)
async def test_time_zone_is_checked_before_other_references(
    client: ContractClient, database: asyncpg.Connection, kind: str
) -> None:
    before = await stored(database)
    response = await write(client, kind, TWO_CAUSES)
    await assert_conflict(database, response, "reference-not-found", NO_ZONE, before)


@asynccontextmanager
async def key_in_progress(database: asyncpg.Connection) -> AsyncIterator[None]:
    """Hold the lock of a request of alice with the key k."""
    lock = advisory_lock_key("alice", "k")
    await database.execute("SELECT pg_advisory_lock($1)", lock)
    try:
        yield
    finally:
        await database.execute("SELECT pg_advisory_unlock($1)", lock)


@pytest.mark.requirement("FR-118")
async def test_time_zone_is_checked_before_the_key(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    key = {"Idempotency-Key": "k"}
    await client.post(ALICE, json={"title": "Buy milk"}, headers=key)
    body = {"title": "Buy bread", "due": UNKNOWN_ZONE}
    reused = await client.post(ALICE, json=body, headers=key)
    assert errors_of(reused) == [NO_ZONE]
    async with key_in_progress(database):
        in_use = await client.post(ALICE, json=body, headers=key)
    assert errors_of(in_use) == [NO_ZONE]


@pytest.mark.requirement("FR-118")
async def test_key_is_checked_before_references(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    key = {"Idempotency-Key": "k"}
    properties = {"list_id": UNKNOWN_ID, "parent_id": str(ID)}
    async with key_in_progress(database):
        in_use = await client.post(ALICE, json={"title": "Buy bread", **properties}, headers=key)
    assert_problem(in_use, 409, "idempotency-key-in-use")
    await client.post(ALICE, json={"title": "Buy milk"}, headers=key)
    reused = await client.post(ALICE, json={"title": "Buy bread", **properties}, headers=key)
    assert_problem(reused, 422, "idempotency-key-reused")


@pytest.mark.requirement("FR-110", "FR-115", "FR-118")
async def test_rejected_reference_stores_no_key(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    key = {"Idempotency-Key": "k"}
    list_id = UUID(int=5)
    body = {"title": "Buy milk", "list_id": str(list_id)}
    assert (await client.post(ALICE, json=body, headers=key)).status_code == 409
    await insert_list(database, id_=list_id)
    created = await client.post(ALICE, json=body, headers=key)
    assert created.status_code == 201
    assert created.json()["list_id"] == str(list_id)


@pytest.mark.requirement("FR-118")
@pytest.mark.parametrize("headers", [{}, {"If-Match": "*"}, {"If-Match": FOREIGN_TAG}], ids=str)
@pytest.mark.parametrize(
    "properties",
    [{"list_id": UNKNOWN_ID}, {"parent_id": UNKNOWN_ID}, {"list_id": UNKNOWN_ID, "parent_id": "x"}],
    ids=["list", "parent", "both"],
)
async def test_existence_is_checked_before_preconditions_and_references(
    client: ContractClient, properties: dict[str, str], headers: dict[str, str]
) -> None:
    if properties.get("parent_id") == "x":
        properties = {**properties, "parent_id": str(ID)}
    response = await client.patch(f"{ALICE}/{UNKNOWN_ID}", json=properties, headers=headers)
    assert_problem(response, 404, "task-not-found")


@pytest.mark.requirement("FR-118")
async def test_time_zone_is_checked_before_existence_and_preconditions(
    client: ContractClient,
) -> None:
    for method, path, headers in (
        ("PATCH", f"{ALICE}/{UNKNOWN_ID}", {}),
        ("PATCH", PATH, {"If-Match": FOREIGN_TAG}),
        ("PUT", PATH, {"If-Match": FOREIGN_TAG}),
        ("PUT", PATH, {"If-None-Match": "*"}),
        ("PUT", PATH, {"If-Match": "*", "If-None-Match": "*"}),
    ):
        body = {"due": UNKNOWN_ZONE} if method == "PATCH" else {**MILK, "due": UNKNOWN_ZONE}
        response = await client.request(method, path, json=body, headers=headers)
        assert response.status_code == 409
        assert errors_of(response) == [NO_ZONE]


PRECONDITIONS = [
    ("PATCH", {"If-Match": FOREIGN_TAG}),
    ("PUT", {"If-Match": FOREIGN_TAG}),
    ("PUT", {"If-None-Match": "*"}),
    ("PUT", {"If-Match": "*", "If-None-Match": "*"}),
]


@pytest.mark.requirement("FR-118")
@pytest.mark.parametrize(("method", "headers"), PRECONDITIONS, ids=str)
async def test_preconditions_are_checked_before_references_and_hierarchy(
    client: ContractClient, database: asyncpg.Connection, method: str, headers: dict[str, str]
) -> None:
    list_id = await insert_list(database)
    parent = await create(client)
    subtask = await create(client, parent_id=parent["id"])
    await create(client, parent_id=str(ID))
    before = await stored(database)
    for properties in (
        {"list_id": UNKNOWN_ID},
        {"parent_id": UNKNOWN_ID},
        {"parent_id": subtask["id"]},
        {"parent_id": parent["id"]},
        {"parent_id": str(ID)},
        {"list_id": list_id, "parent_id": parent["id"]},
        {"list_id": UNKNOWN_ID, "parent_id": UNKNOWN_ID},
    ):
        body = properties if method == "PATCH" else {**MILK, **properties}
        response = await client.request(method, PATH, json=body, headers=headers)
        assert_problem(response, 412, "precondition-failed")
    assert await stored(database) == before


# --- deletion ------------------------------------------------------------------------------------


@pytest.mark.requirement("FR-121")
@pytest.mark.parametrize("headers", [{}, {"If-Match": "*"}, {"If-Match": "the tag"}], ids=str)
async def test_deletion_deletes_the_subtasks(
    client: ContractClient, database: asyncpg.Connection, headers: dict[str, str]
) -> None:
    parent, other = await create(client), await create(client)
    for _ in range(3):
        await create(client, parent_id=parent["id"], completed=True)
    kept = await create(client, parent_id=other["id"])
    if headers == {"If-Match": "the tag"}:
        headers = {"If-Match": parent["etag"]}
    response = await client.delete(path_of(parent), headers=headers)
    assert response.status_code == 204
    assert {str(row["id"]) for row in await stored(database)} == {str(ID), other["id"], kept["id"]}


@pytest.mark.requirement("FR-121")
async def test_deleted_subtask_is_404(client: ContractClient) -> None:
    parent = await create(client)
    subtask = await create(client, parent_id=parent["id"])
    await client.delete(path_of(parent))
    assert_problem(await client.get(path_of(subtask)), 404, "task-not-found")
    assert_problem(await client.delete(path_of(subtask)), 404, "task-not-found")


@pytest.mark.requirement("FR-121", "FR-122")
async def test_deletion_of_a_subtask_keeps_its_parent(client: ContractClient) -> None:
    parent = await create(client)
    subtasks = [await create(client, parent_id=parent["id"]) for _ in range(2)]
    assert (await client.delete(path_of(subtasks[0]))).status_code == 204
    assert await read(client, parent) == parent
    assert await read(client, subtasks[1]) == subtasks[1]


@pytest.mark.requirement("FR-121")
@pytest.mark.parametrize("etag", [FOREIGN_TAG, '"other"', 'W/"x"'])
async def test_failed_precondition_deletes_no_subtask(
    client: ContractClient, database: asyncpg.Connection, etag: str
) -> None:
    parent = await create(client)
    await create(client, parent_id=parent["id"])
    before = await stored(database)
    response = await client.delete(path_of(parent), headers={"If-Match": etag})
    assert_problem(response, 412, "precondition-failed")
    assert await stored(database) == before


@pytest.mark.requirement("FR-116", "FR-121")
async def test_deletion_keeps_subtasks_of_another_user(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    shared = UUID(int=7)
    for user in ("alice", "bob"):
        await client.put(f"{tasks_of(user)}/{shared}", json=MILK)
        await create(client, user, parent_id=str(shared))
    assert (await client.delete(f"{ALICE}/{shared}")).status_code == 204
    remaining = [row["user_id"] for row in await stored(database)]
    assert remaining == ["alice", "bob", "bob"]


@pytest.mark.requirement("FR-116", "FR-139")
async def test_filters_find_no_tasks_of_another_user(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    list_id = await insert_list(database)
    due = {"date": "2026-11-24", "time": None, "timezone": None}
    parent = await create(client, list_id=list_id, labels=["a"], priority="high", due=due)
    await create(client, parent_id=parent["id"])
    for name, value in {
        "list_id": list_id,
        "parent_id": parent["id"],
        "labels": "a",
        "priority": "high",
        "has_due": "true",
        "due_after": "2026-11-23",
        "due_before": "2026-11-25",
    }.items():
        for user, count in (("bob", 0), ("alice", 1)):
            params = {name: value}
            page = (await client.get(tasks_of(user), params=params)).json()
            assert len(page["items"]) == count, name
            counted = (await client.get(f"{tasks_of(user)}/count", params=params)).json()
            assert counted == {"count": count, "is_capped": False}
    labels = (await client.get("/api/v1/users/bob/labels")).json()
    assert labels == {"items": [], "is_capped": False}
