"""How a log line looks."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog
from structlog.testing import capture_logs

from app.logs import RequestLine, RequestLog, configure, log, request_log
from app.settings import LogFormat, LogLevel
from tests.support.logs import restore

pytestmark = pytest.mark.requirement("FR-041")

OTHER = logging.getLogger("some.library")


class Terminal(io.StringIO):
    """A stream that people look at."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def logging_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing that a test configures outlives it; pytest's own handlers are out of its reach."""
    root, before = logging.getLogger(), structlog.get_config()
    monkeypatch.setattr(root, "handlers", [])
    level = root.level
    yield
    root.setLevel(level)
    restore(before)


LINE = RequestLine(
    method="GET",
    route="/livez",
    status=200,
    duration_ms=1.5,
    request_id="request-1",
    trace_id=None,
)


def lines_of(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


@pytest.mark.parametrize(
    ("form", "stream", "is_json"),
    [
        (LogFormat.JSON, io.StringIO, True),
        (LogFormat.JSON, Terminal, True),
        (LogFormat.TEXT, io.StringIO, False),
        (LogFormat.TEXT, Terminal, False),
        (LogFormat.AUTO, io.StringIO, True),
        (LogFormat.AUTO, Terminal, False),
    ],
)
def test_a_line_is_text_on_a_terminal_and_json_elsewhere(
    form: LogFormat, stream: type[io.StringIO], *, is_json: bool
) -> None:
    out = stream()
    configure(LogLevel.INFO, form, out)
    log.info("request", route="/livez")
    assert out.getvalue().startswith("{") is is_json
    assert "/livez" in out.getvalue()


def test_a_line_has_its_members_its_level_and_its_instant() -> None:
    out = io.StringIO()
    configure(LogLevel.INFO, LogFormat.JSON, out)
    before = datetime.now(UTC)
    log.info("request", status=200, route=None)
    (line,) = lines_of(out)
    instant = line.pop("timestamp")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?Z", instant)
    assert before <= datetime.fromisoformat(instant) <= datetime.now(UTC)
    assert line == {"event": "request", "level": "info", "status": 200, "route": None}


def test_a_logger_writes_where_it_was_configured_last() -> None:
    first, last = io.StringIO(), io.StringIO()
    for out in (first, last):
        configure(LogLevel.INFO, LogFormat.JSON, out)
        log.info("request")
    assert len(lines_of(first)) == len(lines_of(last)) == 1


def test_the_logger_is_bound_once() -> None:
    configure(LogLevel.INFO, LogFormat.JSON, io.StringIO())
    log.info("first")
    bound = log.bind
    log.info("second")
    assert log.bind is bound  # to bind it for each line cost a tenth of a request's processor time


def test_the_line_of_a_request_is_one_of_the_log_like_any_other() -> None:
    out = io.StringIO()
    configure(LogLevel.INFO, LogFormat.JSON, out)
    before = datetime.now(UTC)
    written = msgspec.structs.replace(LINE, timestamp=before)
    request_log.write(written)
    request_log.stream = None  # so that the log itself writes the next one
    request_log.write(written)
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


def test_before_the_log_is_configured_a_request_has_its_line() -> None:
    with capture_logs() as lines:
        RequestLog().write(LINE)
    assert [(line["event"], line["request_id"]) for line in lines] == [("request", "request-1")]


def test_the_line_of_a_request_is_there_at_once(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("w") as out:
        configure(LogLevel.INFO, LogFormat.JSON, out)
        request_log.write(LINE)
        assert json.loads(path.read_text())["request_id"] == "request-1"


def test_the_line_of_a_request_is_text_among_text() -> None:
    for form, is_json in ((LogFormat.JSON, True), (LogFormat.TEXT, False)):
        out = io.StringIO()
        configure(LogLevel.INFO, form, out)
        request_log.write(LINE)
        assert (request_log.stream is out) is is_json
        assert out.getvalue().startswith("{") is is_json
        assert out.getvalue().count("request-1") == out.getvalue().count("\n") == 1


@pytest.mark.parametrize("form", [LogFormat.JSON, LogFormat.TEXT])
@pytest.mark.parametrize(
    ("level", "count"),
    [(LogLevel.DEBUG, 1), (LogLevel.INFO, 1), (LogLevel.WARNING, 0), (LogLevel.ERROR, 0)],
)
def test_the_line_of_a_request_is_information(level: LogLevel, count: int, form: LogFormat) -> None:
    out = io.StringIO()
    configure(level, form, out)
    request_log.write(LINE)
    assert out.getvalue().count("\n") == count


def test_a_library_writes_lines_of_the_same_form() -> None:
    out = io.StringIO()
    configure(LogLevel.INFO, LogFormat.JSON, out)
    OTHER.warning("of %s", "theirs")
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
@pytest.mark.parametrize("logger", [log, OTHER], ids=["ours", "a library's"])
def test_what_is_less_severe_than_the_level_is_not_written(
    logger: Any, level: LogLevel, events: list[str]
) -> None:
    out = io.StringIO()
    configure(level, LogFormat.JSON, out)
    logger.debug("a")
    logger.info("b")
    logger.warning("c")
    logger.error("d")
    assert [line["event"] for line in lines_of(out)] == events


@pytest.mark.parametrize("name", ["sqlalchemy", "sqlalchemy.engine", "alembic.runtime.plugins"])
def test_a_library_that_speaks_of_rows_is_not_heard_below_warning(name: str) -> None:
    out = io.StringIO()
    configure(LogLevel.DEBUG, LogFormat.JSON, out)
    logging.getLogger(name).info("a row")
    assert out.getvalue() == ""


@pytest.mark.requirement("FR-036")
@pytest.mark.parametrize("form", [LogFormat.JSON, LogFormat.TEXT])
def test_a_fault_is_logged_with_its_stack_and_without_the_values_in_it(form: LogFormat) -> None:
    out = io.StringIO()
    configure(LogLevel.INFO, form, out)
    title = "Buy milk"
    try:
        len(title) / 0
    except ZeroDivisionError as fault:
        log.error("fault", request_id="request-1", exc_info=fault)
    assert "ZeroDivisionError" in out.getvalue()
    assert "test_logs.py" in out.getvalue()
    assert "request-1" in out.getvalue()
    assert title not in out.getvalue()


def test_what_json_has_no_word_for_is_written_as_text() -> None:
    out = io.StringIO()
    configure(LogLevel.INFO, LogFormat.JSON, out)
    log.info("start", address=object)
    assert lines_of(out)[0]["address"] == "<class 'object'>"
