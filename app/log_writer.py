"""Log writer thread: if the log cannot be written, lines are dropped and requests go on."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from itertools import accumulate
from queue import Empty, SimpleQueue
from threading import RLock, Thread
from time import monotonic, sleep

MAX_BUFFERED_BYTES = 4_194_304  # some seconds of full load
# Seconds. Lines of an interval share one system call and one thread switch.
WRITE_INTERVAL = 0.02
FLUSH_TIMEOUT = 1.0
POLL_INTERVAL = 0.001
NO_DESCRIPTOR = -1


class LogWriter:
    """A bounded buffer of log lines, and the thread that writes them to a file descriptor.

    A line that does not fit into the buffer or cannot be written is dropped and counted. Appending
    neither blocks nor raises. `report` is called with the number of dropped lines when lines can be
    written again.
    """

    def __init__(self, report: Callable[[int], object]) -> None:
        self.descriptor = NO_DESCRIPTOR
        self.dropped = 0
        self._report = report
        self._reported = 0
        self._ends_in_line = False  # the last write ended within a line
        self._reset()
        # A forked process has no writer thread, and the parent writes the buffered lines.
        os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        # Lock and queue are reentrant: the garbage collector may run a finalizer that logs.
        self._lock = RLock()
        self._wake = SimpleQueue[None]()
        self._lines: list[bytes] = []
        self._buffered_bytes = 0  # including the batch that is being written
        self._is_waiting = True  # the thread waits for `_wake`
        self._thread: Thread | None = None

    def append(self, line: bytes) -> None:
        """Buffer a line, which must end with a newline."""
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
        """Buffer a line; Python's log handlers and structlog call this."""
        self.append(text.encode("utf-8", "backslashreplace"))

    def flush(self) -> None:
        """Do nothing; structlog calls this after each line."""

    def wait(self, timeout: float = FLUSH_TIMEOUT) -> None:
        """Wait until all buffered lines are written, or for `timeout` seconds."""
        deadline = monotonic() + timeout
        self._wake.put(None)
        while self._buffered_bytes and monotonic() < deadline:
            sleep(POLL_INTERVAL)

    def redirect(self, descriptor: int) -> None:
        """Write the buffered lines, then switch to another file descriptor."""
        self.wait()
        self.descriptor = descriptor
        self._ends_in_line = False

    def _wake_thread(self) -> None:
        if self._thread is not None:
            self._wake.put(None)
            return
        # Start with the first line: the embedded PostgreSQL is forked from a single thread.
        thread = Thread(target=self._run, name="log", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # thread limit or interpreter shutdown: the next line tries again
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
        prefix = b"\n" if self._ends_in_line else b""
        batch = prefix + b"".join(lines)
        written = self._write_bytes(batch)
        if written:
            self._ends_in_line = batch[written - 1 : written] != b"\n"
        ends = list(accumulate(map(len, lines), initial=len(prefix)))[1:]
        with self._lock:
            self.dropped += sum(end > written for end in ends)
            self._buffered_bytes -= sum(map(len, lines))
        if written == len(batch) and self.dropped > self._reported:
            self._reported = self.dropped
            self._report(self.dropped)

    def _write_bytes(self, batch: bytes) -> int:
        """Write a batch; return the number of bytes written before an error."""
        written = 0
        while written < len(batch):
            try:
                written += os.write(self.descriptor, memoryview(batch)[written:])
            except BlockingIOError:  # another process made the shared descriptor non-blocking
                sleep(WRITE_INTERVAL)
            except OSError:
                break
        return written
