"""The comparison with the previous version."""

from __future__ import annotations

import pytest

from bench.compare.measure import Results, Sample
from bench.compare.operations import OPERATIONS_OF_SYNC
from bench.compare.versions import AFTER, BEFORE, LIMITS, exceeded_limits, render

pytestmark = pytest.mark.requirement("NFR-202")


def results(**ratios: float) -> Results:
    """Return a run of two rounds. `ratios` has the ratio of the database for some operations."""
    samples: list[Sample] = []
    for seconds in (0.0001, 0.0002):  # the machine is slower in the second round
        for name in (*LIMITS, *OPERATIONS_OF_SYNC):
            database = {BEFORE: seconds, AFTER: seconds * ratios.get(name, 1.0)}
            for target in (BEFORE, AFTER) if name in LIMITS else (AFTER,):
                samples.append(Sample(target, name, "processor", seconds))
                samples.append(Sample(target, name, "database", database[target]))
    return Results(samples)


def test_equal_costs_are_accepted() -> None:
    assert list(exceeded_limits(results(patch=1.2))) == []


def test_costs_above_the_limit_are_reported() -> None:
    assert list(exceeded_limits(results(get=1.2, patch=1.3))) == [
        "get: 1.20 times the CPU time of PostgreSQL, limit 1.1",
        "patch: 1.30 times the CPU time of PostgreSQL, limit 1.25",
    ]


def test_table_has_both_versions_and_the_new_operations() -> None:
    lines = render(results(patch=1.2)).splitlines()
    assert "| patch | 150 | 150 | 1.00 | 150 | 180 | 1.20 |" in lines
    assert "| changes, 20 | | 150 | | | 150 | |" in lines
