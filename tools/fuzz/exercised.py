"""What there is to exercise of the contract, and what an exchange with the service shows of it."""

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
# The kinds of problems stand in a table of the contract's description alone.
PROBLEM_TYPE = re.compile(r"^\| `(/problems/[a-z-]+|about:blank)` \|", re.MULTILINE)
INTEGER = re.compile(r"-?[0-9]{1,18}")
BOOLEANS = {"true": True, "false": False}
NO_METHOD = 405
UNSUPPORTED = 415


class Item(NamedTuple):
    """One thing of the contract that a run can exercise."""

    operation: str
    column: str
    what: str


@dataclass(frozen=True)
class Parameter:
    """A parameter of an operation."""

    name: str
    place: str
    required: bool
    keywords: Keywords

    def __str__(self) -> str:
        return f"{self.place} {self.name}"

    def read(self, text: str) -> Any:
        """The value that a text stands for; the text itself where it stands for none."""
        kind = self.keywords.schema.get("type")
        if kind == "integer" and INTEGER.fullmatch(text):
            return int(text)
        return BOOLEANS.get(text, text) if kind == "boolean" else text

    def can_break(self, rule: Rule) -> bool:
        """Whether a value can break the rule: all are texts, and in a path none is empty."""
        if rule.keyword == "type":
            return bool(rule.limit != "string")
        return (self.place, rule.keyword, rule.limit) != ("path", "minLength", 1)


class Operation:
    """An operation of the contract, and what there is to exercise of it."""

    def __init__(self, path: str, method: str, node: Document, parameters: list[Document]) -> None:
        """Take an operation without references, and the parameters of it and of its path."""
        self.name: str = node["operationId"]
        self.method = method
        self.form = re.compile(re.sub(r"\\\{([^}]+)\\\}", r"(?P<\1>[^/]+)", re.escape(path)))
        self.parameters = [
            Parameter(
                each["name"], each["in"], each.get("required", False), Keywords(each["schema"])
            )
            for each in parameters
        ]
        content = node.get("requestBody", {}).get("content", {})
        self.bodies = {name: Keywords(media["schema"]) for name, media in content.items()}
        self.answers = {
            (status, media_type): Keywords(media.get("schema", {}))
            for status, response in node["responses"].items()
            for media_type, media in response.get("content", {"": {}}).items()
        }
        self.statuses = {status for status, _ in self.answers}

    def item(self, column: str, what: object) -> Item:
        return Item(self.name, column, str(what))

    def expected(self) -> Iterator[Item]:
        """Everything there is to exercise."""
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
        for (status, media_type), keywords in self.answers.items():
            yield self.item(RESPONSES, f"{status} {media_type}".strip())
            for what in nullable(keywords) if status.startswith("2") else []:
                yield self.item(RESPONSES, f"{status} {what}")

    def _expected_of(self, parameter: Parameter) -> Iterator[Item]:
        yield self.item(PARAMETERS, f"{parameter} sent")
        if not parameter.required:
            yield self.item(PARAMETERS, f"{parameter} left out")
        if parameter.place == "query":
            yield self.item(PARAMETERS, f"{parameter} given twice")
        for rule in parameter.keywords.rules:
            yield self.item(POSITIVE, f"{parameter} {rule}")
            if parameter.can_break(rule):
                yield self.item(NEGATIVE, f"{parameter} {rule.broken()}")

    def shown(self, exchange: Exchange, segments: dict[str, str]) -> Iterator[Item]:
        """What an exchange with this operation shows."""
        for parameter in self.parameters:
            place, name = parameter.place, parameter.name
            texts = [segments[name]] if place == "path" else exchange.sent(place, name)
            yield from self._shown_of(parameter, texts, exchange)
        declared = {each.name for each in self.parameters if each.place == "query"}
        if {name for name, _ in exchange.query if name in exchange.named} - declared:
            yield self.item(PARAMETERS, "an undeclared query parameter")
        if self.bodies:
            yield from self._shown_of_body(exchange)
        yield from self._shown_of_answer(exchange)

    def _shown_of(
        self, parameter: Parameter, texts: list[str], exchange: Exchange
    ) -> Iterator[Item]:
        refused = parameter.name in exchange.named
        if len(texts) > 1 and refused:
            yield self.item(PARAMETERS, f"{parameter} given twice")
        if not texts and exchange.accepted:
            yield self.item(PARAMETERS, f"{parameter} left out")
        if len(texts) != 1:
            return
        value = parameter.read(texts[0])
        if exchange.accepted:
            yield self.item(PARAMETERS, f"{parameter} sent")
            for rule in parameter.keywords.touched(value):
                yield self.item(POSITIVE, f"{parameter} {rule}")
        elif refused:
            for breach in parameter.keywords.breaches(value):
                yield self.item(NEGATIVE, f"{parameter} {breach.rule}")

    def _shown_of_body(self, exchange: Exchange) -> Iterator[Item]:
        media_type = "".join(exchange.sent("header", "Content-Type")).partition(";")[0].lower()
        if not exchange.body and exchange.status in {400, 415}:
            yield self.item(NEGATIVE, "body left out")
        elif media_type in self.bodies:
            yield from self._shown_of_value(media_type, exchange)
        elif exchange.status == UNSUPPORTED:
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

    def _shown_of_answer(self, exchange: Exchange) -> Iterator[Item]:
        status = str(exchange.status) if str(exchange.status) in self.statuses else "default"
        yield self.item(RESPONSES, f"{status} {exchange.media_type}".strip())
        keywords = self.answers.get((status, exchange.media_type))
        if status.startswith("2") and keywords and exchange.document is not None:
            for what in nulls(keywords, exchange.document):
                yield self.item(RESPONSES, f"{status} {what}")


class Reader:
    """Reads from exchanges what they show of a contract."""

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
            for (_, media_type), keywords in operation.answers.items()
            if media_type == PROBLEM
        )

    def expected(self) -> set[Item]:
        """Everything there is to exercise of the contract."""
        items = {item for operation in self.operations for item in operation.expected()}
        kinds = [*self.types, *(f"problem {what}" for what in nullable(self.problem))]
        return items | {Item(WHOLE, RESPONSES, what) for what in kinds}

    def shown(self, exchange: Exchange) -> set[Item]:
        """What an exchange shows, of what there is to exercise."""
        path = exchange.target.partition("?")[0]
        found: set[Item] = set()
        here = [(each, match) for each in self.operations if (match := each.form.fullmatch(path))]
        for operation, match in here:
            if operation.method == exchange.method:
                segments = {name: unquote(text) for name, text in match.groupdict().items()}
                found |= set(operation.shown(exchange, segments))
            elif exchange.status == NO_METHOD:
                # A method that none of the path's operations has is answered for all of them.
                found.add(operation.item(RESPONSES, f"default {exchange.media_type}"))
        if exchange.problem:
            kinds = [exchange.problem["type"]]
            kinds += [f"problem {what}" for what in nulls(self.problem, exchange.problem)]
            found |= {Item(WHOLE, RESPONSES, what) for what in kinds}
        return found

    def _inlined(self, node: Any) -> Any:
        """The node with what its references name in their place."""
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
    """Both states of every member that may be null."""
    paths = [rule.path for rule in keywords.rules if is_null(rule)]
    return [_state(path, null=null) for path in paths for null in (True, False)]


def nulls(keywords: Keywords, value: Any) -> set[str]:
    """The states that are seen in a value."""
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
