"""The migrations, through the Alembic API and through the command line."""

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
from tests.support.database import connect, database_config_for
from tests.support.process import ROOT, execute, fetch, run, scratch_database, serving

VERSIONS = ROOT / "migrations/versions"
LOCK = 7_230_711_301
PREVIOUS = "0010"  # the revision before the newest
# Released migrations must not change, because databases have already run them.
RELEASED = {
    "0001_tasks.py": "5713d409556d693f23600a48a4dba4d06054e83d65fa4aed8cedc70f41dc5169",
    "0002_idempotency_keys.py": "5a909f7cfd309bbf7315688c0c81c0d4879eaa4d26d1bbb6081e022c45e08b70",
    "0003_lists.py": "d29201b62856e262a8a243323aa5db6809162966cda8621f179d4e681a7e6ff1",
    "0004_task_properties.py": "8d4126112357c9bf7592b366c452dc9692af992695403ede038d748c049cafbd",
    "0005_task_indexes.py": "d7176947807d5d9d75412127672c56d1bba0ddf4d49dbf7d4b191858930621f0",
    "0006_task_parents.py": "871fb57651b7c9df4bba1b307cc905f74caa680bc58406ad035f6e50eb20b3da",
    "0007_valid_constraints.py": "e46e1de93facae5278997e0b836ca5a2b0187b8ef8161ac6f505cde18c508c6d",
    "0008_revisions.py": "c3cf1fe7f953eb11809815449022163d503e1cbd8a8df4057dc0c2735eb06d20",
    "0009_list_revisions.py": "7b56a2421b4fa3b9a9713d0f04a7eb804b6b840a3515099665e28b86f9b3fed5",
    "0010_batch_responses.py": "53961c107d9c8e43b36cfff505e225159aeb1584c62fadb916b14900862343b8",
    "0011_revision_indexes.py": "97bd50164cbe028dfd6743af0ce2fa698fea7a9844e9a32404214626c76c0811",
}
# Every object of a schema, with its definition as text.
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
    SELECT 'statistics', stxrelid::regclass::text, stxname::text, pg_get_statisticsobjdef(oid),
           '', ''
    FROM pg_statistic_ext WHERE stxnamespace = 'public'::regnamespace
    UNION ALL
    SELECT 'function', proname::text, pg_get_functiondef(oid), '', '', ''
    FROM pg_proc WHERE pronamespace = 'public'::regnamespace
    UNION ALL
    SELECT 'trigger', tgrelid::regclass::text, tgname::text, pg_get_triggerdef(oid), '', ''
    FROM pg_trigger WHERE NOT tgisinternal
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
    return AlembicCommands(create_migration_config(database_config_for(url), str(scripts))).config


def catalog(url: str) -> list[tuple[object, ...]]:
    """Return every object of a schema, except the table of Alembic."""
    return [
        row
        for row in fetch(url, CATALOG)
        if not any(re.match("_?alembic_version", str(name)) for name in row[1:3])
    ]


def revisions(url: str) -> list[tuple[object, ...]]:
    return fetch(url, "SELECT version_num FROM alembic_version")


# --- the shipped migrations --------------------------------------------------------------------


@pytest.mark.requirement("FR-039")
def test_single_head_is_the_required_revision() -> None:
    scripts = ScriptDirectory(str(SCRIPT_LOCATION))
    assert scripts.get_heads() == [SCHEMA_REVISION]
    assert len(scripts.get_bases()) == 1


@pytest.mark.requirement("FR-039")
def test_released_migrations_are_unchanged() -> None:
    checksums = {path.name: sha256(path.read_bytes()).hexdigest() for path in VERSIONS.glob("*.py")}
    assert checksums == RELEASED


@pytest.mark.requirement("FR-039")
def test_downgrade_to_base_and_upgrade_again(url: str) -> None:
    nothing = catalog(url)
    upgrade(database_config_for(url))
    objects = catalog(url)
    command.downgrade(configuration(url), "base")
    assert catalog(url) == nothing
    assert revisions(url) == []
    upgrade(database_config_for(url))
    assert catalog(url) == objects
    assert revisions(url) == [(SCHEMA_REVISION,)]


@pytest.mark.requirement("FR-039")
def test_catalog_query_covers_the_schema(url: str) -> None:
    nothing = catalog(url)
    upgrade(database_config_for(url))
    types = {str(row[0]) for row in set(catalog(url)) - set(nothing)}
    assert types == {"relation", "column", "constraint", "index", "statistics", "type"}


@pytest.mark.requirement("FR-039")
def test_upgrade_of_the_newest_revision_changes_nothing(url: str) -> None:
    upgrade(database_config_for(url))
    before = catalog(url)
    upgrade(database_config_for(url))
    assert catalog(url) == before


@pytest.mark.requirement("FR-039")
def test_models_create_the_schema_of_the_migrations(server_url: str, url: str) -> None:
    async def create_all(scratch: str) -> None:
        engine = create_migration_config(database_config_for(scratch), "").get_engine()
        async with engine.begin() as connection:
            await connection.run_sync(orm_registry.metadata.create_all)
        await engine.dispose()

    upgrade(database_config_for(url))
    with scratch_database(server_url) as scratch:
        asyncio.run(create_all(scratch))
        assert catalog(scratch) == catalog(url)


@pytest.mark.requirement("FR-039")
def test_alembic_finds_no_difference(url: str) -> None:
    upgrade(database_config_for(url))
    command.check(configuration(url))  # raises where models and schema differ


# --- failures and locks ------------------------------------------------------------------------

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
    """A copy of the migrations, to add a revision."""
    copy = tmp_path / "migrations"
    shutil.copytree(ROOT / "migrations", copy, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def add_next(scripts: Path, statement: str, limit: str = "5s") -> None:
    revision = NEXT.format(newest=SCHEMA_REVISION, statement=statement, limit=limit)
    (scripts / "versions/9999_next.py").write_text(revision, "utf-8")


@pytest.mark.requirement("FR-039")
def test_failed_migration_leaves_nothing(url: str, scripts: Path) -> None:
    upgrade(database_config_for(url))
    before = catalog(url)
    add_next(scripts, "INSERT INTO nowhere VALUES (1)")
    with pytest.raises(DBAPIError, match="nowhere"):
        command.upgrade(configuration(url, scripts), "head")
    assert catalog(url) == before
    assert revisions(url) == [(SCHEMA_REVISION,)]


@pytest.mark.requirement("FR-039")
def test_migrations_before_a_failed_one_are_kept(url: str, scripts: Path) -> None:
    add_next(scripts, "INSERT INTO nowhere VALUES (1)")
    with pytest.raises(DBAPIError, match="nowhere"):
        command.upgrade(configuration(url, scripts), "head")
    assert revisions(url) == [(SCHEMA_REVISION,)]
    assert fetch(url, "SELECT to_regclass('tasks')::text, to_regclass('others')::text") == [
        ("tasks", None)
    ]


@pytest.mark.requirement("FR-039")
def test_failed_migration_releases_its_lock(url: str, scripts: Path) -> None:
    add_next(scripts, "INSERT INTO nowhere VALUES (1)")
    with pytest.raises(DBAPIError, match="nowhere"):
        command.upgrade(configuration(url, scripts), "head")
    add_next(scripts, "INSERT INTO others VALUES (1)")
    command.upgrade(configuration(url, scripts), "head")
    assert revisions(url) == [("9999",)]


@pytest.mark.requirement("FR-039")
def test_migration_lock_timeout_leaves_nothing(url: str, scripts: Path) -> None:
    upgrade(database_config_for(url))
    before = catalog(url)
    add_next(scripts, "ALTER TABLE tasks ADD COLUMN more int", limit="300ms")

    async def while_table_is_locked() -> None:
        other = await connect(url)
        await other.execute("BEGIN; SELECT FROM tasks")
        upgrade = asyncio.to_thread(command.upgrade, configuration(url, scripts), "head")
        with pytest.raises(DBAPIError, match="lock timeout"):
            await asyncio.wait_for(upgrade, 10)
        await other.close()

    asyncio.run(while_table_is_locked())
    assert catalog(url) == before
    assert revisions(url) == [(SCHEMA_REVISION,)]


@pytest.mark.requirement("FR-039")
@pytest.mark.parametrize("direction", ["upgrade", "downgrade"])
def test_every_released_migration_has_the_lock_timeout(direction: str) -> None:
    sources = [path.read_text("utf-8") for path in sorted(VERSIONS.glob("*.py"))]
    bodies = [
        re.search(rf"(?ms)^def {direction}\(\).*?(?=^def |\Z)", source)
        for source in sources
        if "INDEX CONCURRENTLY" not in source  # waits without blocking others
    ]
    first_statements = [re.search(r"op\.\w+\((.*)\)", body[0]) for body in bodies if body]
    expected = "\"SET LOCAL lock_timeout = '5s'\""
    assert [match and match[1] for match in first_statements] == [expected] * (len(RELEASED) - 2)


@pytest.mark.requirement("FR-039")
def test_downgrade_has_the_lock_timeout(url: str) -> None:
    # The newest revision drops indexes, which waits without blocking others.
    command.upgrade(configuration(url), PREVIOUS)
    before = catalog(url)

    async def while_table_is_locked() -> float:
        other = await connect(url)
        await other.execute("BEGIN; SELECT FROM tasks, idempotency_keys, lists")
        loop = asyncio.get_running_loop()
        started = loop.time()
        downgrade = asyncio.to_thread(command.downgrade, configuration(url), "base")
        with pytest.raises(DBAPIError, match="lock timeout"):
            await asyncio.wait_for(downgrade, 10)
        duration = loop.time() - started
        await other.close()
        return duration

    assert 4.9 < asyncio.run(while_table_is_locked()) < 7
    assert catalog(url) == before
    assert revisions(url) == [(PREVIOUS,)]


# --- unsuitable databases ----------------------------------------------------------------------

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
def test_database_without_letter_rules_is_rejected_unchanged(server_url: str, options: str) -> None:
    with scratch_database(server_url, options) as url:
        before = fetch(url, CATALOG)
        with pytest.raises((DBAPIError, MigrationError), match=NEEDS):
            command.upgrade(configuration(url), "head")
        assert fetch(url, CATALOG) == before


# Other locales, simulated by functions that precede those of the server in the search path. No
# server has all of these locales.
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
def test_database_with_other_case_mapping_is_rejected_unchanged(server_url: str, name: str) -> None:
    with scratch_database(server_url) as url:
        execute(url, *LOWER.format(LOCALES[name], make_url(url).database).split(";"))
        before = fetch(url, CATALOG)
        result = run("migrate", DATABASE_URL=url)
        assert result.returncode == 1
        assert NEEDS in result.stderr
        assert "Traceback" not in result.stderr
        assert fetch(url, CATALOG) == before


ALWAYS = "SELECT true"
FROM_17 = "SELECT current_setting('server_version_num')::int >= 170000"
FROM_18 = "SELECT current_setting('server_version_num')::int >= 180000"
ICU_OPTIONS = "SELECT EXISTS (SELECT FROM pg_collation WHERE collname LIKE 'tr-%')"
# The options of a database, whether it is accepted, and whether the server supports it.
OFFERED = [
    ("LOCALE_PROVIDER libc LOCALE 'C.UTF-8'", True, ALWAYS),
    ("LOCALE 'C' LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8'", True, FROM_17),
    ("LOCALE 'C' LOCALE_PROVIDER builtin BUILTIN_LOCALE 'PG_UNICODE_FAST'", False, FROM_18),
    ("LOCALE 'C' LOCALE_PROVIDER icu ICU_LOCALE 'en-US'", False, ICU_OPTIONS),
    ("LOCALE 'C' LOCALE_PROVIDER icu ICU_LOCALE 'tr'", False, ICU_OPTIONS),
]


@pytest.mark.requirement("FR-019", "FR-039")
def test_locales_with_the_simple_mapping_are_accepted(
    server_url: str,
) -> None:
    for options, accepted, is_offered in OFFERED:
        if fetch(server_url, is_offered) == [(False,)]:
            continue
        with scratch_database(server_url, f"TEMPLATE template0 ENCODING 'UTF8' {options}") as url:
            result = run("migrate", DATABASE_URL=url)
            assert (result.returncode == 0, NEEDS in result.stderr) == (accepted, not accepted)


# --- processes ---------------------------------------------------------------------------------


@pytest.mark.requirement("FR-039")
def test_command_migrates_and_reports_it(url: str) -> None:
    result = run("migrate", DATABASE_URL=url)
    assert result.returncode == 0, result.stderr
    assert f"The schema is at revision {SCHEMA_REVISION}: postgresql" in result.stdout
    assert revisions(url) == [(SCHEMA_REVISION,)]


@pytest.mark.requirement("FR-039")
def test_concurrent_migrations_run_one_at_a_time(url: str) -> None:
    async def while_migration_lock_is_held() -> list[int | None]:
        lock_holder = await connect(url)
        await lock_holder.execute(f"SELECT pg_advisory_lock({LOCK})")
        migrations = [
            await asyncio.create_subprocess_exec(
                *process.command("migrate"), cwd=ROOT, env=process.environment(DATABASE_URL=url)
            )
            for _ in range(2)
        ]
        waiting_query = (
            "SELECT count(*) = 2 FROM pg_stat_activity WHERE datname = current_database() "
            "AND query ~ 'pg_try_advisory_lock|COMMIT' AND pid <> pg_backend_pid()"
        )
        await process.until(lambda: lock_holder.fetchval(waiting_query), process.START_TIMEOUT)
        assert await lock_holder.fetchval("SELECT to_regclass('alembic_version')") is None
        await lock_holder.close()
        return [
            await asyncio.wait_for(migration.wait(), process.START_TIMEOUT)
            for migration in migrations
        ]

    assert asyncio.run(while_migration_lock_is_held()) == [0, 0]
    assert revisions(url) == [(SCHEMA_REVISION,)]


@pytest.mark.requirement("FR-039", "FR-035")
def test_service_does_not_migrate_an_external_database(url: str) -> None:
    before = fetch(url, CATALOG)
    with serving(DATABASE_URL=url) as service:
        assert service.stop() == 0
    assert fetch(url, CATALOG) == before


@pytest.mark.requirement("FR-039", "FR-037")
def test_rejected_migration_is_reported_in_one_sentence(server_url: str) -> None:
    options = "TEMPLATE template0 ENCODING 'UTF8' LOCALE_PROVIDER libc LOCALE 'C'"
    with scratch_database(server_url, options) as url:
        result = run("migrate", DATABASE_URL=url)
    assert result.returncode == 1
    assert NEEDS in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.requirement("FR-039", "FR-037", "FR-028")
def test_migration_without_a_database_is_reported(tmp_path: Path) -> None:
    result = run("migrate", DATABASE_URL=f"postgresql://tasks@/tasks?host={tmp_path}&port=5432")
    assert result.returncode == 1
    assert result.stderr.strip()
    assert "Traceback" not in result.stderr


# --- the template ------------------------------------------------------------------------------


@pytest.mark.requirement("FR-039")
def test_revision_template_has_lock_timeout_and_safety_note(url: str, scripts: Path) -> None:
    upgrade(database_config_for(url))
    command.revision(configuration(url, scripts), message="More columns", rev_id="9999")
    revision_file = scripts / "versions/9999_more_columns.py"
    source = revision_file.read_text("utf-8")
    assert source.startswith('"""More columns\n\nLock and deploy safety: SAY HERE')
    assert source.count("""op.execute("SET LOCAL lock_timeout = '5s'")""") == 2
    command.upgrade(configuration(url, scripts), "head")
    assert revisions(url) == [("9999",)]
    command.downgrade(configuration(url, scripts), SCHEMA_REVISION)
    assert revisions(url) == [(SCHEMA_REVISION,)]


@pytest.mark.requirement("FR-039")
def test_revision_can_be_generated_from_the_models(url: str, scripts: Path) -> None:
    upgrade(database_config_for(url))
    execute(url, "DROP INDEX ix_tasks_search")
    before = catalog(url)
    command.revision(configuration(url, scripts), "Search", autogenerate=True, rev_id="9999")
    command.upgrade(configuration(url, scripts), "head")
    assert [row[2] for row in catalog(url) if row not in before and row[0] == "index"] == [
        "ix_tasks_search"
    ]
