"""updateTask."""

from __future__ import annotations

import re
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest

from app.asgi import create_app
from app.settings import Settings
from tests.support.client import FOREIGN_TAG, ContractClient, assert_problem, tasks_of
from tests.support.lifespan import running
from tests.support.recorded_statements import record_statements

ALICE = tasks_of("alice")
ID = UUID("0198c5a2-7e1f-7b3a-9d55-2f6f0c1e8a44")
PATH = f"{ALICE}/{ID}"
BEFORE = {"title": "Buy milk", "description": "Two litres.", "completed": False}
MERGE_PATCH = "application/merge-patch+json"


@pytest.fixture
async def task(client: ContractClient) -> dict[str, Any]:
    created: dict[str, Any] = (await client.put(PATH, json=BEFORE)).json()
    return created


async def patch(
    client: ContractClient, body: Any, *, media_type: str = MERGE_PATCH, **headers: str
) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await client.patch(PATH, json=body, headers={"Content-Type": media_type, **named})


async def stored(database: asyncpg.Connection) -> dict[str, Any]:
    (row,) = await database.fetch("SELECT * FROM tasks")
    return dict(row)


@pytest.mark.requirement("FR-004", "FR-009", "FR-014")
@pytest.mark.parametrize(
    "change",
    [
        {"title": "Buy bread"},
        {"description": "Three litres."},
        {"description": ""},
        {"description": None},
        {"completed": True},
        {"title": "Buy bread", "description": None, "completed": True},
    ],
    ids=str,
)
async def test_only_fields_sent_are_changed(
    client: ContractClient,
    database: asyncpg.Connection,
    task: dict[str, Any],
    change: dict[str, Any],
) -> None:
    patched = await patch(client, change)
    row = await stored(database)
    after = patched.json()
    assert patched.status_code == 200
    assert {name: after[name] for name in BEFORE} == BEFORE | change
    assert {name: row[name] for name in BEFORE} == BEFORE | change
    assert after["created_at"] == task["created_at"]
    assert after["updated_at"] > task["updated_at"]
    assert patched.headers["etag"] == after["etag"] == f'"{row["etag"].hex}"'
    assert after["etag"] != task["etag"]


@pytest.mark.requirement("FR-004")
async def test_updated_task_is_read_as_returned(
    client: ContractClient, task: dict[str, Any]
) -> None:
    patched = await patch(client, {"title": "Buy bread"})
    assert (await client.get(PATH)).json() == patched.json() != task


@pytest.mark.requirement("FR-004", "FR-014")
@pytest.mark.usefixtures("task")
@pytest.mark.parametrize("name", list(BEFORE))
async def test_equal_value_is_a_change(client: ContractClient, name: str) -> None:
    before = (await client.get(PATH)).json()
    patched = (await patch(client, {name: BEFORE[name]})).json()
    assert patched["etag"] != before["etag"]
    assert patched["updated_at"] > before["updated_at"]


@pytest.mark.requirement("FR-005")
@pytest.mark.parametrize("etag", [None, "*", "{}", '"other", {}'], ids=str)
async def test_empty_patch_changes_nothing(
    client: ContractClient, database: asyncpg.Connection, task: dict[str, Any], etag: str | None
) -> None:
    before = await stored(database)
    headers = {} if etag is None else {"If_Match": etag.format(task["etag"])}
    patched = await patch(client, {}, **headers)
    assert patched.status_code == 200
    assert patched.json() == task
    assert patched.headers["etag"] == task["etag"]
    assert await stored(database) == before


@pytest.mark.requirement("FR-005", "FR-010")
@pytest.mark.parametrize("etag", ['"other"', "W/{}", FOREIGN_TAG])
async def test_empty_patch_checks_its_precondition(
    client: ContractClient, task: dict[str, Any], etag: str
) -> None:
    response = await patch(client, {}, If_Match=etag.format(task["etag"]))
    assert_problem(response, 412, "precondition-failed")


@pytest.mark.requirement("FR-005")
@pytest.mark.parametrize("etag", ["*", '"other"'])
async def test_empty_patch_of_an_unknown_task_is_404(client: ContractClient, etag: str) -> None:
    assert_problem(await patch(client, {}, If_Match=etag), 404, "task-not-found")


@pytest.mark.requirement("FR-007")
@pytest.mark.usefixtures("task")
async def test_completed_at_is_set_when_completed_becomes_true(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    patched = (await patch(client, {"completed": True})).json()
    row = await stored(database)
    assert patched["completed_at"] == patched["updated_at"]
    assert row["completed_at"] == row["updated_at"]


@pytest.mark.requirement("FR-007")
@pytest.mark.usefixtures("task")
@pytest.mark.parametrize("change", [{"completed": True}, {"title": "Buy bread"}], ids=str)
async def test_completed_at_is_kept_while_completed_stays_true(
    client: ContractClient, change: dict[str, Any]
) -> None:
    first = (await patch(client, {"completed": True})).json()
    second = (await patch(client, change)).json()
    assert second["completed_at"] == first["completed_at"]


@pytest.mark.requirement("FR-007")
@pytest.mark.usefixtures("task")
async def test_completed_at_is_cleared_when_completed_becomes_false(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    await patch(client, {"completed": True})
    patched = (await patch(client, {"completed": False})).json()
    assert (patched["completed"], patched["completed_at"]) == (False, None)
    assert (await stored(database))["completed_at"] is None


@pytest.mark.requirement("FR-007")
@pytest.mark.usefixtures("task")
async def test_completed_at_stays_null_while_completed_stays_false(client: ContractClient) -> None:
    assert (await patch(client, {"completed": False})).json()["completed_at"] is None


@pytest.mark.requirement("FR-009")
@pytest.mark.usefixtures("task")
async def test_updated_at_increases_from_a_future_value(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    await database.execute("UPDATE tasks SET updated_at = '2999-01-01T00:00:00.999999Z'")
    patched = (await patch(client, {"title": "Buy bread"})).json()
    again = (await patch(client, {"title": "Buy rye bread"})).json()
    assert patched["updated_at"] == "2999-01-01T00:00:01Z"
    assert again["updated_at"] == "2999-01-01T00:00:01.000001Z"


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return record_statements(monkeypatch)


@pytest.mark.requirement("FR-004", "NFR-004")
@pytest.mark.usefixtures("task")
@pytest.mark.parametrize(
    ("change", "columns"),
    [
        ({"title": "Buy bread"}, {"title", "updated_at", "etag"}),
        ({"description": None}, {"description", "updated_at", "etag"}),
        ({"completed": True}, {"completed_at", "updated_at", "etag"}),
        (
            {"title": "a", "completed": False},
            {"title", "completed_at", "updated_at", "etag"},
        ),
    ],
    ids=["title", "description", "completed", "two"],
)
async def test_one_statement_writes_only_the_columns_sent(
    client: ContractClient, statements: list[str], change: dict[str, Any], columns: set[str]
) -> None:
    await patch(client, change)
    (statement,) = statements
    assignments = statement.split("UPDATE tasks SET ")[1].split(" FROM revised ")[0]
    assert set(re.findall(r"(?:^|, )(\w+)=", assignments)) == columns | {"revision"}


@pytest.mark.requirement("FR-005", "NFR-004")
@pytest.mark.usefixtures("task")
async def test_empty_patch_only_reads(client: ContractClient, statements: list[str]) -> None:
    await patch(client, {})
    (statement,) = statements
    assert statement.startswith("SELECT ")


@pytest.mark.requirement("FR-010")
@pytest.mark.parametrize("template", ["{}", "*", '"other", {}', 'W/"x",{}'])
async def test_satisfied_precondition_updates(
    client: ContractClient, task: dict[str, Any], template: str
) -> None:
    patched = await patch(client, {"title": "a"}, If_Match=template.format(task["etag"]))
    assert patched.status_code == 200


@pytest.mark.requirement("FR-010")
@pytest.mark.parametrize("template", ["W/{}", '"other"', FOREIGN_TAG, '""'])
async def test_failed_precondition_writes_nothing(
    client: ContractClient, database: asyncpg.Connection, task: dict[str, Any], template: str
) -> None:
    before = await stored(database)
    response = await patch(client, {"title": "a"}, If_Match=template.format(task["etag"]))
    assert_problem(response, 412, "precondition-failed")
    assert await stored(database) == before


@pytest.mark.requirement("FR-010")
async def test_stale_etag_fails(client: ContractClient, task: dict[str, Any]) -> None:
    first = await patch(client, {"title": "a"}, If_Match=task["etag"])
    second = await patch(client, {"title": "b"}, If_Match=task["etag"])
    assert first.status_code == 200
    assert_problem(second, 412, "precondition-failed")


@pytest.mark.requirement("FR-004", "FR-010")
@pytest.mark.parametrize("headers", [{}, {"If_Match": "*"}, {"If_Match": '"other"'}], ids=str)
async def test_unknown_task_is_404_with_any_precondition(
    client: ContractClient, database: asyncpg.Connection, headers: dict[str, str]
) -> None:
    assert_problem(await patch(client, {"title": "a"}, **headers), 404, "task-not-found")
    assert await database.fetchval("SELECT count(*) FROM tasks") == 0


@pytest.mark.requirement("FR-004", "FR-024")
@pytest.mark.usefixtures("task")
@pytest.mark.parametrize(
    "media_type",
    ["application/json", "application/merge-patch+json; charset=utf-8", "Application/JSON"],
)
async def test_both_media_types_are_accepted(client: ContractClient, media_type: str) -> None:
    patched = await patch(client, {"title": "Buy bread"}, media_type=media_type)
    assert patched.json()["title"] == "Buy bread"


@pytest.mark.requirement("FR-024")
@pytest.mark.usefixtures("task")
@pytest.mark.parametrize(
    "media_type", ["application/json-patch+json", "text/plain", "merge-patch+json"]
)
async def test_other_media_type_is_415(
    client: ContractClient, database: asyncpg.Connection, media_type: str
) -> None:
    before = await stored(database)
    response = await patch(client, {"title": "a"}, media_type=media_type)
    assert_problem(response, 415, "unsupported-media-type", "Content-Type")
    assert await stored(database) == before


@pytest.mark.requirement("FR-026")
@pytest.mark.usefixtures("task")
@pytest.mark.parametrize(
    ("body", "locations"),
    [
        ({"title": None}, ["/title"]),
        ({"title": " \u3000"}, ["/title"]),
        ({"title": "x" * 501}, ["/title"]),
        ({"title": "a\0"}, ["/title"]),
        ({"completed": None}, ["/completed"]),
        ({"completed": "false"}, ["/completed"]),
        ({"description": 0}, ["/description"]),
        ({"description": "x" * 16_385}, ["/description"]),
        ({"etag": '"x"'}, ["/etag"]),
        ({"completed_at": None}, ["/completed_at"]),
        (
            {"title": 1, "description": 2, "completed": 3, "x/y": 4},
            ["/title", "/description", "/completed", "/x~1y"],
        ),
        ([], [""]),
        ("a", [""]),
    ],
    ids=lambda value: ascii(value)[:60],
)
async def test_all_errors_of_a_body_are_reported(
    client: ContractClient, database: asyncpg.Connection, body: Any, locations: list[str]
) -> None:
    before = await stored(database)
    assert_problem(await patch(client, body), 422, "invalid-body", *locations)
    assert await stored(database) == before


@pytest.mark.requirement("FR-004", "FR-026")
async def test_body_is_validated_before_the_task_is_read(client: ContractClient) -> None:
    assert_problem(await patch(client, {"title": ""}), 422, "invalid-body", "/title")


@pytest.mark.requirement("FR-004", "FR-011")
async def test_concurrent_change_of_another_field_is_kept(
    settings: Settings, client: ContractClient, task: dict[str, Any]
) -> None:
    async with (
        running(create_app(settings)) as replica,
        ContractClient(replica) as other,
    ):
        await patch(other, {"title": "Buy bread"})
        patched = await patch(client, {"description": None})
    assert patched.json()["title"] == "Buy bread"
    assert patched.json()["description"] is None
    assert patched.json()["id"] == task["id"]
