"""Where `openapi.yaml` and the contract that the code implies differ.

`python -m tests.contract.difference` prints every place.

Both documents are read by the same rules, and what is left must be equal. What the rules even out:

- Prose and examples are the contract's alone, and so are tags that no operation has. Only what
  `derived` says in words too is read from them: defaults, further media types, kinds of problem,
  limits.
- References to parameters, header fields and responses are followed, and so are those to schemas
  that the code has no class for, such as `Title`: whether a thing that is the same in two places is
  written once is a matter of writing. The place of a difference is where the thing stands.
- Nothing depends on the order of keys, parameters, `tags`, `required`, `enum`
  and `type`; `required: false` and an empty `required` say nothing.
- Parameters of a path are parameters of each of its operations.
- `const` is an enumeration of one value: msgspec knows no other.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from app.openapi.document import OpenAPIDocument
from tests.contract.derived import derive

PROSE = {"description", "summary", "title", "license", "contact", "example", "examples"}
# Below these keys stand names, not keywords.
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
KIND_ROW = re.compile(r"^ *\| `(/problems/[a-z-]+|about:blank)` \| (\w+) \|", re.MULTILINE)
LIMIT_ROW = re.compile(r"^ *\| ([a-z][^|`]+) \| (\d+(?:\.\d+)?) \|$", re.MULTILINE)
# The tags that describe what no keyword can say, each with a table, and how a row of it is read.
TABLES = {"errors": ("kinds of problem", KIND_ROW), "limits": ("limits", LIMIT_ROW)}
# What is read from words or examples, and where they stand.
SAID_IN = {
    "default value": "description",
    "other media types": "description",
    "kinds of problem": "examples",
}
DEFAULT = re.compile(r"`?([\w.]+)`? when absent")
ALSO = re.compile(r"may also be declared as `([^`]+)`")


class Difference(NamedTuple):
    """One place at which contract and code say different things; None is nothing at all.

    `path` is the way to it from the top, with every reference followed.
    """

    pointer: str
    contract: str | None
    code: str | None
    path: str

    def __str__(self) -> str:
        way = f" (by way of {self.path})" if self.path != self.pointer else ""
        return f"{self.pointer}{way}: the contract says {self.contract}, the code {self.code}"


class Node(NamedTuple):
    """A part of a document that was read, and the JSON Pointer (RFC 6901) of where it stands."""

    pointer: str
    value: Any

    @property
    def is_list_of_objects(self) -> bool:
        """Whether its items have places of their own that a difference may be in."""
        items = self.value if isinstance(self.value, list) else ()
        return any(isinstance(item.value, dict) for item in items)

    def plain(self) -> Any:
        """The value without pointers."""
        if isinstance(self.value, dict):
            return {key: child.plain() for key, child in self.value.items()}
        if isinstance(self.value, list):
            return [child.plain() for child in self.value]
        return self.value


def found() -> list[Difference]:
    """Every difference between `openapi.yaml` and the code, by place."""
    return differences(OpenAPIDocument.load().document, derive())


def differences(contract: Mapping[str, Any], code: Mapping[str, Any]) -> list[Difference]:
    """Every difference between two documents, by place; each place once."""
    classes = set(code["components"]["schemas"]) | {
        name
        for name, schema in contract["components"]["schemas"].items()
        if "properties" in schema or len(schema.get("enum", ())) > 1
    }
    reader = _Reader(contract, classes)
    all_of_them = _compared(reader.document(), _Reader(code, classes).document(), "")
    unused = [
        Difference(place, "is there", "refers to it nowhere", place) for place in reader.unused()
    ]
    by_place = {(it.pointer, it.contract, it.code): it for it in [*all_of_them, *unused]}
    return list(by_place.values())


def _compared(contract: Node, code: Node, path: str) -> list[Difference]:
    ours, theirs = contract.value, code.value
    if contract.is_list_of_objects and code.is_list_of_objects and len(ours) == len(theirs):
        ours, theirs = dict(enumerate(ours)), dict(enumerate(theirs))
    if not (isinstance(ours, dict) and isinstance(theirs, dict)):
        if contract.plain() == code.plain():
            return []
        return [Difference(contract.pointer, str(contract.plain()), str(code.plain()), path)]
    differ: list[Difference] = []
    for key in sorted(ours.keys() | theirs.keys()):
        way = _child(path, str(key))
        if key in ours and key in theirs:
            differ += _compared(ours[key], theirs[key], way)
        else:
            says = str(ours[key].plain()) if key in ours else None
            does = str(theirs[key].plain()) if key in theirs else None
            differ.append(Difference(_place(contract, key), says, does, way))
    return differ


class _Reader:
    """Reads one document."""

    def __init__(self, source: Mapping[str, Any], classes: set[str]) -> None:
        self.source = source
        self.classes = classes
        self.followed: set[str] = set()

    def document(self) -> Node:
        """The whole, with the tables of its tags and with the schemas of classes."""
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
        """The components that nothing read refers to."""
        return [
            pointer
            for group, members in self.source["components"].items()
            for name in members
            if (pointer := f"/components/{group}/{name}") not in self.followed
        ]

    def _keywords(self, node: Any, pointer: str) -> Node:
        """A value whose keys, where it has some, are OpenAPI's or JSON Schema's."""
        if isinstance(node, list):
            items = [self._keywords(item, f"{pointer}/{at}") for at, item in enumerate(node)]
            return Node(pointer, items)
        if not isinstance(node, dict):
            return Node(pointer, node)
        if "$ref" in node:
            return self._referred(node, pointer)
        read = {
            ("enum" if key == "const" else key): self._keyword(key, value, _child(pointer, key))
            for key, value in node.items()
            if key not in PROSE and (key != "required" or value)
        }
        return Node(pointer, read | _words(node, pointer))

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
        """A value whose keys are names; the parameters of an operation have some too."""
        if isinstance(value, list):
            read = [self._keywords(item, f"{pointer}/{at}") for at, item in enumerate(value)]
            return Node(pointer, {_name_of(parameter): parameter for parameter in read})
        members = {name: self._keywords(it, _child(pointer, name)) for name, it in value.items()}
        if key == "paths":
            members = {path: _with_its_parameters(item) for path, item in members.items()}
        return Node(pointer, members)

    def _referred(self, node: Mapping[str, Any], pointer: str) -> Node:
        """What a reference leads to, with what stands beside it; a class stays a reference."""
        target = str(node["$ref"]).removeprefix("#")
        self.followed.add(target)
        beside = self._keywords({key: it for key, it in node.items() if key != "$ref"}, pointer)
        group, name = target.split("/")[-2:]
        if group == "schemas" and name in self.classes:
            place = f"{pointer}/$ref"
            return Node(pointer, {"$ref": Node(place, name), **beside.value})
        found = self._keywords(self.source["components"][group][name], target)
        return Node(target, {**found.value, **beside.value})


def _words(node: Mapping[str, Any], pointer: str) -> dict[str, Node]:
    """What a part of a document says in words, or by its examples, of what `derived` says too."""
    words = str(node.get("description", ""))
    place = f"{pointer}/description"
    said: dict[str, Node] = {}
    if ("in" in node or "type" in node) and (default := DEFAULT.search(words)):
        said["default value"] = Node(place, default[1])
    if "responses" in node:
        said["other media types"] = _set(place, ALSO.findall(words))
    if pointer.endswith("/application~1problem+json"):
        kinds = [example["value"]["type"] for example in node.get("examples", {}).values()]
        said["kinds of problem"] = _set(f"{pointer}/examples", kinds)
    return said


def _set(pointer: str, texts: Iterable[str]) -> Node:
    """Texts that all stand in one place, in whatever order."""
    return Node(pointer, [Node(pointer, text) for text in sorted(set(texts))])


def _name_of(parameter: Node) -> str:
    """What tells a parameter from the others of an operation."""
    return f"{parameter.value['in'].value} {parameter.value['name'].value}"


def _with_its_parameters(item: Node) -> Node:
    """A path's operations, each with the parameters that the path has for all of them."""
    none = Node(f"{item.pointer}/parameters", {})
    shared = item.value.pop("parameters", none)
    for operation in item.value.values():
        own = operation.value.get("parameters", none)
        operation.value["parameters"] = Node(own.pointer, {**shared.value, **own.value})
    return item


def _place(node: Node, key: str) -> str:
    """Where something stands on one side alone: in words, in a list, or under its own key."""
    if key in SAID_IN:
        return _child(node.pointer, SAID_IN[key])
    if node.pointer.endswith("/description") or " " in key:  # a row of a table, a parameter
        return node.pointer
    return _child(node.pointer, key)


def _child(pointer: str, key: str) -> str:
    return f"{pointer}/{key.replace('~', '~0').replace('/', '~1')}"


def main() -> int:
    """Print every difference; the exit code is 1 when there is one."""
    differ = found()
    for difference in differ:
        print(difference)  # noqa: T201 - a command line prints
    print(f"{len(differ)} differences between the contract and the code")  # noqa: T201
    return int(bool(differ))


if __name__ == "__main__":
    sys.exit(main())
