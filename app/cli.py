"""The command line: `serve`, `migrate`, `doctor`."""

from __future__ import annotations

import argparse
import gc
import os
import platform
import signal
import socket
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
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
from app.http.middleware import HTTPMiddleware
from app.logging import configure_logging
from app.openapi.document import RouteMismatchError
from app.server.admission import AdmissionControl
from app.server.protocol import HTTPProtocol
from app.server.server import Server
from app.settings import ALL_ADDRESSES, Secret, Settings, SettingsError

GRACEFUL_SHUTDOWN_TIMEOUT = 10
PARENT_POLL_INTERVAL = 0.5
LAST_STANDARD_FD = 2
GC_THRESHOLD = 10_000  # objects made and not yet gone; a request makes some hundred
# The exception of a signal handler is lost where Python calls back and ignores exceptions, such
# as after a fork (logging's locks); so the wish is kept until it is granted.
_shutdown_requested = threading.Event()


class BindError(Exception):
    """The address cannot be listened on; the message names it."""


def main() -> None:
    """Run one command; a fault that a person can mend ends it with its message and status 1."""
    _open_standard_fds()
    parser = argparse.ArgumentParser(prog="python -m app", description=__doc__)
    commands = {"serve": serve, "migrate": migrate, "doctor": doctor}
    parser.add_argument("command", choices=commands)
    command = commands[parser.parse_args().command]
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _handle_exit)
    try:
        settings = Settings.from_env(os.environ)
        configure_logging(settings.log_level, settings.log_format)
        command(settings)
    except (
        RouteMismatchError,
        BindError,
        SettingsError,
        embedded_postgres.EmbeddedError,
        migrations.MigrationError,
    ) as fault:
        sys.exit(str(fault))


def _open_standard_fds() -> None:
    """Open the null device in place of each closed standard stream.

    A socket would get its number, and libuv ends a process that closes one of these.
    """
    descriptor = os.open(os.devnull, os.O_RDWR)
    while descriptor <= LAST_STANDARD_FD:
        descriptor = os.open(os.devnull, os.O_RDWR)
    os.close(descriptor)


def serve(settings: Settings) -> None:
    """Serve the API until a signal, on the database given or on the embedded one."""
    _exit_with_parent(settings.stop_with_parent)
    # Before the embedded database, which takes seconds to start.
    if settings.metrics_port is not None:
        _bind_socket(settings.metrics_host, settings.metrics_port).close()
    with (
        _bind_socket(settings.host, settings.port) as listener,
        _open_database(settings) as (complete, data),
    ):
        app = create_app(complete)
        server = create_server(app, complete)
        if app.metrics is not None:
            app.metrics.register_rejections(lambda: server.admission.rejected_total)
        _listen(listener, server.config.backlog)  # who reads the address below may use it

        def stop(_number: int, _frame: FrameType | None) -> None:
            server.should_exit = True

        # Until uvicorn has handlers of its own a signal must not be lost. It raises the one that
        # stopped it once more when it is done, and then nothing may cut short what follows: the
        # end of the database.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stop)
        server.should_exit = _shutdown_requested.is_set()
        address = _format_url(listener)
        _print(f"Tasks API  {address}/api/v1", sys.stderr)
        _print(f"docs       {address}/docs", sys.stderr)
        _print(f"data       {data}", sys.stderr)
        with _serve_metrics(app, complete) as metrics:
            if metrics is not None:
                _print(f"metrics    {metrics}", sys.stderr)
            _print(f"process    {os.getpid()} (Ctrl-C or SIGTERM stops it)", sys.stderr)
            _freeze_gc()
            server.run(sockets=[listener])


def _freeze_gc() -> None:
    """Keep the collector of garbage from looking again and again at what is there to stay.

    One look at all the objects of the libraries takes longer than ten requests.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)


def create_server(app: HTTPMiddleware, settings: Settings) -> Server:
    """The HTTP server for an application."""
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
            proxy_headers=False,  # nothing asks for the address of a client
            timeout_keep_alive=settings.keep_alive_timeout,
            timeout_graceful_shutdown=GRACEFUL_SHUTDOWN_TIMEOUT,
            workers=1,  # otherwise uvicorn reads WEB_CONCURRENCY
        ),
        AdmissionControl(settings.max_concurrent_requests, app.cors),
    )


def migrate(settings: Settings) -> None:
    """Bring the database's schema to the newest revision."""
    with _open_database(settings) as (complete, data):
        migrations.upgrade(complete.database_config())
        _print(f"The schema is at revision {SCHEMA_REVISION}: {data}", sys.stdout)


def doctor(settings: Settings) -> None:
    """Say what this machine has and whether the service would run; status 1 if it would not."""
    names = ["litestar", "advanced-alchemy", "sqlalchemy", "asyncpg", "msgspec", "uvicorn"]
    _print(f"python     {platform.python_version()}, {platform.platform()}", sys.stdout)
    _print(f"libraries  {', '.join(f'{name} {version(name)}' for name in names)}", sys.stdout)
    free = _is_port_free(settings.host, settings.port)
    _print(
        f"port       {settings.host}:{settings.port} is {'free' if free else 'in use'}", sys.stdout
    )
    if settings.database_url is None:
        found, data = embedded_postgres.find_binaries(), _printable_path(settings.data_dir)
        _print(f"database   embedded, {found}, data in {data}", sys.stdout)
        current = True
    else:
        current = _check_schema(settings)
    if not (free and current):
        sys.exit(1)


def _print(line: str, stream: TextIO | None) -> None:
    """Print a line, also where the stream is closed or cannot be written."""
    if stream is None:
        return
    try:
        print(line, file=stream, flush=True)
    except OSError:
        # Python would end with a status of its own, as it tries again to write what is buffered.
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def _check_schema(settings: Settings) -> bool:
    """Whether the database that is given answers and has the schema; both are printed."""
    try:
        found = migrations.get_revision(settings.database_config())
    except migrations.MigrationError as fault:
        _print(f"database   given. {fault}", sys.stdout)
        return False
    _print(f"database   given, schema revision {found}, needed {SCHEMA_REVISION}", sys.stdout)
    return is_schema_compatible(found)


@contextmanager
def _open_database(settings: Settings) -> Generator[tuple[Settings, str]]:
    """Settings that have a database, and where it is in words; the embedded one is migrated."""
    if settings.database_url is not None:
        yield settings, settings.database_config().url.render_as_string(hide_password=True)
        return
    _print("Starting the embedded PostgreSQL ...", sys.stderr)
    with embedded_postgres.run_postgres(settings.data_dir) as url:
        if _shutdown_requested.is_set():
            sys.exit(0)
        complete = msgspec.structs.replace(settings, database_url=Secret(url))
        if not migrations.has_compatible_schema(complete.database_config()):
            migrations.upgrade(complete.database_config())
        yield complete, _printable_path(settings.data_dir.resolve())


@contextmanager
def _serve_metrics(app: HTTPMiddleware, settings: Settings) -> Generator[str | None]:
    """Where the metrics are served, None where they are off."""
    if app.metrics is None or settings.metrics_port is None:
        yield None
        return
    listener = _bind_socket(settings.metrics_host, settings.metrics_port)
    address = _format_url(listener)
    with app.metrics.serve(listener):
        yield f"{address}/metrics"


def _format_url(listener: socket.socket) -> str:
    """A URL at which this machine reaches a listener."""
    host, port = listener.getsockname()[:2]
    if host in {"0.0.0.0", "::"}:  # noqa: S104 - not bound here
        host = "::1" if _is_ipv6_only(listener) else "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _printable_path(path: Path) -> str:
    """A path as text; bytes that are not UTF-8 are escaped, so that any stream can print it."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _is_ipv6_only(listener: socket.socket) -> bool:
    is_ipv6 = listener.family == socket.AF_INET6
    return is_ipv6 and bool(listener.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY))


def _bind_socket(host: str, port: int) -> socket.socket:
    """A socket that holds the address. uvicorn's own ends the process with a line in the log."""
    everywhere = host == ALL_ADDRESSES
    both = everywhere and socket.has_dualstack_ipv6()
    listener = socket.socket(socket.AF_INET6 if both or ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        if both:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(("" if everywhere else host, port))
    except OSError as fault:
        listener.close()
        msg = f"Cannot listen on {host}, port {port}: {fault.strerror}."
        raise BindError(msg) from None
    return listener


def _listen(listener: socket.socket, backlog: int) -> None:
    """Accept connections. Of two services that start together both may have bound the address."""
    try:
        listener.listen(backlog)
    except OSError as fault:
        host, port = listener.getsockname()[:2]
        msg = f"Cannot listen on {host}, port {port}: {fault.strerror}."
        raise BindError(msg) from None


def _is_port_free(host: str, port: int) -> bool:
    try:
        _bind_socket(host, port).close()
    except BindError:
        return False
    return True


def _exit_with_parent(parent: int | None) -> None:
    """Stop, as SIGTERM does, when the parent has ended: a task runner stops no child."""
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
