"""Finds processes by a directory. Imports nothing of the service."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def processes_of(folder: Path) -> set[int]:
    """Find processes whose command line contains a directory or that run in it (Linux)."""
    found: set[int] = set()
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # the process may end meanwhile
            words = (entry / "cmdline").read_bytes()
            place = os.fsencode((entry / "cwd").readlink())
            if os.fsencode(folder) in words or place.startswith(os.fsencode(folder)):
                found.add(int(entry.name))
    return found
