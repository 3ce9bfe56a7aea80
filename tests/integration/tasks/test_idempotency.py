"""createTask with an `Idempotency-Key`: one task of any number of requests."""

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
# Nobody's answer but this one's: the id of the request.
OWN = "x-request-id"


def keyed(key: str = "k-1") -> dict[str, str]:
    return {"Idempotency-Key": key}


def answer(response: httpx.Response) -> tuple[int, dict[str, str], bytes]:
    """All that a repeated request must get again."""
    fields = {name: value for name, value in response.headers.items() if name != OWN}
    return response.status_code, fields, response.content


async def count(database: asyncpg.Connection, table: str = "tasks") -> int:
    found: int = await database.fetchval(f"SELECT count(*) FROM {table}")  # noqa: S608 - ours
    return found


async def age(database: asyncpg.Connection, by: timedelta = OLD) -> None:
    await database.execute("UPDATE idempotency_keys SET created_at = now() - $1::interval", by)


@pytest.mark.parametrize(
    "body",
    [MILK, {"title": "é \U0001f95b", "description": " two\n", "completed": True}],
    ids=["short", "full"],
)
async def test_a_repeated_request_is_answered_as_the_first_was(
    client: ContractClient, database: asyncpg.Connection, body: dict[str, Any]
) -> None:
    first = await client.post(ALICE, json=body, headers=keyed())
    again = await client.post(ALICE, json=body, headers=keyed())
    assert first.status_code == 201
    assert answer(again) == answer(first)
    assert again.headers[OWN] != first.headers[OWN]
    assert (await client.get(first.headers["location"])).json() == first.json()
    assert await count(database) == 1


async def test_the_first_answer_is_that_of_a_request_without_a_key(client: ContractClient) -> None:
    body = {"title": "Buy milk", "description": "Two litres.", "completed": True}
    plain = (await client.post(ALICE, json=body)).json()
    with_key = (await client.post(ALICE, json=body, headers=keyed())).json()
    own = {"id", "etag", "created_at", "updated_at", "completed_at"}
    assert {name: plain[name] for name in plain if name not in own} == {
        name: with_key[name] for name in with_key if name not in own
    }
    assert with_key["created_at"] == with_key["updated_at"] == with_key["completed_at"]


@pytest.mark.parametrize(
    "key",
    ["a", "~" * 255, '"8e03978e-40d5-43dd-bc93-6894a57f9324"', "!#$%&'()*+,-./:;<=>?@[\\]^`{|}"],
)
async def test_any_visible_characters_are_a_key(
    client: ContractClient, database: asyncpg.Connection, key: str
) -> None:
    for _ in range(2):
        assert (await client.post(ALICE, json=MILK, headers=keyed(key))).status_code == 201
    assert await database.fetchval("SELECT key FROM idempotency_keys") == key
    assert await count(database) == 1


@pytest.mark.parametrize("key", ["", " ", "a b", "ä", "\x7f", "k" * 256, "\x01"], ids=ascii)
async def test_what_is_no_key_is_refused(
    client: ContractClient, database: asyncpg.Connection, key: str
) -> None:
    headers = [(b"Idempotency-Key", key.encode("latin-1"))]
    refused = await client.post(ALICE, json=MILK, headers=headers)
    assert_problem(refused, 400, "invalid-parameter", "Idempotency-Key")
    assert await count(database) == 0


async def test_two_keys_are_refused(client: ContractClient, database: asyncpg.Connection) -> None:
    headers = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    refused = await client.post(ALICE, json=MILK, headers=headers)
    assert_problem(refused, 400, "invalid-parameter", "Idempotency-Key")
    assert await count(database) == 0


async def test_quotes_belong_to_the_key(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    for key in ("a", '"a"', "A"):
        await client.post(ALICE, json=MILK, headers=keyed(key))
    assert await count(database) == 3


async def test_what_is_written_otherwise_is_the_same_body(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    forms = [
        b'{"title":"a","completed":false}',
        b' { "completed" : false , "title" : "\\u0061" } ',
        b'{"title":"a"}',
        b'{"title":"a","description":null}',
    ]
    headers = keyed() | {"Content-Type": "application/json"}
    answers = [answer(await client.post(ALICE, content=form, headers=headers)) for form in forms]
    assert answers == [answers[0]] * len(forms)
    assert await count(database) == 1


@pytest.mark.parametrize(
    "other",
    [{"title": "Buy Milk"}, MILK | {"completed": True}, MILK | {"description": ""}],
    ids=str,
)
async def test_another_body_under_the_same_key_is_refused(
    client: ContractClient, database: asyncpg.Connection, other: dict[str, Any]
) -> None:
    first = await client.post(ALICE, json=MILK, headers=keyed())
    refused = await client.post(ALICE, json=other, headers=keyed())
    assert_problem(refused, 422, "idempotency-key-reused")
    again = await client.post(ALICE, json=MILK, headers=keyed())
    assert answer(again) == answer(first)
    assert await count(database) == 1


async def test_a_key_belongs_to_its_user(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    of_alice = await client.post(ALICE, json=MILK, headers=keyed())
    of_bob = await client.post(tasks_of("bob"), json={"title": "Else"}, headers=keyed())
    assert (of_alice.status_code, of_bob.status_code) == (201, 201)
    assert of_bob.json()["user_id"] == "bob"
    assert of_bob.json()["id"] != of_alice.json()["id"]
    assert await count(database, "idempotency_keys") == 2


@pytest.mark.parametrize("change", ["PATCH", "DELETE"])
async def test_the_answer_stays_whatever_becomes_of_the_task(
    client: ContractClient, database: asyncpg.Connection, change: str
) -> None:
    first = await client.post(ALICE, json=MILK, headers=keyed())
    await client.request(change, first.headers["location"], json={"completed": True})
    before = await database.fetch("SELECT * FROM tasks")
    again = await client.post(ALICE, json=MILK, headers=keyed())
    assert answer(again) == answer(first)
    assert await database.fetch("SELECT * FROM tasks") == before


@pytest.mark.parametrize(
    ("body", "status"), [(b'{"title":""}', 422), (b"{", 400), (b'{"title":1}', 422)]
)
async def test_a_request_that_was_refused_leaves_its_key_free(
    client: ContractClient, database: asyncpg.Connection, body: bytes, status: int
) -> None:
    headers = keyed() | {"Content-Type": "application/json"}
    assert (await client.post(ALICE, content=body, headers=headers)).status_code == status
    assert (await client.post(ALICE, json=MILK, headers=keyed())).status_code == 201
    assert await count(database) == 1


async def test_a_task_that_is_not_stored_stores_no_key(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    await database.execute("ALTER TABLE tasks ADD CONSTRAINT none CHECK (false) NOT VALID")
    try:
        refused = await client.post(ALICE, json=MILK, headers=keyed())
    finally:
        await database.execute("ALTER TABLE tasks DROP CONSTRAINT none")
    assert refused.status_code == 500
    assert await count(database, "idempotency_keys") == 0
    assert (await client.post(ALICE, json=MILK, headers=keyed())).status_code == 201


@asynccontextmanager
async def being_served(database: asyncpg.Connection) -> AsyncIterator[None]:
    """As if a request of alice's with the key k-1 were in progress."""
    lock = idempotency_params("alice", "k-1", TaskCreate("Buy milk"))["lock"]
    await database.execute("SELECT pg_advisory_lock($1)", lock)
    try:
        yield
    finally:
        await database.execute("SELECT pg_advisory_unlock($1)", lock)


async def test_a_key_that_is_being_served_is_in_use(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    async with being_served(database):
        refused = await client.post(ALICE, json=MILK, headers=keyed())
        other = await client.post(ALICE, json=MILK, headers=keyed("k-2"))
    assert_problem(refused, 409, "idempotency-key-in-use")
    assert refused.headers["retry-after"] == "1"
    assert other.status_code == 201
    assert await database.fetchval("SELECT string_agg(key, ' ') FROM idempotency_keys") == "k-2"
    assert (await client.post(ALICE, json=MILK, headers=keyed())).status_code == 201


async def test_a_key_in_use_does_not_block_the_same_key_of_another_user(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    async with being_served(database):
        of_bob = await client.post(tasks_of("bob"), json=MILK, headers=keyed())
    assert of_bob.status_code == 201


async def test_a_key_that_was_served_is_answered_while_others_ask(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    first = await client.post(ALICE, json=MILK, headers=keyed())
    async with being_served(database):
        again = await client.post(ALICE, json=MILK, headers=keyed())
    assert answer(again) == answer(first)


# --- how long a key is kept --------------------------------------------------------------------


async def test_a_key_is_kept_for_24_hours(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    first = await client.post(ALICE, json=MILK, headers=keyed())
    await age(database, timedelta(hours=23, minutes=59))
    again = await client.post(ALICE, json=MILK, headers=keyed())
    assert again.json()["id"] == first.json()["id"]
    refused = await client.post(ALICE, json={"title": "Else"}, headers=keyed())
    assert_problem(refused, 422, "idempotency-key-reused")


@pytest.mark.parametrize("body", [MILK, {"title": "Else"}], ids=str)
async def test_an_expired_key_is_used_anew(
    client: ContractClient, database: asyncpg.Connection, body: dict[str, str]
) -> None:
    first = await client.post(ALICE, json=MILK, headers=keyed())
    await age(database)
    second = await client.post(ALICE, json=body, headers=keyed())
    assert second.status_code == 201
    assert second.json()["id"] != first.json()["id"]
    assert answer(await client.post(ALICE, json=body, headers=keyed())) == answer(second)
    assert await count(database) == 2
    assert await count(database, "idempotency_keys") == 1


async def test_expired_keys_of_the_user_go_with_the_next_one(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    old = 12  # two more than go at once
    for user in ("alice", "bob"):
        for number in range(old):
            await client.post(tasks_of(user), json=MILK, headers=keyed(f"old-{number}"))
    await age(database)
    await client.post(ALICE, json=MILK, headers=keyed("young"))
    left = await database.fetch(
        "SELECT user_id, count(*) FROM idempotency_keys GROUP BY 1 ORDER BY 1"
    )
    assert dict(map(tuple, left)) == {"alice": 2 + 1, "bob": old}
    await client.post(ALICE, json=MILK, headers=keyed("younger"))
    keys = await database.fetch("SELECT key FROM idempotency_keys WHERE user_id = 'alice'")
    assert {key for (key,) in keys} == {"young", "younger"}


EXPIRED = """
    INSERT INTO idempotency_keys (user_id, key, payload_digest, task_id, etag, created_at)
    SELECT 'alice', n::text, '', gen_random_uuid(), gen_random_uuid(),
        now() - interval '25 hours' - n % 7 * interval '1 hour' - n * interval '1 minute'
    FROM generate_series(1, 12) n
"""


async def test_the_oldest_keys_go_first(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    await database.execute(EXPIRED)
    await client.post(ALICE, json=MILK, headers=keyed("young"))
    left = await database.fetch("SELECT key FROM idempotency_keys WHERE key <> 'young' ORDER BY 1")
    assert [key for (key,) in left] == ["1", "7"]


async def test_an_expired_key_that_another_holds_is_left_to_it(
    client: ContractClient, database: asyncpg.Connection, database_url: str
) -> None:
    await database.execute(EXPIRED)
    other = await connect(database_url)
    async with other.transaction():
        await other.execute("SELECT FROM idempotency_keys WHERE key = '6' FOR UPDATE")
        answered = await client.post(ALICE, json=MILK, headers=keyed("young"))
        assert answered.status_code == 201
        left = await database.fetch("SELECT key FROM idempotency_keys WHERE key <> 'young'")
    await other.close()
    assert "6" in {key for (key,) in left}
    assert len(left) <= 2


async def test_an_expired_key_that_another_holds_keeps_no_process_from_starting(
    database: asyncpg.Connection, database_url: str, settings: Settings
) -> None:
    await database.execute(EXPIRED)
    other = await connect(database_url)
    async with other.transaction():
        await other.execute("SELECT FROM idempotency_keys WHERE key = '6' FOR UPDATE")
        async with running(create_app(msgspec.structs.replace(settings, database_timeout=0.5))):
            pass
    await other.close()


async def test_expired_keys_of_whoever_sends_no_more_go_when_a_process_starts(
    client: ContractClient, database: asyncpg.Connection, settings: Settings
) -> None:
    await client.post(ALICE, json=MILK, headers=keyed("old"))
    await age(database)
    await client.post(tasks_of("bob"), json=MILK, headers=keyed("young"))
    async with running(create_app(settings)):
        assert (
            await database.fetchval("SELECT string_agg(key, ' ') FROM idempotency_keys") == "young"
        )
    assert await count(database) == 2


async def test_only_so_many_go_when_a_process_starts(
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
    """Clients of two applications on one database."""
    many = msgspec.structs.replace(settings, database_pool_size=WRITERS // 2)
    async with AsyncExitStack() as stack:
        apps = [await stack.enter_async_context(running(create_app(many))) for _ in range(2)]
        yield [await stack.enter_async_context(plain_client(app)) for app in apps]


def plain_client(app: HTTPMiddleware) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=app)  # type: ignore[arg-type]  # two spellings of ASGI
    return httpx.AsyncClient(transport=transport, base_url="http://tasks.test")


async def until_definite(ask: Callable[[], Any], seen: Counter[int]) -> httpx.Response:
    """The answer to a request that is repeated, as the contract says, while its key is in use."""
    while True:
        response: httpx.Response = await ask()
        seen[response.status_code] += 1
        if response.status_code != 409:
            return response


async def test_of_many_requests_at_once_one_makes_the_task(
    replicas: list[httpx.AsyncClient],
    database: asyncpg.Connection,
    record_property: Callable[[str, object], None],
) -> None:
    seen = Counter[int]()

    async def round_of(headers: dict[str, str]) -> list[tuple[int, dict[str, str], bytes]]:
        clients = [replicas[number % len(replicas)] for number in range(WRITERS)]
        asked = [
            until_definite(partial(client.post, ALICE, json=MILK, headers=headers), seen)
            for client in clients
        ]
        return [answer(response) for response in await asyncio.gather(*asked)]

    for _ in range(ROUNDS):
        answers = await round_of(keyed(str(uuid4())))
        assert answers == [answers[0]] * WRITERS
        assert answers[0][0] == 201
    assert await count(database) == ROUNDS
    assert set(seen) <= {201, 409}
    told = f"{seen[201]} times 201, {seen[409]} times 409"
    record_property(f"{ROUNDS} rounds of {WRITERS} identical requests", told)


async def test_of_two_bodies_under_one_key_at_once_one_is_stored(
    replicas: list[httpx.AsyncClient], database: asyncpg.Connection
) -> None:
    bodies = [MILK, {"title": "Else"}]

    async def one_of_each(headers: dict[str, str]) -> Counter[int]:
        asked = [
            until_definite(partial(client.post, ALICE, json=body, headers=headers), Counter())
            for body in bodies
            for client in replicas
        ]
        return Counter(response.status_code for response in await asyncio.gather(*asked))

    for _ in range(10):
        assert await one_of_each(keyed(str(uuid4()))) == {201: 2, 422: 2}
    assert await count(database) == 10
