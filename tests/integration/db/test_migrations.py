"""The migrations, through Alembic's own interface and through the command line."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from advanced_alchemy.alembic.commands import AlembicCommands
from advanced_alchemy.base import orm_registry
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError

import app.asgi  # noqa: F401 - registers every model
from app.db.database import SCHEMA_REVISION
from app.db.engine import create_migration_config
from app.db.migrations import SCRIPT_LOCATION, MigrationError, upgrade
from tests.support import process
from tests.support.database import connect, connection_to
from tests.support.process import ROOT, execute, fetch, run, scratch_database, serving

VERSIONS = ROOT / "migrations/versions"
LOCK = 7_230_711_301
# What has been released is never edited: databases out there have been through it.
RELEASED = {
    "0001_tasks.py": "5713d409556d693f23600a48a4dba4d06054e83d65fa4aed8cedc70f41dc5169",
    "0002_idempotency_keys.py": "5a909f7cfd309bbf7315688c0c81c0d4879eaa4d26d1bbb6081e022c45e08b70",
}
# Every object of a schema, and everything about it that PostgreSQL can say in words.
CATALOG = """
    SELECT 'relation', c.relname::text, c.relkind::text, c.relpersistence::text,
           coalesce(array_to_string(c.reloptions, ','), ''), c.relrowsecurity::text
    FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace
    UNION ALL
    SELECT 'column', a.attrelid::regclass::text, a.attname::text || ' ' || a.attnum,
           format_type(a.atttypid, a.atttypmod)
           || CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END,
           coalesce(pg_get_expr(d.adbin, d.adrelid), '')
           || a.attgenerated::text || a.attidentity::text,
           coalesce(a.attcollation::regcollation::text, '')
    FROM pg_attribute a
    JOIN pg_class c ON c.oid = a.attrelid AND c.relnamespace = 'public'::regnamespace
    LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE a.attnum > 0 AND c.relkind IN ('r', 'p', 'v', 'm')
    UNION ALL
    SELECT 'constraint', conrelid::regclass::text, conname::text, pg_get_constraintdef(oid),
           convalidated::text, condeferrable::text
    FROM pg_constraint WHERE connamespace = 'public'::regnamespace
    UNION ALL
    SELECT 'index', indrelid::regclass::text, indexrelid::regclass::text,
           pg_get_indexdef(indexrelid), indisvalid::text, indisunique::text
    FROM pg_index JOIN pg_class c ON c.oid = indrelid
    WHERE c.relnamespace = 'public'::regnamespace
    UNION ALL
    SELECT 'function', proname::text, pg_get_functiondef(oid), '', '', ''
    FROM pg_proc WHERE pronamespace = 'public'::regnamespace
    UNION ALL
    SELECT 'trigger', tgrelid::regclass::text, tgname::text, pg_get_triggerdef(oid), '', ''
    FROM pg_trigger
    UNION ALL
    SELECT 'type', typname::text, typtype::text, '', '', ''
    FROM pg_type WHERE typnamespace = 'public'::regnamespace
    UNION ALL
    SELECT 'extension', extname::text, '', '', '', '' FROM pg_extension
    UNION ALL
    SELECT 'schema', nspname::text, '', '', '', '' FROM pg_namespace WHERE nspname !~ '^pg_'
    ORDER BY 1, 2, 3
"""


@pytest.fixture
def url(server_url: str) -> Iterator[str]:
    """An empty database."""
    with scratch_database(server_url) as scratch:
        yield scratch


def configuration(url: str, scripts: Path = SCRIPT_LOCATION) -> Config:
    return AlembicCommands(create_migration_config(connection_to(url), str(scripts))).config


def catalog(url: str) -> list[tuple[object, ...]]:
    """Every object of a database's schema but Alembic's own."""
    return [
        row
        for row in fetch(url, CATALOG)
        if not any(re.match("_?alembic_version", str(word)) for word in row[1:3])
    ]


def revisions(url: str) -> list[tuple[object, ...]]:
    return fetch(url, "SELECT version_num FROM alembic_version")


# --- the shipped migrations --------------------------------------------------------------------


@pytest.mark.requirement("FR-039")
def test_there_is_one_head_and_it_is_the_revision_that_the_service_needs() -> None:
    scripts = ScriptDirectory(str(SCRIPT_LOCATION))
    assert scripts.get_heads() == [SCHEMA_REVISION]
    assert len(scripts.get_bases()) == 1


@pytest.mark.requirement("FR-039")
def test_a_migration_that_was_released_is_as_it_was() -> None:
    found = {path.name: sha256(path.read_bytes()).hexdigest() for path in VERSIONS.glob("*.py")}
    assert found == RELEASED


@pytest.mark.requirement("FR-039")
def test_down_to_nothing_leaves_no_trace_and_up_again_is_the_same(url: str) -> None:
    nothing = catalog(url)
    upgrade(connection_to(url))
    everything = catalog(url)
    command.downgrade(configuration(url), "base")
    assert catalog(url) == nothing
    assert revisions(url) == []
    upgrade(connection_to(url))
    assert catalog(url) == everything
    assert revisions(url) == [(SCHEMA_REVISION,)]


@pytest.mark.requirement("FR-039")
def test_the_catalog_of_these_tests_sees_the_schema(url: str) -> None:
    nothing = catalog(url)
    upgrade(connection_to(url))
    kinds = {str(row[0]) for row in set(catalog(url)) - set(nothing)}
    assert kinds == {"relation", "column", "constraint", "index", "type"}


@pytest.mark.requirement("FR-039")
def test_a_migration_on_the_newest_revision_changes_nothing(url: str) -> None:
    upgrade(connection_to(url))
    before = catalog(url)
    upgrade(connection_to(url))
    assert catalog(url) == before


@pytest.mark.requirement("FR-039")
def test_the_models_make_the_schema_that_the_migrations_make(server_url: str, url: str) -> None:
    async def create_all(scratch: str) -> None:
        engine = create_migration_config(connection_to(scratch), "").get_engine()
        async with engine.begin() as connection:
            await connection.run_sync(orm_registry.metadata.create_all)
        await engine.dispose()

    upgrade(connection_to(url))
    with scratch_database(server_url) as scratch:
        asyncio.run(create_all(scratch))
        assert catalog(scratch) == catalog(url)


@pytest.mark.requirement("FR-039")
def test_alembic_finds_nothing_to_migrate(url: str) -> None:
    upgrade(connection_to(url))
    command.check(configuration(url))  # raises where models and schema differ


# --- failing and waiting -----------------------------------------------------------------------

NEXT = '''
"""A revision after the newest.

Revision: 9999
After: {newest}
"""

from alembic import op

revision = "9999"
down_revision = "{newest}"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '{limit}'")
    op.execute("CREATE TABLE others (id int)")
    op.execute("{statement}")
'''


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    """A copy of the migrations to which a revision can be added."""
    copy = tmp_path / "migrations"
    shutil.copytree(ROOT / "migrations", copy, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def add_next(scripts: Path, statement: str, limit: str = "5s") -> None:
    revision = NEXT.format(newest=SCHEMA_REVISION, statement=statement, limit=limit)
    (scripts / "versions/9999_next.py").write_text(revision, "utf-8")


@pytest.mark.requirement("FR-039")
def test_a_migration_that_fails_leaves_nothing_behind(url: str, scripts: Path) -> None:
    upgrade(connection_to(url))
    before = catalog(url)
    add_next(scripts, "INSERT INTO nowhere VALUES (1)")
    with pytest.raises(DBAPIError, match="nowhere"):
        command.upgrade(configuration(url, scripts), "head")
    assert catalog(url) == before
    assert revisions(url) == [(SCHEMA_REVISION,)]


@pytest.mark.requirement("FR-039")
def test_migrations_before_the_one_that_fails_are_kept(url: str, scripts: Path) -> None:
    add_next(scripts, "INSERT INTO nowhere VALUES (1)")
    with pytest.raises(DBAPIError, match="nowhere"):
        command.upgrade(configuration(url, scripts), "head")
    assert revisions(url) == [(SCHEMA_REVISION,)]
    assert fetch(url, "SELECT to_regclass('tasks')::text, to_regclass('others')::text") == [
        ("tasks", None)
    ]


@pytest.mark.requirement("FR-039")
def test_a_migration_that_fails_gives_the_turn_to_the_next(url: str, scripts: Path) -> None:
    add_next(scripts, "INSERT INTO nowhere VALUES (1)")
    with pytest.raises(DBAPIError, match="nowhere"):
        command.upgrade(configuration(url, scripts), "head")
    add_next(scripts, "INSERT INTO others VALUES (1)")
    command.upgrade(configuration(url, scripts), "head")
    assert revisions(url) == [("9999",)]


@pytest.mark.requirement("FR-039")
def test_a_migration_that_waits_for_a_lock_gives_up_and_leaves_nothing(
    url: str, scripts: Path
) -> None:
    upgrade(connection_to(url))
    before = catalog(url)
    add_next(scripts, "ALTER TABLE tasks ADD COLUMN more int", limit="300ms")

    async def while_locked() -> None:
        other = await connect(url)
        await other.execute("BEGIN; SELECT FROM tasks")
        upgrade = asyncio.to_thread(command.upgrade, configuration(url, scripts), "head")
        with pytest.raises(DBAPIError, match="lock timeout"):
            await asyncio.wait_for(upgrade, 10)
        await other.close()

    asyncio.run(while_locked())
    assert catalog(url) == before
    assert revisions(url) == [(SCHEMA_REVISION,)]


@pytest.mark.requirement("FR-039")
@pytest.mark.parametrize("direction", ["upgrade", "downgrade"])
def test_every_released_migration_waits_five_seconds_for_a_lock(direction: str) -> None:
    bodies = [
        re.search(rf"(?ms)^def {direction}\(\).*?(?=^def |\Z)", path.read_text("utf-8"))
        for path in sorted(VERSIONS.glob("*.py"))
    ]
    first_statements = [re.search(r"op\.\w+\((.*)\)", body[0]) for body in bodies if body]
    expected = "\"SET LOCAL lock_timeout = '5s'\""
    assert [found and found[1] for found in first_statements] == [expected] * len(RELEASED)


@pytest.mark.requirement("FR-039")
def test_a_downgrade_that_waits_for_a_lock_gives_up_after_five_seconds(url: str) -> None:
    upgrade(connection_to(url))
    before = catalog(url)

    async def while_locked() -> float:
        other = await connect(url)
        await other.execute("BEGIN; SELECT FROM tasks, idempotency_keys")
        loop = asyncio.get_running_loop()
        started = loop.time()
        downgrade = asyncio.to_thread(command.downgrade, configuration(url), "base")
        with pytest.raises(DBAPIError, match="lock timeout"):
            await asyncio.wait_for(downgrade, 10)
        took = loop.time() - started
        await other.close()
        return took

    assert 4.9 < asyncio.run(while_locked()) < 7
    assert catalog(url) == before
    assert revisions(url) == [(SCHEMA_REVISION,)]


# --- databases that cannot be used -------------------------------------------------------------

NEEDS = "the database needs the encoding UTF8 and a UTF-8 locale, for example C.UTF-8"


@pytest.mark.requirement("FR-039")
@pytest.mark.parametrize(
    "options",
    [
        "TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE_PROVIDER libc LOCALE 'C'",
        "TEMPLATE template0 ENCODING 'UTF8' LOCALE_PROVIDER libc LOCALE 'C'",
        "TEMPLATE template0 ENCODING 'LATIN1' LOCALE_PROVIDER libc LOCALE 'C'",
    ],
    ids=["SQL_ASCII", "locale C", "LATIN1"],
)
def test_a_database_that_does_not_know_letters_is_refused_and_left_alone(
    server_url: str, options: str
) -> None:
    with scratch_database(server_url, options) as url:
        before = fetch(url, CATALOG)
        with pytest.raises((DBAPIError, MigrationError), match=NEEDS):
            command.upgrade(configuration(url), "head")
        assert fetch(url, CATALOG) == before


# Other locales, as functions that stand before the server's own in the search path: no server has
# all of them.
LOWER = """
    CREATE FUNCTION public.lower(text) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT {} $$;
    ALTER DATABASE {} SET search_path = public, pg_catalog
"""
LOCALES = {
    "Turkish": "pg_catalog.lower(translate($1, 'I\u0130', '\u0131i'))",
    "full mapping": "pg_catalog.lower(replace($1, '\u0130', 'i\u0307'))",
    "final sigma": "regexp_replace(pg_catalog.lower($1), '\u03c3\\M', '\u03c2', 'g')",
}


@pytest.mark.requirement("FR-019", "FR-039")
@pytest.mark.parametrize("name", LOCALES)
def test_a_database_that_lowers_letters_otherwise_is_refused_and_left_alone(
    server_url: str, name: str
) -> None:
    with scratch_database(server_url) as url:
        execute(url, *LOWER.format(LOCALES[name], make_url(url).database).split(";"))
        before = fetch(url, CATALOG)
        done = run("migrate", DATABASE_URL=url)
        assert done.returncode == 1
        assert NEEDS in done.stderr
        assert "Traceback" not in done.stderr
        assert fetch(url, CATALOG) == before


ALWAYS = "SELECT true"
SINCE_17 = "SELECT current_setting('server_version_num')::int >= 170000"
SINCE_18 = "SELECT current_setting('server_version_num')::int >= 180000"
WITH_ICU = "SELECT EXISTS (SELECT FROM pg_collation WHERE collname LIKE 'tr-%')"
# The options of a database, whether it is accepted, and whether a server offers it.
OFFERED = [
    ("LOCALE_PROVIDER libc LOCALE 'C.UTF-8'", True, ALWAYS),
    ("LOCALE 'C' LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8'", True, SINCE_17),
    ("LOCALE 'C' LOCALE_PROVIDER builtin BUILTIN_LOCALE 'PG_UNICODE_FAST'", False, SINCE_18),
    ("LOCALE 'C' LOCALE_PROVIDER icu ICU_LOCALE 'en-US'", False, WITH_ICU),
    ("LOCALE 'C' LOCALE_PROVIDER icu ICU_LOCALE 'tr'", False, WITH_ICU),
]


@pytest.mark.requirement("FR-019", "FR-039")
def test_of_the_locales_of_a_server_those_with_the_simple_mapping_are_accepted(
    server_url: str,
) -> None:
    for options, accepted, is_offered in OFFERED:
        if fetch(server_url, is_offered) == [(False,)]:
            continue
        with scratch_database(server_url, f"TEMPLATE template0 ENCODING 'UTF8' {options}") as url:
            done = run("migrate", DATABASE_URL=url)
            assert (done.returncode == 0, NEEDS in done.stderr) == (accepted, not accepted)


# --- processes ---------------------------------------------------------------------------------


@pytest.mark.requirement("FR-039")
def test_the_command_migrates_and_says_so(url: str) -> None:
    done = run("migrate", DATABASE_URL=url)
    assert done.returncode == 0, done.stderr
    assert f"The schema is at revision {SCHEMA_REVISION}: postgresql" in done.stdout
    assert revisions(url) == [(SCHEMA_REVISION,)]


@pytest.mark.requirement("FR-039")
def test_processes_that_migrate_at_once_take_turns(url: str) -> None:
    async def while_somebody_has_the_turn() -> list[int | None]:
        holder = await connect(url)
        await holder.execute(f"SELECT pg_advisory_lock({LOCK})")
        migrations = [
            await asyncio.create_subprocess_exec(
                *process.command("migrate"), cwd=ROOT, env=process.environment(DATABASE_URL=url)
            )
            for _ in range(2)
        ]
        waiting = "SELECT count(*) = 2 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        await process.until(lambda: holder.fetchval(waiting), process.START_SECONDS)
        assert await holder.fetchval("SELECT to_regclass('alembic_version')") is None
        await holder.close()
        return [
            await asyncio.wait_for(migration.wait(), process.START_SECONDS)
            for migration in migrations
        ]

    assert asyncio.run(while_somebody_has_the_turn()) == [0, 0]
    assert revisions(url) == [(SCHEMA_REVISION,)]


@pytest.mark.requirement("FR-039", "FR-035")
def test_a_database_that_is_given_is_not_migrated_by_the_service(url: str) -> None:
    before = fetch(url, CATALOG)
    with serving(DATABASE_URL=url) as service:
        assert service.stop() == 0
    assert fetch(url, CATALOG) == before


@pytest.mark.requirement("FR-039", "FR-037")
def test_a_migration_that_is_refused_is_told_in_a_sentence(server_url: str) -> None:
    options = "TEMPLATE template0 ENCODING 'UTF8' LOCALE_PROVIDER libc LOCALE 'C'"
    with scratch_database(server_url, options) as url:
        done = run("migrate", DATABASE_URL=url)
    assert done.returncode == 1
    assert NEEDS in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.requirement("FR-039", "FR-037", "FR-028")
def test_a_migration_without_a_database_is_told_in_a_sentence(tmp_path: Path) -> None:
    done = run("migrate", DATABASE_URL=f"postgresql://tasks@/tasks?host={tmp_path}&port=5432")
    assert done.returncode == 1
    assert done.stderr.strip()
    assert "Traceback" not in done.stderr


# --- the template ------------------------------------------------------------------------------


@pytest.mark.requirement("FR-039")
def test_a_new_revision_has_the_limit_and_a_place_for_its_safety(url: str, scripts: Path) -> None:
    upgrade(connection_to(url))
    command.revision(configuration(url, scripts), message="More columns", rev_id="9999")
    made = scripts / "versions/9999_more_columns.py"
    source = made.read_text("utf-8")
    assert source.startswith('"""More columns\n\nLock and deploy safety: SAY HERE')
    assert source.count("""op.execute("SET LOCAL lock_timeout = '5s'")""") == 2
    command.upgrade(configuration(url, scripts), "head")
    assert revisions(url) == [("9999",)]
    command.downgrade(configuration(url, scripts), SCHEMA_REVISION)
    assert revisions(url) == [(SCHEMA_REVISION,)]


@pytest.mark.requirement("FR-039")
def test_a_new_revision_can_be_made_from_the_models(url: str, scripts: Path) -> None:
    upgrade(connection_to(url))
    execute(url, "DROP INDEX ix_tasks_search")
    before = catalog(url)
    command.revision(configuration(url, scripts), "Search", autogenerate=True, rev_id="9999")
    command.upgrade(configuration(url, scripts), "head")
    assert [row[2] for row in catalog(url) if row not in before and row[0] == "index"] == [
        "ix_tasks_search"
    ]
