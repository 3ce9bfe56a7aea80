"""Tokenizes search queries (contract, "Search").

The generated column `search` tokenizes tasks in the database. This module uses the same separators
for queries. A test compares the two with random text.
"""

from __future__ import annotations

import re
from hashlib import sha256

# Inclusive ranges of code points, in the order of the contract.
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
    """Return the words of a text, in their original letter case."""
    return _TOKEN.findall(text)


def build_tsquery(user_id: str, text: str) -> str | None:
    """Build a PostgreSQL tsquery that matches each word of `text` as a prefix, or None.

    None means that the text has no words. Quotes and backslashes are separators, so words need no
    escaping.
    """
    prefix = user_prefix(user_id)
    return " & ".join(f"'{prefix}{word}':*" for word in tokenize(text)) or None


def user_prefix(user_id: str) -> str:
    """Return the prefix of each lexeme of a user in the column `search`.

    Two users may have the same prefix, so every statement also filters by the user.
    """
    return sha256(user_id.encode()).hexdigest()[:8]
