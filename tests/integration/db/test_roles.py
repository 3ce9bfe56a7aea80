"""The documented database roles suffice, and missing privileges are reported.

Roles belong to a server, so these tests always use an embedded PostgreSQL.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections.abc import AsyncIterator, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import pytest
from sqlalchemy.engine import make_url
from structlog.testing import capture_logs

from app import embedded_postgres
from app.asgi import create_app
from app.db.config import DatabaseConfig
from app.db.migrations import MIGRATION_PRIVILEGES, MigrationError, get_revision, upgrade
from app.settings import Secret, Settings
from tests.support.client import ContractClient, assert_problem, tasks_of
from tests.support.lifespan import running
from tests.support.process import ROOT, execute, run

Result = TypeVar("Result")

ALICE = tasks_of("alice")
PAGE = (ROOT / "docs/guides/postgresql.md").read_text("utf-8")
GUIDE = '(docs/guides/postgresql.md, "Roles").'
UNDO = "The migration failed and was rolled back:"
NEEDED_TO_MIGRATE = f"The role needs {MIGRATION_PRIVILEGES} {GUIDE}"
NO_CONNECT = (
    'SQLSTATE 42501, permission denied for database "tasks" (User does not have CONNECT privilege.)'
)
REVOKED_DEFAULTS = (
    # Default grants to PUBLIC that a careful administrator revokes.
    "REVOKE ALL ON DATABASE tasks FROM PUBLIC",
    "REVOKE ALL ON SCHEMA public FROM PUBLIC",
)
# No request of the test needs these. Tombstones are never changed.
UNUSED = {"SELECT on alembic_version", "DELETE on users", "UPDATE on tombstones"}
TABLES = ("idempotency_keys", "lists", "tasks", "tombstones", "users")
SERVING = [
    "SELECT on alembic_version",
    *(
        f"{name} on {table}"
        for table in TABLES
        for name in ("SELECT", "INSERT", "UPDATE", "DELETE")
    ),
]
USAGE = "USAGE on schema public"
NEEDED_TO_BE_READY = {"SELECT on alembic_version", USAGE}
TASK = f"{ALICE}/0198c5a2-7e1f-7b3a-9d55-2f6f0c1e8a44"
LISTS = ALICE.replace("/tasks", "/lists")
LIST = f"{LISTS}/0198c5a2-9c40-7d11-8a3e-51b6c2d4e9f0"
WHOLE = {"title": "Buy milk", "description": None, "completed": False}
REQUESTS: dict[str, tuple[str, str, Any]] = {
    "create": ("POST", ALICE, {"title": "Buy milk"}),
    "replace": ("PUT", TASK, WHOLE),
    "update": ("PATCH", TASK, {"title": "Buy oat milk"}),
    "get": ("GET", TASK, None),
    "list": ("GET", ALICE, None),
    "search": ("GET", f"{ALICE}?q=milk", None),
    "delete": ("DELETE", TASK, None),
    "create a list": ("POST", LISTS, {"name": "Groceries"}),
    "replace a list": ("PUT", LIST, {"name": "Groceries"}),
    "update a list": ("PATCH", LIST, {"name": "Errands"}),
    "get a list": ("GET", LIST, None),
    "delete a list": ("DELETE", LIST, None),
}


def documented(name: str) -> list[str]:
    """Return the SQL statements of a block in the documentation."""
    pattern = rf"^<!-- {name} -->\n```sql\n(.*?)^```$"
    [block] = re.findall(pattern, PAGE, re.MULTILINE | re.DOTALL)
    return [statement.strip() for statement in block.split(";") if statement.strip()]


def as_role(url: str, role: str) -> str:
    return make_url(url).set(username=role).render_as_string(hide_password=False)


def in_thread(use: Coroutine[Any, Any, Result]) -> Result:
    """Run in a separate thread. Coverage loses a thread in which the driver throws."""
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(asyncio.run, use).result()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a server without a schema, and yield the URL of its administrator."""
    with embedded_postgres.run_postgres(tmp_path_factory.mktemp("roles"), durable=False) as url:
        yield url


@pytest.fixture
def administrator(server: str) -> Iterator[str]:
    """Create the two documented roles in a database without other grants."""
    execute(server, *REVOKED_DEFAULTS, *documented("roles"))
    yield server
    roles = "tasks_migrate, tasks_serve"
    execute(server, f"DROP OWNED BY {roles}", f"DROP ROLE {roles}")


@pytest.fixture
def granted(administrator: str) -> str:
    """Migrate the database and grant the documented privileges."""
    migrating = as_role(administrator, "tasks_migrate")
    upgrade(DatabaseConfig.from_url(migrating))
    execute(migrating, *documented("grants"))
    return administrator


@asynccontextmanager
async def serving(url: str) -> AsyncIterator[ContractClient]:
    asgi_app = create_app(Settings(database_url=Secret(as_role(url, "tasks_serve"))))
    async with running(asgi_app) as app, ContractClient(app) as client:
        yield client


async def get_statuses(client: ContractClient) -> dict[str, int]:
    """Return the status of each operation."""
    statuses = {}
    for name, (method, path, body) in REQUESTS.items():
        response = await client.request(method, path, json=body)
        statuses[name] = response.status_code
    keyed = await client.post(ALICE, json=WHOLE, headers={"Idempotency-Key": "1"})
    return {**statuses, "create with a key": keyed.status_code}


SERVED = {
    "create": 201,
    "replace": 201,
    "update": 200,
    "get": 200,
    "list": 200,
    "search": 200,
    "delete": 204,
    "create a list": 201,
    "replace a list": 201,
    "update a list": 200,
    "get a list": 200,
    "delete a list": 204,
    "create with a key": 201,
}


def doctor(url: str) -> subprocess.CompletedProcess[str]:
    return run(
        "doctor", DATABASE_URL=as_role(url, "tasks_serve"), DATABASE_TRANSACTION_POOLING="", PORT=0
    )


@pytest.mark.requirement("FR-039", "FR-037")
def test_documented_roles_can_migrate_and_serve(granted: str) -> None:
    async def use() -> dict[str, int]:
        with capture_logs() as lines:
            async with serving(granted) as client:
                assert (await client.get("/readyz")).status_code == 200
                statuses = await get_statuses(client)
        assert [line for line in lines if line["log_level"] != "info"] == []
        return statuses

    assert in_thread(use()) == SERVED
    result = doctor(granted)
    assert result.returncode == 0, result.stdout + result.stderr
    # The schema is current, so any role may run the migration.
    upgrade(DatabaseConfig.from_url(as_role(granted, "tasks_serve")))


@pytest.mark.requirement("FR-033", "FR-037")
@pytest.mark.parametrize("privilege", [*SERVING, USAGE])
def test_missing_privilege_is_reported_and_the_service_starts(granted: str, privilege: str) -> None:
    execute(granted, f"REVOKE {privilege.replace(' on ', ' ON ')} FROM tasks_serve")

    async def use() -> tuple[dict[str, int], list[Any]]:
        with capture_logs() as lines:
            async with serving(granted) as client:
                statuses = await get_statuses(client)
                ready = await client.get("/readyz")
        assert ready.status_code == (503 if privilege in NEEDED_TO_BE_READY else 200)
        return statuses, lines

    statuses, lines = in_thread(use())
    named = [line["privileges"] for line in lines if line["event"] == "privileges missing"]
    assert named == [[privilege]]
    failed = {name for name, status in statuses.items() if status != SERVED[name]}
    # Only readiness and doctor report the schema revision.
    assert bool(failed) == (privilege not in UNUSED)
    assert {statuses[name] for name in failed} <= {503, 404}
    with pytest.raises(MigrationError) as raised:
        get_revision(DatabaseConfig.from_url(as_role(granted, "tasks_serve")))
    assert str(raised.value) == f"The role lacks {privilege} {GUIDE}"


@pytest.mark.requirement("FR-037")
def test_doctor_reports_all_missing_privileges(granted: str) -> None:
    tables = ", ".join(["alembic_version", *TABLES])
    execute(granted, f"REVOKE ALL ON {tables} FROM tasks_serve")
    by_table = sorted(SERVING, key=lambda privilege: privilege.partition(" on ")[2])
    result = doctor(granted)
    assert result.returncode == 1
    [line] = [line for line in result.stdout.splitlines() if line.startswith("database")]
    assert line == f"database   DATABASE_URL. The role lacks {', '.join(by_table)} {GUIDE}"
    assert "Traceback" not in result.stdout + result.stderr


@pytest.mark.requirement("FR-033", "FR-037", "FR-054")
def test_missing_connect_privilege_is_reported(granted: str) -> None:
    execute(granted, "REVOKE CONNECT ON DATABASE tasks FROM tasks_serve")

    async def use() -> list[str]:
        with capture_logs() as lines:
            async with serving(granted) as client:
                assert_problem(await client.get(ALICE), 503, "database-unavailable")
                assert_problem(await client.get("/readyz"), 503, "not-ready")
        return [line["cause"] for line in lines if line["event"] == "database unavailable"]

    assert in_thread(use()) == [NO_CONNECT]
    result = doctor(granted)
    assert result.returncode == 1
    assert result.stdout.splitlines()[-1] == (
        f"database   DATABASE_URL. The database cannot be reached: {NO_CONNECT}"
    )
    assert "Traceback" not in result.stdout + result.stderr


@pytest.mark.requirement("FR-033", "FR-028")
def test_table_without_privilege_is_logged(granted: str) -> None:
    async def use() -> list[str]:
        with capture_logs() as lines:
            async with serving(granted) as client:
                await asyncio.to_thread(execute, granted, "REVOKE INSERT ON tasks FROM tasks_serve")
                created = await client.post(ALICE, json=WHOLE)
                assert_problem(created, 503, "database-unavailable")
                assert "denied" not in created.text
        return [line["cause"] for line in lines if line["event"] == "database unavailable"]

    assert in_thread(use()) == ["SQLSTATE 42501, permission denied for table tasks"]


@pytest.mark.requirement("FR-039", "FR-037")
@pytest.mark.parametrize(
    ("revoked", "message"),
    [
        (
            "CONNECT ON DATABASE tasks",
            f"The database cannot be reached: {NO_CONNECT}",
        ),
        (
            "USAGE ON SCHEMA public",
            f"{UNDO} no schema has been selected to create in. {NEEDED_TO_MIGRATE}",
        ),
        (
            "CREATE ON SCHEMA public",
            f"{UNDO} permission denied for schema public. {NEEDED_TO_MIGRATE}",
        ),
    ],
    ids=["CONNECT", "USAGE", "CREATE"],
)
def test_missing_migration_privilege_is_reported(
    administrator: str, revoked: str, message: str
) -> None:
    execute(administrator, f"REVOKE {revoked} FROM tasks_migrate")
    url = as_role(administrator, "tasks_migrate")
    with pytest.raises(MigrationError) as raised_error:
        upgrade(DatabaseConfig.from_url(url))
    assert str(raised_error.value) == message


@pytest.mark.requirement("FR-039", "FR-037")
def test_migrate_command_reports_the_missing_privilege(administrator: str) -> None:
    execute(administrator, "REVOKE CREATE ON SCHEMA public FROM tasks_migrate")
    url = as_role(administrator, "tasks_migrate")
    result = run("migrate", DATABASE_URL=url, DATABASE_TRANSACTION_POOLING="")
    assert result.returncode == 1
    denied = f"{UNDO} permission denied for schema public. {NEEDED_TO_MIGRATE}"
    assert result.stderr.splitlines()[-1] == denied
    assert "Traceback" not in result.stdout + result.stderr


@pytest.mark.requirement("FR-039")
def test_tables_of_another_role_are_not_migrated(granted: str) -> None:
    execute(
        granted,
        "UPDATE alembic_version SET version_num = '0001'",
        "DROP TABLE idempotency_keys",
        "GRANT CREATE ON SCHEMA public TO tasks_serve",
    )
    serving_role = DatabaseConfig.from_url(as_role(granted, "tasks_serve"))
    with pytest.raises(MigrationError, match="permission denied for table alembic_version"):
        upgrade(serving_role)
    assert get_revision(DatabaseConfig.from_url(granted)) == "0001"
