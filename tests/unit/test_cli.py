"""The command line, run in this process."""

from __future__ import annotations

import gc
import os
import platform
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import msgspec
import pytest

from app import cli, embedded_postgres
from app.asgi import create_app
from app.db import migrations
from app.db.database import SCHEMA_REVISION
from app.http.cors import CORSPolicy
from app.http.middleware import HTTPMiddleware
from app.logging import LogFormat, LogLevel
from app.openapi.document import RouteMismatchError
from app.server.protocol import HTTPProtocol
from app.settings import Secret, Settings, SettingsError

SETTINGS = Settings(database_url=Secret("postgresql://tasks:hunter2@127.0.0.1:1/tasks"), port=0)
MASKED_URL = "postgresql+asyncpg://tasks:***@127.0.0.1:1/tasks"


@pytest.fixture(autouse=True)
def restore_process_state(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Restore signal handlers, the shutdown request and the logging configuration."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.setattr(cli, "_shutdown_requested", threading.Event())
    monkeypatch.setattr(cli, "configure_logging", lambda *_: None)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


# --- the entry point -----------------------------------------------------------------------------


@pytest.mark.requirement("FR-051")
def test_sigterm_during_startup_exits_cleanly() -> None:
    code = "import os, signal, app.__main__; os.kill(os.getpid(), signal.SIGTERM); os._exit(9)"
    root = Path(__file__).parents[2]
    completed = subprocess.run([sys.executable, "-c", code], cwd=root, check=False)
    assert completed.returncode == 0


# --- main ----------------------------------------------------------------------------------------


def call_main(monkeypatch: pytest.MonkeyPatch, *arguments: str, **environ: str) -> list[Any]:
    """Return the calls that `main` makes with these arguments."""
    calls: list[Any] = []
    for name in ("serve", "migrate", "new_epoch", "import_user", "doctor"):

        def command(settings: Settings, name: str = name, **options: str) -> None:
            """Record a call."""
            calls.append((name, settings, options))

        monkeypatch.setattr(cli, name, command)
    monkeypatch.setattr(cli, "configure_logging", lambda *args: calls.append(args))
    monkeypatch.setattr(sys, "argv", ["app", *arguments])
    monkeypatch.setattr(os, "environ", environ)
    cli.main()
    return calls


@pytest.mark.requirement("FR-038")
@pytest.mark.parametrize(
    ("arguments", "name", "options"),
    [
        (["serve"], "serve", {}),
        (["migrate"], "migrate", {}),
        (["new-epoch"], "new_epoch", {}),
        (["import", "a"], "import_user", {"file": "a", "user": None}),
        (["import", "--user", "bob", "-"], "import_user", {"file": "-", "user": "bob"}),
        (["doctor"], "doctor", {}),
    ],
)
def test_command_gets_the_settings_after_logging_is_configured(
    arguments: list[str], name: str, options: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert call_main(monkeypatch, *arguments, LOG_LEVEL="error", LOG_FORMAT="text") == [
        (LogLevel.ERROR, LogFormat.TEXT),
        (name, Settings(log_level=LogLevel.ERROR, log_format=LogFormat.TEXT), options),
    ]


@pytest.mark.requirement("FR-038")
def test_command_exits_cleanly_on_either_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    call_main(monkeypatch, "doctor")
    for number in (signal.SIGINT, signal.SIGTERM):
        cli._shutdown_requested.clear()
        handler = signal.getsignal(number)
        assert callable(handler)
        with pytest.raises(SystemExit) as raised:
            handler(number, None)
        assert raised.value.code == 0
        assert cli._shutdown_requested.is_set()


@pytest.mark.requirement("FR-038")
@pytest.mark.parametrize("arguments", [[], ["stop"]])
def test_unknown_command_lists_the_commands(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        call_main(monkeypatch, *arguments)
    output = capsys.readouterr().err
    assert raised.value.code == 2
    assert output.startswith(
        "usage: python -m app [-h] {serve,migrate,new-epoch,import,doctor} ...\n"
    )


@pytest.mark.requirement("FR-038")
def test_help_describes_the_program(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        call_main(monkeypatch, "--help")
    assert (
        "The commands `serve`, `migrate`, `new-epoch`, `import` and `doctor` of the Tasks API."
    ) in " ".join(capsys.readouterr().out.split())


@pytest.mark.requirement("FR-037", "FR-038")
@pytest.mark.parametrize(
    "error",
    [
        RouteMismatchError("mend it"),
        cli.BindError("mend it"),
        SettingsError("mend it"),
        embedded_postgres.EmbeddedError("mend it"),
        migrations.MigrationError("mend it"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_known_error_is_printed_without_a_traceback(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(cli, "configure_logging", fail)
    monkeypatch.setattr(sys, "argv", ["app", "doctor"])
    monkeypatch.setattr(os, "environ", {})
    with pytest.raises(SystemExit) as raised:
        cli.main()
    assert raised.value.code == "mend it"


# --- serve ---------------------------------------------------------------------------------------


class App(NamedTuple):
    """An application without metrics by default."""

    settings: Settings
    metrics: Any = None


class FakeServer(SimpleNamespace):
    """A server that records how it is run."""

    def run(self, *, sockets: list[socket.socket]) -> None:
        (self.socket,) = sockets
        self.frozen = gc.get_freeze_count()
        numbers = (signal.SIGINT, signal.SIGTERM)
        self.handlers: list[Any] = [signal.getsignal(number) for number in numbers]
        self.accepts = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        self.exits_immediately = self.should_exit
        self.socket.close()


@pytest.fixture
def fake_server(monkeypatch: pytest.MonkeyPatch) -> FakeServer:
    """Replace the server that `serve` runs."""
    server = FakeServer(config=SimpleNamespace(backlog=7), should_exit=False)
    monkeypatch.setattr(cli, "create_app", App)

    def create_server(*args: Any) -> FakeServer:
        server.arguments = args
        return server

    monkeypatch.setattr(cli, "create_server", create_server)
    return server


@pytest.mark.requirement("FR-038")
@pytest.mark.parametrize(
    ("host", "shown"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1"),  # noqa: S104 - only in a test
        ("::1", "[::1]"),
        ("*", "127.0.0.1"),
    ],
)
def test_startup_prints_its_addresses(
    host: str, shown: str, fake_server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = msgspec.structs.replace(SETTINGS, host=host)
    cli.serve(settings)
    out, err = capsys.readouterr()
    port = int(err.splitlines()[0].rpartition(":")[2].removesuffix("/api/v1"))
    assert port > 0
    assert out == ""
    assert err.splitlines() == [
        f"Tasks API  http://{shown}:{port}/api/v1",
        f"docs       http://{shown}:{port}/docs",
        f"data       {MASKED_URL}",
        f"process    {os.getpid()} (Ctrl-C or SIGTERM stops it)",
    ]
    assert fake_server.arguments == (App(settings), settings)
    assert fake_server.accepts


@pytest.mark.requirement("FR-038", "FR-049")
def test_startup_prints_the_metrics_address(
    fake_server: FakeServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[Any] = []
    ports: list[int] = []

    class FakeMetrics:
        def register_rejections(self, rejected: Any) -> None:
            calls.append(rejected())

        @contextmanager
        def serve(self, listener: socket.socket) -> Iterator[None]:
            calls.append(listener.getsockname()[0])
            ports.append(listener.getsockname()[1])
            yield
            listener.close()

    fake_server.admission = SimpleNamespace(rejected_total=7)
    monkeypatch.setattr(cli, "create_app", lambda settings: App(settings, FakeMetrics()))
    cli.serve(msgspec.structs.replace(SETTINGS, metrics_port=0, metrics_host="::1"))
    assert calls == [7, "::1"]
    assert f"\nmetrics    http://[::1]:{ports[0]}/metrics\n" in capsys.readouterr().err


@pytest.mark.requirement("NFR-004")
def test_serve_freezes_garbage_collection(fake_server: FakeServer) -> None:
    before = gc.get_threshold()
    gc.unfreeze()
    try:
        cli.serve(SETTINGS)
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)
    assert fake_server.frozen > 10_000


@pytest.mark.requirement("FR-038")
def test_either_signal_stops_the_server(fake_server: FakeServer) -> None:
    cli.serve(SETTINGS)
    assert fake_server.exits_immediately is False
    for handler in fake_server.handlers:
        fake_server.should_exit = False
        handler(signal.SIGINT, None)
        assert fake_server.should_exit is True


@pytest.mark.requirement("FR-038")
def test_signal_before_the_server_starts_is_not_lost(fake_server: FakeServer) -> None:
    cli._shutdown_requested.set()
    cli.serve(SETTINGS)
    assert fake_server.exits_immediately is True


@pytest.mark.requirement("FR-038")
def test_parent_is_watched_if_configured(
    fake_server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched: list[int | None] = []
    monkeypatch.setattr(cli, "_exit_with_parent", watched.append)
    for parent in (None, 123):
        cli.serve(msgspec.structs.replace(SETTINGS, stop_with_parent=parent))
    assert watched == [None, 123]
    assert fake_server.arguments


class SynchronousThread:
    """A daemon thread whose `start` runs the target."""

    def __init__(self, *, target: Any, daemon: bool) -> None:
        assert daemon
        self.start = target


@pytest.mark.requirement("FR-038")
def test_exit_of_the_parent_stops_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    parents, slept, killed = [5, 5, 5, 1], list[float](), list[tuple[int, int]]()
    monkeypatch.setattr(threading, "Thread", SynchronousThread)
    monkeypatch.setattr(os, "getppid", lambda: parents.pop(0))
    monkeypatch.setattr(time, "sleep", slept.append)
    monkeypatch.setattr(os, "kill", lambda *args: killed.append(args))
    cli._exit_with_parent(None)
    assert killed == []
    cli._exit_with_parent(5)
    assert slept == [0.5, 0.5]
    assert killed == [(os.getpid(), signal.SIGTERM)]


def test_server_does_not_configure_logging_and_sockets() -> None:
    settings = Settings(host="::1", port=1234, keep_alive_timeout=30)
    app = HTTPMiddleware(cast("Any", None), [], CORSPolicy(()))
    config = cli.create_server(app, settings).config
    assert (config.app, config.host, config.port, config.http) == (app, "::1", 1234, HTTPProtocol)
    assert (config.ws, config.lifespan, config.log_config) == ("none", "on", None)
    assert (config.access_log, config.server_header, config.proxy_headers) == (False, False, False)
    assert (config.timeout_graceful_shutdown, config.timeout_keep_alive) == (10, 30)


class Cyclic:
    """An object in a reference cycle, which only the garbage collector frees."""

    def __init__(self) -> None:
        self.itself = self


@pytest.mark.requirement("FR-037")
def test_server_listens_on_both_address_families() -> None:
    app = HTTPMiddleware(cast("Any", None), [], CORSPolicy(()))
    assert cli.create_server(app, Settings(host="*")).config.host == ""


def test_freeze_gc_collects_and_freezes_startup_objects() -> None:
    before = gc.get_threshold()
    gc.unfreeze()
    gone = weakref.ref(Cyclic())
    try:
        assert gone() is not None
        cli._freeze_gc()
        assert gone() is None
        assert gc.get_freeze_count() > 10_000
        assert gc.get_threshold()[0] == 10_000
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)


@pytest.mark.requirement("FR-047")
def test_server_gets_its_concurrency_limit_and_cors_policy() -> None:
    app = HTTPMiddleware(cast("Any", None), [], CORSPolicy(()))
    server = cli.create_server(app, Settings(max_concurrent_requests=3))
    assert server.server_state is server.admission
    assert (server.admission.max_concurrent_requests, server.admission.cors) == (3, app.cors)


# --- the database --------------------------------------------------------------------------------


@pytest.fixture
def embedded_calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Replace the embedded database by a list of the calls to it."""
    calls: list[Any] = []

    @contextmanager
    def run_postgres(data_dir: Path) -> Iterator[str]:
        calls.append(data_dir)
        yield "postgresql://tasks@127.0.0.1:1/tasks"
        calls.append("stopped")

    monkeypatch.setattr(embedded_postgres, "run_postgres", run_postgres)
    monkeypatch.setattr(migrations, "upgrade", lambda config: calls.append(config.url.port))
    return calls


@pytest.mark.requirement("FR-038")
@pytest.mark.parametrize(("current", "migrated"), [(True, []), (False, [1])])
def test_embedded_database_is_migrated_if_needed(
    embedded_calls: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *,
    current: bool,
    migrated: list[int],
) -> None:
    monkeypatch.setattr(
        migrations, "has_compatible_schema", lambda config: current and config.url.port == 1
    )
    settings = Settings(data_dir=Path("some/../folder"), port=7)
    with cli._open_database(settings) as (resolved, data):
        assert resolved.database_url == Secret("postgresql://tasks@127.0.0.1:1/tasks")
        assert resolved.port == 7
        assert data == str(Path("folder").resolve())
    assert embedded_calls == [Path("some/../folder"), *migrated, "stopped"]
    assert capsys.readouterr() == ("", "Starting the embedded PostgreSQL ...\n")


@pytest.mark.requirement("FR-038")
def test_shutdown_request_is_honoured_after_the_embedded_database_starts(
    embedded_calls: list[Any],
) -> None:
    cli._shutdown_requested.set()
    with pytest.raises(SystemExit) as raised, cli._open_database(Settings()):
        pass  # pragma: no cover - not reached
    assert raised.value.code == 0
    assert embedded_calls == [Path(".data")]


@pytest.mark.requirement("FR-039")
def test_migrate_prints_the_revision_and_the_database(
    embedded_calls: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    cli.migrate(SETTINGS)
    assert embedded_calls == [1]
    assert capsys.readouterr().out == f"The schema is at revision {SCHEMA_REVISION}: {MASKED_URL}\n"


# --- doctor --------------------------------------------------------------------------------------


@contextmanager
def port_of(*, free: bool) -> Iterator[int]:
    """Yield a port that is free, or one that is in use."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        if not free:
            yield port
    if free:
        yield port


def run_doctor(settings: Settings, capsys: pytest.CaptureFixture[str]) -> tuple[list[str], Any]:
    """Run `doctor`. Return its output and its exit status."""
    status: Any = None
    try:
        cli.doctor(settings)
    except SystemExit as exited:
        status = exited.code
    return capsys.readouterr().out.splitlines(), status


@pytest.mark.requirement("FR-038")
@pytest.mark.parametrize(("free", "state", "status"), [(True, "free", None), (False, "in use", 1)])
def test_doctor_describes_the_environment(
    state: str,
    status: int | None,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    *,
    free: bool,
) -> None:
    monkeypatch.setattr(embedded_postgres, "find_binaries", lambda: "/programs")
    names = ["litestar", "advanced-alchemy", "sqlalchemy", "asyncpg", "msgspec", "uvicorn"]
    with port_of(free=free) as port:
        result = run_doctor(Settings(port=port, data_dir=Path("here")), capsys)
    assert result == (
        [
            f"python     {platform.python_version()}, {platform.platform()}",
            f"libraries  {', '.join(f'{name} {version(name)}' for name in names)}",
            f"port       127.0.0.1:{port} is {state}",
            "database   embedded, /programs, data in here",
        ],
        status,
    )


@pytest.mark.requirement("FR-038")
@pytest.mark.parametrize(
    ("revision", "status"), [(SCHEMA_REVISION, None), ("9999", None), ("0000", 1), (None, 1)]
)
def test_doctor_prints_the_revision_of_a_configured_database(
    revision: str | None,
    status: int | None,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(migrations, "get_revision", lambda config: config.url.port and revision)
    lines, exit_status = run_doctor(SETTINGS, capsys)
    assert lines[3:] == [
        f"database   DATABASE_URL, schema revision {revision}, required {SCHEMA_REVISION}"
    ]
    assert exit_status == status


@pytest.mark.requirement("FR-038", "FR-054")
def test_doctor_prints_why_a_configured_database_is_unreachable(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise migrations.MigrationError("The database cannot be reached: closed")

    monkeypatch.setattr(migrations, "get_revision", fail)
    lines, exit_status = run_doctor(SETTINGS, capsys)
    assert lines[3:] == ["database   DATABASE_URL. The database cannot be reached: closed"]
    assert exit_status == 1


# --- the address ---------------------------------------------------------------------------------


@pytest.mark.requirement("FR-038")
def test_address_in_use_is_reported() -> None:
    with port_of(free=False) as port, pytest.raises(cli.BindError) as raised:
        cli._bind_socket("127.0.0.1", port)
    assert str(raised.value) == (
        f"Cannot listen on 127.0.0.1, port {port}: Address already in use."
    )


@pytest.mark.requirement("FR-038")
def test_second_service_to_listen_on_an_address_reports_it() -> None:
    with cli._bind_socket("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with cli._bind_socket("127.0.0.1", port) as second:
            cli._listen(first, 1)
            with pytest.raises(cli.BindError) as raised:
                cli._listen(second, 1)
    assert str(raised.value) == (
        f"Cannot listen on 127.0.0.1, port {port}: Address already in use."
    )


@pytest.mark.requirement("FR-049")
def test_metrics_address_in_use_is_reported() -> None:
    with port_of(free=False) as port:
        settings = msgspec.structs.replace(SETTINGS, metrics_port=port, metrics_host="127.0.0.1")
        with (
            pytest.raises(cli.BindError) as raised,
            cli._serve_metrics(create_app(settings), settings),
        ):
            pass  # pragma: no cover - not reached
    assert str(raised.value) == (
        f"Cannot listen on 127.0.0.1, port {port}: Address already in use."
    )


@pytest.mark.parametrize(
    ("host", "family"), [("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)]
)
def test_address_can_be_reused_immediately(host: str, family: socket.AddressFamily) -> None:
    with cli._bind_socket(host, 0) as listener:
        assert listener.family == family
        assert listener.getsockname()[0] == host
        assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)


@pytest.mark.requirement("FR-037")
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_asterisk_listens_on_both_address_families(address: str) -> None:
    with cli._bind_socket("*", 0) as listener:
        listener.listen()
        with socket.create_connection((address, listener.getsockname()[1]), timeout=10):
            pass
        with pytest.raises(cli.BindError, match=r"^Cannot listen on \*, port \d+: "):
            cli._bind_socket("*", listener.getsockname()[1])


@pytest.mark.parametrize(("v6_only", "shown"), [(0, "127.0.0.1"), (1, "[::1]")])
def test_printed_address_is_reachable(v6_only: int, shown: str) -> None:
    with socket.socket(socket.AF_INET6) as listener:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, v6_only)
        listener.bind(("::", 0))
        assert cli._format_url(listener) == f"http://{shown}:{listener.getsockname()[1]}"


@pytest.mark.requirement("FR-037")
def test_asterisk_listens_on_ipv4_without_ipv6(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    with cli._bind_socket("*", 0) as listener:
        assert listener.family == socket.AF_INET
        listener.listen()
        with socket.create_connection(listener.getsockname(), timeout=10):
            pass


def test_port_is_free_while_nothing_listens() -> None:
    with port_of(free=True) as port:
        assert cli._is_port_free("127.0.0.1", port) is True
    with port_of(free=False) as port:
        assert cli._is_port_free("127.0.0.1", port) is False
