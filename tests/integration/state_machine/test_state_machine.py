"""The service agrees with the model of the contract, step by step and in races."""

from __future__ import annotations

import os

import pytest

from tests.integration.state_machine.machine import Service, explore

pytestmark = [
    pytest.mark.requirement("FR-002", "FR-003", "FR-004", "FR-005", "FR-006", "FR-007", "FR-009"),
    pytest.mark.requirement("FR-010", "FR-012", "FR-013", "FR-014"),
    pytest.mark.requirement("FR-015", "FR-016", "FR-017", "FR-018", "FR-019", "FR-020", "FR-046"),
    pytest.mark.requirement("FR-101", "FR-102", "FR-103", "FR-104", "FR-105", "FR-106", "FR-107"),
    pytest.mark.requirement("FR-108", "FR-109", "FR-110", "FR-111", "FR-112", "FR-113"),
    pytest.mark.requirement("FR-115", "FR-116", "FR-117", "FR-118", "FR-119", "FR-120", "FR-121"),
    pytest.mark.requirement("FR-122", "FR-123", "FR-124", "FR-125", "FR-126", "FR-127", "FR-128"),
    pytest.mark.requirement("FR-129", "FR-132", "FR-133", "FR-134", "FR-135", "FR-137"),
    pytest.mark.requirement("FR-139", "FR-140", "FR-141", "FR-142", "FR-143", "FR-144", "FR-145"),
    pytest.mark.requirement("FR-146", "FR-147", "FR-148", "NFR-107"),
]

# For a longer search.
EXAMPLES = int(os.environ.get("STATE_MACHINE_EXAMPLES") or 30)


def test_responses_match_the_model(service: Service) -> None:
    explore(service, examples=EXAMPLES, steps=50)
