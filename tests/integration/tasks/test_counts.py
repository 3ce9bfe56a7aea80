"""countTasks and listLabels."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest

from app.domain.tasks import repository
from tests.support.client import ContractClient, assert_problem, tasks_of
from tests.support.tasks import create, path_of

ALICE = tasks_of("alice")
LABELS = "/api/v1/users/alice/labels"
FILL = """
    INSERT INTO tasks (user_id, id, title, labels, created_at, updated_at, etag)
    SELECT $1, lpad(to_hex(n), 32, '0')::uuid, 'milk', $3, now(), now(), gen_random_uuid()
    FROM generate_series(1, $2) n
"""


async def count(client: ContractClient, user: str = "alice", **params: Any) -> tuple[int, bool]:
    response = await client.get(f"{tasks_of(user)}/count", params=params)
    assert response.status_code == 200, response.text
    body = response.json()
    return body["count"], body["is_capped"]


async def labels(client: ContractClient, user: str = "alice") -> list[tuple[str, int]]:
    response = await client.get(f"/api/v1/users/{user}/labels")
    assert response.json()["is_capped"] is False
    return [(item["label"], item["open_tasks"]) for item in response.json()["items"]]


# --- countTasks ----------------------------------------------------------------------------------


@pytest.mark.requirement("FR-147")
async def test_user_without_tasks_has_none(client: ContractClient) -> None:
    assert await count(client) == (0, False)
    assert await count(client, q="milk") == (0, False)


@pytest.mark.requirement("FR-147")
async def test_count_without_filters_has_all_tasks_of_the_user(client: ContractClient) -> None:
    parent = await create(client, completed=True)
    await create(client, parent_id=parent["id"])
    await create(client, "bob")
    assert await count(client) == (2, False)
    assert await count(client, completed="true") == (1, False)
    assert await count(client, completed="false") == (1, False)
    assert await count(client, parent_id="none") == (1, False)


@pytest.mark.requirement("FR-147")
@pytest.mark.parametrize(
    ("rows", "expected"),
    [(9_999, (9_999, False)), (10_000, (10_000, False)), (10_001, (10_000, True))],
)
async def test_count_is_capped_at_10000(
    client: ContractClient, database: asyncpg.Connection, rows: int, expected: tuple[int, bool]
) -> None:
    await database.execute(FILL, "alice", rows, "")
    assert await count(client) == expected
    assert await count(client, completed="false") == expected
    assert await count(client, completed="true") == (0, False)
    assert await count(client, q="milk") == expected


@pytest.mark.requirement("FR-147", "FR-142")
async def test_cap_applies_to_the_tasks_that_match(
    client: ContractClient, database: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repository, "MAX_COUNT", 3)
    await database.execute(FILL, "alice", 3, "a")
    await database.execute(FILL, "bob", 9, "a")
    assert await count(client) == (3, False)
    await create(client, labels=["a", "b"])
    assert await count(client) == (3, True)
    assert await count(client, labels="a") == (3, True)
    assert await count(client, labels="b") == (1, False)
    assert await count(client, priority="low") == (0, False)


@pytest.mark.requirement("FR-147")
async def test_search_without_a_word_counts_nothing(client: ContractClient) -> None:
    await create(client, title="!")
    assert await count(client, q="!") == (0, False)


@pytest.mark.requirement("FR-147")
@pytest.mark.parametrize("name", ["limit", "cursor", "sort", "order"])
async def test_count_has_no_parameters_of_pages(client: ContractClient, name: str) -> None:
    response = await client.get(f"{ALICE}/count", params={name: "1"})
    assert_problem(response, 400, "invalid-parameter", name)


@pytest.mark.requirement("FR-147")
@pytest.mark.parametrize("path", ["Count", "count/", "count/x", "counts", "%63ounts"])
async def test_only_the_exact_path_is_the_count(client: ContractClient, path: str) -> None:
    response = await client.get(f"{ALICE}/{path}")
    assert response.status_code == (404 if "/" in path else 400)


# --- listLabels ----------------------------------------------------------------------------------


@pytest.mark.requirement("FR-148")
async def test_user_without_labels_has_none(client: ContractClient) -> None:
    await create(client)
    await create(client, "bob", labels=["a"])
    assert await labels(client) == []
    assert await labels(client, "bob") == [("a", 1)]


@pytest.mark.requirement("FR-148")
async def test_labels_are_those_of_open_tasks_with_their_number(client: ContractClient) -> None:
    tasks = [
        await create(client, labels=["a", "b"]),
        await create(client, labels=["b"]),
        await create(client, labels=["b", "c"], completed=True),
    ]
    await create(client, labels=["b"], parent_id=tasks[0]["id"])
    assert await labels(client) == [("a", 1), ("b", 3)]
    await client.patch(path_of(tasks[2]), json={"completed": False})
    assert await labels(client) == [("a", 1), ("b", 4), ("c", 1)]
    await client.patch(path_of(tasks[1]), json={"completed": True})
    await client.patch(path_of(tasks[0]), json={"labels": ["d"]})
    assert await labels(client) == [("b", 2), ("c", 1), ("d", 1)]
    await client.delete(path_of(tasks[0]))
    assert await labels(client) == [("b", 1), ("c", 1)]


@pytest.mark.requirement("FR-137", "FR-148")
async def test_labels_are_in_the_order_of_their_code_points(client: ContractClient) -> None:
    # UTF-16 would order the first after the second of these, a language the letters by accent.
    mixed = ["\uffee", "\U0001f95b", "z", "A", "a", "ä", "b", "é", "e\u0301", "B", "1", "10", "2"]
    mixed += ["a b", "a-b", "a'b", 'a"b', "a\\b", "a{b}", "NULL", "null", "\u4e00"]
    task = await create(client, labels=mixed)
    assert task["labels"] == sorted(mixed)
    assert await labels(client) == [(label, 1) for label in sorted(mixed)]


@pytest.mark.requirement("FR-137", "FR-148")
async def test_similar_labels_are_different(client: ContractClient) -> None:
    for label in ("a", "A", "á", "a\u0301", "\u00e1", "a b"):
        await create(client, labels=[label])
    assert dict(await labels(client)) == {"a": 1, "A": 1, "á": 2, "a\u0301": 1, "a b": 1}


@pytest.mark.requirement("FR-137")
async def test_50_labels_of_64_characters_are_stored(client: ContractClient) -> None:
    longest = [f"{number:02}" + "\U0001f95b" * 62 for number in range(50)]
    task = await create(client, labels=longest[::-1])
    assert task["labels"] == longest
    assert (await client.get(path_of(task))).json() == task
    assert await labels(client) == [(label, 1) for label in longest]


@pytest.mark.requirement("FR-148")
@pytest.mark.parametrize(("tasks", "is_capped"), [(20, False), (21, True)])
async def test_at_most_1000_labels_are_returned(
    client: ContractClient, database: asyncpg.Connection, tasks: int, *, is_capped: bool
) -> None:
    for number in range(tasks):
        # 1000 labels, or 1001 with one of the last task.
        own = 50 if number < 20 else 1
        names = sorted(f"{50 * number + label:04}" for label in range(own))
        await database.execute(
            FILL.replace("(n)", f"(n + {1000 * number})"), "alice", 2, ",".join(names)
        )
    body = (await client.get(LABELS)).json()
    assert body["is_capped"] is is_capped
    assert body["items"] == [{"label": f"{number:04}", "open_tasks": 2} for number in range(1000)]


@pytest.mark.requirement("FR-148")
async def test_labels_have_no_parameters(client: ContractClient) -> None:
    response = await client.get(LABELS, params={"completed": "true"})
    assert_problem(response, 400, "invalid-parameter", "completed")
