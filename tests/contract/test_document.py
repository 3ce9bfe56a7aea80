"""The contract as a document: valid, complete with examples, and of one mind with the structs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from litestar import Router
from litestar.routes import HTTPRoute
from openapi_spec_validator import validate

from app.asgi import ROUTE_HANDLERS
from app.domain.changes.schemas import ChangePage
from app.domain.health import controller
from app.domain.lists.schemas import (
    TaskList,
    TaskListCreate,
    TaskListMove,
    TaskListPage,
    TaskListPatch,
    TaskListReplace,
)
from app.domain.tasks.schemas import (
    LabelList,
    Task,
    TaskBatch,
    TaskBatchResult,
    TaskCount,
    TaskCreate,
    TaskMove,
    TaskPage,
    TaskPatch,
    TaskReplace,
)
from app.domain.users.schemas import UserDeletion, UserExport
from app.http.problems import Problem
from app.openapi.document import OpenAPIJson
from tests.support.contract_check import ContractCheck

CHECK = ContractCheck()
DOCUMENT = CHECK.document
STRUCTS: dict[str, Any] = {
    "UserExport": UserExport,
} | {
    struct.__name__: struct
    for struct in (
        Task,
        TaskCreate,
        TaskReplace,
        TaskPatch,
        TaskMove,
        TaskPage,
        TaskCount,
        TaskBatch,
        TaskBatchResult,
        UserDeletion,
        LabelList,
        TaskList,
        TaskListCreate,
        TaskListReplace,
        TaskListPatch,
        TaskListMove,
        TaskListPage,
        ChangePage,
        Problem,
        controller.Health,
        OpenAPIJson,
    )
}
REQUESTS = {
    operation["operationId"]
    for item in DOCUMENT["paths"].values()
    for operation in item.values()
    if "requestBody" in operation
}


def operations() -> list[dict[str, Any]]:
    """Every operation of every path."""
    return [
        operation
        for item in DOCUMENT["paths"].values()
        for method, operation in item.items()
        if method != "parameters"
    ]


def media_types() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every body of every request and response, and where it is."""
    for operation in operations():
        name = operation["operationId"]
        for media_type in operation.get("requestBody", {}).get("content", {}).values():
            yield name, media_type
        for status, response in operation["responses"].items():
            for media_type in CHECK.resolve(response).get("content", {}).values():
                yield f"{name} {status}", media_type


@pytest.mark.requirement("NFR-003")
def test_the_document_is_openapi() -> None:
    validate(DOCUMENT)


@pytest.mark.requirement("FR-043")
def test_each_operation_is_a_handler_of_the_same_name() -> None:
    names = {
        str(handler.operation_id): handler.fn.__name__
        for route in Router("/", route_handlers=ROUTE_HANDLERS).routes
        if isinstance(route, HTTPRoute)
        for handler in route.route_handlers
        if handler.operation_id
    }
    assert set(names) == {operation["operationId"] for operation in operations()}
    for operation_id, name in names.items():
        assert name == re.sub(r"(?=[A-Z])", "_", operation_id).lower()


@pytest.mark.requirement("FR-043")
def test_each_operation_has_one_tag_and_a_camel_case_id() -> None:
    for operation in operations():
        assert re.fullmatch(r"[a-z]+([A-Z][a-z]+)+", operation["operationId"])
        assert len(operation["tags"]) == 1
        assert {"400", "default"} <= set(operation["responses"])


@pytest.mark.requirement("FR-032")
def test_parameters_stand_with_operations_where_the_page_lets_people_fill_them_in() -> None:
    assert [path for path, item in DOCUMENT["paths"].items() if "parameters" in item] == []


@pytest.mark.requirement("NFR-003")
@pytest.mark.parametrize(("where", "media_type"), list(media_types()))
def test_each_body_has_examples_and_they_fit_its_schema(
    where: str, media_type: dict[str, Any]
) -> None:
    values = [example["value"] for example in media_type["examples"].values()]
    assert values, where
    assert [CHECK.validate(media_type["schema"], value) for value in values] == [[]] * len(values)


@pytest.mark.requirement("NFR-003")
def test_the_examples_of_parameters_and_header_fields_fit_their_schemas() -> None:
    components = DOCUMENT["components"]
    for parameter in components["parameters"].values():
        for example in parameter.get("examples", {}).values():
            assert CHECK.validate(parameter["schema"], example["value"]) == []
    for header in components["headers"].values():
        assert CHECK.validate(header["schema"], header["example"]) == []


@pytest.mark.requirement("NFR-003")
@pytest.mark.parametrize(("where", "media_type"), list(media_types()))
def test_the_examples_of_each_body_decode_into_its_struct(
    where: str, media_type: dict[str, Any]
) -> None:
    struct = STRUCTS[media_type["schema"]["$ref"].rpartition("/")[2]]
    for example in media_type["examples"].values():
        decoded = msgspec.json.decode(msgspec.json.encode(example["value"]), type=struct)
        # A response's example is whole: nothing that it leaves out came from a default.
        again = msgspec.to_builtins(decoded, str_keys=True)
        assert where in REQUESTS or set(again) == set(example["value"])


@pytest.mark.requirement("FR-043")
def test_successes_are_inline_and_errors_are_references() -> None:
    # swagger-typescript-api 13 generates no body for a response behind a reference.
    for operation in operations():
        inline = {status for status, it in operation["responses"].items() if "$ref" not in it}
        assert inline == {status for status in operation["responses"] if status[0] in "23"}


@pytest.mark.requirement("FR-043")
def test_each_component_has_a_name_of_its_own() -> None:
    # typed-openapi keeps all kinds of component in one namespace.
    names = [name.lower() for group in DOCUMENT["components"].values() for name in group]
    assert sorted(names) == sorted(set(names))


@pytest.mark.requirement("FR-043")
def test_the_schema_of_a_parameter_has_no_description_of_its_own() -> None:
    # Converters to MCP tools take it for the parameter's.
    parameters = DOCUMENT["components"]["parameters"]
    schemas = {name: CHECK.resolve(it["schema"]) for name, it in parameters.items()}
    assert [name for name, schema in schemas.items() if "description" in schema] == []
    assert [name for name, it in parameters.items() if "description" not in it] == []


@pytest.mark.requirement("FR-043")
def test_examples_of_parameters_survive_conversion() -> None:
    # Postman's converter breaks a false example, and sends a plus sign as it stands.
    parameters = DOCUMENT["components"]["parameters"].values()
    values = [it["value"] for each in parameters for it in each.get("examples", {}).values()]
    assert [value for value in values if not value or "+" in str(value)] == []


@pytest.mark.requirement("FR-043")
def test_the_description_fits_on_a_page_and_longer_texts_are_tags() -> None:
    # Generators copy the description into every file.
    assert len(DOCUMENT["info"]["description"].encode()) <= 2500
    used = {tag for operation in operations() for tag in operation["tags"]}
    named = [tag["name"] for tag in DOCUMENT["tags"]]
    assert set(named[: len(used)]) == used
    text = DOCUMENT["info"]["description"]
    assert [name for name in named[len(used) :] if f"- `{name}`: " not in text] == []
    assert set(re.findall(r"the tag `(\w+)`", str(DOCUMENT))) <= set(named)


@pytest.mark.requirement("FR-001", "FR-101")
def test_what_creates_a_resource_links_to_what_can_be_done_with_it() -> None:
    links = {
        operation["operationId"]: set(CHECK.resolve(operation["responses"]["201"])["links"])
        for operation in operations()
        if "201" in operation["responses"]
    }
    of_task = {"getTask", "replaceTask", "updateTask", "deleteTask"}
    of_list = {"getList", "replaceList", "updateList", "deleteList"}
    assert links == {
        "createTask": of_task,
        "replaceTask": of_task,
        "createList": of_list,
        "replaceList": of_list,
    }
