"""replaceTask."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest

from tests.support.client import FOREIGN_TAG, ContractClient, assert_problem, tasks_of

ALICE = tasks_of("alice")
ID = UUID("0198c5a2-7e1f-7b3a-9d55-2f6f0c1e8a44")
PATH = f"{ALICE}/{ID}"
MILK = {"title": "Buy milk", "description": "Two litres.", "completed": False}
BREAD = {"title": "Buy bread", "description": None, "completed": True}


async def put(
    client: ContractClient, body: Any = None, path: str = PATH, **headers: str
) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await client.put(path, json=MILK if body is None else body, headers=named)


async def rows(database: asyncpg.Connection) -> list[dict[str, Any]]:
    return [dict(row) for row in await database.fetch("SELECT * FROM tasks ORDER BY user_id, id")]


@pytest.mark.requirement("FR-003")
async def test_missing_task_is_created_with_the_id_of_the_path(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    created = await put(client)
    (row,) = await rows(database)
    assert created.status_code == 201
    assert created.headers["location"] == PATH
    assert created.headers["etag"] == created.json()["etag"] == f'"{row["etag"].hex}"'
    assert created.json()["id"] == str(row["id"]) == str(ID)
    assert {name: row[name] for name in MILK} == MILK
    assert row["created_at"] == row["updated_at"]


@pytest.mark.requirement("FR-003", "FR-009", "FR-014")
async def test_existing_task_is_replaced(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    created = await put(client)
    replaced = await put(client, BREAD)
    (row,) = await rows(database)
    assert replaced.status_code == 200
    assert "location" not in replaced.headers
    assert {name: row[name] for name in BREAD} == BREAD
    assert {name: replaced.json()[name] for name in BREAD} == BREAD
    assert replaced.json()["created_at"] == created.json()["created_at"]
    assert replaced.json()["updated_at"] > created.json()["updated_at"]
    assert replaced.headers["etag"] == replaced.json()["etag"] != created.json()["etag"]


@pytest.mark.requirement("FR-003", "FR-009", "FR-014")
async def test_equal_representation_is_a_change(client: ContractClient) -> None:
    created = await put(client)
    again = await put(client)
    assert again.status_code == 200
    assert again.json()["etag"] != created.json()["etag"]
    assert again.json()["updated_at"] > created.json()["updated_at"]


@pytest.mark.requirement("FR-007")
async def test_completed_at_is_kept_while_completed_stays_true(client: ContractClient) -> None:
    first = await put(client, BREAD)
    second = await put(client, {**BREAD, "title": "Buy rye bread"})
    assert first.json()["completed_at"] == first.json()["created_at"]
    assert second.json()["completed_at"] == first.json()["completed_at"]


@pytest.mark.requirement("FR-007")
async def test_completed_at_is_set_when_completed_becomes_true(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    created = await put(client, MILK)
    replaced = await put(client, {**MILK, "completed": True})
    (row,) = await rows(database)
    assert created.json()["completed_at"] is None
    assert replaced.json()["completed_at"] == replaced.json()["updated_at"]
    assert row["completed_at"] == row["updated_at"]


@pytest.mark.requirement("FR-007")
async def test_completed_at_is_cleared_when_completed_becomes_false(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    await put(client, BREAD)
    replaced = await put(client, {**BREAD, "completed": False})
    (row,) = await rows(database)
    assert replaced.json()["completed_at"] is None
    assert row["completed_at"] is None


@pytest.mark.requirement("FR-007")
async def test_completed_at_is_new_when_completed_becomes_true_again(
    client: ContractClient,
) -> None:
    first = await put(client, BREAD)
    await put(client, {**BREAD, "completed": False})
    third = await put(client, BREAD)
    assert third.json()["completed_at"] > first.json()["completed_at"]


@pytest.mark.requirement("FR-009")
async def test_updated_at_increases_from_a_future_value(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    await put(client)
    await database.execute("UPDATE tasks SET updated_at = '2999-01-01T00:00:00Z'")
    replaced = await put(client)
    assert replaced.status_code == 200
    assert replaced.json()["updated_at"] == "2999-01-01T00:00:00.000001Z"


@pytest.mark.requirement("FR-003", "FR-020")
async def test_equal_ids_of_two_users_are_two_tasks(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    await put(client)
    other = await put(client, BREAD, f"{tasks_of('bob')}/{ID}")
    alice, bob = await rows(database)
    assert other.status_code == 201
    assert (alice["user_id"], alice["title"]) == ("alice", "Buy milk")
    assert (bob["user_id"], bob["title"]) == ("bob", "Buy bread")


@pytest.mark.requirement("FR-003")
@pytest.mark.parametrize(
    "id_",
    [UUID(int=0), UUID(int=2**128 - 1), UUID("5f2b7c0e-9a4d-4e0c-8f3e-6b1d2a7c9e10"), ID],
    ids=["nil", "max", "4", "7"],
)
async def test_any_uuid_is_accepted(client: ContractClient, id_: UUID) -> None:
    created = await put(client, path=f"{ALICE}/{id_}")
    assert created.status_code == 201
    assert created.json()["id"] == str(id_)


@pytest.mark.requirement("FR-003")
async def test_id_is_case_insensitive(client: ContractClient) -> None:
    created = await put(client, path=f"{ALICE}/{str(ID).upper()}")
    replaced = await put(client)
    assert created.json()["id"] == str(ID)
    assert created.headers["location"] == PATH
    assert replaced.status_code == 200


@pytest.mark.requirement("FR-012")
async def test_if_none_match_any_creates_a_missing_task(client: ContractClient) -> None:
    assert (await put(client, If_None_Match="*")).status_code == 201


@pytest.mark.requirement("FR-012")
async def test_if_none_match_any_does_not_replace(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    await put(client)
    before = await rows(database)
    response = await put(client, BREAD, If_None_Match="*")
    assert_problem(response, 412, "precondition-failed")
    assert await rows(database) == before


@pytest.mark.requirement("FR-012", "FR-020")
async def test_if_none_match_any_ignores_tasks_of_other_users(client: ContractClient) -> None:
    await put(client)
    created = await put(client, path=f"{tasks_of('bob')}/{ID}", If_None_Match="*")
    assert created.status_code == 201


@pytest.mark.requirement("FR-012")
@pytest.mark.parametrize("template", ["{}", "*", '"other", {}', '{},"other"', 'W/"x" \t,\t {}'])
async def test_satisfied_if_match_replaces(client: ContractClient, template: str) -> None:
    created = await put(client)
    replaced = await put(client, BREAD, If_Match=template.format(created.json()["etag"]))
    assert replaced.status_code == 200
    assert replaced.json()["title"] == "Buy bread"
    assert replaced.json()["created_at"] == created.json()["created_at"]


@pytest.mark.requirement("FR-007", "FR-012")
async def test_if_match_keeps_completed_at(client: ContractClient) -> None:
    first = await put(client, BREAD)
    second = await put(client, BREAD, If_Match=first.json()["etag"])
    assert second.json()["completed_at"] == first.json()["completed_at"]


@pytest.mark.requirement("FR-010", "FR-012")
@pytest.mark.parametrize("template", ["W/{}", '"other"', FOREIGN_TAG, '""', 'W/{}, "other"'])
async def test_failed_if_match_writes_nothing(
    client: ContractClient, database: asyncpg.Connection, template: str
) -> None:
    created = await put(client)
    before = await rows(database)
    response = await put(client, BREAD, If_Match=template.format(created.json()["etag"]))
    assert_problem(response, 412, "precondition-failed")
    assert await rows(database) == before


@pytest.mark.requirement("FR-010", "FR-012")
@pytest.mark.parametrize("etag", ["*", FOREIGN_TAG], ids=["any", "one"])
async def test_if_match_does_not_create(
    client: ContractClient, database: asyncpg.Connection, etag: str
) -> None:
    assert_problem(await put(client, If_Match=etag), 412, "precondition-failed")
    assert await rows(database) == []


@pytest.mark.requirement("FR-010", "FR-012")
async def test_both_preconditions_fail_for_an_existing_task(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    await put(client)
    before = await rows(database)
    response = await put(client, BREAD, If_Match="*", If_None_Match="*")
    assert_problem(response, 412, "precondition-failed")
    assert await rows(database) == before


@pytest.mark.requirement("FR-010", "FR-012")
async def test_both_preconditions_fail_for_a_missing_task(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    response = await put(client, If_Match="*", If_None_Match="*")
    assert_problem(response, 412, "precondition-failed")
    assert await rows(database) == []


@pytest.mark.requirement("FR-012", "FR-021")
@pytest.mark.parametrize("value", ['"x"', FOREIGN_TAG, "**", "", "* ,*", 'W/"x"'])
async def test_if_none_match_accepts_only_any(
    client: ContractClient, database: asyncpg.Connection, value: str
) -> None:
    response = await put(client, If_None_Match=value)
    assert_problem(response, 400, "invalid-parameter", "If-None-Match")
    assert await rows(database) == []


@pytest.mark.requirement("FR-014")
async def test_etag_is_not_reused_after_delete_and_create(
    client: ContractClient,
) -> None:
    first = await put(client)
    await client.delete(PATH)
    second = await put(client)
    assert second.status_code == 201
    assert second.json()["etag"] != first.json()["etag"]
    assert_problem(await put(client, If_Match=first.json()["etag"]), 412, "precondition-failed")


@pytest.mark.requirement("FR-009", "FR-014")
async def test_every_replacement_has_a_later_time_and_a_new_etag(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    await put(client)
    # Simulates a clock that was set back by an hour, after which now() is earlier than updated_at.
    await database.execute("UPDATE tasks SET updated_at = now() + interval '1 hour'")
    tasks = [(await client.get(PATH)).json()]
    tasks += [(await put(client)).json() for _ in range(19)]
    timestamps = [task["updated_at"].ljust(27, "0") for task in tasks]
    assert len({task["etag"] for task in tasks}) == 20
    assert sorted(set(timestamps)) == timestamps


@pytest.mark.requirement("FR-026")
@pytest.mark.parametrize(
    ("body", "locations"),
    [
        ({}, ["/title", "/description", "/completed"]),
        ({"title": "a"}, ["/description", "/completed"]),
        ({"title": "a", "description": None}, ["/completed"]),
        ({"title": "a", "completed": True}, ["/description"]),
        ({**MILK, "completed": None}, ["/completed"]),
        ({**MILK, "title": None}, ["/title"]),
        ({**MILK, "title": "\u3000"}, ["/title"]),
        ({**MILK, "id": str(ID)}, ["/id"]),
        ({**MILK, "description": "x" * 16_385}, ["/description"]),
    ],
    ids=lambda value: ascii(value)[:60],
)
async def test_all_errors_of_a_body_are_reported(
    client: ContractClient, database: asyncpg.Connection, body: Any, locations: list[str]
) -> None:
    assert_problem(await put(client, body), 422, "invalid-body", *locations)
    assert await rows(database) == []


@pytest.mark.requirement("FR-010", "FR-026")
async def test_body_is_validated_before_preconditions(client: ContractClient) -> None:
    response = await put(client, {**MILK, "title": ""}, If_Match='"other"')
    assert response.status_code == 422


@pytest.mark.requirement("FR-024")
async def test_merge_patch_media_type_is_rejected(client: ContractClient) -> None:
    response = await put(client, Content_Type="application/merge-patch+json")
    assert_problem(response, 415, "unsupported-media-type", "Content-Type")
