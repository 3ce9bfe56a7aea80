"""Composition root of the ASGI application."""

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
from app.db.idempotency import delete_expired_keys
from app.domain.changes.controller import ChangeController
from app.domain.changes.repository import ChangeRepository
from app.domain.changes.tokens import ChangeTokenCodec
from app.domain.changes.watcher import ChangeWatcher
from app.domain.health.controller import get_liveness, get_readiness
from app.domain.lists.controller import TaskListController
from app.domain.tasks.controller import TaskController
from app.domain.tasks.repository import TaskRepository
from app.domain.users.controller import UserController
from app.http.cors import CORSPolicy
from app.http.exception_handlers import EXCEPTION_HANDLERS
from app.http.middleware import HTTPMiddleware
from app.http.pagination import CursorCodec
from app.http.problems import DatabaseUnavailable
from app.logging import log
from app.metrics import Metrics, PoolStats
from app.openapi.controller import get_contract_json, get_contract_yaml
from app.openapi.document import OpenAPIDocument
from app.openapi.pages import page_routes
from app.settings import Settings
from app.state import AppState

# Litestar's alias `Guard` is only partly typed.
Guard = Callable[[ASGIConnection[Any, Any, Any, Any], BaseRouteHandler], Awaitable[None] | None]

MAX_BODY_BYTES = 131_072
ROUTE_HANDLERS: Sequence[ControllerRouterHandler] = (
    TaskController,
    TaskListController,
    ChangeController,
    UserController,
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
) -> HTTPMiddleware:
    """Create the ASGI application.

    `guards`, `middleware` and `route_handlers` are the extension points, for example for
    authentication. They are Litestar's types. Guards and middleware apply to every operation, and
    their exceptions become problem responses (RFC 9457).

    Raises RouteMismatchError if the operations differ from `openapi.yaml`, and DatabaseUrlError
    without a usable DATABASE_URL.
    """
    contract = OpenAPIDocument.load()
    operations = Router("/", route_handlers=ROUTE_HANDLERS)
    contract.check_routes(operations.routes)
    database = Database(
        settings.database_config(),
        pool_size=settings.database_pool_size,
        timeout=settings.database_timeout,
        statement_timeout=settings.database_statement_timeout,
        max_lifetime=settings.database_pool_recycle,
    )
    secret = None
    if settings.cursor_secret is not None:
        secret = settings.cursor_secret.get_secret_value()
    state = AppState(
        openapi=contract,
        database=database,
        task_repository=TaskRepository(database.fetch),
        cursor_codec=CursorCodec(secret),
        change_repository=ChangeRepository(database.fetch),
        change_token_codec=ChangeTokenCodec(secret),
        change_watcher=ChangeWatcher(database.fetch),
    )
    litestar = Litestar(
        route_handlers=[operations, *page_routes(), *route_handlers],
        guards=list(guards),
        middleware=middleware,
        exception_handlers=EXCEPTION_HANDLERS,
        request_max_body_size=MAX_BODY_BYTES,
        lifespan=[_lifespan],
        state=State({"app_state": state}),
        openapi_config=None,
        logging_config=None,
        debug=False,
    )
    contract.check_no_route_conflicts(litestar.routes)
    pool = PoolStats(database.pool.in_use, database.pool.idle_count, database.pool.max_size)
    metrics = None if settings.metrics_port is None else Metrics(pool)
    return HTTPMiddleware(litestar, litestar.routes, CORSPolicy(settings.cors_origins), metrics)


@asynccontextmanager
async def _lifespan(app: Litestar) -> AsyncGenerator[None]:
    state: AppState = app.state.app_state
    await _prepare_database(state)
    try:
        yield
    finally:
        await state.database.close()


async def _prepare_database(state: AppState) -> None:
    """Open a connection, log missing privileges and delete expired idempotency keys.

    A failure is logged and does not stop the service: `/readyz` reports an unavailable database.
    """
    try:
        if missing := await state.database.missing_privileges():
            log.warning("privileges missing", privileges=missing)
        await delete_expired_keys(state.database.fetch)
    except DatabaseUnavailable:
        pass  # already logged
    except Exception as error:  # noqa: BLE001 - no failure may stop the service
        log.warning("housekeeping failed", cause=f"{type(error).__name__}: {error}")
