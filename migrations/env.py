"""Alembic environment: online and asynchronous, with one transaction per migration."""

from __future__ import annotations

import asyncio
import os
from time import sleep

from advanced_alchemy.base import metadata_registry
from alembic import context
from sqlalchemy import Connection as SyncConnection
from sqlalchemy import text

import app.asgi  # noqa: F401 - registers every model
from app.db.engine import create_migration_config
from app.db.migrations import CASE_SAMPLES, SCRIPT_LOCATION, require_simple_case_mapping
from app.settings import Settings

# An arbitrary key; no other advisory lock of the database may use it.
MIGRATION_LOCK = 7_230_711_301
LOCK_POLL_INTERVAL = 0.05  # seconds


def run(connection: SyncConnection) -> None:
    """Run the migrations under an advisory lock, which excludes other processes."""
    # A session-level lock spans the transactions of the migrations. Waiting for it in a statement
    # would deadlock with CREATE INDEX CONCURRENTLY, which waits for the end of all statements.
    while not connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": MIGRATION_LOCK}):
        connection.commit()
        sleep(LOCK_POLL_INTERVAL)
    connection.commit()
    try:
        check_case_mapping(connection)
        context.configure(
            connection=connection,
            target_metadata=metadata_registry.get(),
            transaction_per_migration=True,
            compare_type=True,
            compare_server_default=True,
        )
        with context.begin_transaction():
            context.run_migrations()
    finally:
        connection.rollback()
        connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": MIGRATION_LOCK})
        connection.commit()


def check_case_mapping(connection: SyncConnection) -> None:
    """Reject a database whose lower() breaks the contract's search; raises MigrationError."""
    # The first migration rejects other encodings.
    if connection.scalar(text("SHOW server_encoding")) == "UTF8":
        lowered = connection.scalar(text("SELECT lower(:cases)"), {"cases": CASE_SAMPLES})
        require_simple_case_mapping(str(lowered))
    connection.rollback()


async def main() -> None:
    """Connect to the database and run the migrations.

    The service passes its engine; the `alembic` command reads the environment.
    """
    engine = getattr(context.config, "engine", None)
    if engine is None:
        config = Settings.from_env(os.environ).database_config()
        engine = create_migration_config(config, str(SCRIPT_LOCATION)).get_engine()
    try:
        async with engine.connect() as connection:
            await connection.run_sync(run)
    finally:
        await engine.dispose()


asyncio.run(main())
