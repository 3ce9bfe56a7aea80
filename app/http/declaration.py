"""What a handler declares of its operation, beside its route.

`parameters` and `reads` are what it reads its requests by, `problems` the kinds it may raise beyond
those that every operation may, and its return annotation names its answers. The contract that these
imply is held against `openapi.yaml` (`tests/contract/derived.py`).
"""

from __future__ import annotations

from typing import Self


class Declaration:
    """Something that a handler is decorated with. It never changes."""

    def __deepcopy__(self, _: object) -> Self:
        """The framework copies what decorates a controller's handler; there is no need to."""
        return self
