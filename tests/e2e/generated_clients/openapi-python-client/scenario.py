"""The scenario with openapi-python-client: a function for each operation, attrs classes."""

import json
import os
from datetime import datetime
from typing import assert_type
from uuid import UUID

from tasks_api_client import Client
from tasks_api_client.api.tasks import (
    create_task,
    delete_task,
    get_task,
    list_tasks,
    replace_task,
    update_task,
)
from tasks_api_client.models import Problem, Task, TaskCreate, TaskPage, TaskPatch
from tasks_api_client.types import UNSET, Unset

USER = os.environ["TASKS_USER"]
ABSENT = UUID("00000000-0000-4000-8000-000000000000")
client = Client(base_url=os.environ["TASKS_URL"])


def step(name: str, **seen: object) -> None:
    print(json.dumps({"step": name, **seen}))


def task_of(parsed: Task | Problem | None) -> Task:
    assert isinstance(parsed, Task), parsed
    return parsed


def problem_of(parsed: object) -> Problem:
    assert isinstance(parsed, Problem), parsed
    return parsed


assert replace_task  # the generator omits operations with an unsupported parameter

created = create_task.sync_detailed(
    USER, client=client, body=TaskCreate(title="Buy milk", description="Two litres")
)
task = task_of(created.parsed)
assert_type(task.id, UUID)
assert_type(task.description, str | None)
assert_type(task.completed, bool)
assert_type(task.completed_at, datetime | None)
assert_type(task.created_at, datetime)
assert_type(task.etag, str)
assert_type(TaskPatch().title, str | Unset)
assert_type(TaskPatch().description, str | None | Unset)
step(
    "create",
    status=created.status_code,
    title=task.title,
    description=task.description,
    completed=task.completed,
    completed_at=task.completed_at,
)

response = get_task.sync_detailed(USER, task.id, client=client)
assert isinstance(response.parsed, Task)
step(
    "read",
    status=response.status_code,
    title=response.parsed.title,
    same=response.parsed.etag == task.etag,
)

for title in ("Task 2", "Task 3", "Task 4", "Task 5"):
    create_task.sync(USER, client=client, body=TaskCreate(title=title))
titles: list[str] = []
pages = 0
cursor: str | Unset | None = UNSET
while cursor is not None:
    page = list_tasks.sync(
        USER, client=client, limit=2, sort="created_at", order="asc", cursor=cursor
    )
    assert isinstance(page, TaskPage), page
    titles += [each.title for each in page.items]
    cursor = page.next_cursor
    pages += 1
step("list", pages=pages, titles=titles)

updated = update_task.sync_detailed(
    USER, task.id, client=client, body=TaskPatch(description="Three litres")
)
after = task_of(updated.parsed)
step("set", status=updated.status_code, title=after.title, description=after.description)
updated = update_task.sync_detailed(USER, task.id, client=client, body=TaskPatch(completed=True))
after = task_of(updated.parsed)
step(
    "leave",
    status=updated.status_code,
    description=after.description,
    completed=after.completed,
    dated=isinstance(after.completed_at, datetime),
)
updated = update_task.sync_detailed(USER, task.id, client=client, body=TaskPatch(description=None))
after = task_of(updated.parsed)
step(
    "clear",
    status=updated.status_code,
    title=after.title,
    description=after.description,
    completed=after.completed,
)

conflict = update_task.sync(
    USER, task.id, client=client, body=TaskPatch(title="Too late"), if_match=task.etag
)
problem = problem_of(conflict)
assert_type(problem.status, int)
step("conflict", status=problem.status, type=problem.type_, errors=len(problem.errors))

problem = problem_of(create_task.sync(USER, client=client, body=TaskCreate(title="")))
assert_type(problem.errors[0].pointer, str | None)
step("fault", status=problem.status, type=problem.type_, pointer=problem.errors[0].pointer)

problem = problem_of(get_task.sync(USER, ABSENT, client=client))
step("missing", status=problem.status, type=problem.type_)

deleted = delete_task.sync_detailed(USER, task.id, client=client, if_match=after.etag)
step("delete", status=deleted.status_code)
