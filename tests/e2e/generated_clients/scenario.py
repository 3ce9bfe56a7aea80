"""The scenarios that every generated client must pass: their steps, in order, with their values.

A scenario is a program of each target, such as `scenario.py` or `organizing.ts`. For each step it
prints a JSON object with values that it read through the client's types. This module compares them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

TITLES = ("Buy milk", "Task 2", "Task 3", "Task 4", "Task 5")


@dataclass(frozen=True)
class Scenario:
    """The steps of a scenario, and the titles that the service lists afterwards, oldest first."""

    name: str  # of the program, without its suffix
    steps: tuple[dict[str, Any], ...]
    remaining_titles: tuple[str, ...]


# The operations of contract 1.0.0.
BASIC = Scenario(
    "scenario",
    (
        {
            "step": "create",
            "status": 201,
            "title": TITLES[0],
            "description": "Two litres",
            "completed": False,
            "completed_at": None,
        },
        {"step": "read", "status": 200, "title": TITLES[0], "same": True},
        # Five tasks in pages of two, oldest first. Each task is listed once.
        {"step": "list", "pages": 3, "titles": list(TITLES)},
        # A patch changes only the given properties. Null clears a property.
        {"step": "set", "status": 200, "title": TITLES[0], "description": "Three litres"},
        {
            "step": "leave",
            "status": 200,
            "description": "Three litres",
            "completed": True,
            "dated": True,
        },
        {
            "step": "clear",
            "status": 200,
            "title": TITLES[0],
            "description": None,
            "completed": True,
        },
        # The first ETag is no longer current.
        {"step": "conflict", "status": 412, "type": "/problems/precondition-failed", "errors": 0},
        {"step": "fault", "status": 422, "type": "/problems/invalid-body", "pointer": "/title"},
        {"step": "missing", "status": 404, "type": "/problems/task-not-found"},
        # With the ETag of "clear": the rejected patch has changed nothing.
        {"step": "delete", "status": 204},
    ),
    TITLES[1:],
)
# The operations and properties that contract 1.1.0 adds.
ORGANIZING = Scenario(
    "organizing",
    (
        {"step": "list", "status": 201, "name": "Groceries"},
        {
            "step": "create",
            "status": 201,
            "listed": True,
            "priority": "high",
            "due": ["2026-11-24", "17:30", "Europe/Berlin"],
            "due_at": 1795537800,  # 16:30 in UTC, as a Unix time
            "labels": ["errands", "shop"],
        },
        {"step": "subtask", "status": 201, "parent": True, "listed": False, "due": None},
        # The second task of the list is moved to the first place.
        {"step": "move", "status": 200, "titles": ["Eggs", "Milk"]},
        # Tasks of the list with a label, one of two priorities, and a due date before a day.
        {"step": "filter", "titles": ["Milk"]},
        {"step": "count", "count": 2, "capped": False},
        {"step": "labels", "labels": [["errands", 1], ["shop", 1]], "capped": False},
        {
            "step": "reference",
            "status": 409,
            "type": "/problems/reference-not-found",
            "pointer": "/list_id",
        },
        {"step": "not empty", "status": 409, "type": "/problems/list-not-empty"},
        # A patch changes only the given properties. Null clears `due`.
        {"step": "clear", "status": 200, "priority": "high", "due": None, "labels": []},
    ),
    ("Milk", "Eggs", "Oat milk"),
)
# The operations that contract 1.2.0 adds.
SYNCING = Scenario(
    "syncing",
    (
        # The feed in pages of two: kind, whether it was deleted, and title or name.
        {
            "step": "first walk",
            "pages": 2,
            "items": [
                ["list", False, "Groceries"],
                ["task", False, "Milk"],
                ["task", False, "Tea"],
            ],
        },
        # A create with an ID, an update with the ETag of the task, and a delete.
        {
            "step": "batch",
            "status": 200,
            "created": ["Eggs"],
            "updated": [["Milk", True]],
            "deleted": [True],
        },
        # Only the changes since the first walk. Those of a batch are in the order of their IDs.
        {
            "step": "later walk",
            "pages": 2,
            "items": [["task", False, "Eggs"], ["task", False, "Milk"], ["task", True, None]],
        },
        {
            "step": "conflict",
            "status": 412,
            "type": "/problems/precondition-failed",
            "pointer": "/update/0",
        },
        {"step": "export", "kinds": ["list", "task", "task", "end"], "lines": 3},
        {"step": "erase", "status": 204},
        {"step": "expired", "status": 410, "type": "/problems/token-expired"},
        # Creates with the times of a deleted task, as Unix times, and without times.
        {"step": "restore", "status": 200, "created_at": 1795420800, "completed_at": 1795422600},
    ),
    ("Eggs", "Milk"),
)
SCENARIOS = (BASIC, ORGANIZING, SYNCING)


def find_errors(scenario: Scenario, output: str, remaining: Sequence[str]) -> list[str]:
    """Return every difference between a run and its scenario."""
    seen = [_parse(line) for line in output.splitlines()]
    return [*_step_errors(scenario, seen), *_title_errors(scenario, remaining)]


def _step_errors(scenario: Scenario, seen: Iterable[Any]) -> list[str]:
    pairs = enumerate(zip_longest(scenario.steps, seen), 1)
    return [
        f"step {number}: {format_step(actual)} instead of {format_step(expected)}"
        for number, (expected, actual) in pairs
        if expected != actual
    ]


def _title_errors(scenario: Scenario, remaining: Sequence[str]) -> list[str]:
    expected = scenario.remaining_titles
    if tuple(remaining) == expected:
        return []
    return [f"the service has {list(remaining)} afterwards instead of {list(expected)}"]


def _parse(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return line


def format_step(step: Any) -> str:
    """Format a step on one line."""
    return "nothing" if step is None else json.dumps(step)
