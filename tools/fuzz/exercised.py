"""List the items of the contract that a run can cover, and those that an exchange covers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import unquote

from app.openapi.document import METHODS
from tests.support.contract_check import prose_of
from tools.fuzz.exchanges import PROBLEM, Exchange
from tools.fuzz.keywords import Keywords, Rule

Document = dict[str, Any]

PARAMETERS = "parameters"
POSITIVE = "keywords +"
NEGATIVE = "keywords -"
RESPONSES = "responses"
WHOLE = "(any operation)"
# Only a table in the contract's prose lists the problem types.
PROBLEM_TYPE = re.compile(r"^\| `(/problems/[a-z-]+|about:blank)` \|", re.MULTILINE)
INTEGER = re.compile(r"-?[0-9]{1,18}")
BOOLEANS = {"true": True, "false": False}
METHOD_NOT_ALLOWED = 405
UNSUPPORTED_MEDIA_TYPE = 415


class Item(NamedTuple):
    """An item of the contract that a run can cover."""

    operation: str
    column: str
    what: str


@dataclass(frozen=True)
class Parameter:
    name: str
    location: str
    required: bool
    keywords: Keywords

    def __str__(self) -> str:
        return f"{self.location} {self.name}"

    def read(self, text: str) -> Any:
        """Convert a string to the type of the parameter; return the string if it is invalid."""
        type_name = self.keywords.schema.get("type")
        if type_name == "integer" and INTEGER.fullmatch(text):
            return int(text)
        return BOOLEANS.get(text, text) if type_name == "boolean" else text

    def can_break(self, rule: Rule) -> bool:
        """Return whether a string can break the rule. A path parameter cannot be empty."""
        if rule.keyword == "type":
            return bool(rule.limit != "string")
        return (self.location, rule.keyword, rule.limit) != ("path", "minLength", 1)


class Operation:
    """An operation of the contract without references, and its items."""

    def __init__(self, path: str, method: str, node: Document, parameters: list[Document]) -> None:
        self.name: str = node["operationId"]
        self.method = method
        self.pattern = re.compile(re.sub(r"\\\{([^}]+)\\\}", r"(?P<\1>[^/]+)", re.escape(path)))
        self.parameters = [
            Parameter(
                each["name"], each["in"], each.get("required", False), Keywords(each["schema"])
            )
            for each in parameters
        ]
        content = node.get("requestBody", {}).get("content", {})
        self.bodies = {name: Keywords(media["schema"]) for name, media in content.items()}
        self.responses = {
            (status, media_type): Keywords(media.get("schema", {}))
            for status, response in node["responses"].items()
            for media_type, media in response.get("content", {"": {}}).items()
        }
        self.statuses = {status for status, _ in self.responses}

    def item(self, column: str, what: object) -> Item:
        return Item(self.name, column, str(what))

    def expected(self) -> Iterator[Item]:
        """Yield every item of the operation."""
        yield self.item(PARAMETERS, "an undeclared query parameter")
        for parameter in self.parameters:
            yield from self._expected_of(parameter)
        if self.bodies:
            yield self.item(NEGATIVE, "body left out")
            yield self.item(NEGATIVE, "body of another media type")
        for media_type, keywords in self.bodies.items():
            yield self.item(POSITIVE, f"body {media_type}")
            for rule in keywords.rules:
                yield self.item(POSITIVE, f"body {rule}")
                yield self.item(NEGATIVE, f"body {rule.broken()}")
        for (status, media_type), keywords in self.responses.items():
            yield self.item(RESPONSES, f"{status} {media_type}".strip())
            for what in nullable(keywords) if status.startswith("2") else []:
                yield self.item(RESPONSES, f"{status} {what}")

    def _expected_of(self, parameter: Parameter) -> Iterator[Item]:
        yield self.item(PARAMETERS, f"{parameter} sent")
        if not parameter.required:
            yield self.item(PARAMETERS, f"{parameter} left out")
        if parameter.location == "query":
            yield self.item(PARAMETERS, f"{parameter} given twice")
        for rule in parameter.keywords.rules:
            yield self.item(POSITIVE, f"{parameter} {rule}")
            if parameter.can_break(rule):
                yield self.item(NEGATIVE, f"{parameter} {rule.broken()}")

    def shown(self, exchange: Exchange, segments: dict[str, str]) -> Iterator[Item]:
        """Yield the items that an exchange covers."""
        for parameter in self.parameters:
            location, name = parameter.location, parameter.name
            values = [segments[name]] if location == "path" else exchange.sent(location, name)
            yield from self._shown_of(parameter, values, exchange)
        declared = {each.name for each in self.parameters if each.location == "query"}
        if {name for name, _ in exchange.query if name in exchange.named} - declared:
            yield self.item(PARAMETERS, "an undeclared query parameter")
        if self.bodies:
            yield from self._shown_of_body(exchange)
        yield from self._shown_of_response(exchange)

    def _shown_of(
        self, parameter: Parameter, values: list[str], exchange: Exchange
    ) -> Iterator[Item]:
        rejected = parameter.name in exchange.named
        if len(values) > 1 and rejected:
            yield self.item(PARAMETERS, f"{parameter} given twice")
        if not values and exchange.accepted:
            yield self.item(PARAMETERS, f"{parameter} left out")
        if len(values) != 1:
            return
        value = parameter.read(values[0])
        if exchange.accepted:
            yield self.item(PARAMETERS, f"{parameter} sent")
            for rule in parameter.keywords.touched(value):
                yield self.item(POSITIVE, f"{parameter} {rule}")
        elif rejected:
            for breach in parameter.keywords.breaches(value):
                yield self.item(NEGATIVE, f"{parameter} {breach.rule}")

    def _shown_of_body(self, exchange: Exchange) -> Iterator[Item]:
        media_type = "".join(exchange.sent("header", "Content-Type")).partition(";")[0].lower()
        if not exchange.body and exchange.status in {400, 415}:
            yield self.item(NEGATIVE, "body left out")
        elif media_type in self.bodies:
            yield from self._shown_of_value(media_type, exchange)
        elif exchange.status == UNSUPPORTED_MEDIA_TYPE:
            yield self.item(NEGATIVE, "body of another media type")

    def _shown_of_value(self, media_type: str, exchange: Exchange) -> Iterator[Item]:
        try:
            value = exchange.read_body()
        except ValueError:
            return
        if exchange.accepted:
            yield self.item(POSITIVE, f"body {media_type}")
            for rule in self.bodies[media_type].touched(value):
                yield self.item(POSITIVE, f"body {rule}")
            return
        for breach in self.bodies[media_type].breaches(value):
            if breach.pointer in exchange.pointed:
                yield self.item(NEGATIVE, f"body {breach.rule}")

    def _shown_of_response(self, exchange: Exchange) -> Iterator[Item]:
        status = str(exchange.status) if str(exchange.status) in self.statuses else "default"
        yield self.item(RESPONSES, f"{status} {exchange.media_type}".strip())
        keywords = self.responses.get((status, exchange.media_type))
        if status.startswith("2") and keywords and exchange.document is not None:
            for what in nulls(keywords, exchange.document):
                yield self.item(RESPONSES, f"{status} {what}")


class Reader:
    """Reads the covered items of a contract from exchanges."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.operations = [
            Operation(
                path,
                method.upper(),
                self._inlined({key: operation[key] for key in operation if key != "parameters"}),
                self._inlined([*item.get("parameters", []), *operation.get("parameters", [])]),
            )
            for path, item in document["paths"].items()
            for method, operation in item.items()
            if method in METHODS
        ]
        self.types = PROBLEM_TYPE.findall(prose_of(document))
        self.problem = next(
            keywords
            for operation in self.operations
            for (_, media_type), keywords in operation.responses.items()
            if media_type == PROBLEM
        )

    def expected(self) -> set[Item]:
        """Return every item of the contract."""
        items = {item for operation in self.operations for item in operation.expected()}
        names = [*self.types, *(f"problem {what}" for what in nullable(self.problem))]
        return items | {Item(WHOLE, RESPONSES, what) for what in names}

    def shown(self, exchange: Exchange) -> set[Item]:
        """Return the items that an exchange covers."""
        path = exchange.target.partition("?")[0]
        found: set[Item] = set()
        matching = [
            (each, match) for each in self.operations if (match := each.pattern.fullmatch(path))
        ]
        for operation, match in matching:
            if operation.method == exchange.method:
                segments = {name: unquote(text) for name, text in match.groupdict().items()}
                found |= set(operation.shown(exchange, segments))
            elif exchange.status == METHOD_NOT_ALLOWED:
                # A 405 response counts for every operation of the path.
                found.add(operation.item(RESPONSES, f"default {exchange.media_type}"))
        if exchange.problem:
            names = [exchange.problem["type"]]
            names += [f"problem {what}" for what in nulls(self.problem, exchange.problem)]
            found |= {Item(WHOLE, RESPONSES, what) for what in names}
        return found

    def _inlined(self, node: Any) -> Any:
        """Replace the references in a node with their targets."""
        if isinstance(node, list):
            return [self._inlined(item) for item in node]
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            target: Any = self.document
            for part in node["$ref"].removeprefix("#/").split("/"):
                target = target[part]
            return self._inlined(target)
        return {name: self._inlined(member) for name, member in node.items()}


def nullable(keywords: Keywords) -> list[str]:
    """Return both states of every nullable property."""
    paths = [rule.path for rule in keywords.rules if is_null(rule)]
    return [_state(path, null=null) for path in paths for null in (True, False)]


def nulls(keywords: Keywords, value: Any) -> set[str]:
    """Return the null states in a value."""
    optional = {rule.path for rule in keywords.rules if is_null(rule)}
    return {
        _state(rule.path, null=is_null(rule))
        for rule in keywords.rules
        if rule.keyword == "type" and rule.path in optional and rule.touched_by(value)
    }


def is_null(rule: Rule) -> bool:
    return rule.keyword == "type" and rule.limit == "null"


def _state(path: tuple[str, ...], *, null: bool) -> str:
    return f"/{'/'.join(path)} {'' if null else 'not '}null"
