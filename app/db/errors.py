"""Log messages for an unavailable database, without passwords or values of rows."""

from __future__ import annotations

import re
import ssl
from time import monotonic

from asyncpg import exceptions as pg

from app.db.pool import PoolTimeoutError, QueryError
from app.logging import log

LOG_REPEAT_INTERVAL = 30.0
MAX_LOGGED_CAUSES = 8
# The only logged message about a statement: it names an object such as a table, and no value.
_DENIED = re.compile(r'permission denied for [a-z]+ [\w."$-]+', re.ASCII)


class ReadOnlyDatabaseError(Exception):
    """The database takes no writes: a standby, or `default_transaction_read_only`."""

    def __str__(self) -> str:
        return "the database is read-only"


def describe_error(error: BaseException) -> str:
    """Describe an error for the log, without passwords or values of rows.

    The server's message is included if it rejected a connection. A message about a statement may
    quote a row, so its SQLSTATE and class are used instead.
    """
    if isinstance(error, QueryError):
        code = getattr(error.cause, "sqlstate", None)
        denied = _DENIED.fullmatch(str(error.cause.args[0])) if error.cause.args else None
        message = denied[0] if denied else type(error.cause).__name__
        return f"SQLSTATE {code}, {message}" if code else message
    if isinstance(error, pg.PostgresError):
        message = error.args[0] if error.args else "no message"
        detail = getattr(error, "detail", None)
        return f"SQLSTATE {error.sqlstate}, {message}" + (f" ({detail})" if detail else "")
    if isinstance(error, ssl.SSLError):
        unverified = getattr(error, "verify_message", None)
        message = f"certificate verify failed: {unverified}" if unverified else error.reason
        return f"TLS: {message}"
    if isinstance(error, PoolTimeoutError):
        return "no connection of the pool was free in time"
    if isinstance(error, TimeoutError) and error.errno is None:
        return "no answer in time"
    return (
        str(error) if isinstance(error, OSError | ReadOnlyDatabaseError) else type(error).__name__
    )


class OutageLogger:
    """Logs why the database is unavailable.

    Thousands of requests may fail for the same cause. Each cause is therefore logged once per
    `LOG_REPEAT_INTERVAL` seconds, and at most `MAX_LOGGED_CAUSES` causes in that time.
    """

    def __init__(self) -> None:
        self.cause: str | None = None
        self.silenced = False
        self._last_logged: dict[str, float] = {}

    def record(self, error: BaseException) -> None:
        """Store the cause of an error, and log it unless it was logged recently."""
        self.cause = describe_error(error)
        now = monotonic()
        self._last_logged = {
            cause: logged_at
            for cause, logged_at in self._last_logged.items()
            if now - logged_at < LOG_REPEAT_INTERVAL
        }
        if (
            self.silenced
            or self.cause in self._last_logged
            or len(self._last_logged) >= MAX_LOGGED_CAUSES
        ):
            return
        self._last_logged[self.cause] = now
        log.warning("database unavailable", cause=self.cause)
