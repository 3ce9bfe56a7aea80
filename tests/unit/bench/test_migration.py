"""The measurement of migrations, over a small table."""

from __future__ import annotations

import pytest

from bench.scaling.migration import REVISIONS, Result, main, render


@pytest.mark.requirement("FR-150")
def test_statements_and_locks_of_every_revision_are_measured(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--tasks", "2000"]) == 0
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[0] for row in rows] == ["none", *REVISIONS]
    assert all(int(row[2].replace(",", "")) > 0 for row in rows)
    locks = {row[0]: row[5] for row in rows}
    assert locks["none"] == "none"
    # It builds indexes, which takes longer than the time between two observations.
    assert locks["0005"].startswith("ShareUpdateExclusiveLock ")


def test_report_shows_the_longest_statement_and_the_longest_lock_of_each_mode() -> None:
    locks = {"ShareLock": 0.5, "AccessExclusiveLock": 0.0042}
    results = [Result("none", 3.0, [0.001, 0.003], {}), Result("0004", 0.12, [0.002], locks)]
    assert render(results).splitlines()[2:] == [
        "| none | 3.0 | 2 | 2.0 | 3 | none |",
        "| 0004 | 0.1 | 1 | 2.0 | 2 | AccessExclusiveLock 4 ms, ShareLock 500 ms |",
    ]
