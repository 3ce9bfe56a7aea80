"""A migrated PostgreSQL that lasts until its standard input ends; prints its URL."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from app import embedded
from app.connection import Connection
from app.migrate import migrate

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        with embedded.running(Path(folder) / "data", durable=False) as url:
            migrate(Connection.parse(url))
            print(url, flush=True)
            sys.stdin.read()
