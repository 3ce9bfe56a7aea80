"""What the log says about a database that is away, and how often."""

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
    ("error", "told"),
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
def test_cause_contains_no_row_data(error: Exception, told: str) -> None:
    assert describe_error(error) == told


def test_missing_connect_privilege_includes_the_server_message() -> None:
    error = pg.InsufficientPrivilegeError('permission denied for database "db"')
    error.detail = "User does not have CONNECT privilege."
    told = f"SQLSTATE 42501, {error.args[0]} ({error.detail})"
    assert describe_error(error) == told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["permission denied for table tasks"], "permission denied for table tasks"),
        (["hunter2: permission denied for table tasks"], "InsufficientPrivilegeError"),
        (["permission denied for table tasks hunter2"], "InsufficientPrivilegeError"),
        ([], "InsufficientPrivilegeError"),
    ],
)
def test_missing_table_privilege_names_only_the_table(words: list[str], told: str) -> None:
    error = QueryError(pg.InsufficientPrivilegeError(*words))
    assert describe_error(error) == f"SQLSTATE 42501, {told}"


@pytest.fixture
def lines() -> Iterator[list[Any]]:
    """What is logged."""
    with structlog.testing.capture_logs() as captured:
        yield captured


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which can be changed."""
    now = [1000.0]
    monkeypatch.setattr("app.db.errors.monotonic", lambda: now[0])
    return now


def test_same_cause_is_logged_once_per_interval(lines: list[Any], clock: list[float]) -> None:
    outage = OutageLogger()
    for _ in range(1000):
        outage.record(ConnectionRefusedError(111, "refused"))
    told = {
        "event": "database unavailable",
        "cause": "[Errno 111] refused",
        "log_level": "warning",
    }
    assert lines == [told]
    clock[0] += 29
    outage.record(ConnectionRefusedError(111, "refused"))
    assert lines == [told]
    clock[0] += 1
    outage.record(ConnectionRefusedError(111, "refused"))
    assert lines == [told, told]
    assert outage.cause == "[Errno 111] refused"


@pytest.mark.usefixtures("clock")
def test_new_cause_is_logged_immediately_up_to_a_limit(lines: list[Any]) -> None:
    outage = OutageLogger()
    for number in range(100):
        outage.record(OSError(number, "odd"))
    assert len(lines) == 8
    assert outage.cause == "[Errno 99] odd"


def test_silenced_logger_only_records_the_cause(lines: list[Any]) -> None:
    outage = OutageLogger()
    outage.silenced = True
    outage.record(TimeoutError())
    assert (lines, outage.cause) == ([], "no answer in time")
