"""The mock responds to every operation with examples of the contract."""

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
from tools.openapi.prism import free_port, is_listening, running

pytestmark = pytest.mark.requirement("FR-044")

CHECK = ContractCheck()
OPERATIONS = {
    operation["operationId"]: operation
    for item in CHECK.document["paths"].values()
    for method, operation in item.items()
    if method != "parameters"
}
# Prism has no serializer for YAML.
YAML = "getContractYaml"
PAGES = {
    name: example["value"]
    for media_type in OPERATIONS["listTasks"]["responses"]["200"]["content"].values()
    for name, example in media_type["examples"].items()
}
MOCK = [sys.executable, "-m", "tools.openapi.mock"]


@pytest.fixture(scope="module")
def mock() -> Iterator[httpx.Client]:
    """Yield a client of the program that `task mock` runs."""
    port = free_port()
    with running(MOCK, port, PORT=str(port)) as client:
        yield client


def send(mock: httpx.Client, **request: Any) -> httpx.Response:
    """Send a request and check its response against the contract."""
    response = mock.request(**request)
    response.headers.pop("Keep-Alive")  # Node's server adds it
    CHECK.check(request["method"], request["url"], response)
    return response


def examples(operation: str, status: str) -> list[Any]:
    """Return the examples of a response's body."""
    response = CHECK.resolve(OPERATIONS[operation]["responses"][status])
    return [
        example["value"]
        for media_type in response.get("content", {}).values()
        for example in media_type["examples"].values()
    ] or [""]


def body(response: httpx.Response) -> Any:
    """Return the parsed body if it is JSON, otherwise the text."""
    media_type = response.headers.get("content-type", "")
    is_json = media_type in {"application/json", "application/problem+json"}
    return json.loads(response.content) if is_json else response.text


@pytest.mark.parametrize("operation", [it for it in PLAIN if it != YAML])
def test_operation_returns_an_example(mock: httpx.Client, operation: str) -> None:
    response = send(mock, **PLAIN[operation])
    success = min(OPERATIONS[operation]["responses"])
    assert response.status_code == int(success)
    assert body(response) == examples(operation, success)[0]


@pytest.mark.parametrize(
    ("operation", "status"),
    sorted({(operation, status) for operation, status, _ in documented()} - {(YAML, "200")}),
)
def test_response_is_selected_by_its_status(
    mock: httpx.Client, operation: str, status: str
) -> None:
    headers = {**PLAIN[operation].get("headers", {}), "Prefer": f"code={status}"}
    response = send(mock, **{**PLAIN[operation], "headers": headers})
    assert response.status_code == int(status)
    assert body(response) in examples(operation, status)


def test_document_is_mocked_only_as_json(mock: httpx.Client) -> None:
    assert mock.get("/openapi.json").json() == {"openapi": "3.1.0"}
    assert (
        mock.get("/openapi.yaml").json()["title"] == "Cannot find serializer for application/yaml"
    )


@pytest.mark.parametrize(("name", "value"), PAGES.items())
def test_example_is_selected_by_its_name(mock: httpx.Client, name: str, value: Any) -> None:
    response = send(mock, **PLAIN["listTasks"], headers={"Prefer": f"example={name}"})
    assert response.json() == value


def test_invalid_request_is_rejected(mock: httpx.Client) -> None:
    response = mock.post(PLAIN["createTask"]["url"], json={"titel": "Buy milk"})
    assert response.status_code == 422
    assert response.json() in examples("createTask", "422")


def test_mock_ends_with_its_parent() -> None:
    port = free_port()
    program = f"import subprocess, time; subprocess.Popen({MOCK!r}); time.sleep(60)"
    with running([sys.executable, "-c", program], port, PORT=str(port)):
        assert is_listening(port)
    eventually(lambda: not is_listening(port))
