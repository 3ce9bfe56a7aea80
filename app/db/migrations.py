"""Schema migrations with Alembic, and the check of the schema at startup."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from asyncpg import exceptions as pg
from sqlalchemy.exc import DBAPIError

from app.db.config import DatabaseConfig
from app.db.database import Database, is_schema_compatible
from app.db.engine import create_migration_config
from app.db.errors import ReadOnlyDatabaseError, describe_error
from app.http.problems import DatabaseUnavailable

SCRIPT_LOCATION = Path(__file__).parents[2] / "migrations"

# Without USAGE on a schema, the server reports that the schema does not exist (3F000).
_NOT_PERMITTED = {"42501", "3F000"}
MIGRATION_PRIVILEGES = "USAGE and CREATE on the schema, and its tables must belong to it"
GUIDE = 'docs/guides/postgresql.md, "Roles"'

REVISION_TIMEOUT = 15.0  # a suspended database may take seconds to start
EPOCHS_TIMEOUT = 600.0  # one row per user is written

ResultT = TypeVar("ResultT")

# Turkish and full case mappings lower these differently: a final sigma, two characters for one.
CASE_SAMPLES, EXPECTED_LOWERED = (
    "TITLE \u0130 \u039f\u0394\u039f\u03a3 \u00c9",
    "title i \u03bf\u03b4\u03bf\u03c3 \u00e9",
)
LOCALE_MESSAGE = """\
the database needs the encoding UTF8 and a UTF-8 locale, for example C.UTF-8, whose lower() follows
Unicode's simple case mapping: for '{}' it gives '{}' instead of '{}'. Create it with
CREATE DATABASE tasks TEMPLATE template0 ENCODING 'UTF8' LOCALE_PROVIDER libc LOCALE 'C.UTF-8'"""


class MigrationError(Exception):
    """The schema could not be migrated. The message is for the operator."""


def require_simple_case_mapping(lowered: str) -> None:
    """Raise MigrationError unless `lowered` is EXPECTED_LOWERED.

    `lowered` is what the database returns for `lower(CASE_SAMPLES)`.
    """
    if lowered != EXPECTED_LOWERED:
        raise MigrationError(
            LOCALE_MESSAGE.replace("\n", " ").format(CASE_SAMPLES, lowered, EXPECTED_LOWERED)
        )


def upgrade(config: DatabaseConfig) -> None:
    """Upgrade a database's schema to the newest revision. Raises MigrationError.

    Several processes may call this concurrently: a lock orders them.
    """
    # Deferred: importing Alembic takes longer than the rest of the startup.
    from advanced_alchemy.alembic.commands import AlembicCommands  # noqa: PLC0415

    if config.direct_config().transaction_pooling:
        # The migration lock belongs to a session, which a transaction pooler does not keep.
        msg = "Migrations need a direct connection. Set DATABASE_DIRECT_URL to the database itself."
        raise MigrationError(msg)
    commands = AlembicCommands(create_migration_config(config, str(SCRIPT_LOCATION)))
    try:
        commands.upgrade("head")
    except DBAPIError as error:
        if error.statement is None:
            msg = f"The database cannot be reached: {describe_error(error.driver_exception)}"
        else:
            cause = f"{error.driver_exception}{_remedy(error)}"
            msg = f"The migration failed and was rolled back: {cause}"
        raise MigrationError(msg) from None
    except (TimeoutError, OSError, pg.PostgresError, pg.InterfaceError) as error:
        msg = f"The database cannot be reached: {describe_error(error)}"
        raise MigrationError(msg) from None


def _remedy(error: DBAPIError) -> str:
    """Describe the privileges that the role needs, if they were the cause of an error."""
    if getattr(error.driver_exception, "sqlstate", None) not in _NOT_PERMITTED:
        return ""
    return f". The role needs {MIGRATION_PRIVILEGES} ({GUIDE})."


def has_compatible_schema(config: DatabaseConfig) -> bool:
    """Return whether this version can use the schema. Raises MigrationError."""
    return is_schema_compatible(get_revision(config))


def get_revision(config: DatabaseConfig) -> str | None:
    """Return the schema's revision, or None if there is no schema.

    Raises MigrationError with the cause if the database is unavailable or read-only, or if the
    role lacks a privilege that the service needs.
    """
    return run(config, REVISION_TIMEOUT, Database.schema_revision)


def renew_epochs(config: DatabaseConfig) -> int:
    """Give every user another epoch, and return the number of users.

    Raises the exceptions of `get_revision`.
    """
    return run(config, EPOCHS_TIMEOUT, Database.renew_epochs)


def run(
    config: DatabaseConfig, timeout: float, action: Callable[[Database], Awaitable[ResultT]]
) -> ResultT:
    """Return the result of an action whose statements have a time limit.

    Raises the exceptions of `get_revision` and of the action.
    """
    return asyncio.run(_run(config, timeout, action))


async def _run(
    config: DatabaseConfig, timeout: float, action: Callable[[Database], Awaitable[ResultT]]
) -> ResultT:
    database = Database(config, pool_size=1, timeout=timeout)
    database.outage_logger.silenced = True  # the exception below has the cause
    try:
        if missing := await database.missing_privileges():
            msg = f"The role lacks {', '.join(missing)} ({GUIDE})."
            raise MigrationError(msg)
        return await action(database)
    except ReadOnlyDatabaseError:
        msg = "The database is read-only."
        raise MigrationError(msg) from None
    except DatabaseUnavailable:
        msg = f"The database cannot be reached: {database.outage_logger.cause}"
        raise MigrationError(msg) from None
    finally:
        await database.close()
