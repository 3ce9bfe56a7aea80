"""createTask with an `Idempotency-Key`: any number of requests creates one task."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import msgspec
import pytest

from app.asgi import create_app
from app.db.idempotency import idempotency_params
from app.domain.tasks.schemas import TaskCreate
from app.http.middleware import HTTPMiddleware
from app.settings import Settings
from tests.support.client import ContractClient, assert_problem, tasks_of
from tests.support.database import connect
from tests.support.lifespan import running

pytestmark = pytest.mark.requirement("FR-046")

ALICE = tasks_of("alice")
MILK = {"title": "Buy milk"}
WRITERS, ROUNDS = 32, 100
OLD = timedelta(hours=24, seconds=1)
# This header differs in each response.
REQUEST_ID = "x-request-id"


def key_headers(key: str = "k-1") -> dict[str, str]:
    return {"Idempotency-Key": key}


def comparable(response: httpx.Response) -> tuple[int, dict[str, str], bytes]:
    """Return the part of a response that must be equal for a repeated request."""
    fields = {name: value for name, value in response.headers.items() if name != REQUEST_ID}
    return response.status_code, fields, response.content


async def count(database: asyncpg.Connection, table: str = "tasks") -> int:
    number_of_rows: int = await database.fetchval(f"SELECT count(*) FROM {table}")  # noqa: S608 - constants of this module
    return number_of_rows


async def expire_keys(database: asyncpg.Connection, by: timedelta = OLD) -> None:
    await database.execute("UPDATE idempotency_keys SET created_at = now() - $1::interval", by)


@pytest.mark.parametrize(
    "body",
    [MILK, {"title": "é \U0001f95b", "description": " two\n", "completed": True}],
    ids=["short", "full"],
)
async def test_repeated_request_gets_the_first_response(
    client: ContractClient, database: asyncpg.Connection, body: dict[str, Any]
) -> None:
    first = await client.post(ALICE, json=body, headers=key_headers())
    again = await client.post(ALICE, json=body, headers=key_headers())
    assert first.status_code == 201
    assert comparable(again) == comparable(first)
    assert again.headers[REQUEST_ID] != first.headers[REQUEST_ID]
    assert (await client.get(first.headers["location"])).json() == first.json()
    assert await count(database) == 1


async def test_first_response_equals_a_response_without_a_key(client: ContractClient) -> None:
    body = {"title": "Buy milk", "description": "Two litres.", "completed": True}
    plain = (await client.post(ALICE, json=body)).json()
    with_key = (await client.post(ALICE, json=body, headers=key_headers())).json()
    own = {"id", "etag", "created_at", "updated_at", "completed_at", "position"}
    assert {name: plain[name] for name in plain if name not in own} == {
        name: with_key[name] for name in with_key if name not in own
    }
    assert with_key["created_at"] == with_key["updated_at"] == with_key["completed_at"]


@pytest.mark.parametrize(
    "key",
    ["a", "~" * 255, '"8e03978e-40d5-43dd-bc93-6894a57f9324"', "!#$%&'()*+,-./:;<=>?@[\\]^`{|}"],
)
async def test_key_may_have_any_visible_characters(
    client: ContractClient, database: asyncpg.Connection, key: str
) -> None:
    for _ in range(2):
        assert (await client.post(ALICE, json=MILK, headers=key_headers(key))).status_code == 201
    assert await database.fetchval("SELECT key FROM idempotency_keys") == key
    assert await count(database) == 1


@pytest.mark.parametrize("key", ["", " ", "a b", "ä", "\x7f", "k" * 256, "\x01"], ids=ascii)
async def test_invalid_key_is_rejected(
    client: ContractClient, database: asyncpg.Connection, key: str
) -> None:
    headers = [(b"Idempotency-Key", key.encode("latin-1"))]
    response = await client.post(ALICE, json=MILK, headers=headers)
    assert_problem(response, 400, "invalid-parameter", "Idempotency-Key")
    assert await count(database) == 0


async def test_two_keys_are_rejected(client: ContractClient, database: asyncpg.Connection) -> None:
    headers = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    response = await client.post(ALICE, json=MILK, headers=headers)
    assert_problem(response, 400, "invalid-parameter", "Idempotency-Key")
    assert await count(database) == 0


async def test_quotes_are_part_of_the_key(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    for key in ("a", '"a"', "A"):
        await client.post(ALICE, json=MILK, headers=key_headers(key))
    assert await count(database) == 3


async def test_equivalent_json_is_the_same_body(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    bodies = [
        b'{"title":"a","completed":false}',
        b' { "completed" : false , "title" : "\\u0061" } ',
        b'{"title":"a"}',
        b'{"title":"a","description":null}',
    ]
    headers = key_headers() | {"Content-Type": "application/json"}
    responses = [
        comparable(await client.post(ALICE, content=body, headers=headers)) for body in bodies
    ]
    assert responses == [responses[0]] * len(bodies)
    assert await count(database) == 1


@pytest.mark.parametrize(
    "other",
    [{"title": "Buy Milk"}, MILK | {"completed": True}, MILK | {"description": ""}],
    ids=str,
)
async def test_other_body_with_the_same_key_is_rejected(
    client: ContractClient, database: asyncpg.Connection, other: dict[str, Any]
) -> None:
    first = await client.post(ALICE, json=MILK, headers=key_headers())
    response = await client.post(ALICE, json=other, headers=key_headers())
    assert_problem(response, 422, "idempotency-key-reused")
    again = await client.post(ALICE, json=MILK, headers=key_headers())
    assert comparable(again) == comparable(first)
    assert await count(database) == 1


async def test_key_belongs_to_its_user(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    of_alice = await client.post(ALICE, json=MILK, headers=key_headers())
    of_bob = await client.post(tasks_of("bob"), json={"title": "Else"}, headers=key_headers())
    assert (of_alice.status_code, of_bob.status_code) == (201, 201)
    assert of_bob.json()["user_id"] == "bob"
    assert of_bob.json()["id"] != of_alice.json()["id"]
    assert await count(database, "idempotency_keys") == 2


@pytest.mark.parametrize("change", ["PATCH", "DELETE"])
async def test_stored_response_survives_changes_of_the_task(
    client: ContractClient, database: asyncpg.Connection, change: str
) -> None:
    first = await client.post(ALICE, json=MILK, headers=key_headers())
    await client.request(change, first.headers["location"], json={"completed": True})
    before = await database.fetch("SELECT * FROM tasks")
    again = await client.post(ALICE, json=MILK, headers=key_headers())
    assert comparable(again) == comparable(first)
    assert await database.fetch("SELECT * FROM tasks") == before


@pytest.mark.parametrize(
    ("body", "status"), [(b'{"title":""}', 422), (b"{", 400), (b'{"title":1}', 422)]
)
async def test_rejected_request_does_not_use_its_key(
    client: ContractClient, database: asyncpg.Connection, body: bytes, status: int
) -> None:
    headers = key_headers() | {"Content-Type": "application/json"}
    assert (await client.post(ALICE, content=body, headers=headers)).status_code == status
    assert (await client.post(ALICE, json=MILK, headers=key_headers())).status_code == 201
    assert await count(database) == 1


async def test_failed_insert_stores_no_key(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    await database.execute("ALTER TABLE tasks ADD CONSTRAINT none CHECK (false) NOT VALID")
    try:
        response = await client.post(ALICE, json=MILK, headers=key_headers())
    finally:
        await database.execute("ALTER TABLE tasks DROP CONSTRAINT none")
    assert response.status_code == 500
    assert await count(database, "idempotency_keys") == 0
    assert (await client.post(ALICE, json=MILK, headers=key_headers())).status_code == 201


@asynccontextmanager
async def in_progress(database: asyncpg.Connection) -> AsyncIterator[None]:
    """Hold the lock of a request of alice with the key k-1."""
    lock = idempotency_params("alice", "k-1", TaskCreate("Buy milk"))["lock"]
    await database.execute("SELECT pg_advisory_lock($1)", lock)
    try:
        yield
    finally:
        await database.execute("SELECT pg_advisory_unlock($1)", lock)


async def test_key_of_a_request_in_progress_is_in_use(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    async with in_progress(database):
        response = await client.post(ALICE, json=MILK, headers=key_headers())
        other = await client.post(ALICE, json=MILK, headers=key_headers("k-2"))
    assert_problem(response, 409, "idempotency-key-in-use")
    assert response.headers["retry-after"] == "1"
    assert other.status_code == 201
    assert await database.fetchval("SELECT string_agg(key, ' ') FROM idempotency_keys") == "k-2"
    assert (await client.post(ALICE, json=MILK, headers=key_headers())).status_code == 201


async def test_key_in_use_does_not_block_another_user(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    async with in_progress(database):
        of_bob = await client.post(tasks_of("bob"), json=MILK, headers=key_headers())
    assert of_bob.status_code == 201


async def test_completed_key_is_returned_to_concurrent_requests(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    first = await client.post(ALICE, json=MILK, headers=key_headers())
    async with in_progress(database):
        again = await client.post(ALICE, json=MILK, headers=key_headers())
    assert comparable(again) == comparable(first)


# --- lifetime of a key -------------------------------------------------------------------------


async def test_key_is_kept_for_24_hours(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    first = await client.post(ALICE, json=MILK, headers=key_headers())
    await expire_keys(database, timedelta(hours=23, minutes=59))
    again = await client.post(ALICE, json=MILK, headers=key_headers())
    assert again.json()["id"] == first.json()["id"]
    response = await client.post(ALICE, json={"title": "Else"}, headers=key_headers())
    assert_problem(response, 422, "idempotency-key-reused")


@pytest.mark.parametrize("body", [MILK, {"title": "Else"}], ids=str)
async def test_expired_key_can_be_reused(
    client: ContractClient, database: asyncpg.Connection, body: dict[str, str]
) -> None:
    first = await client.post(ALICE, json=MILK, headers=key_headers())
    await expire_keys(database)
    second = await client.post(ALICE, json=body, headers=key_headers())
    assert second.status_code == 201
    assert second.json()["id"] != first.json()["id"]
    assert comparable(await client.post(ALICE, json=body, headers=key_headers())) == comparable(
        second
    )
    assert await count(database) == 2
    assert await count(database, "idempotency_keys") == 1


async def test_expired_keys_of_the_user_are_deleted_with_the_next(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    old = 12  # two more than one request deletes
    for user in ("alice", "bob"):
        for number in range(old):
            await client.post(tasks_of(user), json=MILK, headers=key_headers(f"old-{number}"))
    await expire_keys(database)
    await client.post(ALICE, json=MILK, headers=key_headers("young"))
    remaining = await database.fetch(
        "SELECT user_id, count(*) FROM idempotency_keys GROUP BY 1 ORDER BY 1"
    )
    assert dict(map(tuple, remaining)) == {"alice": 2 + 1, "bob": old}
    await client.post(ALICE, json=MILK, headers=key_headers("younger"))
    keys = await database.fetch("SELECT key FROM idempotency_keys WHERE user_id = 'alice'")
    assert {key for (key,) in keys} == {"young", "younger"}


EXPIRED = """
    INSERT INTO idempotency_keys (user_id, key, payload_digest, task_id, etag, created_at)
    SELECT 'alice', n::text, '', gen_random_uuid(), gen_random_uuid(),
        now() - interval '25 hours' - n % 7 * interval '1 hour' - n * interval '1 minute'
    FROM generate_series(1, 12) n
"""


async def test_oldest_keys_are_deleted_first(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    await database.execute(EXPIRED)
    await client.post(ALICE, json=MILK, headers=key_headers("young"))
    remaining = await database.fetch(
        "SELECT key FROM idempotency_keys WHERE key <> 'young' ORDER BY 1"
    )
    assert [key for (key,) in remaining] == ["1", "7"]


@pytest.fixture
async def other_plans(database: asyncpg.Connection) -> AsyncIterator[None]:
    """Let new connections join with nested loops, which evaluate a subquery for each row."""
    name = await database.fetchval("SELECT current_database()")
    disabled = ("hashjoin", "mergejoin", "hashagg", "sort", "material", "bitmapscan")
    for plan in disabled:
        await database.execute(f"ALTER DATABASE {name} SET enable_{plan} = off")
    yield
    await database.execute(f"ALTER DATABASE {name} RESET ALL")


@pytest.mark.usefixtures("other_plans")
async def test_number_of_deleted_keys_does_not_depend_on_the_plan(
    settings: Settings, database: asyncpg.Connection
) -> None:
    async with running(create_app(settings)) as app, ContractClient(app) as client:
        await database.execute(EXPIRED)
        await client.post(ALICE, json=MILK, headers=key_headers("young"))
    assert await count(database, "idempotency_keys") == 2 + 1


async def test_locked_expired_key_is_skipped(
    client: ContractClient, database: asyncpg.Connection, database_url: str
) -> None:
    await database.execute(EXPIRED)
    other = await connect(database_url)
    async with other.transaction():
        await other.execute("SELECT FROM idempotency_keys WHERE key = '6' FOR UPDATE")
        response = await client.post(ALICE, json=MILK, headers=key_headers("young"))
        assert response.status_code == 201
        remaining = await database.fetch("SELECT key FROM idempotency_keys WHERE key <> 'young'")
    await other.close()
    assert "6" in {key for (key,) in remaining}
    assert len(remaining) <= 2


async def test_locked_expired_key_does_not_block_startup(
    database: asyncpg.Connection, database_url: str, settings: Settings
) -> None:
    await database.execute(EXPIRED)
    other = await connect(database_url)
    async with other.transaction():
        await other.execute("SELECT FROM idempotency_keys WHERE key = '6' FOR UPDATE")
        async with running(create_app(msgspec.structs.replace(settings, database_timeout=0.5))):
            pass
    await other.close()


async def test_startup_deletes_expired_keys_of_inactive_users(
    client: ContractClient, database: asyncpg.Connection, settings: Settings
) -> None:
    await client.post(ALICE, json=MILK, headers=key_headers("old"))
    await expire_keys(database)
    await client.post(tasks_of("bob"), json=MILK, headers=key_headers("young"))
    async with running(create_app(settings)):
        assert (
            await database.fetchval("SELECT string_agg(key, ' ') FROM idempotency_keys") == "young"
        )
    assert await count(database) == 2


async def test_startup_deletes_a_limited_number_of_keys(
    database: asyncpg.Connection, settings: Settings
) -> None:
    await database.execute(
        "INSERT INTO idempotency_keys (user_id, key, payload_digest, task_id, etag, created_at)"
        " SELECT 'alice', n::text, '', gen_random_uuid(), gen_random_uuid(),"
        " now() - interval '25 hours' FROM generate_series(1, 10001) n"
    )
    async with running(create_app(settings)):
        assert await count(database, "idempotency_keys") == 1


# --- races -------------------------------------------------------------------------------------


@pytest.fixture
async def replicas(settings: Settings) -> AsyncIterator[list[httpx.AsyncClient]]:
    many = msgspec.structs.replace(settings, database_pool_size=WRITERS // 2)
    async with AsyncExitStack() as stack:
        apps = [await stack.enter_async_context(running(create_app(many))) for _ in range(2)]
        yield [await stack.enter_async_context(plain_client(app)) for app in apps]


def plain_client(app: HTTPMiddleware) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=app)  # type: ignore[arg-type]  # httpx declares ASGI differently
    return httpx.AsyncClient(transport=transport, base_url="http://tasks.test")


async def retry_while_in_use(send: Callable[[], Any], statuses: Counter[int]) -> httpx.Response:
    """Repeat a request while its key is in use, as the contract says, and return the response."""
    while True:
        response: httpx.Response = await send()
        statuses[response.status_code] += 1
        if response.status_code != 409:
            return response


async def test_concurrent_requests_with_one_key_create_one_task(
    replicas: list[httpx.AsyncClient],
    database: asyncpg.Connection,
    record_property: Callable[[str, object], None],
) -> None:
    statuses = Counter[int]()

    async def run_round(headers: dict[str, str]) -> list[tuple[int, dict[str, str], bytes]]:
        clients = [replicas[number % len(replicas)] for number in range(WRITERS)]
        requests = [
            retry_while_in_use(partial(client.post, ALICE, json=MILK, headers=headers), statuses)
            for client in clients
        ]
        return [comparable(response) for response in await asyncio.gather(*requests)]

    for _ in range(ROUNDS):
        responses = await run_round(key_headers(str(uuid4())))
        assert responses == [responses[0]] * WRITERS
        assert responses[0][0] == 201
    assert await count(database) == ROUNDS
    assert set(statuses) <= {201, 409}
    summary = f"{statuses[201]} times 201, {statuses[409]} times 409"
    record_property(f"{ROUNDS} rounds of {WRITERS} identical requests", summary)


async def test_concurrent_bodies_with_one_key_store_one_task(
    replicas: list[httpx.AsyncClient], database: asyncpg.Connection
) -> None:
    bodies = [MILK, {"title": "Else"}]

    async def one_of_each(headers: dict[str, str]) -> Counter[int]:
        requests = [
            retry_while_in_use(partial(client.post, ALICE, json=body, headers=headers), Counter())
            for body in bodies
            for client in replicas
        ]
        return Counter(response.status_code for response in await asyncio.gather(*requests))

    for _ in range(10):
        assert await one_of_each(key_headers(str(uuid4()))) == {201: 2, 422: 2}
    assert await count(database) == 10
