"""Entry point: `python -m app`."""

import os
import signal

# As process 1 of a container nothing ends by a signal that it has no handler for, and SIGTERM may
# come during the imports, which take the most of a start. There is nothing to clean up yet.
signal.signal(signal.SIGTERM, lambda _number, _frame: os._exit(0))

from app.cli import main  # noqa: E402

if __name__ == "__main__":
    main()
