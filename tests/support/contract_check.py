"""Check responses against `openapi.yaml`: status, media type, headers and body.

It reads the plain document, so that it shares only the file with the service.
"""

from __future__ import annotations

import json
import re
from typing import Any

import httpx
import jsonschema_rs
import yaml

from app.openapi.document import LOADER, OPENAPI_PATH

COMMON_HEADERS = {
    "content-type",
    "content-length",
    "date",
    "vary",
    "connection",
    "transfer-encoding",
}
UNDECLARED_METHODS = {"HEAD", "OPTIONS"}
NO_BODY = {204, 304}
# Parts of regular expressions, Python's types, and msgspec's own messages. A list is a resource.
INTERNALS = re.compile(
    r"\\[dswxZ]|\[\^|\]\*|\]\+|\(\?|\bregex\b|\bExpected\b"
    r"|\b(str|int|float|bool|dict|NoneType)\b"
)
NAMES_FIRST_ERROR = {
    "/problems/invalid-parameter",
    "/problems/invalid-body",
    "/problems/unsupported-media-type",
}


class ContractViolation(AssertionError):
    """A response that the contract does not allow."""


def prose_of(document: dict[str, Any]) -> str:
    """Return the descriptions of `info` and of the tags."""
    described = [document["info"], *document.get("tags", ())]
    return "\n".join(part["description"] for part in described)


class ContractCheck:
    """Checks responses against one OpenAPI document."""

    def __init__(self, document: dict[str, Any] | None = None) -> None:
        self.document = document or yaml.load(OPENAPI_PATH.read_bytes(), LOADER)  # noqa: S506 - LOADER is a safe loader
        # A path without parameters comes before those that also match it (OpenAPI, "Paths").
        self.paths = [
            (re.compile("[^/]+".join(map(re.escape, re.split(r"\{[^}]+\}", path)))), path_item)
            for path, path_item in sorted(
                self.document["paths"].items(), key=lambda pair: pair[0].count("{")
            )
        ]

        # Errors before routing and internal errors can occur on every path.
        components = self.document["components"]["responses"]
        self.common_problem_types = self._problem_types(components["OtherProblem"])
        self.common_problem_types |= self._problem_types(components["InternalError"])

    def check(self, method: str, raw_path: str, response: httpx.Response) -> str | None:
        """Raise ContractViolation, or return the operationId (None if no operation matches)."""
        path_item = self._path_item(raw_path)
        methods = {name.upper() for name in path_item}
        if path_item and method == "OPTIONS" and response.status_code == 204:
            self._check_preflight(methods, response)
            return None
        operation = path_item.get({"HEAD": "get"}.get(method, method.lower()))
        if operation is None:
            # The protocol sends 400 and 431; a plug-in route can fail with 500.
            expected = {405, 400, 431} if path_item else {404, 400, 431, 500}
            self._require(
                response.status_code in expected,
                f"{method} {raw_path} must be one of {expected}, not {response.status_code}",
            )
            operation = {"responses": {}, "operationId": None}
        spec = self._response(operation, response.status_code)
        self._check_headers(spec, response)
        self._check_body(spec, method, response)
        if response.status_code == 405:
            allowed = {"OPTIONS", *methods} | ({"HEAD"} if "GET" in methods else set())
            self._require(
                response.headers.get("allow") == ", ".join(sorted(allowed)), "Allow is not complete"
            )
        name: str | None = operation["operationId"]
        return name

    def resolve(self, node: Any) -> Any:
        """Follow the `$ref` of a node."""
        while isinstance(node, dict) and "$ref" in node:
            target: Any = self.document
            for part in node["$ref"].removeprefix("#/").split("/"):
                target = target[part]
            node = target
        return node

    def validate(self, schema: dict[str, Any], value: Any) -> list[str]:
        """Validate a value, including its formats, and return the error messages."""
        validator = jsonschema_rs.Draft202012Validator(
            {**schema, "components": self.document["components"]}, validate_formats=True
        )
        return [f"{error.instance_path}: {error.message}" for error in validator.iter_errors(value)]

    def _path_item(self, raw_path: str) -> dict[str, Any]:
        path = raw_path.partition("?")[0]
        return next((path_item for pattern, path_item in self.paths if pattern.fullmatch(path)), {})

    def _response(self, operation: dict[str, Any], status: int) -> dict[str, Any]:
        responses = operation["responses"]
        spec = responses.get(str(status))
        if spec is None:
            self._require(status >= 400, f"status {status} of {operation['operationId']}")
            spec = responses.get("default", {"$ref": "#/components/responses/OtherProblem"})
        resolved: dict[str, Any] = self.resolve(spec)
        return resolved

    def _check_preflight(self, methods: set[str], response: httpx.Response) -> None:
        allowed = {"OPTIONS", *methods} | ({"HEAD"} if "GET" in methods else set())
        self._require(
            response.headers.get("allow") == ", ".join(sorted(allowed)), "Allow is not complete"
        )
        self._require(response.content == b"", "204 with a body")
        # Every 204 declares the same headers.
        declared = next(
            operation["responses"]["204"]["headers"]
            for path_item in self.document["paths"].values()
            for operation in path_item.values()
            if "204" in operation["responses"]
        )
        self._check_headers({"headers": {**declared, "Allow": {}}}, response)

    def _check_headers(self, spec: dict[str, Any], response: httpx.Response) -> None:
        declared = spec.get("headers", {})
        for name, node in declared.items():
            header = self.resolve(node)
            value = response.headers.get(name)
            if value is None:
                self._require(not header.get("required"), f"{name} is missing")
                continue
            schema = self.resolve(header.get("schema", {}))
            parsed = int(value) if schema.get("type") == "integer" else value
            errors = self.validate(schema, parsed)
            self._require(not errors, f"{name}: {errors}")
        known = {name.lower() for name in declared} | COMMON_HEADERS
        undeclared = {
            name
            for name in response.headers
            if name not in known and not name.startswith("access-control-")
        }
        self._require(not undeclared, f"undeclared headers: {sorted(undeclared)}")

    def _check_body(self, spec: dict[str, Any], method: str, response: httpx.Response) -> None:
        contents = spec.get("content")
        if contents is None or response.status_code in NO_BODY:
            self._require(response.content == b"", "unexpected body")
            return
        media_type = response.headers.get("content-type", "").partition(";")[0]
        self._require(media_type in contents, f"media type {media_type}")
        if method == "HEAD":
            self._require(response.content == b"", "HEAD with a body")
            return
        value: Any
        if media_type == "application/x-ndjson":
            value = response.text
        elif media_type.endswith("json"):
            value = json.loads(response.content)
        else:
            value = yaml.load(response.content, LOADER)  # noqa: S506 - LOADER is a safe loader
        errors = self.validate(contents[media_type]["schema"], value)
        self._require(not errors, f"body: {errors}")
        if media_type == "application/problem+json":
            problem_types = self._problem_types(spec) | self.common_problem_types
            self._require(
                value["type"] in problem_types,
                f"type {value['type']} is not one of {problem_types}",
            )
            self._check_problem(value, response)

    def _problem_types(self, spec: dict[str, Any]) -> set[str]:
        """Return the problem types in the examples of a response."""
        examples = spec["content"]["application/problem+json"]["examples"]
        return {example["value"]["type"] for example in examples.values()}

    def _check_problem(self, problem: dict[str, Any], response: httpx.Response) -> None:
        self._require(problem["status"] == response.status_code, "status in body and line differ")
        self._require(problem["instance"] == response.headers["x-request-id"], "instance")
        for fault in problem["errors"]:
            one = (fault["pointer"] is None) != (fault["parameter"] is None)
            self._require(one, "an error must have either a pointer or a parameter")
        if problem["type"] != "about:blank":
            self.check_texts(problem)

    def check_texts(self, problem: dict[str, Any]) -> None:
        """Check that messages are plain, that one cause is one error, and what `detail` names."""
        errors = problem["errors"]
        for text in [error["detail"] for error in errors] or [problem["detail"]]:
            self._require(not INTERNALS.search(text), f"internals in the message {text!r}")
        located = [error["parameter"] or error["pointer"] for error in errors]
        empty = [
            location
            for location, error in zip(located, errors, strict=True)
            if error["detail"] == "must not be empty"
        ]
        self._require(
            all(located.count(location) == 1 for location in empty), "one cause has two errors"
        )
        if errors and problem["type"] in NAMES_FIRST_ERROR:
            first = f"{located[0] or 'request body'}: {errors[0]['detail']}"
            self._require(
                problem["detail"].startswith(first[:1024]),
                f"detail does not name the first error, {first!r}",
            )
        if problem["type"] == "/problems/precondition-failed":
            self._require(
                problem["detail"].startswith(("If-Match ", "If-None-Match ")),
                "detail does not name the header",
            )

    def _require(self, condition: object, message: str) -> None:
        if not condition:
            raise ContractViolation(message)
