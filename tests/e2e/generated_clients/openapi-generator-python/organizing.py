"""The operations of contract 1.1.0 with openapi-generator's Python client."""

# ruff: noqa: INP001, T201 - a script that prints its results

import json
import os
from collections.abc import Callable
from datetime import date, datetime
from typing import assert_type
from uuid import UUID

from tasks_api import ApiClient, ApiException, Configuration
from tasks_api.api.lists_api import ListsApi
from tasks_api.api.tasks_api import TasksApi
from tasks_api.models.due import Due
from tasks_api.models.due_input import DueInput
from tasks_api.models.priority import Priority
from tasks_api.models.problem import Problem
from tasks_api.models.sort_order import SortOrder
from tasks_api.models.task_create import TaskCreate
from tasks_api.models.task_list_create import TaskListCreate
from tasks_api.models.task_move import TaskMove
from tasks_api.models.task_patch import TaskPatch
from tasks_api.models.task_sort import TaskSort

USER = os.environ["TASKS_USER"]
ABSENT = UUID("00000000-0000-4000-8000-000000000000")
client = ApiClient(Configuration(host=os.environ["TASKS_URL"]))
api = TasksApi(client)
lists = ListsApi(client)


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


created = lists.create_list_with_http_info(USER, TaskListCreate(name="Groceries"))
groceries = created.data
step("list", status=created.status_code, name=groceries.name)

due = DueInput(date=date(2026, 11, 24), time="17:30", timezone="Europe/Berlin")
response = api.create_task_with_http_info(
    USER,
    TaskCreate(
        title="Milk",
        list_id=groceries.id,
        priority=Priority.HIGH,
        due=due,
        labels=["shop", "errands"],
    ),
)
milk = response.data
assert_type(milk.list_id, UUID | None)
assert_type(milk.due, Due | None)
assert_type(milk.due_at, datetime | None)
assert_type(milk.labels, list[str])
assert milk.due is not None
assert milk.due_at is not None
step(
    "create",
    status=response.status_code,
    listed=milk.list_id == groceries.id,
    priority=milk.priority.value,
    due=[milk.due.var_date.isoformat(), milk.due.time, milk.due.timezone],
    due_at=milk.due_at.timestamp(),
    labels=milk.labels,
)

eggs = api.create_task(USER, TaskCreate(title="Eggs", list_id=groceries.id))
response = api.create_task_with_http_info(USER, TaskCreate(title="Oat milk", parent_id=milk.id))
oat = response.data
step(
    "subtask",
    status=response.status_code,
    parent=oat.parent_id == milk.id,
    listed=oat.list_id is not None,
    due=oat.due,
)

moved = api.move_task_with_http_info(USER, eggs.id, TaskMove(after_id=None), if_match=eggs.etag)
in_list = str(groceries.id)
page = api.list_tasks(USER, list_id=in_list, sort=TaskSort.POSITION, order=SortOrder.ASC)
step("move", status=moved.status_code, titles=[task.title for task in page.items])
page = api.list_tasks(
    USER,
    list_id=in_list,
    labels="errands",
    priority="high,urgent",
    due_before=date(2026, 11, 25),
)
step("filter", titles=[task.title for task in page.items])

count = api.count_tasks(USER, list_id=in_list)
step("count", count=count.count, capped=count.is_capped)

labels = api.list_labels(USER)
step(
    "labels",
    labels=[[each.label, each.open_tasks] for each in labels.items],
    capped=labels.is_capped,
)

problem = problem_of(lambda: api.create_task(USER, TaskCreate(title="Lost", list_id=ABSENT)))
step("reference", status=problem.status, type=problem.type, pointer=problem.errors[0].pointer)

problem = problem_of(lambda: lists.delete_list(USER, groceries.id))
step("not empty", status=problem.status, type=problem.type)

updated = api.update_task_with_http_info(USER, milk.id, TaskPatch(due=None, labels=[]))
after = updated.data
step(
    "clear",
    status=updated.status_code,
    priority=after.priority.value,
    due=after.due,
    labels=after.labels,
)
