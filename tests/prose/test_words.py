"""Words that the project's prose does not use, each with the word that stands for it.

Prose is Markdown, the contract, task descriptions, and the comments and docstrings of the code.
"""

from __future__ import annotations

import ast
import io
import re
import subprocess
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BANNED = {
    r"of ours|of its own accord": "name the thing",
    r"at once": "immediately, concurrently or atomically",
    r"whoever|whatever": "name the thing",
    r"stands? in for|stands? for|stands? between|stands? in": "is in, means, is between",
    r"is told|are told|tells|told": "reported, logged, describes",
    r"by itself": "delete it, or name the actor",
    r"is away": "is unavailable",
    r"begun and not gone on with|begun": "incomplete, started",
    r"put off": "deferred",
    r"refuse[sd]?|refusals?|refusing": "reject, rejection",
    r"cut short|cut off": "truncated, reset, cancelled",
    r"sent ahead": "pipelined",
    r"in doubt": "suspect",
    r"farewell": "graceful close",
    r"header fields?": "header",
    r"made anew|once more": "again, recreated",
    r"held against|hold against": "checked against",
}
PATTERN = re.compile(
    "|".join(
        rf"(?P<b{number}>\b(?:{banned})\b)".replace(" ", r"\s+")  # a phrase may be wrapped
        for number, banned in enumerate(BANNED)
    ),
    re.IGNORECASE,
)
QUOTED = re.compile(r"```.*?```|`[^`]*`", re.DOTALL)
THIS = "tests/prose/test_words.py"
GENERATED = re.compile(r"contracts/.+\.yaml|requirements.*\.txt|package-lock\.json|LICENSE")


def tracked_files() -> list[str]:
    """The files of the repository, except generated ones."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],  # noqa: S607 - on the PATH
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    return [name for name in listed if name != THIS and not GENERATED.search(name)]


def prose_of(name: str, text: str) -> Iterator[tuple[int, str]]:
    """Pieces of prose in a file, each with the number of its first line."""
    if name.endswith(".md"):
        yield 1, text
    elif name.endswith((".yaml", ".yml", ".toml")):
        yield from enumerate(text.splitlines(), start=1)
    elif name.endswith(".py"):
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT:
                yield token.start[0], token.string
        yield from docstrings_of(ast.parse(text))


def docstrings_of(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """The docstrings of a module, each with the number of its first line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node, clean=False)
            if docstring:
                yield node.body[0].lineno, docstring


def banned_words(name: str, text: str) -> list[str]:
    """The banned words of a file, each with its line and what to write instead."""
    found = []
    for first_line, prose in prose_of(name, text):
        bare = QUOTED.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), prose)
        for match in PATTERN.finditer(bare):
            line = first_line + bare.count("\n", 0, match.start())
            advice = list(BANNED.values())[int(str(match.lastgroup)[1:])]
            found.append(f"{name}:{line}: {match[0]!r}: write {advice}")
    return found


@pytest.mark.parametrize("name", [it for it in tracked_files() if Path(ROOT / it).is_file()])
def test_file_has_no_banned_word(name: str) -> None:
    if name.endswith((".md", ".yaml", ".yml", ".toml", ".py")):
        assert banned_words(name, (ROOT / name).read_text("utf-8")) == []


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("a.md", "Fine.\nA request is told at once.\n", 2),
        ("a.md", "Send the header\n  fields.\n", 1),
        ("a.yaml", "description: It was refused.\n", 1),
        ("a.py", '"""Fine."""\n\nx = 1  # whoever\n', 3),
        ("a.py", 'def f():\n    """Fine.\n\n    Put off.\n    """\n', 4),
    ],
)
def test_banned_word_is_found_with_its_line(name: str, text: str, line: int) -> None:
    assert banned_words(name, text)[0].startswith(f"{name}:{line}: ")


@pytest.mark.parametrize(
    ("name", "text"),
    [("a.md", "`refused` and\n```\ntold\n```\n"), ("a.py", 'x = "told"\n'), ("a.sh", "# told\n")],
)
def test_code_is_not_prose(name: str, text: str) -> None:
    assert banned_words(name, text) == []
