"""How the embedded PostgreSQL starts its programs.

Shell scripts replace the programs and record how they were started.
"""

import os
import signal
import stat
import subprocess
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import NamedTuple

import pytest

from app import embedded_postgres
from app.embedded_postgres import EmbeddedError, data_dir, run_postgres, server, user

pytestmark = pytest.mark.requirement("FR-038")

# Records are named by process ID. The lines of "calls" are in order.
RECORDING_SCRIPT = r"""#!/bin/sh
records={directory}/records
echo "$$" >>"$records/calls"
tr '\0' '\n' <"/proc/$$/cmdline" | tail -n +2 >"$records/$$.arguments"
tr '\0' '\n' <"/proc/$$/environ" >"$records/$$.environment"
pwd >"$records/$$.cwd"
files=$(ls -l "/proc/$$/fd")
echo "$files" | tail -n +2 >"$records/$$.files"
ps -o sid= -p "$$" | tr -d ' ' >"$records/$$.session"
"""
PROGRAMS = {
    "initdb": RECORDING_SCRIPT + 'cat >"$records/$$.stdin"\n',
    "postgres": RECORDING_SCRIPT
    + r"""
if [ "$1" = --single ]; then
    cat >"$records/$$.stdin"
    exit 0
fi
trap 'exit 0' INT
printf '%s\n' "$$" data 0 5432 run '' memory ready >"$2/postmaster.pid"
number=0
while [ "$number" -lt 3000 ]; do  # one minute at most
    sleep 0.02
    number=$((number + 1))
done
""",
}


class Call(NamedTuple):
    """How a program was started."""

    pid: str
    arguments: list[str]
    environment: list[str]
    cwd: str
    files: dict[str, str]
    session: str
    stdin: str | None


def calls(directory: Path) -> list[Call]:
    """Return the recorded calls, in order."""

    def lines(pid: str, name: str) -> list[str]:
        return (directory / "records" / f"{pid}.{name}").read_text().splitlines()

    def call(pid: str) -> Call:
        stdin = directory / "records" / f"{pid}.stdin"
        return Call(
            pid,
            arguments=lines(pid, "arguments"),
            environment=lines(pid, "environment"),
            cwd=lines(pid, "cwd")[0],
            files={line.split()[-3]: line.split()[-1] for line in lines(pid, "files")},
            session=lines(pid, "session")[0],
            stdin=stdin.read_text() if stdin.exists() else None,
        )

    return [call(pid) for pid in (directory / "records" / "calls").read_text().split()]


@pytest.fixture
def directory(monkeypatch: pytest.MonkeyPatch) -> Generator[Path]:
    """Create the scripts in a directory that every user can access."""
    with tempfile.TemporaryDirectory(prefix="open-") as name:
        directory = Path(name).resolve()
        directory.chmod(0o777)
        (directory / "records").mkdir()
        (directory / "records").chmod(0o777)
        for program, script in PROGRAMS.items():
            (directory / program).write_text(script.replace("{directory}", str(directory)))
            (directory / program).chmod(0o755)
        monkeypatch.setattr(embedded_postgres, "find_binaries", lambda _: directory)
        monkeypatch.setattr(server, "_READY_TIMEOUT", 3.0)
        yield directory


def open_files() -> set[Path]:
    return set(Path("/proc/self/fd").iterdir())


DURABILITY_SETTINGS = ("fsync", "synchronous_commit", "full_page_writes")


def settings(data: Path, durability: str) -> list[str]:
    return [
        "cluster_name=tasks-api",
        *(f"{name}={durability}" for name in DURABILITY_SETTINGS),
        "jit=off",
        "log_min_messages=warning",
        "log_timezone=UTC",
        "max_connections=100",
        "password_encryption=scram-sha-256",
        "timezone=UTC",
        "listen_addresses=",
        "port=5432",
        f'unix_socket_directories="{data}/run"',
        "unix_socket_permissions=0700",
    ]


@pytest.mark.parametrize(
    ("durable", "durability", "extra"), [(True, "on", []), (False, "off", ["-F"])]
)
def test_first_start_creates_and_starts_a_cluster(
    directory: Path, durability: str, extra: list[str], *, durable: bool
) -> None:
    data = directory / "new" / "data"
    with run_postgres(data, durable=durable):
        initdb, single, server = calls(directory)
    new_cluster = f"{data}/pg18.new"
    assert initdb.arguments == [
        f"{directory}/initdb",
        f"--pgdata={new_cluster}",
        "--username=tasks",
        "--encoding=UTF8",
        "--data-checksums",
        "--locale=C",
        "--locale-provider=builtin",
        "--builtin-locale=C.UTF-8",
        "--auth-local=trust",
        "--auth-host=reject",
        *["--no-sync"] * (not durable),
    ]
    single_options = ["-D", new_cluster, "-c", "exit_on_error=on", *extra]
    assert single.arguments == [f"{directory}/postgres", "--single", *single_options, "template1"]
    options = [argument for setting in settings(data, durability) for argument in ("-c", setting)]
    assert server.arguments == [f"{directory}/postgres", "-D", f"{data}/pg18", *options]
    assert [call.stdin for call in (initdb, single, server)] == [
        "",
        "CREATE DATABASE tasks;\n",
        None,
    ]


def test_later_start_only_starts_the_server(directory: Path) -> None:
    for _ in range(2):
        with run_postgres(directory / "data"):
            pass
    assert [call.arguments[1] for call in calls(directory)[3:]] == ["-D"]


def test_program_gets_only_its_environment_and_files(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"LC_ALL": "xx_XX", "TZ": "Asia/Tokyo", "OTHER": "kept"}.items():
        monkeypatch.setenv(name, value)
    data = directory / "data"
    with run_postgres(data):
        recorded_calls = calls(directory)
    for call in recorded_calls:
        assert {"LC_ALL=C", "TZ=UTC", "OTHER=kept"} <= set(call.environment)
        assert len({line.partition("=")[0] for line in call.environment}) == len(call.environment)
        assert call.cwd == "/"
        assert call.session == call.pid  # its own session, so that Ctrl-C does not reach it
        assert call.files["1"] == call.files["2"] == f"{data}/postgres.log"
        other_files = {
            path for number, path in call.files.items() if int(number) > 2 and path[0] == "/"
        }
        script = call.arguments[0]  # the shell has its script open
        assert other_files == {f"{data}/server.lock", script}
    assert recorded_calls[-1].files["0"] == "/dev/null"


def test_stop_leaves_only_the_data(directory: Path) -> None:
    before = open_files()
    with run_postgres(directory / "data") as url:
        assert url == f"postgresql://tasks@/tasks?host={directory}/data/run&port=5432"
        assert (directory / "data" / "run").is_dir()
    assert open_files() == before
    remaining = sorted(path.name for path in (directory / "data").iterdir())
    assert remaining == ["pg18", "postgres.log", "server.lock", "service.lock"]


def test_created_files_are_private(directory: Path) -> None:
    data = directory / "a" / "data"
    before = os.umask(0)
    try:
        with run_postgres(data):
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in data.iterdir()}
            modes["."] = stat.S_IMODE(data.stat().st_mode)
    finally:
        os.umask(before)
    assert modes == {
        ".": 0o700,
        "pg18": 0o700,
        "run": 0o700,
        "postgres.log": 0o600,
        "server.lock": 0o600,
        "service.lock": 0o600,
    }


@pytest.mark.parametrize(("durable", "synced"), [(True, ["data"]), (False, [])])
def test_cluster_directory_is_synced_before_the_server_starts(
    directory: Path, monkeypatch: pytest.MonkeyPatch, synced: list[str], *, durable: bool
) -> None:
    sync, synced_paths = os.fsync, []

    def record(number: int) -> None:
        synced_paths.append(Path(f"/proc/self/fd/{number}").readlink())
        sync(number)

    monkeypatch.setattr(os, "fsync", record)
    with run_postgres(directory / "data", durable=durable):
        assert [path.relative_to(directory).as_posix() for path in synced_paths] == synced


def test_incomplete_cluster_is_recreated(directory: Path) -> None:
    incomplete = directory / "data" / "pg18.new"
    incomplete.mkdir(parents=True)
    (incomplete / "half").touch()
    with run_postgres(directory / "data"):
        names = {path.name for path in (directory / "data" / "pg18").iterdir()}
    assert names == {"postmaster.pid"}


def test_clusters_of_other_versions_are_named(directory: Path) -> None:
    for name in ("pg16", "pg17", "other"):
        (directory / "data" / name).mkdir(parents=True)
    with pytest.raises(EmbeddedError) as raised:
        run_postgres(directory / "data").__enter__()
    assert str(raised.value) == (
        f"{directory}/data holds data of another PostgreSQL version (pg16, pg17), not pg18. "
        "Dump and restore it, or choose another data folder."
    )
    assert not (directory / "records" / "calls").exists()


def test_leftover_socket_directory_is_recreated(directory: Path) -> None:
    (directory / "data" / "run").mkdir(parents=True)
    (directory / "data" / "run" / ".s.PGSQL.5432.lock").touch()
    with run_postgres(directory / "data"):
        assert list((directory / "data" / "run").iterdir()) == []


def test_startup_error_includes_the_end_of_the_log(directory: Path) -> None:
    lines = "".join(f"echo line {number}\n" for number in range(9))
    (directory / "postgres").write_text(f"#!/bin/sh\n{lines}printf 'not utf-8: \\377\\n'\nexit 3\n")
    with pytest.raises(EmbeddedError) as raised:
        run_postgres(directory / "data").__enter__()
    log = directory / "data" / "postgres.log"
    assert str(raised.value).splitlines() == [
        f"postgres failed (exit status 3, time limit 120 s). The end of {log}:",
        *(f"line {number}" for number in range(2, 9)),
        "not utf-8: �",
    ]


def test_server_that_exits_while_starting(directory: Path) -> None:
    (directory / "data" / "pg18").mkdir(parents=True)
    (directory / "postgres").write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(EmbeddedError, match=r"^PostgreSQL stopped while starting\. The end of"):
        run_postgres(directory / "data").__enter__()


@pytest.mark.parametrize(
    "status",
    ["1\ndata\n0\n5432\nrun\n\nmemory\nready\n", "$$\ndata\n0\n5432\nrun\n\nmemory\nstarting\n"],
)
def test_unready_or_unrelated_server_is_not_ready(
    directory: Path, monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    (directory / "data" / "pg18").mkdir(parents=True)
    written = f'printf "%s" "{status}" >"$2/postmaster.pid"'
    (directory / "postgres").write_text(f"#!/bin/sh\n{written}\nexec sleep 60\n")
    monkeypatch.setattr(server, "_READY_TIMEOUT", 0.3)
    with pytest.raises(EmbeddedError, match=r"^PostgreSQL was not ready within 0 s\. The end of"):
        run_postgres(directory / "data").__enter__()


@pytest.mark.parametrize(("name", "exists"), [("data", False), ("data", True), ("x" * 100, False)])
def test_server_user_needs_access_to_existing_directories(
    directory: Path, monkeypatch: pytest.MonkeyPatch, name: str, *, exists: bool
) -> None:
    choices: list[object] = []

    def record(data: Path, required_paths: list[Path]) -> user.ServerUser | None:
        choices.append((data, required_paths))
        return user.choose_user(data, required_paths)

    monkeypatch.setattr(embedded_postgres, "choose_user", record)
    monkeypatch.setattr(tempfile, "tempdir", str(directory / "records"))
    data = directory / name
    if exists:
        data.mkdir()
        data.chmod(0o777)
    with run_postgres(data):
        pass
    parent = data if exists else directory
    socket_parent = parent if name == "data" else directory / "records"
    assert choices == [(data / "pg18", [directory / "postgres", parent, socket_parent])]


def test_created_files_belong_to_the_server_user(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chowned: list[str] = []
    server_user = user.ServerUser(os.getuid(), os.getgid(), needs_dac_override=False)
    monkeypatch.setattr(embedded_postgres, "choose_user", lambda *_: server_user)
    monkeypatch.setattr(server, "make_preexec_fn", lambda _: None)
    monkeypatch.setattr(os, "chown", lambda path, *_, **__: chowned.append(path.name))
    with run_postgres(directory / "data"):
        pass
    assert chowned == ["data", "service.lock", "server.lock", "run", "postgres.log", "pg18.new"]
    with run_postgres(directory / "data"):
        pass
    assert chowned[6:] == ["service.lock", "server.lock", "run", "postgres.log"]


def test_missing_socket_directory_is_ignored_on_stop(directory: Path) -> None:
    with run_postgres(directory / "data"):
        (directory / "data" / "run").rmdir()
    assert not (directory / "data" / "run").exists()


def test_orphaned_server_is_stopped_first(directory: Path) -> None:
    data = directory / "data"
    with run_postgres(data):
        pass
    lock = data_dir._lock(data / "server.lock", None)
    with subprocess.Popen(["/bin/sleep", "60"], pass_fds=[lock]) as orphan:
        try:
            os.close(lock)
            (data / "pg18" / "postmaster.pid").write_text(f"{orphan.pid}\n")
            with run_postgres(data):
                assert orphan.wait(5) == -signal.SIGINT
        finally:
            orphan.kill()


def test_parent_death_signal_is_a_fast_shutdown() -> None:
    assert user._PARENT_DEATH_SIGNAL == signal.SIGINT
