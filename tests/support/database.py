"""Choose the database of the tests.

Without DATABASE_URL each worker starts a server. With it, each worker creates databases on that
server, and the service gets all DATABASE_ variables of the environment. The tests connect directly,
without the pooler.
"""

from __future__ import annotations

import os
from typing import Any

import asyncpg
import msgspec
from sqlalchemy.engine import URL, make_url

from app.db.config import DatabaseConfig
from app.settings import Settings

# Read once, because tests change the environment.
DATABASE_VARIABLES = {
    name: value for name, value in os.environ.items() if name.startswith("DATABASE_")
}
UNREACHABLE_URL = "postgresql://nobody@127.0.0.1:1/nothing"


def _server_of(url: URL) -> tuple[object, ...]:
    return url.host, url.port, url.query


def _is_on_external_server(url: str) -> bool:
    """Return whether a URL is on the server of DATABASE_URL, which may be a pooler."""
    return _server_of(make_url(url)) == _server_of(
        make_url(DATABASE_VARIABLES.get("DATABASE_URL", UNREACHABLE_URL))
    )


def direct_url(url: str) -> str:
    """Return the URL that bypasses the pooler, if DATABASE_DIRECT_URL is set."""
    requested = make_url(url)
    behind = (
        make_url(DATABASE_VARIABLES.get("DATABASE_DIRECT_URL", url))
        if _is_on_external_server(url)
        else requested
    )
    result = behind._replace(
        username=requested.username, password=requested.password, database=requested.database
    )
    return result.render_as_string(hide_password=False)


def database_variables(url: str) -> dict[str, str]:
    """Return the environment variables of a service on a test database."""
    behind = {"DATABASE_DIRECT_URL": direct_url(url)} if _is_on_external_server(url) else {}
    common = {
        name: value for name, value in DATABASE_VARIABLES.items() if name != "DATABASE_DIRECT_URL"
    }
    return {**common, **behind, "DATABASE_URL": url}


def settings_for(url: str, **overrides: Any) -> Settings:
    """Return the settings of a service on a test database."""
    return msgspec.structs.replace(Settings.from_env(database_variables(url)), **overrides)


def database_config_for(url: str) -> DatabaseConfig:
    """Return the connection settings of a service on a test database."""
    return settings_for(url).database_config()


async def connect(url: str) -> asyncpg.Connection:
    """Open a direct connection, with its own session even behind a pooler."""
    return await asyncpg.connect(direct_url(url))
