"""createTask."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from tests.support.client import ContractClient, assert_problem, tasks_of
from tests.support.tasks import EMPTY

ALICE = tasks_of("alice")
# All characters with the Unicode property White_Space.
WHITE_SPACE = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)
TEXTS = {
    "emoji of several code points": "\U0001f469\u200d\U0001f680 to the moon \U0001f1e9\U0001f1ea",
    "combining characters, not composed": "Cafe\u0301 \u1e9b\u0323",
    "a composed character": "Caf\u00e9",
    "white space before and after": " \t\u3000 Buy milk \u00a0\n",
    "line ends of all kinds": "a\r\nb\rc\nd\u2028e\u0085f",
    "a line feed at the end": "Buy milk\n",
    "right to left": "\u05e9\u05dc\u05d5\u05dd \u200fabc",
    "control characters": "a\u0001\u0007\u001b[31m\u007f\u009f",
    "noncharacters": "a\ufffe\uffff\U0010ffff",
    "private use": "\ue000\U000f0000",
    "quotes and operators": "'; DROP TABLE tasks; -- \" \\ & | ! :* %s $1 {} <b>",
    "the replacement character": "\ufffd",
    "a single character": "x",
    "500 astral code points": "\U0001f600" * 500,
    "a zero-width space alone": "\u200b",
    "a byte-order mark": "\ufeff",
}


@pytest.mark.requirement("FR-001", "FR-007", "FR-009")
async def test_title_is_the_only_required_field(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    created = await client.post(ALICE, json={"title": "Buy milk"})
    task = created.json()
    (row,) = await database.fetch("SELECT * FROM tasks")
    assert created.status_code == 201
    assert task == {
        "id": str(row["id"]),
        "user_id": "alice",
        "title": "Buy milk",
        "description": None,
        "completed": False,
        "completed_at": None,
        **EMPTY,
        "position": task["position"],
        "created_at": task["updated_at"],
        "updated_at": task["updated_at"],
        "etag": f'"{row["etag"].hex}"',
    }
    assert (row["user_id"], row["title"], row["description"]) == ("alice", "Buy milk", None)
    assert row["completed_at"] is None
    assert row["created_at"] == row["updated_at"] == datetime.fromisoformat(task["created_at"])


@pytest.mark.requirement("FR-001", "FR-007")
async def test_every_field_is_stored(client: ContractClient, database: asyncpg.Connection) -> None:
    new = {"title": "Buy milk", "description": "Two litres.", "completed": True}
    created = await client.post(ALICE, json=new)
    (row,) = await database.fetch("SELECT title, description, completed FROM tasks")
    assert created.status_code == 201
    assert dict(row) == new
    assert {name: created.json()[name] for name in new} == new


@pytest.mark.requirement("FR-007")
async def test_completed_task_has_completed_at_equal_to_created_at(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    created = await client.post(ALICE, json={"title": "Buy milk", "completed": True})
    (row,) = await database.fetch("SELECT completed_at, created_at FROM tasks")
    assert created.json()["completed_at"] == created.json()["created_at"]
    assert row["completed_at"] == row["created_at"]


@pytest.mark.requirement("FR-001")
@pytest.mark.parametrize(
    "value", [{"description": None}, {"completed": False}, {"description": ""}], ids=str
)
async def test_explicit_defaults_equal_omitted_fields(
    client: ContractClient, database: asyncpg.Connection, value: dict[str, Any]
) -> None:
    created = await client.post(ALICE, json={"title": "Buy milk", **value})
    (row,) = await database.fetch("SELECT description, completed FROM tasks")
    assert created.status_code == 201
    assert {name: row[name] for name in value} == value


@pytest.mark.requirement("FR-009")
async def test_timestamps_come_from_the_database_clock(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    before = await database.fetchval("SELECT clock_timestamp()")
    created = await client.post(ALICE, json={"title": "Buy milk"})
    after = await database.fetchval("SELECT clock_timestamp()")
    assert before < datetime.fromisoformat(created.json()["created_at"]) < after


@pytest.mark.requirement("FR-001")
async def test_id_is_a_uuid_version_7(client: ContractClient) -> None:
    created = await client.post(ALICE, json={"title": "Buy milk"})
    assert UUID(created.json()["id"]).version == 7


@pytest.mark.requirement("FR-001", "FR-014")
async def test_equal_requests_create_two_tasks(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    first = await client.post(ALICE, json={"title": "Buy milk"})
    second = await client.post(ALICE, json={"title": "Buy milk"})
    assert first.json()["id"] != second.json()["id"]
    assert first.json()["etag"] != second.json()["etag"]
    assert await database.fetchval("SELECT count(*) FROM tasks") == 2


@pytest.mark.requirement("FR-001")
async def test_etag_is_in_header_and_body(client: ContractClient) -> None:
    created = await client.post(ALICE, json={"title": "Buy milk"})
    assert created.headers["etag"] == created.json()["etag"]


@pytest.mark.requirement("FR-001", "FR-022")
@pytest.mark.parametrize(
    ("user", "encoded"),
    [
        ("alice", "alice"),
        ("auth0|5f7c", "auth0%7C5f7c"),
        ("alice@example.com", "alice@example.com"),
        ("alice+tasks@example.com", "alice+tasks@example.com"),
        ("urn:user:1", "urn:user:1"),
        ("0.A_-", "0.A_-"),
        ("x" * 128, "x" * 128),
    ],
)
async def test_location_is_the_url_of_the_task(
    client: ContractClient, user: str, encoded: str
) -> None:
    created = await client.post(tasks_of(user), json={"title": "Buy milk"})
    location = created.headers["location"]
    assert location == f"{tasks_of(encoded)}/{created.json()['id']}"
    assert created.json()["user_id"] == user
    assert (await client.get(location)).json() == created.json()


@pytest.mark.requirement("FR-022")
async def test_user_id_may_be_percent_encoded(client: ContractClient) -> None:
    created = await client.post(tasks_of("%61lice%40example%2Ecom"), json={"title": "Buy milk"})
    assert created.json()["user_id"] == "alice@example.com"


@pytest.mark.requirement("FR-008")
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
async def test_text_is_returned_as_sent(
    client: ContractClient, database: asyncpg.Connection, text: str
) -> None:
    created = await client.post(ALICE, json={"title": text, "description": text})
    response = await client.get(created.headers["location"])
    (row,) = await database.fetch("SELECT title, description FROM tasks")
    assert created.status_code == 201
    assert (row["title"], row["description"]) == (text, text)
    assert (response.json()["title"], response.json()["description"]) == (text, text)


@pytest.mark.requirement("FR-008")
async def test_json_escapes_equal_plain_characters(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    body = b'{"title": "\\ud83d\\ude00 \\u00e9 \\/ \\b\\f\\n\\r\\t"}'
    created = await client.post(ALICE, content=body, headers={"Content-Type": "application/json"})
    assert created.status_code == 201
    assert await database.fetchval("SELECT title FROM tasks") == "\U0001f600 é / \b\f\n\r\t"


@pytest.mark.requirement("FR-008")
@pytest.mark.parametrize("character", ["a", "\U0001f600", "e\u0301"[1]], ids=ascii)
async def test_longest_texts_are_accepted(
    client: ContractClient, database: asyncpg.Connection, character: str
) -> None:
    new = {"title": character * 500, "description": character * 16_384}
    created = await client.post(ALICE, json=new)
    (row,) = await database.fetch("SELECT title, description FROM tasks")
    assert created.status_code == 201
    assert dict(row) == new


@pytest.mark.requirement("FR-026")
@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("title", ""),
        ("title", "a" * 501),
        ("title", "\U0001f600" * 501),
        ("title", "\0"),
        ("title", "Buy\0milk"),
        ("description", "a" * 16_385),
        ("description", "Two\0litres"),
        ("description", "\0"),
    ],
    ids=lambda value: ascii(value[:9]) + str(len(value)),
)
async def test_text_that_violates_its_schema_is_422(
    client: ContractClient, database: asyncpg.Connection, field: str, text: str
) -> None:
    response = await client.post(ALICE, json={"title": "Buy milk", field: text})
    problem = assert_problem(response, 422, "invalid-body", f"/{field}")
    assert problem["detail"] == f"/{field}: {problem['errors'][0]['detail']}"
    assert await database.fetchval("SELECT count(*) FROM tasks") == 0


@pytest.mark.requirement("FR-026")
@pytest.mark.parametrize("blank", [*WHITE_SPACE, WHITE_SPACE, " " * 500], ids=ascii)
async def test_title_of_only_white_space_is_422(client: ContractClient, blank: str) -> None:
    response = await client.post(ALICE, json={"title": blank})
    assert_problem(response, 422, "invalid-body", "/title")


@pytest.mark.requirement("FR-008")
@pytest.mark.parametrize("character", WHITE_SPACE, ids=ascii)
async def test_white_space_around_one_character_is_kept(
    client: ContractClient, database: asyncpg.Connection, character: str
) -> None:
    title = f"{character}x{character}"
    assert (await client.post(ALICE, json={"title": title})).status_code == 201
    assert await database.fetchval("SELECT title FROM tasks") == title


@pytest.mark.requirement("FR-026")
@pytest.mark.parametrize(
    ("body", "locations"),
    [
        ({}, ["/title"]),
        ({"title": None}, ["/title"]),
        ({"title": 1}, ["/title"]),
        ({"title": ["Buy milk"]}, ["/title"]),
        ({"title": {"text": "Buy milk"}}, ["/title"]),
        ({"title": "a", "description": 1}, ["/description"]),
        ({"title": "a", "description": False}, ["/description"]),
        ({"title": "a", "completed": None}, ["/completed"]),
        ({"title": "a", "completed": "true"}, ["/completed"]),
        ({"title": "a", "completed": 1}, ["/completed"]),
        ({"title": "a", "completed": 1.0}, ["/completed"]),
        ({"title": "a", "completed": 0}, ["/completed"]),
        ({"title": "a", "completed": []}, ["/completed"]),
        ({"title": "a", "Title": "b"}, ["/Title"]),
        ({"title": "a", "id": "0198c5a2-7e1f-7b3a-9d55-2f6f0c1e8a44"}, ["/id"]),
        ({"title": "a", "user_id": "bob"}, ["/user_id"]),
        ({"title": "a", "completed_at": None}, ["/completed_at"]),
        ({"title": "a", "created_at": "2026-01-01T00:00:00Z"}, ["/created_at"]),
        ({"title": "a", "etag": '"x"'}, ["/etag"]),
        ({"colour": "red"}, ["/title", "/colour"]),
        (
            {"title": "", "description": 1, "completed": "no", "x": 1, "y": 2},
            ["/title", "/description", "/completed", "/x", "/y"],
        ),
        ({"title": "a", "": 1}, ["/"]),
        ({"title": "a", "a/b": 1, "c~d": 2, "~1": 3}, ["/a~1b", "/c~0d", "/~01"]),
        ({"title": "a", "\U0001f600 é\n": 1}, ["/\U0001f600 é\n"]),
        ({"title": "a", "__proto__": {}}, ["/__proto__"]),
    ],
    ids=ascii,
)
async def test_all_errors_of_a_body_are_reported(
    client: ContractClient, database: asyncpg.Connection, body: Any, locations: list[str]
) -> None:
    response = await client.post(ALICE, json=body)
    assert_problem(response, 422, "invalid-body", *locations)
    assert await database.fetchval("SELECT count(*) FROM tasks") == 0


@pytest.mark.requirement("FR-026")
@pytest.mark.parametrize("body", [b"null", b"true", b"1", b'"a"', b"[]", b'[{"title": "a"}]'])
async def test_body_that_is_not_an_object_is_422(client: ContractClient, body: bytes) -> None:
    response = await client.post(ALICE, content=body, headers={"Content-Type": "application/json"})
    assert_problem(response, 422, "invalid-body", "")


@pytest.mark.requirement("FR-026")
async def test_at_most_100_errors_are_reported(client: ContractClient) -> None:
    body = {"title": "a", **{f"x{number}": 1 for number in range(150)}}
    response = await client.post(ALICE, json=body)
    assert response.status_code == 422
    assert len(response.json()["errors"]) == 100


@pytest.mark.requirement("FR-026")
async def test_long_property_name_is_truncated_in_its_pointer(client: ContractClient) -> None:
    response = await client.post(ALICE, json={"title": "a", "x" * 5000: 1})
    assert_problem(response, 422, "invalid-body", "/" + "x" * 1023)


@pytest.mark.requirement("FR-026")
async def test_pointer_is_not_truncated_within_an_escape(client: ContractClient) -> None:
    response = await client.post(ALICE, json={"title": "a", "x" * 1022 + "~": 1})
    assert_problem(response, 422, "invalid-body", "/" + "x" * 1022)


@pytest.mark.requirement("FR-028")
async def test_error_does_not_repeat_the_value(client: ContractClient) -> None:
    response = await client.post(ALICE, json={"title": "secret " * 100, "completed": "secret"})
    assert response.status_code == 422
    assert "secret" not in response.text


@pytest.mark.requirement("FR-021", "FR-026")
async def test_parameters_are_validated_before_the_body(client: ContractClient) -> None:
    response = await client.post(tasks_of("-alice") + "?x=1", content=b"{")
    assert_problem(response, 400, "invalid-parameter", "user_id", "x")


@pytest.mark.requirement("FR-001")
@pytest.mark.parametrize("field", ["If-Match", "If-None-Match"])
async def test_undeclared_header_is_ignored(client: ContractClient, field: str) -> None:
    created = await client.post(ALICE, json={"title": "Buy milk"}, headers={field: "?"})
    assert created.status_code == 201
