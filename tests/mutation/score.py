"""The score, the survivors, and the mutants that are known to change nothing."""

from __future__ import annotations

import tomllib
from collections import Counter, defaultdict
from pathlib import Path

import msgspec

from tests.mutation.mutants import Key, Mutant, Place

FILE = Path(__file__).with_name("equivalents.toml")
AT_LEAST = 95.0
VERDICTS = ("killed", "timeout", "survived", "equivalent", "not judged")
HEAD = """\
# Mutants

Written by `task mutants -- --write`. A mutant is one change of the code that ought to be noticed:
another operator, number, text or part of a pattern, an argument, a decorator, a statement or an
exception left away. It is noticed when a test fails, or when the tests do not end in their time.
The score is the part of the mutants that is noticed; equivalent ones, which no request, setting or
caller can tell from the code, do not count. Each mutant meets the tests that run its lines and
those that import its module, the likeliest first, for at most a part of the suite's time, and
no test that takes more than a hundredth of it; `tests/contract/test_fuzz.py` and what
measures time are not asked at all. More tests could only notice more.
"""


class Equivalents(msgspec.Struct):
    """Mutants that no request, setting or caller can tell from the code, each with its reason."""

    reasons: dict[Key, str]

    @classmethod
    def read(cls, path: Path = FILE) -> Equivalents:
        """From the file beside this module: for each reason, the lines before and after."""
        entries = tomllib.loads(path.read_text("utf-8"))["equivalent"]
        return cls(
            {
                (entry["module"], entry["before"], after): entry["reason"]
                for entry in entries
                for after in entry["after"]
            }
        )

    def only(self, mutants: list[Mutant]) -> Equivalents:
        """Those that are among some mutants."""
        made = {mutant.key for mutant in mutants}
        return Equivalents({key: why for key, why in self.reasons.items() if key in made})

    def stale(self, mutants: list[Mutant]) -> list[Key]:
        """Entries that no mutant has any more, in the modules that were looked at."""
        modules = {mutant.module for mutant in mutants}
        made = {mutant.key for mutant in mutants}
        return [key for key in self.reasons if key[0] in modules and key not in made]


class Score(msgspec.Struct):
    """What became of each mutant."""

    counts: dict[str, Counter[str]]
    survivors: list[Mutant]
    equivalents: Equivalents
    stale: list[Key]
    left_out: Counter[str]

    @classmethod
    def of(
        cls,
        mutants: list[Mutant],
        verdicts: dict[Place, str],
        equivalents: Equivalents,
        left_out: Counter[str],
    ) -> Score:
        """Count by module."""
        counts: dict[str, Counter[str]] = defaultdict(Counter)
        survivors: list[Mutant] = []
        for mutant in mutants:
            known = verdicts.get(mutant.place, "not judged")
            if mutant.key in equivalents.reasons:
                known = "equivalent"
            counts[mutant.module][known] += 1
            if known == "survived":
                survivors.append(mutant)
        return cls(dict(counts), survivors, equivalents, equivalents.stale(mutants), left_out)

    @property
    def total(self) -> Counter[str]:
        """Of all modules."""
        return sum(self.counts.values(), Counter[str]())

    def fails(self) -> bool:
        """Whether too many survived, some were not judged, or an equivalent one is none."""
        total = self.total
        return percent(total) < AT_LEAST or total["not judged"] > 0 or bool(self.stale)

    def text(self) -> str:
        """For the terminal."""
        lines = [f"survived {shown(mutant)}" for mutant in self.survivors]
        lines += [
            f"{module:28} {percent(found):6.2f} %  {dict(found)}"
            for module, found in [*self.counts.items(), ("all", self.total)]
        ]
        lines += [f"left out: {count:4} {reason}" for reason, count in self.left_out.items()]
        lines += ["no such mutant any more:\n  " + "\n  ".join(key) for key in self.stale]
        return "\n".join(lines)

    def document(self, circumstances: str) -> str:
        """For the checklist."""
        rows = [
            f"| `{module}` | {percent(found):.1f} % | "
            + " | ".join(str(found[verdict]) for verdict in VERDICTS)
            + " |"
            for module, found in [*self.counts.items(), ("all", self.total)]
        ]
        table = ["| module | score | noticed | by time | survived | equivalent | not judged |"]
        table += ["| --- | --- | --- | --- | --- | --- | --- |", *rows]
        reasons: dict[tuple[str, str], list[Key]] = defaultdict(list)
        for key, reason in self.equivalents.reasons.items():
            reasons[key[0], reason].append(key)
        parts = [HEAD, circumstances, "\n".join(table)]
        parts += [
            "\n".join(f"- {count} not made: {why}" for why, count in self.left_out.most_common()),
            "## Survivors\n" if self.survivors else "## Survivors\n\nNone.",
            *(fenced(shown(mutant)) for mutant in self.survivors),
            "## Equivalent mutants",
        ]
        for (module, reason), keys in reasons.items():
            changes = "\n".join(f"- {before}\n+ {after}" for _, before, after in keys)
            parts.append(f"`{module}`: {reason}\n\n{fenced(changes)}")
        return "\n\n".join(part.strip() for part in parts) + "\n"


def shown(mutant: Mutant) -> str:
    """A mutant as a difference."""
    change = f"- {mutant.before}\n+ {mutant.after}"
    return f"{mutant.module}, line {mutant.first}, {mutant.operator}\n{change}"


def fenced(text: str) -> str:
    """A block of a document."""
    return f"```diff\n{text}\n```"


def percent(verdicts: Counter[str]) -> float:
    """The part of the mutants that a test noticed; equivalent ones cannot be and do not count."""
    noticed = verdicts["killed"] + verdicts["timeout"]
    return 100 * noticed / max(1, noticed + verdicts["survived"])
