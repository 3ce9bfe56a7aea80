"""Edit a copy of the contract, to test a check."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import yaml

from app.openapi.document import LOADER
from tools.openapi.node import CONTRACT

Edits = Mapping[str, Any]
GONE: Any = object()
DOCUMENT: dict[str, Any] = yaml.load(CONTRACT.read_bytes(), LOADER)  # noqa: S506 - LOADER is a safe loader


def edited(edits: Edits) -> str:
    """Return the contract as YAML with a value set, appended (`-`) or removed at each pointer."""
    changed: Any = copy.deepcopy(DOCUMENT)
    for pointer, value in edits.items():
        *parents, last = (
            part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]
        )
        node = changed
        for part in parents:
            node = node[int(part) if isinstance(node, list) else part]
        _put(node, last, value)
    return yaml.safe_dump(changed, sort_keys=False, allow_unicode=True)


def _put(node: Any, key: str, value: Any) -> None:
    if key == "-":
        node.append(value)
        return
    index = int(key) if isinstance(node, list) else key
    if value is GONE:
        del node[index]
    else:
        node[index] = value
