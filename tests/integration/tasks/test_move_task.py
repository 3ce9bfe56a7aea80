"""moveTask."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from random import Random
from string import ascii_letters
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest

from app.db.positions import MAX_LENGTH, MAX_NEIGHBORS, initial_position
from app.domain.tasks.siblings import Gap, Siblings
from tests.support.client import FOREIGN_TAG, ContractClient, assert_problem, tasks_of
from tests.support.database import connect
from tests.support.process import until
from tests.support.tasks import (
    UNKNOWN_ID,
    create,
    errors_of,
    insert_list,
    path_of,
    read,
    stored,
    titles,
)

ALICE = tasks_of("alice")
NO_NEIGHBOR = ("/after_id", "this user has no other task with this ID in this place")
INBOX: dict[str, Any] = {"list_id": "none"}
FIRST: dict[str, Any] = {"after_id": None}


async def create_all(
    client: ContractClient, names: str, **properties: Any
) -> dict[str, dict[str, Any]]:
    """Create one task for each letter, in this order, and return them by their letter."""
    return {name: await create(client, title=name, **properties) for name in names}


async def order(client: ContractClient, **filters: Any) -> str:
    """Return the letters of the tasks of a place in their order."""
    return "".join(await titles(client, sort="position", order="asc", limit=3, **filters))


async def move(
    client: ContractClient, task: Mapping[str, Any], body: dict[str, Any], **headers: str
) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await client.post(f"{path_of(dict(task))}/move", json=body, headers=named)


# --- order ---------------------------------------------------------------------------------------


@pytest.mark.requirement("FR-123")
@pytest.mark.parametrize("place", ["inbox", "list", "parent"])
async def test_new_tasks_are_last(
    client: ContractClient, database: asyncpg.Connection, place: str
) -> None:
    properties, filters = await place_of(client, database, place)
    tasks = await create_all(client, "abc", **properties)
    await move(client, tasks["a"], {"after_id": tasks["c"]["id"]})
    await create_all(client, "de", **properties)
    assert await order(client, **filters) == "bcade"


async def place_of(
    client: ContractClient, database: asyncpg.Connection, place: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the properties of the tasks of a place, and the filter that selects them."""
    # Tasks of other places have the same positions.
    await create(client, title="x", list_id=await insert_list(database))
    if place == "list":
        list_id = await insert_list(database)
        return {"list_id": list_id}, {"list_id": list_id}
    if place == "parent":
        parent = await create(client, title="parent", list_id=await insert_list(database))
        return {"parent_id": parent["id"]}, {"parent_id": parent["id"]}
    return {}, INBOX


@pytest.mark.requirement("FR-125", "FR-128")
@pytest.mark.parametrize("place", ["inbox", "list", "parent"])
@pytest.mark.parametrize(
    ("moved", "after", "expected"),
    [
        ("a", None, "abcd"),
        ("c", None, "cabd"),
        ("d", None, "dabc"),
        ("d", "a", "adbc"),
        ("a", "b", "bacd"),
        ("a", "d", "bcda"),
        ("b", "c", "acbd"),
        ("b", "a", "abcd"),
        ("c", "d", "abdc"),
    ],
)
async def test_task_is_placed_directly_after_another_one_or_first(
    client: ContractClient,
    database: asyncpg.Connection,
    place: str,
    moved: str,
    after: str | None,
    expected: str,
) -> None:
    properties, filters = await place_of(client, database, place)
    tasks = await create_all(client, "abcd", **properties)
    before = await stored(database)
    response = await move(client, tasks[moved], {"after_id": after and tasks[after]["id"]})
    task = response.json()
    assert response.status_code == 200
    assert await order(client, **filters) == expected
    # Exactly one row changed, and only in its position, time and tag.
    changed = {"position", "updated_at", "etag"}
    assert {name: task[name] for name in task if name not in changed} == {
        name: value for name, value in tasks[moved].items() if name not in changed
    }
    assert task["updated_at"] > tasks[moved]["updated_at"]
    assert response.headers["etag"] == task["etag"] != tasks[moved]["etag"]
    assert await read(client, task) == task
    unchanged = [row for row in await stored(database) if str(row["id"]) != task["id"]]
    assert unchanged == [row for row in before if str(row["id"]) != task["id"]]


@pytest.mark.requirement("FR-125")
async def test_only_task_of_a_place_keeps_its_position(client: ContractClient) -> None:
    task = await create(client, title="a")
    moved = (await move(client, task, FIRST)).json()
    assert moved["position"] == task["position"]
    assert moved["etag"] != task["etag"]


@pytest.mark.requirement("FR-125", "FR-144")
async def test_any_order_can_be_requested(client: ContractClient) -> None:
    tasks = await create_all(client, "abcdefgh")
    random = Random(1)  # noqa: S311 - a repeatable sequence
    model = list(tasks)
    for _ in range(60):
        moved, after = random.choice(model), random.choice([None, *model])
        if moved == after:
            continue
        response = await move(client, tasks[moved], {"after_id": after and tasks[after]["id"]})
        assert response.status_code == 200
        model.remove(moved)
        model.insert(0 if after is None else model.index(after) + 1, moved)
    assert await order(client, **INBOX) == "".join(model)
    assert "".join(reversed(await titles(client, sort="position", limit=3, **INBOX))) == "".join(
        model
    )


@pytest.mark.requirement("FR-125")
async def test_completed_and_open_tasks_are_in_one_order(client: ContractClient) -> None:
    tasks = await create_all(client, "ab")
    done = await create_all(client, "xy", completed=True)
    await move(client, tasks["b"], {"after_id": done["x"]["id"]})
    await move(client, done["y"], {"after_id": tasks["a"]["id"]})
    assert await order(client, **INBOX) == "ayxb"
    assert await order(client, completed="false", **INBOX) == "ab"
    assert await order(client, completed="true", **INBOX) == "yx"


@pytest.mark.requirement("FR-123", "FR-130")
async def test_repeated_moves_to_the_ends_keep_positions_short(client: ContractClient) -> None:
    tasks = await create_all(client, "abc")
    for _ in range(10):
        last = list(await order(client, **INBOX))[-1]
        await move(client, tasks[last], FIRST)
        first, *_, last = list(await order(client, **INBOX))
        await move(client, tasks[first], {"after_id": tasks[last]["id"]})
    await create_all(client, "d")
    assert await order(client, **INBOX) == "abcd"
    positions = [(await read(client, task))["position"] for task in tasks.values()]
    assert max(map(len, positions)) <= 26


# --- other places --------------------------------------------------------------------------------


@pytest.mark.requirement("FR-126")
@pytest.mark.parametrize("after", [None, "b", "c"])
async def test_task_moves_to_another_list(
    client: ContractClient, database: asyncpg.Connection, after: str | None
) -> None:
    one, two = await insert_list(database), await insert_list(database)
    tasks = await create_all(client, "a", list_id=one) | await create_all(client, "bc", list_id=two)
    after_id = None if after is None else tasks[after]["id"]
    response = await move(client, tasks["a"], {"after_id": after_id, "list_id": two})
    moved = response.json()
    assert (moved["id"], moved["list_id"], moved["parent_id"]) == (tasks["a"]["id"], two, None)
    assert await order(client, list_id=two) == {None: "abc", "b": "bac", "c": "bca"}[after]
    assert await order(client, list_id=one) == ""
    assert await read(client, tasks["a"]) == moved


@pytest.mark.requirement("FR-126")
async def test_task_moves_between_all_places(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    list_id = await insert_list(database)
    parent = await create(client, title="p", list_id=list_id)
    task = await create(client, title="a")
    places: list[tuple[dict[str, Any], tuple[str | None, str | None]]] = [
        ({"list_id": list_id}, (list_id, None)),
        ({"parent_id": parent["id"]}, (None, parent["id"])),
        ({"list_id": None}, (None, None)),
        ({"parent_id": parent["id"]}, (None, parent["id"])),
        ({"list_id": list_id}, (list_id, None)),
        ({"parent_id": None}, (None, None)),
        ({"list_id": list_id, "parent_id": None}, (list_id, None)),
        ({"list_id": None, "parent_id": parent["id"]}, (None, parent["id"])),
        ({"list_id": None, "parent_id": None}, (None, None)),
    ]
    for place, expected in places:
        moved = (await move(client, task, {"after_id": None, **place})).json()
        assert (moved["list_id"], moved["parent_id"]) == expected, place
        assert moved == await read(client, task)


@pytest.mark.requirement("FR-126")
async def test_subtasks_move_with_their_parent(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    list_id = await insert_list(database)
    parent = await create(client, title="p")
    subtasks = await create_all(client, "ab", parent_id=parent["id"])
    assert (await move(client, parent, {"after_id": None, "list_id": list_id})).is_success
    assert [await read(client, each) for each in subtasks.values()] == list(subtasks.values())
    assert await order(client, parent_id=parent["id"]) == "ab"
    assert await order(client, list_id=list_id) == "p"


@pytest.mark.requirement("FR-125")
@pytest.mark.parametrize("place", ["list", "parent"])
async def test_task_stays_in_its_place_without_list_and_parent(
    client: ContractClient, database: asyncpg.Connection, place: str
) -> None:
    properties, filters = await place_of(client, database, place)
    tasks = await create_all(client, "ab", **properties)
    moved = (await move(client, tasks["b"], FIRST)).json()
    assert {name: moved[name] for name in properties} == properties
    assert await order(client, **filters) == "ba"


# --- errors --------------------------------------------------------------------------------------


async def assert_unchanged(
    database: asyncpg.Connection,
    before: list[dict[str, Any]],
    response: httpx.Response,
    slug: str,
    error: tuple[str, str],
) -> None:
    assert_problem(response, 409, slug, error[0])
    assert errors_of(response) == [error]
    assert await stored(database) == before


@pytest.mark.requirement("FR-115", "FR-116", "FR-127")
async def test_unknown_neighbor_is_409(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    list_id = await insert_list(database)
    parent = await create(client, title="p")
    task = await create(client, title="a")
    neighbors = {
        "unknown": UNKNOWN_ID,
        "the task itself": task["id"],
        "in another list": (await create(client, list_id=list_id))["id"],
        "a subtask": (await create(client, parent_id=parent["id"]))["id"],
        "of another user": (await create(client, "bob"))["id"],
        "a list": list_id,
    }
    before = await stored(database)
    for neighbor in neighbors.values():
        response = await move(client, task, {"after_id": neighbor})
        await assert_unchanged(database, before, response, "reference-not-found", NO_NEIGHBOR)


@pytest.mark.requirement("FR-127")
async def test_neighbor_must_be_in_the_target(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    list_id = await insert_list(database)
    parent = await create(client, title="p")
    task, other = await create(client, title="a"), await create(client, title="b")
    in_list = await create(client, list_id=list_id)
    subtask = await create(client, parent_id=parent["id"])
    before = await stored(database)
    for body in (
        {"after_id": other["id"], "list_id": list_id},
        {"after_id": other["id"], "parent_id": parent["id"]},
        {"after_id": subtask["id"], "list_id": list_id},
        {"after_id": in_list["id"], "parent_id": parent["id"]},
        {"after_id": in_list["id"], "list_id": None},
        {"after_id": subtask["id"], "list_id": None},
        {"after_id": parent["id"], "parent_id": parent["id"]},
        {"after_id": task["id"], "list_id": list_id},
    ):
        response = await move(client, task, body)
        await assert_unchanged(database, before, response, "reference-not-found", NO_NEIGHBOR)


@pytest.mark.requirement("FR-115", "FR-116")
async def test_unknown_place_is_409(client: ContractClient, database: asyncpg.Connection) -> None:
    task = await create(client, title="a")
    of_bob = await create(client, "bob", list_id=await insert_list(database, "bob"))
    before = await stored(database)
    no_list = ("/list_id", "this user has no list with this ID")
    no_task = ("/parent_id", "this user has no task with this ID")
    for place, error in (
        ({"list_id": UNKNOWN_ID}, no_list),
        ({"list_id": of_bob["list_id"]}, no_list),
        ({"parent_id": UNKNOWN_ID}, no_task),
        ({"parent_id": of_bob["id"]}, no_task),
    ):
        response = await move(client, task, {"after_id": None, **place})
        await assert_unchanged(database, before, response, "reference-not-found", error)


@pytest.mark.requirement("FR-119")
async def test_move_under_a_wrong_parent_is_409(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    list_id = await insert_list(database)
    parent, other = await create(client, title="p"), await create(client, title="q")
    subtask = await create(client, parent_id=parent["id"])
    task = await create(client, title="a")
    before = await stored(database)
    for moved, place, error in (
        (task, {"parent_id": subtask["id"]}, "this task is a subtask"),
        (subtask, {"parent_id": subtask["id"]}, "a task cannot be its own subtask"),
        (task, {"parent_id": task["id"]}, "a task cannot be its own subtask"),
        (parent, {"parent_id": parent["id"]}, "a task cannot be its own subtask"),
        (parent, {"parent_id": other["id"]}, "a task with subtasks cannot be a subtask"),
    ):
        response = await move(client, moved, {"after_id": None, **place})
        error_at = ("/parent_id", error)
        await assert_unchanged(database, before, response, "hierarchy-conflict", error_at)
    both = {"after_id": None, "list_id": list_id, "parent_id": parent["id"]}
    response = await move(client, task, both)
    error_at = ("/list_id", "must be null for a subtask")
    await assert_unchanged(database, before, response, "hierarchy-conflict", error_at)


@pytest.mark.requirement("FR-128")
@pytest.mark.parametrize("template", ["{}", "*", '"other", {}', "W/{}, {}"])
async def test_satisfied_precondition_moves(client: ContractClient, template: str) -> None:
    tasks = await create_all(client, "ab")
    etag = template.format(*[tasks["b"]["etag"]] * 2)
    response = await move(client, tasks["b"], FIRST, If_Match=etag)
    assert response.status_code == 200
    assert await order(client, **INBOX) == "ba"


@pytest.mark.requirement("FR-128")
@pytest.mark.parametrize("template", ["W/{}", '"other"', FOREIGN_TAG, '""'])
async def test_failed_precondition_moves_nothing(
    client: ContractClient, database: asyncpg.Connection, template: str
) -> None:
    tasks = await create_all(client, "ab")
    before = await stored(database)
    response = await move(client, tasks["b"], FIRST, If_Match=template.format(tasks["b"]["etag"]))
    assert_problem(response, 412, "precondition-failed")
    assert await stored(database) == before


@pytest.mark.requirement("FR-128")
async def test_stale_etag_fails(client: ContractClient) -> None:
    tasks = await create_all(client, "ab")
    first = await move(client, tasks["b"], FIRST, If_Match=tasks["b"]["etag"])
    second = await move(client, tasks["b"], FIRST, If_Match=tasks["b"]["etag"])
    third = await move(client, tasks["b"], FIRST, If_Match=first.headers["etag"])
    assert_problem(second, 412, "precondition-failed")
    assert third.status_code == 200


@pytest.mark.requirement("FR-109", "FR-118")
async def test_checks_of_a_move_have_an_order(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    task = await create(client, title="a")
    unknown = {**task, "id": UNKNOWN_ID}
    before = await stored(database)
    wrong = {"after_id": UNKNOWN_ID, "list_id": UNKNOWN_ID}
    invalid = {"after_id": "x", "list_id": UNKNOWN_ID}
    stale = {"If_Match": FOREIGN_TAG}
    assert_problem(await move(client, unknown, invalid, **stale), 422, "invalid-body", "/after_id")
    assert_problem(await move(client, unknown, wrong, **stale), 404, "task-not-found")
    assert_problem(await move(client, unknown, wrong), 404, "task-not-found")
    assert_problem(await move(client, task, wrong, **stale), 412, "precondition-failed")
    both = {"after_id": None, "list_id": UNKNOWN_ID, "parent_id": task["id"]}
    assert_problem(await move(client, task, both, **stale), 412, "precondition-failed")
    response = await move(client, task, wrong)
    assert response.status_code == 409
    assert await stored(database) == before


@pytest.mark.requirement("FR-116")
@pytest.mark.parametrize("headers", [{}, {"If_Match": "*"}, {"If_Match": "the tag"}], ids=str)
async def test_task_of_another_user_is_not_moved(
    client: ContractClient, database: asyncpg.Connection, headers: dict[str, str]
) -> None:
    tasks = await create_all(client, "ab")
    before = await stored(database)
    if headers == {"If_Match": "the tag"}:
        headers = {"If_Match": tasks["b"]["etag"]}
    foreign = {**tasks["b"], "user_id": "bob"}
    assert_problem(await move(client, foreign, FIRST, **headers), 404, "task-not-found")
    assert await stored(database) == before


@pytest.mark.requirement("FR-125", "FR-126")
@pytest.mark.parametrize(
    ("body", "locations"),
    [
        ({}, ["/after_id"]),
        ({"list_id": None}, ["/after_id"]),
        ({"after_id": ""}, ["/after_id"]),
        ({"after_id": "none"}, ["/after_id"]),
        ({"after_id": UNKNOWN_ID.replace("-", "")}, ["/after_id"]),
        ({"after_id": None, "list_id": "x", "parent_id": 1}, ["/list_id", "/parent_id"]),
        ({"after_id": None, "before_id": None}, ["/before_id"]),
        ({"after_id": None, "position": "A"}, ["/position"]),
        ([], [""]),
    ],
    ids=ascii,
)
async def test_invalid_body_is_422(client: ContractClient, body: Any, locations: list[str]) -> None:
    task = await create(client)
    assert_problem(await move(client, task, body), 422, "invalid-body", *locations)


@pytest.mark.requirement("FR-126")
async def test_ids_are_case_insensitive(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    list_id = await insert_list(database)
    neighbor = await create(client, title="a", list_id=list_id)
    task = await create(client, title="b")
    body = {"after_id": neighbor["id"].upper(), "list_id": list_id.upper()}
    upper = {**task, "id": task["id"].upper()}
    assert (await move(client, upper, body)).json()["list_id"] == list_id
    assert await order(client, list_id=list_id) == "ab"


@pytest.mark.requirement("FR-125")
async def test_media_type_and_parameters_are_strict(client: ContractClient) -> None:
    path = f"{path_of(await create(client))}/move"
    headers = {"Content-Type": "application/merge-patch+json"}
    response = await client.post(path, content=b'{"after_id":null}', headers=headers)
    assert_problem(response, 415, "unsupported-media-type", "Content-Type")
    response = await client.post(f"{path}?x=1", json=FIRST)
    assert_problem(response, 400, "invalid-parameter", "x")


# --- respacing -----------------------------------------------------------------------------------


async def place_at(database: asyncpg.Connection, positions: Mapping[str, str]) -> None:
    """Store the positions of tasks, by title."""
    for title, position in positions.items():
        await database.execute("UPDATE tasks SET position = $2 WHERE title = $1", title, position)


@pytest.mark.requirement("FR-128")
async def test_stored_position_is_between_those_of_the_neighbors(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    tasks = await create_all(client, "abc")
    await place_at(database, {"a": "A", "b": "B", "c": "C"})
    moved = (await move(client, tasks["c"], {"after_id": tasks["a"]["id"]})).json()
    assert "A" < moved["position"] < "B"
    assert [row["position"] for row in await stored(database)][:2] == ["A", "B"]


@pytest.mark.requirement("FR-129", "FR-130")
@pytest.mark.parametrize("place", ["inbox", "list", "parent"])
async def test_gap_without_room_is_respaced(
    client: ContractClient, database: asyncpg.Connection, place: str
) -> None:
    properties, filters = await place_of(client, database, place)
    tasks = await create_all(client, "abcdef", **properties)
    tight = "M" * (MAX_LENGTH - 1)
    await place_at(database, {"b": f"{tight}1", "c": f"{tight}2", "a": "A", "d": "X", "e": "Y"})
    others = await database.fetch("SELECT * FROM tasks WHERE length(title) > 1 OR title = 'x'")
    before = {title: await read(client, task) for title, task in tasks.items()}
    response = await move(client, tasks["f"], {"after_id": tasks["b"]["id"]})
    assert response.status_code == 200
    after = {title: await read(client, task) for title, task in tasks.items()}
    assert await order(client, **filters) == "abfcde"
    assert after["f"] == response.json()
    assert max(len(task["position"]) for task in after.values()) <= MAX_LENGTH
    for title in "abcde":
        has_moved = after[title]["position"] != before[title]["position"]
        assert (after[title]["etag"] != before[title]["etag"]) == has_moved
        assert (after[title]["updated_at"] > before[title]["updated_at"]) == has_moved
        changing = {"position", "etag", "updated_at"}
        assert {name: value for name, value in after[title].items() if name not in changing} == {
            name: value for name, value in before[title].items() if name not in changing
        }
    # At least one neighbor of the gap had to move.
    assert {after[title]["position"] != before[title]["position"] for title in "bc"} != {False}
    assert others == await database.fetch(
        "SELECT * FROM tasks WHERE length(title) > 1 OR title = 'x'"
    )


@pytest.mark.requirement("FR-129")
async def test_respacing_changes_at_most_500_neighbors(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    # The positions of 400 of 1,500 tasks have 64 digits and leave no room between them.
    await database.execute(
        """
        INSERT INTO tasks
            (user_id, id, title, position, created_at, updated_at, completed_at, etag)
        SELECT 'alice', lpad(to_hex(n), 32, '0')::uuid, n::text,
            CASE WHEN n BETWEEN 551 AND 950 THEN '0550' || repeat('M', 56) || lpad(n::text, 4, '0')
                 ELSE lpad(n::text, 4, '0') || 'M' END,
            now(), now(), CASE WHEN n % 3 = 0 THEN now() END, gen_random_uuid()
        FROM generate_series(1, 1500) n
        """
    )
    task = await create(client, title="moved")
    before = {row["id"]: row for row in await database.fetch("SELECT * FROM tasks")}
    neighbor = UUID(int=750)
    response = await move(client, task, {"after_id": str(neighbor)})
    rows = await database.fetch("SELECT * FROM tasks ORDER BY position, id")
    assert response.status_code == 200
    assert [row["title"] for row in rows] == [
        *(str(number) for number in range(1, 751)),
        "moved",
        *(str(number) for number in range(751, 1501)),
    ]
    changed = {row["id"].int for row in rows if row != before[row["id"]]}
    changed.discard(UUID(task["id"]).int)
    assert 0 < len(changed) <= MAX_NEIGHBORS
    assert changed <= set(range(751 - MAX_NEIGHBORS // 2, 751 + MAX_NEIGHBORS // 2))
    etags = {row["id"].int for row in rows if row["etag"] != before[row["id"]]["etag"]}
    assert etags - {UUID(task["id"]).int} == changed
    assert max(len(row["position"]) for row in rows) <= MAX_LENGTH


@pytest.mark.requirement("FR-129", "FR-130", "NFR-106")
async def test_repeated_moves_into_one_gap_keep_the_requested_order(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    tasks = await create_all(client, "abcdefgh")
    # Room for a few moves only.
    await place_at(database, {"a": "M" * 56 + "1", "b": "M" * 56 + "2"})
    model = "ab" + "cdefgh"
    random = Random(2)  # noqa: S311 - a repeatable sequence
    for _ in range(80):
        moved = random.choice(model[2:])
        response = await move(client, tasks[moved], {"after_id": tasks["a"]["id"]})
        assert response.status_code == 200
        model = "a" + moved + model[1:].replace(moved, "")
        if model.index("b") > 3:  # keep the gap small
            response = await move(client, tasks["b"], {"after_id": tasks[moved]["id"]})
            model = "a" + moved + "b" + model[2:].replace("b", "")
    assert await order(client, **INBOX) == model
    lengths = [len((await read(client, task))["position"]) for task in tasks.values()]
    assert max(lengths) <= MAX_LENGTH


@pytest.mark.requirement("FR-129")
async def test_equal_positions_are_ordered_by_id_and_separated_by_a_move(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    tasks = await create_all(client, "abcd")
    await place_at(database, {"a": "A", "b": "M", "c": "M", "d": "X"})
    assert await order(client, **INBOX) == "abcd"
    await move(client, tasks["d"], {"after_id": tasks["b"]["id"]})
    assert await order(client, **INBOX) == "abdc"
    positions = {title: (await read(client, task))["position"] for title, task in tasks.items()}
    assert positions["b"] < positions["d"] < positions["c"]


# --- concurrent changes --------------------------------------------------------------------------


def change_during_move(monkeypatch: pytest.MonkeyPatch, *changes: Any) -> None:
    """Run one of the changes in each attempt, after the siblings were read."""
    remaining = list(changes)
    gap_after = Siblings.gap_after

    async def change_and_return(*args: Any, **options: Any) -> Gap:
        gap = await gap_after(*args, **options)
        if remaining:
            await asyncio.create_task(remaining.pop(0)())
        return gap

    monkeypatch.setattr(Siblings, "gap_after", change_and_return)


@pytest.mark.requirement("FR-011", "FR-125")
async def test_concurrent_change_of_the_list_is_kept(
    client: ContractClient, database: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    list_id = await insert_list(database)
    tasks = await create_all(client, "ab")

    async def change() -> None:
        assert (await client.patch(path_of(tasks["b"]), json={"list_id": list_id})).is_success

    change_during_move(monkeypatch, change)
    response = await move(client, tasks["b"], FIRST)
    assert response.status_code == 200
    assert response.json()["list_id"] == list_id


@pytest.mark.requirement("FR-011", "FR-128")
@pytest.mark.parametrize("headers", [{}, {"If_Match": "*"}], ids=str)
async def test_concurrent_change_of_the_title_is_kept(
    client: ContractClient, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str]
) -> None:
    tasks = await create_all(client, "ab")

    async def change() -> None:
        assert (await client.patch(path_of(tasks["b"]), json={"title": "c"})).is_success

    change_during_move(monkeypatch, change)
    response = await move(client, tasks["b"], FIRST, **headers)
    assert response.json()["title"] == "c"
    assert await order(client, **INBOX) == "ca"


@pytest.mark.requirement("FR-011", "FR-128")
async def test_concurrent_change_fails_the_precondition(
    client: ContractClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = await create_all(client, "ab")

    async def change() -> None:
        assert (await client.patch(path_of(tasks["b"]), json={"title": "c"})).is_success

    change_during_move(monkeypatch, change)
    response = await move(client, tasks["b"], FIRST, If_Match=tasks["b"]["etag"])
    assert_problem(response, 412, "precondition-failed")
    assert await order(client, **INBOX) == "ac"


@pytest.mark.requirement("FR-128")
@pytest.mark.parametrize("headers", [{}, {"If_Match": "the tag"}], ids=str)
async def test_task_deleted_during_its_move_is_404(
    client: ContractClient, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str]
) -> None:
    tasks = await create_all(client, "ab")

    async def change() -> None:
        assert (await client.delete(path_of(tasks["b"]))).is_success

    if headers:
        headers = {"If_Match": tasks["b"]["etag"]}
    change_during_move(monkeypatch, change)
    assert_problem(await move(client, tasks["b"], FIRST, **headers), 404, "task-not-found")


@pytest.mark.requirement("FR-127")
async def test_neighbor_deleted_during_a_move_is_409(
    client: ContractClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = await create_all(client, "abc")

    async def change() -> None:
        assert (await client.delete(path_of(tasks["a"]))).is_success

    change_during_move(monkeypatch, change)
    response = await move(client, tasks["c"], {"after_id": tasks["a"]["id"]})
    assert errors_of(response) == [NO_NEIGHBOR]


@pytest.mark.requirement("FR-131")
async def test_move_begins_again_if_a_neighbor_moves(
    client: ContractClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = await create_all(client, "abcd")

    async def change() -> None:
        assert (await move(client, tasks["a"], {"after_id": tasks["d"]["id"]})).is_success

    # The change is itself a move, without a change during it.
    change_during_move(monkeypatch, change)
    response = await move(client, tasks["c"], {"after_id": tasks["a"]["id"]})
    assert response.status_code == 200
    assert await order(client, **INBOX) == "bdac"


@pytest.mark.requirement("FR-131")
async def test_move_that_always_finds_other_neighbors_is_503(
    client: ContractClient, database: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = await create_all(client, "abc")
    numbers = iter(range(100))

    async def change() -> None:
        await place_at(database, {"a": f"A{next(numbers):03d}"})

    change_during_move(monkeypatch, *[change] * 20)
    response = await move(client, tasks["c"], {"after_id": tasks["a"]["id"]})
    assert_problem(response, 503, "database-unavailable")
    assert next(numbers) <= 10


def change_during_respacing(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    """Run a change once, after the siblings on both sides of a gap without room were read."""
    read_siblings = Siblings._read
    remaining = [change]

    async def change_and_return(self: Siblings, *args: Any, **options: Any) -> Any:
        siblings = await read_siblings(self, *args, **options)
        if remaining and not options["is_forward"]:
            await asyncio.create_task(remaining.pop()())
        return siblings

    monkeypatch.setattr(Siblings, "_read", change_and_return)


async def create_tight_gap(
    client: ContractClient, database: asyncpg.Connection
) -> dict[str, dict[str, Any]]:
    """Create tasks in the order abcdefgh. There is no room between d and e."""
    tasks = await create_all(client, "abcdefgh")
    tight = "M" * (MAX_LENGTH - 1)
    positions = {"a": "A", "b": "B", "c": "C", "d": f"{tight}1", "e": f"{tight}2"}
    await place_at(database, positions | {"f": "X", "g": "Y", "h": "Z"})
    return tasks


@pytest.mark.requirement("FR-129")
@pytest.mark.parametrize("kind", ["move", "delete"])
async def test_respacing_begins_again_if_a_sibling_changes(
    client: ContractClient,
    database: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    tasks = await create_tight_gap(client, database)

    async def change() -> None:
        if kind == "move":
            response = await move(client, tasks["c"], {"after_id": tasks["f"]["id"]})
        else:
            response = await client.delete(path_of(tasks["c"]))
        assert response.is_success

    change_during_respacing(monkeypatch, change)
    response = await move(client, tasks["h"], {"after_id": tasks["d"]["id"]})
    assert response.status_code == 200
    assert await order(client, **INBOX) == ("abdhefcg" if kind == "move" else "abdhefg")


@pytest.mark.requirement("FR-129")
async def test_respacing_keeps_the_place_of_a_task_that_moves_at_the_same_moment(
    client: ContractClient, database: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = await create_tight_gap(client, database)

    async def change() -> None:
        assert (await move(client, tasks["g"], {"after_id": tasks["b"]["id"]})).is_success

    change_during_respacing(monkeypatch, change)
    response = await move(client, tasks["h"], {"after_id": tasks["d"]["id"]})
    assert response.status_code == 200
    assert await order(client, **INBOX) == "abgcdhef"


@pytest.mark.requirement("FR-129")
async def test_respacing_begins_again_if_the_neighbor_moved_after_it_was_read(
    client: ContractClient, database: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = await create_tight_gap(client, database)
    respace = Siblings._respace

    async def change_and_respace(*args: Any) -> Gap:
        await place_at(database, {"d": "L", "g": "LZ"})
        return await respace(*args)

    monkeypatch.setattr(Siblings, "_respace", change_and_respace)
    response = await move(client, tasks["h"], {"after_id": tasks["d"]["id"]})
    assert response.status_code == 200
    assert await order(client, **INBOX) == "abcdhgef"


WAITS_FOR_LOCK = """
    SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
"""


@pytest.mark.requirement("FR-129")
async def test_respacing_begins_again_if_a_task_moves_while_it_waits(
    client: ContractClient, database: asyncpg.Connection, database_url: str
) -> None:
    tasks = await create_tight_gap(client, database)
    other = await connect(database_url)
    async with other.transaction():
        await other.execute("SELECT pg_advisory_xact_lock(hashtextextended('alice', 0))")
        moving = asyncio.create_task(move(client, tasks["h"], {"after_id": tasks["d"]["id"]}))
        await until(lambda: database.fetch(WAITS_FOR_LOCK))
        await other.execute("UPDATE tasks SET position = 'Bm' WHERE title = 'g'")
        await other.execute("UPDATE users SET revision = revision + 1")
    assert (await moving).status_code == 200
    await other.close()
    assert await order(client, **INBOX) == "abgcdhef"


@pytest.mark.requirement("FR-129")
async def test_respacing_changes_only_the_nearest_siblings(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    names = ascii_letters
    tasks = await create_all(client, names)
    tight = {"y": f"{'M' * (MAX_LENGTH - 1)}1", "z": f"{'M' * (MAX_LENGTH - 1)}2"}
    before = {name: f"L{name}" for name in names[:24]}
    after = {name: f"N{number:02}" for number, name in enumerate(names[26:])}
    await place_at(database, before | tight | after)
    assert (await move(client, tasks["Z"], {"after_id": tasks["y"]["id"]})).status_code == 200
    assert await order(client, **INBOX) == "abcdefghijklmnopqrstuvwxyZzABCDEFGHIJKLMNOPQRSTUVWXY"
    positions = {row["title"]: row["position"] for row in await stored(database)}
    changed = {name for name, old in {**before, **tight, **after}.items() if positions[name] != old}
    assert changed == set("jklmnopqrstuvwxyzABCDEFGHIJKLMNOZ")


@pytest.mark.requirement("FR-123")
async def test_position_is_that_of_the_contract(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    task = await create(client)
    (row,) = await stored(database)
    assert task["position"] == initial_position(row["created_at"], row["id"])
