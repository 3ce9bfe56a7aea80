"""The runner of `task mutants`: what it makes, chooses, judges and counts."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.mutation import noticed
from tests.mutation.mutants import Mutant, mutants_of
from tests.mutation.operators import pattern_mutants
from tests.mutation.score import Equivalents, Score, percent
from tests.mutation.selection import Map, in_order, stages
from tests.mutation.uses import Uses

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.requirement("NFR-014")

CODE = '''\
"""A docstring."""
import sys
from typing import Annotated
LIMIT = 3
if sys.platform == "win32":  # pragma: no cover - no Windows to run the tests on
    LIMIT = 4
def allowed(size: int, name: "str | None" = None) -> bool:
    """Whether it is."""
    if name:
        raise ValueError(name)
    return size <= LIMIT
'''


def made_of(folder: Path, code: str) -> tuple[set[tuple[str, str]], Counter[str]]:
    file = folder / "rule.py"
    file.write_text(code, "utf-8")
    found, left_out = mutants_of(file, "app/rule.py")
    return {(mutant.before, mutant.after) for mutant in found}, left_out


def test_statements_conditions_limits_and_module_level_code_are_changed(tmp_path: Path) -> None:
    made, _ = made_of(tmp_path, CODE)

    assert made == {
        ("LIMIT = 3", "LIMIT = None"),
        ("LIMIT = 3", "LIMIT = 4"),
        ("if name:", "if not (name):"),
        ("raise ValueError(name)", "raise ValueError(None)"),
        ("raise ValueError(name)", "pass"),
        ("return size <= LIMIT", "return None"),
        ("return size <= LIMIT", "return size < LIMIT"),
    }


def test_what_no_test_could_notice_is_left_out_and_counted(tmp_path: Path) -> None:
    _, left_out = made_of(tmp_path, CODE)

    assert {reason.split(",")[0]: count for reason, count in left_out.items()} == {
        "an annotation": 1,
        "tells Windows from the rest": 3,
        "runs on Windows alone": 2,
    }


@pytest.mark.parametrize(
    ("code", "others"),
    [
        ('T = TypeVar("T", bound=A)', {"T = None"}),
        ('cast("A", b)', {"pass", 'cast("A", None)'}),
    ],
)
def test_what_type_checkers_read_is_left_out(tmp_path: Path, code: str, others: set[str]) -> None:
    made, _ = made_of(tmp_path, f"{code}\n")

    assert made == {(code, other) for other in others}


def test_the_limits_in_an_annotation_are_changed(tmp_path: Path) -> None:
    made, _ = made_of(tmp_path, "class A:\n    a: Annotated[int, Meta(ge=1)] = 2\n")

    assert ("a: Annotated[int, Meta(ge=1)] = 2", "a: Annotated[int, Meta(ge=2)] = 2") in made


def test_a_sentence_is_changed_once(tmp_path: Path) -> None:
    made, _ = made_of(tmp_path, 'raise Fault("is not valid")\n')

    assert made == {
        ('raise Fault("is not valid")', 'raise Fault("XXis not validXX")'),
        ('raise Fault("is not valid")', "raise Fault(None)"),
        ('raise Fault("is not valid")', "pass"),
    }


def test_decorators_and_exceptions_caught_together_are_left_away(tmp_path: Path) -> None:
    made, _ = made_of(
        tmp_path, "@cache\ndef f():\n    try:\n        g()\n    except (A, B):\n        pass\n"
    )

    assert made == {
        ("@cache", ""),
        ("g()", "pass"),
        ("except (A, B):", "except (B,):"),
        ("except (A, B):", "except (A,):"),
    }


@pytest.mark.parametrize(
    ("pattern", "mutants"),
    [
        ("^a+", ["a+", "^a*"]),
        ("[^b]?", ["[b]?", "[^b]"]),
        ("[a-c]{2,3}", ["[b-c]{2,3}", "[a-b]{2,3}", "[a-c]{3,3}", "[a-c]{2,4}"]),
        (r"(a|b)\Z", [r"(ab)\Z", "(a|b)"]),
        (r"\*(?:x)", []),
    ],
)
def test_each_part_of_a_pattern_is_changed(pattern: str, mutants: list[str]) -> None:
    assert list(pattern_mutants(pattern)) == mutants


def map_of(lines: dict[int, set[str]], **seconds: float) -> Map:
    return Map({"app/rule.py": lines}, seconds, set(), 1000)


def chosen(known: Map, line: int, *killers: str) -> list[list[str]]:
    return [stage["tests"] for stage in stages(known, "app/rule.py", (line, line), killers)]


def test_a_line_meets_the_tests_that_run_it_before_those_of_its_module() -> None:
    known = map_of({1: {"a"}, 2: {"b"}}, a=1, b=1, c=1)

    assert chosen(known, 2) == [["b", "a"]]


def test_a_line_that_runs_at_import_meets_all_tests_and_its_modules_before_the_others() -> None:
    known = map_of({1: {""}, 2: {"b"}}, a=0.1, b=0.2, c=0.3)

    assert chosen(known, 1) == [["b", "a", "c"]]


def test_a_line_meets_the_tests_that_start_processes_last() -> None:
    known = Map({"app/rule.py": {1: {"b"}}}, {"a": 1, "b": 2}, {"a"}, 1000)

    assert chosen(known, 1) == [["b", "a"]]


def test_tests_that_import_a_constants_module_are_asked_first() -> None:
    known = map_of({2: {"b"}}, **{"a": 0.1, "b": 0.1, "z/c.py::1": 0.2})
    known.importers["app/rule.py"] = {"z/c.py"}

    assert chosen(known, 1) == [["z/c.py::1", "b", "a"]]


USED = """\
LIMIT = 3
NAMES = {"a": LIMIT}
class Rule:
    most: int = LIMIT
def allowed(size):
    return size in NAMES
"""


def test_the_lines_that_depend_on_a_name_are_found_through_other_names() -> None:
    uses = Uses({"app/rule.py": USED, "app/other.py": "def f(rule):\n    return rule.Rule\n"})

    assert uses.reached("app/rule.py", 1, 1) == {("app/rule.py", 6), ("app/other.py", 2)}
    assert uses.reached("app/rule.py", 2, 2) == {("app/rule.py", 6)}
    assert uses.reached("app/rule.py", 4, 4) == {("app/other.py", 2)}
    assert uses.reached("app/rule.py", 6, 6) == set()


def test_a_name_meets_the_tests_of_the_lines_that_depend_on_it() -> None:
    known = map_of({1: {""}, 6: {"b"}}, a=0.1, b=0.2)
    known.uses = Uses({"app/rule.py": USED})

    assert chosen(known, 1) == [["b", "a"]]


def test_what_noticed_the_last_mutants_goes_first() -> None:
    known = map_of({1: {"a", "b", "c"}}, a=1, b=2, c=3)

    assert chosen(known, 1, "c", "elsewhere") == [["c", "a", "b"]]


def test_more_than_the_budget_is_not_asked() -> None:
    seconds = {"a": 1.0, "b": 99.0, "c": 1.0}
    known = map_of({1: {*seconds}}, **seconds)

    assert chosen(known, 1) == [["a", "c"]]


def test_where_tests_must_be_imported_few_files_come_first() -> None:
    seconds = {f"{file}::1": 1.0 for file in "abcde"}
    known = map_of({1: {""}, 2: {*seconds}}, **seconds)

    assert chosen(known, 1) == [["a::1", "b::1", "c::1"], ["d::1", "e::1"]]


def test_one_case_of_each_function_goes_before_the_others() -> None:
    seconds = {f"a[{case}]": case for case in range(5)} | {"b": 9.0}

    assert in_order(seconds, seconds, seconds) == ["a[0]", "a[1]", "a[2]", "b", "a[3]", "a[4]"]


def test_slow_tests_and_those_of_other_folders_are_left_out() -> None:
    known = map_of({1: {"x/a", "x/b", "y/a"}}, **{"x/a": 1, "x/b": 99, "y/a": 1})

    assert chosen(known.without_slow().only("x/"), 1) == [["x/a"]]


def test_the_map_joins_what_the_processes_of_a_run_wrote(tmp_path: Path) -> None:
    for number, test in enumerate(["a", "b"]):
        noted = {"seconds": {test: 1.0}, "starters": [test]}
        (tmp_path / f"tests.gw{number}.json").write_text(json.dumps(noted), "utf-8")

    file = tmp_path / "tests" / "unit" / "test_rule.py"
    file.parent.mkdir(parents=True)
    file.write_text("import json\nfrom app.tasks import rule\nfrom app.core import Core\n", "utf-8")

    known = Map.read(tmp_path, tmp_path)

    assert (known.seconds, known.starters, known.total) == ({"a": 1, "b": 1}, {"a", "b"}, 2)
    assert known.importers["app/tasks/rule.py"] == {"tests/unit/test_rule.py"}
    assert known.importers["app/core.py"] == {"tests/unit/test_rule.py"}


PROJECT = {
    "rule.py": "def allowed(size):\n    limit = 3\n    return size <= limit\n",
    "checks/test_rule.py": """\
import rule
def test_it():
    assert rule.allowed(3) is True
    assert rule.allowed(4) is False
""",
}
JUDGE = """
import json, sys
from tests.mutation.worker import judge
for number, line in enumerate(sys.stdin, 1):
    print(json.dumps(judge(json.loads(line), number)))
"""


def judged(folder: Path, *lines: str, limit: float = 60) -> list[dict[str, Any]]:
    """What the worker says of changes of the rule's last line."""
    (folder / "checks").mkdir()
    for name, text in PROJECT.items():
        (folder / name).write_text(text, "utf-8")
    stage = {"tests": ["checks/test_rule.py::test_it"], "seconds": [0.0], "limit": limit}
    tasks = [
        {"module": "rule.py", "code": PROJECT["rule.py"].replace("size <= limit", line)}
        | {"stages": [stage]}
        for line in lines
    ]
    done = subprocess.run(
        [sys.executable, "-c", JUDGE],
        cwd=folder,
        env={"PYTHONPATH": f"{ROOT}:{folder}"},
        input="\n".join(map(json.dumps, tasks)),
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_planted_mutant_is_killed_and_a_planted_equivalent_one_survives(tmp_path: Path) -> None:
    killed, survived, crash = judged(tmp_path, "size < limit", "not size > limit", "exit(size)")

    assert (killed["verdict"], killed["detail"]) == ("killed", "checks/test_rule.py::test_it")
    assert (survived["verdict"], survived["detail"]) == ("survived", "")
    assert crash["verdict"] == "killed"


def test_a_mutant_that_hangs_is_told_apart(tmp_path: Path) -> None:
    (hangs,) = judged(tmp_path, "__import__('time').sleep(60)", limit=2)

    assert hangs["verdict"] == "timeout"
    assert (tmp_path / "rule.py").read_text("utf-8") == PROJECT["rule.py"]


def mutant(after: str, module: str = "app/rule.py") -> Mutant:
    return Mutant(module, "operator_number", 1, 1, "LIMIT = 3", after, "")


def test_what_was_noticed_is_known_wherever_it_moves(tmp_path: Path) -> None:
    file = tmp_path / "noticed.txt"
    first, second, late = mutant("LIMIT = 4"), mutant("LIMIT = 4")._replace(first=7), mutant("pass")
    verdicts = {first.place: "survived", second.place: "killed", late.place: "timeout"}
    noticed.write([first, second, late], verdicts, file)

    moved = [each._replace(first=each.first + 20) for each in (first, second, late)]
    others = [mutant("LIMIT = 5"), mutant("pass", "app/other.py")]

    assert noticed.read([*moved, *others], file) == {
        moved[1].place: "killed",
        moved[2].place: "timeout",
    }


def test_what_was_noticed_is_kept_by_module(tmp_path: Path) -> None:
    file = tmp_path / "noticed.txt"
    many = [mutant(f"LIMIT = {number}") for number in range(4, 20)]
    noticed.write(many, {each.place: "killed" for each in many}, file)

    heading, *lines = file.read_text("utf-8").splitlines()
    assert heading == "app/rule.py killed"
    assert sorted(" ".join(lines).split()) == sorted(noticed.digests(many).values())
    assert max(map(len, lines)) <= 100


def test_a_timeout_counts_as_noticed_and_an_equivalent_mutant_not_at_all() -> None:
    assert percent(Counter(killed=18, timeout=1, survived=1, equivalent=80)) == 95


@pytest.mark.parametrize(("survivors", "fails"), [(5, False), (6, True)])
def test_the_score_decides(survivors: int, *, fails: bool) -> None:
    mutants = [mutant(f"LIMIT = {number}") for number in range(100)]
    verdicts = {
        each.place: "survived" if number < survivors else "killed"
        for number, each in enumerate(mutants)
    }

    assert Score.of(mutants, verdicts, Equivalents({}), Counter()).fails() is fails


def test_a_score_with_mutants_that_were_not_judged_is_none() -> None:
    score = Score.of([mutant("LIMIT = 4")], {}, Equivalents({}), Counter())

    assert score.total == {"not judged": 1}
    assert score.fails()


def test_an_entry_that_no_mutant_has_any_more_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "equivalents.toml"
    file.write_text(
        "[[equivalent]]\nmodule = 'app/rule.py'\nbefore = 'LIMIT = 3'\n"
        "after = ['LIMIT = 4', 'LIMIT = 5']\nreason = 'nobody asks'\n",
        "utf-8",
    )
    known = Equivalents.read(file)
    mutants = [mutant("LIMIT = 4")]

    score = Score.of(mutants, {}, known, Counter())

    assert score.stale == [("app/rule.py", "LIMIT = 3", "LIMIT = 5")]
    assert score.fails()
    assert score.text().endswith(
        "no such mutant any more:\n  app/rule.py\n  LIMIT = 3\n  LIMIT = 5"
    )


def test_survivors_and_reasons_are_told() -> None:
    mutants = [mutant("LIMIT = 4"), mutant("LIMIT = None")]
    known = Equivalents({mutants[1].key: "Nobody asks."})
    verdicts = {mutants[0].place: "survived"}

    score = Score.of(mutants, verdicts, known, Counter({"a reason": 2}))

    told = score.document("Today.")
    assert "\nToday.\n" in told
    assert "| `app/rule.py` | 0.0 % | 0 | 0 | 1 | 1 | 0 |\n" in told
    assert "\n- 2 not made: a reason\n" in told
    assert "app/rule.py, line 1, operator_number\n- LIMIT = 3\n+ LIMIT = 4\n" in told
    assert told.endswith(
        "`app/rule.py`: Nobody asks.\n\n```diff\n- LIMIT = 3\n+ LIMIT = None\n```\n"
    )
    assert "survived app/rule.py, line 1" in score.text()


def test_entries_of_modules_that_were_not_looked_at_are_not_stale() -> None:
    known = Equivalents({("app/other.py", "a", "b"): "nobody asks"})

    assert known.stale([mutant("LIMIT = 4")]) == []
    assert known.only([mutant("LIMIT = 4")]) == Equivalents({})


def test_the_worker_has_imported_nothing_of_the_service() -> None:
    told = "import sys, tests.mutation.worker; print(*sys.modules)"
    words = [sys.executable, "-c", told]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)

    assert [name for name in done.stdout.split() if name.partition(".")[0] == "app"] == []
