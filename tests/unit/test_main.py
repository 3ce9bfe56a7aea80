"""The application's start and end."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from app.main import create_app
from app.settings import Secret, Settings
from tests.support.lifespan import running

NOWHERE = Settings(database_url=Secret("postgresql://nobody@127.0.0.1:1/nothing"))


@pytest.mark.requirement("FR-033", "FR-041")
async def test_a_start_without_the_database_is_logged_and_goes_on() -> None:
    with capture_logs() as lines:
        async with running(create_app(NOWHERE)) as app:
            assert app.routes
    [line] = lines
    assert line.pop("cause").endswith("Connect call failed ('127.0.0.1', 1)")
    assert line == {"event": "database unavailable", "log_level": "warning"}
