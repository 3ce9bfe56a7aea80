"""The log writer: a bounded buffer that a thread writes out."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.log_writer import MAX_BUFFERED_BYTES, LogWriter
from tests.support.process import ROOT, eventually

pytestmark = pytest.mark.requirement("FR-041")

TIMEOUT = 20.0
LONG = b"x" * 200_000 + b"\n"  # larger than the buffer of a pipe


@pytest.fixture
def reported() -> list[int]:
    return []


@pytest.fixture
def writer(reported: list[int]) -> LogWriter:
    return LogWriter(reported.append)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Yield the read end and the write end of a pipe."""
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def read_exactly(read_end: int, size: int) -> bytes:
    """Read this many bytes from a pipe."""
    read = b""
    while len(read) < size:
        read += os.read(read_end, size - len(read))
    return read


def flush(writer: LogWriter) -> None:
    writer.wait(TIMEOUT)
    assert writer._buffered_bytes == 0


def test_lines_are_written_in_order(writer: LogWriter, tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as file:
        writer.redirect(file.fileno())
        for number in range(1000):
            writer.write(f"{number}\n")
        flush(writer)
    lines = (tmp_path / "log").read_text().splitlines()
    assert lines == [str(number) for number in range(1000)]
    assert writer.dropped == 0


def test_dropped_lines_are_counted_and_reported_later(
    writer: LogWriter, reported: list[int], tmp_path: Path
) -> None:
    with Path("/dev/full").open("wb") as full, (tmp_path / "log").open("wb") as file:
        writer.redirect(full.fileno())
        for _ in range(3):
            writer.write("a\n")
            flush(writer)
        assert (writer.dropped, reported) == (3, [])
        writer.redirect(file.fileno())
        writer.write("b\n")
        writer.write("c\n")
        flush(writer)
        eventually(lambda: reported)
        writer.write("d\n")
        flush(writer)
    assert (tmp_path / "log").read_text() == "b\nc\nd\n"
    assert reported == [3]


def test_buffer_is_bounded_without_a_reader(
    writer: LogWriter, reported: list[int], pipe: tuple[int, int]
) -> None:
    read_end, write_end = pipe
    writer.redirect(write_end)
    lines = 0
    while not writer.dropped:
        writer.append(LONG)
        lines += 1
    assert writer._buffered_bytes <= MAX_BUFFERED_BYTES < writer._buffered_bytes + len(LONG)
    writer.append(LONG)
    read = read_exactly(read_end, (lines - 1) * len(LONG))
    flush(writer)
    assert read == LONG * (lines - 1)
    assert writer.dropped == 2
    eventually(lambda: reported)
    assert reported == [2]


def test_truncated_line_is_terminated_before_the_next_line(
    writer: LogWriter, pipe: tuple[int, int], tmp_path: Path
) -> None:
    read_end, write_end = pipe
    writer.redirect(write_end)
    writer.append(b"first\n")
    writer.append(LONG)
    writer.append(b"last\n")
    assert read_exactly(read_end, 7) == b"first\nx"
    with (tmp_path / "log").open("w+b") as file:
        os.dup2(file.fileno(), read_end)  # closes the pipe's last reader
        flush(writer)
        assert writer.dropped == 2
        os.dup2(file.fileno(), write_end)
        for line in (b"again\n", b"and again\n"):
            writer.append(line)
            flush(writer)
    assert (tmp_path / "log").read_text() == "\nagain\nand again\n"
    assert writer.dropped == 2


def test_non_blocking_descriptor_is_waited_for(writer: LogWriter, pipe: tuple[int, int]) -> None:
    read_end, write_end = pipe
    os.set_blocking(write_end, False)
    writer.redirect(write_end)
    writer.append(LONG)
    writer.wait(0.1)
    assert writer._buffered_bytes == len(LONG)
    assert read_exactly(read_end, len(LONG)) == LONG
    flush(writer)
    assert writer.dropped == 0


def test_lone_surrogate_is_escaped(writer: LogWriter, pipe: tuple[int, int]) -> None:
    writer.redirect(pipe[1])
    writer.write("\udcff\n")
    assert read_exactly(pipe[0], 7) == rb"\udcff" + b"\n"


def test_reentrant_write_does_not_deadlock(writer: LogWriter, pipe: tuple[int, int]) -> None:
    writer.redirect(pipe[1])
    with writer._lock:  # as in a finalizer that runs during a write
        writer.append(b"inner\n")
    assert read_exactly(pipe[0], 6) == b"inner\n"


def test_thread_that_fails_to_start_is_started_later(
    writer: LogWriter, pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: threading.Thread) -> None:
        message = "can't start new thread"
        raise RuntimeError(message)

    writer.redirect(pipe[1])
    with monkeypatch.context() as context:
        context.setattr(threading.Thread, "start", fail)
        writer.append(b"first\n")
    writer.append(b"last\n")
    assert read_exactly(pipe[0], 11) == b"first\nlast\n"


def run(program: str) -> str:
    """Return the standard output of a program that logs."""
    setup = (
        "import os, sys\n"
        "from app.logging import configure_logging, log\n"
        "from app.logging import LogFormat, LogLevel\n"
        "configure_logging(LogLevel.INFO, LogFormat.JSON)\n"
    )
    completed = subprocess.run(
        [sys.executable, "-c", setup + program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return completed.stdout


PROGRAMS: dict[str, Callable[[str], bool]] = {
    "log.info('last')": lambda out: out.count('"last"') == 1,
    "log.info('last'); sys.exit(0)": lambda out: out.count('"last"') == 1,
    "import atexit; atexit.register(log.info, 'last'); log.info('first')": lambda out: (
        out.count('"first"') == 1 and out.count('"last"') == 1
    ),
    "log.info('first'); pid = os.fork(); log.info('last'); pid and os.waitpid(pid, 0)": (
        lambda out: out.count('"first"') == 1 and out.count('"last"') == 2
    ),
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_last_lines_of_a_process_are_written(program: str) -> None:
    out = run(program)
    assert PROGRAMS[program](out), out
