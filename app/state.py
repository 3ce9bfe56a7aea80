"""What every request may use, made once by `create_app`."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Request

from app.db.database import Database
from app.domain.tasks.repository import TaskRepository
from app.http.pagination import CursorCodec
from app.openapi.document import OpenAPIDocument


class AppState(msgspec.Struct, frozen=True):
    """The parts of one application. None of them holds anything that a replica would lack."""

    openapi: OpenAPIDocument
    database: Database
    task_repository: TaskRepository
    cursor_codec: CursorCodec


def app_state(request: Request[Any, Any, Any]) -> AppState:
    """The parts of the application that received this request."""
    found: AppState = request.app.state.core
    return found
