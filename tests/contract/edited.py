"""Compares the contract with edited copies of the code: `python -m tests.contract.edited`.

Each copy is imported by a fork of its own, from a process that has the libraries already. Prints,
for each of `EDITS`, the JSON Pointers of the differences, or the fault that the copy died of.
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
# What `app` imports, and takes seconds.
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
    """Print what becomes of every edit."""
    for library in LIBRARIES:
        importlib.import_module(library)
    fork = multiprocessing.get_context("fork")
    with fork.Pool(processes=2, maxtasksperchild=1) as pool:
        json.dump(pool.map(places, range(len(EDITS)), chunksize=1), sys.stdout)


def places(number: int) -> list[str]:
    """The places where the contract and the code with one edit differ."""
    file, text, instead, _ = EDITS[number]
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(ROOT / "app", Path(folder) / "app")
        shutil.copy(ROOT / "openapi.yaml", folder)
        source = (Path(folder) / file).read_text("utf-8")
        (Path(folder) / file).write_text(source.replace(text, instead), "utf-8")
        sys.path.insert(0, folder)
        try:
            difference = importlib.import_module("tests.contract.difference")
            return [found.pointer for found in difference.found()]
        except Exception:  # noqa: BLE001 - whatever it is, the test shall show it
            return [traceback.format_exc()]


if __name__ == "__main__":
    main()
