"""createList, getList, replaceList, updateList and deleteList."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from app.db.idempotency import idempotency_params
from app.db.positions import initial_position
from app.domain.lists.schemas import TaskListCreate
from tests.integration.lists.support import ALICE, BOB, create, rows, until_blocked
from tests.support.client import FOREIGN_TAG, ContractClient, assert_problem, tasks_of
from tests.support.database import connect

ID = UUID("0198c5a2-9c40-7d11-8a3e-51b6c2d4e9f0")
PATH = f"{ALICE}/{ID}"
GROCERIES = {"name": "Groceries"}
PRIVATE = {"name": "Private"}
WRITERS = 12


# --- createList ----------------------------------------------------------------------------------


@pytest.mark.requirement("FR-101")
async def test_created_list_is_stored_and_located(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    created = await client.post(ALICE, json=GROCERIES)
    (row,) = await rows(database)
    body = created.json()
    assert created.status_code == 201
    assert UUID(body["id"]).version == 7
    assert created.headers["location"] == f"{ALICE}/{body['id']}"
    assert created.headers["etag"] == body["etag"] == f'"{row["etag"].hex}"'
    assert (
        (body["user_id"], body["name"]) == (row["user_id"], row["name"]) == ("alice", "Groceries")
    )
    assert body["created_at"] == body["updated_at"]
    assert row["created_at"] == row["updated_at"]
    assert row["position"] is None
    assert body["position"] == initial_position(row["created_at"], row["id"])
    assert (await client.get(created.headers["location"])).json() == body


@pytest.mark.requirement("FR-101")
async def test_location_contains_the_user_in_its_encoded_form(client: ContractClient) -> None:
    created = await client.post("/api/v1/users/a%7Cb@c+d:e/lists", json=GROCERIES)
    assert created.headers["location"].startswith("/api/v1/users/a%7Cb@c+d:e/lists/")
    assert (await client.get(created.headers["location"])).status_code == 200


@pytest.mark.requirement("FR-101", "FR-123")
async def test_new_list_is_last(client: ContractClient) -> None:
    positions = [item["position"] for item in await create(client, "B", "A", "C")]
    assert positions == sorted(set(positions))


@pytest.mark.requirement("FR-101")
@pytest.mark.parametrize("name", ["x", "é" * 200, " \n two\t", "\x1c", "\ufeff", "a\u2028"])
async def test_name_is_stored_unchanged(client: ContractClient, name: str) -> None:
    (created,) = await create(client, name)
    assert created["name"] == name


@pytest.mark.requirement("FR-101", "FR-103", "FR-104")
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
@pytest.mark.parametrize(
    "body",
    [{"name": name} for name in ("", " ", "\u2003\n", "a\0", "x" * 201, None, 1)],
    ids=ascii,
)
async def test_invalid_name_is_rejected(
    client: ContractClient, database: asyncpg.Connection, method: str, body: dict[str, Any]
) -> None:
    path = ALICE if method == "POST" else PATH
    response = await client.request(method, path, json=body)
    assert_problem(response, 422, "invalid-body", "/name")
    assert await rows(database) == []


@pytest.mark.requirement("FR-101", "FR-103", "FR-104", "FR-108")
@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", ALICE, {**GROCERIES, "position": "V"}),
        ("PUT", PATH, {**GROCERIES, "position": "V"}),
        ("PATCH", PATH, {"position": "V"}),
        ("POST", f"{PATH}/move", {"after_id": None, "position": "V"}),
    ],
)
async def test_unknown_property_is_rejected(
    client: ContractClient, method: str, path: str, body: dict[str, Any]
) -> None:
    response = await client.request(method, path, json=body)
    assert_problem(response, 422, "invalid-body", "/position")


@pytest.mark.requirement("FR-101")
async def test_violated_constraint_names_the_property(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    await database.execute("ALTER TABLE lists DROP CONSTRAINT ck_lists_name_length")
    await database.execute(
        "ALTER TABLE lists ADD CONSTRAINT ck_lists_name_length CHECK (char_length(name) <= 9)"
    )
    try:
        response = await client.post(ALICE, json={"name": "More than 9"})
        assert_problem(response, 422, "invalid-body", "/name")
        assert await rows(database) == []
    finally:
        await database.execute("ALTER TABLE lists DROP CONSTRAINT ck_lists_name_length")
        await database.execute(
            "ALTER TABLE lists ADD CONSTRAINT ck_lists_name_length "
            "CHECK (char_length(name) BETWEEN 1 AND 200)"
        )


@pytest.mark.requirement("FR-110")
async def test_repeated_request_gets_the_first_response(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    key = {"Idempotency-Key": "k-1"}
    first = await client.post(ALICE, json=GROCERIES, headers=key)
    await create(client, "Other")
    await client.patch(first.headers["location"], json=PRIVATE)
    await client.post(f"{first.headers['location']}/move", json={"after_id": None})
    changed = await client.post(ALICE, json=GROCERIES, headers=key)
    await client.delete(first.headers["location"])
    deleted = await client.post(ALICE, json=GROCERIES, headers=key)
    for again in (changed, deleted):
        assert again.status_code == first.status_code == 201
        assert again.content == first.content
        assert again.headers["etag"] == first.headers["etag"]
        assert again.headers["location"] == first.headers["location"]
    assert [row["name"] for row in await rows(database)] == ["Other"]


@pytest.mark.requirement("FR-110")
async def test_other_body_with_the_same_key_is_rejected(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    key = {"Idempotency-Key": "k-1"}
    await client.post(ALICE, json=GROCERIES, headers=key)
    response = await client.post(ALICE, json=PRIVATE, headers=key)
    assert_problem(response, 422, "idempotency-key-reused")
    assert len(await rows(database)) == 1


@pytest.mark.requirement("FR-110")
async def test_concurrent_requests_with_one_key_create_one_list(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    key = {"Idempotency-Key": "k-1"}
    requests = [client.post(ALICE, json=GROCERIES, headers=key) for _ in range(WRITERS)]
    responses = await asyncio.gather(*requests)
    assert {response.status_code for response in responses} <= {201, 409}
    assert len({it.json()["id"] for it in responses if it.status_code == 201}) == 1
    assert len(await rows(database)) == 1


@pytest.mark.requirement("FR-110")
async def test_key_of_a_request_in_progress_is_in_use(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    lock = idempotency_params("alice", "k-1", TaskListCreate("Groceries"))["lock"]
    await database.execute("SELECT pg_advisory_lock($1)", lock)
    response = await client.post(ALICE, json=GROCERIES, headers={"Idempotency-Key": "k-1"})
    await database.execute("SELECT pg_advisory_unlock($1)", lock)
    assert_problem(response, 409, "idempotency-key-in-use")
    assert response.headers["retry-after"] == "1"
    assert await rows(database) == []


@pytest.mark.requirement("FR-110")
@pytest.mark.parametrize("first_is_task", [True, False])
async def test_key_of_a_task_cannot_be_used_for_a_list(
    client: ContractClient, database: asyncpg.Connection, *, first_is_task: bool
) -> None:
    requests: list[tuple[str, dict[str, Any]]] = [
        (tasks_of("alice"), {"title": "Groceries"}),
        (ALICE, GROCERIES),
    ]
    if not first_is_task:
        requests.reverse()
    statuses = [
        (await client.post(path, json=body, headers={"Idempotency-Key": "k-1"})).status_code
        for path, body in requests
    ]
    assert statuses == [201, 422]
    assert await database.fetchval("SELECT count(*) FROM idempotency_keys") == 1


# --- getList -------------------------------------------------------------------------------------


@pytest.mark.requirement("FR-102", "FR-109")
async def test_list_is_not_modified_for_its_etag(client: ContractClient) -> None:
    (created,) = await create(client, "A")
    path = f"{ALICE}/{created['id']}"
    same = await client.get(path, headers={"If-None-Match": f"W/{created['etag']}"})
    other = await client.get(path, headers={"If-None-Match": FOREIGN_TAG})
    assert (same.status_code, same.headers["etag"]) == (304, created["etag"])
    assert (other.status_code, other.json()) == (200, created)


@pytest.mark.requirement("FR-102", "FR-116")
@pytest.mark.parametrize(
    ("method", "suffix", "body"),
    [
        ("GET", "", None),
        ("PATCH", "", PRIVATE),
        ("PATCH", "", {}),
        ("DELETE", "", None),
        ("POST", "/move", {"after_id": None}),
    ],
)
async def test_list_of_another_user_is_unknown(
    client: ContractClient,
    database: asyncpg.Connection,
    method: str,
    suffix: str,
    body: dict[str, Any] | None,
) -> None:
    (other,) = await create(client, "A", path=BOB)
    before = await rows(database)
    for id_ in (other["id"], ID):
        response = await client.request(method, f"{ALICE}/{id_}{suffix}", json=body)
        assert_problem(response, 404, "list-not-found")
    assert await rows(database) == before


# --- replaceList ---------------------------------------------------------------------------------


@pytest.mark.requirement("FR-103")
async def test_missing_list_is_created_with_the_id_of_the_path(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    created = await client.put(PATH, json=GROCERIES)
    (row,) = await rows(database)
    assert created.status_code == 201
    assert created.headers["location"] == PATH
    assert created.headers["etag"] == created.json()["etag"] == f'"{row["etag"].hex}"'
    assert created.json()["id"] == str(row["id"]) == str(ID)
    assert row["created_at"] == row["updated_at"]


@pytest.mark.requirement("FR-103", "FR-109", "FR-124")
@pytest.mark.parametrize("body", [GROCERIES, PRIVATE], ids=["equal", "different"])
async def test_replacing_is_a_change_that_keeps_the_position(
    client: ContractClient, database: asyncpg.Connection, body: dict[str, str]
) -> None:
    await create(client, "A")
    await client.put(PATH, json=GROCERIES)
    moved = (await client.post(f"{PATH}/move", json={"after_id": None})).json()
    replaced = await client.put(PATH, json=body, headers={"If-Match": moved["etag"]})
    (row,) = await database.fetch("SELECT * FROM lists WHERE id = $1", ID)
    assert replaced.status_code == 200
    assert "location" not in replaced.headers
    assert replaced.json()["name"] == row["name"] == body["name"]
    assert replaced.json()["created_at"] == moved["created_at"]
    assert replaced.json()["position"] == row["position"] == moved["position"]
    assert replaced.json()["updated_at"] > moved["updated_at"]
    assert replaced.headers["etag"] == replaced.json()["etag"] != moved["etag"]


@pytest.mark.requirement("FR-109")
async def test_preconditions_of_replace(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    only_create, any_tag = {"If-None-Match": "*"}, {"If-Match": "*"}
    absent = await client.put(PATH, json=GROCERIES, headers=any_tag)
    assert_problem(absent, 412, "precondition-failed")
    created = await client.put(PATH, json=GROCERIES, headers=only_create)
    assert created.status_code == 201
    for headers, detail in (
        (only_create, "If-None-Match is not satisfied"),
        ({"If-Match": FOREIGN_TAG}, "If-Match is not satisfied"),
        ({"If-Match": f"W/{created.headers['etag']}"}, "If-Match is not satisfied"),
        (only_create | any_tag, "If-Match and If-None-Match are never satisfied together"),
    ):
        failed = await client.put(PATH, json=PRIVATE, headers=headers)
        problem = assert_problem(failed, 412, "precondition-failed")
        assert problem["detail"].startswith(detail)
    assert [row["name"] for row in await rows(database)] == ["Groceries"]
    assert (await client.put(PATH, json=PRIVATE, headers=any_tag)).status_code == 200


@pytest.mark.requirement("FR-103")
async def test_concurrent_replaces_create_one_list(client: ContractClient) -> None:
    requests = [client.put(PATH, json={"name": str(number)}) for number in range(WRITERS)]
    statuses = [response.status_code for response in await asyncio.gather(*requests)]
    assert sorted(statuses) == [200] * (WRITERS - 1) + [201]


@pytest.mark.requirement("FR-103")
async def test_list_that_is_deleted_at_the_same_moment_is_created(
    client: ContractClient, database_url: str
) -> None:
    await client.put(PATH, json=GROCERIES)
    other = await connect(database_url)
    transaction = other.transaction()
    await transaction.start()
    await other.execute("DELETE FROM lists WHERE id = $1", ID)
    replacing = asyncio.create_task(client.put(PATH, json=PRIVATE))
    await until_blocked(other)
    await transaction.commit()
    await other.close()
    assert (await replacing).status_code == 201


# --- updateList ----------------------------------------------------------------------------------


@pytest.mark.requirement("FR-104", "FR-109", "FR-124")
@pytest.mark.parametrize("media_type", ["application/json", "application/merge-patch+json"])
@pytest.mark.parametrize("body", [GROCERIES, PRIVATE], ids=["equal", "different"])
async def test_update_is_a_change(
    client: ContractClient, media_type: str, body: dict[str, str]
) -> None:
    created = (await client.put(PATH, json=GROCERIES)).json()
    headers = {"Content-Type": media_type, "If-Match": created["etag"]}
    updated = await client.patch(PATH, json=body, headers=headers)
    same = {"id", "user_id", "created_at", "position"}
    assert updated.status_code == 200
    assert updated.json()["name"] == body["name"]
    assert updated.json()["updated_at"] > created["updated_at"]
    assert updated.headers["etag"] == updated.json()["etag"] != created["etag"]
    assert {name: updated.json()[name] for name in same} == {name: created[name] for name in same}
    assert (await client.get(PATH)).json() == updated.json()


@pytest.mark.requirement("FR-104")
async def test_empty_patch_writes_nothing(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    created = (await client.put(PATH, json=GROCERIES)).json()
    before = await database.fetch("SELECT xmin, * FROM lists")
    unchanged = await client.patch(PATH, json={})
    assert (unchanged.status_code, unchanged.json()) == (200, created)
    failed = await client.patch(PATH, json={}, headers={"If-Match": FOREIGN_TAG})
    assert_problem(failed, 412, "precondition-failed")
    assert await database.fetch("SELECT xmin, * FROM lists") == before


@pytest.mark.requirement("FR-109")
async def test_updated_at_increases_from_a_future_value(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    await client.put(PATH, json=GROCERIES)
    await database.execute("UPDATE lists SET updated_at = '2999-01-01T00:00:00Z'")
    updated = await client.patch(PATH, json=PRIVATE)
    assert updated.json()["updated_at"] == "2999-01-01T00:00:00.000001Z"


@pytest.mark.requirement("FR-109")
async def test_one_of_several_changes_with_the_same_etag_succeeds(client: ContractClient) -> None:
    created = (await client.put(PATH, json=GROCERIES)).json()
    headers = {"If-Match": created["etag"]}
    requests = [
        client.patch(PATH, json={"name": str(number)}, headers=headers) for number in range(WRITERS)
    ]
    statuses = [response.status_code for response in await asyncio.gather(*requests)]
    assert sorted(statuses) == [200] + [412] * (WRITERS - 1)


# --- deleteList ----------------------------------------------------------------------------------


@pytest.mark.requirement("FR-105", "FR-109")
async def test_deleted_list_is_gone(client: ContractClient, database: asyncpg.Connection) -> None:
    created = await client.put(PATH, json=GROCERIES)
    stale = await client.delete(PATH, headers={"If-Match": FOREIGN_TAG})
    assert_problem(stale, 412, "precondition-failed")
    deleted = await client.delete(PATH, headers={"If-Match": created.headers["etag"]})
    assert deleted.status_code == 204
    assert await rows(database) == []
    for tag in (FOREIGN_TAG, "*"):
        again = await client.delete(PATH, headers={"If-Match": tag})
        assert_problem(again, 404, "list-not-found")


@pytest.mark.requirement("FR-105", "FR-109")
async def test_recreated_list_has_a_new_etag(client: ContractClient) -> None:
    first = await client.put(PATH, json=GROCERIES)
    await client.delete(PATH)
    second = await client.put(PATH, json=GROCERIES)
    assert second.status_code == 201
    assert second.headers["etag"] != first.headers["etag"]


@pytest.mark.requirement("FR-106", "FR-109")
async def test_list_that_is_not_empty_is_kept(
    client: ContractClient, members: asyncpg.Connection
) -> None:
    await client.put(PATH, json=GROCERIES)
    await members.execute("INSERT INTO members VALUES ('alice', $1)", ID)
    rejected = await client.delete(PATH)
    problem = assert_problem(rejected, 409, "list-not-empty")
    assert problem["detail"] == "The list contains tasks. Move or delete them first."
    stale = await client.delete(PATH, headers={"If-Match": FOREIGN_TAG})
    assert_problem(stale, 412, "precondition-failed")
    assert (await client.get(PATH)).status_code == 200
    await members.execute("DELETE FROM members")
    assert (await client.delete(PATH)).status_code == 204


@pytest.mark.requirement("FR-106")
@pytest.mark.parametrize(("committed", "status"), [(True, 409), (False, 204)])
async def test_delete_waits_for_a_task_that_is_added_at_the_same_moment(
    client: ContractClient,
    members: asyncpg.Connection,
    database_url: str,
    *,
    committed: bool,
    status: int,
) -> None:
    await client.put(PATH, json=GROCERIES)
    other = await connect(database_url)
    transaction = other.transaction()
    await transaction.start()
    await other.execute("INSERT INTO members VALUES ('alice', $1)", ID)
    deleting = asyncio.create_task(client.delete(PATH))
    await until_blocked(other)
    await (transaction.commit() if committed else transaction.rollback())
    await other.close()
    assert (await deleting).status_code == status
    assert len(await rows(members)) == (status == 409)


@pytest.mark.requirement("FR-106")
async def test_changes_do_not_wait_for_a_task_that_is_added(
    client: ContractClient, members: asyncpg.Connection, database_url: str
) -> None:
    await client.put(PATH, json=GROCERIES)
    other = await connect(database_url)
    async with other.transaction():
        await other.execute("INSERT INTO members VALUES ('alice', $1)", ID)
        assert (await client.patch(PATH, json=PRIVATE)).status_code == 200
        assert (await client.post(f"{PATH}/move", json={"after_id": None})).status_code == 200
    await other.close()
    assert await members.fetchval("SELECT count(*) FROM members") == 1


async def test_other_errors_of_a_delete_are_not_hidden(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    await client.put(PATH, json=GROCERIES)
    await database.execute(
        """
        CREATE FUNCTION reject() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE unique_violation; END $$;
        CREATE TRIGGER reject BEFORE DELETE ON lists FOR EACH ROW EXECUTE FUNCTION reject()
        """
    )
    try:
        assert_problem(await client.delete(PATH), 500, "internal-error")
    finally:
        await database.execute("DROP TRIGGER reject ON lists; DROP FUNCTION reject")
    assert (await client.get(PATH)).status_code == 200
