"""Read Markdown documents: their headings, links and code blocks."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
# The specifications of the components, such as specs/phase-II/001-core-backend.
COMPONENTS = sorted((ROOT / "specs").glob("phase-*/*"))
SPECS = COMPONENTS[0]
DOCUMENTS = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "specs").rglob("*.md")),
]

_MARKDOWN = MarkdownIt("commonmark").enable("table")
_COMMENT = re.compile(r"<!-- (.+?) -->", re.DOTALL)


class Block(NamedTuple):
    """A fenced code block, with the text of the comment directly before it."""

    language: str
    code: str
    mark: str = ""


def name_of(path: Path) -> str:
    """Return a document's path from the root of the repository."""
    return path.relative_to(ROOT).as_posix()


def blocks(text: str) -> Iterator[Block]:
    """Return the fenced code blocks of a document."""
    mark = ""
    for token in _MARKDOWN.parse(text):
        if token.type == "fence":
            yield Block(token.info, token.content, mark)
        comment = _COMMENT.fullmatch(token.content.strip()) if token.type == "html_block" else None
        mark = comment[1] if comment else ""


def block(path: Path, mark: str) -> str:
    """Return the code of the only block with this mark."""
    [code] = [each.code for each in blocks(path.read_text("utf-8")) if each.mark == mark]
    return code


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a document."""
    tokens = _MARKDOWN.parse(text)
    seen = Counter[str]()
    result: set[str] = set()
    for opening, inline in pairwise(tokens):
        if opening.type == "heading_open":
            heading = "".join(child.content for child in inline.children or [])
            slug = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
            result.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
            seen[slug] += 1
    return result


def links(text: str) -> set[str]:
    """Return the targets of the links and images that are not on other hosts."""
    targets = map(_target, _inline(_MARKDOWN.parse(text)))
    return {target for target in targets if target and not urlsplit(target).scheme}


def broken_links(path: Path) -> list[str]:
    """Return the links of a document whose file or heading does not exist."""
    return sorted(link for link in links(path.read_text("utf-8")) if not _leads(path, link))


def _inline(tokens: list[Token]) -> Iterator[Token]:
    for token in tokens:
        yield from token.children or []


def _target(token: Token) -> str:
    return str(token.attrGet("href") or token.attrGet("src") or "")


def _leads(path: Path, link: str) -> bool:
    parts = urlsplit(link)
    target = path.parent / unquote(parts.path) if parts.path else path
    if not target.exists():
        return False
    return not parts.fragment or parts.fragment in anchors(target.read_text("utf-8"))
