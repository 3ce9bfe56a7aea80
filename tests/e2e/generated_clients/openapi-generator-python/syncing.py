"""The operations of contract 1.2.0 with openapi-generator's Python client."""

# ruff: noqa: INP001, T201 - a script that prints its results

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from typing import assert_type
from uuid import UUID

from tasks_api import ApiClient, ApiException, Configuration
from tasks_api.api.changes_api import ChangesApi
from tasks_api.api.lists_api import ListsApi
from tasks_api.api.tasks_api import TasksApi
from tasks_api.api.users_api import UsersApi
from tasks_api.models.change import Change
from tasks_api.models.problem import Problem
from tasks_api.models.task import Task
from tasks_api.models.task_batch import TaskBatch
from tasks_api.models.task_batch_create import TaskBatchCreate
from tasks_api.models.task_batch_delete import TaskBatchDelete
from tasks_api.models.task_batch_update import TaskBatchUpdate
from tasks_api.models.task_create import TaskCreate
from tasks_api.models.task_list import TaskList
from tasks_api.models.task_list_create import TaskListCreate

USER = os.environ["TASKS_USER"]
EGGS = UUID("0198c5a2-0000-7000-8000-000000000001")
client = ApiClient(Configuration(host=os.environ["TASKS_URL"]))
api = TasksApi(client)
changes = ChangesApi(client)
users = UsersApi(client)


def step(name: str, /, **seen: object) -> None:
    print(json.dumps({"step": name, **seen}))


def problem_of(call: Callable[[], object]) -> Problem:
    try:
        response = call()
    except ApiException as error:
        if not isinstance(error.data, Problem):
            raise
        return error.data
    raise AssertionError(response)


def name_of(change: Change) -> str | None:
    assert_type(change.task, Task | None)
    assert_type(change.list, TaskList | None)
    if change.task is not None:
        return change.task.title
    return None if change.list is None else change.list.name


def walk(name: str, since: str | None = None) -> str:
    """Print the changes since a token, or all of them, and return the next token."""
    items: list[object] = []
    pages = 0
    more = True
    while more:
        page = changes.list_changes(USER, since=since, limit=2)
        items += [[each.kind.value, each.deleted, name_of(each)] for each in page.items]
        since, more, pages = page.next_since, page.has_more, pages + 1
    step(name, pages=pages, items=items)
    assert since is not None
    return since


ListsApi(client).create_list(USER, TaskListCreate(name="Groceries"))
milk = api.create_task(USER, TaskCreate(title="Milk"))
tea = api.create_task(USER, TaskCreate(title="Tea"))
token = walk("first walk")

batch = TaskBatch(
    create=[TaskBatchCreate(title="Eggs", id=EGGS)],
    update=[TaskBatchUpdate(id=milk.id, if_match=milk.etag, completed=True)],
    delete=[TaskBatchDelete(id=tea.id)],
)
changed = api.change_tasks_with_http_info(USER, batch)
step(
    "batch",
    status=changed.status_code,
    created=[task.title for task in changed.data.created],
    updated=[[task.title, task.completed] for task in changed.data.updated],
    deleted=[id_ == tea.id for id_ in changed.data.deleted],
)
token = walk("later walk", token)

stale = TaskBatch(update=[TaskBatchUpdate(id=milk.id, if_match=milk.etag, title="Too late")])
problem = problem_of(lambda: api.change_tasks(USER, stale))
step("conflict", status=problem.status, type=problem.type, pointer=problem.errors[0].pointer)

# The client deserializes no lines of JSON.
exported = users.export_user_without_preload_content(USER)
lines = [json.loads(line) for line in exported.data.splitlines()]
step("export", kinds=[line["kind"] for line in lines], lines=lines[-1]["lines"])

erased = users.delete_user_with_http_info(USER)
step("erase", status=erased.status_code)

problem = problem_of(lambda: changes.list_changes(USER, since=token))
step("expired", status=problem.status, type=problem.type)

eggs = TaskBatchCreate(
    title="Eggs",
    id=EGGS,
    created_at=datetime(2026, 11, 23, 8, tzinfo=UTC),
    completed=True,
    completed_at=datetime(2026, 11, 23, 8, 30, tzinfo=UTC),
)
restored = api.change_tasks_with_http_info(
    USER, TaskBatch(create=[eggs, TaskBatchCreate(title="Milk")])
)
task = restored.data.created[0]
assert task.completed_at is not None
step(
    "restore",
    status=restored.status_code,
    created_at=task.created_at.timestamp(),
    completed_at=task.completed_at.timestamp(),
)
