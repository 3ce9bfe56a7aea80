"""Tests every operation of the benchmark against a running service.

For an invalid parameter, Tasks API responds 400 as its contract says. The baselines respond 422,
as their frameworks do. All other responses are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from http import HTTPStatus
from typing import Any
from uuid import UUID, uuid4

import httpx

PROPERTIES = [
    "id",
    "user_id",
    "title",
    "description",
    "completed",
    "completed_at",
    "created_at",
    "updated_at",
    "etag",
]
PROBLEM_PROPERTIES = {"type", "title", "status", "detail", "errors"}
INVALID_PARAMETER = (HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY)
MERGE_PATCH = {"Content-Type": "application/merge-patch+json"}
Json = dict[str, Any]


class UserTasks:
    """The tasks of a new user."""

    def __init__(self, client: httpx.Client) -> None:
        self.client = client
        self.user_id = f"smoke-{uuid4().hex}"
        self.path = f"/api/v1/users/{self.user_id}/tasks"

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

    def search(self, q: str) -> list[str]:
        """Return the titles of the tasks that match."""
        return [item["title"] for item in self.page(q=q)["items"]]


def check_task(task: Json) -> None:
    """Check the properties of a task, their order and their types."""
    assert list(task) == PROPERTIES
    UUID(task["id"])
    tag = task["etag"]
    assert tag == f'"{UUID(tag.strip(chr(34))).hex}"'
    assert (task["completed_at"] is not None) is task["completed"]
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
    assert task["created_at"] == task["updated_at"]
    full = {"title": "Töö ✓", "description": "ü" * 16384, "completed": True}
    task = task_in(tasks.create(full), HTTPStatus.CREATED)
    assert {name: task[name] for name in full} == full
    assert task["completed_at"] == task["created_at"]


def check_idempotent_create(tasks: UserTasks) -> None:
    """Concurrent requests with one idempotency key create one task."""
    body = {"title": "Once", "description": None, "completed": True}
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
    assert UserTasks(tasks.client).send("GET", task["id"]).status_code == HTTPStatus.NOT_FOUND


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
    assert tasks.search("milk") == ["Buy bread", "Buy Milk"]
    assert tasks.search("BUY mil") == ["Buy bread", "Buy Milk"]
    assert tasks.search("bread milk") == ["Buy bread"]
    assert tasks.search("milk late") == []
    assert tasks.search("'") == []
    assert UserTasks(tasks.client).search("milk") == []
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
    ]
    for body in bodies:
        check_problem(tasks.send("POST", json=body), HTTPStatus.UNPROCESSABLE_ENTITY)
    task = tasks.create({"title": "One"}).json()
    for change in ({"title": None}, {"completed": None}, {"colour": "red"}):
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
    check_delete,
    check_invalid_requests,
)


def check(url: str) -> None:
    """Run all checks. Raises AssertionError for an unexpected response."""
    with httpx.Client(base_url=url) as client:
        for check_operation in CHECKS:
            check_operation(UserTasks(client))
