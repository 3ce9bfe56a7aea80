"""The contract, `openapi.yaml`: load it, serve it unchanged, and check the routes against it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property, reduce
from itertools import chain, islice
from operator import getitem
from pathlib import Path
from typing import Annotated, Any, cast

import jsonschema_rs
import msgspec
import yaml
from litestar.enums import HttpMethod
from litestar.routes import BaseRoute, HTTPRoute
from msgspec import Meta

from app.http.body import Json
from app.http.etags import etag_of
from app.http.problems import MAX_ERRORS, MAX_POINTER_LENGTH, FieldError
from app.http.validation import describe_keyword

OPENAPI_PATH = Path(__file__).parents[2] / "openapi.yaml"
METHODS = {"get", "put", "post", "delete", "options", "head", "patch", "trace"}
# If PyYAML was built with libyaml, its loader is ten times faster.
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_PROBLEM = re.compile(r"^ *\| `/problems/([a-z-]+)` \| \d{3} \| (.+) \|$", re.MULTILINE)

Operation = tuple[str, str, str]
"""Path template, method in upper case, operationId."""


class OpenAPIJson(msgspec.Struct, frozen=True):
    """The properties of the contract that clients may rely on. It is served unchanged."""

    openapi: Annotated[str, Meta(max_length=16, pattern=r"^3\.1\.[0-9]+\Z")]


class RouteMismatchError(Exception):
    """Routes and contract differ; the message names every difference."""


class OpenAPIDocument:
    """One version of the contract."""

    def __init__(self, source: bytes) -> None:
        self.yaml_bytes = source
        self.document: dict[str, Any] = yaml.load(source, LOADER)  # noqa: S506 - a safe loader
        self.json_bytes = msgspec.json.encode(self.document)
        self._validators: dict[str, jsonschema_rs.Draft202012Validator] = {}

    @classmethod
    def load(cls) -> OpenAPIDocument:
        """Load the contract of this version."""
        return cls(OPENAPI_PATH.read_bytes())

    @cached_property
    def yaml_etag(self) -> str:
        """The ETag of the YAML."""
        return etag_of(self.yaml_bytes)

    @cached_property
    def json_etag(self) -> str:
        """The ETag of the JSON."""
        return etag_of(self.json_bytes)

    @cached_property
    def problems(self) -> dict[str, str]:
        """When each problem type occurs, by the last part of its URI; from the contract's table."""
        return dict(_PROBLEM.findall(self.yaml_bytes.decode()))

    def operations(self) -> set[Operation]:
        """Every operation of the contract."""
        return {
            (path, method.upper(), operation["operationId"])
            for path, item in self.document["paths"].items()
            for method, operation in item.items()
            if method in METHODS
        }

    def check_routes(self, routes: Iterable[BaseRoute]) -> None:
        """Raise RouteMismatchError unless the routes are exactly the contract's operations."""
        implemented = set(_operations_of(routes))
        differences = [
            f"{method} {path} ({operation_id}) is only in {source}"
            for source, operations in (
                ("the contract", self.operations() - implemented),
                ("the code", implemented - self.operations()),
            )
            for path, method, operation_id in sorted(operations)
        ]
        if differences:
            raise RouteMismatchError("\n".join(differences))

    def check_no_route_conflicts(self, routes: Iterable[BaseRoute]) -> None:
        """Raise RouteMismatchError if any other route has a path of the contract."""
        declared = self.operations()
        paths = {_normalize_path(path) for path, _, _ in declared}
        conflicts = [
            f"{method} {path} ({operation_id}) conflicts with a path of the contract"
            for path, method, operation_id in sorted(set(_operations_of(routes)) - declared)
            if _normalize_path(path) in paths
        ]
        if conflicts:
            raise RouteMismatchError("\n".join(conflicts))

    def validate(self, schema: str, value: Json) -> list[FieldError]:
        """Validate a decoded JSON value against the component schema of this name.

        Returns at most one error more than a problem lists. Of each array, only as many items are
        validated: an array of 1 MiB would take ten seconds and a gigabyte.
        """
        root = {
            "$ref": f"#/components/schemas/{schema}",
            "components": self.document["components"],
        }
        if schema not in self._validators:
            self._validators[schema] = jsonschema_rs.Draft202012Validator(
                root,
                mask="value",
                validate_formats=True,
                # Matches in linear time; the default engine may backtrack.
                pattern_options=jsonschema_rs.RegexOptions(),
            )
        errors = self._validators[schema].iter_errors(_shorten(value))
        field_errors = chain.from_iterable(_field_errors(error, root) for error in errors)
        return list(islice(_without_repetition(field_errors), MAX_ERRORS + 1))


def _shorten(value: Json) -> Json:
    """Return a copy with the first items of each array, so many that `maxItems` stays exceeded."""
    if isinstance(value, list):
        return [_shorten(item) for item in value[: MAX_ERRORS + 1]]
    if isinstance(value, dict):
        return {name: _shorten(item) for name, item in value.items()}
    return value


def _operations_of(routes: Iterable[BaseRoute]) -> Iterator[Operation]:
    for route in routes:
        if isinstance(route, HTTPRoute):
            for handler in route.route_handlers:
                # Litestar adds an OPTIONS handler to each route.
                for method in handler.http_methods - {HttpMethod.OPTIONS}:
                    yield route.path_format, str(method), str(handler.operation_id)


def _normalize_path(path: str) -> str:
    """Remove the parameter names from a path template. Routing ignores them."""
    return re.sub(r"\{[^}]*\}", "{}", path)


def _field_errors(
    error: jsonschema_rs.ValidationError, root: Mapping[str, Any]
) -> Iterator[FieldError]:
    """Yield one error for each property; the library reports some for their object."""
    kind = error.kind
    if isinstance(kind, jsonschema_rs.ValidationErrorKind.Required):
        pointer = _pointer([*error.instance_path, kind.property])
        yield FieldError(pointer=pointer, detail="is required")
        return
    if isinstance(kind, jsonschema_rs.ValidationErrorKind.AdditionalProperties):
        for name in kind.unexpected:
            pointer = _pointer([*error.instance_path, name])
            yield FieldError(pointer=pointer, detail="unknown property")
        return
    if isinstance(kind, jsonschema_rs.ValidationErrorKind.OneOfNotValid):
        # An object or null. The errors of a value with the right type are those of its branch.
        for errors in kind.context:
            if not any(_is_type_error(each, error.instance_path) for each in errors):
                yield from chain.from_iterable(_field_errors(each, root) for each in errors)
                return
    *path, keyword = error.schema_path
    schema: Any = reduce(getitem, path, cast("Any", root))
    if keyword == "pattern" and len(str(error.instance)) < schema.get("minLength", 0):
        return  # reported as too short: one cause, one error
    detail = describe_keyword(schema, str(keyword))
    yield FieldError(pointer=_pointer(error.instance_path), detail=detail)


def _without_repetition(errors: Iterable[FieldError]) -> Iterator[FieldError]:
    """Yield each error once: a value may violate several keywords that are described the same."""
    seen: set[FieldError] = set()
    for error in errors:
        if error not in seen:
            seen.add(error)
            yield error


def _is_type_error(error: jsonschema_rs.ValidationError, path: Sequence[str | int]) -> bool:
    return error.schema_path[-1] == "type" and error.instance_path == path


def _pointer(path: Iterable[str | int]) -> str:
    """Build a JSON Pointer (RFC 6901), truncated to the contract's limit."""
    pointer = "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)
    # A tilde at the end would be half of an escape.
    return pointer[:MAX_POINTER_LENGTH].removesuffix("~")
