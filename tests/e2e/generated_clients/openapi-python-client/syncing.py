"""The operations of contract 1.2.0 with openapi-python-client."""

# ruff: noqa: INP001, T201 - a script that prints its results

import json
import os
from datetime import UTC, datetime
from typing import assert_type
from uuid import UUID

from tasks_api_client import Client
from tasks_api_client.api.changes import list_changes
from tasks_api_client.api.lists import create_list
from tasks_api_client.api.tasks import change_tasks, create_task
from tasks_api_client.api.users import delete_user, export_user
from tasks_api_client.models import (
    Change,
    ChangePage,
    Problem,
    Task,
    TaskBatch,
    TaskBatchCreate,
    TaskBatchDelete,
    TaskBatchResult,
    TaskBatchUpdate,
    TaskCreate,
    TaskList,
    TaskListCreate,
)
from tasks_api_client.types import UNSET

USER = os.environ["TASKS_USER"]
EGGS = UUID("0198c5a2-0000-7000-8000-000000000001")
client = Client(base_url=os.environ["TASKS_URL"])


def step(name: str, /, **seen: object) -> None:
    print(json.dumps({"step": name, **seen}))


def create(title: str) -> Task:
    task = create_task.sync(USER, client=client, body=TaskCreate(title))
    assert isinstance(task, Task), task
    return task


def name_of(change: Change) -> str | None:
    assert_type(change.task, Task | None)
    assert_type(change.list_, TaskList | None)
    if change.task is not None:
        return change.task.title
    return None if change.list_ is None else change.list_.name


def walk(name: str, since: str | None = None) -> str:
    """Print the changes since a token, or all of them, and return the next token."""
    items: list[object] = []
    pages = 0
    more = True
    while more:
        page = list_changes.sync(USER, client=client, since=since or UNSET, limit=2)
        assert isinstance(page, ChangePage), page
        items += [[each.kind, each.deleted, name_of(each)] for each in page.items]
        since, more, pages = page.next_since, page.has_more, pages + 1
    step(name, pages=pages, items=items)
    assert since is not None
    return since


def change(body: TaskBatch) -> tuple[int, TaskBatchResult]:
    response = change_tasks.sync_detailed(USER, client=client, body=body)
    assert isinstance(response.parsed, TaskBatchResult), response
    return response.status_code, response.parsed


create_list.sync(USER, client=client, body=TaskListCreate("Groceries"))
milk = create("Milk")
tea = create("Tea")
token = walk("first walk")

status, result = change(
    TaskBatch(
        create=[TaskBatchCreate("Eggs", id=EGGS)],
        update=[TaskBatchUpdate(milk.id, if_match=milk.etag, completed=True)],
        delete=[TaskBatchDelete(tea.id)],
    )
)
step(
    "batch",
    status=status,
    created=[task.title for task in result.created],
    updated=[[task.title, task.completed] for task in result.updated],
    deleted=[id_ == tea.id for id_ in result.deleted],
)
token = walk("later walk", token)

stale = TaskBatch(update=[TaskBatchUpdate(milk.id, if_match=milk.etag, title="Too late")])
problem = change_tasks.sync(USER, client=client, body=stale)
assert isinstance(problem, Problem)
step("conflict", status=problem.status, type=problem.type_, pointer=problem.errors[0].pointer)

exported = export_user.sync(USER, client=client)
assert isinstance(exported, str)
lines = [json.loads(line) for line in exported.splitlines()]
step("export", kinds=[line["kind"] for line in lines], lines=lines[-1]["lines"])

erased = delete_user.sync_detailed(USER, client=client)
step("erase", status=erased.status_code)

expired = list_changes.sync(USER, client=client, since=token)
assert isinstance(expired, Problem)
step("expired", status=expired.status, type=expired.type_)

eggs = TaskBatchCreate(
    "Eggs",
    id=EGGS,
    created_at=datetime(2026, 11, 23, 8, tzinfo=UTC),
    completed=True,
    completed_at=datetime(2026, 11, 23, 8, 30, tzinfo=UTC),
)
status, result = change(TaskBatch(create=[eggs, TaskBatchCreate("Milk")]))
task = result.created[0]
assert task.completed_at is not None
step(
    "restore",
    status=status,
    created_at=task.created_at.timestamp(),
    completed_at=task.completed_at.timestamp(),
)
