"""The application: the only place that wires its parts together."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from litestar import Litestar, Router
from litestar.connection import ASGIConnection
from litestar.datastructures import State
from litestar.handlers import BaseRouteHandler
from litestar.types import ControllerRouterHandler, Middleware

from app.db.database import Database
from app.domain.health.controller import get_liveness, get_readiness
from app.domain.tasks.controller import TaskController
from app.domain.tasks.repository import TaskRepository
from app.http.cors import Cors
from app.http.exception_handlers import HANDLERS
from app.http.middleware import Edge
from app.http.pagination import Cursors
from app.http.problems import DatabaseUnavailable
from app.logging import log
from app.metrics import Metrics, Pool
from app.openapi.controller import get_contract_json, get_contract_yaml
from app.openapi.document import Contract
from app.openapi.pages import page_handlers
from app.settings import Settings
from app.state import Core

# Litestar's own alias leaves its parts untyped.
Guard = Callable[[ASGIConnection[Any, Any, Any, Any], BaseRouteHandler], Awaitable[None] | None]

BODY_BYTES_AT_MOST = 131_072
OPERATIONS: Sequence[ControllerRouterHandler] = (
    TaskController,
    get_liveness,
    get_readiness,
    get_contract_yaml,
    get_contract_json,
)


def create_app(
    settings: Settings,
    *,
    guards: Sequence[Guard] = (),
    middleware: Sequence[Middleware] = (),
    route_handlers: Sequence[ControllerRouterHandler] = (),
) -> Edge:
    """Make the ASGI application.

    `guards`, `middleware` and `route_handlers` are the seam for components such as
    authentication: they are Litestar's own kinds and apply to every operation. What they raise
    becomes a problem like any other.

    Raises ContractError when the operations here and in `openapi.yaml` differ, and
    DatabaseUrlError without a usable DATABASE_URL.
    """
    contract = Contract.load()
    operations = Router("/", route_handlers=OPERATIONS)
    contract.hold_against(operations.routes)
    database = Database(
        settings.connection(),
        pool_size=settings.database_pool_size,
        timeout=settings.database_timeout,
        statement_timeout=settings.database_statement_timeout,
        recycle=settings.database_pool_recycle,
    )
    # Its own exceptions would turn every fault of the driver into a conflict (research.md, D6).
    tasks = TaskRepository(session=database.sessions, wrap_exceptions=False)
    core = Core(contract, database, tasks, Cursors(settings.cursor_secret))
    framework = Litestar(
        route_handlers=[operations, *page_handlers(), *route_handlers],
        guards=list(guards),
        middleware=middleware,
        exception_handlers=HANDLERS,
        request_max_body_size=BODY_BYTES_AT_MOST,
        lifespan=[_lifespan],
        state=State({"core": core}),
        openapi_config=None,
        logging_config=None,
        debug=False,
    )
    contract.refuse_shadows(framework.routes)
    pool = Pool(database.pool.used, database.pool.idle, database.pool.most)
    metrics = None if settings.metrics_port is None else Metrics(pool)
    return Edge(framework, framework.routes, Cors(settings.cors_origins), metrics)


@asynccontextmanager
async def _lifespan(app: Litestar) -> AsyncGenerator[None]:
    core: Core = app.state.core
    await _keep_house(core)
    try:
        yield
    finally:
        await core.database.close()


async def _keep_house(core: Core) -> None:
    """Open the first connection, name missing privileges and remove expired keys.

    The service starts whatever comes of it: requests that need none of it can be served.
    """
    try:
        if missing := await core.database.missing_privileges():
            log.warning("privileges missing", privileges=missing)
        await core.tasks.forget_expired_keys()
    except DatabaseUnavailable:
        pass  # the cause is in the log
    except Exception as fault:  # noqa: BLE001 - what else may fail is not known here
        log.warning("housekeeping failed", cause=f"{type(fault).__name__}: {fault}")
