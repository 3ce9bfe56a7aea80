"""Health checks for load balancers and orchestrators."""

from __future__ import annotations

from typing import Annotated

import msgspec
from litestar import get
from litestar.status_codes import HTTP_200_OK
from msgspec import Meta

from app.db.database import is_schema_compatible
from app.db.errors import ReadOnlyDatabaseError
from app.http.operation import operation
from app.http.problems import DatabaseUnavailable, NotReady
from app.http.responses import APIResponse
from app.state import AppState

READINESS_TIMEOUT = 1.0  # seconds


class Health(msgspec.Struct, frozen=True):
    """The state of the service: component `Health` of the contract."""

    status: Annotated[str, Meta(max_length=32, pattern=r"^[a-z]+\Z")]


class HealthResponse(APIResponse[Health]):
    """The process is alive, or the service is ready."""

    status = HTTP_200_OK


@get("/livez", operation_id="getLiveness", tags=["health"])
@operation()
async def get_liveness() -> HealthResponse:
    """Return 200 without a database query, so that a suspended database stays suspended."""
    return HealthResponse(Health("alive"))


@get("/readyz", operation_id="getReadiness", tags=["health"])
@operation(raises=[NotReady])
async def get_readiness(state: AppState) -> HealthResponse:
    """Return 200 if the database accepts writes and its schema is compatible."""
    try:
        revision = await state.database.schema_revision(READINESS_TIMEOUT)
    except DatabaseUnavailable:
        raise NotReady from None
    except ReadOnlyDatabaseError:
        msg = "The database is read-only."
        raise NotReady(msg) from None
    if not is_schema_compatible(revision):
        msg = "The database schema is older than this version requires."
        raise NotReady(msg)
    return HealthResponse(Health("ready"))
