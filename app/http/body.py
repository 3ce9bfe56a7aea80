"""Request bodies: decode each strictly, and report every error of an invalid one."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterator
from typing import Any, Generic, Never, TypeVar

import msgspec
from litestar import Request
from litestar.exceptions import InternalServerException
from msgspec.inspect import StructType, UnionType, VarTupleType, type_info
from msgspec.structs import fields

from app.http.problems import (
    FieldError,
    InvalidBody,
    MalformedBody,
    UnsupportedMediaType,
)

JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
MAX_DEPTH = 100
TOO_DEEP = f"The request body is nested more than {MAX_DEPTH} levels deep."
_CHARSET = re.compile(r'(charset=(utf-8|"utf-8"))?', re.IGNORECASE)
_CONTAINERS = (dict, list)

Json = dict[str, Any] | list[Any] | str | float | None
StructT = TypeVar("StructT", bound=msgspec.Struct)


class JSONBody(Generic[StructT]):
    """The request body of one operation: its struct and the media types that a client may declare.

    The struct has the name of its component schema.
    """

    def __init__(self, struct: type[StructT], *media_types: str) -> None:
        self.struct = struct
        self.media_types = media_types
        self._decoder = msgspec.json.Decoder(struct)
        self._names = [b'"%s"' % name.encode() for name in _property_names(struct)]

    async def parse(self, request: Request[Any, Any, Any]) -> StructT:
        """Decode the body of a request.

        Raises UnsupportedMediaType, ContentTooLarge (from the framework), MalformedBody or
        InvalidBody, in this order.
        """
        self._check_media_type(request)
        try:
            raw = await request.body()
        except InternalServerException:
            # Litestar raises this if the client disconnects before the end of its body.
            msg = "The request body ended unexpectedly."
            raise MalformedBody(msg) from None
        try:
            decoded = self._decoder.decode(raw)
        except msgspec.ValidationError:
            return self._raise_validation_errors(request, raw)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise _malformed(error) from None
        # A duplicate name appears twice in quotes, unless an escape sequence hides it. So does the
        # property of two items.
        if b"\\u" in raw or any(raw.count(name) > 1 for name in self._names):
            _parse_strict_json(raw)
        return decoded

    def _check_media_type(self, request: Request[Any, Any, Any]) -> None:
        # Two headers may differ, and a proxy may use a different one than this service.
        types = request.headers.getall("content-type", [])
        if len(types) != 1:
            self._unsupported_media_type("Content-Type", "must be sent once")
        declared, _, parameters = types[0].partition(";")
        if declared.strip(" \t").lower() not in self.media_types:
            self._unsupported_media_type("Content-Type", f"must be {' or '.join(self.media_types)}")
        if not _CHARSET.fullmatch(parameters.strip(" \t")):
            self._unsupported_media_type(
                "Content-Type", "only the parameter charset=utf-8 is allowed"
            )
        codings = request.headers.getall("content-encoding", [])
        if any(coding.strip().lower() != "identity" for coding in codings):
            self._unsupported_media_type("Content-Encoding", "content encodings are not supported")

    def _unsupported_media_type(self, header: str, detail: str) -> None:
        raise UnsupportedMediaType(errors=[FieldError(parameter=header, detail=detail)])

    def _raise_validation_errors(self, request: Request[Any, Any, Any], raw: bytes) -> StructT:
        """Validate a body that does not fit its struct against the contract's schema."""
        value = _parse_strict_json(raw)
        document = request.app.state.app_state.openapi
        errors: list[FieldError] = document.validate(self.struct.__name__, value)
        if errors:
            raise InvalidBody(errors=errors)
        # JSON Schema counts 1.0 as an integer, msgspec's strict mode does not.
        return msgspec.convert(value, self.struct)


def _property_names(struct: type[msgspec.Struct]) -> Iterator[str]:
    """Yield the names of the properties of a body and of the objects in it."""
    for field in fields(struct):
        yield field.encode_name
        info = type_info(field.type)
        for option in info.types if isinstance(info, UnionType) else (info,):
            item = option.item_type if isinstance(option, VarTupleType) else option
            if isinstance(item, StructType):
                yield from _property_names(item.cls)


def _parse_strict_json(raw: bytes) -> Any:  # noqa: ANN401 - any JSON value
    """Parse a body as JSON without a schema. Integral numbers become integers.

    Raises MalformedBody for invalid JSON and for bodies that are nested too deeply. Also raises it
    for duplicate property names (RFC 8259, section 4), of which msgspec silently keeps the last.
    """
    try:
        value = json.loads(
            raw.decode(),
            object_pairs_hook=_reject_duplicate_keys,
            parse_int=_parse_number,
            parse_float=_parse_number,
            parse_constant=_reject_constant,
        )
        if _exceeds_max_depth(value):
            raise MalformedBody(TOO_DEEP)
        msgspec.json.encode(value)  # rejects lone surrogates, which json accepts
    except RecursionError:
        raise MalformedBody(TOO_DEEP) from None
    except ValueError as error:
        raise _malformed(error) from None
    return value


def _malformed(error: Exception) -> MalformedBody:
    if isinstance(error, UnicodeError):
        return MalformedBody("The request body is not UTF-8, or escapes half of a surrogate pair.")
    cause = str(error).removeprefix("JSON is malformed: ")
    return MalformedBody(f"The request body is not valid JSON: {cause}.")


def _reject_duplicate_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    properties = dict(pairs)
    if len(properties) < len(pairs):
        msg = "The request body contains a duplicate property name."
        raise MalformedBody(msg)
    return properties


def _exceeds_max_depth(value: Json) -> bool:
    """Return whether a decoded value is nested more deeply than the contract allows."""
    level: list[Json] = [value]
    for _ in range(MAX_DEPTH + 1):
        containers = [value for value in level if isinstance(value, _CONTAINERS)]
        if not containers:
            return False
        level = [
            child
            for container in containers
            for child in (container.values() if isinstance(container, dict) else container)
        ]
    return True


def _reject_constant(name: str) -> Never:
    msg = f"{name} is not a JSON value"
    raise ValueError(msg)


def _parse_number(text: str) -> float:
    # int() rejects thousands of digits, which JSON allows. The range of a float is sufficient.
    value = float(text)
    if math.isinf(value):
        return math.copysign(sys.float_info.max, value)
    return int(value) if value.is_integer() else value
