"""Runs every operation that the services of the benchmark share, against one that is running.

The service itself answers 400 where a parameter is wrong, as its contract says; its peers answer
422, as their frameworks do. All else is the same of all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from http import HTTPStatus
from typing import Any
from uuid import UUID, uuid4

import httpx

MEMBERS = [
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
PROBLEM = {"type", "title", "status", "detail", "errors"}
PARAMETER = (HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY)
MERGE_PATCH = {"Content-Type": "application/merge-patch+json"}
Json = dict[str, Any]


class Tasks:
    """The tasks of a user who has none yet."""

    def __init__(self, client: httpx.Client) -> None:
        self.client = client
        self.user_id = f"smoke-{uuid4().hex}"
        self.path = f"/api/v1/users/{self.user_id}/tasks"

    def send(self, method: str, path: object = "", **options: Any) -> httpx.Response:
        """Send a request; `path` is that of a task, below those of the user."""
        target = f"{self.path}/{path}" if path else self.path
        return self.client.request(method, target, **options)

    def create(self, body: Json, **headers: str) -> httpx.Response:
        """Send a new task."""
        return self.send("POST", json=body, headers=headers)

    def patch(self, task: Json, change: Json) -> Json:
        """Change a task, which must be there."""
        changed = self.send("PATCH", task["id"], json=change, headers=MERGE_PATCH)
        return task_in(changed, HTTPStatus.OK)

    def page(self, **query: object) -> Json:
        """A page of the tasks."""
        response = self.send("GET", params=query)
        assert response.status_code == HTTPStatus.OK, response.text
        page: Json = response.json()
        assert list(page) == ["items", "next_cursor"]
        for item in page["items"]:
            check_task(item)
        return page

    def found(self, q: str) -> list[str]:
        """The titles of the tasks that a search finds."""
        return [item["title"] for item in self.page(q=q)["items"]]


def check_task(task: Json) -> None:
    """See that a task has its members, in their order and of their types."""
    assert list(task) == MEMBERS
    UUID(task["id"])
    tag = task["etag"]
    assert tag == f'"{UUID(tag.strip(chr(34))).hex}"'
    assert (task["completed_at"] is not None) is task["completed"]
    instants = [datetime.fromisoformat(task[name]) for name in ("created_at", "updated_at")]
    assert instants[0].utcoffset() is not None
    assert instants == sorted(instants)


def task_in(response: httpx.Response, status: HTTPStatus) -> Json:
    """The task in a response."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"].startswith("application/json")
    task: Json = response.json()
    check_task(task)
    assert response.headers["etag"] == task["etag"]
    if status == HTTPStatus.CREATED:
        assert response.headers["location"].endswith(f"/{task['user_id']}/tasks/{task['id']}")
    return task


def check_problem(response: httpx.Response, *statuses: HTTPStatus) -> None:
    """See that a response is a problem with one of these statuses."""
    assert response.status_code in statuses, response.text
    assert response.headers["content-type"].startswith("application/problem+json")
    problem = response.json()
    assert set(problem) >= PROBLEM
    assert problem["status"] == response.status_code


def creating(tasks: Tasks) -> None:
    """A new task, open or completed."""
    task = task_in(tasks.create({"title": "Buy milk"}), HTTPStatus.CREATED)
    assert task["user_id"] == tasks.user_id
    assert UUID(task["id"]).version == 7
    assert (task["title"], task["description"]) == ("Buy milk", None)
    assert task["created_at"] == task["updated_at"]
    full = {"title": "Töö ✓", "description": "ü" * 16384, "completed": True}
    task = task_in(tasks.create(full), HTTPStatus.CREATED)
    assert {name: task[name] for name in full} == full
    assert task["completed_at"] == task["created_at"]


def creating_once(tasks: Tasks) -> None:
    """With an idempotency key there is one task, however often and at once it is sent."""
    body = {"title": "Once", "description": None, "completed": True}
    sent = {"Idempotency-Key": uuid4().hex}

    def create(_: int) -> httpx.Response:
        return tasks.create(body, **sent)

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(create, range(8)))
    first = next(task_in(a, HTTPStatus.CREATED) for a in answers if a.is_success)
    for answer in answers:
        if answer.is_success:
            assert answer.json() == first
        else:
            check_problem(answer, HTTPStatus.CONFLICT)
    assert task_in(create(0), HTTPStatus.CREATED) == first
    assert task_in(tasks.send("GET", first["id"]), HTTPStatus.OK) == first
    assert len(tasks.page()["items"]) == 1
    check_problem(tasks.create({"title": "Twice"}, **sent), HTTPStatus.UNPROCESSABLE_ENTITY)


def reading(tasks: Tasks) -> None:
    """A task as it was created, or 304."""
    task = task_in(tasks.create({"title": "Read me"}), HTTPStatus.CREATED)
    assert task_in(tasks.send("GET", task["id"]), HTTPStatus.OK) == task
    fresh = tasks.send("GET", task["id"], headers={"If-None-Match": task["etag"]})
    assert (fresh.status_code, fresh.content) == (HTTPStatus.NOT_MODIFIED, b"")
    assert fresh.headers["etag"] == task["etag"]
    stale = tasks.send("GET", task["id"], headers={"If-None-Match": f'"{uuid4().hex}"'})
    assert task_in(stale, HTTPStatus.OK) == task
    check_problem(tasks.send("GET", uuid4()), HTTPStatus.NOT_FOUND)
    assert Tasks(tasks.client).send("GET", task["id"]).status_code == HTTPStatus.NOT_FOUND


def listing(tasks: Tasks) -> None:
    """Three pages, newest first, without a gap or a double."""
    assert tasks.page() == {"items": [], "next_cursor": None}
    made = [tasks.create({"title": f"Task {n}"}).json() for n in range(7)]
    walked, sizes, query = [], [], {"limit": 3}
    while True:
        page = tasks.page(**query)
        walked += page["items"]
        sizes.append(len(page["items"]))
        if page["next_cursor"] is None:
            break
        query = {"limit": 3, "cursor": page["next_cursor"]}
    assert sizes == [3, 3, 1]
    assert walked == made[::-1]
    assert tasks.page() == {"items": walked, "next_cursor": None}
    for wrong in ({"limit": 0}, {"limit": 201}, {"limit": "x"}, {"cursor": "x"}):
        check_problem(tasks.send("GET", params=wrong), *PARAMETER)


def searching(tasks: Tasks) -> None:
    """Tasks that have every word, or one that begins so, in title or description."""
    for title, description in (("Buy Milk", None), ("Buy bread", "and milk"), ("Sleep", "late")):
        tasks.create({"title": title, "description": description})
    assert tasks.found("milk") == ["Buy bread", "Buy Milk"]
    assert tasks.found("BUY mil") == ["Buy bread", "Buy Milk"]
    assert tasks.found("bread milk") == ["Buy bread"]
    assert tasks.found("milk late") == []
    assert tasks.found("'") == []
    assert Tasks(tasks.client).found("milk") == []
    first = tasks.page(q="milk", limit=1)
    rest = tasks.page(q="milk", limit=1, cursor=first["next_cursor"])
    assert [item["title"] for item in rest["items"]] == ["Buy Milk"]
    assert rest["next_cursor"] is None


def patching(tasks: Tasks) -> None:
    """The members that are sent change, and the instants move with them."""
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


def replacing(tasks: Tasks) -> None:
    """A whole task is created where there was none, else replaced."""
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


def deleting(tasks: Tasks) -> None:
    """A task is there, and then it is not."""
    task = tasks.create({"title": "Delete me"}).json()
    gone = tasks.send("DELETE", task["id"])
    assert (gone.status_code, gone.content) == (HTTPStatus.NO_CONTENT, b"")
    for method in ("DELETE", "GET"):
        check_problem(tasks.send(method, task["id"]), HTTPStatus.NOT_FOUND)


def refusing(tasks: Tasks) -> None:
    """What is wrong is a problem, and nothing is written."""
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
        refused = tasks.send("PATCH", task["id"], json=change, headers=MERGE_PATCH)
        check_problem(refused, HTTPStatus.UNPROCESSABLE_ENTITY)
    json = {"Content-Type": "application/json"}
    for text in ("{", '{"title": "x"'):
        check_problem(tasks.send("POST", content=text, headers=json), HTTPStatus.BAD_REQUEST)
    check_problem(tasks.send("GET", "no-uuid"), *PARAMETER)
    check_problem(tasks.client.get("/api/v1/users/-alice/tasks"), *PARAMETER)
    check_problem(tasks.client.get(f"/api/v1/users/{'x' * 129}/tasks"), *PARAMETER)
    check_problem(tasks.client.get("/api/v1/nothing"), HTTPStatus.NOT_FOUND)
    assert tasks.page()["items"] == [task]


OPERATIONS: tuple[Callable[[Tasks], None], ...] = (
    creating,
    creating_once,
    reading,
    listing,
    searching,
    patching,
    replacing,
    deleting,
    refusing,
)


def check(url: str) -> None:
    """Run all of it. Raises AssertionError where an answer is another one."""
    with httpx.Client(base_url=url) as client:
        for operation in OPERATIONS:
            operation(Tasks(client))
