"""Paths with `%` and with bytes that are not UTF-8, for the clone and the data directory."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.client import tasks_of
from tests.support.process import ROOT, eventually, run, serving
from tests.support.processes import processes_of

pytestmark = pytest.mark.requirement("FR-038")

NAMES = [b"50% caf\xe9", b"%(here)s {} $HOME"]
COPIED = ["app", "migrations", "openapi.yaml", "pyproject.toml"]


@pytest.fixture(params=NAMES, ids=repr)
def folder(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A directory of this name that every user may traverse."""
    with tempfile.TemporaryDirectory(prefix="tasks-") as parent:
        Path(parent).chmod(0o755)
        path = Path(os.fsdecode(os.fsencode(parent) + b"/" + request.param))
        path.mkdir(mode=0o755)
        yield path
        eventually(lambda: not processes_of(path))


def test_service_runs_in_a_directory_with_any_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("COVERAGE")]:
        monkeypatch.delenv(name)  # coverage would measure the copy as another program
    ignored = shutil.ignore_patterns("__pycache__")
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, folder)
    with serving(folder) as service:
        created = httpx.post(service.url + tasks_of("alice"), json={"title": "Buy milk"})
        assert created.status_code == 201
        assert service.stop() == 0
    assert (folder / ".data" / "pg18").is_dir()
    assert "is at revision" in run("migrate", folder).stdout


def test_data_directory_may_have_any_name(folder: Path) -> None:
    doctor = run("doctor", DATA_DIR=folder, PORT=0)
    assert doctor.returncode == 0, doctor.stderr
    output = os.fsencode(folder).decode("utf-8", "backslashreplace")
    assert doctor.stdout.endswith(f"data in {output}\n")
    with serving(DATA_DIR=folder) as service:
        assert f"data       {output}\n" in service.err
        assert httpx.get(f"{service.url}/readyz").status_code == 200
        second = run("serve", DATA_DIR=folder, PORT=0)
        assert second.returncode == 1
        assert "is using the data folder" in second.stderr
        assert service.stop() == 0
