"""`task mutants`: change the code in each way that is worth it, and see that a test notices."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict, deque
from pathlib import Path
from typing import Any

from tests.mutation import noticed
from tests.mutation.mutants import Mutant, Place, mutants_of
from tests.mutation.score import Equivalents, Score
from tests.mutation.selection import BUDGET, Map, stages
from tests.mutation.session import Session

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "reports" / "mutation"
DOCUMENT = ROOT / "specs/phase-II/001-core-backend/checklist/mutants.md"
STATE = ("app/", "migrations/", "openapi.yaml", "pyproject.toml", "tests/")
ALL_TESTS = "tests/"
MAP_SECONDS = 1800
TRUSTED_SECONDS = 2.0  # a test that takes longer may fail for want of time


def files() -> list[str]:
    """Every file of the project, those included that no commit has yet."""
    words = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    return sorted(name for name in listed.stdout.splitlines() if (ROOT / name).is_file())


def tree_of(names: list[str]) -> str:
    """A name for this state of the code and the tests."""
    state = hashlib.sha256()
    for name in names:
        if name.startswith(STATE) and not name.startswith("tests/mutation/"):
            state.update(name.encode() + b"\0" + (ROOT / name).read_bytes())
    return state.hexdigest()[:16]


def suite_map(tree: str) -> Map:
    """Which tests run which lines: from one run of the suite for each state of the tree."""
    folder = FOLDER / f"map-{tree}"
    if not (folder / "done").exists():
        print("Running the suite once, to see which test runs which line ...", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        words = [sys.executable, "-m", "pytest", "-q", "-n", "2", "-p", "tests.mutation.contexts"]
        # The one takes long, the other measures time.
        slow = ["tests/contract/test_fuzz.py", "tests/integration/test_latency.py"]
        environment = {**os.environ, "MUTATION_MAP": str(folder)}
        run = subprocess.run(
            [*words, *(f"--deselect={name}" for name in slow)],
            cwd=ROOT,
            env=environment,
            check=False,
            timeout=MAP_SECONDS,
        )
        if run.returncode not in {0, 1}:
            sys.exit(f"The suite did not run: pytest ended with {run.returncode}.")
        if run.returncode:
            print("What failed cannot notice a mutant, and is not asked.", flush=True)
        (folder / "done").touch()
    return Map.read(folder, ROOT)


class Worker:
    """A warm process with a copy of the tree of its own."""

    def __init__(self, number: int, names: list[str]) -> None:
        folder = FOLDER / f"copy-{number}"
        shutil.rmtree(folder, ignore_errors=True)
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
        self._log = (FOLDER / f"worker-{number}.log").open("wb")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.mutation.worker", str(ROOT)],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    def ask(self, task: dict[str, Any] | None) -> dict[str, Any]:
        """Its answer to a task; None waits until it is warm."""
        assert self._process.stdin
        assert self._process.stdout
        if task is not None:
            print(json.dumps(task), file=self._process.stdin, flush=True)
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def stop(self) -> None:
        """Let it end its server and itself."""
        self._process.communicate()
        self._log.close()


class Run:
    """Mutants without a verdict, shared among the workers."""

    def __init__(self, waiting: list[Mutant], known: Map, session: Session, budget: float) -> None:
        self._budget = budget
        self._waiting = deque(waiting)
        self._known = known
        self._session = session
        self._lock = threading.Lock()
        self._trusted: set[tuple[str, bool]] = set()
        self._killers: dict[str, deque[str]] = defaultdict(lambda: deque(maxlen=8))
        for module, test in session.killers():
            self._remember(module, test)
        self.started = time.monotonic()
        self.count = Counter[str]()

    def _remember(self, module: str, test: str) -> None:
        killers = self._killers[module]
        if test in self._known.seconds:
            if test in killers:
                killers.remove(test)
            killers.appendleft(test)

    def work(self, worker: Worker) -> None:
        """Judge until nothing waits."""
        worker.ask(None)
        while True:
            with self._lock:
                if not self._waiting:
                    break
                mutant = self._waiting.popleft()
                killers = list(self._killers[mutant.module])
            answer = self._judged(worker, mutant, killers)
            with self._lock:
                self._note(mutant, answer)
        worker.stop()

    def _judged(self, worker: Worker, mutant: Mutant, killers: list[str]) -> dict[str, Any]:
        """What a worker says, of tests that pass there without a mutant."""
        span = (mutant.first, mutant.last)
        early = self._known.at_import(mutant.module, *span)
        task = {"module": mutant.module, "code": mutant.code, "at_import": early}
        while True:
            chosen = stages(self._known, mutant.module, span, killers, self._budget)
            answer = worker.ask(task | {"stages": chosen})
            test = answer["detail"]
            took = self._known.seconds.get(test, 0.0)
            if test not in self._known.seconds or (test, early) in self._trusted:
                return answer
            same = {"code": (ROOT / mutant.module).read_text("utf-8")}
            alone = [{"tests": [test], "seconds": [took], "limit": 60 + 10 * took}]
            if worker.ask(task | same | {"stages": alone})["verdict"] == "survived":
                if took < TRUSTED_SECONDS:
                    self._trusted.add((test, early))
                return answer
            print(f"fails without a mutant, and is not asked any more: {test}", flush=True)
            # A new dictionary: the other worker may be reading the old one.
            self._known.seconds = {
                other: took for other, took in self._known.seconds.items() if other != test
            }

    def _note(self, mutant: Mutant, answer: dict[str, Any]) -> None:
        verdict = answer["verdict"]
        if verdict not in {"killed", "survived", "timeout"}:
            sys.exit(f"{mutant.key}: {answer}")
        self._session.note(mutant, verdict, answer["detail"], answer["seconds"])
        self._remember(mutant.module, answer["detail"])
        self.count[verdict] += 1
        if verdict == "survived":
            print(
                f"survived {mutant.module}:{mutant.first}\n- {mutant.before}\n+ {mutant.after}",
                flush=True,
            )
        if self.count.total() % 25 == 0:
            passed = time.monotonic() - self.started
            print(f"{dict(self.count)}, {len(self._waiting)} wait, {passed:.0f} s", flush=True)


def main() -> None:
    """Make the mutants, judge those without a verdict, and tell the score."""
    arguments = _arguments()
    FOLDER.mkdir(parents=True, exist_ok=True)
    names = files()
    tree = tree_of(names)
    mutants: list[Mutant] = []
    left_out = Counter[str]()
    for module in arguments.modules or [name for name in names if _is_code(name)]:
        found, reasons = mutants_of(ROOT / module, module)
        mutants += found
        left_out += reasons
    equivalents = Equivalents.read()
    if arguments.sample:
        mutants = random.Random(len(mutants)).sample(mutants, arguments.sample)  # noqa: S311
        equivalents = equivalents.only(mutants)
    session = Session(FOLDER / "session.sqlite", arguments.tests, tree)
    verdicts = _known(arguments, mutants, session)
    waiting = [m for m in mutants if m.place not in verdicts and m.key not in equivalents.reasons]
    print(f"{len(mutants)} mutants, {len(waiting)} without a verdict", flush=True)
    if waiting and not arguments.report:
        _judge(arguments, waiting, suite_map(tree), session)
    verdicts |= session.verdicts(any_tree=False)
    score = Score.of(mutants, verdicts, equivalents, left_out)
    print(score.text())
    if arguments.write:
        DOCUMENT.write_text(score.document(circumstances(arguments)), "utf-8")
        noticed.write(mutants, verdicts)
    sys.exit(score.fails())


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="task mutants --", description=__doc__)
    add = parser.add_argument
    add("modules", nargs="*", help="app/parameters.py and the like; all by default")
    add("--report", action="store_true", help="judge nothing, tell the latest")
    add("--again", action="store_true", help=f"believe other runs, and {noticed.FILE.name}")
    add("--tests", default=ALL_TESTS, help="the tests that count: tests/contract/")
    add("--sample", type=int, help="so many mutants, drawn by chance")
    add("--workers", type=int, default=2)
    written = f"{DOCUMENT.name} and {noticed.FILE.name}"
    add("--write", action="store_true", help=f"write {written}; for all modules and tests")
    add("--budget", type=float, default=BUDGET, help="of the suite's time, at most")
    arguments = parser.parse_args()
    in_part = arguments.modules or arguments.sample or arguments.tests != ALL_TESTS
    if arguments.write and in_part:
        parser.error("--write is for all modules and all tests")
    return arguments


def _known(
    arguments: argparse.Namespace, mutants: list[Mutant], session: Session
) -> dict[Place, str]:
    """The verdicts that are believed: this tree's, and what is asked for beside."""
    verdicts = session.verdicts(any_tree=False)
    if arguments.again or arguments.report:
        old = session.verdicts(any_tree=True).items()
        kept = {"killed", "timeout", "survived"} if arguments.report else {"killed", "timeout"}
        verdicts = {key: verdict for key, verdict in old if verdict in kept} | verdicts
        if arguments.tests == ALL_TESTS:
            verdicts = noticed.read(mutants) | verdicts
    return verdicts


def _judge(
    arguments: argparse.Namespace, waiting: list[Mutant], known: Map, session: Session
) -> None:
    known = known.without_slow().only(arguments.tests)
    # What is in functions is judged faster, and so tells sooner where tests are missing.
    waiting.sort(key=lambda each: known.at_import(each.module, each.first, each.last))
    run = Run(waiting, known, session, arguments.budget)
    workers = [Worker(number, files()) for number in range(arguments.workers)]
    threads = [threading.Thread(target=run.work, args=[worker]) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def circumstances(arguments: argparse.Namespace) -> str:
    """When, of what, and against which tests the score was made."""
    words = ["git", "log", "-1", "--format=%h, %cs"]
    commit = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    given = f"Tests of one mutant: at most {arguments.budget:.1%} of the suite's time."
    if arguments.again or arguments.report:
        given = (
            "Verdicts against earlier states of the code and the tests, with what part of the "
            "suite's time they had, are believed."
        )
    return f"Commit and its date: {commit.stdout.strip()}. Tests: `{arguments.tests}`. {given}"


def _is_code(name: str) -> bool:
    return name.startswith("app/") and name.endswith(".py")


if __name__ == "__main__":
    main()
