"""The contract, `openapi.yaml`: loaded once, served as it is, and held against the routes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Annotated, Any

import jsonschema_rs
import msgspec
import yaml
from litestar.enums import HttpMethod
from litestar.routes import BaseRoute, HTTPRoute
from msgspec import Meta

from app.http.etags import etag_of
from app.http.problems import MAX_ERRORS, MAX_POINTER_LENGTH, FieldError

OPENAPI_PATH = Path(__file__).parents[2] / "openapi.yaml"
METHODS = {"get", "put", "post", "delete", "options", "head", "patch", "trace"}
# libyaml's loader where PyYAML was built with it: ten times faster at start-up.
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_PROBLEM = re.compile(r"^ *\| `/problems/([a-z-]+)` \| \d{3} \| (.+) \|$", re.MULTILINE)

Operation = tuple[str, str, str]
"""Path template, method in upper case, operationId."""


class OpenApiDocument(msgspec.Struct, frozen=True):
    """The properties of the contract that clients may rely on. It is served as it was written."""

    openapi: Annotated[str, Meta(max_length=16, pattern=r"^3\.1\.[0-9]+\Z")]


class RouteMismatchError(Exception):
    """Routes and contract differ; the message names every difference."""


class OpenAPIDocument:
    """One version of the contract."""

    def __init__(self, source: bytes) -> None:
        """Take the contract's YAML."""
        self.yaml_bytes = source
        self.document: dict[str, Any] = yaml.load(source, LOADER)  # noqa: S506 - a safe loader
        self.json_bytes = msgspec.json.encode(self.document)
        self._validators: dict[str, jsonschema_rs.Draft202012Validator] = {}

    @classmethod
    def load(cls) -> OpenAPIDocument:
        """Read the contract beside the package."""
        return cls(OPENAPI_PATH.read_bytes())

    @cached_property
    def yaml_etag(self) -> str:
        """The entity tag of the YAML."""
        return etag_of(self.yaml_bytes)

    @cached_property
    def json_etag(self) -> str:
        """The entity tag of the JSON."""
        return etag_of(self.json_bytes)

    @cached_property
    def problems(self) -> dict[str, str]:
        """When each kind of problem occurs, by the last part of its type: the contract's table."""
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
        """Raise RouteMismatchError unless the routes are the contract's operations, all of them."""
        implemented = set(_operations_of(routes))
        differences = [
            f"{method} {path} ({operation_id}) is in {where} alone"
            for where, some in (
                ("the contract", self.operations() - implemented),
                ("the code", implemented - self.operations()),
            )
            for path, method, operation_id in sorted(some)
        ]
        if differences:
            raise RouteMismatchError("\n".join(differences))

    def check_no_route_conflicts(self, routes: Iterable[BaseRoute]) -> None:
        """Raise RouteMismatchError where a route beside the contract's stands on a path of it."""
        own = self.operations()
        forms = {_normalize_path(path) for path, _, _ in own}
        shadows = [
            f"{method} {path} ({operation_id}) stands on a path of the contract"
            for path, method, operation_id in sorted(set(_operations_of(routes)) - own)
            if _normalize_path(path) in forms
        ]
        if shadows:
            raise RouteMismatchError("\n".join(shadows))

    def validate(self, schema: str, value: object) -> list[FieldError]:
        """The faults that the component schema of this name finds in a decoded JSON value.

        At most one more than a problem lists: a body of 128 KiB can have thousands of them.
        """
        if schema not in self._validators:
            self._validators[schema] = jsonschema_rs.Draft202012Validator(
                {
                    "$ref": f"#/components/schemas/{schema}",
                    "components": self.document["components"],
                },
                mask="it",
                # Matches in linear time; the default engine may backtrack.
                pattern_options=jsonschema_rs.RegexOptions(),
            )
        errors = self._validators[schema].iter_errors(value)
        faults = chain.from_iterable(map(_field_errors, errors))
        return list(islice(faults, MAX_ERRORS + 1))


def _operations_of(routes: Iterable[BaseRoute]) -> Iterator[Operation]:
    for route in routes:
        if isinstance(route, HTTPRoute):
            for handler in route.route_handlers:
                # The framework adds an OPTIONS handler of its own to each route.
                for method in handler.http_methods - {HttpMethod.OPTIONS}:
                    yield route.path_format, str(method), str(handler.operation_id)


def _normalize_path(path: str) -> str:
    """A path template without the names of its parameters, which routing does not look at."""
    return re.sub(r"\{[^}]*\}", "{}", path)


def _field_errors(error: jsonschema_rs.ValidationError) -> Iterator[FieldError]:
    """One fault for each member at fault, where the library reports the object they belong to."""
    kind = error.kind
    if isinstance(kind, jsonschema_rs.ValidationErrorKind.Required):
        yield FieldError(
            pointer=_pointer([*error.instance_path, kind.property]), detail="is required"
        )
    elif isinstance(kind, jsonschema_rs.ValidationErrorKind.AdditionalProperties):
        for name in kind.unexpected:
            yield FieldError(
                pointer=_pointer([*error.instance_path, name]), detail="is not a known member"
            )
    else:
        yield FieldError(pointer=_pointer(error.instance_path), detail=error.message)


def _pointer(path: Iterable[str | int]) -> str:
    """A JSON Pointer (RFC 6901), cut to the contract's limit."""
    pointer = "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)
    # A tilde at the end would be half of an escape.
    return pointer[:MAX_POINTER_LENGTH].removesuffix("~")
