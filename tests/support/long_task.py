"""What every long task does: it shows progress, and stops what it started when it is stopped."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

STARTED = time.monotonic()
POLL_SECONDS = 0.5
# For the blocks that stop what was started; it is more than each of them may take. It also ends a
# process in which a callback of the event loop has lost the exception.
STOP_SECONDS = 60
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def progress(text: str) -> None:
    """Print a line with the seconds since the start."""
    sys.stderr.write(f"{time.monotonic() - STARTED:7.1f} s  {text}\n")
    sys.stderr.flush()


def run(main: Callable[[], int | None]) -> NoReturn:
    """Run a task to its end. A signal stops it by way of its `finally` blocks.

    So does the end of the process in STOP_WITH_PARENT: a task runner that is killed stops nothing.
    """
    for number in SIGNALS:
        signal.signal(number, _stop)
    if parent := os.environ.pop("STOP_WITH_PARENT", ""):
        threading.Thread(target=_watch, args=[int(parent)], daemon=True).start()
    sys.exit(main())


def _stop(number: int, _frame: FrameType | None) -> NoReturn:
    for each in SIGNALS:  # a second one would cut short what stops the programs
        signal.signal(each, lambda *_: None)
    signal.alarm(STOP_SECONDS)  # ends this process, and the kernel then tells those programs
    progress(f"stopping ({signal.Signals(number).name})")
    sys.exit(128 + number)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
