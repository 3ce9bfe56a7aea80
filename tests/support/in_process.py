"""A service of its own in the process of the tests, and what is inside of it."""

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
    """A client of a service on a database of the tests, with these settings."""
    made = create_app(settings_for(url, **settings))
    async with running(made) as app, ContractClient(app) as client:
        yield client


def core_of(client: ContractClient) -> AppState:
    """The parts of the service that a client is one of."""
    transport: Any = client._transport
    found: AppState = transport.app.app.state.core
    return found
