"""The log's configuration, kept from one test to the next."""

from __future__ import annotations

from typing import Any

import structlog

from app.logs import log, request_log


def restore(configuration: dict[str, Any]) -> None:
    """Have the log as `structlog.get_config` told before a test; its logger is made anew then."""
    structlog.configure(**configuration)
    vars(log).pop("bind", None)
    request_log.stream = None
