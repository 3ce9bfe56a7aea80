"""Liveness and readiness, for balancers and orchestrators."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Request, Response, get

from app.core import core
from app.database import SCHEMA_REVISION
from app.parameters import Nothing, Parameters
from app.problems import DatabaseUnavailable, NotReady

READINESS_SECONDS = 1.0
NO_PARAMETERS = Parameters(Nothing, Nothing, Nothing)


class Health(msgspec.Struct, frozen=True):
    """The state of the service: component `Health` of the contract."""

    status: str


@get("/livez", operation_id="getLiveness")
async def get_liveness(request: Request[Any, Any, Any]) -> Response[Health]:
    """Answer that the process answers; the database is not asked, so it may stay asleep."""
    NO_PARAMETERS.read(request)
    return Response(Health("alive"))


@get("/readyz", operation_id="getReadiness")
async def get_readiness(request: Request[Any, Any, Any]) -> Response[Health]:
    """Answer whether the database is there and has the schema that this version needs."""
    NO_PARAMETERS.read(request)
    try:
        revision = await core(request).database.revision(READINESS_SECONDS)
    except DatabaseUnavailable:
        raise NotReady from None
    if revision != SCHEMA_REVISION:
        msg = "The database's schema is not at the revision that this version needs."
        raise NotReady(msg)
    return Response(Health("ready"))
