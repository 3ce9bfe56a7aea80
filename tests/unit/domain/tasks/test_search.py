"""Tokenization for the search."""

from __future__ import annotations

import importlib.util
import re
import string
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.tasks import models
from app.domain.tasks.search import SEPARATORS, build_tsquery, tokenize, user_prefix
from app.openapi.document import OpenAPIDocument
from tests.support.contract_check import prose_of

pytestmark = pytest.mark.requirement("FR-019")

MIGRATION = Path(__file__).parents[4] / "migrations/versions/0001_tasks.py"
QUERY = re.compile(r"'([^'\\]+)':\*( & '([^'\\]+)':\*)*")
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
users = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._:|@+-]{0,127}\Z")
code_points = st.sampled_from(
    [
        chr(bound + step)
        for separator_range in SEPARATORS
        for bound in separator_range
        for step in (-1, 0, 1)
        if bound + step >= 0
    ]
)


def migration() -> ModuleType:
    spec = importlib.util.spec_from_file_location("migration_0001", MIGRATION)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def ranges_of(character_class: str) -> list[tuple[int, int]]:
    r"""Return the ranges of a PostgreSQL character class that contains only \uXXXX."""
    parts = re.findall(r"\\u([0-9A-F]{4})(?:-\\u([0-9A-F]{4}))?", character_class)
    written = "".join(rf"\u{first}" + (rf"-\u{last}" if last else "") for first, last in parts)
    assert written == character_class
    return [(int(first, 16), int(last or first, 16)) for first, last in parts]


def test_separators_match_the_contract(contract: OpenAPIDocument) -> None:
    (sentence,) = re.findall(
        r"other than these separators: (.*?)\.\n",
        prose_of(contract.document),
        re.DOTALL,
    )
    written = [
        re.fullmatch(r"U\+([0-9A-F]{4})(?: to U\+([0-9A-F]{4}))?", part)
        for part in " ".join(sentence.split()).split(", ")
    ]
    assert None not in written
    ranges = [(int(m[1], 16), int(m[2] or m[1], 16)) for m in written if m]
    assert ranges == list(SEPARATORS)


@pytest.mark.parametrize(
    "sql", [models.SEPARATORS, migration().SEPARATORS], ids=["model", "migration"]
)
def test_database_separators_are_the_same_except_u_0000(sql: str) -> None:
    # PostgreSQL text cannot contain U+0000.
    assert ranges_of(sql) == [(1, 0x2F), *SEPARATORS[1:]]


def test_model_and_migration_generate_the_same_column() -> None:
    assert models.SEARCH_EXPRESSION == migration().SEARCH


@pytest.mark.parametrize(
    "character", sorted({chr(bound) for separator_range in SEPARATORS for bound in separator_range})
)
def test_both_ends_of_a_separator_range_separate(character: str) -> None:
    assert tokenize(f"a{character}b") == ["a", "b"]


@pytest.mark.parametrize(
    "character",
    sorted(
        {chr(bound) for first, last in SEPARATORS for bound in (first - 1, last + 1) if bound >= 0}
    ),
)
def test_characters_next_to_a_separator_range_do_not_separate(character: str) -> None:
    assert tokenize(f"a{character}b") == [f"a{character}b"]


@given(text)
def test_tokens_are_the_text_between_separators(sample: str) -> None:
    is_in_token = [not any(first <= ord(c) <= last for first, last in SEPARATORS) for c in sample]
    spaced = "".join(c if inside else " " for c, inside in zip(sample, is_in_token, strict=True))
    assert tokenize(sample) == [token for token in spaced.split(" ") if token]


@pytest.mark.parametrize(
    ("sample", "query"),
    [
        ("milk", "'milk':*"),
        ("Buy  milk!", "'Buy':* & 'milk':*"),
        ("a'b\\c", "'a':* & 'b':* & 'c':*"),
        ("milk:*|bread & !x <-> (y)", "'milk':* & 'bread':* & 'x':* & 'y':*"),
        ("日本語、テスト", "'日本語':* & 'テスト':*"),
        ("', -_-", None),
        ("\x00", None),
        ("", None),
    ],
)
def test_query_matches_each_token_as_a_prefix(sample: str, query: str | None) -> None:
    assert (build_tsquery("alice", sample) or "").replace(user_prefix("alice"), "") == (query or "")


@given(text | st.text(code_points | st.sampled_from("ab'\\:*&|!()<->"), max_size=50))
def test_query_contains_only_quoted_tokens(sample: str) -> None:
    query = build_tsquery("alice", sample)
    assert (query is None) == (tokenize(sample) == [])
    assert query is None or QUERY.fullmatch(query)


@pytest.mark.requirement("FR-020")
@given(users)
def test_user_prefix_is_eight_hex_digits_and_stable(user: str) -> None:
    assert re.fullmatch(r"[0-9a-f]{8}", user_prefix(user))
    assert user_prefix(user) == user_prefix(user)


@pytest.mark.requirement("FR-020")
@given(users, text)
def test_each_query_token_has_the_user_prefix(user: str, sample: str) -> None:
    prefix = user_prefix(user)
    query = build_tsquery(user, sample) or ""
    assert [part[: len(prefix)] for part in re.findall(r"'([^']+)'", query)] == [prefix] * len(
        tokenize(sample)
    )


def test_ascii_letters_and_digits_do_not_separate() -> None:
    text = string.ascii_letters + string.digits
    assert tokenize(text) == [text]
