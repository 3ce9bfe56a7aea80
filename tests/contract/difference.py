"""Compare `openapi.yaml` with the contract that the code implies.

`python -m tests.contract.difference` prints every difference. Both documents are normalised, and
the results must be equal:

- Prose, examples and tags without operations are ignored. Only the phrases that `derived` also
  writes are read: defaults, further media types, problem types and limits.
- References to parameters, headers and responses are followed, and so are references to schemas
  without a class in the code, such as `Title`. A difference is reported at the referenced
  component.
- The order of keys, parameters, `tags`, `required`, `enum` and `type` is ignored. So are
  `required: false` and an empty `required`.
- Parameters of a path are parameters of each of its operations.
- `const` is an `enum` with one value, as msgspec writes it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from app.openapi.document import OpenAPIDocument
from tests.contract.derived import derive

PROSE = {"description", "summary", "title", "license", "contact", "example", "examples"}
# The keys below these keywords are names, not keywords.
NAMING = {
    "paths",
    "responses",
    "headers",
    "content",
    "links",
    "schemas",
    "properties",
    "parameters",
}
UNORDERED = {"required", "enum", "type", "tags"}
PROBLEM_TYPE_ROW = re.compile(r"^ *\| `(/problems/[a-z-]+|about:blank)` \| (\w+) \|", re.MULTILINE)
LIMIT_ROW = re.compile(r"^ *\| ([a-z][^|`]+) \| (\d+(?:\.\d+)?) \|$", re.MULTILINE)
# Tags with a table, each with what its rows contain and the pattern of a row.
TABLES = {"errors": ("problem types", PROBLEM_TYPE_ROW), "limits": ("limits", LIMIT_ROW)}
# What is read from prose or examples, and the keyword that contains it.
FACT_KEYWORDS = {
    "default value": "description",
    "other media types": "description",
    "problem types": "examples",
}
DEFAULT = re.compile(r"`?([\w.]+)`? when absent")
ALSO = re.compile(r"may also be declared as `([^`]+)`")


class Difference(NamedTuple):
    """A difference between contract and code. None means absent.

    `path` is the path from the root of the document, with every reference followed.
    """

    pointer: str
    contract: str | None
    code: str | None
    path: str

    def __str__(self) -> str:
        via = f" (via {self.path})" if self.path != self.pointer else ""
        return f"{self.pointer}{via}: the contract has {self.contract}, the code {self.code}"


class Node(NamedTuple):
    """A normalised part of a document, and its JSON Pointer (RFC 6901)."""

    pointer: str
    value: Any

    @property
    def is_list_of_objects(self) -> bool:
        """Return whether a difference can be reported for a single item."""
        items = self.value if isinstance(self.value, list) else ()
        return any(isinstance(item.value, dict) for item in items)

    def plain(self) -> Any:
        """Return the value without pointers."""
        if isinstance(self.value, dict):
            return {key: child.plain() for key, child in self.value.items()}
        if isinstance(self.value, list):
            return [child.plain() for child in self.value]
        return self.value


def find_differences() -> list[Difference]:
    """Return every difference between `openapi.yaml` and the code."""
    return differences(OpenAPIDocument.load().document, derive())


def differences(contract: Mapping[str, Any], code: Mapping[str, Any]) -> list[Difference]:
    """Return every difference between two documents, without duplicates."""
    classes = set(code["components"]["schemas"]) | {
        name
        for name, schema in contract["components"]["schemas"].items()
        if "properties" in schema or len(schema.get("enum", ())) > 1
    }
    reader = _Reader(contract, classes)
    differing = _compare(reader.document(), _Reader(code, classes).document(), "")
    unused = [
        Difference(place, "is there", "refers to it nowhere", place) for place in reader.unused()
    ]
    unique = {
        (difference.pointer, difference.contract, difference.code): difference
        for difference in [*differing, *unused]
    }
    return list(unique.values())


def _compare(contract: Node, code: Node, path: str) -> list[Difference]:
    left, right = contract.value, code.value
    if contract.is_list_of_objects and code.is_list_of_objects and len(left) == len(right):
        left, right = dict(enumerate(left)), dict(enumerate(right))
    if not (isinstance(left, dict) and isinstance(right, dict)):
        if contract.plain() == code.plain():
            return []
        return [Difference(contract.pointer, str(contract.plain()), str(code.plain()), path)]
    differ: list[Difference] = []
    for key in sorted(left.keys() | right.keys()):
        child_path = _child(path, str(key))
        if key in left and key in right:
            differ += _compare(left[key], right[key], child_path)
        else:
            contract_value = str(left[key].plain()) if key in left else None
            code_value = str(right[key].plain()) if key in right else None
            differ.append(Difference(_place(contract, key), contract_value, code_value, child_path))
    return differ


class _Reader:
    """Reads one document."""

    def __init__(self, source: Mapping[str, Any], classes: set[str]) -> None:
        self.source = source
        self.classes = classes
        self.followed: set[str] = set()

    def document(self) -> Node:
        """Return the document with the tables of its tags and the schemas of classes."""
        schemas = self.source["components"]["schemas"]
        whole = {key: value for key, value in self.source.items() if key != "components"}
        read: Node = self._keywords(whole, "")
        read.value["tags"].value[:] = [
            tag for tag in read.value["tags"].value if tag.value["name"].value in self._used_tags()
        ]
        components = {name: schemas[name] for name in schemas if name in self.classes}
        read.value["schemas"] = self._names("schemas", components, "/components/schemas")
        return Node("", read.value | dict(self._tables()))

    def _used_tags(self) -> set[str]:
        return {
            tag
            for item in self.source["paths"].values()
            for operation in item.values()
            for tag in (operation.get("tags", ()) if isinstance(operation, dict) else ())
        }

    def _tables(self) -> Iterator[tuple[str, Node]]:
        for at, tag in enumerate(self.source["tags"]):
            if tag["name"] in TABLES:
                what, row = TABLES[tag["name"]]
                place = f"/tags/{at}/description"
                rows = {name: Node(place, it) for name, it in row.findall(tag["description"])}
                yield what, Node(place, rows)

    def unused(self) -> list[str]:
        """Return the pointers of components without references."""
        return [
            pointer
            for group, members in self.source["components"].items()
            for name in members
            if (pointer := f"/components/{group}/{name}") not in self.followed
        ]

    def _keywords(self, node: Any, pointer: str) -> Node:
        """Normalise a value whose keys are keywords of OpenAPI or JSON Schema."""
        if isinstance(node, list):
            items = [self._keywords(item, f"{pointer}/{at}") for at, item in enumerate(node)]
            return Node(pointer, items)
        if not isinstance(node, dict):
            return Node(pointer, node)
        if "$ref" in node:
            return self._follow_reference(node, pointer)
        read = {
            ("enum" if key == "const" else key): self._keyword(key, value, _child(pointer, key))
            for key, value in node.items()
            if key not in PROSE and (key != "required" or value)
        }
        return Node(pointer, read | _facts(node, pointer))

    def _keyword(self, key: str, value: Any, pointer: str) -> Node:
        if key in NAMING:
            return self._names(key, value, pointer)
        if key == "const":
            return _set(pointer, [value])
        read = self._keywords(value, pointer)
        if key in UNORDERED and isinstance(value, list):
            read.value.sort(key=lambda item: str(item.plain()))
        return read

    def _names(self, key: str, value: Any, pointer: str) -> Node:
        """Normalise a value whose keys are names, or a list of parameters."""
        if isinstance(value, list):
            read = [self._keywords(item, f"{pointer}/{at}") for at, item in enumerate(value)]
            return Node(pointer, {_name_of(parameter): parameter for parameter in read})
        members = {name: self._keywords(it, _child(pointer, name)) for name, it in value.items()}
        if key == "paths":
            members = {path: _with_path_parameters(item) for path, item in members.items()}
        return Node(pointer, members)

    def _follow_reference(self, node: Mapping[str, Any], pointer: str) -> Node:
        """Follow a reference, unless its target has a class. Keep its sibling keywords."""
        target = str(node["$ref"]).removeprefix("#")
        self.followed.add(target)
        siblings = self._keywords({key: it for key, it in node.items() if key != "$ref"}, pointer)
        group, name = target.split("/")[-2:]
        if group == "schemas" and name in self.classes:
            place = f"{pointer}/$ref"
            return Node(pointer, {"$ref": Node(place, name), **siblings.value})
        component = self._keywords(self.source["components"][group][name], target)
        return Node(target, {**component.value, **siblings.value})


def _facts(node: Mapping[str, Any], pointer: str) -> dict[str, Node]:
    """Read the facts that a node states in prose or examples."""
    description = str(node.get("description", ""))
    place = f"{pointer}/description"
    facts: dict[str, Node] = {}
    if ("in" in node or "type" in node) and (default := DEFAULT.search(description)):
        facts["default value"] = Node(place, default[1])
    if "responses" in node:
        facts["other media types"] = _set(place, ALSO.findall(description))
    if pointer.endswith("/application~1problem+json"):
        problem_types = [example["value"]["type"] for example in node.get("examples", {}).values()]
        facts["problem types"] = _set(f"{pointer}/examples", problem_types)
    return facts


def _set(pointer: str, texts: Iterable[str]) -> Node:
    """Return texts with the same pointer as an ordered list."""
    return Node(pointer, [Node(pointer, text) for text in sorted(set(texts))])


def _name_of(parameter: Node) -> str:
    """Return the location and name, which identify a parameter of an operation."""
    return f"{parameter.value['in'].value} {parameter.value['name'].value}"


def _with_path_parameters(item: Node) -> Node:
    """Add the parameters of a path to each of its operations."""
    none = Node(f"{item.pointer}/parameters", {})
    shared = item.value.pop("parameters", none)
    for operation in item.value.values():
        parameters = operation.value.get("parameters", none)
        operation.value["parameters"] = Node(
            parameters.pointer, {**shared.value, **parameters.value}
        )
    return item


def _place(node: Node, key: str) -> str:
    """Return the pointer of a fact that only one document has."""
    if key in FACT_KEYWORDS:
        return _child(node.pointer, FACT_KEYWORDS[key])
    if node.pointer.endswith("/description") or " " in key:  # a table row or a parameter
        return node.pointer
    return _child(node.pointer, key)


def _child(pointer: str, key: str) -> str:
    return f"{pointer}/{key.replace('~', '~0').replace('/', '~1')}"


def main() -> int:
    """Print every difference. Return 1 if there is one."""
    differ = find_differences()
    for difference in differ:
        print(difference)  # noqa: T201 - a command line prints
    print(f"{len(differ)} differences between the contract and the code")  # noqa: T201
    return int(bool(differ))


if __name__ == "__main__":
    sys.exit(main())
