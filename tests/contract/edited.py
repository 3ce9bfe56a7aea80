"""Compares the contract with edited copies of the code: `python -m tests.contract.edited`.

Each copy is imported in a separate fork of a process that has already imported the libraries. For
each of `EDITS`, it prints the JSON Pointers of the differences, or the traceback of the import.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import shutil
import sys
import tempfile
import traceback
from pathlib import Path

from tests.contract.mutations import EDITS

ROOT = Path(__file__).parents[2]
# Libraries of `app` that take seconds to import.
LIBRARIES = (
    "advanced_alchemy.repository",
    "jsonschema_rs",
    "litestar.openapi",
    "sqlalchemy.dialects.postgresql.asyncpg",
    "sqlalchemy.ext.asyncio",
    "structlog",
    "uvicorn.protocols.http.httptools_impl",
    "yaml",
)


def main() -> None:
    """Print the result of every edit."""
    for library in LIBRARIES:
        importlib.import_module(library)
    fork = multiprocessing.get_context("fork")
    with fork.Pool(processes=2, maxtasksperchild=1) as pool:
        json.dump(pool.map(find_pointers, range(len(EDITS)), chunksize=1), sys.stdout)


def find_pointers(number: int) -> list[str]:
    """Return the pointers of the differences between the contract and the edited code."""
    file, text, replacement, _ = EDITS[number]
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(ROOT / "app", Path(folder) / "app")
        shutil.copy(ROOT / "openapi.yaml", folder)
        source = (Path(folder) / file).read_text("utf-8")
        (Path(folder) / file).write_text(source.replace(text, replacement), "utf-8")
        sys.path.insert(0, folder)
        try:
            difference = importlib.import_module("tests.contract.difference")
            return [it.pointer for it in difference.find_differences()]
        except Exception:  # noqa: BLE001 - the test shows any error
            return [traceback.format_exc()]


if __name__ == "__main__":
    main()
