"""Format and destination of log lines."""

from __future__ import annotations

import json
import logging
import os
import pty
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
import structlog
from structlog.testing import capture_logs

from app.logging import (
    AccessLog,
    AccessLogEntry,
    LogFormat,
    LogLevel,
    access_log,
    configure_logging,
    log,
    log_writer,
)
from tests.support.logs import LogFile, log_file, restore

pytestmark = pytest.mark.requirement("FR-041")

LIBRARY_LOGGER = logging.getLogger("some.library")


@pytest.fixture
def out() -> Iterator[LogFile]:
    """Yield a file for the log."""
    with log_file() as file:
        yield file


@pytest.fixture(autouse=True)
def restore_logging(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Restore the logging configuration, and remove pytest's handlers meanwhile."""
    root, before = logging.getLogger(), structlog.get_config()
    monkeypatch.setattr(root, "handlers", [])
    level = root.level
    yield
    root.setLevel(level)
    restore(before)


ENTRY = AccessLogEntry(
    method="GET",
    route="/livez",
    status=200,
    duration_ms=1.5,
    request_id="request-1",
    trace_id=None,
)


def lines_of(stream: LogFile) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


@pytest.mark.parametrize(
    ("log_format", "is_json"),
    [(LogFormat.JSON, True), (LogFormat.TEXT, False), (LogFormat.AUTO, True)],
)
def test_line_in_a_file_is_json_by_default(
    log_format: LogFormat, out: LogFile, *, is_json: bool
) -> None:
    configure_logging(LogLevel.INFO, log_format, out.descriptor)
    log.info("request", route="/livez")
    assert out.getvalue().startswith("{") is is_json
    assert "/livez" in out.getvalue()
    assert "\x1b" not in out.getvalue()


@pytest.mark.parametrize(
    ("log_format", "is_json"),
    [(LogFormat.JSON, True), (LogFormat.TEXT, False), (LogFormat.AUTO, False)],
)
def test_line_on_a_terminal_is_coloured_text_by_default(
    log_format: LogFormat, *, is_json: bool
) -> None:
    controlling, terminal = pty.openpty()
    try:
        configure_logging(LogLevel.INFO, log_format, terminal)
        log.info("request", route="/livez")
        output = os.read(controlling, 1000).decode()
        log_writer.wait()
    finally:
        os.close(controlling)
        os.close(terminal)
    assert "/livez" in output
    assert output.startswith("{" if is_json else "\x1b")


def test_line_has_fields_level_and_timestamp(out: LogFile) -> None:
    configure_logging(LogLevel.INFO, LogFormat.JSON, out.descriptor)
    before = datetime.now(UTC)
    log.info("request", status=200, route=None)
    (line,) = lines_of(out)
    timestamp = line.pop("timestamp")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?Z", timestamp)
    assert before <= datetime.fromisoformat(timestamp) <= datetime.now(UTC)
    assert line == {"event": "request", "level": "info", "status": 200, "route": None}


def test_logger_writes_to_the_last_configured_file(out: LogFile) -> None:
    with log_file() as first:
        for file in (first, out):
            configure_logging(LogLevel.INFO, LogFormat.JSON, file.descriptor)
            log.info("request")
        assert len(lines_of(first)) == len(lines_of(out)) == 1


def test_logger_is_bound_once(out: LogFile) -> None:
    configure_logging(LogLevel.INFO, LogFormat.JSON, out.descriptor)
    log.info("first")
    bound = log.bind
    log.info("second")
    assert log.bind is bound  # binding for each line took a tenth of the CPU time of a request


def test_access_log_line_equals_a_structlog_line(out: LogFile) -> None:
    configure_logging(LogLevel.INFO, LogFormat.JSON, out.descriptor)
    before = datetime.now(UTC)
    written = msgspec.structs.replace(ENTRY, timestamp=before)
    access_log.write(written)
    access_log.bypasses_structlog = False  # structlog writes the next line
    access_log.write(written)
    first, second = lines_of(out)
    assert datetime.fromisoformat(first.pop("timestamp")) == before
    assert before <= datetime.fromisoformat(second.pop("timestamp")) <= datetime.now(UTC)
    assert first == second
    assert first == {
        "event": "request",
        "level": "info",
        "method": "GET",
        "route": "/livez",
        "status": 200,
        "duration_ms": 1.5,
        "request_id": "request-1",
        "trace_id": None,
    }


def test_access_log_works_before_logging_is_configured() -> None:
    with capture_logs() as lines:
        AccessLog().write(ENTRY)
    assert [(line["event"], line["request_id"]) for line in lines] == [("request", "request-1")]


@pytest.mark.parametrize(
    ("log_format", "is_json"), [(LogFormat.JSON, True), (LogFormat.TEXT, False)]
)
def test_access_log_follows_the_log_format(
    log_format: LogFormat, out: LogFile, *, is_json: bool
) -> None:
    configure_logging(LogLevel.INFO, log_format, out.descriptor)
    access_log.write(ENTRY)
    assert access_log.bypasses_structlog is is_json
    assert out.getvalue().startswith("{") is is_json
    assert out.getvalue().count("request-1") == out.getvalue().count("\n") == 1


@pytest.mark.parametrize("log_format", [LogFormat.JSON, LogFormat.TEXT])
@pytest.mark.parametrize(
    ("level", "count"),
    [(LogLevel.DEBUG, 1), (LogLevel.INFO, 1), (LogLevel.WARNING, 0), (LogLevel.ERROR, 0)],
)
def test_access_log_is_at_info_level(
    level: LogLevel, count: int, log_format: LogFormat, out: LogFile
) -> None:
    configure_logging(level, log_format, out.descriptor)
    access_log.write(ENTRY)
    assert out.getvalue().count("\n") == count


def test_library_lines_have_the_same_format(out: LogFile) -> None:
    configure_logging(LogLevel.INFO, LogFormat.JSON, out.descriptor)
    LIBRARY_LOGGER.warning("of %s", "theirs")
    (line,) = lines_of(out)
    assert (line["event"], line["level"]) == ("of theirs", "warning")


@pytest.mark.parametrize(
    ("level", "events"),
    [
        (LogLevel.DEBUG, ["a", "b", "c", "d"]),
        (LogLevel.INFO, ["b", "c", "d"]),
        (LogLevel.WARNING, ["c", "d"]),
        (LogLevel.ERROR, ["d"]),
    ],
)
@pytest.mark.parametrize("logger", [log, LIBRARY_LOGGER], ids=["app", "library"])
def test_lines_below_the_level_are_not_written(
    logger: Any, level: LogLevel, events: list[str], out: LogFile
) -> None:
    configure_logging(level, LogFormat.JSON, out.descriptor)
    logger.debug("a")
    logger.info("b")
    logger.warning("c")
    logger.error("d")
    assert [line["event"] for line in lines_of(out)] == events


@pytest.mark.parametrize("name", ["sqlalchemy", "sqlalchemy.engine", "alembic.runtime.plugins"])
def test_database_libraries_are_silent_below_warning(name: str, out: LogFile) -> None:
    configure_logging(LogLevel.DEBUG, LogFormat.JSON, out.descriptor)
    logging.getLogger(name).info("a row")
    assert out.getvalue() == ""


@pytest.mark.requirement("FR-036")
@pytest.mark.parametrize("log_format", [LogFormat.JSON, LogFormat.TEXT])
def test_exception_is_logged_with_traceback_but_without_values(
    log_format: LogFormat, out: LogFile
) -> None:
    configure_logging(LogLevel.INFO, log_format, out.descriptor)
    title = "Buy milk"
    try:
        len(title) / 0
    except ZeroDivisionError as error:
        log.error("fault", request_id="request-1", exc_info=error)
    assert "ZeroDivisionError" in out.getvalue()
    assert "test_logging.py" in out.getvalue()
    assert "request-1" in out.getvalue()
    assert title not in out.getvalue()


def test_value_without_a_json_type_is_written_as_text(out: LogFile) -> None:
    configure_logging(LogLevel.INFO, LogFormat.JSON, out.descriptor)
    log.info("start", address=object)
    assert lines_of(out)[0]["address"] == "<class 'object'>"


@pytest.mark.parametrize("log_format", [LogFormat.JSON, LogFormat.TEXT])
def test_lone_surrogate_does_not_break_logging(log_format: LogFormat, out: LogFile) -> None:
    configure_logging(LogLevel.INFO, log_format, out.descriptor)
    log.warning("fault", name="\udcff")
    LIBRARY_LOGGER.warning("of \udcff")
    assert out.getvalue().count("\n") == 2


def test_closed_standard_output_does_not_break_logging(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", None)
    configure_logging(LogLevel.INFO, LogFormat.AUTO)
    before = log_writer.dropped
    log.info("request")
    access_log.write(ENTRY)
    log_writer.wait()
    assert log_writer.dropped == before + 2


def test_lines_go_to_standard_output(capfd: pytest.CaptureFixture[str]) -> None:
    configure_logging(LogLevel.INFO, LogFormat.AUTO)
    access_log.write(ENTRY)
    log_writer.wait()
    assert json.loads(capfd.readouterr().out)["request_id"] == "request-1"
