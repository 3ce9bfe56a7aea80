"""The tests that make no sense behind a pooler, each with its reason. There are no others."""

from __future__ import annotations

BEHIND_A_POOLER: dict[str, str] = {}
