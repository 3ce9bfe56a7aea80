"""Alembic, called from the service."""

from __future__ import annotations

import asyncio
from pathlib import Path

from asyncpg import exceptions as pg
from sqlalchemy.exc import DBAPIError

from app.connection import Connection
from app.database import Database, schema_suffices
from app.problems import DatabaseUnavailable

CONFIG = Path(__file__).parent.parent / "pyproject.toml"


class MigrationError(Exception):
    """The schema could not be migrated; the message is written for a person."""


def migrate(connection: Connection) -> None:
    """Bring a database's schema to the newest revision.

    Several processes may do so at once: they wait for each other, and the later ones find
    nothing to do.
    """
    # Alembic takes longer to import than the service needs to start on a database that is ready.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415

    config = Config(toml_file=CONFIG)
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except DBAPIError as error:
        msg = f"The migration failed and was undone: {error.driver_exception}"
        raise MigrationError(msg) from None
    except (TimeoutError, OSError, pg.PostgresError, pg.InterfaceError) as error:
        msg = f"The database cannot be reached: {error}"
        raise MigrationError(msg) from None


def is_current(connection: Connection) -> bool:
    """Whether the schema is one that this version can use."""
    return schema_suffices(revision(connection))


def revision(connection: Connection) -> str | None:
    """The schema's revision, None without a schema or a database."""

    async def ask() -> str | None:
        database = Database(connection, pool_size=1, timeout=4)
        try:
            return await database.revision()
        except DatabaseUnavailable:
            return None
        finally:
            await database.close()

    return asyncio.run(ask())
