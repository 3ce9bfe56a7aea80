"""Which values and exchanges count as coverage of a keyword."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.openapi.document import OpenAPIDocument
from tools.fuzz.__main__ import ROOT
from tools.fuzz.coverage import ELSEWHERE, measure, report
from tools.fuzz.exchanges import Exchange
from tools.fuzz.exercised import NEGATIVE, PARAMETERS, POSITIVE, RESPONSES, Item, Reader
from tools.fuzz.keywords import Keywords, UnknownKeywordError

SCHEMA: dict[str, Any] = {
    "type": "object",
    "description": "All kinds of keywords.",
    "additionalProperties": False,
    "required": ["name", "size"],
    "properties": {
        "name": {"type": ["string", "null"], "minLength": 2, "maxLength": 4, "pattern": "^[a-z]*$"},
        "size": {"type": "integer", "minimum": 1, "maximum": 9},
        "share": {"type": "number"},
        "kind": {"enum": ["one", "two"]},
        "mark": {"const": "*"},
        "id": {"format": "uuid"},
        "day": {"format": "date"},
        "tags": {"type": "array", "minItems": 1, "maxItems": 2, "items": {"type": "boolean"}},
        "codes": {"type": "array", "uniqueItems": True},
        "due": {
            "description": "An object or null.",
            "oneOf": [
                {
                    "type": "object",
                    "additionalProperties": False,
                    "required": ["on"],
                    "properties": {"on": {"type": "string"}},
                },
                {"type": "null"},
            ],
        },
    },
}
VALID = {"name": "abc", "size": 5}
ROOT_RULES = {"type object", "additionalProperties", "required name", "required size"}


def texts(found: Any) -> set[str]:
    return {str(each) for each in found}


@pytest.mark.requirement("NFR-013")
@pytest.mark.parametrize(
    ("changed", "shown"),
    [
        ({}, {"/name type string", "/name pattern", "/size type integer"}),
        ({"name": None}, {"/name type null", "/size type integer"}),
        ({"name": "ab", "size": 1}, {"/name minLength 2", "/size minimum 1"}),
        ({"name": "abcd", "size": 9.0}, {"/name maxLength 4", "/size maximum 9"}),
        ({"share": 0.5, "kind": "one"}, {"/share type number", "/kind enum one"}),
        ({"mark": "*", "tags": [True]}, {"/mark const *", "/tags minItems 1"}),
        ({"tags": [True, False]}, {"/tags maxItems 2", "/tags/* type boolean"}),
        ({"id": "0198c5a2-7e1f-7b3a-9d55-2f6f0c1e8a44"}, {"/id format uuid"}),
        ({"day": "2024-02-29"}, {"/day format date"}),
        ({"codes": [1, 2]}, {"/codes type array", "/codes uniqueItems True"}),
        ({"due": None}, {"/due type null"}),
        ({"due": {"on": "x"}}, {"/due type object", "/due required on", "/due/on type string"}),
    ],
)
def test_valid_value_covers_the_rules_at_their_limit(
    changed: dict[str, Any], shown: set[str]
) -> None:
    touched = texts(Keywords(SCHEMA).touched(VALID | changed))
    assert touched >= shown | ROOT_RULES
    limits = {rule for rule in touched if " min" in rule or " max" in rule}
    assert limits <= shown


def test_invalid_value_covers_no_rule() -> None:
    assert Keywords(SCHEMA).touched({"name": "ab"}) == set()


@pytest.mark.requirement("NFR-013")
@pytest.mark.parametrize(
    ("value", "broken"),
    [
        (VALID, []),
        (VALID | {"name": "a"}, [("/name minLength 2", "/name")]),
        (VALID | {"name": "abcde"}, [("/name maxLength 4", "/name")]),
        (VALID | {"name": "abcdef"}, []),
        (VALID | {"name": "A b"}, [("/name pattern", "/name")]),
        (VALID | {"name": 1}, [("/name type", "/name")]),
        (VALID | {"size": 0}, [("/size minimum 1", "/size")]),
        (VALID | {"size": 10}, [("/size maximum 9", "/size")]),
        (VALID | {"size": 11}, []),
        (VALID | {"kind": "three"}, [("/kind enum", "/kind")]),
        (VALID | {"mark": "-"}, [("/mark const *", "/mark")]),
        (VALID | {"id": "-"}, [("/id format uuid", "/id")]),
        (VALID | {"tags": []}, [("/tags minItems 1", "/tags")]),
        (VALID | {"tags": [True] * 3}, [("/tags maxItems 2", "/tags")]),
        (VALID | {"tags": [1]}, [("/tags/* type", "/tags/0")]),
        (VALID | {"day": "2023-02-29"}, [("/day format date", "/day")]),
        (VALID | {"codes": [1, 2, 1]}, [("/codes uniqueItems True", "/codes")]),
        (VALID | {"due": 1}, [("/due type", "/due")]),
        (VALID | {"due": {}}, [("/due required on", "/due/on")]),
        (VALID | {"due": {"on": "x", "at": 1}}, [("/due additionalProperties", "/due/at")]),
        (VALID | {"due": {"on": 1}}, [("/due/on type", "/due/on")]),
        (VALID | {"a/b": 1}, [("additionalProperties", "/a~1b")]),
        ({"name": "abc"}, [("required size", "/size")]),
        ([], [("type", "")]),
    ],
)
def test_value_one_past_a_limit_breaks_the_rule(value: Any, broken: list[tuple[str, str]]) -> None:
    keywords = Keywords(SCHEMA)
    found = list(keywords.breaches(value))
    assert [(str(each.rule), each.pointer) for each in found] == broken
    # The violations refer to the same rules as the expected coverage.
    assert {each.rule for each in found} <= {rule.broken() for rule in keywords.rules}


def test_unknown_keyword_raises_an_error() -> None:
    with pytest.raises(UnknownKeywordError, match="multipleOf at /size"):
        Keywords({"properties": {"size": {"multipleOf": 2}}})
    # Only a choice between an object and null is supported.
    text_or_null = [{"type": "string"}, {"type": "null"}]
    with pytest.raises(UnknownKeywordError, match="oneOf at /size"):
        Keywords({"properties": {"size": {"oneOf": text_or_null}}})


# --- exchanges -----------------------------------------------------------------------------------

PROBLEM = {"content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/P"}}}}
DOCUMENT: dict[str, Any] = {
    "info": {"description": "| `/problems/bad` | 400 |\n| `about:blank` | 4xx |"},
    "paths": {
        "/things/{id}": {
            "parameters": [
                {"name": "id", "in": "path", "required": True, "schema": {"type": "integer"}}
            ],
            "put": {
                "operationId": "putThing",
                "parameters": [
                    {"name": "on", "in": "query", "schema": {"type": "boolean"}},
                    {"name": "If-Match", "in": "header", "schema": {"type": "string"}},
                ],
                "requestBody": {"content": {"application/json": {"schema": SCHEMA}}},
                "responses": {
                    "200": {"content": {"application/json": {"schema": SCHEMA}}},
                    "400": PROBLEM,
                    "default": PROBLEM,
                },
            },
        }
    },
    "components": {"schemas": {"P": {"properties": {"type": {"type": ["string", "null"]}}}}},
}


def exchange(target: str = "/things/1", **changed: Any) -> Exchange:
    fields: dict[str, Any] = {
        "phase": "coverage",
        "method": "PUT",
        "headers": {"Content-Type": "application/json", "if-match": " x "},
        "body": json.dumps(VALID),
        "status": 200,
        "media_type": "application/json",
        "answer": json.dumps({"name": None, "size": 1}),
    }
    return Exchange(target=target, **fields | changed)


def rejected(target: str = "/things/1", status: int = 400, **changed: Any) -> Exchange:
    error = {"parameter": changed.pop("parameter", None), "pointer": changed.pop("pointer", None)}
    answer = json.dumps({"type": "/problems/bad", "errors": [error]})
    media_type = "application/problem+json"
    return exchange(target, status=status, media_type=media_type, answer=answer, **changed)


def shown(one: Exchange, column: str) -> set[str]:
    return {item.what for item in Reader(DOCUMENT).shown(one) if item.column == column}


def test_rule_has_a_positive_and_a_negative_item() -> None:
    expected = Reader(DOCUMENT).expected()
    rules = {rule.broken() for rule in Keywords(SCHEMA).rules}
    assert {Item("putThing", NEGATIVE, f"body {rule}") for rule in rules} <= expected
    assert Item("putThing", NEGATIVE, "path id type") in expected
    # Every header is a string.
    assert Item("putThing", NEGATIVE, "header If-Match type") not in expected
    assert {item.what for item in expected if item.operation != "putThing"} == {
        "/problems/bad",
        "about:blank",
        "problem /type null",
        "problem /type not null",
    }


def test_accepted_request_covers_positive_items() -> None:
    one = exchange("/things/1?on=true")
    assert shown(one, PARAMETERS) == {"path id sent", "query on sent", "header If-Match sent"}
    assert shown(one, POSITIVE) >= {"query on type boolean", "body application/json"}
    assert shown(one, RESPONSES) == {"200 application/json", "200 /name null"}
    assert shown(one, NEGATIVE) == set()
    assert shown(exchange(), PARAMETERS) >= {"query on left out"}
    # A response that is too long for the record still covers its status.
    assert shown(exchange(answer=None), RESPONSES) == {"200 application/json"}


def test_negative_item_requires_an_error_at_its_location() -> None:
    assert shown(rejected("/things/1?on=x", parameter="on"), NEGATIVE) == {"query on type"}
    assert shown(rejected("/things/1?on=x", parameter="id"), NEGATIVE) == set()
    assert shown(rejected("/things/x", parameter="id"), NEGATIVE) == {"path id type"}
    small = json.dumps(VALID | {"size": 0})
    assert shown(rejected(body=small, pointer="/size"), NEGATIVE) == {"body /size minimum 1"}
    assert shown(rejected(body=small, pointer="/name"), NEGATIVE) == set()


def test_repeated_and_undeclared_parameters_are_counted() -> None:
    twice = rejected("/things/1?on=true&on=true", parameter="on")
    assert shown(twice, PARAMETERS) == {"query on given twice"}
    undeclared = rejected("/things/1?off=1", parameter="off")
    assert shown(undeclared, PARAMETERS) == {"an undeclared query parameter"}
    assert shown(rejected("/things/1?off=%ff"), PARAMETERS) == set()


def test_missing_and_malformed_bodies_are_counted() -> None:
    assert shown(rejected(body=None), NEGATIVE) == {"body left out"}
    other = {"Content-Type": "text/plain"}
    assert shown(rejected(status=415, headers=other), NEGATIVE) == {"body of another media type"}
    assert shown(rejected(headers=other), NEGATIVE) == set()
    for body in ("{", "\udcff", '"\\ud800"', "NaN"):
        assert shown(rejected(body=body, pointer=""), NEGATIVE) == set()


def test_responses_are_counted_for_the_operations_of_the_path() -> None:
    assert shown(rejected(), RESPONSES) == {
        "400 application/problem+json",
        "/problems/bad",
        "problem /type not null",
    }
    wrong = rejected(method="TRACE", status=405)
    assert "default application/problem+json" in shown(wrong, RESPONSES)
    options = exchange(method="OPTIONS", status=204, media_type="", answer="")
    assert Reader(DOCUMENT).shown(options) == set()
    assert Reader(DOCUMENT).shown(exchange("/elsewhere")) == set()


# --- figures -------------------------------------------------------------------------------------


@pytest.mark.requirement("NFR-013")
def test_totals_with_and_without_items_tested_elsewhere() -> None:
    coverage = measure([exchange(), rejected(method="TRACE", status=405)], Reader(DOCUMENT))
    # Reached responses: 200, one of its four null states, default, a problem type, a null state.
    missing = {item.what for item in coverage.missing if item.column == RESPONSES}
    assert missing == {
        "200 /name not null",
        "200 /due null",
        "200 /due not null",
        "400 application/problem+json",
        "about:blank",
        "problem /type null",
    }
    assert {item.what for item in coverage.elsewhere} == {"about:blank"}
    assert coverage.share(RESPONSES, everything=True) == 100 * 5 / 11
    assert coverage.share(RESPONSES, everything=False) == 100 * 5 / 10
    assert "coverage: responses 50.0%, less than 95%" in coverage.shortcomings()
    text = report(coverage)
    assert "| putThing | 3 of 7 |" in text
    assert "- putThing, responses: 400 application/problem+json\n" in text
    assert "about:blank: `tests/integration/http/test_plugins.py`\n" in text
    # There is only one phase, so it reached every item.
    assert f"| coverage | 2 | {len(coverage.reached)} | {len(coverage.reached)} |" in text


@pytest.mark.parametrize(("what", "file"), ELSEWHERE.items())
def test_unreachable_item_is_tested_in_the_named_file(what: str, file: str) -> None:
    name = what.rsplit(maxsplit=1)[-1].removeprefix("/problems/")
    assert name in (ROOT / file).read_text("utf-8")
    expected = Reader(OpenAPIDocument.load().document).expected()
    names = {item.what.split()[0] for item in expected}
    assert what in names | {f"{item.operation} {item.what.split()[0]}" for item in expected}
