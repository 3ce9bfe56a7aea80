"""Which mutants were noticed, in a file of the repository, so that a later run asks the rest alone.

A run takes hours of a machine, and a change touches a few lines. A mutant is known here by a digest
of its module and its lines, so what is changed is asked again, wherever it has moved to.
"""

from __future__ import annotations

import hashlib
import textwrap
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from tests.mutation.mutants import Key, Mutant, Place

FILE = Path(__file__).with_name("noticed.txt")
VERDICTS = ("killed", "timeout")
DIGEST_BYTES = 5  # a collision among 10,000 is as likely as one in 20,000


def digests(mutants: Iterable[Mutant]) -> dict[Place, str]:
    """A name for each; equal changes of equal lines are told apart by their order."""
    seen = Counter[Key]()
    names: dict[Place, str] = {}
    for mutant in mutants:
        seen[mutant.key] += 1
        text = "\0".join([*mutant.key, str(seen[mutant.key])])
        names[mutant.place] = hashlib.blake2s(text.encode(), digest_size=DIGEST_BYTES).hexdigest()
    return names


def read(mutants: Iterable[Mutant], path: Path = FILE) -> dict[Place, str]:
    """The verdicts of those that were noticed."""
    verdicts: dict[str, str] = {}
    for part in path.read_text("utf-8").split("\n\n"):
        _, verdict, *names = part.split()
        verdicts |= dict.fromkeys(names, verdict)
    named = digests(mutants).items()
    return {place: verdicts[name] for place, name in named if name in verdicts}


def write(mutants: Iterable[Mutant], verdicts: Mapping[Place, str], path: Path = FILE) -> None:
    """Keep the verdicts of those that were noticed; what no mutant has any more is forgotten."""
    parts: dict[tuple[str, str], list[str]] = defaultdict(list)
    for place, name in digests(mutants).items():
        if verdicts.get(place) in VERDICTS:
            parts[place[0], verdicts[place]].append(name)
    texts = [
        f"{module} {verdict}\n{textwrap.fill(' '.join(sorted(names)), 98)}"
        for (module, verdict), names in sorted(parts.items())
    ]
    path.write_text("\n\n".join(texts) + "\n", "utf-8")
