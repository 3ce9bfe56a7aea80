"""Entry point: `python -m app`."""

import os
import signal

# Process 1 of a container ignores signals without a handler. SIGTERM may arrive during the imports,
# which take most of the startup time; nothing needs cleaning up yet.
signal.signal(signal.SIGTERM, lambda _number, _frame: os._exit(0))

from app.cli import main  # noqa: E402

if __name__ == "__main__":
    main()
