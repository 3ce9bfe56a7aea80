"""The exact time of a due date, and the time zones."""

from __future__ import annotations

import subprocess
import sys
import zoneinfo
from datetime import UTC, date, datetime, timedelta
from functools import cache
from importlib.resources import files
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.domain.tasks.due import _timezone, due_at, timezone_names
from app.domain.tasks.schemas import Due

ZONES = Path(str(files("tzdata"))) / "zoneinfo"
INDEX = ("zone.tab", "zone1970.tab", "iso3166.tab", "leapseconds", "tzdata.zi", "zonenow.tab")
STEP = timedelta(minutes=15)
WINDOW = timedelta(days=2)
# Far enough from the limits for the model, which searches two days around a time.
FIRST, LAST = datetime(1, 1, 4), datetime(9999, 12, 27, 23, 59)  # noqa: DTZ001 - local times


def due(local: str, timezone: str | None) -> Due:
    day, _, time = local.partition("T")
    return Due(date.fromisoformat(day), time or None, timezone)


@cache
def zone(name: str) -> ZoneInfo:
    with (ZONES / name).open("rb") as file:
        return ZoneInfo.from_file(file)


def local_time(name: str, at: datetime) -> datetime:
    """Convert a time in UTC to local time. This direction is unambiguous."""
    return at.replace(tzinfo=UTC).astimezone(zone(name)).replace(tzinfo=None, fold=0)


def model_due_at(name: str, local: datetime) -> datetime:
    """Return the first time at which the clocks show `local`.

    If the zone skips it, apply the offset before the gap. Does not use the zone's conversion from
    local time.
    """
    samples = [local + STEP * number for number in range(-WINDOW // STEP, WINDOW // STEP + 1)]
    offsets = {local_time(name, at) - at for at in samples}
    matching = [local - offset for offset in offsets if local_time(name, local - offset) == local]
    if matching:
        return min(matching)
    # The last sample before the gap shows an earlier local time.
    before = max(at for at in samples if local_time(name, at) < local)
    return local - (local_time(name, before) - before)


@pytest.mark.requirement("FR-135", "FR-136")
def test_names_are_those_of_all_zone_files() -> None:
    paths = {path.relative_to(ZONES).as_posix() for path in ZONES.rglob("*") if path.is_file()}
    zone_files = {
        path
        for path in paths
        if (ZONES / path).read_bytes()[:4] == b"TZif" and not path.startswith("__pycache__")
    }
    assert timezone_names() == zone_files
    assert {"UTC", "Europe/Berlin", "Asia/Calcutta", "Asia/Kolkata", "Etc/GMT+12"} <= zone_files
    assert zone_files.isdisjoint(INDEX)


@pytest.mark.requirement("FR-135")
def test_every_name_matches_the_contract() -> None:
    # `timezone` has at most 64 characters of this pattern.
    assert all(0 < len(name) <= 64 for name in timezone_names())
    assert all(set(name.replace("/", "")) <= NAME_CHARACTERS for name in timezone_names())


NAME_CHARACTERS = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_+-")


@pytest.mark.requirement("FR-135")
def test_every_zone_can_be_loaded() -> None:
    for name in sorted(timezone_names()):
        assert due_at(due("2026-07-01T12:00", name)) is not None


@pytest.mark.requirement("FR-133")
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (due("2026-11-24", None), None),
        (due("2026-11-24T17:30", None), None),
        (due("2026-11-24", "Europe/Berlin"), None),
        (due("2026-11-24T17:30", "Europe/Berlin"), "2026-11-24T16:30:00+00:00"),
        (due("2026-07-24T17:30", "Europe/Berlin"), "2026-07-24T15:30:00+00:00"),
        (due("2026-11-24T00:00", "UTC"), "2026-11-24T00:00:00+00:00"),
        (due("2026-11-24T17:30", "Asia/Calcutta"), "2026-11-24T12:00:00+00:00"),
        (due("2026-11-24T00:00", "Pacific/Kiritimati"), "2026-11-23T10:00:00+00:00"),
        (due("2026-11-24T23:59", "Etc/GMT+12"), "2026-11-25T11:59:00+00:00"),
        # Before the zones were introduced, each place had its local mean time.
        (due("1700-01-01T12:00", "Europe/Berlin"), "1700-01-01T11:06:32+00:00"),
        # After the last transition of the file, its rule applies.
        (due("9000-07-01T12:00", "America/New_York"), "9000-07-01T16:00:00+00:00"),
    ],
    ids=str,
)
def test_exact_time_needs_a_time_and_a_zone(value: Due | None, expected: str | None) -> None:
    at = due_at(value)
    assert (at and at.isoformat()) == expected


@pytest.mark.requirement("FR-134")
@pytest.mark.parametrize(
    ("local", "timezone", "expected"),
    [
        # Gaps: the offset before the gap.
        ("2026-03-29T02:00", "Europe/Berlin", "2026-03-29T01:00:00+00:00"),
        ("2026-03-29T02:30", "Europe/Berlin", "2026-03-29T01:30:00+00:00"),
        ("2026-03-08T02:30", "America/New_York", "2026-03-08T07:30:00+00:00"),
        ("2026-10-04T02:15", "Australia/Lord_Howe", "2026-10-03T15:45:00+00:00"),
        ("2011-12-30T12:00", "Pacific/Apia", "2011-12-30T22:00:00+00:00"),  # a skipped day
        ("2026-03-29T01:59", "Europe/Berlin", "2026-03-29T00:59:00+00:00"),
        ("2026-03-29T03:00", "Europe/Berlin", "2026-03-29T01:00:00+00:00"),
        # Overlaps: the first.
        ("2026-10-25T02:00", "Europe/Berlin", "2026-10-25T00:00:00+00:00"),
        ("2026-10-25T02:59", "Europe/Berlin", "2026-10-25T00:59:00+00:00"),
        ("2026-11-01T01:30", "America/New_York", "2026-11-01T05:30:00+00:00"),
        ("2026-10-25T03:00", "Europe/Berlin", "2026-10-25T02:00:00+00:00"),
        # In winter the clocks of Ireland go back, although winter is its daylight saving time.
        ("2026-10-25T01:30", "Europe/Dublin", "2026-10-25T00:30:00+00:00"),
    ],
)
def test_skipped_and_repeated_times(local: str, timezone: str, expected: str) -> None:
    at = due_at(due(local, timezone))
    assert at is not None
    assert at.isoformat() == expected


@pytest.mark.requirement("FR-134")
@pytest.mark.parametrize(
    ("local", "timezone", "expected"),
    [
        ("0001-01-01T00:00", "UTC", "0001-01-01T00:00:00+00:00"),
        ("0001-01-01T00:00", "Etc/GMT+12", "0001-01-01T12:00:00+00:00"),
        ("0001-01-01T13:59", "Etc/GMT-14", None),
        ("0001-01-01T14:00", "Etc/GMT-14", "0001-01-01T00:00:00+00:00"),
        ("0001-01-01T00:00", "Asia/Tokyo", None),
        ("9999-12-31T23:59", "UTC", "9999-12-31T23:59:00+00:00"),
        ("9999-12-31T23:59", "Etc/GMT-14", "9999-12-31T09:59:00+00:00"),
        ("9999-12-31T11:59", "Etc/GMT+12", "9999-12-31T23:59:00+00:00"),
        ("9999-12-31T12:00", "Etc/GMT+12", None),
        ("9999-12-31T23:59", "America/New_York", None),
    ],
)
def test_time_outside_the_years_1_to_9999_is_null(
    local: str, timezone: str, expected: str | None
) -> None:
    at = due_at(due(local, timezone))
    assert (at and at.isoformat()) == expected


@pytest.mark.requirement("FR-133", "FR-134", "FR-135")
@given(
    st.sampled_from(sorted(timezone_names())),
    st.datetimes(FIRST, LAST).map(lambda at: at.replace(second=0, microsecond=0)),
)
@settings(max_examples=200, deadline=None)
@example("Europe/Berlin", datetime(2026, 3, 29, 2, 30))  # noqa: DTZ001
@example("Europe/Berlin", datetime(2026, 10, 25, 2, 30))  # noqa: DTZ001
@example("Pacific/Apia", datetime(2011, 12, 30, 12))  # noqa: DTZ001
@example("Africa/Monrovia", datetime(1972, 1, 7, 0, 30))  # noqa: DTZ001 - a gap of 44.5 minutes
def test_exact_time_is_the_first_time_at_which_clocks_show_it(name: str, local: datetime) -> None:
    at = due_at(Due(local.date(), local.strftime("%H:%M"), name))
    assert at is not None
    assert at.tzinfo is UTC
    assert at.replace(tzinfo=None) == model_due_at(name, local)


@pytest.mark.requirement("FR-134", "FR-135")
@given(st.sampled_from(sorted(timezone_names())), st.integers(1900, 2100), st.data())
@settings(max_examples=200, deadline=None)
def test_times_near_transitions(name: str, year: int, data: st.DataObject) -> None:
    start = datetime(year, 1, 1)  # noqa: DTZ001
    days = [start + timedelta(days=number) for number in range(367)]
    offsets = [local_time(name, day) - day for day in days]
    transitions = [
        day for day, one, two in zip(days, offsets, offsets[1:], strict=False) if one != two
    ]
    day = data.draw(st.sampled_from(transitions or [start]))
    local = day + timedelta(minutes=data.draw(st.integers(-24 * 60, 48 * 60)))
    at = due_at(Due(local.date(), local.strftime("%H:%M"), name))
    assert at is not None
    assert at.replace(tzinfo=None) == model_due_at(name, local)


BERLIN = due("2026-07-01T12:00", "Europe/Berlin")
SUMMER = "2026-07-01T10:00:00+00:00"


@pytest.fixture
def wrong_zones(tmp_path: Path) -> Path:
    """A directory in which Berlin has the time of Kiritimati."""
    path = tmp_path / "Europe/Berlin"
    path.parent.mkdir()
    path.write_bytes((ZONES / "Pacific/Kiritimati").read_bytes())
    return tmp_path


@pytest.mark.requirement("FR-136")
@pytest.mark.parametrize("is_empty", [True, False], ids=["empty", "wrong"])
def test_zone_files_of_the_machine_change_nothing(
    wrong_zones: Path, tmp_path_factory: pytest.TempPathFactory, *, is_empty: bool
) -> None:
    directory = tmp_path_factory.mktemp("empty") if is_empty else wrong_zones
    program = (
        "from datetime import date\n"
        "from zoneinfo import ZoneInfo, ZoneInfoNotFoundError\n"
        "from app.domain.tasks.due import due_at, timezone_names\n"
        "from app.domain.tasks.schemas import Due\n"
        "print(due_at(Due(date(2026, 7, 1), '12:00', 'Europe/Berlin')).isoformat())\n"
        "print(len(timezone_names()))"
    )
    environment = {"PYTHONTZPATH": str(directory), "PYTHONPATH": ".", "TZ": "Asia/Tokyo"}
    completed = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[4],
    )
    assert completed.stdout.split() == [SUMMER, str(len(timezone_names()))]


@pytest.mark.requirement("FR-136")
def test_wrong_zone_files_would_be_used_by_zoneinfo(wrong_zones: Path) -> None:
    # Without this, the test above would show nothing.
    zoneinfo.reset_tzpath([wrong_zones])
    try:
        wrong = ZoneInfo.no_cache("Europe/Berlin")
    finally:
        zoneinfo.reset_tzpath()
    _timezone.cache_clear()
    at = due_at(BERLIN)
    assert at is not None
    assert at.isoformat() == SUMMER
    assert datetime(2026, 7, 1, 12, tzinfo=wrong).astimezone(UTC).isoformat() != SUMMER


@pytest.mark.requirement("NFR-004")
def test_cached_zones_are_bounded_in_number() -> None:
    for name in timezone_names():
        due_at(due("2026-07-01T12:00", name))
    assert _timezone.cache_info().currsize == _timezone.cache_info().maxsize == 256
