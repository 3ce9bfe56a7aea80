"""listTasks with `q`."""

from __future__ import annotations

import re
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.client import ContractClient, tasks_of
from tests.support.contract_check import prose_of

ALICE = tasks_of("alice")


def separators_of(contract: str) -> list[str]:
    """Read the separators from the text of the contract."""
    separators_listed = contract.partition("these separators: ")[2].partition(". Letters")[0]
    ranges = re.findall(r"U\+([0-9A-F]{4})(?:\s+to\s+U\+([0-9A-F]{4}))?", separators_listed)
    return [
        chr(code)
        for first, last in ranges
        for code in range(int(first, 16), int(last or first, 16) + 1)
    ]


SEPARATORS = separators_of(prose_of(ContractClient.contract.document))
SEPARATOR = re.compile("[" + "".join(map(re.escape, SEPARATORS)) + "]+")
# The characters next to the ranges, which belong to words.
BORDERS = sorted(
    {chr(ord(one) + step) for one in SEPARATORS for step in (-1, 1) if ord(one) + step > 0}
    - set(SEPARATORS)
)


def lowered(text: str) -> str:
    """Apply Unicode's simple case mapping to each letter.

    `str.lower` of a single letter ignores its context, but it may add a combining mark.
    """
    return "".join(letter.lower()[0] for letter in text)


def words(text: str) -> list[str]:
    return [word for word in SEPARATOR.split(lowered(text)) if word]


def model_matches(q: str, title: str, description: str | None) -> bool:
    """Reference implementation of the definition in the contract."""
    text_words = [word[:255] for word in words(title) + words(description or "")]
    query_words = words(q)
    return bool(query_words) and all(
        any(word.startswith(prefix) for word in text_words) for prefix in query_words
    )


async def create(client: ContractClient, *titles: str, **fields: Any) -> None:
    for title in titles:
        created = await client.post(ALICE, json={"title": title, **fields})
        assert created.status_code == 201


async def found(client: ContractClient, q: str, **params: str) -> list[str]:
    response = await client.get(ALICE, params={"q": q, "order": "asc", **params})
    assert response.status_code == 200, response.text
    return [task["title"] for task in response.json()["items"]]


@pytest.mark.requirement("FR-019")
@pytest.mark.parametrize(
    ("q", "expected"),
    [
        ("milk", True),
        ("mil", True),
        ("m", True),
        ("MILK", True),
        ("Milk", True),
        ("milks", False),
        ("ilk", False),
        ("buy milk", True),
        ("milk buy", True),
        ("milk milk mi m", True),
        ("milk bread", False),
        ("milk,bread", False),
        ("  milk  ", True),
        ("+milk", True),
        ("-milk", True),
        ('"buy milk"', True),
        ("blue", True),
        ("milk cap", True),
        ("2", True),
        ("2l", True),
        ("2l blue buy", True),
        ("l", False),
    ],
)
async def test_each_term_is_a_prefix_of_a_word_in_title_or_description(
    client: ContractClient, q: str, *, expected: bool
) -> None:
    await create(client, "Buy Milk (2l)", description="The one with the Blue cap.")
    assert await found(client, q) == ["Buy Milk (2l)"] * expected


@pytest.mark.requirement("FR-019")
async def test_title_and_description_are_separate_words(
    client: ContractClient,
) -> None:
    await create(client, "Buy mi", description="lk")
    assert await found(client, "milk") == []


@pytest.mark.requirement("FR-019")
async def test_task_without_description_is_found_by_title(client: ContractClient) -> None:
    await create(client, "Buy milk", description=None)
    assert await found(client, "milk") == ["Buy milk"]


@pytest.mark.requirement("FR-019")
async def test_update_changes_the_search_index(client: ContractClient) -> None:
    created = await client.post(ALICE, json={"title": "Buy milk", "description": "cold"})
    await client.patch(created.headers["location"], json={"title": "Buy bread"})
    assert await found(client, "milk") == []
    assert await found(client, "bread cold") == ["Buy bread"]


@pytest.mark.requirement("FR-019")
@pytest.mark.parametrize(
    "q", [" ", "+", "...", "\t\n", "'", '"', "\\", "&|!", "()", ":*", "—", "\ufeff"]
)
async def test_query_without_a_word_finds_nothing(client: ContractClient, q: str) -> None:
    await create(client, f"{q} milk {q}")
    assert await found(client, q) == []


@pytest.mark.requirement("FR-019")
async def test_query_without_a_word_has_no_next_page(client: ContractClient) -> None:
    await create(client, "a", "b")
    response = await client.get(ALICE, params={"q": "!", "limit": 1})
    assert response.json() == {"items": [], "next_cursor": None}


@pytest.mark.requirement("FR-019", "FR-028")
@pytest.mark.parametrize(
    "q",
    [
        "milk' | 'bread",
        "milk | bread",
        "milk & bread",
        "!bread",
        "milk <-> bread",
        "milk:*",
        "milk:A",
        "milk:*A & x",
        "'milk",
        "milk'",
        "milk''",
        "milk\\",
        "\\'milk",
        "milk%",
        "mil_",
        "(milk",
        "milk)",
        "$1 milk",
        "milk; DROP TABLE tasks",
        "milk -- x",
        "%(q)s milk",
        "{milk}",
        ":owner_lexeme milk",
    ],
)
async def test_operators_are_only_separators(client: ContractClient, q: str) -> None:
    titles = ["milk", "bread", "mil k", q]
    await create(client, *titles)
    expected = [title for title in titles if model_matches(q, title, None)]
    assert await found(client, q) == expected


@pytest.mark.requirement("FR-019")
@pytest.mark.parametrize(
    ("title", "q", "expected"),
    [
        ("Äpfel", "äp", True),
        ("äpfel", "ÄPFEL", True),
        ("Äpfel", "apfel", False),
        ("apfel", "äpfel", False),
        ("Straße", "STRASSE", False),
        ("Straße", "straße", True),
        ("ΟΔΟΣ", "οδοσ", True),
        ("ΟΔΟΣ", "οδος", False),  # a final sigma is a different letter
        ("οδος", "ΟΔΟΣ", False),
        ("TITLE", "title", True),
        ("title", "TITLE", True),
        ("\u0130stanbul", "istanbul", True),
        ("istanbul", "\u0130STANBUL", True),
        ("\u0131slak", "ISLAK", False),
        ("\u0131slak", "\u0131sl", True),
        ("ЁЛКА", "ёлка", True),
        ("Ёлка", "елка", False),
        ("cafe\u0301", "caf\u00e9", False),
        ("cafe\u0301", "cafe\u0301", True),
        ("cafe\u0301", "cafe", True),
        ("買い物", "買い", True),
        ("買い物", "物", False),
        ("買い物、牛乳", "牛乳", True),
        ("Buy \U0001f95b", "\U0001f95b", True),
        ("\U00010400", "\U00010428", True),
        ("ﬁsh", "fish", False),
        ("№5", "5", False),
        ("½ litre", "½", False),
        ("ªº", "ª", True),
        ("µ", "µ", True),
        ("x_y", "y", True),
        ("x\u00b7y", "y", True),
        ("x\u00d7y", "y", True),
        ("x\u200dy", "y", True),
        ("x\u3007y", "y", False),
    ],
)
async def test_search_ignores_case_but_not_accents(
    client: ContractClient, title: str, q: str, *, expected: bool
) -> None:
    await create(client, title)
    assert await found(client, q) == [title] * expected


@pytest.mark.requirement("FR-019")
def test_contract_lists_the_separators() -> None:
    assert SEPARATORS[:48] == [chr(code) for code in range(0x30)]
    assert SEPARATORS[-1] == "\uff20"


@pytest.mark.requirement("FR-019")
async def test_each_separator_of_the_contract_separates(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    # No text may contain U+0000.
    titles = [f"first{one}second" for one in SEPARATORS[1:]]
    await store(database, titles)
    assert await count(client, "second") == len(titles)
    assert await count(client, "firsts") == 0


@pytest.mark.requirement("FR-019")
async def test_characters_next_to_separators_belong_to_words(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    await store(database, [f"first{one}second" for one in BORDERS])
    assert await count(client, "second") == 0
    assert await count(client, "first") == len(BORDERS)


@pytest.mark.requirement("FR-019")
@pytest.mark.parametrize("separator", [*SEPARATORS[1::17], "\u3030", "\uff20"], ids=ascii)
async def test_query_has_the_same_separators(client: ContractClient, separator: str) -> None:
    await create(client, "second first")
    assert await found(client, f"first{separator}second") == ["second first"]


@pytest.mark.requirement("FR-019")
@pytest.mark.parametrize("border", BORDERS, ids=ascii)
async def test_query_has_no_other_separators(client: ContractClient, border: str) -> None:
    await create(client, "second first", f"first{border}second")
    assert await found(client, f"first{border}second") == [f"first{border}second"]


async def store(database: asyncpg.Connection, titles: list[str]) -> None:
    await database.executemany(
        "INSERT INTO tasks (user_id, id, title, created_at, updated_at, etag)"
        " VALUES ('alice', gen_random_uuid(), $1, now(), now(), gen_random_uuid())",
        [(title,) for title in titles],
    )


async def count(client: ContractClient, q: str) -> int:
    """Count the tasks on all pages."""
    total = 0
    params = {"q": q, "limit": "200"}
    more = True
    while more:
        page = (await client.get(ALICE, params=params)).json()
        total += len(page["items"])
        params["cursor"] = page["next_cursor"]
        more = page["next_cursor"] is not None
    return total


@pytest.mark.requirement("FR-019")
@pytest.mark.parametrize("letter", ["a", "ä", "牛", "\U0001f95b"])
@pytest.mark.parametrize("length", [254, 255, 256, 500])
async def test_long_word_is_found_by_its_prefix(
    client: ContractClient, letter: str, length: int
) -> None:
    await create(client, letter * length)
    assert await found(client, letter * 200) == [letter * length]


@pytest.mark.requirement("FR-019")
async def test_long_word_does_not_hide_later_words(client: ContractClient) -> None:
    title = "x" * 480 + " milk"
    await create(client, title, description="y" * 16_000 + " bread " + "z" * 300)
    for q in ("x milk", "bread", "y z", "x" * 200, "z" * 200):
        assert await found(client, q) == [title]


@pytest.mark.requirement("FR-019")
async def test_characters_past_the_255th_of_a_word_are_not_indexed(
    client: ContractClient,
) -> None:
    await create(client, "x" * 255 + "milk")
    assert await found(client, "milk") == []


@pytest.mark.requirement("FR-008", "FR-019")
async def test_longest_text_with_most_words_is_stored_and_found(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    description = " ".join(chr(0x4E00 + number) for number in range(8192))
    await create(client, "Buy milk", description=description)
    assert await database.fetchval("SELECT description FROM tasks") == description
    assert await found(client, chr(0x4E00 + 8191)) == ["Buy milk"]


@pytest.mark.requirement("FR-018", "FR-019")
async def test_search_and_filters_are_combined(client: ContractClient) -> None:
    await create(client, "open milk")
    await create(client, "done milk", "done bread", completed=True)
    assert await found(client, "milk", completed="true") == ["done milk"]


@pytest.mark.requirement("FR-016", "FR-019")
async def test_search_results_are_paginated(client: ContractClient) -> None:
    await create(client, *(f"milk {number}" for number in range(5)), "bread")
    assert await count(client, "milk") == 5
    first = await client.get(ALICE, params={"q": "milk", "limit": 3, "order": "asc"})
    params = {"q": "milk", "limit": 3, "order": "asc", "cursor": first.json()["next_cursor"]}
    second = await client.get(ALICE, params=params)
    titles = [task["title"] for page in (first, second) for task in page.json()["items"]]
    assert titles == [f"milk {number}" for number in range(5)]


LETTERS = "abBzZ09iI\u0130\u0131äÄéÉßẞñÑΣ\u03c3\u03c2жЖёЁ牛乳ªµ\u0301\U0001f95b"
TEXT = st.text(st.sampled_from(LETTERS + " '\\:*&|!().-_/\t\n\u00a0\u00d7\u2003\u3000\uff20"))


@pytest.mark.requirement("FR-019")
@given(
    tasks=st.lists(
        st.tuples(
            TEXT.map(lambda text: "a" + text[:20]), st.none() | TEXT.map(lambda text: text[:40])
        ),
        min_size=1,
        max_size=5,
    ),
    q=TEXT.map(lambda text: text[:6] or "a"),
)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
async def test_search_matches_the_definition_in_the_contract(
    client: ContractClient,
    database: asyncpg.Connection,
    tasks: list[tuple[str, str | None]],
    q: str,
) -> None:
    await database.execute("TRUNCATE tasks")
    for title, description in tasks:
        created = await client.post(ALICE, json={"title": title, "description": description})
        assert created.status_code == 201
    expected = [title for title, description in tasks if model_matches(q, title, description)]
    assert sorted(await found(client, q)) == sorted(expected)
