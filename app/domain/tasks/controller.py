"""The handlers of the task operations."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, ClassVar
from urllib.parse import quote

from litestar import Controller, delete, get, patch, post, put
from litestar.status_codes import HTTP_200_OK, HTTP_201_CREATED

from app.db.collections import read_version
from app.domain.tasks.batch import TaskBatchRepository
from app.domain.tasks.batch_rules import read_changes
from app.domain.tasks.problems import BatchConflict, HierarchyConflict, TaskNotFound
from app.domain.tasks.schemas import (
    SORT_TYPES,
    CountTasksQuery,
    LabelList,
    ListTasksQuery,
    Task,
    TaskBatch,
    TaskBatchResult,
    TaskCount,
    TaskCreate,
    TaskMove,
    TaskPage,
    TaskPatch,
    TaskPath,
    TaskReplace,
)
from app.http.body import JSON, MERGE_PATCH
from app.http.etags import ETagCondition, is_not_modified
from app.http.headers import CollectionHeaders, CreatedHeaders, ETagHeaders
from app.http.operation import operation
from app.http.parameters import (
    CreateHeaders,
    IfMatchHeaders,
    IfNoneMatchHeaders,
    ReplaceHeaders,
    UserPath,
)
from app.http.problems import (
    DatabaseUnavailable,
    IdempotencyKeyInUse,
    IdempotencyKeyReused,
    InvalidCursor,
    PreconditionFailed,
    ReferenceNotFound,
)
from app.http.responses import (
    APIResponse,
    CollectionNotModifiedResponse,
    NotModifiedResponse,
)
from app.state import AppState

MAX_BATCH_BYTES = 1_048_576


class TaskPageResponse(APIResponse[TaskPage]):
    """200 with a page of tasks."""

    status = HTTP_200_OK
    headers_type = CollectionHeaders


class TaskCountResponse(APIResponse[TaskCount]):
    """200 with a number of tasks."""

    status = HTTP_200_OK
    headers_type = CollectionHeaders


class TaskBatchResultResponse(APIResponse[TaskBatchResult]):
    """200 with the result of a batch, which is encoded already."""

    status = HTTP_200_OK


class LabelListResponse(APIResponse[LabelList]):
    """200 with the labels of a user."""

    status = HTTP_200_OK
    headers_type = CollectionHeaders


class TaskResponse(APIResponse[Task]):
    """200 with a task and its ETag."""

    status = HTTP_200_OK
    headers_type = ETagHeaders

    def __init__(self, task: Task) -> None:
        super().__init__(task, ETagHeaders(task.etag))


class TaskCreatedResponse(APIResponse[Task]):
    """201 with a new task, its ETag and its location."""

    status = HTTP_201_CREATED
    headers_type = CreatedHeaders
    openapi_links: ClassVar = {"user_id": "user_id", "task_id": "id"}

    def __init__(self, task: Task) -> None:
        location = f"/api/v1/users/{quote(task.user_id, safe=':@+')}/tasks/{task.id}"
        super().__init__(task, CreatedHeaders(task.etag, location))


class TaskController(Controller):
    """One handler for each operation of the contract's tag `tasks`."""

    path = "/api/v1/users/{user_id:str}"
    tags = ("tasks",)

    @get("/tasks", operation_id="listTasks")
    @operation(raises=[InvalidCursor, DatabaseUnavailable])
    async def list_tasks(
        self, state: AppState, path: UserPath, query: ListTasksQuery, headers: IfNoneMatchHeaders
    ) -> TaskPageResponse | CollectionNotModifiedResponse:
        """Return one page of tasks, or 304."""
        sort_type = SORT_TYPES.get(query.sort, datetime)
        after = state.cursor_codec.decode(path.user_id, query, sort_type)
        version = None
        if headers.if_none_match is not None:
            version = await read_version(state.database.fetch, path.user_id)
            if version.is_in(headers.if_none_match):
                return CollectionNotModifiedResponse(version.etag)
        items, position, version = await state.task_repository.list_tasks(
            path.user_id, query, after, version
        )
        next_cursor = state.cursor_codec.next_cursor(path.user_id, query, position)
        return TaskPageResponse(TaskPage(items, next_cursor), CollectionHeaders(version.etag))

    @post("/tasks", operation_id="createTask")
    @operation(
        raises=[
            IdempotencyKeyInUse,
            IdempotencyKeyReused,
            ReferenceNotFound,
            HierarchyConflict,
            DatabaseUnavailable,
        ]
    )
    async def create_task(
        self, state: AppState, path: UserPath, headers: CreateHeaders, data: TaskCreate
    ) -> TaskCreatedResponse:
        """Create a task."""
        task = await state.task_repository.create_task(path.user_id, data, headers.idempotency_key)
        return TaskCreatedResponse(task)

    @get("/tasks/{task_id:str}", operation_id="getTask")
    @operation(raises=[TaskNotFound, DatabaseUnavailable])
    async def get_task(
        self, state: AppState, path: TaskPath, headers: IfNoneMatchHeaders
    ) -> TaskResponse | NotModifiedResponse:
        """Return one task, or 304."""
        task = await state.task_repository.get_task(path.user_id, path.task_id)
        if is_not_modified(headers.if_none_match, task.etag):
            return NotModifiedResponse(task.etag)
        return TaskResponse(task)

    @put("/tasks/{task_id:str}", operation_id="replaceTask")
    @operation(
        raises=[PreconditionFailed, ReferenceNotFound, HierarchyConflict, DatabaseUnavailable]
    )
    async def replace_task(
        self, state: AppState, path: TaskPath, headers: ReplaceHeaders, data: TaskReplace
    ) -> TaskCreatedResponse | TaskResponse:
        """Replace a task, or create it with the ID in the path."""
        task = await state.task_repository.replace_task(
            path.user_id,
            path.task_id,
            data,
            if_match=ETagCondition.parse(headers.if_match),
            must_not_exist=headers.if_none_match is not None,
        )
        return (
            TaskCreatedResponse(task) if task.created_at == task.updated_at else TaskResponse(task)
        )

    @patch("/tasks/{task_id:str}", operation_id="updateTask")
    @operation(
        raises=[
            TaskNotFound,
            PreconditionFailed,
            ReferenceNotFound,
            HierarchyConflict,
            DatabaseUnavailable,
        ]
    )
    async def update_task(
        self,
        state: AppState,
        path: TaskPath,
        headers: IfMatchHeaders,
        data: Annotated[TaskPatch, MERGE_PATCH, JSON],
    ) -> TaskResponse:
        """Change the properties in the body."""
        if_match = ETagCondition.parse(headers.if_match)
        task = await state.task_repository.update_task(
            path.user_id, path.task_id, data, if_match=if_match
        )
        return TaskResponse(task)

    @delete("/tasks/{task_id:str}", operation_id="deleteTask")
    @operation(raises=[TaskNotFound, PreconditionFailed, DatabaseUnavailable])
    async def delete_task(self, state: AppState, path: TaskPath, headers: IfMatchHeaders) -> None:
        """Delete a task permanently."""
        if_match = ETagCondition.parse(headers.if_match)
        await state.task_repository.delete_task(path.user_id, path.task_id, if_match=if_match)

    @post("/tasks/{task_id:str}/move", operation_id="moveTask", status_code=HTTP_200_OK)
    @operation(
        raises=[
            TaskNotFound,
            PreconditionFailed,
            ReferenceNotFound,
            HierarchyConflict,
            DatabaseUnavailable,
        ]
    )
    async def move_task(
        self, state: AppState, path: TaskPath, headers: IfMatchHeaders, data: TaskMove
    ) -> TaskResponse:
        """Place a task after another one, or first."""
        if_match = ETagCondition.parse(headers.if_match)
        task = await state.task_repository.move_task(
            path.user_id, path.task_id, data, if_match=if_match
        )
        return TaskResponse(task)

    @post(
        "/tasks/batch",
        operation_id="changeTasks",
        status_code=HTTP_200_OK,
        request_max_body_size=MAX_BATCH_BYTES,
    )
    @operation(
        raises=[
            IdempotencyKeyInUse,
            IdempotencyKeyReused,
            TaskNotFound,
            BatchConflict,
            PreconditionFailed,
            ReferenceNotFound,
            HierarchyConflict,
            DatabaseUnavailable,
        ]
    )
    async def change_tasks(
        self, state: AppState, path: UserPath, headers: CreateHeaders, data: TaskBatch
    ) -> TaskBatchResultResponse:
        """Apply all changes of a batch, or none."""
        changes = read_changes(data)
        async with state.database.session() as session:
            batches = TaskBatchRepository(session, path.user_id)
            result = await batches.apply(data, changes, headers.idempotency_key)
        return TaskBatchResultResponse(result)

    @get("/tasks/count", operation_id="countTasks")
    @operation(raises=[DatabaseUnavailable])
    async def count_tasks(
        self, state: AppState, path: UserPath, query: CountTasksQuery, headers: IfNoneMatchHeaders
    ) -> TaskCountResponse | CollectionNotModifiedResponse:
        """Count the tasks that match all filters, or return 304."""
        if headers.if_none_match is not None:
            version = await read_version(state.database.fetch, path.user_id)
            if version.is_in(headers.if_none_match):
                return CollectionNotModifiedResponse(version.etag)
        count, version = await state.task_repository.count_tasks(path.user_id, query)
        return TaskCountResponse(count, CollectionHeaders(version.etag))

    @get("/labels", operation_id="listLabels")
    @operation(raises=[DatabaseUnavailable])
    async def list_labels(
        self, state: AppState, path: UserPath, headers: IfNoneMatchHeaders
    ) -> LabelListResponse | CollectionNotModifiedResponse:
        """Return the labels of open tasks, or 304."""
        version = None
        if headers.if_none_match is not None:
            version = await read_version(state.database.fetch, path.user_id)
            if version.is_in(headers.if_none_match):
                return CollectionNotModifiedResponse(version.etag)
        labels, version = await state.task_repository.list_labels(path.user_id, version)
        return LabelListResponse(labels, CollectionHeaders(version.etag))
