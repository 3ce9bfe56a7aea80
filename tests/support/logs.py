"""Restores the log configuration between tests, and captures log lines in a file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import structlog

from app.log_writer import NO_DESCRIPTOR
from app.logging import access_log, log, log_writer

WRITE_TIMEOUT = 20.0  # the machine may be busy


def restore(configuration: dict[str, Any]) -> None:
    """Restore the configuration that `structlog.get_config` returned, with a new logger."""
    structlog.configure(**configuration)
    vars(log).pop("bind", None)
    log_writer.redirect(NO_DESCRIPTOR)
    log_writer._reported = log_writer.dropped  # do not report it in the log of the next test
    access_log.bypasses_structlog = False


class LogFile:
    """The lines that were logged to a file descriptor."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def getvalue(self) -> str:
        """Wait until all lines are written, and return them."""
        log_writer.wait(WRITE_TIMEOUT)
        return os.pread(self.descriptor, os.fstat(self.descriptor).st_size, 0).decode()


@contextmanager
def log_file() -> Iterator[LogFile]:
    """Redirect the log to a temporary file."""
    with tempfile.TemporaryFile() as file:
        yield LogFile(file.fileno())
