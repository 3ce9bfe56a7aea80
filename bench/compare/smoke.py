"""Tests every operation of the benchmark against a running service.

For an invalid parameter, Tasks API responds 400 as its contract says. The baselines respond 422,
as their frameworks do. All other responses are the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from http import HTTPStatus
from typing import Any
from uuid import UUID, uuid4

import httpx

from bench.compare.data import insert_lists, list_id
from tests.support.process import execute

Json = dict[str, Any]

PROPERTIES = [
    "id",
    "user_id",
    "title",
    "description",
    "completed",
    "completed_at",
    "list_id",
    "parent_id",
    "priority",
    "due",
    "due_at",
    "labels",
    "position",
    "created_at",
    "updated_at",
    "etag",
]
PRIORITIES = ("none", "low", "medium", "high", "urgent")
# The other properties of a task with only a title.
DEFAULTS: Json = {
    "list_id": None,
    "parent_id": None,
    "priority": "none",
    "due": None,
    "due_at": None,
    "labels": [],
}
FIRST_DATETIME = datetime(1, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
PROBLEM_PROPERTIES = {"type", "title", "status", "detail", "errors"}
INVALID_PARAMETER = (HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY)
ORGANIZED: Json = {
    "list_id": str(list_id(0)),
    "priority": "high",
    "due": {"date": "2026-11-24", "time": "17:30", "timezone": "Europe/Berlin"},
    "labels": ["phone", "Shop", "errands"],
}
MERGE_PATCH = {"Content-Type": "application/merge-patch+json"}


class UserTasks:
    """The tasks of a new user with lists."""

    def __init__(self, client: httpx.Client, database_url: str) -> None:
        self.client = client
        self.database_url = database_url
        self.user_id = f"smoke-{uuid4().hex}"
        self.path = f"/api/v1/users/{self.user_id}/tasks"
        execute(database_url, insert_lists(f"'{self.user_id}'", 1))

    def other_user(self) -> UserTasks:
        return UserTasks(self.client, self.database_url)

    def send(self, method: str, path: object = "", **options: Any) -> httpx.Response:
        """Send a request. `path` is a task id, or empty for the collection."""
        target = f"{self.path}/{path}" if path else self.path
        return self.client.request(method, target, **options)

    def create(self, body: Json, **headers: str) -> httpx.Response:
        return self.send("POST", json=body, headers=headers)

    def patch(self, task: Json, change: Json) -> Json:
        """Update an existing task and return it."""
        changed = self.send("PATCH", task["id"], json=change, headers=MERGE_PATCH)
        return task_in(changed, HTTPStatus.OK)

    def page(self, **query: object) -> Json:
        """Return a page of the tasks."""
        response = self.send("GET", params=query)
        assert response.status_code == HTTPStatus.OK, response.text
        page: Json = response.json()
        assert list(page) == ["items", "next_cursor"]
        for item in page["items"]:
            check_task(item)
        return page

    def titles(self, **query: object) -> list[str]:
        """Return the titles of all tasks that match, from pages of two."""
        titles: list[str] = []
        cursor: Json = {}
        while True:
            page = self.page(limit=2, **query, **cursor)
            titles += [item["title"] for item in page["items"]]
            if page["next_cursor"] is None:
                return titles
            cursor = {"cursor": page["next_cursor"]}


def check_task(task: Json) -> None:
    """Check the properties of a task, their order and their types."""
    assert list(task) == PROPERTIES
    UUID(task["id"])
    tag = task["etag"]
    assert tag == f'"{UUID(tag.strip(chr(34))).hex}"'
    assert (task["completed_at"] is not None) is task["completed"]
    for name in ("list_id", "parent_id"):
        assert task[name] is None or str(UUID(task[name])) == task[name]
    assert task["priority"] in PRIORITIES
    due = task["due"] or {"date": "2026-11-24", "time": None, "timezone": None}
    assert list(due) == ["date", "time", "timezone"]
    date.fromisoformat(due["date"])
    assert (task["due_at"] is not None) is (None not in due.values())
    assert task["labels"] == sorted(set(task["labels"]))
    assert re.fullmatch("[0-9A-Za-z]{1,64}", task["position"])
    timestamps = [datetime.fromisoformat(task[name]) for name in ("created_at", "updated_at")]
    assert timestamps[0].utcoffset() is not None
    assert timestamps == sorted(timestamps)


def task_in(response: httpx.Response, status: HTTPStatus) -> Json:
    """Check a response and return its task."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"].startswith("application/json")
    task: Json = response.json()
    check_task(task)
    assert response.headers["etag"] == task["etag"]
    if status == HTTPStatus.CREATED:
        assert response.headers["location"].endswith(f"/{task['user_id']}/tasks/{task['id']}")
    return task


def check_problem(response: httpx.Response, *statuses: HTTPStatus) -> None:
    """Check that a response is a problem (RFC 9457) with one of these statuses."""
    assert response.status_code in statuses, response.text
    assert response.headers["content-type"].startswith("application/problem+json")
    problem = response.json()
    assert set(problem) >= PROBLEM_PROPERTIES
    assert problem["status"] == response.status_code


def check_create(tasks: UserTasks) -> None:
    task = task_in(tasks.create({"title": "Buy milk"}), HTTPStatus.CREATED)
    assert task["user_id"] == tasks.user_id
    assert UUID(task["id"]).version == 7
    assert (task["title"], task["description"]) == ("Buy milk", None)
    assert {name: task[name] for name in DEFAULTS} == DEFAULTS
    assert task["created_at"] == task["updated_at"]
    full = {"title": "Töö ✓", "description": "ü" * 16384, "completed": True}
    task = task_in(tasks.create(full), HTTPStatus.CREATED)
    assert {name: task[name] for name in full} == full
    assert task["completed_at"] == task["created_at"]


def check_idempotent_create(tasks: UserTasks) -> None:
    """Concurrent requests with one idempotency key create one task."""
    body = {"title": "Once", "description": None, "completed": True, **ORGANIZED}
    headers = {"Idempotency-Key": uuid4().hex}

    def create(_: int) -> httpx.Response:
        return tasks.create(body, **headers)

    with ThreadPoolExecutor(8) as threads:
        responses = list(threads.map(create, range(8)))
    first = next(task_in(r, HTTPStatus.CREATED) for r in responses if r.is_success)
    for response in responses:
        if response.is_success:
            assert response.json() == first
        else:
            check_problem(response, HTTPStatus.CONFLICT)
    assert task_in(create(0), HTTPStatus.CREATED) == first
    assert task_in(tasks.send("GET", first["id"]), HTTPStatus.OK) == first
    assert len(tasks.page()["items"]) == 1
    check_problem(tasks.create({"title": "Twice"}, **headers), HTTPStatus.UNPROCESSABLE_ENTITY)


def check_get(tasks: UserTasks) -> None:
    task = task_in(tasks.create({"title": "Read me"}), HTTPStatus.CREATED)
    assert task_in(tasks.send("GET", task["id"]), HTTPStatus.OK) == task
    fresh = tasks.send("GET", task["id"], headers={"If-None-Match": task["etag"]})
    assert (fresh.status_code, fresh.content) == (HTTPStatus.NOT_MODIFIED, b"")
    assert fresh.headers["etag"] == task["etag"]
    stale = tasks.send("GET", task["id"], headers={"If-None-Match": f'"{uuid4().hex}"'})
    assert task_in(stale, HTTPStatus.OK) == task
    check_problem(tasks.send("GET", uuid4()), HTTPStatus.NOT_FOUND)
    assert tasks.other_user().send("GET", task["id"]).status_code == HTTPStatus.NOT_FOUND


def check_list(tasks: UserTasks) -> None:
    """Pages are newest first, without gaps or duplicates."""
    assert tasks.page() == {"items": [], "next_cursor": None}
    created = [tasks.create({"title": f"Task {n}"}).json() for n in range(7)]
    listed, sizes, query = [], [], {"limit": 3}
    while True:
        page = tasks.page(**query)
        listed += page["items"]
        sizes.append(len(page["items"]))
        if page["next_cursor"] is None:
            break
        query = {"limit": 3, "cursor": page["next_cursor"]}
    assert sizes == [3, 3, 1]
    assert listed == created[::-1]
    assert tasks.page() == {"items": listed, "next_cursor": None}
    for invalid in ({"limit": 0}, {"limit": 201}, {"limit": "x"}, {"cursor": "x"}):
        check_problem(tasks.send("GET", params=invalid), *INVALID_PARAMETER)


def check_search(tasks: UserTasks) -> None:
    """A match has every word, or a word with that prefix, in its title or description."""
    for title, description in (("Buy Milk", None), ("Buy bread", "and milk"), ("Sleep", "late")):
        tasks.create({"title": title, "description": description})
    assert tasks.titles(q="milk") == ["Buy bread", "Buy Milk"]
    assert tasks.titles(q="BUY mil") == ["Buy bread", "Buy Milk"]
    assert tasks.titles(q="bread milk") == ["Buy bread"]
    assert tasks.titles(q="milk late") == []
    assert tasks.titles(q="'") == []
    assert tasks.other_user().titles(q="milk") == []
    first = tasks.page(q="milk", limit=1)
    rest = tasks.page(q="milk", limit=1, cursor=first["next_cursor"])
    assert [item["title"] for item in rest["items"]] == ["Buy Milk"]
    assert rest["next_cursor"] is None


def check_patch(tasks: UserTasks) -> None:
    """Only the properties in the request change, and the timestamps with them."""
    task = tasks.create({"title": "Patch me", "description": "Now"}).json()
    assert tasks.patch(task, {}) == task
    done = tasks.patch(task, {"completed": True})
    assert (done["title"], done["description"]) == ("Patch me", "Now")
    assert done["completed_at"] == done["updated_at"] > task["updated_at"]
    assert done["etag"] != task["etag"]
    again = tasks.patch(task, {"title": "Patched", "description": None, "completed": True})
    assert (again["title"], again["description"]) == ("Patched", None)
    assert again["completed_at"] == done["completed_at"]
    assert again["updated_at"] > done["updated_at"]
    assert again["created_at"] == task["created_at"]
    opened = tasks.patch(task, {"completed": False})
    assert (opened["completed"], opened["completed_at"]) == (False, None)
    assert task_in(tasks.send("GET", task["id"]), HTTPStatus.OK) == opened
    absent = tasks.send("PATCH", uuid4(), json={"completed": True}, headers=MERGE_PATCH)
    check_problem(absent, HTTPStatus.NOT_FOUND)


def check_put(tasks: UserTasks) -> None:
    """PUT creates a missing task and replaces an existing one."""
    id_ = uuid4()
    body = {"title": "Put", "description": "here", "completed": True}
    new = task_in(tasks.send("PUT", id_, json=body), HTTPStatus.CREATED)
    assert (new["id"], new["completed_at"]) == (str(id_), new["created_at"])
    body = {"title": "Put again", "description": None, "completed": True}
    old = task_in(tasks.send("PUT", id_, json=body), HTTPStatus.OK)
    assert {name: old[name] for name in body} == body
    assert (old["created_at"], old["completed_at"]) == (new["created_at"], new["completed_at"])
    assert old["updated_at"] > new["updated_at"]
    assert old["etag"] != new["etag"]
    opened = task_in(tasks.send("PUT", id_, json=body | {"completed": False}), HTTPStatus.OK)
    assert opened["completed_at"] is None
    check_problem(tasks.send("PUT", id_, json={"title": "x"}), HTTPStatus.UNPROCESSABLE_ENTITY)


def check_organized(tasks: UserTasks) -> None:
    """List, priority, due date and labels are stored, changed and cleared."""
    stored = ORGANIZED | {"labels": ["Shop", "errands", "phone"]}
    task = task_in(tasks.create({"title": "x"} | ORGANIZED), HTTPStatus.CREATED)
    assert {name: task[name] for name in stored} == stored
    assert datetime.fromisoformat(task["due_at"]) == datetime(2026, 11, 24, 16, 30, tzinfo=UTC)
    micros = (datetime.fromisoformat(task["created_at"]) - FIRST_DATETIME) // MICROSECOND
    assert task["position"] == f"{micros:018d}{task['id'][-8:]}"
    assert task_in(tasks.send("GET", task["id"]), HTTPStatus.OK) == task
    due = {"date": "2027-01-31", "time": None, "timezone": "Asia/Calcutta"}
    changed = tasks.patch(task, {"due": due, "priority": "low", "labels": []})
    assert (changed["due"], changed["due_at"]) == (due, None)
    assert (changed["priority"], changed["labels"]) == ("low", [])
    assert changed["list_id"] == task["list_id"]
    body = {"title": "x", "description": None, "completed": False}
    full = task_in(tasks.send("PUT", task["id"], json=body | ORGANIZED), HTTPStatus.OK)
    assert {name: full[name] for name in stored} == stored
    cleared = tasks.patch(task, {"list_id": None, "due": None})
    assert (cleared["list_id"], cleared["due"], cleared["labels"]) == (None, None, stored["labels"])
    empty = task_in(tasks.send("PUT", task["id"], json=body), HTTPStatus.OK)
    assert {name: empty[name] for name in DEFAULTS} == DEFAULTS


def check_sorts(tasks: UserTasks) -> None:
    """Lists by position and by due date, and tasks with labels."""
    list_ = {"list_id": str(list_id(1))}
    bodies: dict[str, Json] = {
        "late": {"due": {"date": "2026-11-24", "time": None, "timezone": None}, "labels": ["a"]},
        "done": {"completed": True, "labels": ["b", "a"], **list_},
        "never": {"labels": ["ab"], **list_},
        "early": {"due": {"date": "2026-11-24", "time": "08:00", "timezone": None}, **list_},
        "last": {"due": {"date": "2026-11-25", "time": None, "timezone": None}, **list_},
    }
    for title, body in bodies.items():
        tasks.create({"title": title, **body})
    by_position = {"sort": "position", "order": "asc"}
    assert tasks.titles(**list_, **by_position) == ["done", "never", "early", "last"]
    assert tasks.titles(**list_, completed="false", **by_position) == ["never", "early", "last"]
    assert tasks.titles(sort="position", **list_, completed="false")[0] == "last"
    by_due = tasks.titles(sort="due", order="asc")
    assert by_due[:3] == ["early", "late", "last"]
    assert sorted(by_due[3:]) == ["done", "never"]
    assert tasks.titles(sort="due")[2:] == ["last", "late", "early"]
    assert tasks.titles(labels="a") == ["done", "late"]
    assert tasks.titles(labels="a,b") == ["done"]
    assert tasks.other_user().titles(labels="a") == []


def check_subtasks(tasks: UserTasks) -> None:
    """A subtask has one parent and no list, and is deleted with it."""
    parent, other = (tasks.create({"title": title}).json()["id"] for title in ("parent", "other"))
    subtask = task_in(tasks.create({"title": "x", "parent_id": parent}), HTTPStatus.CREATED)
    assert subtask["parent_id"] == parent
    assert tasks.patch(subtask, {"parent_id": other})["parent_id"] == other
    for body in (
        {"parent_id": subtask["id"]},
        {"parent_id": str(uuid4())},
        {"parent_id": parent, "list_id": str(list_id(0))},
        {"list_id": str(uuid4())},
        {"due": {"date": "2026-11-24", "time": None, "timezone": "Europe/Nowhere"}},
    ):
        check_problem(tasks.create({"title": "x"} | body), HTTPStatus.CONFLICT)
    assert tasks.send("DELETE", other).status_code == HTTPStatus.NO_CONTENT
    check_problem(tasks.send("GET", subtask["id"]), HTTPStatus.NOT_FOUND)
    assert tasks.titles() == ["parent"]


def check_delete(tasks: UserTasks) -> None:
    task = tasks.create({"title": "Delete me"}).json()
    deleted = tasks.send("DELETE", task["id"])
    assert (deleted.status_code, deleted.content) == (HTTPStatus.NO_CONTENT, b"")
    for method in ("DELETE", "GET"):
        check_problem(tasks.send(method, task["id"]), HTTPStatus.NOT_FOUND)


def check_invalid_requests(tasks: UserTasks) -> None:
    """An invalid request is a problem, and changes nothing."""
    bodies: list[Any] = [
        {},
        [],
        {"title": ""},
        {"title": "x" * 501},
        {"title": 1},
        {"title": "x", "completed": "perhaps"},
        {"title": "x", "description": "x" * 16385},
        {"title": "x", "colour": "red"},
        {"title": "x", "priority": "highest"},
        {"title": "x", "labels": ["a", "a"]},
        {"title": "x", "labels": ["a,b"]},
        {"title": "x", "due": {"date": "2026-11-24"}},
        {"title": "x", "due": {"date": "2026-02-30", "time": None, "timezone": None}},
        {"title": "x", "due": {"date": "2026-11-24", "time": "24:00", "timezone": None}},
        {"title": "x", "list_id": "inbox"},
    ]
    for body in bodies:
        check_problem(tasks.send("POST", json=body), HTTPStatus.UNPROCESSABLE_ENTITY)
    task = tasks.create({"title": "One"}).json()
    for change in ({"title": None}, {"completed": None}, {"colour": "red"}, {"labels": None}):
        response = tasks.send("PATCH", task["id"], json=change, headers=MERGE_PATCH)
        check_problem(response, HTTPStatus.UNPROCESSABLE_ENTITY)
    json = {"Content-Type": "application/json"}
    for text in ("{", '{"title": "x"'):
        check_problem(tasks.send("POST", content=text, headers=json), HTTPStatus.BAD_REQUEST)
    check_problem(tasks.send("GET", "no-uuid"), *INVALID_PARAMETER)
    check_problem(tasks.client.get("/api/v1/users/-alice/tasks"), *INVALID_PARAMETER)
    check_problem(tasks.client.get(f"/api/v1/users/{'x' * 129}/tasks"), *INVALID_PARAMETER)
    check_problem(tasks.client.get("/api/v1/nothing"), HTTPStatus.NOT_FOUND)
    assert tasks.page()["items"] == [task]


CHECKS: tuple[Callable[[UserTasks], None], ...] = (
    check_create,
    check_idempotent_create,
    check_get,
    check_list,
    check_search,
    check_patch,
    check_put,
    check_organized,
    check_sorts,
    check_subtasks,
    check_delete,
    check_invalid_requests,
)


def check(url: str, database_url: str) -> None:
    """Run all checks. Raises AssertionError for an unexpected response."""
    with httpx.Client(base_url=url) as client:
        for check_operation in CHECKS:
            check_operation(UserTasks(client, database_url))
