"""Finds processes by a directory. Imports nothing of the service."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def processes_of(directory: Path) -> set[int]:
    """Find processes whose command line contains a directory or that run in it (Linux)."""
    pids: set[int] = set()
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # the process may end meanwhile
            command_line = (entry / "cmdline").read_bytes()
            cwd = os.fsencode((entry / "cwd").readlink())
            uses = os.fsencode(directory) in command_line or cwd.startswith(os.fsencode(directory))
            pids |= {int(entry.name)} if uses else set()
    return pids
