"""The application state. `create_app` creates it once."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Request

from app.db.database import Database
from app.domain.changes.repository import ChangeRepository
from app.domain.changes.tokens import ChangeTokenCodec
from app.domain.changes.watcher import ChangeWatcher
from app.domain.tasks.repository import TaskRepository
from app.http.pagination import CursorCodec
from app.openapi.document import OpenAPIDocument


class AppState(msgspec.Struct, frozen=True):
    """The objects that all requests share. They contain no state that replicas must share."""

    openapi: OpenAPIDocument
    database: Database
    task_repository: TaskRepository
    cursor_codec: CursorCodec
    change_repository: ChangeRepository
    change_token_codec: ChangeTokenCodec
    change_watcher: ChangeWatcher


def app_state(request: Request[Any, Any, Any]) -> AppState:
    """Return the state of the application that received this request."""
    state: AppState = request.app.state.app_state
    return state
