"""Batches, over HTTP: all changes of a request are made, or none."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import permutations
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest
from sqlalchemy import Engine, event

from tests.support.client import FOREIGN_TAG, ContractClient, assert_problem, tasks_of
from tests.support.distributed import find_errors
from tests.support.query_trees import FunctionCatalog, analyze

USER = "/api/v1/users/alice"
ALICE = tasks_of("alice")
BATCH = f"{ALICE}/batch"
BODY = {"title": "Buy milk", "description": None, "completed": False}
LIST = str(UUID(int=100))
PARENT, SUBTASK, OTHER, UNKNOWN, NEW = (str(UUID(int=number)) for number in range(1, 6))
DUE = {"date": "2026-11-24", "time": "17:30", "timezone": "Europe/Berlin"}
TIME = "2026-01-02T03:04:05.123456Z"
STATE = "SELECT array_agg(t::text ORDER BY t::text) FROM (TABLE {}) t"


async def store_tasks(client: ContractClient) -> None:
    """Create a list, a task with a subtask, and another task."""
    await client.put(f"{USER}/lists/{LIST}", json={"name": "Groceries"})
    await client.put(f"{ALICE}/{PARENT}", json=BODY)
    await client.put(f"{ALICE}/{SUBTASK}", json={**BODY, "parent_id": PARENT})
    await client.put(f"{ALICE}/{OTHER}", json={**BODY, "list_id": LIST, "labels": ["a"]})


@pytest.fixture
async def stored(client: ContractClient) -> ContractClient:
    """A client of a service with the tasks of `store_tasks`."""
    await store_tasks(client)
    return client


async def change(client: ContractClient, **batch: Any) -> httpx.Response:
    return await client.post(BATCH, json=batch)


async def state_of(database: asyncpg.Connection) -> list[Any]:
    """Return all rows that a batch may change."""
    tables = ("tasks", "lists", "users", "tombstones", "idempotency_keys")
    return [await database.fetchval(STATE.format(table)) for table in tables]


async def get(client: ContractClient, id_: str) -> Any:
    return (await client.get(f"{ALICE}/{id_}")).json()


def later(**delta: float) -> str:
    return (datetime.now(UTC) + timedelta(**delta)).isoformat()


@pytest.mark.requirement("FR-222")
async def test_result_is_in_the_order_of_the_request(stored: ContractClient) -> None:
    response = await change(
        stored,
        create=[{"title": f"{number}"} for number in range(5)],
        update=[{"id": OTHER, "title": "a"}, {"id": SUBTASK, "completed": True}],
        delete=[{"id": PARENT}],
    )
    assert response.status_code == 200
    result = response.json()
    assert [task["title"] for task in result["created"]] == ["0", "1", "2", "3", "4"]
    assert [task["id"] for task in result["updated"]] == [OTHER, SUBTASK]
    assert result["deleted"] == [PARENT]
    for task in (*result["created"], result["updated"][0]):
        assert await get(stored, task["id"]) == task
    # The subtask was changed, and then deleted with its parent.
    assert result["updated"][1]["completed"] is True
    for deleted in (PARENT, SUBTASK):
        assert (await stored.get(f"{ALICE}/{deleted}")).status_code == 404


@pytest.mark.requirement("FR-201", "FR-204", "FR-210")
async def test_batch_takes_one_revision(
    stored: ContractClient, database: asyncpg.Connection
) -> None:
    before = await database.fetchval("SELECT revision FROM users")
    response = await change(
        stored,
        create=[{"title": "a"}, {"title": "b", "parent_id": OTHER}],
        update=[{"id": OTHER, "title": "c"}],
        delete=[{"id": SUBTASK}, {"id": PARENT}],
    )
    assert response.status_code == 200
    assert await database.fetchval("SELECT revision FROM users") == before + 1
    revisions = "SELECT revision FROM tasks UNION ALL SELECT revision FROM tombstones"
    assert {row[0] for row in await database.fetch(revisions)} == {before + 1}
    assert await database.fetchval("SELECT count(*) FROM tombstones") == 2


UPDATES: dict[str, dict[str, Any]] = {
    "title": {"title": "New"},
    "completed": {"completed": True},
    "cleared": {"description": None, "due": None, "labels": [], "list_id": None},
    "everything": {
        "title": "New", "description": "Text", "completed": True, "list_id": LIST,
        "priority": "high", "labels": ["b", "a"],
        "due": {"date": "9999-12-31", "time": "17:30", "timezone": "Europe/Berlin"},
    },
    "first date": {"due": {"date": "0001-01-01", "time": None, "timezone": None}},
    "parent": {"list_id": None, "parent_id": PARENT},
}  # fmt: skip


@pytest.mark.requirement("FR-222")
@pytest.mark.parametrize("name", UPDATES)
@pytest.mark.parametrize("is_completed", [False, True])
async def test_update_is_that_of_a_patch(
    stored: ContractClient, name: str, *, is_completed: bool
) -> None:
    due = {"date": "9999-12-31", "time": "10:00", "timezone": None}
    body = {**BODY, "completed": is_completed, "list_id": LIST, "due": due, "labels": ["x"]}
    first, second = str(UUID(int=10)), str(UUID(int=11))
    for id_ in (first, second):
        await stored.put(f"{ALICE}/{id_}", json={**body, "description": "Old"})
    before = [await get(stored, id_) for id_ in (first, second)]
    patched = (await stored.patch(f"{ALICE}/{first}", json=UPDATES[name])).json()
    response = await change(stored, update=[{"id": second, **UPDATES[name]}])
    (changed,) = response.json()["updated"]
    computed = {"id", "etag", "updated_at", "completed_at", "created_at", "position"}
    for property_ in patched.keys() - computed:
        assert changed[property_] == patched[property_], property_
    assert await get(stored, second) == changed
    for old, new in zip(before, (patched, changed), strict=True):
        assert new["updated_at"] > old["updated_at"]
        assert (new["completed_at"] is None) != new["completed"]
        if old["completed"] and new["completed"]:
            assert new["completed_at"] == old["completed_at"]


@pytest.mark.requirement("FR-203", "FR-222")
async def test_update_of_nothing_takes_no_revision(
    stored: ContractClient, database: asyncpg.Connection
) -> None:
    before = await state_of(database)
    response = await change(
        stored, update=[{"id": OTHER, "if_match": (await get(stored, OTHER))["etag"]}]
    )
    assert response.json()["updated"] == [await get(stored, OTHER)]
    assert await state_of(database) == before
    mixed = await change(stored, update=[{"id": OTHER}, {"id": PARENT, "title": "New"}])
    assert mixed.json()["updated"] == [await get(stored, OTHER), await get(stored, PARENT)]
    assert mixed.json()["updated"][0] == response.json()["updated"][0]


@pytest.mark.requirement("FR-224")
async def test_deleted_task_is_restored(stored: ContractClient) -> None:
    await stored.patch(f"{ALICE}/{OTHER}", json={"completed": True})
    task = await get(stored, OTHER)
    await stored.delete(f"{ALICE}/{OTHER}")
    names = ("id", "title", "description", "completed", "completed_at", "list_id", "parent_id",
             "priority", "due", "labels", "created_at")  # fmt: skip
    response = await change(stored, create=[{name: task[name] for name in names}])
    (restored,) = response.json()["created"]
    assert restored["etag"] != task["etag"]
    assert restored["updated_at"] > task["updated_at"]
    assert {**restored, "etag": "", "updated_at": ""} == {**task, "etag": "", "updated_at": ""}
    assert await get(stored, OTHER) == restored


@pytest.mark.requirement("FR-224")
@pytest.mark.parametrize(
    ("sent", "returned"),
    [
        (TIME, TIME),
        ("2026-01-02T05:04:05.123456789+02:00", TIME),
        ("1970-01-01T00:00:00+14:00", "1969-12-31T10:00:00Z"),
    ],
)
async def test_times_of_a_create_are_stored(
    client: ContractClient, sent: str, returned: str
) -> None:
    body = {"title": "a", "completed": True, "created_at": sent, "completed_at": sent}
    (task,) = (await change(client, create=[body])).json()["created"]
    assert (task["created_at"], task["completed_at"]) == (returned, returned)
    assert UUID(task["id"]).version == 7
    assert await get(client, task["id"]) == task


@pytest.mark.requirement("FR-224")
async def test_create_without_times_has_those_of_the_batch(client: ContractClient) -> None:
    response = await change(client, create=[{"title": "a", "completed": True}, {"title": "b"}])
    done, open_ = response.json()["created"]
    assert done["created_at"] == done["updated_at"] == done["completed_at"] == open_["created_at"]
    assert open_["completed_at"] is None


@pytest.mark.requirement("FR-224")
@pytest.mark.parametrize(
    "time", ["1969-12-31T23:59:59Z", "2026-02-30T00:00:00Z", "2026-01-01T00:00:60Z",
             "2026-01-01T00:00:00", "2026-01-01 00:00:00Z", "2026-01-01T00:00:00Z\n", "now"],
)  # fmt: skip
@pytest.mark.parametrize("name", ["created_at", "completed_at"])
async def test_invalid_time_is_422(client: ContractClient, name: str, time: str) -> None:
    response = await change(client, create=[{"title": "a", "completed": True, name: time}])
    assert_problem(response, 422, "invalid-body", f"/create/0/{name}")


# Name: batch, status, type and pointers. The stored tasks are those of `stored`.
REJECTED: dict[str, tuple[dict[str, Any], int, str, list[str]]] = {
    "no change": ({}, 409, "batch-conflict", []),
    "empty arrays": ({"create": [], "update": [], "delete": []}, 409, "batch-conflict", []),
    "too many": (
        {"create": [{"title": "a"}] * 60, "delete": [{"id": OTHER}] * 41}, 409, "batch-conflict",
        [],
    ),
    "too many of a kind": ({"create": [{"title": "a"}] * 101}, 422, "invalid-body", ["/create"]),
    "unknown property": (
        {"update": [{"id": OTHER, "position": "V"}]}, 422, "invalid-body", ["/update/0/position"]
    ),
    "invalid items": (
        {"create": [{"title": "a"}, {"title": ""}], "delete": [{}]}, 422, "invalid-body",
        ["/create/1/title", "/delete/0/id"],
    ),
    "two updates": (
        {"update": [{"id": OTHER, "title": "a"}, {"id": OTHER.upper(), "title": "b"}]}, 409,
        "batch-conflict", ["/update/1/id"],
    ),
    "update and delete": (
        {"update": [{"id": OTHER}], "delete": [{"id": PARENT}, {"id": OTHER}]}, 409,
        "batch-conflict", ["/delete/1/id"],
    ),
    "two creates": (
        {"create": [{"id": NEW, "title": "a"}, {"id": NEW, "title": "b"}]}, 409, "batch-conflict",
        ["/create/1/id"],
    ),
    "completed_at of an open task": (
        {"create": [{"title": "a", "completed_at": TIME}]}, 409, "batch-conflict",
        ["/create/0/completed_at"],
    ),
    "unknown time zones": (
        {"create": [{"title": "a", "due": {"date": "2026-01-01", "time": None, "timezone": "A/B"}}],
         "update": [{"id": UNKNOWN,
                     "due": {"date": "2026-01-01", "time": None, "timezone": "A/C"}}]},
        409, "reference-not-found", ["/create/0/due/timezone", "/update/0/due/timezone"],
    ),
    "unknown tasks": (
        {"create": [{"id": OTHER, "title": "a"}], "update": [{"id": UNKNOWN, "title": "a"}],
         "delete": [{"id": PARENT}, {"id": NEW}]},
        404, "task-not-found", ["/update/0", "/delete/1"],
    ),
    "ID in use": (
        {"create": [{"id": NEW, "title": "a"}, {"id": OTHER, "title": "a"}],
         "update": [{"id": PARENT, "if_match": FOREIGN_TAG}]},
        409, "batch-conflict", ["/create/1/id"],
    ),
    "other tags": (
        {"create": [{"title": "a", "list_id": UNKNOWN}],
         "update": [{"id": PARENT, "if_match": FOREIGN_TAG, "title": "a"},
                    {"id": SUBTASK, "title": "a"}],
         "delete": [{"id": OTHER, "if_match": FOREIGN_TAG}]},
        412, "precondition-failed", ["/update/0", "/delete/0"],
    ),
    "other tag of no update": (
        {"update": [{"id": PARENT, "if_match": FOREIGN_TAG}]}, 412, "precondition-failed",
        ["/update/0"],
    ),
    "unknown references": (
        {"create": [{"title": "a", "list_id": UNKNOWN}, {"title": "a", "parent_id": UNKNOWN},
                    {"title": "a", "parent_id": SUBTASK}],
         "update": [{"id": OTHER, "list_id": NEW}]},
        409, "reference-not-found",
        ["/create/0/list_id", "/create/1/parent_id", "/update/0/list_id"],
    ),
    "hierarchy": (
        {"create": [{"id": NEW, "title": "a"}, {"title": "a", "parent_id": SUBTASK},
                    {"title": "a", "parent_id": PARENT, "list_id": LIST}],
         "update": [{"id": PARENT, "parent_id": NEW}, {"id": OTHER, "parent_id": PARENT}]},
        409, "hierarchy-conflict",
        # The last create and the last update have a list and a parent.
        ["/create/1/parent_id", "/create/2/list_id", "/update/0/parent_id", "/update/1/list_id"],
    ),
    "own parent": (
        {"create": [{"id": NEW, "title": "a", "parent_id": NEW}],
         "update": [{"id": PARENT, "parent_id": PARENT}]},
        409, "hierarchy-conflict", ["/create/0/parent_id", "/update/0/parent_id"],
    ),
    "list of a subtask": (
        {"update": [{"id": SUBTASK, "list_id": LIST}]}, 409, "hierarchy-conflict",
        ["/update/0/list_id"],
    ),
    "parent that becomes a subtask": (
        {"create": [{"title": "a", "parent_id": OTHER}],
         "update": [{"id": OTHER, "list_id": None, "parent_id": PARENT}]},
        409, "hierarchy-conflict", ["/create/0/parent_id", "/update/0/parent_id"],
    ),
    "circle": (
        {"create": [{"id": NEW, "title": "a", "parent_id": UNKNOWN},
                    {"id": UNKNOWN, "title": "a", "parent_id": NEW}]},
        409, "hierarchy-conflict", ["/create/0/parent_id", "/create/1/parent_id"],
    ),
}  # fmt: skip


@pytest.mark.requirement("FR-203", "FR-222", "FR-223", "FR-225", "FR-226", "FR-227")
@pytest.mark.parametrize("name", REJECTED)
async def test_rejected_batch_changes_nothing(
    stored: ContractClient, database: asyncpg.Connection, name: str
) -> None:
    batch, status, slug, pointers = REJECTED[name]
    before = await state_of(database)
    for headers in ({}, {"Idempotency-Key": "k"}):
        response = await stored.post(BATCH, json=batch, headers=headers)
        assert_problem(response, status, slug, *pointers)
        assert await state_of(database) == before


@pytest.mark.requirement("FR-224")
@pytest.mark.parametrize("name", ["created_at", "completed_at"])
async def test_time_in_the_future_is_rejected(client: ContractClient, name: str) -> None:
    task = {"title": "a", "completed": True}
    batch = [{**task, name: TIME}, {**task, name: later(minutes=1)}]
    response = await change(client, create=batch)
    assert_problem(response, 409, "batch-conflict", f"/create/1/{name}")
    response = await change(client, create=[{**task, name: "9999-12-31T23:59:59-23:59"}])
    assert_problem(response, 409, "batch-conflict", f"/create/0/{name}")


@pytest.mark.requirement("FR-226")
async def test_matching_tags_are_accepted(stored: ContractClient) -> None:
    other, parent = [(await get(stored, id_))["etag"] for id_ in (OTHER, PARENT)]
    response = await change(
        stored,
        update=[{"id": OTHER, "if_match": other, "title": "a"}],
        delete=[{"id": PARENT, "if_match": parent}],
    )
    assert response.status_code == 200


HIERARCHIES: dict[str, dict[str, Any]] = {
    "subtask before its parent": {
        "create": [{"title": "b", "parent_id": NEW}, {"id": NEW, "title": "a"}]
    },
    "task into a new parent": {
        "create": [{"id": NEW, "title": "a"}],
        "update": [{"id": OTHER, "list_id": None, "parent_id": NEW}],
    },
    "subtask of a task that was a subtask": {
        "create": [{"title": "a", "parent_id": SUBTASK}],
        "update": [{"id": SUBTASK, "parent_id": None}],
    },
    "parent and subtask exchange": {
        "update": [{"id": PARENT, "parent_id": SUBTASK}, {"id": SUBTASK, "parent_id": None}]
    },
    "subtask leaves, and its parent is deleted": {
        "update": [{"id": SUBTASK, "parent_id": None, "list_id": LIST}],
        "delete": [{"id": PARENT}],
    },
    "new task of a deleted parent": {
        "create": [{"title": "a", "parent_id": PARENT}], "delete": [{"id": PARENT}],
    },
}  # fmt: skip


@pytest.mark.requirement("FR-222")
@pytest.mark.parametrize("name", HIERARCHIES)
async def test_tasks_of_a_batch_may_refer_to_each_other(
    stored: ContractClient, database: asyncpg.Connection, name: str
) -> None:
    response = await change(stored, **HIERARCHIES[name])
    assert response.status_code == 200, response.text
    orphans = """SELECT count(*) FROM tasks t WHERE parent_id IS NOT NULL AND NOT EXISTS
        (SELECT FROM tasks p WHERE p.id = t.parent_id AND p.parent_id IS NULL)"""
    assert await database.fetchval(orphans) == 0
    deleted = set(response.json()["deleted"])
    for task in (*response.json()["created"], *response.json()["updated"]):
        if task["parent_id"] not in deleted:
            assert await get(stored, task["id"]) == task


# --- idempotency -------------------------------------------------------------------------------

KEY = {"Idempotency-Key": "k"}


@pytest.mark.requirement("FR-228")
async def test_repeated_batch_has_the_same_response(
    stored: ContractClient, database: asyncpg.Connection
) -> None:
    batch = {
        "create": [{"title": "a"}],
        "update": [{"id": OTHER, "title": "b"}],
        "delete": [{"id": PARENT}],
    }
    first = await stored.post(BATCH, json=batch, headers=KEY)
    assert first.status_code == 200
    await stored.patch(f"{ALICE}/{OTHER}", json={"title": "c"})
    before = await state_of(database)
    repeated = await stored.post(BATCH, json=dict(reversed(batch.items())), headers=KEY)
    assert (repeated.status_code, repeated.content) == (200, first.content)
    assert await state_of(database) == before


@pytest.mark.requirement("FR-228")
async def test_key_is_bound_to_its_batch(stored: ContractClient) -> None:
    await stored.post(BATCH, json={"create": [{"title": "a"}]}, headers=KEY)
    for url, body in (
        (BATCH, {"create": [{"title": "b"}]}),
        (ALICE, {"title": "a"}),
        (f"{USER}/lists", {"name": "a"}),
    ):
        response = await stored.post(url, json=body, headers=KEY)
        assert_problem(response, 422, "idempotency-key-reused")
    bob = await stored.post(
        f"{tasks_of('bob')}/batch", json={"create": [{"title": "a"}]}, headers=KEY
    )
    assert bob.status_code == 200


@pytest.mark.requirement("FR-228")
async def test_expired_key_can_be_used_again(
    stored: ContractClient, database: asyncpg.Connection
) -> None:
    batch = {"create": [{"title": "a"}]}
    first = await stored.post(BATCH, json=batch, headers=KEY)
    await database.execute("UPDATE idempotency_keys SET created_at = now() - interval '25 hours'")
    second = await stored.post(BATCH, json=batch, headers=KEY)
    assert second.json()["created"][0]["id"] != first.json()["created"][0]["id"]
    third = await stored.post(BATCH, json=batch, headers=KEY)
    assert third.content == second.content


@pytest.mark.requirement("FR-228")
async def test_concurrent_batches_with_one_key_are_made_once(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    batch = {"create": [{"title": "a"}, {"title": "b"}]}
    responses = await asyncio.gather(
        *(client.post(BATCH, json=batch, headers=KEY) for _ in range(8))
    )
    assert {response.status_code for response in responses} <= {200, 409}
    assert len({response.content for response in responses if response.is_success}) == 1
    assert await database.fetchval("SELECT count(*) FROM tasks") == 2


# --- bodies ------------------------------------------------------------------------------------


@pytest.mark.requirement("FR-230")
async def test_body_has_at_most_a_mebibyte(client: ContractClient) -> None:
    empty = len(b'{"create": [{"title": "a", "description": ""}]}')
    text = "x" * 16_384
    tasks = ", ".join(f'{{"title": "a", "description": "{text}"}}' for _ in range(60))
    body = f'{{"create": [{tasks}]}}'.encode()
    assert 131_072 < len(body) < 1_048_576 - empty
    headers = {"Content-Type": "application/json"}
    full = body.ljust(1_048_576)
    assert (await client.post(BATCH, content=full, headers=headers)).status_code == 200
    response = await client.post(BATCH, content=full + b" ", headers=headers)
    problem = assert_problem(response, 413, "content-too-large")
    assert problem["detail"] == "The request body exceeds 1048576 bytes."
    other = await client.post(ALICE, content=b" " * 131_073, headers=headers)
    assert other.json()["detail"] == "The request body exceeds 131072 bytes."


@pytest.mark.requirement("FR-222")
async def test_repeated_property_of_a_change_is_400(client: ContractClient) -> None:
    content = b'{"create": [{"title": "a"}, {"title": "b", "title": "c"}]}'
    headers = {"Content-Type": "application/json"}
    assert_problem(
        await client.post(BATCH, content=content, headers=headers), 400, "malformed-body"
    )


@pytest.mark.requirement("FR-222")
async def test_hundred_changes_are_made(client: ContractClient) -> None:
    created = (await change(client, create=[{"title": "a"}] * 100)).json()["created"]
    assert len({task["id"] for task in created}) == 100
    updated = await change(client, update=[{"id": task["id"], "title": "b"} for task in created])
    assert [task["id"] for task in updated.json()["updated"]] == [task["id"] for task in created]
    deleted = await change(client, delete=[{"id": task["id"]} for task in created])
    assert deleted.json()["deleted"] == [task["id"] for task in created]
    assert (await client.get(ALICE)).json()["items"] == []


# --- races -------------------------------------------------------------------------------------


@pytest.mark.requirement("FR-222", "FR-229")
async def test_pairs_of_batches_in_opposite_order_do_not_deadlock(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    count = 20
    created = (await change(client, create=[{"title": "0"}] * count)).json()["created"]
    ids = [task["id"] for task in created]
    for pair in range(100):
        titles = [f"{pair}a", f"{pair}b"]
        forward = [{"id": id_, "title": titles[0]} for id_ in ids]
        backward = [{"id": id_, "title": titles[1]} for id_ in reversed(ids)]
        responses = await asyncio.gather(
            change(client, update=forward), change(client, update=backward)
        )
        assert [response.status_code for response in responses] == [200, 200]
        # Partial application would leave titles of both.
        stored = {row[0] for row in await database.fetch("SELECT title FROM tasks")}
        assert len(stored) == 1
        assert stored <= set(titles)


@pytest.mark.requirement("FR-223", "FR-229")
async def test_racing_batches_with_one_tag_are_made_once(client: ContractClient) -> None:
    created = (await change(client, create=[{"title": "0"}] * 4)).json()["created"]
    orders = [list(order) for order in permutations(created)][::3]
    responses = await asyncio.gather(
        *(
            change(client, update=[
                {"id": task["id"], "if_match": task["etag"], "title": f"{number}"} for task in order
            ])
            for number, order in enumerate(orders)
        )
    )  # fmt: skip
    assert sorted(response.status_code for response in responses) == [200] + [412] * 7
    titles = {task["title"] for task in (await client.get(ALICE)).json()["items"]}
    assert len(titles) == 1


@pytest.mark.requirement("FR-229")
async def test_batches_next_to_other_requests_do_not_deadlock(stored: ContractClient) -> None:
    async def batches() -> set[int]:
        statuses = set()
        for _ in range(20):
            response = await change(
                stored,
                create=[{"id": NEW, "title": "a", "parent_id": PARENT}],
                update=[{"id": OTHER, "title": "a"}],
                delete=[],
            )
            statuses.add(response.status_code)
            statuses.add((await change(stored, delete=[{"id": NEW}])).status_code)
        return statuses

    async def singles() -> set[int]:
        statuses = set()
        for _ in range(20):
            for method, url, body in (
                ("DELETE", f"{ALICE}/{PARENT}", None),
                ("PUT", f"{ALICE}/{PARENT}", BODY),
                ("PUT", f"{ALICE}/{SUBTASK}", {**BODY, "parent_id": PARENT}),
                ("POST", f"{ALICE}/{OTHER}/move", {"after_id": None}),
                ("PATCH", f"{USER}/lists/{LIST}", {"name": "a"}),
                ("POST", ALICE, {"title": str(uuid4())}),
            ):
                response = await stored.request(method, url, json=body)
                statuses.add(response.status_code)
        return statuses

    results = await asyncio.gather(batches(), batches(), singles(), singles())
    assert set().union(*results) <= {200, 201, 204, 404, 409}


# --- statements --------------------------------------------------------------------------------


@pytest.fixture
def statements() -> Iterator[dict[str, Any]]:
    """The statements of sessions, each with its values."""
    sent: dict[str, Any] = {}

    def record(_: Any, __: Any, sql: str, parameters: Any, *___: Any) -> None:
        sent[sql] = parameters

    event.listen(Engine, "before_cursor_execute", record)
    yield sent
    event.remove(Engine, "before_cursor_execute", record)


async def send_all(client: ContractClient) -> None:
    """Send a batch with every statement."""
    batch = {
        "create": [{"id": NEW, "title": "a"}, {"title": "b", "parent_id": NEW, "due": DUE}],
        "update": [
            {"id": SUBTASK, "completed": True, "parent_id": OTHER},
            {"id": OTHER, "list_id": LIST},
        ],
        "delete": [{"id": PARENT}],
    }
    assert (await client.post(BATCH, json=batch, headers=KEY)).status_code == 200


@pytest.mark.requirement("NFR-208")
async def test_distributed_database_accepts_every_statement(
    stored: ContractClient, database: asyncpg.Connection, statements: dict[str, Any]
) -> None:
    await send_all(stored)
    catalog = await FunctionCatalog.read(database)
    assert len(statements) > 10
    for sql in statements:
        assert find_errors(await analyze(database, sql), catalog) == set(), sql


async def test_number_of_statements_does_not_depend_on_the_batch(
    stored: ContractClient, statements: dict[str, Any]
) -> None:
    counts = set()
    for number in (1, 49):
        created = await change(stored, create=[{"title": "a"}] * 2 * number)
        ids = [task["id"] for task in created.json()["created"]]
        statements.clear()
        response = await change(
            stored,
            create=[{"title": "a"}, {"title": "b", "parent_id": OTHER}],
            update=[{"id": id_, "title": "b"} for id_ in ids[:number]],
            delete=[{"id": id_} for id_ in ids[number:]],
        )
        assert response.status_code == 200
        counts.add(len(statements))
    assert len(counts) == 1


@pytest.mark.requirement("FR-227")
@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": "k"}])
async def test_response_has_a_maximum_of_bytes(
    client: ContractClient, database: asyncpg.Connection, headers: dict[str, str]
) -> None:
    large = {"title": "a", "description": "\U0001f95b" * 16384}
    for number in range(2):
        creates = [{**large, "id": str(UUID(int=8 * number + n))} for n in range(8)]
        assert (await client.post(BATCH, json={"create": creates})).status_code == 200
    before = await state_of(database)
    batch = {"update": [{"id": str(UUID(int=n)), "completed": True} for n in range(16)]}
    response = await client.post(BATCH, json=batch, headers=headers)
    assert_problem(response, 409, "batch-conflict")
    assert "1048576 bytes" in response.json()["detail"]
    assert await state_of(database) == before
    batch["update"].pop()
    assert (await client.post(BATCH, json=batch, headers=headers)).status_code == 200
