"""Runs long tasks: prints progress, and stops all child processes on a signal."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

STARTED = time.monotonic()
POLL_INTERVAL = 0.5
# The longest time for all `finally` blocks together.
STOP_TIMEOUT = 60
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STOPPED_BY: list[int] = []


def progress(text: str) -> None:
    """Print a line with the seconds since the start."""
    sys.stderr.write(f"{time.monotonic() - STARTED:7.1f} s  {text}\n")
    sys.stderr.flush()


def run(main: Callable[[], int | None]) -> NoReturn:
    """Run a task. A signal stops it and runs its `finally` blocks.

    The task also stops when the process in STOP_WITH_PARENT ends, because a killed task runner does
    not stop its tasks.
    """
    for signal_number in SIGNALS:
        signal.signal(signal_number, _stop)
    if parent := os.environ.pop("STOP_WITH_PARENT", ""):
        threading.Thread(target=_watch, args=[int(parent)], daemon=True).start()
    try:
        sys.exit(main())
    except asyncio.CancelledError:
        sys.exit(128 + STOPPED_BY[-1])


def _stop(signal_number: int, _frame: FrameType | None) -> None:
    for each in SIGNALS:  # a second signal would interrupt the cleanup
        signal.signal(each, lambda *_: None)
    signal.alarm(STOP_TIMEOUT)  # ends this process; its children then get their parent-death signal
    progress(f"stopping ({signal.Signals(signal_number).name})")
    STOPPED_BY.append(signal_number)
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        sys.exit(128 + signal_number)
    # An exception raised inside the event loop may be lost or break the loop.
    for task in asyncio.all_tasks(loop):
        loop.call_soon_threadsafe(task.cancel)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(POLL_INTERVAL)
    os.kill(os.getpid(), signal.SIGTERM)
