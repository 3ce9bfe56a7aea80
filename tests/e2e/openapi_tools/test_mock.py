"""The mock answers every operation with the contract's own examples."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.contract.test_responses import PLAIN, documented
from tests.support.contract_check import ContractCheck
from tests.support.process import eventually
from tools.openapi.prism import free_port, listens, running

pytestmark = pytest.mark.requirement("FR-044")

CHECK = ContractCheck()
OPERATIONS = {
    operation["operationId"]: operation
    for item in CHECK.document["paths"].values()
    for method, operation in item.items()
    if method != "parameters"
}
# Prism has no serializer for YAML, and refuses to answer with an object in it.
YAML = "getContractYaml"
PAGES = {
    name: example["value"]
    for media_type in OPERATIONS["listTasks"]["responses"]["200"]["content"].values()
    for name, example in media_type["examples"].items()
}
MOCK = [sys.executable, "-m", "tools.openapi.mock"]


@pytest.fixture(scope="module")
def mock() -> Iterator[httpx.Client]:
    """A client of what `task mock` runs."""
    port = free_port()
    with running(MOCK, port, PORT=str(port)) as client:
        yield client


def send(mock: httpx.Client, **request: Any) -> httpx.Response:
    """An exchange whose response is held against the contract."""
    response = mock.request(**request)
    response.headers.pop("Keep-Alive")  # of the connection, as Node's server has it
    CHECK.check(request["method"], request["url"], response)
    return response


def examples(operation: str, status: str) -> list[Any]:
    """The bodies that the contract shows for a response, as they are written in a test."""
    response = CHECK.resolve(OPERATIONS[operation]["responses"][status])
    return [
        example["value"]
        for media_type in response.get("content", {}).values()
        for example in media_type["examples"].values()
    ] or [""]


def body(response: httpx.Response) -> Any:
    """What was answered: a value where it is JSON, else the text."""
    is_json = response.headers.get("content-type", "").endswith("json")
    return json.loads(response.content) if is_json else response.text


@pytest.mark.parametrize("operation", [it for it in PLAIN if it != YAML])
def test_each_operation_answers_an_example(mock: httpx.Client, operation: str) -> None:
    response = send(mock, **PLAIN[operation])
    success = min(OPERATIONS[operation]["responses"])
    assert response.status_code == int(success)
    assert body(response) == examples(operation, success)[0]


@pytest.mark.parametrize(
    ("operation", "status"), [it for it in documented() if it != (YAML, "200")]
)
def test_each_response_can_be_asked_for(mock: httpx.Client, operation: str, status: str) -> None:
    headers = {**PLAIN[operation].get("headers", {}), "Prefer": f"code={status}"}
    response = send(mock, **{**PLAIN[operation], "headers": headers})
    assert response.status_code == int(status)
    assert body(response) in examples(operation, status)


def test_the_document_is_mocked_as_json_but_not_as_yaml(mock: httpx.Client) -> None:
    assert mock.get("/openapi.json").json() == {"openapi": "3.1.0"}
    assert (
        mock.get("/openapi.yaml").json()["title"] == "Cannot find serializer for application/yaml"
    )


@pytest.mark.parametrize(("name", "value"), PAGES.items())
def test_each_example_can_be_asked_for(mock: httpx.Client, name: str, value: Any) -> None:
    response = send(mock, **PLAIN["listTasks"], headers={"Prefer": f"example={name}"})
    assert response.json() == value


def test_a_request_that_breaks_the_contract_is_refused(mock: httpx.Client) -> None:
    response = mock.post(PLAIN["createTask"]["url"], json={"titel": "Buy milk"})
    assert response.status_code == 422
    assert response.json() in examples("createTask", "422")


def test_it_ends_with_whom_it_was_started_by() -> None:
    port = free_port()
    program = f"import subprocess, time; subprocess.Popen({MOCK!r}); time.sleep(60)"
    with running([sys.executable, "-c", program], port, PORT=str(port)):
        assert listens(port)
    eventually(lambda: not listens(port))
