"""Find the rules in a JSON Schema, and the rules that a value touches or breaks.

A rule is one keyword at one path. Each value of an `enum`, each type of a `type` list and each name
in `required` is a separate rule. The value at a limit touches the rule. Only the value one past the
limit counts as breaking it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jsonschema_rs

Schema = dict[str, Any]
Path = tuple[str, ...]

ANNOTATIONS = {
    "title",
    "description",
    "default",
    "deprecated",
    "example",
    "examples",
    "$comment",
    "x-pattern-message",
}
EACH = "*"  # every item of an array in a path
TYPES: dict[str, Callable[[Any], bool]] = {
    "null": lambda value: value is None,
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: _is_number(value) and value % 1 == 0,
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "string": lambda value: isinstance(value, str),
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
}
TOUCHED: dict[str, Callable[[Any, Any], bool]] = {
    "type": lambda limit, value: TYPES[limit](value),
    "enum": lambda limit, value: _same(value, limit),
    "const": lambda limit, value: _same(value, limit),
    "minLength": lambda limit, value: isinstance(value, str) and len(value) == limit,
    "maxLength": lambda limit, value: isinstance(value, str) and len(value) == limit,
    "pattern": lambda _, value: isinstance(value, str),
    "format": lambda _, value: isinstance(value, str),
    "minimum": lambda limit, value: _is_number(value) and value == limit,
    "maximum": lambda limit, value: _is_number(value) and value == limit,
    "minItems": lambda limit, value: isinstance(value, list) and len(value) == limit,
    "maxItems": lambda limit, value: isinstance(value, list) and len(value) == limit,
    "uniqueItems": lambda _, value: isinstance(value, list) and len(value) > 1,
    "required": lambda name, value: isinstance(value, dict) and name in value,
    "additionalProperties": lambda _, value: isinstance(value, dict),
}
# The value or length that is one past a limit.
PAST: dict[str, Callable[[Any], Any]] = {
    "minLength": lambda limit: limit - 1,
    "maxLength": lambda limit: limit + 1,
    "minimum": lambda limit: limit - 1,
    "maximum": lambda limit: limit + 1,
    "minItems": lambda limit: limit - 1,
    "maxItems": lambda limit: limit + 1,
}


class UnknownKeywordError(Exception):
    """A keyword that this module does not support."""


@dataclass(frozen=True)
class Rule:
    """One keyword of a schema, at a path from the root of the schema."""

    path: Path
    keyword: str
    limit: Any

    def __str__(self) -> str:
        location = "".join(f"/{name}" for name in self.path)
        shown = "" if self.keyword in {"pattern", "additionalProperties"} else self.limit
        return f"{location} {self.keyword} {'' if shown is None else shown}".strip()

    def touched_by(self, value: Any) -> bool:
        """Return whether a valid value is at the limit or has the required property."""
        return any(TOUCHED[self.keyword](self.limit, part) for part in _parts(value, self.path))

    def broken(self) -> Rule:
        """Return the broken rule. The rules of an `enum` or `type` list are broken together."""
        return Rule(self.path, self.keyword, None) if self.keyword in {"type", "enum"} else self


@dataclass(frozen=True)
class Breach:
    """A broken rule, and the JSON Pointer that the response must report."""

    rule: Rule
    pointer: str


class Keywords:
    """The rules of a schema without references."""

    def __init__(self, schema: Schema) -> None:
        self.schema: Schema = _without_one_of(schema)
        self.rules = tuple(dict.fromkeys(_rules(self.schema, ())))
        self._validator = jsonschema_rs.Draft202012Validator(self.schema, validate_formats=True)

    def touched(self, value: Any) -> set[Rule]:
        """Return the rules that a value touches; none if it is invalid."""
        if not self._validator.is_valid(value):
            return set()
        return {rule for rule in self.rules if rule.touched_by(value)}

    def breaches(self, value: Any) -> Iterator[Breach]:
        """Yield every rule that a value breaks by the smallest possible amount."""
        for error in self._validator.iter_errors(value):
            *schema_path, keyword = (str(part) for part in error.schema_path)
            limit = _follow(self.schema, [*schema_path, keyword])
            names = _names(error)
            rule = Rule(
                _path(schema_path), keyword, names[0] if keyword == "required" else limit
            ).broken()
            if _just_past(keyword, limit, _follow(value, error.instance_path)):
                for suffix in [[name] for name in names] or [[]]:
                    yield Breach(rule, _pointer([*error.instance_path, *suffix]))


def _rules(schema: Schema, path: Path) -> Iterator[Rule]:
    for keyword, limit in schema.items():
        if keyword == "properties":
            for name, member in limit.items():
                yield from _rules(member, (*path, name))
        elif keyword == "items":
            yield from _rules(limit, (*path, EACH))
        elif keyword in TOUCHED:
            is_list = isinstance(limit, list) and keyword in {"type", "enum", "required"}
            for one in limit if is_list else [limit]:
                yield Rule(path, keyword, one)
        elif keyword not in ANNOTATIONS:
            raise UnknownKeywordError(f"{keyword} at /{'/'.join(path)}")


def _without_one_of(node: Any) -> Any:
    """Replace each `oneOf` of an object and null with the object's schema and both types.

    The two are equivalent, because the other keywords of such an object apply only to objects. The
    library reports errors in a `oneOf` only as an error of the `oneOf`. Every other `oneOf` stays.
    """
    if isinstance(node, list):
        return [_without_one_of(item) for item in node]
    if not isinstance(node, dict):
        return node
    match node.get("oneOf"):
        case [{"type": "object", **members}, {"type": "null", **others}] if not others:
            rest = {name: member for name, member in node.items() if name != "oneOf"}
            node = {**members, **rest, "type": ["object", "null"]}
    return {name: _without_one_of(member) for name, member in node.items()}


def _names(error: jsonschema_rs.ValidationError) -> list[str]:
    """Return the invalid properties if the library reports only their object."""
    kind = error.kind
    if isinstance(kind, jsonschema_rs.ValidationErrorKind.Required):
        return [str(kind.property)]
    if isinstance(kind, jsonschema_rs.ValidationErrorKind.AdditionalProperties):
        return list(kind.unexpected)
    return []


def _just_past(keyword: str, limit: Any, value: Any) -> bool:
    if keyword not in PAST:
        return True
    measure = value if _is_number(value) else len(value)
    return bool(measure == PAST[keyword](limit))


def _path(schema_path: list[str]) -> Path:
    """Return the property names in a schema path, without the keywords between them."""
    steps = iter(schema_path)
    return tuple(EACH if step == "items" else next(steps) for step in steps)


def _pointer(path: list[str | int]) -> str:
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


def _follow(node: Any, path: Any) -> Any:
    for part in path:
        node = node[part]
    return node


def _parts(value: Any, path: Path) -> Iterator[Any]:
    """Yield the values at a path: any number if the path crosses arrays."""
    if not path:
        yield value
    elif path[0] == EACH and isinstance(value, list):
        for item in value:
            yield from _parts(item, path[1:])
    elif isinstance(value, dict) and path[0] in value:
        yield from _parts(value[path[0]], path[1:])


def _is_number(value: Any) -> bool:
    return TYPES["number"](value)


def _same(value: Any, other: Any) -> bool:
    return type(value) is type(other) and bool(value == other)
