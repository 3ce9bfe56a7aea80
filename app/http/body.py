"""Request bodies: decoded once, strictly; every fault of a refused one is told."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Sequence
from typing import Any, Generic, Never, TypeVar

import msgspec
from litestar import Request
from litestar.exceptions import InternalServerException

from app.http.problems import (
    MAX_ERRORS,
    FieldError,
    InvalidBody,
    MalformedBody,
    UnsupportedMediaType,
)

JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
MAX_DEPTH = 100
TOO_DEEP = "The body nests more than 100 arrays and objects into each other."
_CHARSET = re.compile(r'(charset=(utf-8|"utf-8"))?', re.IGNORECASE)
_CONTAINERS = (dict, list)

Json = dict[str, Any] | list[Any] | str | float | None
StructT = TypeVar("StructT", bound=msgspec.Struct)


class JSONBody(Generic[StructT]):
    """The body of one operation; its struct has the name of its component schema."""

    def __init__(self, struct: type[StructT], *media_types: str) -> None:
        """Take the struct and the media types that a client may declare."""
        self.struct = struct
        self.media_types = media_types
        self._decoder = msgspec.json.Decoder(struct)
        self._names = [b'"%s"' % name.encode() for name in struct.__struct_encode_fields__]

    async def parse(self, request: Request[Any, Any, Any]) -> StructT:
        """Decode the body of a request.

        Raises UnsupportedMediaType, ContentTooLarge (from the framework), MalformedBody or
        InvalidBody, in this order.
        """
        self._check_media_type(request)
        try:
            raw = await request.body()
        except InternalServerException:
            # The framework's word for a client that went away before its body had ended.
            msg = "The body was cut short."
            raise MalformedBody(msg) from None
        try:
            decoded = self._decoder.decode(raw)
        except msgspec.ValidationError:
            return self._raise_validation_errors(request, raw)
        except (msgspec.DecodeError, UnicodeDecodeError) as fault:
            raise _malformed(fault) from None
        # A name can stand twice only where its quoted form does, or where an escape hides it.
        if b"\\u" in raw or any(raw.count(name) > 1 for name in self._names):
            _parse_strict_json(raw)
        return decoded

    def _check_media_type(self, request: Request[Any, Any, Any]) -> None:
        # Sent twice, the two may differ, and what stands behind us may heed the other one.
        types = request.headers.getall("content-type", [])
        if len(types) != 1:
            self._unsupported_media_type("Content-Type", "must be sent once")
        declared, _, parameters = types[0].partition(";")
        if declared.strip(" \t").lower() not in self.media_types:
            self._unsupported_media_type("Content-Type", f"must be {' or '.join(self.media_types)}")
        if not _CHARSET.fullmatch(parameters.strip(" \t")):
            self._unsupported_media_type(
                "Content-Type", "may have the parameter charset=utf-8 alone"
            )
        codings = request.headers.getall("content-encoding", [])
        if any(coding.strip().lower() != "identity" for coding in codings):
            self._unsupported_media_type(
                "Content-Encoding", "must be absent: bodies have no content coding"
            )

    def _unsupported_media_type(self, header: str, detail: str) -> None:
        raise UnsupportedMediaType(
            f"Send the body as {self.media_types[0]}.",
            errors=[FieldError(parameter=header, detail=detail)],
        )

    def _raise_validation_errors(self, request: Request[Any, Any, Any], raw: bytes) -> StructT:
        """Ask the contract's own schema what is wrong with a body that did not fit its struct."""
        value = _parse_strict_json(raw)
        document = request.app.state.core.openapi
        faults: list[FieldError] = document.validate(self.struct.__name__, value)
        if faults:
            raise InvalidBody(f"The body has {_count(faults)}.", errors=faults)
        # JSON Schema counts 1.0 as an integer, msgspec's strict mode does not.
        return msgspec.convert(value, self.struct)


def _parse_strict_json(raw: bytes) -> Any:  # noqa: ANN401 - any JSON value
    """Read a body as JSON alone, whatever its schema; integral numbers become integers.

    Raises MalformedBody, also where an object has a name twice, of which msgspec keeps the last
    without a word (RFC 8259, section 4), and where values nest deeper than the contract allows.
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
        msgspec.json.encode(value)  # lone surrogates, which json lets pass
    except RecursionError:
        raise MalformedBody(TOO_DEEP) from None
    except ValueError as fault:
        raise _malformed(fault) from None
    return value


def _malformed(fault: Exception) -> MalformedBody:
    if isinstance(fault, UnicodeError):
        return MalformedBody("The body is not UTF-8, or escapes half of a surrogate pair.")
    return MalformedBody(f"The body is not JSON: {fault}.")


def _reject_duplicate_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        msg = "The body repeats a member name."
        raise MalformedBody(msg)
    return members


def _exceeds_max_depth(value: Json) -> bool:
    """Whether a decoded value has more levels of arrays and objects than the contract allows."""
    level: list[Json] = [value]
    for _ in range(MAX_DEPTH + 1):
        containers = [one for one in level if isinstance(one, _CONTAINERS)]
        if not containers:
            return False
        level = [
            child
            for one in containers
            for child in (one.values() if isinstance(one, dict) else one)
        ]
    return True


def _count(faults: Sequence[FieldError]) -> str:
    if len(faults) > MAX_ERRORS:
        return f"more than {MAX_ERRORS} faults"
    return "one fault" if len(faults) == 1 else f"{len(faults)} faults"


def _reject_constant(name: str) -> Never:
    msg = f"{name} is no JSON value"
    raise ValueError(msg)


def _parse_number(text: str) -> float:
    # Python refuses to read an int of thousands of digits; JSON does not, and no schema wants more
    # than a float has.
    value = float(text)
    if math.isinf(value):
        return math.copysign(sys.float_info.max, value)
    return int(value) if value.is_integer() else value
