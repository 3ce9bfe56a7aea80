"""A service that has notes: two arguments of the wiring differ, and no module of the service."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from advanced_alchemy.base import metadata_registry
from sqlalchemy.dialects.postgresql.asyncpg import dialect
from sqlalchemy.schema import CreateIndex, CreateTable

import app.asgi
from app.asgi import create_app
from app.openapi.document import OpenAPIDocument
from tests.integration.notes.controller import NoteController
from tests.integration.notes.openapi import contract_with_notes
from tests.support.client import ContractClient
from tests.support.contract_check import ContractCheck
from tests.support.database import connect, settings_for
from tests.support.lifespan import running


class NotesClient(ContractClient):
    """A client that checks every response against the contract with notes."""

    contract = ContractCheck(contract_with_notes().document)


@asynccontextmanager
async def serving_notes(url: str, **settings: Any) -> AsyncIterator[NotesClient]:
    """A client of a service with notes."""
    with pytest.MonkeyPatch.context() as patched:
        contract = contract_with_notes()
        patched.setattr(OpenAPIDocument, "load", lambda: contract)
        # In the service this is one more line of `app/asgi.py`.
        patched.setattr(app.asgi, "ROUTE_HANDLERS", (*app.asgi.ROUTE_HANDLERS, NoteController))
        made = create_app(settings_for(url, **settings))
    async with running(made) as started, NotesClient(started) as client:
        yield client


@pytest.fixture
async def notes_url(url: str) -> AsyncIterator[str]:
    """A database of this module with an empty table of notes."""
    opened = await connect(url)
    await create_table(opened)
    yield url
    await opened.execute("DROP TABLE notes")
    await opened.execute("TRUNCATE idempotency_keys")
    await opened.close()


async def create_table(connection: asyncpg.Connection) -> None:
    """Do what the migration of notes would do."""
    table = metadata_registry.get("notes").tables["notes"]
    written = dialect()  # type: ignore[no-untyped-call]
    await connection.execute(str(CreateTable(table).compile(dialect=written)))
    for index in table.indexes:
        await connection.execute(str(CreateIndex(index).compile(dialect=written)))


@pytest.fixture
async def notes(notes_url: str) -> AsyncIterator[NotesClient]:
    """A client of a service with notes and at most four connections."""
    async with serving_notes(notes_url, database_pool_size=4) as client:
        yield client
