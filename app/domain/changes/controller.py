"""The handler of the feed."""

from __future__ import annotations

from time import monotonic

from litestar import Controller, get
from litestar.status_codes import HTTP_200_OK

from app.domain.changes.problems import InvalidToken, TokenExpired
from app.domain.changes.schemas import ChangePage, ListChangesQuery
from app.http.operation import operation
from app.http.parameters import UserPath
from app.http.problems import DatabaseUnavailable
from app.http.responses import APIResponse
from app.http.waiting import Connection
from app.state import AppState


class ChangePageResponse(APIResponse[ChangePage]):
    """200 with a page of changes."""

    status = HTTP_200_OK


class ChangeController(Controller):
    """The operation of the contract's tag `changes`."""

    path = "/api/v1/users/{user_id:str}/changes"
    tags = ("changes",)

    @get(operation_id="listChanges")
    @operation(raises=[InvalidToken, TokenExpired, DatabaseUnavailable])
    async def list_changes(
        self, state: AppState, path: UserPath, query: ListChangesQuery, connection: Connection
    ) -> ChangePageResponse:
        """Return what changed since a token, or wait for the next change."""
        deadline = monotonic() + query.wait
        since = state.change_token_codec.decode(path.user_id, query.since)
        page = await state.change_repository.list_changes(path.user_id, since, query.limit)
        watcher = state.change_watcher
        while not page.items and (seconds := deadline - monotonic()) > 0:
            with (
                watcher.watch(path.user_id, page.position, seconds) as event,
                connection.waiting(event),
            ):
                if not await event:
                    break
                await watcher.reads.acquire()
            try:
                page = await state.change_repository.list_changes(path.user_id, since, query.limit)
            finally:
                watcher.reads.release()
        token = state.change_token_codec.encode(path.user_id, page.position)
        # The items are encoded already, because a page is limited by its bytes.
        return ChangePageResponse(
            b'{"items":[%b],"next_since":"%b","has_more":%b}'
            % (
                b",".join(item.json for item in page.items),
                token.encode(),
                b"true" if page.has_more else b"false",
            )
        )
