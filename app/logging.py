"""Logging: one line for each request and each fault, as JSON or as text."""

from __future__ import annotations

import atexit
import json
import logging
import os
import sys
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from typing import TextIO, cast

import msgspec
import structlog
from structlog.types import EventDict, Processor, WrappedLogger

from app.log_writer import NO_DESCRIPTOR, LogWriter

STANDARD_OUTPUT = 1

_encode = msgspec.json.Encoder(enc_hook=str).encode
log: structlog.stdlib.BoundLogger = structlog.get_logger()


class LogLevel(StrEnum):
    """The least severe kind of line that is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    """How a log line looks; `auto` is text on a terminal and JSON elsewhere."""

    AUTO = "auto"
    JSON = "json"
    TEXT = "text"


class AccessLogEntry(msgspec.Struct, frozen=True):
    """The line of a request; `method` and `route` are None where none could be read."""

    method: str | None
    route: str | None
    status: int
    duration_ms: float
    request_id: str
    trace_id: str | None
    event: str = "request"
    level: str = "info"
    timestamp: datetime = msgspec.field(default_factory=partial(datetime.now, UTC))


class AccessLog:
    """Where the lines of requests go.

    As JSON they go past structlog, which is made for lines of any members: it took 6 of the 42
    microseconds that the application takes for a request, and this takes 2.
    """

    def __init__(self) -> None:
        """Until the log is configured, a line is one of the log like any other."""
        self.bypasses_structlog = False

    def write(self, line: AccessLogEntry) -> None:
        """Log a request."""
        if self.bypasses_structlog:
            log_writer.append(_encode(line) + b"\n")
        else:
            members = msgspec.structs.asdict(line)
            del members["level"], members["timestamp"]  # the log itself adds them
            log.info(**members)


def _report_dropped(total: int) -> None:
    log.warning("log lines dropped", total=total)


log_writer = LogWriter(_report_dropped)
access_log = AccessLog()
atexit.register(log_writer.wait)


def configure_logging(
    level: LogLevel, log_format: LogFormat, descriptor: int | None = None
) -> None:
    """Send every line of this process, the libraries' too, to the standard output in one form.

    With `descriptor` they go to that file. The log is written in a thread of its own.
    """
    if descriptor is None:
        # Where it was closed, its number may be another file's by now.
        descriptor = NO_DESCRIPTOR if sys.stdout is None else STANDARD_OUTPUT
    log_writer.redirect(descriptor)
    is_terminal = os.isatty(descriptor)
    as_text = log_format is LogFormat.TEXT or (log_format is LogFormat.AUTO and is_terminal)
    shared: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if as_text:
        # The plain formatter: the others print local variables, and so people's tasks.
        plain = structlog.dev.plain_traceback
        last: list[Processor] = [
            structlog.dev.ConsoleRenderer(colors=is_terminal, exception_formatter=plain)
        ]
    else:
        last = [
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(serializer=_to_json),
        ]
    stream = cast("TextIO", log_writer)  # of which `write` and `flush` are used
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    # Below this level it speaks of its plugins. SQLAlchemy, which speaks of rows, sets its own.
    logging.getLogger("alembic.runtime.plugins").setLevel(logging.WARNING)
    structlog.configure(
        processors=[*shared, *last] if as_text else [_render_json],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=True,
    )
    vars(log).pop("bind", None)  # what it keeps of an earlier configuration
    says_info = level in {LogLevel.DEBUG, LogLevel.INFO}
    access_log.bypasses_structlog = says_info and not as_text


def _render_json(logger: WrappedLogger, level: str, line: EventDict) -> str:
    """What the four steps for others' lines do, in one, as every request has a line of ours."""
    if "exc_info" in line:
        line = structlog.processors.format_exc_info(logger, level, line)
    line["level"] = level
    line["timestamp"] = datetime.now(UTC)
    return _to_json(line)


def _to_json(line: EventDict, **_: object) -> str:
    try:
        return _encode(line).decode()
    except UnicodeEncodeError:  # half of a surrogate pair, as in a file name that is not UTF-8
        text = json.dumps(line, default=str, ensure_ascii=False)
        return text.encode("utf-8", "replace").decode()
