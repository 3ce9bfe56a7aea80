"""Which tests a mutant meets, and in which order: those that run its lines, the likeliest first."""

from __future__ import annotations

import ast
import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import coverage
import msgspec

from tests.mutation.uses import Uses

# Parts of the time of the whole suite, on the same machine under the same load: what one test may
# take to be asked about mutants at all, what all tests of one mutant may take, and the first ones.
SLOW, BUDGET, FIRST, CHEAP = 0.01, 0.1, 0.003, 0.00002
FIRST_FILES = 4
# What looks at all declarations at once; declarations run at import.
OF_DECLARATIONS = (
    "tests/contract/test_derived.py::test_contract_and_code_do_not_differ",
    "tests/unit/test_architecture.py::test_no_struct_can_be_changed",
)
_MIGRATIONS = "tests/integration/test_migrations.py"
OF_MODELS = (f"{_MIGRATIONS}::test_the_models_make_the_schema_that_the_migrations_make",)


class Map(msgspec.Struct):
    """What one run of the suite told: the tests of each line, their time, and who starts processes.

    A line that runs at import has the test "", one that runs for a session's fixture "session".
    """

    lines: dict[str, dict[int, set[str]]]
    seconds: dict[str, float]
    starters: set[str]
    total: float
    importers: dict[str, set[str]] = {}  # the files of tests that import a module by name
    uses: Uses | None = None

    @classmethod
    def read(cls, folder: Path, root: Path) -> Map:
        """Join what the processes of the run have written."""
        lines: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
        seconds: dict[str, float] = {}
        starters: set[str] = set()
        for file in folder.glob("lines.*"):
            data = coverage.CoverageData(str(file))
            data.read()
            for module in data.measured_files():
                name = Path(module).relative_to(root).as_posix()
                for line, tests in data.contexts_by_lineno(module).items():
                    lines[name][line].update(tests)
        for file in folder.glob("tests.*.json"):
            noted = json.loads(file.read_text("utf-8"))
            seconds |= noted["seconds"]
            starters |= set(noted["starters"])
        return cls(
            dict(lines), seconds, starters, sum(seconds.values()), _importers(root), Uses.of(root)
        )

    def without_slow(self) -> Map:
        """Without the tests that cost too much to be asked about each mutant."""
        limit = SLOW * self.total
        return self._with({test: took for test, took in self.seconds.items() if took <= limit})

    def only(self, folder: str) -> Map:
        """With the tests below a folder alone."""
        seconds = self.seconds.items()
        return self._with({test: took for test, took in seconds if test.startswith(folder)})

    def _with(self, seconds: dict[str, float]) -> Map:
        return Map(
            self.lines,
            seconds,
            self.starters & seconds.keys(),
            self.total,
            self.importers,
            self.uses,
        )

    def at_import(self, module: str, first: int, last: int) -> bool:
        """Whether one of these lines runs before any test does."""
        noted = self.lines.get(module, {})
        tests = [noted.get(line, set()) for line in range(first, last + 1)]
        return not any(tests) or any("" in some for some in tests)

    def of(self, module: str, first: int, last: int) -> tuple[set[str], set[str], set[str]]:
        """The tests that run these lines, those that use what they define, and those that may."""
        noted = self.lines.get(module, {})
        tests = set[str]().union(*(noted.get(line, ()) for line in range(first, last + 1)))
        near = set[str]().union(*noted.values())
        reached = self.uses.reached(module, first, last) if self.uses else ()
        used = set[str]().union(*(self.lines.get(at, {}).get(line, ()) for at, line in reached))
        shared = not tests or tests & {"", "session"}
        # What is kept after its first use runs for one test and serves the others of its module.
        others = near | (self.seconds.keys() if shared else self.starters)
        known = set(self.seconds)
        return tests & known, (used - tests) & known, (others - used - tests) & known


def _importers(root: Path) -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for file in root.glob("tests/**/test_*.py"):
        for node in ast.parse(file.read_text("utf-8")).body:
            names = [alias.name for alias in getattr(node, "names", ())]
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}", *(f"{node.module}.{name}" for name in names)]
            for name in names:
                found[name.replace(".", "/") + ".py"].add(file.relative_to(root).as_posix())
    return dict(found)


def in_order(tests: Iterable[str], seconds: dict[str, float], near: Collection[str]) -> list[str]:
    """One case of each test function first, those that know the module before the others."""
    groups: dict[str, list[str]] = defaultdict(list)
    for test in sorted(tests, key=lambda test: (seconds[test], test)):
        groups[test.partition("[")[0]].append(test)
    ranked = [
        (test not in near, rank // 3, seconds[test], test)
        for group in groups.values()
        for rank, test in enumerate(group)
    ]
    return [test for *_, test in sorted(ranked)]


def stages(
    known: Map, module: str, span: tuple[int, int], killers: Sequence[str], budget: float = BUDGET
) -> list[dict[str, Any]]:
    """As many tests as the budget allows; first those of few files, where each must be imported."""
    own, used, others = known.of(module, *span)
    near = set[str]().union(*known.lines.get(module, {}).values())
    eligible = own | used | others
    files = known.importers.get(module, set())
    cheap = CHEAP * known.total
    likely = {
        test
        for test in used | others
        if test.partition("::")[0] in files or known.seconds[test] <= cheap
    }
    if not own | used:  # it runs at import, or in the processes that some tests start
        likely |= eligible & known.starters
    name, package = Path(module).stem, Path(module).parent.name
    names = (f"/test_{name}.py", f"/test_{package}.py", f"/test_{package}_")
    named = {test for test in eligible if any(each in test for each in names)}
    groups = (own & named, own, named, likely, used - likely, others - likely)
    ordered = [test for group in groups for test in in_order(group, known.seconds, near)]
    early = known.at_import(module, *span)
    of_all = OF_MODELS if name == "models" else OF_DECLARATIONS
    likeliest = [*killers, *(of_all if early else ())]
    ordered = list(dict.fromkeys([*(test for test in likeliest if test in eligible), *ordered]))
    rest = _within(ordered, known.seconds, budget * known.total)
    if not early:
        return [_stage(rest, known)]
    places = list(dict.fromkeys(test.partition("::")[0] for test in ordered))[:FIRST_FILES]
    near_by = [test for test in ordered if test.partition("::")[0] in places]
    first = _within(near_by, known.seconds, FIRST * known.total)
    return [_stage(tests, known) for tests in (first, [t for t in rest if t not in first]) if tests]


def _within(tests: Iterable[str], seconds: dict[str, float], limit: float) -> list[str]:
    """The tests, one after the other, that the time suffices for."""
    kept = []
    for test in tests:
        if seconds[test] <= limit:
            limit -= seconds[test]
            kept.append(test)
    return kept


def _stage(tests: list[str], known: Map) -> dict[str, Any]:
    seconds = [round(known.seconds[test], 2) for test in tests]
    return {"tests": tests, "seconds": seconds, "limit": 30 + 4 * sum(seconds)}
