"""A small contract, checked against a few routes and values."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import msgspec
import pytest
from litestar import Router, get, post

from app.http.problems import MAX_ERRORS, MAX_POINTER_LENGTH, FieldError
from app.openapi.document import OpenAPIDocument, RouteMismatchError

METHODS = ["get", "put", "post", "delete", "options", "head", "patch", "trace"]
SOURCE = b"""
paths:
  /things/{id}:
    summary: Not an operation.
    get: {operationId: getThing}
    post: {operationId: makeThing}
components:
  schemas:
    Thing:
      type: object
      required: [name, size]
      additionalProperties: false
      properties:
        name: {type: string, maxLength: 3}
        size: {type: integer}
        code: {type: string, minLength: 2, pattern: '^[0-9]+$', x-pattern-message: must be digits}
        parts: {type: array, items: {$ref: '#/components/schemas/Thing'}}
        tags: {type: array, maxItems: 2, uniqueItems: true, items: {type: string}}
        day: {type: string, format: date, minLength: 10, pattern: '^[1-9]'}
        origin:
          oneOf:
            - {$ref: '#/components/schemas/Origin'}
            - {type: 'null'}
    Origin:
      type: object
      required: [country, port]
      additionalProperties: false
      properties:
        country: {type: string, maxLength: 2}
        port: {type: [string, 'null'], minLength: 1}
"""
CONTRACT = OpenAPIDocument(SOURCE)


@get("/things/{id:str}", operation_id="getThing")
async def get_thing() -> None: ...


@post("/things/{id:str}", operation_id="makeThing")
async def make_thing() -> None: ...


@get("/things/{name:str}", operation_id="other")
async def get_thing_by_name() -> None: ...


@get("/elsewhere", operation_id="elsewhere")
async def elsewhere() -> None: ...


def routes(*handlers: object) -> Router:
    return Router("/", route_handlers=handlers)  # type: ignore[arg-type]  # handlers of any type


@pytest.mark.requirement("FR-032")
def test_document_is_served_as_yaml_and_json_with_separate_etags() -> None:
    assert CONTRACT.yaml_bytes == SOURCE
    assert msgspec.json.decode(CONTRACT.json_bytes) == CONTRACT.document
    for content, tag in (
        (CONTRACT.yaml_bytes, CONTRACT.yaml_etag),
        (CONTRACT.json_bytes, CONTRACT.json_etag),
    ):
        assert tag == f'"{blake2b(content, digest_size=16).hexdigest()}"'


@pytest.mark.requirement("FR-043")
def test_operations_are_exactly_the_openapi_methods() -> None:
    item = "".join(f"    {method}: {{operationId: {method}}}\n" for method in METHODS)
    operations = OpenAPIDocument(f"paths:\n  /:\n    summary: x\n{item}".encode()).operations()
    assert operations == {("/", method.upper(), method) for method in METHODS}


@pytest.mark.requirement("FR-043")
def test_matching_routes_are_accepted() -> None:
    both = routes(get_thing, make_thing, elsewhere).routes
    CONTRACT.check_routes(routes(get_thing, make_thing).routes)
    CONTRACT.check_no_route_conflicts(both)


@pytest.mark.requirement("FR-043")
def test_every_difference_is_named() -> None:
    with pytest.raises(RouteMismatchError) as raised:
        CONTRACT.check_routes(routes(get_thing, elsewhere).routes)
    assert str(raised.value) == (
        "POST /things/{id} (makeThing) is only in the contract\n"
        "GET /elsewhere (elsewhere) is only in the code"
    )


@pytest.mark.requirement("FR-042", "FR-043")
def test_paths_that_differ_in_parameter_names_conflict() -> None:
    with pytest.raises(RouteMismatchError) as raised:
        CONTRACT.check_no_route_conflicts(routes(make_thing, get_thing_by_name).routes)
    assert str(raised.value) == "GET /things/{name} (other) conflicts with a path of the contract"


@pytest.mark.requirement("FR-026")
def test_validation_reports_every_error_without_values() -> None:
    value = {"name": "hunter2", "parts": [{"size": 1, "a/b~c": 2}], "x": 1, "y": 1}
    errors = CONTRACT.validate("Thing", value)
    assert sorted((error.pointer, error.detail) for error in errors) == [
        ("/name", "must have at most 3 characters"),
        ("/parts/0/a~1b~0c", "unknown property"),
        ("/parts/0/name", "is required"),
        ("/size", "is required"),
        ("/x", "unknown property"),
        ("/y", "unknown property"),
    ]
    assert CONTRACT.validate("Thing", {"name": "abc", "size": 1}) == []


@pytest.mark.requirement("FR-026")
@pytest.mark.parametrize(
    ("code", "detail"),
    [
        ("", "must have at least 2 characters"),
        ("x", "must have at least 2 characters"),
        ("xy", "must be digits"),
    ],
)
def test_one_cause_is_one_error(code: str, detail: str) -> None:
    errors = CONTRACT.validate("Thing", {"name": "abc", "size": 1, "code": code})
    assert errors == [FieldError(pointer="/code", detail=detail)]


@pytest.mark.requirement("FR-026")
@pytest.mark.parametrize(
    ("name", "pointer"),
    [
        ("a" * 1023, "/" + "a" * 1023),
        ("a" * 1024, "/" + "a" * 1023),
        ("a" * 1022 + "~b", "/" + "a" * 1022),  # half an escape is removed as well
        ("a" * 1021 + "~b", "/" + "a" * 1021 + "~0"),
    ],
    ids=["longest", "too long", "half an escape", "whole escape"],
)
def test_pointer_is_truncated_to_the_limit(name: str, pointer: str) -> None:
    errors = CONTRACT.validate("Thing", {"name": "abc", "size": 1, name: 1})
    assert errors == [FieldError(pointer=pointer, detail="unknown property")]
    assert len(pointer) <= MAX_POINTER_LENGTH == 1024


@pytest.mark.requirement("FR-113")
@pytest.mark.parametrize(
    ("origin", "errors"),
    [
        (None, []),
        ({"country": "DE", "port": None}, []),
        ("DE", [("/origin", "must be an object or null")]),
        (False, [("/origin", "must be an object or null")]),
        ([], [("/origin", "must be an object or null")]),
        ({}, [("/origin/country", "is required"), ("/origin/port", "is required")]),
        ({"country": "DE"}, [("/origin/port", "is required")]),
        (
            {"country": "DEU", "port": ""},
            [
                ("/origin/country", "must have at most 2 characters"),
                ("/origin/port", "must not be empty"),
            ],
        ),
        ({"country": None, "port": None}, [("/origin/country", "must be a string")]),
        ({"country": "DE", "port": 1}, [("/origin/port", "must be a string or null")]),
        ({"country": "DE", "port": None, "x": 1}, [("/origin/x", "unknown property")]),
    ],
    ids=str,
)
def test_errors_of_an_optional_object_are_those_of_its_properties(
    origin: object, errors: list[tuple[str, str]]
) -> None:
    reported = CONTRACT.validate("Thing", {"name": "abc", "size": 1, "origin": origin})
    assert sorted((str(error.pointer), error.detail) for error in reported) == errors


@pytest.mark.requirement("FR-137")
@pytest.mark.parametrize(
    ("tags", "errors"),
    [
        (["a", "A"], []),
        (["a", "a"], ["must not contain an item twice"]),
        (["a", "b", "a"], ["must have at most 2 items", "must not contain an item twice"]),
    ],
    ids=str,
)
def test_repeated_item_is_an_error_of_its_array(tags: list[str], errors: list[str]) -> None:
    reported = CONTRACT.validate("Thing", {"name": "abc", "size": 1, "tags": tags})
    assert {error.pointer for error in reported} <= {"/tags"}
    assert sorted(error.detail for error in reported) == errors


@pytest.mark.requirement("FR-026", "FR-132")
@pytest.mark.parametrize("day", ["0000-01-01", "2026-02-30", "today", "", "2026-01-01T00:00:00Z"])
def test_several_violations_with_one_description_are_one_error(day: str) -> None:
    errors = CONTRACT.validate("Thing", {"name": "abc", "size": 1, "day": day})
    detail = "must be a date from 0001-01-01 to 9999-12-31"
    assert errors == [FieldError(pointer="/day", detail=detail)]


@pytest.mark.requirement("NFR-017")
def test_only_the_first_items_of_an_array_are_validated(monkeypatch: pytest.MonkeyPatch) -> None:
    validated: list[Any] = []
    contract = OpenAPIDocument.load()
    contract.validate("TaskBatch", {})
    validator = contract._validators["TaskBatch"]

    class Recorder:
        def iter_errors(self, value: Any) -> Any:
            validated.append(value)
            return validator.iter_errors(value)

    monkeypatch.setitem(contract._validators, "TaskBatch", Recorder())
    items = [{"title": "a", "labels": ["a,b"] * 50_000}] + [0] * 50_000
    errors = contract.validate("TaskBatch", {"create": items})
    assert len(errors) == MAX_ERRORS + 1
    (value,) = validated
    assert len(value["create"]) == len(value["create"][0]["labels"]) == MAX_ERRORS + 1


def test_no_array_of_a_body_may_have_more_items_than_are_validated() -> None:
    schemas = OpenAPIDocument.load().document["components"]["schemas"]
    bodies = ("TaskCreate", "TaskReplace", "TaskPatch", "TaskBatchCreate", "TaskBatchUpdate")
    limits = [schemas[name]["properties"]["labels"]["maxItems"] for name in bodies]
    limits += [each["maxItems"] for each in schemas["TaskBatch"]["properties"].values()]
    assert max(limits) <= MAX_ERRORS
