"""Serve the contract's examples on PORT: `python -m tools.openapi.mock`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

from tools.openapi.node import CONTRACT, ENVIRONMENT, command

PORT = "4010"
WATCH_INTERVAL = 0.2


def main() -> int:
    port = os.environ.get("PORT") or PORT
    parent = os.getppid()
    argv = command("prism", "mock", "--host=127.0.0.1", f"--port={port}", str(CONTRACT))
    with subprocess.Popen(argv, env=ENVIRONMENT) as prism:
        try:
            # Prism must not outlive this process or a killed task runner.
            while prism.poll() is None and os.getppid() == parent:
                time.sleep(WATCH_INTERVAL)
        finally:
            prism.terminate()
    return prism.returncode


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt):
        sys.exit(main())
