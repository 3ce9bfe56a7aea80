"""The figures by which `task overload` and `task soak` judge."""

from __future__ import annotations

import pytest

from tests.overload.generator import Load, percentile
from tests.overload.soak import Moment, grown


@pytest.mark.requirement("NFR-016")
@pytest.mark.parametrize(("share", "value"), [(0, 1.0), (50, 51.0), (99, 100.0), (100, 100.0)])
def test_a_percentile_is_a_value_that_was_seen(share: float, value: float) -> None:
    assert percentile([float(number) for number in range(100, 0, -1)], share) == value


@pytest.mark.requirement("NFR-016")
@pytest.mark.parametrize(
    ("sent", "late", "verdict"),
    [(100, 0.0, "in time"), (90, 0.0, "behind"), (100, 0.006, "behind"), (95, 0.004, "in time")],
)
def test_a_generator_that_falls_behind_says_so(sent: int, late: float, verdict: str) -> None:
    load = Load(rate=100, seconds=1.0, late=[late] * sent)
    assert load.is_behind is (verdict == "behind")


@pytest.mark.requirement("NFR-019")
def test_growth_counts_from_the_end_of_the_warm_up() -> None:
    moments = [Moment(1.0, 1, 0.1, memory) for memory in (100, 130, 104)]
    assert grown(moments) == pytest.approx(0.04)
