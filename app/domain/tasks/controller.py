"""The operations on tasks: read the request, ask the repository, shape the answer."""

from __future__ import annotations

from typing import Any, ClassVar
from urllib.parse import quote

from litestar import Controller, Request, delete, get, patch, post, put
from litestar.status_codes import HTTP_200_OK, HTTP_201_CREATED

from app.domain.tasks.problems import TaskNotFound
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
)
from app.http.body import JSON, MERGE_PATCH, JSONBody
from app.http.etags import ETagCondition, is_not_modified
from app.http.headers import CreatedHeaders, ETagHeaders
from app.http.parameters import (
    IfMatchHeaders,
    IfNoneMatchHeaders,
    NoParameters,
    Parameters,
    UserPath,
)
from app.http.problems import (
    DatabaseUnavailable,
    IdempotencyKeyInUse,
    IdempotencyKeyReused,
    InvalidCursor,
    PreconditionFailed,
)
from app.http.responses import APIResponse, NotModifiedResponse
from app.state import app_state

LIST_TASKS = Parameters(UserPath, ListTasksQuery, NoParameters)
CREATE_TASK = Parameters(UserPath, NoParameters, CreateTaskHeaders)
GET_TASK = Parameters(TaskPath, NoParameters, IfNoneMatchHeaders)
REPLACE_TASK = Parameters(TaskPath, NoParameters, ReplaceTaskHeaders)
UPDATE_TASK = Parameters(TaskPath, NoParameters, IfMatchHeaders)
DELETE_TASK = Parameters(TaskPath, NoParameters, IfMatchHeaders)

CREATE_BODY = JSONBody(TaskCreate, JSON)
REPLACE_BODY = JSONBody(TaskReplace, JSON)
PATCH_BODY = JSONBody(TaskPatch, MERGE_PATCH, JSON)


class TaskPageResponse(APIResponse[TaskPage]):
    """A page of tasks."""

    status = HTTP_200_OK


class TaskResponse(APIResponse[Task]):
    """The task as it is now."""

    status = HTTP_200_OK
    headers_type = ETagHeaders

    def __init__(self, task: Task) -> None:
        """Answer a task."""
        super().__init__(task, ETagHeaders(task.etag))


class TaskCreatedResponse(APIResponse[Task]):
    """The task is new."""

    status = HTTP_201_CREATED
    headers_type = CreatedHeaders
    openapi_links: ClassVar = {"user_id": "user_id", "task_id": "id"}

    def __init__(self, task: Task) -> None:
        """Answer a new task."""
        location = f"/api/v1/users/{quote(task.user_id, safe=':@+')}/tasks/{task.id}"
        super().__init__(task, CreatedHeaders(task.etag, location))


class TaskController(Controller):
    """One handler for each operation of the contract's tag `tasks`."""

    path = "/api/v1/users/{user_id:str}/tasks"
    tags = ("tasks",)

    @get(
        operation_id="listTasks",
        parameters=LIST_TASKS,
        problems=[InvalidCursor, DatabaseUnavailable],
    )
    async def list_tasks(self, request: Request[Any, Any, Any]) -> TaskPageResponse:
        """Answer one page."""
        path, query, _ = LIST_TASKS.parse(request)
        parts = app_state(request)
        after = parts.cursor_codec.decode(path.user_id, query)
        items, position = await parts.task_repository.list_tasks(path.user_id, query, after)
        next_cursor = None
        if position is not None:
            next_cursor = parts.cursor_codec.encode(path.user_id, query, position)
        return TaskPageResponse(TaskPage(items, next_cursor))

    @post(
        operation_id="createTask",
        parameters=CREATE_TASK,
        reads=CREATE_BODY,
        problems=[IdempotencyKeyInUse, IdempotencyKeyReused, DatabaseUnavailable],
    )
    async def create_task(self, request: Request[Any, Any, Any]) -> TaskCreatedResponse:
        """Store a new task."""
        path, _, headers = CREATE_TASK.parse(request)
        new = await CREATE_BODY.parse(request)
        task = await app_state(request).task_repository.create_task(
            path.user_id, new, headers.idempotency_key
        )
        return TaskCreatedResponse(task)

    @get(
        "/{task_id:str}",
        operation_id="getTask",
        parameters=GET_TASK,
        problems=[TaskNotFound, DatabaseUnavailable],
    )
    async def get_task(self, request: Request[Any, Any, Any]) -> TaskResponse | NotModifiedResponse:
        """Answer one task, or 304."""
        path, _, headers = GET_TASK.parse(request)
        task = await app_state(request).task_repository.get_task(path.user_id, path.task_id)
        if is_not_modified(headers.if_none_match, task.etag):
            return NotModifiedResponse(task.etag)
        return TaskResponse(task)

    @put(
        "/{task_id:str}",
        operation_id="replaceTask",
        parameters=REPLACE_TASK,
        reads=REPLACE_BODY,
        problems=[PreconditionFailed, DatabaseUnavailable],
    )
    async def replace_task(
        self, request: Request[Any, Any, Any]
    ) -> TaskCreatedResponse | TaskResponse:
        """Replace a task, or create it under the id in the path."""
        path, _, headers = REPLACE_TASK.parse(request)
        new = await REPLACE_BODY.parse(request)
        task = await app_state(request).task_repository.replace_task(
            path.user_id,
            path.task_id,
            new,
            if_match=ETagCondition.parse(headers.if_match),
            must_not_exist=headers.if_none_match is not None,
        )
        return (
            TaskCreatedResponse(task) if task.created_at == task.updated_at else TaskResponse(task)
        )

    @patch(
        "/{task_id:str}",
        operation_id="updateTask",
        parameters=UPDATE_TASK,
        reads=PATCH_BODY,
        problems=[TaskNotFound, PreconditionFailed, DatabaseUnavailable],
    )
    async def update_task(self, request: Request[Any, Any, Any]) -> TaskResponse:
        """Change the members that were sent."""
        path, _, headers = UPDATE_TASK.parse(request)
        change = await PATCH_BODY.parse(request)
        if_match = ETagCondition.parse(headers.if_match)
        task = await app_state(request).task_repository.update_task(
            path.user_id, path.task_id, change, if_match=if_match
        )
        return TaskResponse(task)

    @delete(
        "/{task_id:str}",
        operation_id="deleteTask",
        parameters=DELETE_TASK,
        problems=[TaskNotFound, PreconditionFailed, DatabaseUnavailable],
    )
    async def delete_task(self, request: Request[Any, Any, Any]) -> None:
        """Delete a task for good."""
        path, _, headers = DELETE_TASK.parse(request)
        if_match = ETagCondition.parse(headers.if_match)
        await app_state(request).task_repository.delete_task(
            path.user_id, path.task_id, if_match=if_match
        )
