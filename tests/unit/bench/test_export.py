"""The measurement of export, erasure and import, with few tasks."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.scaling import export
from bench.scaling.export import Step, main, render


@pytest.mark.requirement("FR-236", "NFR-214")
def test_exports_before_and_after_an_import_are_equal(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--tasks", "2000"]) == 0
    *table, difference = capsys.readouterr().out.splitlines()
    rows = [line.strip("| ").split(" | ") for line in table[2:]]
    assert [row[:2] for row in rows] == [
        ["export", "2,200"], ["erase", "2,200"], ["import", "2,200"], ["export", "2,200"]
    ]  # fmt: skip
    assert all(int(row[5]) > 0 for row in rows)
    assert difference == "Lines in only one of the exports: 0"


@pytest.mark.requirement("NFR-214")
def test_difference_of_the_exports_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(export, "measure", lambda *_: ([], 2))
    assert main(["--tasks", "1"]) == 1
    assert capsys.readouterr().out.endswith("\nLines in only one of the exports: 2\n")


def test_digests_differ_by_line(tmp_path: Path) -> None:
    file = tmp_path / "export"
    file.write_bytes(b"a\nb\n")
    first = export.digests(file)
    file.write_bytes(b"b\nc\n")
    assert (len(first), len(first ^ export.digests(file))) == (2, 2)


def test_report_has_rows_per_second_and_memory() -> None:
    step = Step("erase", rows=3000, seconds=1.5, database_seconds=1.25, memory=100_400_000)
    assert render([step]).splitlines()[2:] == ["| erase | 3,000 | 1.5 | 2,000 | 1.2 | 100 |"]
