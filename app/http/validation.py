"""Validation messages, derived from the keywords of a JSON Schema."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from msgspec import Meta
from msgspec.json import schema_components

# The annotation with the message of a `pattern`. Code and contract contain the same message.
PATTERN_MESSAGE = "x-pattern-message"
_NULL = {"type": "null"}
_TYPES = {
    "string": "a string",
    "integer": "an integer",
    "number": "a number",
    "boolean": "true or false",
    "array": "an array",
    "object": "an object",
    "null": "null",
}
_FORMATS = {
    "uuid": "a UUID with hyphens",
    "date": "a date from 0001-01-01 to 9999-12-31",
    "date-time": "a date-time with an offset, such as 2026-01-01T00:00:00Z (in a URL, + is %2B)",
}


def non_blank_text(*, max_length: int) -> Meta:
    r"""Return the constraints of a text that contains more than white space.

    `\s` differs between Python and ECMA 262. The second class adds the characters that only one of
    them includes and that are not white space. A complete list would contain U+2028, which breaks
    generated JavaScript (research/0033).
    """
    return Meta(
        min_length=1,
        max_length=max_length,
        pattern=r"^[^\x00]*(?:[^\s\x00\x85]|[\x1C-\x1F\uFEFF])[^\x00]*\Z",
        extra_json_schema={
            PATTERN_MESSAGE: "must contain a character that is not white space, and no U+0000"
        },
    )


def describe_keyword(schema: Mapping[str, Any], keyword: str) -> str:
    """Describe what `keyword` of `schema` requires of a value."""
    if "Length" in keyword and "format" in schema:
        keyword = "format"  # says more than a length
    if keyword in {"minLength", "maxLength", "minItems", "maxItems"}:
        return f"must {_describe_size(schema, keyword)}"
    if keyword == "oneOf":  # of an object and null
        return "must be an object or null"
    if keyword == "pattern" and "format" not in schema:
        return str(schema.get(PATTERN_MESSAGE, "has an invalid format"))
    if keyword == "uniqueItems":
        return "must not contain an item twice"
    if keyword in {"type", "format", "pattern", "enum", "const", "minimum", "maximum"}:
        return f"must be {_describe_value(schema)}"
    return "is invalid"


def describe_mismatch(type_: Any, raw: str) -> str:  # noqa: ANN401 - a field's type may be any
    """Describe what msgspec type `type_` requires and the string `raw` does not meet."""
    (schema,), components = schema_components([type_], ref_template="{name}")
    schema = next(option for option in schema.get("anyOf", [schema]) if option != _NULL)
    schema = components[schema["$ref"]] if "$ref" in schema else schema
    keyword = "type"
    if schema.get("type") == "string" and "format" not in schema:
        if len(raw) < schema.get("minLength", 0):
            keyword = "minLength"
        elif len(raw) > schema.get("maxLength", math.inf):
            keyword = "maxLength"
        else:
            keyword = "pattern"
    return describe_keyword(schema, keyword)


def _describe_size(schema: Mapping[str, Any], keyword: str) -> str:
    unit = keyword.removeprefix("min").removeprefix("max")
    limit, other = schema[keyword], schema.get(f"min{unit}")
    noun = "characters" if unit == "Length" else "items"
    if limit == other == schema.get(f"max{unit}"):
        return f"have exactly {limit} {noun}"
    if keyword.startswith("max"):
        return f"have at most {limit} {noun}"
    return "not be empty" if limit == 1 else f"have at least {limit} {noun}"


def _describe_value(schema: Mapping[str, Any]) -> str:
    values = [schema["const"]] if "const" in schema else schema.get("enum", [])
    if values:
        listed = ", ".join(map(str, values))
        return f"one of {listed}" if len(values) > 1 else listed
    types = schema["type"]
    nouns = [_TYPES[name] for name in ([types] if isinstance(types, str) else types)]
    if "format" in schema:
        nouns[0] = _FORMATS.get(schema["format"], nouns[0])
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        nouns[0] += f" from {low:.12g} to {high:.12g}"
    elif low is not None:
        nouns[0] += f" of at least {low:.12g}"
    elif high is not None:
        nouns[0] += f" of at most {high:.12g}"
    return " or ".join(nouns)
