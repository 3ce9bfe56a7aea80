"""Due dates: time zones of the `tzdata` package, and the exact time of a due date.

The package has the same rules on every machine. The machine's own files may be older or absent.
"""

from __future__ import annotations

from datetime import UTC, datetime, time
from functools import cache, lru_cache
from importlib.resources import files
from zoneinfo import ZoneInfo

from app.domain.tasks.schemas import Due


@cache
def timezone_names() -> frozenset[str]:
    """Return the names of all time zones, including links such as `Asia/Calcutta`."""
    return frozenset(files("tzdata").joinpath("zones").read_text("utf-8").split())


def due_at(due: Due | None) -> datetime | None:
    """Return the time of a due date in UTC, or None unless it has a time and a time zone.

    `fold` is 0: a skipped local time has the offset before the gap, and a repeated one is the first
    (RFC 5545, section 3.3.5). None also if the time is not in the years 1 to 9999.
    """
    if due is None or due.time is None or due.timezone is None:
        return None
    local = datetime.combine(due.date, time.fromisoformat(due.time), _timezone(due.timezone))
    try:
        return local.astimezone(UTC)
    except OverflowError:
        return None


@lru_cache(256)
def _timezone(name: str) -> ZoneInfo:
    with files("tzdata").joinpath("zoneinfo", *name.split("/")).open("rb") as file:
        return ZoneInfo.from_file(file, name)
