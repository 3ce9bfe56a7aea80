"""The measurement of migrations, over a small table."""

from __future__ import annotations

import pytest

from bench.scaling.data import Size
from bench.scaling.migration import REVISIONS, Result, measure_new_database, render

SMALL = Size(large=2_000, reverse=200, others=0)


@pytest.mark.requirement("FR-150")
def test_statements_and_locks_of_every_revision_are_measured() -> None:
    results = measure_new_database(SMALL)
    assert [result.revision for result in results] == ["none", *REVISIONS]
    assert all(result.statements and result.duration > 0 for result in results)
    assert results[0].locks == {}
    # It builds indexes, which takes longer than the time between two observations.
    concurrent = results[1 + REVISIONS.index("0005")].locks
    assert concurrent["ShareUpdateExclusiveLock"] > 0
    assert "AccessExclusiveLock" not in concurrent


def test_report_shows_the_longest_statement_and_the_longest_lock_of_each_mode() -> None:
    locks = {"ShareLock": 0.5, "AccessExclusiveLock": 0.0042}
    results = [Result("none", 3.0, [0.001, 0.003], {}), Result("0004", 0.12, [0.002], locks)]
    assert render(results).splitlines()[2:] == [
        "| none | 3.0 | 2 | 2.0 | 3 | none |",
        "| 0004 | 0.1 | 1 | 2.0 | 2 | AccessExclusiveLock 4 ms, ShareLock 500 ms |",
    ]
