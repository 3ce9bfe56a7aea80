"""Messages that users see: examples of the contract, and the check of every integration test."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from app.http.validation import PATTERN_MESSAGE, describe_keyword
from tests.support.contract_check import INTERNALS, ContractCheck, ContractViolation

CHECK = ContractCheck()
EXAMPLES = {
    f"{name} {example_name}": example["value"]
    for name, response in CHECK.document["components"]["responses"].items()
    for example_name, example in response["content"]["application/problem+json"]["examples"].items()
}
TOO_LONG = {"pointer": "/title", "parameter": None, "detail": "must have at most 500 characters"}
EMPTY = {"pointer": "/title", "parameter": None, "detail": "must not be empty"}


def with_patterns(node: Any) -> Iterator[dict[str, Any]]:
    """Yield every schema with a `pattern` in a node, with references followed."""
    node = CHECK.resolve(node)
    if isinstance(node, list):
        for item in node:
            yield from with_patterns(item)
    elif isinstance(node, dict):
        if isinstance(node.get("pattern"), str):
            yield node
        for key, value in node.items():
            if key not in {"examples", "example"}:
                yield from with_patterns(value)


@pytest.mark.requirement("FR-026")
def test_every_pattern_of_a_request_has_a_message() -> None:
    requests = [
        [operation.get("parameters", []), operation.get("requestBody", {})]
        for item in CHECK.document["paths"].values()
        for operation in item.values()
    ]
    schemas = list(with_patterns(requests))
    assert len(schemas) > 5
    for schema in schemas:
        # The message of a format also describes what a pattern beside it requires.
        assert "format" in schema or PATTERN_MESSAGE in schema
        assert not INTERNALS.search(describe_keyword(schema, "pattern"))


@pytest.mark.requirement("FR-027")
@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_follow_the_rules_for_messages(name: str) -> None:
    CHECK.check_texts(EXAMPLES[name])


@pytest.mark.requirement("FR-027", "FR-028")
@pytest.mark.parametrize(
    ("problem_type", "detail", "errors", "violation"),
    [
        ("malformed-body", "Expected `str`", [], "internals"),
        ("invalid-parameter", "limit: Expected int <= 200", ["Expected int <= 200"], "internals"),
        ("invalid-parameter", "q: must match ^[^x]*$", ["must match ^[^x]*$"], "internals"),
        ("invalid-body", "/title: must not be empty", [EMPTY, TOO_LONG], "one cause"),
        ("invalid-body", "/title: must not be empty", [TOO_LONG], "first error"),
        ("invalid-body", "The body has one fault.", [TOO_LONG], "first error"),
        ("precondition-failed", "A precondition failed.", [], "name the header"),
    ],
)
def test_wrong_message_is_caught(
    problem_type: str, detail: str, errors: list[Any], violation: str
) -> None:
    located = [
        {"pointer": None, "parameter": "q", "detail": error} if isinstance(error, str) else error
        for error in errors
    ]
    problem = {"type": f"/problems/{problem_type}", "detail": detail, "errors": located}
    with pytest.raises(ContractViolation, match=violation):
        CHECK.check_texts(problem)
