"""The throughput of 16 writers."""

import pytest

from bench.load import writers


@pytest.mark.requirement("NFR-204")
def test_creates_of_one_user_and_of_many_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writers, "SECONDS", 0.3)
    monkeypatch.setattr(writers, "ROUNDS", 1)
    measured = list(writers.measure())
    assert [users for users, *_ in measured] == [1, writers.MANY]
    assert all(rate > 0 for _, rate, *_ in measured)
