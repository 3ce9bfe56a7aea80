"""The operations on tasks: read the request, ask the repository, shape the answer."""

from __future__ import annotations

from typing import Any, ClassVar
from urllib.parse import quote

from litestar import Controller, Request, delete, get, patch, post, put
from litestar.status_codes import HTTP_200_OK, HTTP_201_CREATED

from app.domain.tasks.schemas import (
    CreateTaskHeaders,
    ListTasksQuery,
    ReplaceTaskHeaders,
    Task,
    TaskCreate,
    TaskPage,
    TaskPatch,
    TaskPath,
    TaskReplace,
    UserPath,
)
from app.http.body import JSON, MERGE_PATCH, Body
from app.http.etags import Condition, is_unchanged
from app.http.headers import Located, Tagged
from app.http.parameters import IfMatch, IfNoneMatch, Nothing, Parameters
from app.http.problems import (
    DatabaseUnavailable,
    IdempotencyKeyInUse,
    IdempotencyKeyReused,
    InvalidCursor,
    PreconditionFailed,
    TaskNotFound,
)
from app.http.responses import Answer, NotModified
from app.state import core

LIST_TASKS = Parameters(UserPath, ListTasksQuery, Nothing)
CREATE_TASK = Parameters(UserPath, Nothing, CreateTaskHeaders)
GET_TASK = Parameters(TaskPath, Nothing, IfNoneMatch)
REPLACE_TASK = Parameters(TaskPath, Nothing, ReplaceTaskHeaders)
UPDATE_TASK = Parameters(TaskPath, Nothing, IfMatch)
DELETE_TASK = Parameters(TaskPath, Nothing, IfMatch)

CREATE_BODY = Body(TaskCreate, JSON)
REPLACE_BODY = Body(TaskReplace, JSON)
PATCH_BODY = Body(TaskPatch, MERGE_PATCH, JSON)


class Page(Answer[TaskPage]):
    """A page of tasks."""

    status = HTTP_200_OK


class Current(Answer[Task]):
    """The task as it is now."""

    status = HTTP_200_OK
    fields = Tagged

    def __init__(self, task: Task) -> None:
        """Answer a task."""
        super().__init__(task, Tagged(task.etag))


class Created(Answer[Task]):
    """The task is new."""

    status = HTTP_201_CREATED
    fields = Located
    links: ClassVar = {"user_id": "user_id", "task_id": "id"}

    def __init__(self, task: Task) -> None:
        """Answer a new task."""
        location = f"/api/v1/users/{quote(task.user_id, safe=':@+')}/tasks/{task.id}"
        super().__init__(task, Located(task.etag, location))


class TaskController(Controller):
    """One handler for each operation of the contract's tag `tasks`."""

    path = "/api/v1/users/{user_id:str}/tasks"
    tags = ("tasks",)

    @get(
        operation_id="listTasks",
        parameters=LIST_TASKS,
        problems=[InvalidCursor, DatabaseUnavailable],
    )
    async def list_tasks(self, request: Request[Any, Any, Any]) -> Page:
        """Answer one page."""
        path, query, _ = LIST_TASKS.read(request)
        parts = core(request)
        after = parts.cursors.decode(path.user_id, query)
        items, position = await parts.tasks.list_tasks(path.user_id, query, after)
        next_cursor = None
        if position is not None:
            next_cursor = parts.cursors.encode(path.user_id, query, position)
        return Page(TaskPage(items, next_cursor))

    @post(
        operation_id="createTask",
        parameters=CREATE_TASK,
        reads=CREATE_BODY,
        problems=[IdempotencyKeyInUse, IdempotencyKeyReused, DatabaseUnavailable],
    )
    async def create_task(self, request: Request[Any, Any, Any]) -> Created:
        """Store a new task."""
        path, _, headers = CREATE_TASK.read(request)
        new = await CREATE_BODY.read(request)
        task = await core(request).tasks.create_task(path.user_id, new, headers.idempotency_key)
        return Created(task)

    @get(
        "/{task_id:str}",
        operation_id="getTask",
        parameters=GET_TASK,
        problems=[TaskNotFound, DatabaseUnavailable],
    )
    async def get_task(self, request: Request[Any, Any, Any]) -> Current | NotModified:
        """Answer one task, or 304."""
        path, _, headers = GET_TASK.read(request)
        task = await core(request).tasks.get_task(path.user_id, path.task_id)
        if is_unchanged(headers.if_none_match, task.etag):
            return NotModified(task.etag)
        return Current(task)

    @put(
        "/{task_id:str}",
        operation_id="replaceTask",
        parameters=REPLACE_TASK,
        reads=REPLACE_BODY,
        problems=[PreconditionFailed, DatabaseUnavailable],
    )
    async def replace_task(self, request: Request[Any, Any, Any]) -> Created | Current:
        """Replace a task, or create it under the id in the path."""
        path, _, headers = REPLACE_TASK.read(request)
        new = await REPLACE_BODY.read(request)
        task = await core(request).tasks.replace_task(
            path.user_id,
            path.task_id,
            new,
            if_match=Condition.parse(headers.if_match),
            if_absent=headers.if_none_match is not None,
        )
        return Created(task) if task.created_at == task.updated_at else Current(task)

    @patch(
        "/{task_id:str}",
        operation_id="updateTask",
        parameters=UPDATE_TASK,
        reads=PATCH_BODY,
        problems=[TaskNotFound, PreconditionFailed, DatabaseUnavailable],
    )
    async def update_task(self, request: Request[Any, Any, Any]) -> Current:
        """Change the members that were sent."""
        path, _, headers = UPDATE_TASK.read(request)
        change = await PATCH_BODY.read(request)
        if_match = Condition.parse(headers.if_match)
        task = await core(request).tasks.update_task(
            path.user_id, path.task_id, change, if_match=if_match
        )
        return Current(task)

    @delete(
        "/{task_id:str}",
        operation_id="deleteTask",
        parameters=DELETE_TASK,
        problems=[TaskNotFound, PreconditionFailed, DatabaseUnavailable],
    )
    async def delete_task(self, request: Request[Any, Any, Any]) -> None:
        """Delete a task for good."""
        path, _, headers = DELETE_TASK.read(request)
        if_match = Condition.parse(headers.if_match)
        await core(request).tasks.delete_task(path.user_id, path.task_id, if_match=if_match)
