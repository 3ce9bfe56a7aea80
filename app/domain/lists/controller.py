"""The handlers of the list operations."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated, ClassVar
from urllib.parse import quote

import msgspec
from litestar import Controller, delete, get, patch, post, put
from litestar.status_codes import HTTP_200_OK, HTTP_201_CREATED

from app.db.collections import read_version
from app.domain.lists.models import TaskListRecord
from app.domain.lists.problems import ListNotEmpty, ListNotFound
from app.domain.lists.repository import TaskListRepository
from app.domain.lists.schemas import (
    ListPath,
    TaskList,
    TaskListCreate,
    TaskListMove,
    TaskListPage,
    TaskListPatch,
    TaskListReplace,
)
from app.http.body import JSON, MERGE_PATCH
from app.http.etags import ETagCondition, format_etag, is_not_modified
from app.http.headers import CollectionHeaders, CreatedHeaders, ETagHeaders
from app.http.operation import operation
from app.http.pagination import PageQuery
from app.http.parameters import (
    CreateHeaders,
    IfMatchHeaders,
    IfNoneMatchHeaders,
    ReplaceHeaders,
    UserPath,
    parse_resource_id,
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


class TaskListPageResponse(APIResponse[TaskListPage]):
    """200 with a page of lists."""

    status = HTTP_200_OK
    headers_type = CollectionHeaders


class TaskListResponse(APIResponse[TaskList]):
    """200 with a list and its ETag."""

    status = HTTP_200_OK
    headers_type = ETagHeaders

    def __init__(self, record: TaskListRecord) -> None:
        task_list = _to_task_list(record)
        super().__init__(task_list, ETagHeaders(task_list.etag))


class TaskListCreatedResponse(APIResponse[TaskList]):
    """201 with a new list, its ETag and its location."""

    status = HTTP_201_CREATED
    headers_type = CreatedHeaders
    openapi_links: ClassVar = {"user_id": "user_id", "list_id": "id"}

    def __init__(self, record: TaskListRecord) -> None:
        task_list = _to_task_list(record)
        location = f"/api/v1/users/{quote(record.user_id, safe=':@+')}/lists/{record.id}"
        super().__init__(task_list, CreatedHeaders(task_list.etag, location))


def _to_task_list(record: TaskListRecord) -> TaskList:
    return TaskList(
        id=record.id,
        user_id=record.user_id,
        name=record.name,
        position=record.position,
        created_at=record.created_at,
        updated_at=record.updated_at,
        etag=format_etag(record.etag),
    )


def _scope(user_id: str) -> str:
    """Return the scope of the cursors of a user's lists."""
    return f"{user_id}/lists"


@asynccontextmanager
async def _repository(state: AppState) -> AsyncGenerator[TaskListRepository]:
    """Open a repository for one request. Its transaction is committed after the block."""
    async with state.database.session() as session:
        yield TaskListRepository(session=session)


class TaskListController(Controller):
    """One handler for each operation of the contract's tag `lists`."""

    path = "/api/v1/users/{user_id:str}/lists"
    tags = ("lists",)

    @get(operation_id="listLists")
    @operation(raises=[InvalidCursor, DatabaseUnavailable])
    async def list_lists(
        self, state: AppState, path: UserPath, query: PageQuery, headers: IfNoneMatchHeaders
    ) -> TaskListPageResponse | CollectionNotModifiedResponse:
        """Return one page of lists, or 304."""
        scope = _scope(path.user_id)
        after = state.cursor_codec.decode(scope, query, str)
        # Read before the lists, so that it is not newer than they are.
        version = await read_version(state.database.fetch, path.user_id)
        if headers.if_none_match is not None and version.is_in(headers.if_none_match):
            return CollectionNotModifiedResponse(version.etag)
        async with _repository(state) as lists:
            records, position = await lists.page(path.user_id, query, after)
        next_cursor = state.cursor_codec.next_cursor(scope, query, position)
        items = [_to_task_list(record) for record in records]
        page = TaskListPage(items, next_cursor)
        return TaskListPageResponse(page, CollectionHeaders(version.etag))

    @post(operation_id="createList")
    @operation(raises=[IdempotencyKeyInUse, IdempotencyKeyReused, DatabaseUnavailable])
    async def create_list(
        self, state: AppState, path: UserPath, headers: CreateHeaders, data: TaskListCreate
    ) -> TaskListCreatedResponse:
        """Create a list."""
        values = msgspec.structs.asdict(data)
        async with _repository(state) as lists:
            record = await lists.create(path.user_id, values, data, headers.idempotency_key)
        return TaskListCreatedResponse(record)

    @get("/{list_id:str}", operation_id="getList")
    @operation(raises=[ListNotFound, DatabaseUnavailable])
    async def get_list(
        self, state: AppState, path: ListPath, headers: IfNoneMatchHeaders
    ) -> TaskListResponse | NotModifiedResponse:
        """Return one list, or 304."""
        async with _repository(state) as lists:
            record = await lists.find(path.user_id, path.list_id)
        etag = format_etag(record.etag)
        if is_not_modified(headers.if_none_match, etag):
            return NotModifiedResponse(etag)
        return TaskListResponse(record)

    @put("/{list_id:str}", operation_id="replaceList")
    @operation(raises=[PreconditionFailed, DatabaseUnavailable])
    async def replace_list(
        self, state: AppState, path: ListPath, headers: ReplaceHeaders, data: TaskListReplace
    ) -> TaskListCreatedResponse | TaskListResponse:
        """Replace a list, or create it with the ID in the path."""
        async with _repository(state) as lists:
            record, is_new = await lists.put(
                path.user_id,
                path.list_id,
                msgspec.structs.asdict(data),
                if_match=ETagCondition.parse(headers.if_match),
                must_not_exist=headers.if_none_match is not None,
            )
        return TaskListCreatedResponse(record) if is_new else TaskListResponse(record)

    @patch("/{list_id:str}", operation_id="updateList")
    @operation(raises=[ListNotFound, PreconditionFailed, DatabaseUnavailable])
    async def update_list(
        self,
        state: AppState,
        path: ListPath,
        headers: IfMatchHeaders,
        data: Annotated[TaskListPatch, MERGE_PATCH, JSON],
    ) -> TaskListResponse:
        """Change the properties in the body."""
        if_match = ETagCondition.parse(headers.if_match)
        values = {} if data.name is msgspec.UNSET else {"name": data.name}
        async with _repository(state) as lists:
            record = await lists.change(path.user_id, path.list_id, values, if_match)
        return TaskListResponse(record)

    @delete("/{list_id:str}", operation_id="deleteList")
    @operation(raises=[ListNotFound, PreconditionFailed, ListNotEmpty, DatabaseUnavailable])
    async def delete_list(self, state: AppState, path: ListPath, headers: IfMatchHeaders) -> None:
        """Delete an empty list permanently."""
        if_match = ETagCondition.parse(headers.if_match)
        async with _repository(state) as lists:
            await lists.remove(path.user_id, path.list_id, if_match)

    @post("/{list_id:str}/move", operation_id="moveList", status_code=HTTP_200_OK)
    @operation(raises=[ListNotFound, PreconditionFailed, ReferenceNotFound, DatabaseUnavailable])
    async def move_list(
        self, state: AppState, path: ListPath, headers: IfMatchHeaders, data: TaskListMove
    ) -> TaskListResponse:
        """Place a list directly after another one, or first."""
        if_match = ETagCondition.parse(headers.if_match)
        after_id = parse_resource_id(data.after_id)
        async with _repository(state) as lists:
            record = await lists.move(path.user_id, path.list_id, after_id, if_match)
        return TaskListResponse(record)
