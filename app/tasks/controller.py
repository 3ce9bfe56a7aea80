"""The operations on tasks: read the request, ask the repository, shape the answer."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

from litestar import Controller, Request, Response, delete, get, patch, post, put
from litestar.status_codes import HTTP_200_OK, HTTP_201_CREATED, HTTP_304_NOT_MODIFIED

from app.body import JSON, MERGE_PATCH, Body
from app.core import core
from app.etags import Condition, is_unchanged
from app.parameters import IfMatch, IfNoneMatch, Nothing, Parameters
from app.tasks.repository import TaskRepository
from app.tasks.schemas import (
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

LIST_TASKS = Parameters(UserPath, ListTasksQuery, Nothing)
CREATE_TASK = Parameters(UserPath, Nothing, Nothing)
GET_TASK = Parameters(TaskPath, Nothing, IfNoneMatch)
REPLACE_TASK = Parameters(TaskPath, Nothing, ReplaceTaskHeaders)
UPDATE_TASK = Parameters(TaskPath, Nothing, IfMatch)
DELETE_TASK = Parameters(TaskPath, Nothing, IfMatch)

CREATE_BODY = Body(TaskCreate, JSON)
REPLACE_BODY = Body(TaskReplace, JSON)
PATCH_BODY = Body(TaskPatch, MERGE_PATCH, JSON)


class TaskController(Controller):
    """One handler for each operation of the contract's tag `tasks`."""

    path = "/api/v1/users/{user_id:str}/tasks"

    @get(operation_id="listTasks")
    async def list_tasks(self, request: Request[Any, Any, Any]) -> Response[TaskPage]:
        """Answer one page."""
        path, query, _ = LIST_TASKS.read(request)
        cursors = core(request).cursors
        after = cursors.decode(path.user_id, query)
        async with _repository(request) as tasks:
            items, position = await tasks.list_tasks(path.user_id, query, after)
        next_cursor = None
        if position is not None:
            next_cursor = cursors.encode(path.user_id, query, position)
        return Response(TaskPage(items, next_cursor))

    @post(operation_id="createTask")
    async def create_task(self, request: Request[Any, Any, Any]) -> Response[Task]:
        """Store a new task."""
        path, _, _ = CREATE_TASK.read(request)
        new = await CREATE_BODY.read(request)
        async with _repository(request) as tasks:
            task = await tasks.create_task(path.user_id, new)
        return _created(task)

    @get("/{task_id:str}", operation_id="getTask")
    async def get_task(self, request: Request[Any, Any, Any]) -> Response[Task | None]:
        """Answer one task, or 304."""
        path, _, headers = GET_TASK.read(request)
        async with _repository(request) as tasks:
            task = await tasks.get_task(path.user_id, path.task_id)
        if is_unchanged(headers.if_none_match, task.etag):
            return Response(None, status_code=HTTP_304_NOT_MODIFIED, headers={"ETag": task.etag})
        return _current(task)

    @put("/{task_id:str}", operation_id="replaceTask")
    async def replace_task(self, request: Request[Any, Any, Any]) -> Response[Task]:
        """Replace a task, or create it under the id in the path."""
        path, _, headers = REPLACE_TASK.read(request)
        new = await REPLACE_BODY.read(request)
        async with _repository(request) as tasks:
            task = await tasks.replace_task(
                path.user_id,
                path.task_id,
                new,
                if_match=Condition.parse(headers.if_match),
                if_absent=headers.if_none_match is not None,
            )
        return _created(task) if task.created_at == task.updated_at else _current(task)

    @patch("/{task_id:str}", operation_id="updateTask")
    async def update_task(self, request: Request[Any, Any, Any]) -> Response[Task]:
        """Change the members that were sent."""
        path, _, headers = UPDATE_TASK.read(request)
        change = await PATCH_BODY.read(request)
        if_match = Condition.parse(headers.if_match)
        async with _repository(request) as tasks:
            task = await tasks.update_task(path.user_id, path.task_id, change, if_match=if_match)
        return _current(task)

    @delete("/{task_id:str}", operation_id="deleteTask")
    async def delete_task(self, request: Request[Any, Any, Any]) -> None:
        """Delete a task for good."""
        path, _, headers = DELETE_TASK.read(request)
        if_match = Condition.parse(headers.if_match)
        async with _repository(request) as tasks:
            await tasks.delete_task(path.user_id, path.task_id, if_match=if_match)


@asynccontextmanager
async def _repository(request: Request[Any, Any, Any]) -> AsyncGenerator[TaskRepository]:
    """The tasks, while a session is open. The answer is made after it, when all is committed."""
    async with core(request).database.session() as session:
        # Its own exceptions would turn every fault of the driver into a conflict (research.md, D6).
        yield TaskRepository(session=session, wrap_exceptions=False)


def _current(task: Task) -> Response[Any]:
    return Response(task, status_code=HTTP_200_OK, headers={"ETag": task.etag})


def _created(task: Task) -> Response[Task]:
    location = f"/api/v1/users/{quote(task.user_id, safe=':@+')}/tasks/{task.id}"
    return Response(
        task,
        status_code=HTTP_201_CREATED,
        headers={"ETag": task.etag, "Location": location},
    )
