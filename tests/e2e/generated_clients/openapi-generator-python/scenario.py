"""The scenario with openapi-generator's Python client: urllib3, pydantic models."""

import json
import os
from collections.abc import Callable
from datetime import datetime
from typing import assert_type
from uuid import UUID

from tasks_api import ApiClient, ApiException, Configuration
from tasks_api.api.tasks_api import TasksApi
from tasks_api.models.problem import Problem
from tasks_api.models.sort_order import SortOrder
from tasks_api.models.task_create import TaskCreate
from tasks_api.models.task_patch import TaskPatch
from tasks_api.models.task_sort import TaskSort

USER = os.environ["TASKS_USER"]
ABSENT = UUID("00000000-0000-4000-8000-000000000000")
api = TasksApi(ApiClient(Configuration(host=os.environ["TASKS_URL"])))


def step(name: str, **seen: object) -> None:
    print(json.dumps({"step": name, **seen}))


def problem_of(call: Callable[[], object]) -> Problem:
    try:
        response = call()
    except ApiException as error:
        if not isinstance(error.data, Problem):
            raise
        return error.data
    raise AssertionError(response)


created = api.create_task_with_http_info(
    USER, TaskCreate(title="Buy milk", description="Two litres")
)
task = created.data
assert_type(task.id, UUID)
assert_type(task.description, str | None)
assert_type(task.completed, bool)
assert_type(task.completed_at, datetime | None)
assert_type(task.created_at, datetime)
assert_type(task.etag, str)
assert_type(TaskPatch().description, str | None)
step(
    "create",
    status=created.status_code,
    title=task.title,
    description=task.description,
    completed=task.completed,
    completed_at=task.completed_at,
)

read = api.get_task_with_http_info(USER, task.id)
step("read", status=read.status_code, title=read.data.title, same=read.data.etag == task.etag)

for title in ("Task 2", "Task 3", "Task 4", "Task 5"):
    api.create_task(USER, TaskCreate(title=title))
titles: list[str] = []
pages = 0
cursor: str | None = None
while pages == 0 or cursor is not None:
    page = api.list_tasks(
        USER, limit=2, sort=TaskSort.CREATED_AT, order=SortOrder.ASC, cursor=cursor
    )
    titles += [each.title for each in page.items]
    cursor = page.next_cursor
    pages += 1
step("list", pages=pages, titles=titles)

updated = api.update_task_with_http_info(USER, task.id, TaskPatch(description="Three litres"))
after = updated.data
step("set", status=updated.status_code, title=after.title, description=after.description)
updated = api.update_task_with_http_info(USER, task.id, TaskPatch(completed=True))
after = updated.data
step(
    "leave",
    status=updated.status_code,
    description=after.description,
    completed=after.completed,
    dated=isinstance(after.completed_at, datetime),
)
updated = api.update_task_with_http_info(USER, task.id, TaskPatch(description=None))
after = updated.data
step(
    "clear",
    status=updated.status_code,
    title=after.title,
    description=after.description,
    completed=after.completed,
)

problem = problem_of(
    lambda: api.update_task(USER, task.id, TaskPatch(title="Too late"), if_match=task.etag)
)
assert_type(problem.status, int)
step("conflict", status=problem.status, type=problem.type, errors=len(problem.errors))

# The models reject an empty title, so this request bypasses their validation.
empty = TaskCreate.model_construct(title="")
problem = problem_of(lambda: api.create_task(USER, empty))
assert_type(problem.errors[0].pointer, str | None)
step("fault", status=problem.status, type=problem.type, pointer=problem.errors[0].pointer)

problem = problem_of(lambda: api.get_task(USER, ABSENT))
step("missing", status=problem.status, type=problem.type)

deleted = api.delete_task_with_http_info(USER, task.id, if_match=after.etag)
step("delete", status=deleted.status_code)
