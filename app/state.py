"""What every request may use, made once by `create_app`."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Request

from app.db.database import Database
from app.domain.tasks.repository import TaskRepository
from app.http.pagination import Cursors
from app.openapi.document import Contract


class Core(msgspec.Struct, frozen=True):
    """The parts of one application. None of them holds anything that a replica would lack."""

    contract: Contract
    database: Database
    tasks: TaskRepository
    cursors: Cursors


def core(request: Request[Any, Any, Any]) -> Core:
    """The parts of the application that received this request."""
    found: Core = request.app.state.core
    return found
