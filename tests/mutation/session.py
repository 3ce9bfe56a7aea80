"""What is known so far: a database below reports/, so that an interrupted run goes on."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from pathlib import Path

from tests.mutation.mutants import Mutant

TABLE = """
CREATE TABLE IF NOT EXISTS verdicts (
    suite TEXT, module TEXT, before TEXT, after TEXT, line INTEGER, operator TEXT,
    verdict TEXT, detail TEXT, seconds REAL, tree TEXT,
    PRIMARY KEY (suite, module, before, after, line)
)
"""


class Session:
    """The verdicts of one suite of tests."""

    def __init__(self, path: Path, suite: str, tree: str) -> None:
        self._database = sqlite3.connect(path, check_same_thread=False)
        self._database.execute(TABLE)
        self._suite = suite
        self._tree = tree

    def verdicts(self, *, any_tree: bool) -> dict[tuple[str, str, str, int], str]:
        """The verdict of each mutant, of this state of the code and tests or of any."""
        rows = self._database.execute(
            "SELECT module, before, after, line, verdict FROM verdicts"
            " WHERE suite = ? AND (tree = ? OR ?)",
            (self._suite, self._tree, any_tree),
        )
        return {(m, b, a, line): verdict for m, b, a, line, verdict in rows}

    def note(self, mutant: Mutant, verdict: str, detail: str, seconds: float) -> None:
        """Keep a verdict."""
        with self._database:
            self._database.execute(
                "INSERT OR REPLACE INTO verdicts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (self._suite, *mutant.place, mutant.operator, verdict, detail, seconds, self._tree),
            )

    def killers(self) -> Iterable[tuple[str, str]]:
        """Module and test of each kill, the oldest first."""
        return self._database.execute(
            "SELECT module, detail FROM verdicts WHERE verdict = 'killed' ORDER BY rowid"
        )
