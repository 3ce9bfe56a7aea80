"""How one contract differs from another, and whether a version may differ so.

Redocly's `diff` reads both documents, follows references, and knows for each constraint whether a
request or a response is bound by it. What it calls breaking is so. What it has no rule for is
breaking too, unless a table below says otherwise.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import yaml

from app.openapi.document import LOADER
from tests.tools.node import run

VERSION = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)")
DATE = r"\d{4}-\d\d-\d\d"
SECTION = re.MULTILINE | re.DOTALL

Version = tuple[int, ...]


class Level(IntEnum):
    """The part of the version that has to move at least."""

    PATCH = 1
    MINOR = 2
    MAJOR = 3


@dataclass(frozen=True)
class Change:
    """One difference between two contracts, and where its text stands."""

    level: Level
    pointer: str
    reason: str

    def __str__(self) -> str:
        return f"{self.pointer}: {self.reason} ({self.level.name.lower()})"


# Neither the wire nor a name in a generated client depends on these.
PROSE = {"$comment", "description", "example", "examples", "summary", "title"}
PROSE_TYPES = {"Contact", "Example", "ExamplesMap", "ExternalDocs", "Info", "License", "Tag"}

# Where a change of these breaks somebody, Redocly says so; any other makes more possible.
JUDGED = {
    "Operation": {"deprecated"},
    "Parameter": {"deprecated", "required"},
    "RequestBody": {"required"},
    "Schema": {
        "additionalProperties",
        "const",
        "deprecated",
        "enum",
        "format",
        "maxItems",
        "maxLength",
        "maximum",
        "minItems",
        "minLength",
        "minimum",
        "multipleOf",
        "pattern",
        "required",
        "type",
        "uniqueItems",
    },
}

# What may be new, and at which place of the document as it is read. A status that is no error and a
# media type of a response are not among them: a client may not know what to do with them.
ADDABLE = {
    "Header": r".*/headers/[^/]+",
    "Link": r".*/links/[^/]+",
    "MediaType": r".*/requestBody/content/[^/]+",
    "Operation": r"#/paths/[^/]+/[a-z]+",
    "Parameter": r".*/parameters/[^/]+",
    "PathItem": r"#/paths/[^/]+",
    "Response": r".*/responses/[45]\d\d|#/components/responses/[^/]+",
    "Schema": r".*/properties/[^/]+|#/components/schemas/[^/]+",
}


def compare(base: Path, revision: Path) -> list[Change]:
    """Every difference that is more than the order or the layout of the text."""
    options = ["--format=json", "--fail-on=none", "--config=tests/tools/redocly.yaml"]
    with tempfile.TemporaryDirectory() as folder:
        sides = [
            _spread(path, Path(folder) / f"{path.stem}.{at}.yaml")
            for at, path in enumerate((base, revision))
        ]
        report = json.loads(run("redocly", "diff", *options, *sides))
    return [_change(found) for found in report["changes"]]


def _spread(source: Path, target: Path) -> str:
    """A copy in which the parameters of a path stand with each of its operations.

    It means the same, and Redocly takes a move from one place to the other for a break.
    """
    document = yaml.load(source.read_bytes(), LOADER)  # noqa: S506 - a safe one
    for item in document.get("paths", {}).values():
        shared = item.pop("parameters", [])
        for operation in item.values() if shared else ():
            operation["parameters"] = [*shared, *operation.get("parameters", [])]
    target.write_text(json.dumps(document), "utf-8")  # which is YAML, and has no anchors
    return str(target)


def _change(found: dict[str, Any]) -> Change:
    level = _level(found)
    # Of something that only one side has, the other side names the nearest that it has.
    sides = [found[side]["pointer"] for side in ("base", "revision") if side in found]
    reasons = [verdict["message"] for verdict in found["verdicts"]]
    subject = found.get("property") or found["typeName"]
    return Change(
        level,
        max(sides, key=len).removeprefix("#"),
        " ".join(reasons) or f"`{subject}` was {found['kind']}.",
    )


def _level(found: dict[str, Any]) -> Level:
    name, kind = found["typeName"], found["kind"]
    if found["impact"] == "major":
        return Level.MAJOR
    if name in PROSE_TYPES or found.get("property") in PROSE:
        return Level.PATCH
    if kind == "modified":
        return _modified(name, found["property"], found["base"], found["revision"])
    may_be_new = kind == "added" and re.fullmatch(ADDABLE.get(name, "(?!)"), found["path"])
    return Level.MINOR if may_be_new else Level.MAJOR


def _modified(
    name: str, keyword: str, base: Mapping[str, Any], revision: Mapping[str, Any]
) -> Level:
    old, new = base.get("value"), revision.get("value")
    if (name, keyword) == ("Header", "required"):  # Redocly has no rule for it
        return Level.MINOR if new else Level.MAJOR
    if keyword not in JUDGED.get(name, set()):
        return Level.MAJOR
    reordered = isinstance(old, list) and isinstance(new, list) and sorted(old) == sorted(new)
    return Level.PATCH if reordered else Level.MINOR


def version_of(path: Path) -> Version:
    """The version that a contract gives itself."""
    document = yaml.load(path.read_bytes(), LOADER)  # noqa: S506 - a safe one
    return parse(document["info"]["version"])


def parse(text: str) -> Version:
    """A semantic version without anything behind the third number."""
    match = VERSION.fullmatch(text)
    if match is None:
        raise ValueError(f"{text} is not a version of three numbers")
    return tuple(map(int, match.groups()))


def faults(contract: Path, releases: Path, changelog: str) -> Iterator[str]:
    """What forbids this contract after those that were released; nothing when it may be."""
    released = {parse(path.stem): path for path in releases.glob("[0-9]*.yaml")}
    version, last = version_of(contract), max(released)
    text = ".".join(map(str, version))
    if version in released:
        if contract.read_bytes() != released[version].read_bytes():
            yield f"{text} is released, and this is not its text; info.version must move"
            yield from map(str, compare(released[version], contract))
        return
    if version < last:
        yield f"{text} is older than the last release, {released[last].stem}"
    section = re.search(rf"^## {re.escape(text)} - {DATE}$(.*?)(?=^## |\Z)", changelog, SECTION)
    if section is None or "\n- " not in section[1]:
        yield f"the changelog has no entry for {text}"
    allowed = _step(last, version)
    yield from (
        f"{change}; {text} is no {change.level.name.lower()} version after {released[last].stem}"
        for change in compare(released[last], contract)
        if change.level > allowed
    )


def _step(last: Version, version: Version) -> Level:
    """What may change from one version to the other."""
    if version[0] != last[0]:
        return Level.MAJOR
    return Level.MINOR if version[1] != last[1] else Level.PATCH
