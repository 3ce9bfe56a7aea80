"""The tests that make no sense behind a pooler, each with its reason. There are no others."""

from __future__ import annotations

BEHIND_A_POOLER = {
    "tests/integration/test_idleness.py::"
    "test_a_statement_ends_at_the_server_when_nobody_can_cancel_it": (
        "a pooler refuses to be told statement_timeout; README says where to set it instead"
    ),
}
