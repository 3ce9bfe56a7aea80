"""The log's configuration, kept from one test to the next, and a file for its lines."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import structlog

from app.log_writer import NO_DESCRIPTOR
from app.logging import access_log, log, log_writer

WRITE_SECONDS = 20.0  # of a machine that does other things


def restore(configuration: dict[str, Any]) -> None:
    """Have the log as `structlog.get_config` told before a test; its logger is made anew then."""
    structlog.configure(**configuration)
    vars(log).pop("bind", None)
    log_writer.redirect(NO_DESCRIPTOR)
    log_writer._reported = log_writer.dropped  # no business of the next test's log
    access_log.bypasses_structlog = False


class LogFile:
    """What was logged to a file descriptor."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def getvalue(self) -> str:
        """Everything that was logged so far, which is written a moment later."""
        log_writer.wait(WRITE_SECONDS)
        return os.pread(self.descriptor, os.fstat(self.descriptor).st_size, 0).decode()


@contextmanager
def log_file() -> Iterator[LogFile]:
    """A file for a test's log."""
    with tempfile.TemporaryFile() as file:
        yield LogFile(file.fileno())
