"""Alembic, called from the service."""

from __future__ import annotations

import asyncio
from pathlib import Path

from asyncpg import exceptions as pg
from sqlalchemy.exc import DBAPIError

from app.db.config import DatabaseConfig
from app.db.database import Database, is_schema_compatible
from app.db.errors import ReadOnlyDatabaseError, describe_error
from app.http.problems import DatabaseUnavailable

ALEMBIC_CONFIG = Path(__file__).parents[2] / "pyproject.toml"

# Of a schema without USAGE the server does not say that it may not be used (3F000).
_NOT_PERMITTED = {"42501", "3F000"}
MIGRATION_PRIVILEGES = "USAGE and CREATE on the schema, and its tables must belong to it"
GUIDE = 'docs/guides/postgresql.md, "Roles"'

REVISION_TIMEOUT = 15.0  # a suspended database takes a moment


# Turkish and full mappings, with a final sigma or two characters for one, lower these otherwise.
CASE_SAMPLES, EXPECTED_LOWERED = (
    "TITLE \u0130 \u039f\u0394\u039f\u03a3 \u00c9",
    "title i \u03bf\u03b4\u03bf\u03c3 \u00e9",
)
LOCALE_MESSAGE = """\
the database needs the encoding UTF8 and a UTF-8 locale, for example C.UTF-8, whose lower() follows
Unicode's simple case mapping: for '{}' it gives '{}' instead of '{}'. Create it with
CREATE DATABASE tasks TEMPLATE template0 ENCODING 'UTF8' LOCALE_PROVIDER libc LOCALE 'C.UTF-8'"""


class MigrationError(Exception):
    """The schema could not be migrated; the message is written for a person."""


def require_simple_case_mapping(lowered: str) -> None:
    """Raise MigrationError where `lowered` is not what CASES are in lower case."""
    if lowered != EXPECTED_LOWERED:
        raise MigrationError(
            LOCALE_MESSAGE.replace("\n", " ").format(CASE_SAMPLES, lowered, EXPECTED_LOWERED)
        )


def upgrade(config: DatabaseConfig) -> None:
    """Bring a database's schema to the newest revision.

    Several processes may do so at once: they wait for each other, and the later ones find
    nothing to do.
    """
    # Alembic takes longer to import than the service needs to start on a database that is ready.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415

    if config.direct_config().transaction_pooling:
        # The lock by which processes take turns belongs to a session, which it does not keep.
        msg = "Migrations need a direct connection. Set DATABASE_DIRECT_URL to the database itself."
        raise MigrationError(msg)
    alembic_config = Config(toml_file=ALEMBIC_CONFIG)
    alembic_config.attributes["database_config"] = config
    try:
        command.upgrade(alembic_config, "head")
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
    """What a role must be given for a migration that it was not permitted."""
    if getattr(error.driver_exception, "sqlstate", None) not in _NOT_PERMITTED:
        return ""
    return f". The role needs {MIGRATION_PRIVILEGES} ({GUIDE})."


def has_compatible_schema(config: DatabaseConfig) -> bool:
    """Whether the schema is one that this version can use."""
    return is_schema_compatible(get_revision(config))


def get_revision(config: DatabaseConfig) -> str | None:
    """The schema's revision, None without a schema.

    Raises MigrationError, which tells the cause, when the database does not answer, is read-only,
    or does not grant what serving needs.
    """

    async def fetch_revision() -> str | None:
        database = Database(config, pool_size=1, timeout=REVISION_TIMEOUT)
        database.outage_logger.silenced = True  # told below, once
        try:
            if missing := await database.missing_privileges():
                msg = f"The role lacks {', '.join(missing)} ({GUIDE})."
                raise MigrationError(msg)
            return await database.schema_revision()
        except ReadOnlyDatabaseError:
            msg = "The database is read-only."
            raise MigrationError(msg) from None
        except DatabaseUnavailable:
            msg = f"The database cannot be reached: {database.outage_logger.cause}"
            raise MigrationError(msg) from None
        finally:
            await database.close()

    return asyncio.run(fetch_revision())
