"""A warm process that runs chosen tests against one mutant after the other, each in a fork.

It has imported every library and nothing of `app`, so a mutant costs the import of the service
and of the tests that it meets, and no more. Tasks come as lines of JSON; so do the verdicts go.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any

import asyncpg
import pytest

from tests.mutation.swap import Functions, Swap, swaps
from tests.support.processes import processes_of

QUIET = ["-x", "-q", "--no-header", "--tb=no", "-p", "no:cacheprovider"]
QUIET += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # the libraries are there already
RESIDENTS: set[int] = set()  # the processes that stay from mutant to mutant
KILLED, SURVIVED, TIMEOUT, NOT_HERE = "killed", "survived", "timeout", "not here"
PASSED = {pytest.ExitCode.OK}
FOUND = {pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED, pytest.ExitCode.USAGE_ERROR}
CLEAN = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = 'tasks' AND pid <> pg_backend_pid()
"""


# What each test of the mutant at hand takes, and what it may take: some mutants wait for ever.
EXPECTED: dict[str, float] = {}
RUNNING: list[str] = []  # the tests that were given their time; the last one is under way
STALLED_SECONDS, STALLED_TIMES = 15, 10


def allow(test: str) -> None:
    """Start the time that a test may take; `in_fork` ends the process when it is over."""
    RUNNING.append(test)
    seconds = STALLED_SECONDS + STALLED_TIMES * EXPECTED.get(test, 0.0)
    signal.setitimer(signal.ITIMER_REAL, seconds)


class Chosen:
    """A plugin that keeps the chosen tests, in the order in which they were chosen."""

    def __init__(self, tests: Sequence[str]) -> None:
        self.place = {test: i for i, test in enumerate(tests)}
        self.killer = ""

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Keep and sort."""
        items[:] = sorted(
            (item for item in items if item.nodeid in self.place),
            key=lambda item: self.place[item.nodeid],
        )

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Give it its time."""
        allow(nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Remember who noticed."""
        if report.failed:
            self.killer = self.killer or report.nodeid


def in_fork(work: Callable[[], str], seconds: float, folder: Path) -> tuple[str, str]:
    """What some work in a child process prints: its verdict, and what it says beside."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        os.close(reader)

        def give_up(*_: object) -> None:
            os.write(writer, " ".join([TIMEOUT, *RUNNING[-1:]]).encode())
            os._exit(0)

        signal.signal(signal.SIGALRM, give_up)
        os.dup2(os.open(os.devnull, os.O_RDWR), 1)
        with contextlib.suppress(BaseException):
            os.write(writer, work().encode())
        os._exit(0)
    os.close(writer)
    timed_out = not _ends(child, seconds)
    for number in (signal.SIGINT, signal.SIGKILL) if timed_out else ():
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)
        if number == signal.SIGKILL or _ends(child, 3):
            break
    _reap(child)
    for left in processes_of(folder) - {os.getpid(), os.getppid()} - RESIDENTS:
        with contextlib.suppress(ProcessLookupError):
            os.kill(left, signal.SIGKILL)
    with os.fdopen(reader, "rb") as said:
        os.set_blocking(reader, False)
        verdict, _, rest = (said.read() or b"").decode().partition(" ")
    return (TIMEOUT, "") if timed_out else (verdict or KILLED, rest)  # a crash is a kill


def _ends(child: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return True
        time.sleep(0.005)
    return False


def _reap(child: int) -> None:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(child, 0)


def run_tests(tests: Sequence[str]) -> str:
    """Run them until one fails; the verdict and the test that failed."""
    chosen = Chosen(tests)
    files = list(dict.fromkeys(test.partition("::")[0] for test in tests))
    code = pytest.main([*files, *QUIET], plugins=[chosen])
    if code in PASSED:
        return f"{SURVIVED} "
    if code in FOUND:
        return f"{KILLED} {chosen.killer or 'at import'}"
    return f"error pytest ended with {code}"


def warm_up(folder: Path) -> None:
    """Import all that the tests import, but neither the service nor the tests."""
    names = folder / "modules.json"

    def collect() -> str:
        pytest.main(["--collect-only", *QUIET])
        names.write_text(json.dumps(list(sys.modules)), "utf-8")
        return ""

    in_fork(collect, 300, folder / "nowhere")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in json.loads(names.read_text("utf-8")):
            if name.partition(".")[0] not in {"app", "tests", "conftest"}:
                with contextlib.suppress(ImportError):
                    importlib.import_module(name)
    early = [name for name in sys.modules if name.partition(".")[0] == "app"]
    if early:
        sys.exit(f"no mutant of these would be met, as they are imported already: {early}")
    gc.collect()
    gc.freeze()


async def empty(url: str) -> None:
    """Forget what the last mutant left in the database."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(CLEAN)
        await connection.execute("TRUNCATE tasks, idempotency_keys")
    finally:
        await connection.close()


@contextlib.contextmanager
def mutated(path: Path, code: str, number: int) -> Iterator[None]:
    """The module's file with this code, and with a time of its own, by which caches know it."""
    original = path.read_bytes()
    now = int(time.time())
    path.write_text(code, "utf-8")
    os.utime(path, (now, now + 2 * number))
    try:
        yield
    finally:
        path.write_bytes(original)
        os.utime(path, (now, now + 2 * number + 1))


def judge(
    task: dict[str, Any], number: int, run: Callable[[Sequence[str]], str] = run_tests
) -> dict[str, Any]:
    """Run a mutant's stages of tests until one of them notices it."""
    folder = Path.cwd()
    started = time.monotonic()
    verdict, detail = SURVIVED, ""
    with mutated(folder / task["module"], task["code"], number):
        for stage in task["stages"]:
            EXPECTED.update(zip(stage["tests"], stage["seconds"], strict=True))
            verdict, detail = in_fork(partial(run, stage["tests"]), stage["limit"], folder)
            if verdict != SURVIVED:
                break
    took = round(time.monotonic() - started, 2)
    return {"verdict": verdict, "detail": detail, "seconds": took}


class Resident:
    """A plugin that has collected every test once, and runs some of them for each mutant.

    Nothing is imported for a mutant here: it is put into the functions that are there already.
    """

    def __init__(self, reader: IO[str], writer: IO[str]) -> None:
        self._reader = reader
        self._writer = writer
        self._killer = ""

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Judge mutants in place of running the tests."""
        self._items = {item.nodeid: item for item in session.items}
        functions = Functions()
        gc.collect()
        gc.freeze()
        for line in self._reader:
            number, task = json.loads(line)
            path = Path.cwd() / task["module"]
            pairs = swaps(path.read_text("utf-8"), task["code"], str(path))
            answer: dict[str, Any] = {"verdict": NOT_HERE}
            if pairs is not None and functions.know(pairs):
                answer = judge(task, number, partial(self._run, functions, pairs))
            print(json.dumps(answer), file=self._writer, flush=True)
        return True

    def _run(self, functions: Functions, pairs: list[Swap], tests: Sequence[str]) -> str:
        functions.swap(pairs)
        items = [self._items[test] for test in tests if test in self._items]
        for item, after in zip(items, [*items[1:], None], strict=True):
            allow(item.nodeid)
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=after)
            if self._killer:
                return f"{KILLED} {self._killer}"
        return f"{SURVIVED} "

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Remember who noticed."""
        if report.failed:
            self._killer = report.nodeid


class Hot:
    """The process with the resident, asked over pipes."""

    def __init__(self) -> None:
        task_reader, task_writer = os.pipe()
        answer_reader, answer_writer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            RESIDENTS.add(os.getppid())
            os.close(task_writer)
            os.dup2(os.open(os.devnull, os.O_RDWR), 0)
            os.dup2(2, 1)
            resident = Resident(os.fdopen(task_reader), os.fdopen(answer_writer, "w"))
            pytest.main([option for option in QUIET if option != "-x"], plugins=[resident])
            os._exit(0)
        os.close(task_reader)
        os.close(answer_writer)
        RESIDENTS.add(self.pid)
        self._tasks = os.fdopen(task_writer, "w")
        self._answers = os.fdopen(answer_reader)

    def judge(self, number: int, task: dict[str, Any]) -> dict[str, Any]:
        """The verdict, or that the mutant cannot be judged there."""
        if task["at_import"]:
            return {"verdict": NOT_HERE}
        print(json.dumps([number, task]), file=self._tasks, flush=True)
        answer: dict[str, Any] = json.loads(self._answers.readline())
        return answer

    def stop(self) -> None:
        """Let it end."""
        self._tasks.close()
        os.waitpid(self.pid, 0)


def main() -> None:
    """Work until there is nothing more to read."""
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.mutation.server"],
        cwd=sys.argv[1],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout
    url = server.stdout.readline().strip()
    os.environ["TEST_SERVER_URL"] = url
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    warm_up(Path.cwd())
    with tempfile.TemporaryDirectory() as folder:
        # A process that is cut off leaves its files: whoever is next removes them.
        QUIET.append(f"--basetemp={folder}/pytest")
        hot = Hot()
        print(json.dumps({"ready": True}), flush=True)
        for number, line in enumerate(sys.stdin, 1):
            task = json.loads(line)
            asyncio.run(empty(url))
            answer = hot.judge(number, task)
            if answer["verdict"] == NOT_HERE:
                answer = judge(task, number) | {"cold": True}
            print(json.dumps(answer), flush=True)
        hot.stop()
    server.communicate()


if __name__ == "__main__":
    main()
