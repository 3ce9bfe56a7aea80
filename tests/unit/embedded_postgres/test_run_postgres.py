"""How the embedded PostgreSQL's programs are started: real processes, with scripts in their place.

A server of PostgreSQL's own takes a second and forgives much. These note what they were given.
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

# The process number tells the programs apart; the order is that of the lines in "calls".
RECORDING = r"""#!/bin/sh
seen={place}/seen
echo "$$" >>"$seen/calls"
tr '\0' '\n' <"/proc/$$/cmdline" | tail -n +2 >"$seen/$$.words"
tr '\0' '\n' <"/proc/$$/environ" >"$seen/$$.environment"
pwd >"$seen/$$.folder"
files=$(ls -l "/proc/$$/fd")
echo "$files" | tail -n +2 >"$seen/$$.files"
ps -o sid= -p "$$" | tr -d ' ' >"$seen/$$.session"
"""
PROGRAMS = {
    "initdb": RECORDING + 'cat >"$seen/$$.given"\n',
    "postgres": RECORDING
    + r"""
if [ "$1" = --single ]; then
    cat >"$seen/$$.given"
    exit 0
fi
trap 'exit 0' INT
printf '%s\n' "$$" data 0 5432 run '' memory ready >"$2/postmaster.pid"
number=0
while [ "$number" -lt 3000 ]; do  # a minute at most, whoever forgets it
    sleep 0.02
    number=$((number + 1))
done
""",
}


class Call(NamedTuple):
    """What a program was given."""

    pid: str
    words: list[str]
    environment: list[str]
    folder: str
    files: dict[str, str]
    session: str
    given: str | None


def calls(place: Path) -> list[Call]:
    """What was called, in order."""

    def lines(pid: str, name: str) -> list[str]:
        return (place / "seen" / f"{pid}.{name}").read_text().splitlines()

    def call(pid: str) -> Call:
        given = place / "seen" / f"{pid}.given"
        return Call(
            pid,
            words=lines(pid, "words"),
            environment=lines(pid, "environment"),
            folder=lines(pid, "folder")[0],
            files={line.split()[-3]: line.split()[-1] for line in lines(pid, "files")},
            session=lines(pid, "session")[0],
            given=given.read_text() if given.exists() else None,
        )

    return [call(pid) for pid in (place / "seen" / "calls").read_text().split()]


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Generator[Path]:
    """A folder that every user can reach, with the programs in it."""
    with tempfile.TemporaryDirectory(prefix="open-") as name:
        place = Path(name).resolve()
        place.chmod(0o777)
        (place / "seen").mkdir()
        (place / "seen").chmod(0o777)
        for program, script in PROGRAMS.items():
            (place / program).write_text(script.replace("{place}", str(place)))
            (place / program).chmod(0o755)
        monkeypatch.setattr(embedded_postgres, "find_binaries", lambda _: place)
        monkeypatch.setattr(server, "_READY_TIMEOUT", 3.0)
        yield place


def open_files() -> set[Path]:
    return set(Path("/proc/self/fd").iterdir())


SAFETY = ("fsync", "synchronous_commit", "full_page_writes")


def settings(data: Path, safety: str) -> list[str]:
    return [
        "cluster_name=tasks-api",
        *(f"{name}={safety}" for name in SAFETY),
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


@pytest.mark.parametrize(("durable", "safety", "quick"), [(True, "on", []), (False, "off", ["-F"])])
def test_first_start_creates_and_starts_a_cluster(
    place: Path, safety: str, quick: list[str], *, durable: bool
) -> None:
    data = place / "new" / "data"
    with run_postgres(data, durable=durable):
        initdb, single, server = calls(place)
    fresh = f"{data}/pg18.new"
    assert initdb.words == [
        f"{place}/initdb",
        f"--pgdata={fresh}",
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
    exits = ["-D", fresh, "-c", "exit_on_error=on", *quick]
    assert single.words == [f"{place}/postgres", "--single", *exits, "template1"]
    options = [word for setting in settings(data, safety) for word in ("-c", setting)]
    assert server.words == [f"{place}/postgres", "-D", f"{data}/pg18", *options]
    assert [call.given for call in (initdb, single, server)] == [
        "",
        "CREATE DATABASE tasks;\n",
        None,
    ]


def test_later_start_only_starts_the_server(place: Path) -> None:
    for _ in range(2):
        with run_postgres(place / "data"):
            pass
    assert [call.words[1] for call in calls(place)[3:]] == ["-D"]


def test_program_gets_only_its_environment_and_files(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"LC_ALL": "xx_XX", "TZ": "Asia/Tokyo", "OTHER": "kept"}.items():
        monkeypatch.setenv(name, value)
    data = place / "data"
    with run_postgres(data):
        found = calls(place)
    for call in found:
        assert {"LC_ALL=C", "TZ=UTC", "OTHER=kept"} <= set(call.environment)
        assert len({line.partition("=")[0] for line in call.environment}) == len(call.environment)
        assert call.folder == "/"
        assert call.session == call.pid  # Ctrl-C in a terminal does not reach it
        assert call.files["1"] == call.files["2"] == f"{data}/postgres.log"
        more = {path for number, path in call.files.items() if int(number) > 2 and path[0] == "/"}
        assert more == {f"{data}/server.lock", call.words[0]}  # the shell reads its script
    assert found[-1].files["0"] == "/dev/null"


def test_stop_leaves_only_the_data(place: Path) -> None:
    before = open_files()
    with run_postgres(place / "data") as url:
        assert url == f"postgresql://tasks@/tasks?host={place}/data/run&port=5432"
        assert (place / "data" / "run").is_dir()
    assert open_files() == before
    left = sorted(path.name for path in (place / "data").iterdir())
    assert left == ["pg18", "postgres.log", "server.lock", "service.lock"]


def test_created_files_are_private(place: Path) -> None:
    data = place / "a" / "data"
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
    place: Path, monkeypatch: pytest.MonkeyPatch, synced: list[str], *, durable: bool
) -> None:
    sync, seen = os.fsync, []

    def noted(number: int) -> None:
        seen.append(Path(f"/proc/self/fd/{number}").readlink())
        sync(number)

    monkeypatch.setattr(os, "fsync", noted)
    with run_postgres(place / "data", durable=durable):
        assert [path.relative_to(place).as_posix() for path in seen] == synced


def test_incomplete_cluster_is_recreated(place: Path) -> None:
    half = place / "data" / "pg18.new"
    half.mkdir(parents=True)
    (half / "half").touch()
    with run_postgres(place / "data"):
        names = {path.name for path in (place / "data" / "pg18").iterdir()}
    assert names == {"postmaster.pid"}


def test_clusters_of_other_versions_are_named(place: Path) -> None:
    for name in ("pg16", "pg17", "other"):
        (place / "data" / name).mkdir(parents=True)
    with pytest.raises(EmbeddedError) as raised:
        run_postgres(place / "data").__enter__()
    assert str(raised.value) == (
        f"{place}/data holds data of another PostgreSQL version (pg16, pg17), not pg18. "
        "Dump and restore it, or choose another data folder."
    )
    assert not (place / "seen" / "calls").exists()


def test_leftover_socket_directory_is_recreated(place: Path) -> None:
    (place / "data" / "run").mkdir(parents=True)
    (place / "data" / "run" / ".s.PGSQL.5432.lock").touch()
    with run_postgres(place / "data"):
        assert list((place / "data" / "run").iterdir()) == []


def test_startup_error_includes_the_end_of_the_log(place: Path) -> None:
    lines = "".join(f"echo line {number}\n" for number in range(9))
    (place / "postgres").write_text(f"#!/bin/sh\n{lines}printf 'not utf-8: \\377\\n'\nexit 3\n")
    with pytest.raises(EmbeddedError) as raised:
        run_postgres(place / "data").__enter__()
    assert str(raised.value).splitlines() == [
        f"postgres failed (exit status 3, time limit 120 s). The end of {place}/data/postgres.log:",
        *(f"line {number}" for number in range(2, 9)),
        "not utf-8: �",
    ]


def test_server_that_exits_while_starting(place: Path) -> None:
    (place / "data" / "pg18").mkdir(parents=True)
    (place / "postgres").write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(EmbeddedError, match=r"^PostgreSQL stopped while starting\. The end of"):
        run_postgres(place / "data").__enter__()


@pytest.mark.parametrize(
    "status",
    ["1\ndata\n0\n5432\nrun\n\nmemory\nready\n", "$$\ndata\n0\n5432\nrun\n\nmemory\nstarting\n"],
)
def test_unready_or_unrelated_server_is_not_ready(
    place: Path, monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    (place / "data" / "pg18").mkdir(parents=True)
    written = f'printf "%s" "{status}" >"$2/postmaster.pid"'
    (place / "postgres").write_text(f"#!/bin/sh\n{written}\nexec sleep 60\n")
    monkeypatch.setattr(server, "_READY_TIMEOUT", 0.3)
    with pytest.raises(EmbeddedError, match=r"^PostgreSQL was not ready within 0 s\. The end of"):
        run_postgres(place / "data").__enter__()


@pytest.mark.parametrize(
    ("name", "there_before"), [("data", False), ("data", True), ("x" * 100, False)]
)
def test_server_user_needs_access_to_existing_directories(
    place: Path, monkeypatch: pytest.MonkeyPatch, name: str, *, there_before: bool
) -> None:
    asked: list[object] = []

    def noted(data: Path, passed: list[Path]) -> user.ServerUser | None:
        asked.append((data, passed))
        return user.choose_user(data, passed)

    monkeypatch.setattr(embedded_postgres, "choose_user", noted)
    monkeypatch.setattr(tempfile, "tempdir", str(place / "seen"))
    data = place / name
    if there_before:
        data.mkdir()
        data.chmod(0o777)
    with run_postgres(data):
        pass
    outer = data if there_before else place
    socket_place = outer if name == "data" else place / "seen"
    assert asked == [(data / "pg18", [place / "postgres", outer, socket_place])]


def test_created_files_belong_to_the_server_user(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[str] = []
    whom = user.ServerUser(os.getuid(), os.getgid(), needs_dac_override=False)
    monkeypatch.setattr(embedded_postgres, "choose_user", lambda *_: whom)
    monkeypatch.setattr(server, "make_preexec_fn", lambda _: None)
    monkeypatch.setattr(os, "chown", lambda path, *_, **__: given.append(path.name))
    with run_postgres(place / "data"):
        pass
    assert given == ["data", "service.lock", "server.lock", "run", "postgres.log", "pg18.new"]
    with run_postgres(place / "data"):
        pass
    assert given[6:] == ["service.lock", "server.lock", "run", "postgres.log"]


def test_missing_socket_directory_is_ignored_on_stop(place: Path) -> None:
    with run_postgres(place / "data"):
        (place / "data" / "run").rmdir()
    assert not (place / "data" / "run").exists()


def test_orphaned_server_is_stopped_first(place: Path) -> None:
    data = place / "data"
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
