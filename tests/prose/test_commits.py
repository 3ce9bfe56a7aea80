"""Commit subjects: imperative, capitalised, at most 72 characters, no full stop."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Subjects before this commit have another form.
SINCE = "ff4f201"
MAX_LENGTH = 72
# Articles, pronouns and conjunctions begin a description, not an instruction.
NO_VERBS = [
    "a",
    "an",
    "all",
    "and",
    "as",
    "each",
    "every",
    "if",
    "in",
    "it",
    "its",
    "no",
    "of",
    "on",
    "one",
    "some",
    "that",
    "the",
    "there",
    "this",
    "what",
    "where",
    "which",
    "who",
    "why",
    "with",
]
FORM = re.compile(r"[A-Z][a-z]*(?<!ing)(?<![^s]s)(?<![^e]ed)|Add|Embed|Feed|Seed|Shed")


def error_in(subject: str) -> str | None:
    """What is wrong with a subject."""
    first = subject.partition(" ")[0]
    if len(subject) > MAX_LENGTH:
        return f"longer than {MAX_LENGTH} characters"
    if subject.endswith("."):
        return "ends with a full stop"
    if first.lower() in NO_VERBS or not FORM.fullmatch(first):
        return f"begins with {first!r}, which is not an imperative"
    return None


def git(*arguments: str) -> str:
    """The output of a git command."""
    command = ["git", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_commit_subjects_are_imperative() -> None:
    is_shallow = git("rev-parse", "--is-shallow-repository") == "true\n"
    revisions = ["-1"] if is_shallow else [f"{SINCE}..HEAD"]
    subjects = git("log", "--format=%s", *revisions).splitlines()
    assert {subject: error_in(subject) for subject in subjects if error_in(subject)} == {}


@pytest.mark.parametrize(
    "subject",
    [
        "What is known of the mutants",
        "add a test",
        "Add a test.",
        "Added a test",
        "Adds a test",
        "A" + "d" * 72,
    ],
)
def test_subject_of_another_form_is_rejected(subject: str) -> None:
    assert error_in(subject)


@pytest.mark.parametrize("subject", ["Add a test", "Pass a value", "Embed the database"])
def test_imperative_subject_is_accepted(subject: str) -> None:
    assert error_in(subject) is None
