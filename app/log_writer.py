"""Writes the log in a thread of its own: a log that cannot be written loses lines, not requests."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from itertools import accumulate
from queue import Empty, SimpleQueue
from threading import RLock, Thread
from time import monotonic, sleep

# Some seconds of full load. More lines than that are dropped while nobody reads them.
MAX_BUFFERED_BYTES = 4_194_304
# Lines that come meanwhile are written together: one system call and one change of thread.
WRITE_INTERVAL = 0.02
FLUSH_TIMEOUT = 1.0
POLL_INTERVAL = 0.001
NO_DESCRIPTOR = -1


class LogWriter:
    """A bounded buffer of log lines, and the thread that writes them to a file descriptor.

    A line that does not fit into the buffer or that cannot be written is dropped and counted.
    Nothing here blocks or raises in the thread that logs.
    """

    def __init__(self, report: Callable[[int], object]) -> None:
        """`report` logs the number of lines dropped so far, once lines can be written again."""
        self.descriptor = NO_DESCRIPTOR
        self.dropped = 0
        self._report = report
        self._reported = 0
        self._ends_in_line = False  # the last write failed after a part of a line
        self._reset()
        # The thread does not exist in a forked process, and its parent writes what is buffered.
        os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        # Both are reentrant: garbage collection may run a finalizer that logs at any point.
        self._lock = RLock()
        self._wake = SimpleQueue[None]()
        self._lines: list[bytes] = []
        self._buffered_bytes = 0  # with the lines that are being written
        self._is_waiting = True  # the thread, until it is woken
        self._thread: Thread | None = None

    def append(self, line: bytes) -> None:
        """Have a line written, which ends with a newline."""
        with self._lock:
            if self._buffered_bytes + len(line) > MAX_BUFFERED_BYTES:
                self.dropped += 1
                return
            self._buffered_bytes += len(line)
            self._lines.append(line)
            if self._is_waiting:
                self._is_waiting = False
                self._wake_thread()

    def write(self, text: str) -> None:
        """Have a line written, as the streams of Python's log handlers do."""
        self.append(text.encode("utf-8", "backslashreplace"))

    def flush(self) -> None:
        """Do nothing: structlog calls this after each line."""

    def wait(self, timeout: float = FLUSH_TIMEOUT) -> None:
        """Wait until everything logged so far is written, or until the timeout."""
        deadline = monotonic() + timeout
        self._wake.put(None)
        while self._buffered_bytes and monotonic() < deadline:
            sleep(POLL_INTERVAL)

    def redirect(self, descriptor: int) -> None:
        """Write to another file descriptor from now on."""
        self.wait()
        self.descriptor = descriptor
        self._ends_in_line = False

    def _wake_thread(self) -> None:
        if self._thread is not None:
            self._wake.put(None)
            return
        # Started late, so that the embedded database is started by a process with one thread.
        thread = Thread(target=self._run, name="log", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # no more threads, or the interpreter ends: the next line tries again
            self._is_waiting = True
        else:
            self._thread = thread

    def _run(self) -> None:
        while True:
            with self._lock:
                lines, self._lines = self._lines, []
                self._is_waiting = not lines
            if not lines:
                self._wake.get()
                continue
            self._write_batch(lines)
            with suppress(Empty):
                self._wake.get(timeout=WRITE_INTERVAL)

    def _write_batch(self, lines: list[bytes]) -> None:
        start = b"\n" if self._ends_in_line else b""
        batch = start + b"".join(lines)
        written = self._write_bytes(batch)
        if written:
            self._ends_in_line = batch[written - 1 : written] != b"\n"
        ends = list(accumulate(map(len, lines), initial=len(start)))[1:]
        with self._lock:
            self.dropped += sum(end > written for end in ends)
            self._buffered_bytes -= sum(map(len, lines))
        if written == len(batch) and self.dropped > self._reported:
            self._reported = self.dropped
            self._report(self.dropped)

    def _write_bytes(self, batch: bytes) -> int:
        """Write a batch and return how many of its bytes were written before an error."""
        written = 0
        while written < len(batch):
            try:
                written += os.write(self.descriptor, memoryview(batch)[written:])
            except BlockingIOError:  # whoever shares the descriptor made it non-blocking
                sleep(WRITE_INTERVAL)
            except OSError:
                break
        return written
