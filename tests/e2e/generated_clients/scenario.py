"""The scenario that every generated client must pass: its steps, in order, with their values.

The program of each target runs the steps with its generated client. For each step it prints a JSON
object with values that it read through the client's types. This module compares them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import Any

TITLES = ("Buy milk", "Task 2", "Task 3", "Task 4", "Task 5")

STEPS: tuple[dict[str, Any], ...] = (
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
    {"step": "clear", "status": 200, "title": TITLES[0], "description": None, "completed": True},
    # The first ETag is no longer current.
    {"step": "conflict", "status": 412, "type": "/problems/precondition-failed", "errors": 0},
    {"step": "fault", "status": 422, "type": "/problems/invalid-body", "pointer": "/title"},
    {"step": "missing", "status": 404, "type": "/problems/task-not-found"},
    # With the ETag of "clear": the rejected patch has changed nothing.
    {"step": "delete", "status": 204},
)
# The titles that the service lists afterwards.
REMAINING_TITLES = TITLES[1:]


def find_errors(output: str, remaining: Sequence[str]) -> list[str]:
    """Return every difference between a run and the scenario."""
    seen = [_parse(line) for line in output.splitlines()]
    return [*_step_errors(seen), *_title_errors(remaining)]


def _step_errors(seen: Iterable[Any]) -> list[str]:
    pairs = enumerate(zip_longest(STEPS, seen), 1)
    return [
        f"step {number}: {format_step(actual)} instead of {format_step(expected)}"
        for number, (expected, actual) in pairs
        if expected != actual
    ]


def _title_errors(remaining: Sequence[str]) -> list[str]:
    if tuple(remaining) == REMAINING_TITLES:
        return []
    return [f"the service has {list(remaining)} afterwards instead of {list(REMAINING_TITLES)}"]


def _parse(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return line


def format_step(step: Any) -> str:
    """Format a step on one line."""
    return "nothing" if step is None else json.dumps(step)
