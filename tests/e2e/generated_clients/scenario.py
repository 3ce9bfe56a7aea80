"""The one scenario: what every generated client has to see, in this order and with these values.

Each target's program does the steps with the client that was generated for it and prints one JSON
object a step, of values that it read through the client's own types. They are compared here, so
that a step that is left out or answered otherwise is red in every language alike.
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
    # Five tasks in pages of two, oldest first: every page is walked, each task is seen once.
    {"step": "list", "pages": 3, "titles": list(TITLES)},
    # A patch of one member leaves the others as they are, and null clears.
    {"step": "set", "status": 200, "title": TITLES[0], "description": "Three litres"},
    {
        "step": "leave",
        "status": 200,
        "description": "Three litres",
        "completed": True,
        "dated": True,
    },
    {"step": "clear", "status": 200, "title": TITLES[0], "description": None, "completed": True},
    # The first entity tag is stale by now.
    {"step": "conflict", "status": 412, "type": "/problems/precondition-failed", "errors": 0},
    {"step": "fault", "status": 422, "type": "/problems/invalid-body", "pointer": "/title"},
    {"step": "missing", "status": 404, "type": "/problems/task-not-found"},
    # With the tag of "clear": the patch that was refused has changed nothing.
    {"step": "delete", "status": 204},
)
# What the service itself lists afterwards.
LEFT = TITLES[1:]


def disagreements(output: str, left: Sequence[str]) -> list[str]:
    """Every way in which a run differs from the scenario, in words."""
    seen = [_parsed(line) for line in output.splitlines()]
    return [*_compared(seen), *_remains(left)]


def _compared(seen: Iterable[Any]) -> list[str]:
    pairs = enumerate(zip_longest(STEPS, seen), 1)
    return [
        f"step {number}: {shown(found)} instead of {shown(wanted)}"
        for number, (wanted, found) in pairs
        if wanted != found
    ]


def _remains(left: Sequence[str]) -> list[str]:
    if tuple(left) == LEFT:
        return []
    return [f"the service has {list(left)} afterwards instead of {list(LEFT)}"]


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return line


def shown(step: Any) -> str:
    """A step on one line."""
    return "nothing" if step is None else json.dumps(step)
