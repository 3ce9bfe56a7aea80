"""The service of the state machine."""

from __future__ import annotations

from collections.abc import Iterator

import asyncpg
import msgspec
import pytest

from app.domain.tasks import repository as tasks
from app.domain.users import repository as users
from app.settings import Settings
from tests.integration.state_machine.machine import Service

POOL_SIZE = 5  # as many connections as requests of a race


@pytest.fixture
def service(
    settings: Settings,
    database_url: str,
    database: asyncpg.Connection,  # noqa: ARG001 - truncated
) -> Iterator[Service]:
    opened = Service(settings, database_url)
    yield opened
    opened.close()


@pytest.fixture
def replicas(
    settings: Settings,
    database_url: str,
    database: asyncpg.Connection,  # noqa: ARG001 - truncated
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Service]:
    """Two replicas that remove tombstones often, and erase in small steps."""
    monkeypatch.setattr(tasks, "DELETES_PER_REMOVAL", 2)
    monkeypatch.setattr(users, "MAX_DELETED", 6)
    settings = msgspec.structs.replace(settings, database_pool_size=POOL_SIZE)
    opened = Service(settings, database_url, replicas=2)
    yield opened
    opened.close()
