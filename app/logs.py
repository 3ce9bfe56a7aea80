"""Logging: one line for each request and each fault, as JSON or as text."""

from __future__ import annotations

import logging
import sys
from typing import Any, TextIO

import msgspec
import structlog
from structlog.types import Processor

from app.settings import LogFormat, LogLevel

log: structlog.stdlib.BoundLogger = structlog.get_logger()


def configure(level: LogLevel, form: LogFormat, stream: TextIO = sys.stdout) -> None:
    """Send every line of this process, the libraries' too, to `stream` in one form."""
    as_text = form is LogFormat.TEXT or (form is LogFormat.AUTO and stream.isatty())
    shared: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if as_text:
        # The plain formatter: the others print local variables, and so people's tasks.
        plain = structlog.dev.plain_traceback
        last: list[Processor] = [
            structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=plain)
        ]
    else:
        last = [
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(serializer=_to_json),
        ]
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
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(stream),
    )


def _to_json(line: dict[str, Any], **_: object) -> str:
    return msgspec.json.encode(line, enc_hook=str).decode()
