"""The commands `serve`, `migrate`, `new-epoch`, `import` and `doctor` of the Tasks API."""

from __future__ import annotations

import argparse
import gc
import os
import platform
import signal
import socket
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager, nullcontext
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import TextIO

import msgspec
import uvicorn

from app import embedded_postgres
from app.asgi import create_app
from app.db import migrations
from app.db.database import SCHEMA_REVISION, is_schema_compatible
from app.domain.users.export_file import ExportFile, UserImportError
from app.domain.users.importer import store_export
from app.http.middleware import HTTPMiddleware
from app.http.parameters import UserId
from app.http.validation import describe_mismatch
from app.logging import configure_logging
from app.openapi.document import RouteMismatchError
from app.server.admission import AdmissionControl
from app.server.protocol import HTTPProtocol
from app.server.server import Server
from app.settings import ALL_ADDRESSES, Secret, Settings, SettingsError

GRACEFUL_SHUTDOWN_TIMEOUT = 10
IMPORT_TIMEOUT = 60.0  # for each transaction, which waits for other changes of the user
PARENT_POLL_INTERVAL = 0.5
LAST_STANDARD_FD = 2
GC_THRESHOLD = 10_000  # net allocated objects; a request allocates some hundred
# Python discards exceptions of a signal handler that interrupts some callbacks, for example those
# after a fork. The event keeps the request to exit.
_shutdown_requested = threading.Event()


class BindError(Exception):
    """The service cannot listen on an address; the message names the address."""


def main() -> None:
    """Run a command; exit with a message and status 1 if it cannot run."""
    _open_standard_fds()
    parser = argparse.ArgumentParser(prog="python -m app", description=__doc__)
    commands: dict[str, Callable[..., None]] = {
        "serve": serve,
        "migrate": migrate,
        "new-epoch": new_epoch,
        "import": import_user,
        "doctor": doctor,
    }
    subparsers = parser.add_subparsers(dest="command", required=True)
    parsers = {
        name: subparsers.add_parser(name, help=command.__doc__, description=command.__doc__)
        for name, command in commands.items()
    }
    parsers["import"].add_argument(
        "file", metavar="FILE", help="an export, or - for standard input"
    )
    parsers["import"].add_argument(
        "--user", type=_parse_user_id, help="the user ID to store, instead of that of the export"
    )
    options = vars(parser.parse_args())
    command = commands[options.pop("command")]
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _handle_exit)
    try:
        settings = Settings.from_env(os.environ)
        configure_logging(settings.log_level, settings.log_format)
        command(settings, **options)
    except (
        RouteMismatchError,
        BindError,
        SettingsError,
        embedded_postgres.EmbeddedError,
        migrations.MigrationError,
        UserImportError,
    ) as error:
        sys.exit(str(error))


def _open_standard_fds() -> None:
    """Open the null device for each closed standard stream.

    A socket would otherwise get its file descriptor, and libuv aborts when one of those is closed.
    """
    descriptor = os.open(os.devnull, os.O_RDWR)
    while descriptor <= LAST_STANDARD_FD:
        descriptor = os.open(os.devnull, os.O_RDWR)
    os.close(descriptor)


def serve(settings: Settings) -> None:
    """Serve the API until SIGINT or SIGTERM, on DATABASE_URL or the embedded PostgreSQL."""
    _exit_with_parent(settings.stop_with_parent)
    # Check the port first: the embedded PostgreSQL takes seconds to start.
    if settings.metrics_port is not None:
        _bind_socket(settings.metrics_host, settings.metrics_port).close()
    with (
        _bind_socket(settings.host, settings.port) as listener,
        _open_database(settings) as (complete_settings, data),
    ):
        app = create_app(complete_settings)
        server = create_server(app, complete_settings)
        if app.metrics is not None:
            app.metrics.register_rejections(lambda: server.admission.rejected_total)
        _listen(listener, server.config.backlog)  # clients may connect when the URL is printed

        def stop(_number: int, _frame: FrameType | None) -> None:
            server.should_exit = True

        # uvicorn replaces these handlers while it runs, and raises the received signal again when
        # it is done. Neither that signal nor an earlier one may interrupt the database's shutdown.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stop)
        server.should_exit = _shutdown_requested.is_set()
        address = _format_url(listener)
        _print(f"Tasks API  {address}/api/v1", sys.stderr)
        _print(f"docs       {address}/docs", sys.stderr)
        _print(f"data       {data}", sys.stderr)
        with _serve_metrics(app, complete_settings) as metrics_url:
            if metrics_url is not None:
                _print(f"metrics    {metrics_url}", sys.stderr)
            _print(f"process    {os.getpid()} (Ctrl-C or SIGTERM stops it)", sys.stderr)
            _freeze_gc()
            server.run(sockets=[listener])


def _freeze_gc() -> None:
    """Freeze objects created at startup so that the garbage collector does not scan them.

    A scan of all objects of the libraries takes longer than ten requests.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)


def create_server(app: HTTPMiddleware, settings: Settings) -> Server:
    """Return the HTTP server for an application."""
    return Server(
        uvicorn.Config(
            app,
            host="" if settings.host == ALL_ADDRESSES else settings.host,
            port=settings.port,
            http=HTTPProtocol,
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # client addresses are not used
            timeout_keep_alive=settings.keep_alive_timeout,
            timeout_graceful_shutdown=GRACEFUL_SHUTDOWN_TIMEOUT,
            workers=1,  # by default uvicorn reads WEB_CONCURRENCY
        ),
        AdmissionControl(settings.max_concurrent_requests, app.cors),
    )


def migrate(settings: Settings) -> None:
    """Upgrade the database schema to the latest revision."""
    with _open_database(settings) as (complete_settings, data):
        migrations.upgrade(complete_settings.database_config())
        _print(f"The schema is at revision {SCHEMA_REVISION}: {data}", sys.stdout)


def new_epoch(settings: Settings) -> None:
    """Make every token of the feed expire, after a restore or an update from version 1.1.0."""
    with _open_database(settings) as (complete_settings, data):
        users = migrations.renew_epochs(complete_settings.database_config())
        _print(f"The tokens of {users} users have expired: {data}", sys.stdout)


def import_user(settings: Settings, file: str, user: str | None = None) -> None:
    """Store the tasks and lists of an export. After an interruption, it can be repeated."""
    try:
        with closing(ExportFile()) as export:
            items = _read_export(export, file)
            store = partial(store_export, export, user or export.user_id)
            with _open_database(settings) as (complete_settings, data):
                _print(f"Importing {items} tasks and lists ...", sys.stderr)
                result = migrations.run(complete_settings.database_config(), IMPORT_TIMEOUT, store)
    except SystemExit:  # of a signal handler
        sys.exit("The import was interrupted. Repeat it to store the rest.")
    _print(
        f"Stored {result.stored} of {items} tasks and lists, {result.unchanged} existed, "
        f"{result.different} existed with other content: {data}",
        sys.stdout,
    )


def _read_export(export: ExportFile, file: str) -> int:
    """Read a file or the standard input, and return the number of its tasks and lists."""
    try:
        with nullcontext(sys.stdin.buffer) if file == "-" else Path(file).open("rb") as stream:
            return export.read(stream)
    except (OSError, sqlite3.Error) as error:
        raise UserImportError(f"The export cannot be read: {error}") from None


def _parse_user_id(raw: str) -> str:
    try:
        return msgspec.convert(raw, UserId)
    except msgspec.ValidationError:
        raise argparse.ArgumentTypeError(describe_mismatch(UserId, raw)) from None


def doctor(settings: Settings) -> None:
    """Check that the service can run on this machine; exit with status 1 if it cannot."""
    names = ["litestar", "advanced-alchemy", "sqlalchemy", "asyncpg", "msgspec", "uvicorn"]
    _print(f"python     {platform.python_version()}, {platform.platform()}", sys.stdout)
    _print(f"libraries  {', '.join(f'{name} {version(name)}' for name in names)}", sys.stdout)
    free = _is_port_free(settings.host, settings.port)
    _print(
        f"port       {settings.host}:{settings.port} is {'free' if free else 'in use'}", sys.stdout
    )
    if settings.database_url is None:
        binaries, data = embedded_postgres.find_binaries(), _printable_path(settings.data_dir)
        _print(f"database   embedded, {binaries}, data in {data}", sys.stdout)
        compatible = True
    else:
        compatible = _check_schema(settings)
    if not (free and compatible):
        sys.exit(1)


def _print(line: str, stream: TextIO | None) -> None:
    """Print a line; ignore a stream that is closed or cannot be written."""
    if stream is None:
        return
    try:
        print(line, file=stream, flush=True)
    except OSError:
        # At exit Python flushes the buffer again, fails and replaces the exit status.
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def _check_schema(settings: Settings) -> bool:
    """Print the schema revision of DATABASE_URL; return whether this version can use it."""
    try:
        revision = migrations.get_revision(settings.database_config())
    except migrations.MigrationError as error:
        _print(f"database   DATABASE_URL. {error}", sys.stdout)
        return False
    _print(
        f"database   DATABASE_URL, schema revision {revision}, required {SCHEMA_REVISION}",
        sys.stdout,
    )
    return is_schema_compatible(revision)


@contextmanager
def _open_database(settings: Settings) -> Generator[tuple[Settings, str]]:
    """Yield settings with a database URL, and a printable location of the database.

    Without DATABASE_URL, run the embedded PostgreSQL and upgrade its schema if necessary.
    """
    if settings.database_url is not None:
        yield settings, settings.database_config().url.render_as_string(hide_password=True)
        return
    _print("Starting the embedded PostgreSQL ...", sys.stderr)
    with embedded_postgres.run_postgres(settings.data_dir) as url:
        if _shutdown_requested.is_set():
            sys.exit(0)
        complete_settings = msgspec.structs.replace(settings, database_url=Secret(url))
        if not migrations.has_compatible_schema(complete_settings.database_config()):
            migrations.upgrade(complete_settings.database_config())
        yield complete_settings, _printable_path(settings.data_dir.resolve())


@contextmanager
def _serve_metrics(app: HTTPMiddleware, settings: Settings) -> Generator[str | None]:
    """Serve the metrics until the end of the block; yield their URL, or None if they are off."""
    if app.metrics is None or settings.metrics_port is None:
        yield None
        return
    listener = _bind_socket(settings.metrics_host, settings.metrics_port)
    origin = _format_url(listener)
    with app.metrics.serve(listener):
        yield f"{origin}/metrics"


def _format_url(listener: socket.socket) -> str:
    """Return a URL of the listener that works on this machine."""
    host, port = listener.getsockname()[:2]
    if host in {"0.0.0.0", "::"}:  # noqa: S104 - compared, not bound
        host = "::1" if _is_ipv6_only(listener) else "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _printable_path(path: Path) -> str:
    """Return a path as text; bytes that are not UTF-8 are escaped, because streams reject them."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _is_ipv6_only(listener: socket.socket) -> bool:
    is_ipv6 = listener.family == socket.AF_INET6
    return is_ipv6 and bool(listener.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY))


def _bind_socket(host: str, port: int) -> socket.socket:
    """Return a socket bound to the address; raises BindError.

    uvicorn would log the error and end the process.
    """
    is_wildcard = host == ALL_ADDRESSES
    dual_stack = is_wildcard and socket.has_dualstack_ipv6()
    listener = socket.socket(socket.AF_INET6 if dual_stack or ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        if dual_stack:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(("" if is_wildcard else host, port))
    except OSError as error:
        listener.close()
        msg = f"Cannot listen on {host}, port {port}: {error.strerror}."
        raise BindError(msg) from None
    return listener


def _listen(listener: socket.socket, backlog: int) -> None:
    """Listen on a bound socket; raises BindError.

    With SO_REUSEADDR two processes can bind the same address: only one of them can listen.
    """
    try:
        listener.listen(backlog)
    except OSError as error:
        host, port = listener.getsockname()[:2]
        msg = f"Cannot listen on {host}, port {port}: {error.strerror}."
        raise BindError(msg) from None


def _is_port_free(host: str, port: int) -> bool:
    try:
        _bind_socket(host, port).close()
    except BindError:
        return False
    return True


def _exit_with_parent(parent: int | None) -> None:
    """Send SIGTERM to this process when the parent ends; a killed task runner stops no child.

    Raises SettingsError if `parent` is not the parent's process ID.
    """
    if parent is None:
        return
    if parent != os.getppid():
        msg = f"STOP_WITH_PARENT: process {parent} is not the parent of this process"
        raise SettingsError(msg)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_POLL_INTERVAL)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def _handle_exit(_number: int, _frame: FrameType | None) -> None:
    _shutdown_requested.set()
    sys.exit(0)
