"""Tests of the container image. Run by `task check:container`."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.cli import GRACEFUL_SHUTDOWN_TIMEOUT
from tests.e2e.container.engine import buildah, pip_options
from tests.e2e.container.sandbox import SOCKETS, Sandbox
from tests.support.process import ROOT, STOP_TIMEOUT, eventually

pytestmark = pytest.mark.requirement("FR-051")

USER = 10001
WRITE = """
import errno, os, sys
for path in sys.argv[1:]:
    try:
        open(path + "/written", "w")
    except OSError as error:
        print(path, errno.errorcode[error.errno])
"""
WHO = "import os; print(os.getpid(), os.getuid(), os.getgid(), os.getgroups())"

CHROOT = ["run", "--isolation", "chroot"]


def megabytes(folder: Path) -> float:
    """Return the size of a folder."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def migrate_by_a_job(container: str, sockets: Path, url: str) -> str:
    """Run `migrate` in the image and return its output."""
    options = ["--volume", f"{sockets}:{SOCKETS}", "--env", f"DATABASE_URL={url}"]
    return buildah(*CHROOT, *options, container, "--", "python", "-m", "app", "migrate")


# --- contents ----------------------------------------------------------------------------------


def test_image_size_is_limited(root: Path, record_property: Callable[[str, object], None]) -> None:
    own = megabytes(root / "opt") + megabytes(root / "srv")
    record_property("image, MB", f"{megabytes(root):.0f}, {own:.0f} of them beside the base")
    assert own < 160


def test_image_metadata_is_complete(image: dict[str, Any]) -> None:
    config = image["Docker"]["config"]
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    assert config["User"] == f"{USER}:{USER}"
    assert config["Entrypoint"] + config["Cmd"] == ["python", "-m", "app", "serve"]
    assert "HOST=*" in config["Env"]
    assert config["ExposedPorts"] == {"8000/tcp": {}}
    assert config["Labels"]["org.opencontainers.image.version"] == version


def test_image_contains_no_database(root: Path) -> None:
    programs = {"postgres", "initdb", "pg_ctl", "psql"}
    names = {path.name for path in root.rglob("*")}
    assert names & programs == set()
    assert [each for each in names if "pgserver" in each] == []


def test_image_contains_no_build_files(root: Path, image: dict[str, Any]) -> None:
    recorded = json.dumps(image)
    assert [path for path in root.rglob("pip.conf") if path.is_file()] == []
    assert not (root / "build").exists()
    assert [value for value in pip_options().values() if value in recorded] == []
    # Only the files that the service needs, and no pip in the environment.
    assert {path.name for path in (root / "srv").iterdir()} == {
        *("LICENSE", "app", "healthcheck.py", "migrations", "openapi.yaml", "pyproject.toml")
    }
    assert list((root / "opt/venv").rglob("site-packages/pip")) == []


def test_modules_are_compiled_and_world_readable(root: Path) -> None:
    files = [path for part in ("opt/venv/lib", "srv") for path in (root / part).rglob("*")]
    # The health check is not imported, so it has no compiled file.
    modules = [path for path in files if path.suffix == ".py" and path.parent != root / "srv"]
    assert len(modules) > 1000
    assert [
        path for path in modules if not list(path.parent.glob(f"__pycache__/{path.stem}.*.pyc"))
    ] == []
    assert [path for path in files if path.lstat().st_mode & 0o044 != 0o044] == []


# --- running -----------------------------------------------------------------------------------


def test_buildah_runs_the_image_as_its_user(container: str) -> None:
    code = "import os; print(os.getuid(), os.getgid())"
    assert buildah(*CHROOT, container, "--", "python", "-c", code) == f"{USER} {USER}"


def test_program_runs_as_the_user_and_cannot_write(sandbox: Sandbox) -> None:
    who = sandbox.run("python", "-c", WHO)
    assert (who.stdout, who.stderr) == (f"1 {USER} {USER} []\n", "")
    wrote = sandbox.run("python", "-c", WRITE, "/", "/srv", "/tmp", "/var/tmp")  # noqa: S108
    assert wrote.stdout == "/ EROFS\n/srv EROFS\n/tmp EROFS\n/var/tmp EROFS\n"


@pytest.mark.parametrize("command", ["serve", "migrate"])
def test_missing_database_url_is_reported(sandbox: Sandbox, command: str) -> None:
    done = sandbox.run(*sandbox.service(command))
    assert done.returncode == 1
    assert "No DATABASE_URL is given" in done.stderr
    assert "set DATABASE_URL" in done.stderr
    assert "Traceback" not in done.stderr


def test_service_is_ready_after_a_migration_job(
    sandbox: Sandbox,
    container: str,
    sockets: Path,
    url: str,
    record_property: Callable[[str, object], None],
) -> None:
    started = time.monotonic()
    with sandbox.serving(DATABASE_URL=url) as (service, pid):
        record_property("seconds to the first response", f"{time.monotonic() - started:.2f}")
        assert service.startup_value("process") == "1"
        assert httpx.get(f"{service.url}/readyz").status_code == 503
        assert "\nThe schema is at revision" in migrate_by_a_job(container, sockets, url)
        assert httpx.get(f"{service.url}/readyz").status_code == 200
        tasks = f"{service.url}/api/v1/users/alice/tasks"
        assert httpx.post(tasks, json={"title": "Buy milk"}).status_code == 201
        assert [task["title"] for task in httpx.get(tasks).json()["items"]] == ["Buy milk"]
        assert Path(f"/proc/{pid}/status").read_text("ascii").count(f"\t{USER}") == 8


def test_health_check_detects_a_running_service(
    sandbox: Sandbox, image: dict[str, Any], url: str
) -> None:
    form, *command = image["Docker"]["config"]["Healthcheck"]["Test"]
    assert form == "CMD"
    unreachable_proxy = {"http_proxy": "http://127.0.0.1:1"}
    with sandbox.serving(DATABASE_URL=url) as (service, _):
        port = httpx.URL(service.url).port
        assert sandbox.run(*command, PORT=port, **unreachable_proxy).returncode == 0
    assert sandbox.run(*command, PORT=port).returncode == 1


# --- stopping ----------------------------------------------------------------------------------


def test_sigterm_stops_process_1(
    sandbox: Sandbox, url: str, record_property: Callable[[str, object], None]
) -> None:
    with sandbox.serving(DATABASE_URL=url) as (service, pid), httpx.Client() as client:
        assert client.get(f"{service.url}/livez").status_code == 200  # the connection stays open
        started = time.monotonic()
        os.kill(pid, signal.SIGTERM)
        assert service.process.wait(STOP_TIMEOUT) == 0
    seconds = time.monotonic() - started
    record_property("seconds to stop, idle", f"{seconds:.2f}")
    assert seconds < GRACEFUL_SHUTDOWN_TIMEOUT / 2


def test_shutdown_waits_for_an_incomplete_request(
    sandbox: Sandbox, url: str, record_property: Callable[[str, object], None]
) -> None:
    with sandbox.serving(DATABASE_URL=url) as (service, pid):
        address = httpx.URL(service.url)
        with socket.create_connection((address.host, address.port or 0), 5) as client:
            client.sendall(
                b"POST /api/v1/users/alice/tasks HTTP/1.1\r\nHost: a\r\n"
                b"Content-Type: application/json\r\nContent-Length: 20\r\n\r\n{"
            )
            time.sleep(0.5)  # no event shows that the headers have been read
            started = time.monotonic()
            os.kill(pid, signal.SIGTERM)
            assert service.process.wait(GRACEFUL_SHUTDOWN_TIMEOUT + 5) == 0
    seconds = time.monotonic() - started
    record_property("seconds to stop, with a request that does not end", f"{seconds:.2f}")
    assert seconds > GRACEFUL_SHUTDOWN_TIMEOUT - 1


def test_sigterm_during_the_imports_is_handled(sandbox: Sandbox, url: str) -> None:
    with sandbox.started(*sandbox.service(), DATABASE_URL=url) as (service, pid):
        # The imports load this extension module early.
        maps = Path(f"/proc/{pid}/maps")
        eventually(lambda: "/msgspec/" in maps.read_text("utf-8"))
        os.kill(pid, signal.SIGTERM)
        assert service.process.wait(STOP_TIMEOUT) == 0
        assert "Tasks API" not in service.err
