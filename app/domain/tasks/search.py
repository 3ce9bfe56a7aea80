"""Words, as the search knows them (contract, "Search").

The database cuts tasks into words by the generated column `search` of the first migration; this
module cuts a query by the same separators. A test compares the two over random text.
"""

from __future__ import annotations

import re
from hashlib import sha256

# Inclusive ranges of code points, in the contract's order.
SEPARATORS = (
    (0x0000, 0x002F),
    (0x003A, 0x0040),
    (0x005B, 0x0060),
    (0x007B, 0x00A9),
    (0x00AB, 0x00B4),
    (0x00B6, 0x00B9),
    (0x00BB, 0x00BF),
    (0x00D7, 0x00D7),
    (0x00F7, 0x00F7),
    (0x1680, 0x1680),
    (0x2000, 0x206F),
    (0x3000, 0x3004),
    (0x3008, 0x3020),
    (0x3030, 0x3030),
    (0xFEFF, 0xFEFF),
    (0xFF01, 0xFF0F),
    (0xFF1A, 0xFF20),
)
_TOKEN = re.compile(
    "[^" + "".join(f"\\U{first:08X}-\\U{last:08X}" for first, last in SEPARATORS) + "]+"
)


def tokenize(text: str) -> list[str]:
    """The words of a text, in the letter case they have in it."""
    return _TOKEN.findall(text)


def build_tsquery(user_id: str, text: str) -> str | None:
    """The text of a PostgreSQL tsquery that wants each word of the user's as a prefix.

    None without words. Words hold no quote and no backslash, both being separators, so quoting
    them is enough.
    """
    mark = user_prefix(user_id)
    return " & ".join(f"'{mark}{word}':*" for word in tokenize(text)) or None


def user_prefix(user_id: str) -> str:
    """What each of a user's lexemes in `search` begins with.

    Two users may share one; every statement is filtered by the user as well.
    """
    return sha256(user_id.encode()).hexdigest()[:8]
