"""Copies that are built from the feed equal the database, in every interleaving."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from tests.integration.state_machine.feed import CLIENTS, Copies
from tests.integration.state_machine.machine import Service, explore

# For a longer search. Hypothesis takes fewer steps in some examples.
EXAMPLES = int(os.environ.get("STATE_MACHINE_EXAMPLES") or 48)
MIN_STEPS = 42


@pytest.mark.requirement("FR-202", "FR-203", "FR-204", "FR-205", "FR-206", "FR-207", "FR-208")
@pytest.mark.requirement("FR-209", "FR-210", "FR-211", "FR-212", "FR-219", "FR-220", "FR-221")
@pytest.mark.requirement("FR-229", "FR-235", "NFR-209")
def test_copies_equal_the_database(
    replicas: Service, record_property: Callable[[str, object], None]
) -> None:
    explore(replicas, Copies, examples=EXAMPLES, steps=50)
    record_property("steps of the clients that follow the feed", replicas.steps)
    assert len(CLIENTS) >= 4
    assert replicas.steps >= MIN_STEPS * EXAMPLES
