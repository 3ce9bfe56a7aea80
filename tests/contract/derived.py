"""The contract that the code implies: `python -m tests.contract.derived > FILE`.

It is derived from the routes of the application, the parameters and bodies of its handlers, their
responses and the problem types that they declare. Some facts have no OpenAPI keyword, or one that
generators misread. `openapi.yaml` states these facts in fixed phrases, and so does this document: a
default is "50 when absent", a further media type "may also be declared as". Problem types and
limits are rows of the tables of two tags.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import msgspec
from litestar import Litestar
from litestar.handlers import HTTPRouteHandler
from litestar.routes import HTTPRoute

from app import asgi, cli, settings
from app.db import idempotency, positions, revisions
from app.domain.health import controller
from app.domain.tasks import controller as tasks_controller
from app.domain.tasks import pages
from app.domain.users import repository as users
from app.http import body, cors, problems
from app.http.headers import CommonHeaders, ResponseHeaders
from app.http.operation import Operation
from app.http.problems import MEDIA_TYPE, Problem, ProblemError
from app.http.responses import APIResponse
from app.server import admission, parser, protocol

PROJECT = Path(__file__).parents[2] / "pyproject.toml"
REFERENCE = "#/components/schemas/"
VARIABLE = re.compile(r"\{(\w+)\}")
NULL = {"type": "null"}
COMPONENT_NAMES = {Problem.__name__: "Problem"}
# Problems outside operations: from the protocol, the router, and plug-in guards and middleware.
PROBLEMS_OUTSIDE_OPERATIONS = (
    problems.MalformedRequest,
    problems.PathNotFound,
    problems.MethodNotAllowed,
    problems.RequestTimeout,
    problems.HeaderFieldsTooLarge,
    problems.Unimplemented,
    problems.HTTPProblem,
)
LIMITS = {
    "bytes of a body": asgi.MAX_BODY_BYTES,
    "bytes of the body of a batch": tasks_controller.MAX_BATCH_BYTES,
    "bytes of a page of tasks": pages.MAX_PAGE_BYTES,
    "bytes of a page of changes": pages.MAX_PAGE_BYTES,
    "neighbors that a move may change": positions.MAX_NEIGHBORS,
    "nesting levels of arrays and objects in a body": body.MAX_DEPTH,
    "bytes of a chunk size with its extensions, and of the trailer fields": (
        parser.MAX_FRAMING_BYTES
    ),
    "bytes of all chunk sizes, extensions and trailer fields of a body": (
        parser.MAX_TOTAL_FRAMING_BYTES
    ),
    "bytes of the request line and headers": parser.MAX_HEADER_BYTES,
    "errors listed in a problem": problems.MAX_ERRORS,
    "concurrent requests of a process": settings.Settings().max_concurrent_requests,
    "concurrent requests of a process while requests queue": admission.queued_limit(
        settings.Settings().max_concurrent_requests
    ),
    "concurrent requests of a process under sustained overload": admission.saturated_limit(
        settings.Settings().max_concurrent_requests
    ),
    "bytes of unread responses of a process": admission.MAX_UNSENT_BYTES,
    "bytes of incomplete bodies of a process": admission.MAX_INCOMPLETE_BYTES,
    "pipelined requests on a connection": protocol.MAX_PIPELINED_REQUESTS,
    "seconds to receive the request line and headers": protocol.HEADER_TIMEOUT,
    "seconds to receive a body": protocol.BODY_TIMEOUT,
    "seconds for a client to read a response": protocol.WRITE_TIMEOUT,
    "seconds between two requests on a connection": settings.Settings().keep_alive_timeout,
    "seconds for requests in progress at shutdown": cli.GRACEFUL_SHUTDOWN_TIMEOUT,
    "seconds of database time for a request": settings.Settings().database_timeout,
    "seconds of database time for readiness": controller.READINESS_TIMEOUT,
    "seconds that a browser may cache a preflight response": int(cors.MAX_AGE),
    "hours that an idempotency key is stored": idempotency.TTL_HOURS,
    "items that deleteUser deletes in a request": users.MAX_DELETED,
    "days that a deleted item is known, at least": revisions.TOMBSTONE_DAYS,
}


def derive() -> dict[str, Any]:
    """Return an OpenAPI document of what the code implies about the API."""
    application = Litestar(route_handlers=asgi.ROUTE_HANDLERS, openapi_config=None)
    writer = _Writer()
    handlers = [
        (route.path_format, str(method).lower(), handler)
        for route in application.routes
        if isinstance(route, HTTPRoute)
        for handler in route.route_handlers
        if handler.operation_id
        for method in handler.http_methods
    ]
    paths: dict[str, Any] = {}
    # The order of the framework's handlers is not stable.
    for path, method, handler in sorted(handlers, key=lambda entry: entry[:2]):
        paths.setdefault(path, {})[method] = writer.operation(handler)
    _add_links(paths)
    tags = {
        tag for item in paths.values() for operation in item.values() for tag in operation["tags"]
    }
    project = tomllib.loads(PROJECT.read_text("utf-8"))["project"]
    return {
        "openapi": "3.1.0",
        "info": {"version": project["version"]},
        "servers": [{"url": "/"}],
        "security": [],
        "tags": [
            *({"name": tag} for tag in sorted(tags)),
            {"name": "errors", "description": "\n".join(_problem_type_rows())},
            {"name": "limits", "description": "\n".join(_limit_rows())},
        ],
        "paths": paths,
        "components": {"schemas": writer.components},
    }


def _problem_type_rows() -> Iterator[str]:
    for problem_type in problems.PROBLEM_TYPES:
        yield f"| `{problem_type.type}` | {int(problem_type.status)} | |"
    yield f"| `{problems.HTTPProblem.type}` | 4xx | |"


def _limit_rows() -> Iterator[str]:
    for what, limit in LIMITS.items():
        yield f"| {what} | {limit:.12g} |"


class _Writer:
    """Writes operations, and collects the components that they refer to."""

    def __init__(self) -> None:
        self.components: dict[str, Any] = {}

    def operation(self, handler: HTTPRouteHandler) -> dict[str, Any]:
        declared = _declared_operation(handler)
        parameters = declared.parameters
        converted: dict[str, Any] = {
            "operationId": handler.operation_id,
            "tags": handler.resolve_tags(),
            "parameters": [
                *self._parameters("path", parameters.path.struct),
                *self._parameters("query", parameters.query.struct),
                *self._parameters("header", parameters.headers.struct),
            ],
            "responses": dict(self._responses(handler)),
        }
        if declared.body is not None:
            media_type, *other_media_types = declared.body.media_types
            content = {media_type: {"schema": self._schema(declared.body.struct)}}
            converted["requestBody"] = {"required": True, "content": content}
            converted["description"] = " ".join(
                f"may also be declared as `{other}`" for other in other_media_types
            )
        return converted

    def _parameters(self, location: str, struct: type[msgspec.Struct]) -> Iterator[dict[str, Any]]:
        for field in msgspec.structs.fields(struct):
            absent = field.default in (msgspec.NODEFAULT, msgspec.UNSET, None)
            yield {
                "name": field.encode_name,
                "in": location,
                "required": field.required,
                "description": "" if absent else _when_absent(field.default),
                "schema": _without_null(self._schema(field.type)),
            }

    def _responses(self, handler: HTTPRouteHandler) -> Iterator[tuple[str, dict[str, Any]]]:
        declared = _declared_operation(handler)
        if declared.returns is type(None):
            yield str(handler.status_code), {"headers": self._headers([CommonHeaders])}
        else:
            for answer in get_args(declared.returns) or [declared.returns]:
                yield str(int(answer.status)), self._success(answer)
        problem_types = list(declared.raises)
        if not {path.encode() for path in handler.paths} & protocol.HEALTH_PATHS:
            # The server rejects requests before the handler runs.
            problem_types.append(problems.Overloaded)
        for status in {int(problem_type.status) for problem_type in problem_types}:
            of_status = [each for each in problem_types if each.status == status]
            yield str(status), self._problem_response(of_status)
        yield "default", self._problem_response(PROBLEMS_OUTSIDE_OPERATIONS)

    def _success(self, answer: type[APIResponse[Any]]) -> dict[str, Any]:
        response: dict[str, Any] = {"headers": self._headers([CommonHeaders, answer.headers_type])}
        (content,) = get_args(vars(answer)["__orig_bases__"][0])
        if content is not type(None):
            schema = self._schema(content, response=True)
            response["content"] = {answer.content_type: {"schema": schema}}
        if answer.openapi_links:
            response["links"] = answer.openapi_links  # completed when all paths are known
        return response

    def _problem_response(self, problem_types: Iterable[type[ProblemError]]) -> dict[str, Any]:
        content = {
            "schema": self._schema(Problem, response=True),
            "examples": {
                problem_type.__name__: {"value": {"type": problem_type.type}}
                for problem_type in problem_types
            },
        }
        headers = self._headers([CommonHeaders])
        for problem_type in problem_types:
            headers |= self._headers([problem_type.headers_type])
        for name in headers.keys() - self._headers([CommonHeaders]):
            # Optional unless all problem types have it.
            headers[name]["required"] &= all(
                name in self._headers([problem_type.headers_type]) for problem_type in problem_types
            )
        return {"headers": headers, "content": {MEDIA_TYPE: content}}

    def _headers(self, structs: Iterable[type[ResponseHeaders]]) -> dict[str, Any]:
        return {
            field.encode_name: {
                "required": field.required or field.default is not None,
                "schema": _without_null(self._schema(field.type, response=True)),
            }
            for struct in structs
            for field in msgspec.structs.fields(struct)
        }

    def _schema(self, type_: Any, *, response: bool = False) -> Any:
        (schema,), components = msgspec.json.schema_components(
            [type_], ref_template=REFERENCE + "{name}"
        )
        for name, component in components.items():
            converted = _converted(component, response=response)
            before = self.components.setdefault(COMPONENT_NAMES.get(name, name), converted)
            assert before == converted, f"{name} is not the same in requests and responses"
        return _converted(schema, response=response)


def _declared_operation(handler: HTTPRouteHandler) -> Operation:
    function: Any = handler.fn
    declared: Operation = function.operation
    return declared


def _converted(node: Any, *, response: bool) -> Any:
    """Convert a schema from msgspec to the conventions of the contract."""
    if isinstance(node, list):
        return [_converted(item, response=response) for item in node]
    if not isinstance(node, dict):
        return node
    schema = {
        key: {name: _converted(child, response=response) for name, child in value.items()}
        if key == "properties"
        else _converted(value, response=response)
        for key, value in node.items()
        if key not in {"title", "description", "default"}
    }
    if "default" in node and not response:
        schema["description"] = _when_absent(node["default"])
    if response and "properties" in schema:
        schema["required"] = list(schema["properties"])  # a default is sent like any value
    return _rewritten(schema)


def _rewritten(schema: dict[str, Any]) -> dict[str, Any]:
    if "anyOf" in schema:
        one = next(option for option in schema.pop("anyOf") if option != NULL)
        nullable = (
            {"oneOf": [one, NULL]} if "$ref" in one else {**one, "type": [one["type"], "null"]}
        )
        return {**nullable, **schema}
    if schema.get("format") == "uuid":
        schema.pop("pattern", None)  # enforces the format
    if "pattern" in schema:
        schema["pattern"] = re.sub(r"\\Z\Z", "$", schema["pattern"])
    if "enum" in schema:
        schema["type"] = "string"
    if "$ref" in schema:
        name = schema["$ref"].removeprefix(REFERENCE)
        schema["$ref"] = REFERENCE + COMPONENT_NAMES.get(name, name)
    return schema


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Remove null from the schema of an optional parameter or header: absence is not null."""
    if isinstance(schema.get("type"), list):
        return {**schema, "type": schema["type"][0]}
    return schema


def _when_absent(default: object) -> str:
    return msgspec.json.encode(default).decode().strip('"') + " when absent"


def _add_links(paths: Mapping[str, Any]) -> None:
    """Link each response that creates a resource to the operations on the resource's path."""
    responses = [
        response
        for item in paths.values()
        for operation in item.values()
        for response in operation["responses"].values()
        if "links" in response
    ]
    for response in responses:
        properties: dict[str, str] = response["links"]
        # An action on the resource, such as a move, has a longer path.
        path = min(
            (path for path in paths if set(VARIABLE.findall(path)) == set(properties)), key=len
        )
        parameters = {name: f"$response.body#/{member}" for name, member in properties.items()}
        response["links"] = {
            operation["operationId"]: {
                "operationId": operation["operationId"],
                "parameters": parameters,
            }
            for operation in paths[path].values()
        }


if __name__ == "__main__":
    json.dump(derive(), sys.stdout, indent=2)
