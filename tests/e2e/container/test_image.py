"""The image, built here and run as an engine would. Run by `task check:container`."""

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
from tests.e2e.container.sandbox import SOCKETS, Cell
from tests.support.process import ROOT, STOP_TIMEOUT, eventually

pytestmark = pytest.mark.requirement("FR-051")

USER = 10001
WRITE = """
import errno, os, sys
for path in sys.argv[1:]:
    try:
        open(path + "/written", "w")
    except OSError as fault:
        print(path, errno.errorcode[fault.errno])
"""
WHO = "import os; print(os.getpid(), os.getuid(), os.getgid(), os.getgroups())"

CHROOT = ["run", "--isolation", "chroot"]


def megabytes(folder: Path) -> float:
    """What the files in a folder hold."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def migrate_by_a_job(container: str, sockets: Path, url: str) -> str:
    """What the image prints as a job that migrates."""
    lent = ["--volume", f"{sockets}:{SOCKETS}", "--env", f"DATABASE_URL={url}"]
    return buildah(*CHROOT, *lent, container, "--", "python", "-m", "app", "migrate")


# --- what is in it -----------------------------------------------------------------------------


def test_the_size(root: Path, record_property: Callable[[str, object], None]) -> None:
    own = megabytes(root / "opt") + megabytes(root / "srv")
    record_property("image, MB", f"{megabytes(root):.0f}, {own:.0f} of them beside the base")
    assert own < 160


def test_an_engine_is_told_all_it_needs(image: dict[str, Any]) -> None:
    config = image["Docker"]["config"]
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    assert config["User"] == f"{USER}:{USER}"
    assert config["Entrypoint"] + config["Cmd"] == ["python", "-m", "app", "serve"]
    assert "HOST=*" in config["Env"]
    assert config["ExposedPorts"] == {"8000/tcp": {}}
    assert config["Labels"]["org.opencontainers.image.version"] == version


def test_there_is_no_database_in_it(root: Path) -> None:
    programs = {"postgres", "initdb", "pg_ctl", "psql"}
    names = {path.name for path in root.rglob("*")}
    assert names & programs == set()
    assert [each for each in names if "pgserver" in each] == []


def test_there_is_nothing_of_the_build_in_it(root: Path, image: dict[str, Any]) -> None:
    recorded = json.dumps(image)
    assert [path for path in root.rglob("pip.conf") if path.is_file()] == []
    assert not (root / "build").exists()
    assert [value for value in pip_options().values() if value in recorded] == []
    # Of the checkout, what runs and no more; no package that installs others in the environment.
    assert {path.name for path in (root / "srv").iterdir()} == {
        *("LICENSE", "app", "healthcheck.py", "migrations", "openapi.yaml", "pyproject.toml")
    }
    assert list((root / "opt/venv").rglob("site-packages/pip")) == []


def test_everything_is_compiled_and_can_be_read_by_any_user(root: Path) -> None:
    files = [path for part in ("opt/venv/lib", "srv") for path in (root / part).rglob("*")]
    # A program that is not imported, such as the health check, is compiled at each start.
    modules = [path for path in files if path.suffix == ".py" and path.parent != root / "srv"]
    assert len(modules) > 1000
    assert [
        path for path in modules if not list(path.parent.glob(f"__pycache__/{path.stem}.*.pyc"))
    ] == []
    assert [path for path in files if path.lstat().st_mode & 0o044 != 0o044] == []


# --- how it runs -------------------------------------------------------------------------------


def test_buildah_runs_it_as_its_own_user(container: str) -> None:
    code = "import os; print(os.getuid(), os.getgid())"
    assert buildah(*CHROOT, container, "--", "python", "-c", code) == f"{USER} {USER}"


def test_it_runs_as_its_own_user_and_cannot_write(cell: Cell) -> None:
    who = cell.run("python", "-c", WHO)
    assert (who.stdout, who.stderr) == (f"1 {USER} {USER} []\n", "")
    wrote = cell.run("python", "-c", WRITE, "/", "/srv", "/tmp", "/var/tmp")  # noqa: S108
    assert wrote.stdout == "/ EROFS\n/srv EROFS\n/tmp EROFS\n/var/tmp EROFS\n"


@pytest.mark.parametrize("command", ["serve", "migrate"])
def test_without_a_database_it_says_what_is_missing(cell: Cell, command: str) -> None:
    done = cell.run(*cell.service(command))
    assert done.returncode == 1
    assert "No DATABASE_URL is given" in done.stderr
    assert "set DATABASE_URL" in done.stderr
    assert "Traceback" not in done.stderr


def test_it_migrates_by_a_job_and_serves(
    cell: Cell,
    container: str,
    sockets: Path,
    url: str,
    record_property: Callable[[str, object], None],
) -> None:
    begun = time.monotonic()
    with cell.serving(DATABASE_URL=url) as (service, number):
        record_property("seconds to the first answer", f"{time.monotonic() - begun:.2f}")
        assert service.startup_value("process") == "1"
        assert httpx.get(f"{service.url}/readyz").status_code == 503
        assert "\nThe schema is at revision" in migrate_by_a_job(container, sockets, url)
        assert httpx.get(f"{service.url}/readyz").status_code == 200
        tasks = f"{service.url}/api/v1/users/alice/tasks"
        assert httpx.post(tasks, json={"title": "Buy milk"}).status_code == 201
        assert [task["title"] for task in httpx.get(tasks).json()["items"]] == ["Buy milk"]
        assert Path(f"/proc/{number}/status").read_text("ascii").count(f"\t{USER}") == 8


def test_its_health_check_tells_a_service_that_answers(
    cell: Cell, image: dict[str, Any], url: str
) -> None:
    kind, *words = image["Docker"]["config"]["Healthcheck"]["Test"]
    assert kind == "CMD"
    away = {"http_proxy": "http://127.0.0.1:1"}
    with cell.serving(DATABASE_URL=url) as (service, _):
        port = httpx.URL(service.url).port
        assert cell.run(*words, PORT=port, **away).returncode == 0
    assert cell.run(*words, PORT=port).returncode == 1


# --- how it stops ------------------------------------------------------------------------------


def test_it_stops_on_sigterm_as_process_1(
    cell: Cell, url: str, record_property: Callable[[str, object], None]
) -> None:
    with cell.serving(DATABASE_URL=url) as (service, number), httpx.Client() as client:
        assert client.get(f"{service.url}/livez").status_code == 200  # and keeps its connection
        begun = time.monotonic()
        os.kill(number, signal.SIGTERM)
        assert service.process.wait(STOP_TIMEOUT) == 0
    seconds = time.monotonic() - begun
    record_property("seconds to stop, idle", f"{seconds:.2f}")
    assert seconds < GRACEFUL_SHUTDOWN_TIMEOUT / 2


def test_a_request_that_does_not_end_holds_it_for_the_grace_period(
    cell: Cell, url: str, record_property: Callable[[str, object], None]
) -> None:
    with cell.serving(DATABASE_URL=url) as (service, number):
        address = httpx.URL(service.url)
        with socket.create_connection((address.host, address.port or 0), 5) as client:
            client.sendall(
                b"POST /api/v1/users/alice/tasks HTTP/1.1\r\nHost: a\r\n"
                b"Content-Type: application/json\r\nContent-Length: 20\r\n\r\n{"
            )
            time.sleep(0.5)  # nothing tells that the head has been read
            begun = time.monotonic()
            os.kill(number, signal.SIGTERM)
            assert service.process.wait(GRACEFUL_SHUTDOWN_TIMEOUT + 5) == 0
    seconds = time.monotonic() - begun
    record_property("seconds to stop, with a request that does not end", f"{seconds:.2f}")
    assert seconds > GRACEFUL_SHUTDOWN_TIMEOUT - 1


def test_a_sigterm_during_the_imports_is_not_lost(cell: Cell, url: str) -> None:
    with cell.started(*cell.service(), DATABASE_URL=url) as (service, number):
        # An extension module that the imports load before most of the others.
        maps = Path(f"/proc/{number}/maps")
        eventually(lambda: "/msgspec/" in maps.read_text("utf-8"))
        os.kill(number, signal.SIGTERM)
        assert service.process.wait(STOP_TIMEOUT) == 0
        assert "Tasks API" not in service.err
