"""The service of the state machine."""

from __future__ import annotations

from collections.abc import Iterator

import asyncpg
import pytest

from app.settings import Settings
from tests.integration.state_machine.machine import Service


@pytest.fixture
def service(
    settings: Settings,
    database_url: str,
    database: asyncpg.Connection,  # noqa: ARG001 - truncated
) -> Iterator[Service]:
    opened = Service(settings, database_url)
    yield opened
    opened.close()
