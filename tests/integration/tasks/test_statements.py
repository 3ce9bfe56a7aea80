"""Each operation sends one statement, bound to one user.

The tests observe three layers: the service before the driver, the query log of the driver, which
has transactions, and the last query of a connection on the server.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
import msgspec
import pytest

from app.asgi import create_app
from app.http.middleware import HTTPMiddleware
from app.settings import Settings
from app.state import AppState
from tests.support.client import ContractClient, assert_problem, tasks_of
from tests.support.lifespan import running
from tests.support.recorded_statements import record_statements

pytestmark = pytest.mark.requirement("NFR-004", "NFR-101", "NFR-201")

ALICE = tasks_of("alice")
TASK = f"{ALICE}/{UUID(int=1)}"
ABSENT = f"{ALICE}/{UUID(int=2)}"
BODY = {"title": "Buy milk", "description": None, "completed": False}
LIST = UUID(int=3)
SUBTASK = f"{ALICE}/{UUID(int=4)}"
ORGANIZED = f"{ALICE}/{UUID(int=5)}"
IN_LIST = f"{ALICE}/{UUID(int=6)}"
PROPERTIES = {
    "list_id": str(LIST),
    "priority": "high",
    "due": {"date": "2026-11-24", "time": "17:30", "timezone": "Europe/Berlin"},
    "labels": ["errands", "shop"],
}
# A task of the inbox, which every case of a collection finds.
ORGANIZED_BODY = {**BODY, **PROPERTIES, "list_id": None}
OTHER_TAG = {"If-Match": f'"{"0" * 32}"'}


def app_state_of(app: HTTPMiddleware) -> AppState:
    litestar: Any = app.app
    state: AppState = litestar.state.app_state
    return state


class Seen(NamedTuple):
    """The statements observed in the service and in the driver."""

    by_service: list[str]
    by_driver: list[str]
    pid: int

    def clear(self) -> None:
        self.by_service.clear()
        self.by_driver.clear()


@pytest.fixture(scope="module")
async def single_app(settings: Settings) -> AsyncIterator[HTTPMiddleware]:
    """An application with a single connection."""
    async with running(create_app(msgspec.structs.replace(settings, database_pool_size=1))) as app:
        yield app


@pytest.fixture
async def single_client(
    single_app: HTTPMiddleware,
    database: asyncpg.Connection,  # noqa: ARG001 - truncated
) -> AsyncIterator[ContractClient]:
    async with ContractClient(single_app) as client:
        await client.put(TASK, json=BODY)
        await client.put(f"/api/v1/users/alice/lists/{LIST}", json={"name": "Errands"})
        await client.put(SUBTASK, json={**BODY, "parent_id": str(UUID(int=1))})
        await client.put(ORGANIZED, json=ORGANIZED_BODY)
        await client.put(IN_LIST, json={**BODY, "list_id": str(LIST)})
        # The driver looks up the types of these statements when a connection first prepares them.
        await client.put(TASK, json=BODY, headers=OTHER_TAG)
        await client.get(ALICE, params={"labels": "shop", "priority": "high"})
        yield client


def driver_of(single_app: HTTPMiddleware) -> asyncpg.Connection:
    """Return the only connection of the application."""
    (stored,) = app_state_of(single_app).database.pool._idle
    return stored.connection


@pytest.fixture
async def seen(
    single_app: HTTPMiddleware,
    single_client: ContractClient,  # noqa: ARG001 - types are looked up
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Seen]:
    """Record the statements of a test."""
    driver = driver_of(single_app)
    # The pid of the handshake may be that of a pooler.
    pid = await driver.fetchval("SELECT pg_backend_pid()")
    statements = Seen(record_statements(monkeypatch), [], pid)

    def tell(record: Any) -> None:
        statements.by_driver.append(record.query)

    driver.add_query_logger(tell)
    yield statements
    driver.remove_query_logger(tell)


class Case(NamedTuple):
    """A successful request of an operation."""

    method: str
    url: str
    verb: str
    status: int
    options: Mapping[str, Any] = MappingProxyType({})


CASES = {
    "listTasks": Case("GET", ALICE, "SELECT", 200),
    "listTasks, narrowed": Case(
        "GET",
        ALICE,
        "SELECT",
        200,
        {
            "params": {
                "q": "buy mil",
                "completed": "false",
                "created_after": "2001-01-01T00:00:00Z",
                "created_before": "2999-01-01T00:00:00Z",
                "updated_after": "2001-01-01T00:00:00Z",
                "updated_before": "2999-01-01T00:00:00Z",
                "sort": "updated_at",
                "order": "asc",
            }
        },
    ),
    "listTasks, organized": Case(
        "GET",
        ALICE,
        "SELECT",
        200,
        {
            "params": {
                "list_id": "none",
                "parent_id": "none",
                "priority": "none,high",
                "labels": "errands,shop",
                "has_due": "true",
                "due_after": "2001-01-01",
                "due_before": "2999-01-01",
                "sort": "due",
            }
        },
    ),
    "listTasks, by priority": Case("GET", ALICE, "SELECT", 200, {"params": {"sort": "priority"}}),
    "listTasks, of a list": Case(
        "GET", ALICE, "SELECT", 200, {"params": {"sort": "position", "list_id": str(LIST)}}
    ),
    "countTasks": Case("GET", f"{ALICE}/count", "SELECT", 200),
    "countTasks, organized": Case(
        "GET", f"{ALICE}/count", "SELECT", 200, {"params": {"labels": "shop", "has_due": "true"}}
    ),
    "listLabels": Case("GET", "/api/v1/users/alice/labels", "SELECT", 200),
    "createTask": Case("POST", ALICE, "WITH", 201, {"json": {"title": "a"}}),
    "createTask, every property": Case(
        "POST", ALICE, "WITH", 201, {"json": {"title": "a", **PROPERTIES}}
    ),
    "createTask, subtask": Case(
        "POST", ALICE, "WITH", 201, {"json": {"title": "a", "parent_id": str(UUID(int=1))}}
    ),
    "createTask, unknown list": Case(
        "POST", ALICE, "WITH", 409, {"json": {"title": "a", "list_id": str(UUID(int=9))}}
    ),
    "createTask, once": Case(
        "POST",
        ALICE,
        "WITH",
        201,
        {"json": {"title": "a"}, "headers": {"Idempotency-Key": "k"}},
    ),
    "getTask": Case("GET", TASK, "SELECT", 200),
    "getTask, unchanged": Case("GET", TASK, "SELECT", 304, {"headers": {"If-None-Match": "*"}}),
    "getTask, absent": Case("GET", ABSENT, "SELECT", 404),
    "replaceTask, new": Case("PUT", ABSENT, "WITH", 201, {"json": BODY}),
    "replaceTask, there": Case("PUT", TASK, "WITH", 200, {"json": BODY}),
    "replaceTask, only new": Case(
        "PUT", ABSENT, "WITH", 201, {"json": BODY, "headers": {"If-None-Match": "*"}}
    ),
    "replaceTask, not new": Case(
        "PUT", TASK, "WITH", 412, {"json": BODY, "headers": {"If-None-Match": "*"}}
    ),
    "replaceTask, only there": Case(
        "PUT", TASK, "WITH", 200, {"json": BODY, "headers": {"If-Match": "*"}}
    ),
    "replaceTask, another tag": Case(
        "PUT", TASK, "WITH", 412, {"json": BODY, "headers": OTHER_TAG}
    ),
    "updateTask": Case("PATCH", TASK, "WITH", 200, {"json": {"completed": True}}),
    "updateTask, every property": Case("PATCH", TASK, "WITH", 200, {"json": PROPERTIES}),
    "updateTask, unknown list": Case(
        "PATCH", TASK, "WITH", 409, {"json": {"list_id": str(UUID(int=9))}}
    ),
    "updateTask, any tag": Case(
        "PATCH", TASK, "WITH", 200, {"json": {"title": "a"}, "headers": {"If-Match": "*"}}
    ),
    "updateTask, nothing": Case("PATCH", TASK, "SELECT", 200, {"json": {}}),
    "updateTask, absent": Case("PATCH", ABSENT, "WITH", 404, {"json": {"title": "a"}}),
    "updateTask, absent, any tag": Case(
        "PATCH", ABSENT, "WITH", 404, {"json": {"title": "a"}, "headers": {"If-Match": "*"}}
    ),
    "deleteTask": Case("DELETE", TASK, "WITH", 204),
    "deleteTask, any tag": Case("DELETE", TASK, "WITH", 204, {"headers": {"If-Match": "*"}}),
    "deleteTask, absent": Case("DELETE", ABSENT, "WITH", 404),
}


@pytest.mark.parametrize("name", CASES)
async def test_operation_is_one_statement(
    single_client: ContractClient, seen: Seen, name: str
) -> None:
    case = CASES[name]
    response = await single_client.request(case.method, case.url, **case.options)
    assert response.status_code == case.status
    assert [statement.split()[0] for statement in seen.by_service] == [case.verb]


@pytest.mark.parametrize("name", CASES)
async def test_operation_has_no_explicit_transaction(
    single_client: ContractClient, seen: Seen, database: asyncpg.Connection, name: str
) -> None:
    case = CASES[name]
    await single_client.request(case.method, case.url, **case.options)
    # The driver logs BEGIN and COMMIT, but not prepared statements. The server shows the last
    # statement of a connection, truncated to 1 KiB.
    assert seen.by_driver == []
    last = await database.fetchval("SELECT query FROM pg_stat_activity WHERE pid = $1", seen.pid)
    assert seen.by_service[-1].startswith(last)


async def test_explicit_transaction_would_be_detected(
    single_app: HTTPMiddleware, seen: Seen, database: asyncpg.Connection
) -> None:
    driver = driver_of(single_app)
    async with driver.transaction():
        await driver.execute("SELECT 1")
    await asyncio.sleep(0)  # the driver logs asynchronously
    assert seen.by_driver == ["BEGIN;", "SELECT 1", "COMMIT;"]
    last = await database.fetchval("SELECT query FROM pg_stat_activity WHERE pid = $1", seen.pid)
    assert last == "COMMIT;"


PLANS = """
    SELECT generic_plans, custom_plans FROM pg_prepared_statements
    WHERE statement NOT LIKE '%pg_prepared_statements%'
"""
SEARCHES = {
    "a search": {"q": "milk"},
    "a label": {"labels": "shop"},
    "a list, newest first": {"list_id": str(LIST)},
    "due, of some priorities": {"sort": "due", "priority": "high,urgent"},
    "a range of the other instant": {"updated_after": "2001-01-01T00:00:00Z"},
    "a range of the other instant, by change": {
        "sort": "updated_at", "created_before": "2999-01-01T00:00:00Z"
    },
}  # fmt: skip
# Lists for which the best plan does not depend on search terms and time bounds.
LISTS = {
    "all": {},
    "open": {"completed": "false"},
    "by change": {"sort": "updated_at", "order": "asc"},
    "by due date": {"sort": "due", "has_due": "true", "due_after": "2001-01-01"},
    "by priority": {"sort": "priority", "order": "desc", "completed": "false"},
    "inbox": {"sort": "position", "list_id": "none"},
    "subtasks": {"sort": "position", "parent_id": str(UUID(int=1))},
    "a range": {"created_after": "2001-01-01T00:00:00Z", "created_before": "2999-01-01T00:00:00Z"},
}
REPEATED = 10


async def plan_counts(
    single_app: HTTPMiddleware, single_client: ContractClient, case: Case
) -> list[tuple[int, int]]:
    """Return the numbers of generic and custom plans of the last statements."""
    driver = driver_of(single_app)
    # The connection still has the prepared statements of the previous cases.
    app_state_of(single_app).database.pool._idle[0]._statement_cache.clear()
    await driver.execute("DEALLOCATE ALL")
    for _ in range(REPEATED):
        await single_client.request(case.method, case.url, **case.options)
    return [tuple(row) for row in await driver.fetch(PLANS)]


# Statements that are planned for their values, because the best plan depends on them.
UNNAMED_CASES = {"listTasks, narrowed", "listTasks, organized", "countTasks, organized"}


@pytest.mark.parametrize("name", [name for name in CASES if name not in UNNAMED_CASES])
async def test_point_statement_uses_a_generic_plan(
    single_app: HTTPMiddleware,
    single_client: ContractClient,
    settings: Settings,
    name: str,
) -> None:
    planned = await plan_counts(single_app, single_client, CASES[name])
    # PostgreSQL makes five custom plans before it chooses a generic one. Behind a pooler,
    # statements are unnamed and always get a custom plan.
    has_names = not settings.database_config().transaction_pooling
    assert [custom for _, custom in planned] == [5] * len(planned)
    assert sum(generic for generic, _ in planned) == (REPEATED - 5) * has_names


@pytest.mark.parametrize("name", LISTS)
async def test_list_with_one_suitable_index_uses_a_generic_plan(
    single_app: HTTPMiddleware,
    single_client: ContractClient,
    settings: Settings,
    name: str,
) -> None:
    planned = await plan_counts(
        single_app,
        single_client,
        Case("GET", ALICE, "", 200, {"params": LISTS[name]}),
    )
    assert planned == (
        [] if settings.database_config().transaction_pooling else [(REPEATED - 5, 5)]
    )


@pytest.mark.parametrize("name", SEARCHES)
async def test_list_that_depends_on_values_uses_a_custom_plan(
    single_app: HTTPMiddleware, single_client: ContractClient, name: str
) -> None:
    case = Case("GET", ALICE, "", 200, {"params": SEARCHES[name]})
    assert await plan_counts(single_app, single_client, case) == []


async def test_conditional_change_is_one_statement(
    single_client: ContractClient, seen: Seen
) -> None:
    etag = (await single_client.get(TASK)).headers["etag"]
    seen.clear()
    changed = await single_client.patch(TASK, json={"title": "a"}, headers={"If-Match": etag})
    replaced = await single_client.put(
        TASK, json=BODY, headers={"If-Match": changed.headers["etag"]}
    )
    deleted = await single_client.delete(TASK, headers={"If-Match": replaced.headers["etag"]})
    assert deleted.status_code == 204
    assert [statement.split()[0] for statement in seen.by_service] == [
        "WITH",
        "WITH",
        "WITH",
    ]


async def test_move_reads_the_neighbors_and_changes_one_row(
    single_client: ContractClient, seen: Seen
) -> None:
    body = {"after_id": None, "list_id": str(LIST)}
    assert (await single_client.post(f"{TASK}/move", json=body)).status_code == 200
    # The task, the siblings, and the change with a lock on both.
    assert [statement.split()[0] for statement in seen.by_service] == ["SELECT", "SELECT", "WITH"]
    assert seen.by_driver == []


@pytest.mark.parametrize("parent", [1, 9])
async def test_rejected_parent_is_explained_by_a_second_statement(
    single_client: ContractClient, seen: Seen, parent: int
) -> None:
    body = {"title": "a", "parent_id": str(UUID(int=parent))}
    response = await single_client.patch(TASK, json=body)
    assert response.status_code == 409
    assert [statement.split()[0] for statement in seen.by_service] == ["WITH", "SELECT"]


async def test_next_page_is_one_statement(single_client: ContractClient, seen: Seen) -> None:
    await single_client.post(ALICE, json={"title": "a"})
    cursor = (await single_client.get(ALICE, params={"limit": 1})).json()["next_cursor"]
    seen.clear()
    assert (await single_client.get(ALICE, params={"cursor": cursor})).status_code == 200
    assert len(seen.by_service) == 1


async def test_search_without_a_word_reads_only_the_version(
    single_client: ContractClient, seen: Seen
) -> None:
    assert (await single_client.get(ALICE, params={"q": "--"})).json()["items"] == []
    (statement,) = seen.by_service
    assert "tasks" not in statement


async def test_empty_page_is_read_again_after_the_version(
    single_client: ContractClient, seen: Seen
) -> None:
    assert (await single_client.get(ALICE, params={"q": "unknown"})).json()["items"] == []
    first, version, second = seen.by_service
    assert first == second
    assert "tasks" not in version


@pytest.mark.parametrize(("method", "body"), [("PATCH", {"json": {"title": "a"}}), ("DELETE", {})])
async def test_failed_precondition_sends_a_second_statement(
    single_client: ContractClient, seen: Seen, method: str, body: dict[str, Any]
) -> None:
    response = await single_client.request(method, TASK, headers=OTHER_TAG, **body)
    assert_problem(response, 412, "precondition-failed")
    verbs = [statement.split()[0] for statement in seen.by_service]
    assert verbs == [{"PATCH": "WITH", "DELETE": "WITH"}[method], "SELECT"]


@pytest.mark.parametrize(
    ("method", "url", "options"),
    [
        ("GET", "/livez", {}),
        ("GET", "/openapi.yaml", {}),
        ("GET", "/openapi.json", {}),
        ("GET", f"{ALICE}?colour=red", {}),
        ("PUT", TASK, {"json": {}}),
        ("PATCH", TASK, {"content": b"{"}),
        ("POST", ALICE, {"json": {"title": " "}}),
        ("PUT", TASK, {"json": BODY, "headers": {"If-Match": "*", "If-None-Match": "*"}}),
        ("OPTIONS", TASK, {}),
        ("TRACE", TASK, {}),
        ("GET", "/nowhere", {}),
    ],
)
async def test_other_requests_send_no_statement(
    single_client: ContractClient,
    seen: Seen,
    method: str,
    url: str,
    options: dict[str, Any],
) -> None:
    await single_client.request(method, url, **options)
    assert seen.by_service == seen.by_driver == []


@pytest.mark.requirement("FR-020")
@pytest.mark.parametrize("name", CASES)
async def test_every_statement_is_bound_to_one_user(
    single_client: ContractClient, seen: Seen, name: str
) -> None:
    case = CASES[name]
    await single_client.request(case.method, case.url, **case.options)
    assert seen.by_service != []
    for statement in seen.by_service:
        mentions = re.findall(
            r"(?:INTO|FROM|UPDATE) (?:tasks|idempotency_keys|users|tombstones)\b", statement
        )
        bound = re.findall(
            r"\b(?:tasks|tasks_1|idempotency_keys|tombstones|users)\.user_id = (\$\d+)|"
            r"INSERT INTO \w+ \(user_id, [^)]*\) SELECT (\$\d+)",
            statement,
        )
        assert len(bound) == len(mentions) > 0
        # All of them are the same parameter.
        assert len({first or second for first, second in bound}) == 1


def _columns(statement: str) -> Iterator[str]:
    assignments = re.search(r"UPDATE tasks SET (.*?) FROM revised ", statement, re.DOTALL)
    assert assignments is not None
    yield from re.findall(r"(\w+)=", assignments[1])


@pytest.mark.requirement("FR-004", "FR-113")
@pytest.mark.parametrize(
    ("body", "columns"),
    [
        ({"title": "a"}, {"title"}),
        ({"description": None}, {"description"}),
        ({"completed": True}, {"completed_at"}),
        ({"title": "a", "completed": False}, {"title", "completed_at"}),
        (
            {"title": "a", "description": "b", "completed": True},
            {"title", "description", "completed_at"},
        ),
        ({"list_id": None}, {"list_id"}),
        ({"parent_id": None}, {"parent_id", "depth"}),
        ({"priority": "low"}, {"priority"}),
        ({"due": None}, {"due_date", "due_time", "due_timezone"}),
        ({"labels": []}, {"labels"}),
    ],
)
async def test_patch_writes_only_the_columns_sent(
    single_client: ContractClient, seen: Seen, body: dict[str, Any], columns: set[str]
) -> None:
    await single_client.patch(TASK, json=body)
    assert set(_columns(seen.by_service[0])) == columns | {"updated_at", "etag", "revision"}
