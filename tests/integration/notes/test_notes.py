"""A new resource on the library's repository: five files, a contract and one line of wiring."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import pytest
from advanced_alchemy.repository import SQLAlchemyAsyncRepository
from sqlalchemy import text

from app.db.database import Database
from app.http.problems import DatabaseUnavailable
from tests.integration.notes.conftest import NotesClient, serving_notes
from tests.support.client import FOREIGN_TAG, assert_problem, tasks_of
from tests.support.database import UNREACHABLE_URL, connect
from tests.support.in_process import app_state_of

pytestmark = pytest.mark.requirement("NFR-004")

NOTES = "/api/v1/users/alice/notes"
NOTE = f"{NOTES}/{UUID(int=1)}"
MILK = {"text": "Buy milk"}
LIBRARY = ("add", "delete", "exists", "get", "get_many", "get_one_or_none", "update")


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The methods of the library's repository that are called from now on."""
    names: list[str] = []

    def recorded(name: str) -> Any:
        method = getattr(SQLAlchemyAsyncRepository, name)

        async def record(self: Any, *args: Any, **options: Any) -> Any:
            names.append(name)
            return await method(self, *args, **options)

        return record

    for name in LIBRARY:
        monkeypatch.setattr(SQLAlchemyAsyncRepository, name, recorded(name))
    return names


async def test_requests_call_methods_of_the_library(notes: NotesClient, called: list[str]) -> None:
    async def calls(method: str, path: str, **options: Any) -> list[str]:
        called.clear()
        answer = await notes.request(method, path, **options)
        assert answer.is_success, answer.text
        return list(called)

    assert await calls("PUT", NOTE, json=MILK) == ["get_one_or_none", "add"]
    assert await calls("PUT", NOTE, json=MILK) == ["get_one_or_none", "update", "get"]
    assert await calls("PATCH", NOTE, json=MILK) == ["get_one_or_none", "update", "get"]
    assert await calls("GET", NOTE) == ["get_one_or_none"]
    assert await calls("GET", NOTES) == ["get_many"]
    assert await calls("DELETE", NOTE) == ["get_one_or_none", "delete", "get"]
    assert await calls("POST", NOTES, json=MILK) == ["add"]
    assert await calls("POST", NOTES, json=MILK, headers={"Idempotency-Key": "1"}) == ["add"]
    assert await calls("POST", NOTES, json=MILK, headers={"Idempotency-Key": "1"}) == []
    assert await calls("POST", tasks_of("alice"), json={"title": "Hot"}) == []


async def test_a_created_note_can_be_read(notes: NotesClient) -> None:
    made = await notes.post(NOTES, json=MILK)
    assert made.status_code == 201
    note = made.json()
    assert UUID(note["id"]).version == 7
    assert note["created_at"] == note["updated_at"]
    got = await notes.get(made.headers["location"])
    assert got.json() == note
    assert got.headers["etag"] == made.headers["etag"] == note["etag"]
    same = await notes.get(made.headers["location"], headers={"If-None-Match": note["etag"]})
    assert same.status_code == 304
    assert_problem(await notes.get(f"/api/v1/users/bob/notes/{note['id']}"), 404, "note-not-found")


async def test_a_note_is_put_under_an_id(notes: NotesClient) -> None:
    absent = {"If-None-Match": "*"}
    assert_problem(
        await notes.put(NOTE, json=MILK, headers={"If-Match": "*"}), 412, "precondition-failed"
    )
    made = await notes.put(NOTE, json=MILK, headers=absent)
    assert made.status_code == 201
    exists = await notes.put(NOTE, json=MILK, headers=absent)
    problem = assert_problem(exists, 412, "precondition-failed")
    assert problem["detail"].startswith("If-None-Match is not satisfied")
    both = await notes.put(NOTE, json=MILK, headers={**absent, "If-Match": made.headers["etag"]})
    problem = assert_problem(both, 412, "precondition-failed")
    assert problem["detail"].startswith("If-Match and If-None-Match are never satisfied together")
    put = await notes.put(NOTE, json={"text": "New"}, headers={"If-Match": made.headers["etag"]})
    assert (put.status_code, put.json()["text"]) == (200, "New")
    assert put.headers["etag"] != made.headers["etag"]
    assert put.json()["updated_at"] > put.json()["created_at"] == made.json()["created_at"]


@pytest.mark.parametrize(("method", "body"), [("PATCH", MILK), ("DELETE", None)])
async def test_a_change_is_404_or_412(
    notes: NotesClient, method: str, body: dict[str, str] | None
) -> None:
    for headers in ({}, {"If-Match": FOREIGN_TAG}, {"If-Match": "*"}):
        missing = await notes.request(method, NOTE, json=body, headers=headers)
        assert_problem(missing, 404, "note-not-found")
    made = await notes.put(NOTE, json={"text": "Old"})
    stale = await notes.request(method, NOTE, json=body, headers={"If-Match": FOREIGN_TAG})
    assert_problem(stale, 412, "precondition-failed")
    assert (await notes.get(NOTE)).json() == made.json()
    tag = {"If-Match": made.headers["etag"]}
    assert (await notes.request(method, NOTE, json=body, headers=tag)).is_success
    after = await notes.get(NOTE)
    assert after.status_code == 404 if body is None else after.json()["text"] == "Buy milk"


async def test_updated_at_increases_even_if_the_clock_is_set_back(
    notes: NotesClient, notes_url: str
) -> None:
    await notes.put(NOTE, json=MILK)
    connection = await connect(notes_url)
    await connection.execute("UPDATE notes SET updated_at = now() + interval '1 day'")
    await connection.close()
    before = (await notes.get(NOTE)).json()
    after = (await notes.patch(NOTE, json={"text": "Later"})).json()
    assert after["updated_at"] > before["updated_at"]


async def test_concurrent_puts_create_one_note(notes: NotesClient) -> None:
    answers = await asyncio.gather(*(notes.put(NOTE, json={"text": str(n)}) for n in range(12)))
    assert sorted(answer.status_code for answer in answers) == [200] * 11 + [201]


async def test_pages_have_every_note_once(notes: NotesClient) -> None:
    made = [(await notes.post(NOTES, json={"text": str(n)})).json()["id"] for n in range(5)]
    await notes.post("/api/v1/users/bob/notes", json=MILK)
    found: list[str] = []
    query: dict[str, Any] = {"limit": 2}
    sizes = []
    while True:
        page = (await notes.get(NOTES, params=query)).json()
        sizes.append(len(page["items"]))
        found += [note["id"] for note in page["items"]]
        if page["next_cursor"] is None:
            break
        query["cursor"] = page["next_cursor"]
    assert found == made[::-1]
    assert sizes == [2, 2, 1]
    for other in ("/api/v1/users/bob/notes", tasks_of("alice")):
        assert_problem(await notes.get(other, params=query), 400, "invalid-cursor", "cursor")


async def test_a_violated_constraint_names_the_property(notes: NotesClient) -> None:
    long = {"text": "x" * 21}  # the contract allows 100, the table 20
    for answer in (await notes.post(NOTES, json=long), await notes.put(NOTE, json=long)):
        assert_problem(answer, 422, "invalid-body", "/text")
    assert app_state_of(notes).database.pool.idle_count() > 0
    assert (await notes.get(NOTES)).json()["items"] == []


async def test_an_idempotency_key_creates_one_note(notes: NotesClient) -> None:
    key = {"Idempotency-Key": "k-1"}
    first = await notes.post(NOTES, json=MILK, headers=key)
    await notes.patch(first.headers["location"], json={"text": "Changed"})
    again = await notes.post(NOTES, json=MILK, headers=key)
    assert (again.status_code, again.json()) == (201, first.json())
    assert again.headers["etag"] == first.headers["etag"]
    other = await notes.post(NOTES, json={"text": "Other"}, headers=key)
    assert_problem(other, 422, "idempotency-key-reused")
    task = await notes.post(tasks_of("alice"), json={"title": "Task"}, headers=key)
    assert_problem(task, 422, "idempotency-key-reused")
    assert len((await notes.get(NOTES)).json()["items"]) == 1


async def test_concurrent_requests_with_one_key_create_one_note(notes: NotesClient) -> None:
    key = {"Idempotency-Key": "k-2"}
    answers = await asyncio.gather(*(notes.post(NOTES, json=MILK, headers=key) for _ in range(12)))
    assert {answer.status_code for answer in answers} <= {201, 409}
    assert len({answer.json()["id"] for answer in answers if answer.status_code == 201}) == 1
    assert len((await notes.get(NOTES)).json()["items"]) == 1


# --- the one pool --------------------------------------------------------------------------------

OPEN = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'tasks-api' AND datname = $1"


async def test_thirty_requests_stay_within_the_pool(notes: NotesClient, notes_url: str) -> None:
    pool = app_state_of(notes).database.pool
    connection = await connect(notes_url)
    name = await connection.fetchval("SELECT current_database()")
    most = 0

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, await connection.fetchval(OPEN, name))
            await asyncio.sleep(0.001)

    watching = asyncio.create_task(watch())
    answers = await asyncio.gather(*(notes.post(NOTES, json=MILK) for _ in range(30)))
    watching.cancel()
    await asyncio.wait([watching])
    assert {answer.status_code for answer in answers} == {201}
    assert 1 <= most <= 4
    assert (pool.in_use(), pool.idle_count()) == (0, most)
    await connection.close()


async def test_a_session_checks_out_without_a_statement(notes: NotesClient) -> None:
    database = app_state_of(notes).database
    await notes.get(NOTE)
    (pooled,) = database.pool._idle
    adapted = pooled.adapted
    assert adapted is not None
    await notes.get(NOTE)
    assert database.pool._idle == [pooled]
    assert pooled.adapted is adapted


async def test_a_busy_pool_is_503(notes_url: str) -> None:
    async with serving_notes(notes_url, database_pool_size=1, database_timeout=0.3) as notes:
        database = app_state_of(notes).database
        async with database.pool.connection(1):
            refused = await notes.get(NOTES)
        problem = assert_problem(refused, 503, "database-unavailable")
        assert refused.headers["retry-after"]
        assert problem["errors"] == []
        assert database.outage_logger.cause == "no connection of the pool was free in time"
        assert (await notes.get(NOTES)).status_code == 200


async def test_a_slow_statement_is_503_and_its_connection_is_replaced(notes_url: str) -> None:
    async with serving_notes(notes_url, database_pool_size=1, database_timeout=0.3) as notes:
        pool = app_state_of(notes).database.pool
        await notes.put(NOTE, json=MILK)
        (before,) = pool._idle
        blocker = await connect(notes_url)
        async with blocker.transaction():
            await blocker.execute("SELECT FROM notes FOR UPDATE")
            refused = await notes.patch(NOTE, json={"text": "Late"})
            assert_problem(refused, 503, "database-unavailable")
            assert pool.in_use() == 0
            assert before not in pool._idle
        await blocker.close()
        assert (await notes.get(NOTE)).json()["text"] == "Buy milk"


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_a_database_that_is_down_is_503(method: str) -> None:
    async with serving_notes(UNREACHABLE_URL, database_pool_size=1, database_timeout=2) as notes:
        body = MILK if method == "PUT" else None
        refused = await notes.request(method, NOTE, json=body)
        assert_problem(refused, 503, "database-unavailable")
        assert refused.headers["retry-after"]
        assert app_state_of(notes).database.pool.in_use() == 0


async def test_a_connection_that_the_server_ended_is_503_and_replaced(
    notes: NotesClient, notes_url: str
) -> None:
    await notes.put(NOTE, json=MILK)
    connection = await connect(notes_url)

    async def end_and_fail() -> None:
        async with app_state_of(notes).database.session() as session:
            backend = await session.scalar(text("SELECT pg_backend_pid()"))
            await connection.execute("SELECT pg_terminate_backend($1)", backend)
            await session.execute(text("SELECT pg_sleep(1)"))

    with pytest.raises(DatabaseUnavailable):
        await end_and_fail()
    await connection.close()
    assert app_state_of(notes).database.outage_logger.cause
    assert app_state_of(notes).database.pool.in_use() == 0
    assert (await notes.get(NOTE)).status_code == 200


async def test_a_read_only_database_is_503_and_has_its_connections_replaced(
    notes: NotesClient, notes_url: str
) -> None:
    await notes.put(NOTE, json=MILK)
    pool = app_state_of(notes).database.pool
    connection = await connect(notes_url)
    name = await connection.fetchval("SELECT current_database()")
    async with pool.connection(1) as in_use:
        await notes.get(NOTE)
        (before,) = pool._idle
        await connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        await before.connection.execute("SET default_transaction_read_only = on")
        assert_problem(await notes.put(NOTE, json={"text": "New"}), 503, "database-unavailable")
    await connection.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    await connection.close()
    assert (await notes.put(NOTE, json={"text": "New"})).status_code == 200
    assert before not in pool._idle
    # It was not idle at the failure, so no other rule replaces it.
    assert in_use not in pool._idle


async def test_an_invalidated_connection_is_replaced(notes: NotesClient) -> None:
    database = app_state_of(notes).database
    await notes.get(NOTE)
    (before,) = database.pool._idle
    async with database.session() as session:
        _ = await session.connection()  # BEGIN is sent with the first statement
        await session.invalidate()
    assert before.connection.is_closed()
    assert (database.pool.in_use(), database.pool.idle_count()) == (0, 0)


async def test_a_failed_commit_is_reported_before_the_response(
    notes: NotesClient, notes_url: str
) -> None:
    connection = await connect(notes_url)
    await connection.execute(
        "ALTER TABLE notes ADD CONSTRAINT once UNIQUE (text) DEFERRABLE INITIALLY DEFERRED"
    )
    await connection.close()
    assert (await notes.post(NOTES, json=MILK)).status_code == 201
    assert_problem(await notes.post(NOTES, json=MILK), 500, "internal-error")
    assert len((await notes.get(NOTES)).json()["items"]) == 1
    assert app_state_of(notes).database.pool.in_use() == 0


async def test_an_error_in_the_block_rolls_back(notes: NotesClient) -> None:
    database: Database = app_state_of(notes).database
    await notes.put(NOTE, json=MILK)

    async def delete_and_fail() -> None:
        async with database.session() as session:
            await session.execute(text("DELETE FROM notes"))
            raise KeyError

    with pytest.raises(KeyError):
        await delete_and_fail()
    assert (await notes.get(NOTE)).status_code == 200
    assert (database.pool.in_use(), database.pool.idle_count()) == (0, 1)
