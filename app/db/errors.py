"""Why the database is away: in words for the operator, at most once in a while."""

from __future__ import annotations

import re
import ssl
from time import monotonic

from asyncpg import exceptions as pg

from app.db.pool import PoolTimeoutError, QueryError
from app.logging import log

LOG_REPEAT_INTERVAL = 30.0
MAX_LOGGED_CAUSES = 8
# The one message about a statement that is repeated: it names a table or the like, and no value.
_DENIED = re.compile(r'permission denied for [a-z]+ [\w."$-]+', re.ASCII)


class ReadOnlyDatabaseError(Exception):
    """The database takes no writes: a standby, or `default_transaction_read_only`."""

    def __str__(self) -> str:
        """In the words of the log."""
        return "the database is read-only"


def describe_error(error: BaseException) -> str:
    """What a fault says, with no password and nothing of a row.

    The server's words are kept where it refused a connection. Those about a statement may quote a
    row, so its code stands for them.
    """
    if isinstance(error, QueryError):
        code = getattr(error.cause, "sqlstate", None)
        denied = _DENIED.fullmatch(str(error.cause.args[0])) if error.cause.args else None
        words = denied[0] if denied else type(error.cause).__name__
        return f"SQLSTATE {code}, {words}" if code else words
    if isinstance(error, pg.PostgresError):
        words = error.args[0] if error.args else "no message"
        detail = getattr(error, "detail", None)
        return f"SQLSTATE {error.sqlstate}, {words}" + (f" ({detail})" if detail else "")
    if isinstance(error, ssl.SSLError):
        unverified = getattr(error, "verify_message", None)
        words = f"certificate verify failed: {unverified}" if unverified else error.reason
        return f"TLS: {words}"
    if isinstance(error, PoolTimeoutError):
        return "no connection of the pool was free in time"
    if isinstance(error, TimeoutError) and error.errno is None:
        return "no answer in time"
    return (
        str(error) if isinstance(error, OSError | ReadOnlyDatabaseError) else type(error).__name__
    )


class OutageLogger:
    """Tells the log why the database is away.

    A cause is told once in `AGAIN_SECONDS`, and no more than `MAX_LOGGED_CAUSES` of them: thousands
    of requests may fail of the same one.
    """

    def __init__(self) -> None:
        self.cause: str | None = None
        self.silenced = False
        self._last_logged: dict[str, float] = {}

    def record(self, error: BaseException) -> None:
        """Remember a fault's cause, and log it unless that was done a moment ago."""
        self.cause = describe_error(error)
        now = monotonic()
        self._last_logged = {
            told: at for told, at in self._last_logged.items() if now - at < LOG_REPEAT_INTERVAL
        }
        if (
            self.silenced
            or self.cause in self._last_logged
            or len(self._last_logged) >= MAX_LOGGED_CAUSES
        ):
            return
        self._last_logged[self.cause] = now
        log.warning("database unavailable", cause=self.cause)
