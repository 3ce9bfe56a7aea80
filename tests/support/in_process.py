"""An application in the test process, and access to its state."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from app.asgi import create_app
from app.state import AppState
from tests.support.client import ContractClient
from tests.support.database import settings_for
from tests.support.lifespan import running


@asynccontextmanager
async def serving(url: str, **settings: Any) -> AsyncIterator[ContractClient]:
    """Start an application on a test database with these settings, and yield its client."""
    asgi_app = create_app(settings_for(url, **settings))
    async with running(asgi_app) as app, ContractClient(app) as client:
        yield client


def app_state_of(client: ContractClient) -> AppState:
    """Return the state of the application of a client."""
    transport: Any = client._transport
    state: AppState = transport.app.app.state.app_state
    return state
