"""What counts as a witness for a keyword, and what does not."""

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
        "tags": {"type": "array", "minItems": 1, "maxItems": 2, "items": {"type": "boolean"}},
    },
}
SOUND = {"name": "abc", "size": 5}
AT_THE_TOP = {"type object", "additionalProperties", "required name", "required size"}


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
    ],
)
def test_a_valid_value_shows_the_rules_that_it_touches(
    changed: dict[str, Any], shown: set[str]
) -> None:
    touched = texts(Keywords(SCHEMA).touched(SOUND | changed))
    assert touched >= shown | AT_THE_TOP
    limits = {rule for rule in touched if " min" in rule or " max" in rule}
    assert limits <= shown


def test_an_invalid_value_shows_nothing() -> None:
    assert Keywords(SCHEMA).touched({"name": "ab"}) == set()


@pytest.mark.requirement("NFR-013")
@pytest.mark.parametrize(
    ("value", "broken"),
    [
        (SOUND, []),
        (SOUND | {"name": "a"}, [("/name minLength 2", "/name")]),
        (SOUND | {"name": "abcde"}, [("/name maxLength 4", "/name")]),
        (SOUND | {"name": "abcdef"}, []),
        (SOUND | {"name": "A b"}, [("/name pattern", "/name")]),
        (SOUND | {"name": 1}, [("/name type", "/name")]),
        (SOUND | {"size": 0}, [("/size minimum 1", "/size")]),
        (SOUND | {"size": 10}, [("/size maximum 9", "/size")]),
        (SOUND | {"size": 11}, []),
        (SOUND | {"kind": "three"}, [("/kind enum", "/kind")]),
        (SOUND | {"mark": "-"}, [("/mark const *", "/mark")]),
        (SOUND | {"id": "-"}, [("/id format uuid", "/id")]),
        (SOUND | {"tags": []}, [("/tags minItems 1", "/tags")]),
        (SOUND | {"tags": [True] * 3}, [("/tags maxItems 2", "/tags")]),
        (SOUND | {"tags": [1]}, [("/tags/* type", "/tags/0")]),
        (SOUND | {"a/b": 1}, [("additionalProperties", "/a~1b")]),
        ({"name": "abc"}, [("required size", "/size")]),
        ([], [("type", "")]),
    ],
)
def test_a_value_breaks_a_limit_just_past_it(value: Any, broken: list[tuple[str, str]]) -> None:
    keywords = Keywords(SCHEMA)
    found = list(keywords.breaches(value))
    assert [(str(each.rule), each.pointer) for each in found] == broken
    # What can be broken is what there is to break: both sides speak of the same rules.
    assert {each.rule for each in found} <= {rule.broken() for rule in keywords.rules}


def test_a_keyword_that_is_not_counted_is_not_left_out_in_silence() -> None:
    with pytest.raises(UnknownKeywordError, match="multipleOf at /size"):
        Keywords({"properties": {"size": {"multipleOf": 2}}})


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
    sent: dict[str, Any] = {
        "phase": "coverage",
        "method": "PUT",
        "headers": {"Content-Type": "application/json", "if-match": " x "},
        "body": json.dumps(SOUND),
        "status": 200,
        "media_type": "application/json",
        "answer": json.dumps({"name": None, "size": 1}),
    }
    return Exchange(target=target, **sent | changed)


def refused(target: str = "/things/1", status: int = 400, **changed: Any) -> Exchange:
    fault = {"parameter": changed.pop("parameter", None), "pointer": changed.pop("pointer", None)}
    answer = json.dumps({"type": "/problems/bad", "errors": [fault]})
    media_type = "application/problem+json"
    return exchange(target, status=status, media_type=media_type, answer=answer, **changed)


def shown(one: Exchange, column: str) -> set[str]:
    return {item.what for item in Reader(DOCUMENT).shown(one) if item.column == column}


def test_there_is_a_pair_of_items_for_each_rule() -> None:
    expected = Reader(DOCUMENT).expected()
    rules = {rule.broken() for rule in Keywords(SCHEMA).rules}
    assert {Item("putThing", NEGATIVE, f"body {rule}") for rule in rules} <= expected
    assert Item("putThing", NEGATIVE, "path id type") in expected
    # Every header field is a text.
    assert Item("putThing", NEGATIVE, "header If-Match type") not in expected
    assert {item.what for item in expected if item.operation != "putThing"} == {
        "/problems/bad",
        "about:blank",
        "problem /type null",
        "problem /type not null",
    }


def test_what_was_accepted_is_a_positive_witness() -> None:
    one = exchange("/things/1?on=true")
    assert shown(one, PARAMETERS) == {"path id sent", "query on sent", "header If-Match sent"}
    assert shown(one, POSITIVE) >= {"query on type boolean", "body application/json"}
    assert shown(one, RESPONSES) == {"200 application/json", "200 /name null"}
    assert shown(one, NEGATIVE) == set()
    assert shown(exchange(), PARAMETERS) >= {"query on left out"}
    # An answer that was too long to be recorded still shows its status.
    assert shown(exchange(answer=None), RESPONSES) == {"200 application/json"}


def test_a_negative_witness_is_named_by_the_answer() -> None:
    assert shown(refused("/things/1?on=x", parameter="on"), NEGATIVE) == {"query on type"}
    assert shown(refused("/things/1?on=x", parameter="id"), NEGATIVE) == set()
    assert shown(refused("/things/x", parameter="id"), NEGATIVE) == {"path id type"}
    small = json.dumps(SOUND | {"size": 0})
    assert shown(refused(body=small, pointer="/size"), NEGATIVE) == {"body /size minimum 1"}
    assert shown(refused(body=small, pointer="/name"), NEGATIVE) == set()


def test_strictness_about_parameters_is_counted() -> None:
    twice = refused("/things/1?on=true&on=true", parameter="on")
    assert shown(twice, PARAMETERS) == {"query on given twice"}
    undeclared = refused("/things/1?off=1", parameter="off")
    assert shown(undeclared, PARAMETERS) == {"an undeclared query parameter"}
    assert shown(refused("/things/1?off=%ff"), PARAMETERS) == set()


def test_bodies_that_are_none_are_counted_as_such() -> None:
    assert shown(refused(body=None), NEGATIVE) == {"body left out"}
    other = {"Content-Type": "text/plain"}
    assert shown(refused(status=415, headers=other), NEGATIVE) == {"body of another media type"}
    assert shown(refused(headers=other), NEGATIVE) == set()
    for body in ("{", "\udcff", '"\\ud800"', "NaN"):
        assert shown(refused(body=body, pointer=""), NEGATIVE) == set()


def test_answers_are_counted_for_the_operations_of_their_path() -> None:
    assert shown(refused(), RESPONSES) == {
        "400 application/problem+json",
        "/problems/bad",
        "problem /type not null",
    }
    wrong = refused(method="TRACE", status=405)
    assert "default application/problem+json" in shown(wrong, RESPONSES)
    options = exchange(method="OPTIONS", status=204, media_type="", answer="")
    assert Reader(DOCUMENT).shown(options) == set()
    assert Reader(DOCUMENT).shown(exchange("/elsewhere")) == set()


# --- figures -------------------------------------------------------------------------------------


@pytest.mark.requirement("NFR-013")
def test_the_totals_are_given_with_and_without_what_no_client_can_reach() -> None:
    coverage = measure([exchange(), refused(method="TRACE", status=405)], Reader(DOCUMENT))
    # Reached of the answers: 200, its two nulls but one, default, one of two kinds and its null.
    missing = {item.what for item in coverage.missing if item.column == RESPONSES}
    assert missing == {
        "200 /name not null",
        "400 application/problem+json",
        "about:blank",
        "problem /type null",
    }
    assert {item.what for item in coverage.elsewhere} == {"about:blank"}
    assert coverage.share(RESPONSES, everything=True) == 100 * 5 / 9
    assert coverage.share(RESPONSES, everything=False) == 100 * 5 / 8
    assert "coverage: responses 62.5%, less than 95%" in coverage.shortcomings()
    text = report(coverage)
    assert "| putThing | 3 of 7 |" in text
    assert "- putThing, responses: 400 application/problem+json\n" in text
    assert "about:blank: `tests/integration/http/test_plugins.py`\n" in text
    # Of the phases, all that was reached is due to the one there is.
    assert f"| coverage | 2 | {len(coverage.reached)} | {len(coverage.reached)} |" in text


@pytest.mark.parametrize(("what", "file"), ELSEWHERE.items())
def test_what_the_fuzz_cannot_reach_is_tested_where_it_says(what: str, file: str) -> None:
    assert what.removeprefix("/problems/") in (ROOT / file).read_text("utf-8")
    expected = Reader(OpenAPIDocument.load().document).expected()
    assert any(item.what.split()[0] == what for item in expected)
