"""The operations of contract 1.1.0 with openapi-python-client."""

# ruff: noqa: INP001, T201 - a script that prints its results

import json
import os
from datetime import date, datetime
from typing import assert_type
from uuid import UUID

from tasks_api_client import Client
from tasks_api_client.api.lists import create_list, delete_list
from tasks_api_client.api.tasks import (
    count_tasks,
    create_task,
    list_labels,
    list_tasks,
    move_task,
    update_task,
)
from tasks_api_client.models import (
    Due,
    DueInput,
    LabelList,
    Problem,
    Task,
    TaskCount,
    TaskCreate,
    TaskList,
    TaskListCreate,
    TaskMove,
    TaskPage,
    TaskPatch,
)
from tasks_api_client.types import Response

USER = os.environ["TASKS_USER"]
ABSENT = UUID("00000000-0000-4000-8000-000000000000")
client = Client(base_url=os.environ["TASKS_URL"])


def step(name: str, /, **seen: object) -> None:
    print(json.dumps({"step": name, **seen}))


def create(body: TaskCreate) -> tuple[int, Task]:
    response = create_task.sync_detailed(USER, client=client, body=body)
    return response.status_code, task_of(response)


def task_of(response: Response[Problem | Task]) -> Task:
    assert isinstance(response.parsed, Task), response
    return response.parsed


def titles_of(page: TaskPage | Problem | None) -> list[str]:
    assert isinstance(page, TaskPage), page
    return [task.title for task in page.items]


created = create_list.sync_detailed(USER, client=client, body=TaskListCreate(name="Groceries"))
groceries = created.parsed
assert isinstance(groceries, TaskList)
step("list", status=created.status_code, name=groceries.name)

due = DueInput(date=date(2026, 11, 24), time="17:30", timezone="Europe/Berlin")
status, milk = create(
    TaskCreate("Milk", list_id=groceries.id, priority="high", due=due, labels=["shop", "errands"])
)
assert_type(milk.list_id, UUID | None)
assert_type(milk.due, Due | None)
assert_type(milk.due_at, datetime | None)
assert_type(milk.labels, list[str])
assert milk.due is not None
assert milk.due_at is not None
step(
    "create",
    status=status,
    listed=milk.list_id == groceries.id,
    priority=milk.priority,
    due=[milk.due.date.isoformat(), milk.due.time, milk.due.timezone],
    due_at=milk.due_at.timestamp(),
    labels=milk.labels,
)

_, eggs = create(TaskCreate("Eggs", list_id=groceries.id))
status, oat = create(TaskCreate("Oat milk", parent_id=milk.id))
step(
    "subtask",
    status=status,
    parent=oat.parent_id == milk.id,
    listed=oat.list_id is not None,
    due=oat.due,
)

moved = move_task.sync_detailed(
    USER, eggs.id, client=client, body=TaskMove(after_id=None), if_match=eggs.etag
)
in_list = str(groceries.id)
page = list_tasks.sync(USER, client=client, list_id=in_list, sort="position", order="asc")
step("move", status=moved.status_code, titles=titles_of(page))
page = list_tasks.sync(
    USER,
    client=client,
    list_id=in_list,
    labels="errands",
    priority="high,urgent",
    due_before=date(2026, 11, 25),
)
step("filter", titles=titles_of(page))

count = count_tasks.sync(USER, client=client, list_id=in_list)
assert isinstance(count, TaskCount)
step("count", count=count.count, capped=count.is_capped)

labels = list_labels.sync(USER, client=client)
assert isinstance(labels, LabelList)
step(
    "labels",
    labels=[[each.label, each.open_tasks] for each in labels.items],
    capped=labels.is_capped,
)

problem = create_task.sync(USER, client=client, body=TaskCreate("Lost", list_id=ABSENT))
assert isinstance(problem, Problem)
step("reference", status=problem.status, type=problem.type_, pointer=problem.errors[0].pointer)

problem = delete_list.sync(USER, groceries.id, client=client)
assert isinstance(problem, Problem)
step("not empty", status=problem.status, type=problem.type_)

updated = update_task.sync_detailed(
    USER, milk.id, client=client, body=TaskPatch(due=None, labels=[])
)
after = task_of(updated)
step(
    "clear",
    status=updated.status_code,
    priority=after.priority,
    due=after.due,
    labels=after.labels,
)
