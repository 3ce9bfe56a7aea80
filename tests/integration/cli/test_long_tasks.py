"""Long tasks show progress, and leave no process behind, however they are stopped."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.process import ROOT, eventually

SECONDS = 240
# `task bench` creates its own environments. Here the service runs in that of the tests.
BENCH = """
import sys
from bench.compare import __main__ as bench
from bench.compare.targets import TASKS_API, Target
from tests.support.long_task import run
bench.list_targets = lambda: [Target(TASKS_API, [sys.executable, "-m", "app", "serve"])]
sys.argv = ["bench", "--costs", "--rounds", "100"]
run(bench.main)
"""
# The same command as in Taskfile.yml.
RUNNER = """
import os, subprocess, sys
subprocess.run(sys.argv[1:], env=os.environ | {"STOP_WITH_PARENT": str(os.getpid())})
"""


class Task(NamedTuple):
    """A long task: its arguments, the progress to wait for, and its minimum of child programs."""

    arguments: list[str]
    progress: str
    programs: int


BENCH_ARGUMENTS = Task(["-c", BENCH], r"warming Tasks API", 2)
TASKS = {
    "bench": BENCH_ARGUMENTS,
    "faults": Task(["-m", "tools.fault_injection", "suspended-30s"], r" s  suspended-30s", 2),
    "fuzz": Task(["-m", "tools.fuzz", "{folder}"], r"Schemathesis, seed", 3),
    "fuzz:plain": Task(["-m", "tools.fuzz.plain"], r"Schemathesis without hooks", 3),
    "scaling": Task(["-m", "bench.scaling"], r"loaded in", 1),
    "soak": Task(["-m", "bench.load.soak"], r"loading for", 2),
}


def children() -> dict[int, list[int]]:
    """Return the child processes of each process (Linux)."""
    child_map: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # the process may end meanwhile
            text = entry.read_text("utf-8", "replace")
            parent = int(text.rpartition(") ")[2].split()[1])
            child_map.setdefault(parent, []).append(int(entry.parent.name))
    return child_map


def descendants(process: int) -> set[int]:
    """Return all descendants of a process."""
    child_map, pids, remaining = children(), set[int](), [process]
    while remaining:
        new = child_map.get(remaining.pop(), [])
        pids.update(new)
        remaining += new
    return pids


def is_running(process: int) -> bool:
    with suppress(OSError):
        state = Path(f"/proc/{process}/stat").read_text("utf-8", "replace").rpartition(") ")[2]
        return state[0] != "Z"
    return False


def processes_marked(directory: Path) -> set[int]:
    """Find processes whose environment or command line contains a directory."""
    return {
        int(entry.name)
        for entry in Path("/proc").glob("[0-9]*")
        if os.fsencode(directory) in content(entry / "environ") + content(entry / "cmdline")
    }


def content(path: Path) -> bytes:
    """Read a file in /proc; empty if its process has ended."""
    read = b""
    with suppress(OSError):
        read = path.read_bytes()
    return read


@contextmanager
def started(task: Task, **variables: str) -> Iterator[tuple[subprocess.Popen[bytes], set[int]]]:
    """Start a task below a runner, wait for its progress, and check that no process remains."""
    with tempfile.TemporaryDirectory(prefix="tasks-long-", ignore_cleanup_errors=True) as name:
        directory = Path(name)
        directory.chmod(0o755)
        arguments = [argument.format(folder=directory / "reports") for argument in task.arguments]
        output = directory / "shown"
        with output.open("wb") as out:
            runner = subprocess.Popen(
                [sys.executable, "-c", RUNNER, sys.executable, *arguments],
                cwd=ROOT,
                env={**os.environ, "TMPDIR": name, "SOAK_SECONDS": "600", **variables},
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        running_processes = set[int]()
        try:
            eventually(lambda: re.search(task.progress, output.read_text("utf-8")), SECONDS)
            eventually(lambda: len(descendants(runner.pid)) > task.programs, SECONDS)
            running_processes = descendants(runner.pid)
            yield runner, running_processes
            remaining = running_processes | {runner.pid}
            eventually(
                lambda: not any(map(is_running, remaining)) and not processes_marked(directory),
                SECONDS,
            )
        except BaseException:  # pragma: no cover - output of the task if the test fails
            print(output.read_text("utf-8"))  # noqa: T201
            raise
        finally:
            for process in running_processes | processes_marked(directory) | {runner.pid}:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            runner.wait()


def python_of(runner: subprocess.Popen[bytes]) -> int:
    """Return the process of the task."""
    (process,) = children()[runner.pid]
    return process


@pytest.mark.parametrize("name", TASKS)
def test_terminated_task_stops_what_it_started(name: str) -> None:
    with started(TASKS[name]) as (runner, _):
        process = python_of(runner)
        for _ in range(3):  # later signals do not interrupt the first stop
            os.kill(process, signal.SIGTERM)
        runner.wait(SECONDS)


def test_killed_task_leaves_no_process() -> None:
    with started(BENCH_ARGUMENTS) as (runner, _):
        os.kill(python_of(runner), signal.SIGKILL)
        runner.wait(SECONDS)


def test_task_stops_when_its_runner_is_killed() -> None:
    with started(BENCH_ARGUMENTS) as (runner, running_processes):
        runner.kill()
        runner.wait(SECONDS)
        assert len(running_processes) > BENCH_ARGUMENTS.programs


def test_task_without_a_runner_ends_with_its_own_status() -> None:
    code = "from tests.support.long_task import run; run(lambda: 3)"
    environ = {name: value for name, value in os.environ.items() if name != "STOP_WITH_PARENT"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environ, check=False)
    assert done.returncode == 3
