"""Alembic, called from the service."""

from __future__ import annotations

import asyncio
from pathlib import Path

from asyncpg import exceptions as pg
from sqlalchemy.exc import DBAPIError

from app.db.config import Connection
from app.db.database import Database, schema_suffices
from app.db.errors import ReadOnlyDatabaseError, cause
from app.http.problems import DatabaseUnavailable

CONFIG = Path(__file__).parents[2] / "pyproject.toml"

# Of a schema without USAGE the server does not say that it may not be used (3F000).
_NOT_PERMITTED = {"42501", "3F000"}
PRIVILEGES_TO_MIGRATE = "USAGE and CREATE on the schema, and its tables must belong to it"
GUIDE = 'README, "Database roles"'

REVISION_SECONDS = 15.0  # a suspended database takes a moment


# Turkish and full mappings, with a final sigma or two characters for one, lower these otherwise.
CASES, LOWERED = (
    "TITLE \u0130 \u039f\u0394\u039f\u03a3 \u00c9",
    "title i \u03bf\u03b4\u03bf\u03c3 \u00e9",
)
LOCALE = """\
the database needs the encoding UTF8 and a UTF-8 locale, for example C.UTF-8, whose lower() follows
Unicode's simple case mapping: for '{}' it gives '{}' instead of '{}'. Create it with
CREATE DATABASE tasks TEMPLATE template0 ENCODING 'UTF8' LOCALE_PROVIDER libc LOCALE 'C.UTF-8'"""


class MigrationError(Exception):
    """The schema could not be migrated; the message is written for a person."""


def require_simple_case_mapping(lowered: str) -> None:
    """Raise MigrationError where `lowered` is not what CASES are in lower case."""
    if lowered != LOWERED:
        raise MigrationError(LOCALE.replace("\n", " ").format(CASES, lowered, LOWERED))


def migrate(connection: Connection) -> None:
    """Bring a database's schema to the newest revision.

    Several processes may do so at once: they wait for each other, and the later ones find
    nothing to do.
    """
    # Alembic takes longer to import than the service needs to start on a database that is ready.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415

    if connection.direct().pooler:
        # The lock by which processes take turns belongs to a session, which it does not keep.
        msg = "A pooler cannot be migrated through. Set DATABASE_DIRECT_URL to what is behind it."
        raise MigrationError(msg)
    config = Config(toml_file=CONFIG)
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except DBAPIError as error:
        if error.statement is None:
            msg = f"The database cannot be reached: {cause(error.driver_exception)}"
        else:
            msg = f"The migration failed and was undone: {error.driver_exception}{_remedy(error)}"
        raise MigrationError(msg) from None
    except (TimeoutError, OSError, pg.PostgresError, pg.InterfaceError) as error:
        msg = f"The database cannot be reached: {cause(error)}"
        raise MigrationError(msg) from None


def _remedy(error: DBAPIError) -> str:
    """What a role must be given for a migration that it was not permitted."""
    if getattr(error.driver_exception, "sqlstate", None) not in _NOT_PERMITTED:
        return ""
    return f". The role needs {PRIVILEGES_TO_MIGRATE} ({GUIDE})."


def is_current(connection: Connection) -> bool:
    """Whether the schema is one that this version can use."""
    return schema_suffices(revision(connection))


def revision(connection: Connection) -> str | None:
    """The schema's revision, None without a schema.

    Raises MigrationError, which tells the cause, when the database does not answer, is read-only,
    or does not grant what serving needs.
    """

    async def ask() -> str | None:
        database = Database(connection, pool_size=1, timeout=REVISION_SECONDS)
        database.outage.is_quiet = True  # told below, once
        try:
            if missing := await database.missing_privileges():
                msg = f"The role lacks {', '.join(missing)} ({GUIDE})."
                raise MigrationError(msg)
            return await database.revision()
        except ReadOnlyDatabaseError:
            msg = "The database is read-only."
            raise MigrationError(msg) from None
        except DatabaseUnavailable:
            msg = f"The database cannot be reached: {database.outage.cause}"
            raise MigrationError(msg) from None
        finally:
            await database.close()

    return asyncio.run(ask())
