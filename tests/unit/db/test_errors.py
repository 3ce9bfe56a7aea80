"""How outages are described, and how often they are logged."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from asyncpg import exceptions as pg

from app.db.errors import OutageLogger, ReadOnlyDatabaseError, describe_error
from app.db.pool import PoolTimeoutError, QueryError

pytestmark = pytest.mark.requirement("FR-054")


def unverified(message: str) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED]")
    error.verify_message = message
    return error


def tls_error(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, "[SSL]")
    error.reason = reason
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            pg.InvalidPasswordError('password authentication failed for user "u"'),
            'SQLSTATE 28P01, password authentication failed for user "u"',
        ),
        (pg.CannotConnectNowError(), "SQLSTATE 57P03, no message"),
        (
            unverified("Hostname mismatch, certificate is not valid for 'db'."),
            "TLS: certificate verify failed: Hostname mismatch, certificate is not valid for 'db'.",
        ),
        (tls_error("WRONG_VERSION_NUMBER"), "TLS: WRONG_VERSION_NUMBER"),
        (PoolTimeoutError(), "no connection of the pool was free in time"),
        (TimeoutError(), "no answer in time"),
        (TimeoutError(110, "Connect call failed"), "[Errno 110] Connect call failed"),
        (ConnectionRefusedError(111, "refused"), "[Errno 111] refused"),
        (pg.InterfaceError("hunter2"), "InterfaceError"),
        (QueryError(pg.QueryCanceledError("hunter2")), "SQLSTATE 57014, QueryCanceledError"),
        (QueryError(pg.InterfaceError("hunter2")), "InterfaceError"),
        (
            pg.InternalServerError("Couldn't connect to compute node"),
            "SQLSTATE XX000, Couldn't connect to compute node",
        ),
        (ValueError("hunter2"), "ValueError"),
        (ReadOnlyDatabaseError(), "the database is read-only"),
    ],
    ids=repr,
)
def test_cause_contains_no_row_data(error: Exception, expected: str) -> None:
    assert describe_error(error) == expected


def test_missing_connect_privilege_includes_the_server_message() -> None:
    error = pg.InsufficientPrivilegeError('permission denied for database "db"')
    error.detail = "User does not have CONNECT privilege."
    expected = f"SQLSTATE 42501, {error.args[0]} ({error.detail})"
    assert describe_error(error) == expected


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        (["permission denied for table tasks"], "permission denied for table tasks"),
        (["hunter2: permission denied for table tasks"], "InsufficientPrivilegeError"),
        (["permission denied for table tasks hunter2"], "InsufficientPrivilegeError"),
        ([], "InsufficientPrivilegeError"),
    ],
)
def test_missing_table_privilege_names_only_the_table(messages: list[str], expected: str) -> None:
    error = QueryError(pg.InsufficientPrivilegeError(*messages))
    assert describe_error(error) == f"SQLSTATE 42501, {expected}"


@pytest.fixture
def lines() -> Iterator[list[Any]]:
    """Capture the log events."""
    with structlog.testing.capture_logs() as captured:
        yield captured


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A monotonic clock in a list; a test sets its only item."""
    now = [1000.0]
    monkeypatch.setattr("app.db.errors.monotonic", lambda: now[0])
    return now


def test_same_cause_is_logged_once_per_interval(lines: list[Any], clock: list[float]) -> None:
    logger = OutageLogger()
    for _ in range(1000):
        logger.record(ConnectionRefusedError(111, "refused"))
    event = {
        "event": "database unavailable",
        "cause": "[Errno 111] refused",
        "log_level": "warning",
    }
    assert lines == [event]
    clock[0] += 29
    logger.record(ConnectionRefusedError(111, "refused"))
    assert lines == [event]
    clock[0] += 1
    logger.record(ConnectionRefusedError(111, "refused"))
    assert lines == [event, event]
    assert logger.cause == "[Errno 111] refused"


@pytest.mark.usefixtures("clock")
def test_new_cause_is_logged_immediately_up_to_a_limit(lines: list[Any]) -> None:
    logger = OutageLogger()
    for number in range(100):
        logger.record(OSError(number, "odd"))
    assert len(lines) == 8
    assert logger.cause == "[Errno 99] odd"


def test_silenced_logger_only_records_the_cause(lines: list[Any]) -> None:
    logger = OutageLogger()
    logger.silenced = True
    logger.record(TimeoutError())
    assert (lines, logger.cause) == ([], "no answer in time")
