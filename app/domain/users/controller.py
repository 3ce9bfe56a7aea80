"""The handlers of the operations on all data of a user."""

from __future__ import annotations

from litestar import Controller, delete, get
from litestar.status_codes import HTTP_200_OK, HTTP_202_ACCEPTED, HTTP_204_NO_CONTENT

from app.domain.users.repository import UserRepository, export_lines, read_first_page
from app.domain.users.schemas import UserDeletion, UserExport
from app.http.headers import RetryAfterHeaders
from app.http.operation import operation
from app.http.parameters import UserPath
from app.http.problems import DatabaseUnavailable
from app.http.responses import APIResponse, StreamingResponse
from app.state import AppState


class UserExportResponse(StreamingResponse[UserExport]):
    """200 with all tasks and lists of a user, one in each line."""

    status = HTTP_200_OK
    content_type = "application/x-ndjson"


class UserDeletionResponse(APIResponse[UserDeletion]):
    """202 if more is left than one request may delete."""

    status = HTTP_202_ACCEPTED
    headers_type = RetryAfterHeaders

    def __init__(self) -> None:
        super().__init__(UserDeletion(has_more=True), RetryAfterHeaders())


class UserDeletedResponse(APIResponse[None]):
    """204 if nothing of a user is left."""

    status = HTTP_204_NO_CONTENT

    def __init__(self) -> None:
        super().__init__(None)


class UserController(Controller):
    """The operations of the contract's tag `users`."""

    path = "/api/v1/users/{user_id:str}"
    tags = ("users",)

    @get("/export", operation_id="exportUser")
    @operation(raises=[DatabaseUnavailable])
    async def export_user(self, state: AppState, path: UserPath) -> UserExportResponse:
        """Return all tasks and lists of a user."""
        changes = state.change_repository
        first = await read_first_page(changes, path.user_id)
        return UserExportResponse(export_lines(changes, path.user_id, first))

    @delete(operation_id="deleteUser", status_code=HTTP_202_ACCEPTED)
    @operation(raises=[DatabaseUnavailable])
    async def delete_user(
        self, state: AppState, path: UserPath
    ) -> UserDeletedResponse | UserDeletionResponse:
        """Delete all data of a user, or as much as one request may."""
        async with state.database.session() as session:
            is_erased = await UserRepository(session, path.user_id).erase()
        return UserDeletedResponse() if is_erased else UserDeletionResponse()
