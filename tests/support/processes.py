"""The processes of this machine, told by a folder. Imports nothing of the service."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def processes_of(folder: Path) -> set[int]:
    """The processes whose command line names a folder, or that work in it (Linux)."""
    found: set[int] = set()
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it may end while it is looked at
            words = (entry / "cmdline").read_bytes()
            place = os.fsencode((entry / "cwd").readlink())
            if os.fsencode(folder) in words or place.startswith(os.fsencode(folder)):
                found.add(int(entry.name))
    return found
