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

from app import documents, health
from app.main import OPERATIONS
from app.parameters import Parameters
from app.problems import Fault, ProblemBody
from app.tasks import controller
from app.tasks.schemas import Task, TaskCreate, TaskPage, TaskPatch, TaskReplace
from tests.support.contract_check import ContractCheck

CHECK = ContractCheck()
DOCUMENT = CHECK.document
STRUCTS: dict[str, type[msgspec.Struct]] = {
    "Task": Task,
    "TaskCreate": TaskCreate,
    "TaskReplace": TaskReplace,
    "TaskPatch": TaskPatch,
    "TaskPage": TaskPage,
    "Problem": ProblemBody,
    "Fault": Fault,
    "Health": health.Health,
}
PARAMETERS: dict[str, Parameters[Any, Any, Any]] = {
    "listTasks": controller.LIST_TASKS,
    "createTask": controller.CREATE_TASK,
    "getTask": controller.GET_TASK,
    "replaceTask": controller.REPLACE_TASK,
    "updateTask": controller.UPDATE_TASK,
    "deleteTask": controller.DELETE_TASK,
    "getLiveness": health.NO_PARAMETERS,
    "getReadiness": health.NO_PARAMETERS,
    "getContractYaml": documents.GET_CONTRACT,
    "getContractJson": documents.GET_CONTRACT,
}
BODIES = {"TaskCreate", "TaskReplace", "TaskPatch"}


def operations() -> list[dict[str, Any]]:
    """Every operation, with the parameters of its path among its own."""
    return [
        {**operation, "parameters": item.get("parameters", []) + operation.get("parameters", [])}
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


def flat(node: Any) -> Any:
    """A schema with its references written out and its prose left out, nullable in one way."""
    node = CHECK.resolve(node)
    if isinstance(node, list):
        return [flat(item) for item in node]
    if not isinstance(node, dict):
        return node
    return {
        key: {name: flat(value) for name, value in child.items()}
        if key == "properties"
        else flat(child)
        for key, child in node.items()
        if key not in {"description", "examples", "format"}
    }


def derived(struct: type[msgspec.Struct]) -> Any:
    """What msgspec derives from a struct, in the contract's way of writing."""
    _, components = msgspec.json.schema_components([struct])

    def written(node: Any) -> Any:
        if not isinstance(node, dict):
            return node
        node = {
            k: v for k, v in node.items() if k not in {"title", "description", "default", "format"}
        }
        if "pattern" in node:
            node["pattern"] = node["pattern"].removesuffix(r"\Z") + "$"
        if "anyOf" in node:
            one = next(option for option in node.pop("anyOf") if option != {"type": "null"})
            one = written(one)
            return {**one, **node, "type": [one["type"], "null"]}
        if isinstance(node.get("properties"), dict):
            node["properties"] = {
                name: written(child) for name, child in node["properties"].items()
            }
        return {k: v if k == "properties" else written(v) for k, v in node.items()}

    return written(components[struct.__name__])


@pytest.mark.requirement("NFR-003")
def test_the_document_is_openapi() -> None:
    validate(DOCUMENT)


@pytest.mark.requirement("FR-043")
def test_each_operation_is_a_handler_of_the_same_name() -> None:
    names = {
        str(handler.operation_id): handler.fn.__name__
        for route in Router("/", route_handlers=OPERATIONS).routes
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


@pytest.mark.requirement("NFR-003")
@pytest.mark.parametrize(("where", "media_type"), list(media_types()))
def test_each_body_has_examples_and_they_fit_its_schema(
    where: str, media_type: dict[str, Any]
) -> None:
    values = [example["value"] for example in media_type["examples"].values()]
    assert values, where
    assert [CHECK.faults(media_type["schema"], value) for value in values] == [[]] * len(values)


@pytest.mark.requirement("NFR-003")
def test_the_examples_of_parameters_and_header_fields_fit_their_schemas() -> None:
    components = DOCUMENT["components"]
    for parameter in components["parameters"].values():
        for example in parameter.get("examples", {}).values():
            assert CHECK.faults(parameter["schema"], example["value"]) == []
    for header in components["headers"].values():
        assert CHECK.faults(header["schema"], header["example"]) == []


@pytest.mark.requirement("NFR-003")
@pytest.mark.parametrize("name", sorted(BODIES))
def test_the_examples_of_requests_decode_into_their_structs(name: str) -> None:
    examples = [
        example["value"]
        for operation in operations()
        for media_type in operation.get("requestBody", {}).get("content", {}).values()
        if media_type["schema"]["$ref"].endswith(f"/{name}")
        for example in media_type["examples"].values()
    ]
    assert (
        [type(msgspec.convert(example, STRUCTS[name])).__name__ for example in examples]
        == [name] * len(examples)
        != []
    )


@pytest.mark.requirement("NFR-003")
@pytest.mark.parametrize("name", sorted(BODIES))
def test_the_structs_of_requests_say_what_their_schemas_say(name: str) -> None:
    wanted = flat(DOCUMENT["components"]["schemas"][name])
    found = derived(STRUCTS[name])
    assert {**found, "required": sorted(found.get("required", []))} == {
        **wanted,
        "required": sorted(wanted.get("required", [])),
    }


@pytest.mark.requirement("NFR-003")
@pytest.mark.parametrize("name", sorted(set(STRUCTS) - BODIES))
def test_the_structs_of_responses_have_the_members_of_their_schemas(name: str) -> None:
    wanted = DOCUMENT["components"]["schemas"][name]
    members = list(STRUCTS[name].__struct_encode_fields__)
    assert list(wanted["properties"]) == members
    assert wanted["required"] == members


@pytest.mark.requirement("NFR-003", "FR-021")
@pytest.mark.parametrize("operation", operations(), ids=lambda operation: operation["operationId"])
def test_the_parameter_structs_have_the_parameters_of_the_contract(
    operation: dict[str, Any],
) -> None:
    parameters = PARAMETERS[operation["operationId"]]
    for place, ours in (
        ("path", parameters.path),
        ("query", parameters.query),
        ("header", parameters.headers),
    ):
        declared = [
            parameter["name"]
            for parameter in map(CHECK.resolve, operation["parameters"])
            if parameter["in"] == place
        ]
        assert sorted(ours.fields) == sorted(declared)


@pytest.mark.requirement("FR-001")
def test_what_creates_a_task_links_to_what_can_be_done_with_it() -> None:
    created = [
        CHECK.resolve(operation["responses"]["201"])
        for operation in operations()
        if "201" in operation["responses"]
    ]
    assert len(created) == 2
    for response in created:
        assert set(response["links"]) == {"getTask", "updateTask", "deleteTask"}
