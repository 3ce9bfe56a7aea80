"""Measure and report how much of the contract a recorded run covered.

`hooks.py` records each exchange. The expected items are read from the contract. Some items require
a fault, a malformed byte stream or a plug-in. These are listed with the test that covers them, and
the totals are given with and without them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from tools.fuzz.exchanges import Exchange
from tools.fuzz.exercised import NEGATIVE, PARAMETERS, POSITIVE, RESPONSES, Item, Reader

COLUMNS = (PARAMETERS, POSITIVE, NEGATIVE, RESPONSES)
MIN_SHARE = 95  # percent
# Items that no request to a healthy service can cause, and the tests that cover them. A name is the
# first word of an item, after its operation if the item is unreachable only there.
ELSEWHERE = {
    "408": "tests/integration/http/test_slow_clients.py",
    "deleteUser 202": "tests/integration/users/test_delete_user.py",
    "createList 409": "tests/integration/lists/test_lists.py",
    "500": "tests/integration/db/test_database_faults.py",
    "503": "tests/integration/db/test_database_faults.py",
    "/problems/internal-error": "tests/integration/db/test_database_faults.py",
    "/problems/database-unavailable": "tests/integration/db/test_database_faults.py",
    "/problems/idempotency-key-in-use": "tests/integration/tasks/test_idempotency.py",
    "/problems/overloaded": "tests/integration/http/test_overload.py",
    "/problems/request-timeout": "tests/integration/http/test_slow_clients.py",
    "/problems/not-implemented": "tests/integration/http/test_framing.py",
    "/problems/not-ready": "tests/integration/http/test_health.py",
    "/problems/malformed-request": "tests/integration/http/test_raw_requests.py",
    "/problems/header-fields-too-large": "tests/integration/http/test_raw_requests.py",
    "about:blank": "tests/integration/http/test_plugins.py",
}


def covering_test(item: Item) -> str | None:
    """Return the test that covers an item of ELSEWHERE."""
    name = item.what.split()[0]
    return ELSEWHERE.get(name) or ELSEWHERE.get(f"{item.operation} {name}")


@dataclass(frozen=True)
class Coverage:
    """The expected items, and the phases that reached each one."""

    expected: set[Item]
    reached: dict[Item, set[str]]
    cases: Counter[str]
    requests: int
    """Number of distinct requests."""

    @property
    def elsewhere(self) -> set[Item]:
        """Return the missing items that other tests cover."""
        return {item for item in self.missing if covering_test(item)}

    @property
    def missing(self) -> set[Item]:
        return self.expected - self.reached.keys()

    def share(self, column: str, *, everything: bool) -> float:
        """Return the reached share of a column in percent."""
        expected = self.expected if everything else self.expected - self.elsewhere
        items = {item for item in expected if item.column == column}
        return 100 * len(items & self.reached.keys()) / len(items)

    @property
    def summary(self) -> str:
        shares = [f"{column} {self.share(column, everything=False):.1f}%" for column in COLUMNS]
        return f"exercised: {', '.join(shares)}"

    def shortcomings(self) -> list[str]:
        """Report the columns with too little coverage."""
        shares = {column: self.share(column, everything=False) for column in COLUMNS}
        return [
            f"coverage: {column} {share:.1f}%, less than {MIN_SHARE}%"
            for column, share in shares.items()
            if share < MIN_SHARE
        ]


def measure(exchanges: Iterable[Exchange], reader: Reader) -> Coverage:
    """Check every exchange against the contract."""
    expected = reader.expected()
    reached: dict[Item, set[str]] = defaultdict(set)
    cases: Counter[str] = Counter()
    requests: set[int] = set()
    for exchange in exchanges:
        phase = str(exchange.phase)
        cases[phase] += 1
        requests.add(hash(exchange.request))
        for item in reader.shown(exchange) & expected:
            reached[item].add(phase)
    return Coverage(expected, dict(reached), cases, len(requests))


def report(coverage: Coverage) -> str:
    """Format the coverage as Markdown."""
    names = sorted({item.operation for item in coverage.expected})
    rows = [[name, *(_count(coverage, name, column) for column in COLUMNS)] for name in names]
    for title, everything in (("all but what is tested elsewhere", False), ("everything", True)):
        shares = [f"{coverage.share(column, everything=everything):.1f}%" for column in COLUMNS]
        rows.append([f"**{title}**", *shares])
    phases = [
        [phase, str(cases), *(str(len(items)) for items in _of_phase(coverage, phase))]
        for phase, cases in sorted(coverage.cases.items())
    ]
    missing = coverage.missing - coverage.elsewhere
    return "\n".join(
        [
            "# Coverage of the contract",
            "",
            *_table(["operation", *COLUMNS], rows),
            "",
            *_table(["phase", "exchanges", "items reached", "only by this phase"], phases),
            "",
            "## Never reached",
            *[f"- {_describe(item)}" for item in sorted(missing)],
            "",
            "## Never reached here, and tested elsewhere",
            *[
                f"- {_describe(item)}: `{covering_test(item)}`"
                for item in sorted(coverage.elsewhere)
            ],
            "",
        ]
    )


def _count(coverage: Coverage, operation: str, column: str) -> str:
    items = {item for item in coverage.expected if item[:2] == (operation, column)}
    return f"{len(items & coverage.reached.keys())} of {len(items)}" if items else "-"


def _of_phase(coverage: Coverage, phase: str) -> tuple[list[Item], list[Item]]:
    items = [item for item, phases in coverage.reached.items() if phase in phases]
    return items, [item for item in items if len(coverage.reached[item]) == 1]


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def _describe(item: Item) -> str:
    return f"{item.operation}, {item.column}: {item.what}"
