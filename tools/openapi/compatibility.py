"""Compares a contract with the last release, using `redocly diff --check-version`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tools.openapi.node import ROOT, execute

RELEASES = ROOT / "specs/phase-II/001-core-backend/contracts"
# Whether a breaking change is allowed depends on the version only, hence `--fail-on=none`.
OPTIONS = (
    "--check-version",
    "--fail-on=none",
    "--format=json",
    "--config=tools/openapi/redocly.yaml",
)


def last_release(folder: Path = RELEASES) -> Path:
    """Return the contract with the highest version in a folder of files such as `1.2.0.yaml`."""
    return max(folder.glob("[0-9]*.yaml"), key=lambda path: [*map(int, path.stem.split("."))])


def version_errors(base: Path, revision: Path) -> Iterator[str]:
    """Yield each reason why `info.version` of `revision` must not follow that of `base`."""
    finished = execute("redocly", "diff", *OPTIONS, str(base), str(revision))
    report = json.loads(finished.stdout)
    changes = report["changes"]
    if finished.returncode:
        yield finished.stderr.strip()
        yield from (_describe(change) for change in changes if change["impact"] == report["bump"])
    old, new = report["infoVersions"]["base"], report["infoVersions"]["revision"]
    if int(new.partition(".")[0]) > int(old.partition(".")[0]):
        return
    for change in changes:
        if reason := _breaking_without_rule(change):
            yield f"{change['path']}: {reason}, which requires a major version."


def _describe(change: dict[str, Any]) -> str:
    subject = change.get("property") or change["typeName"]
    messages = [verdict["message"] for verdict in change["verdicts"]]
    reason = " ".join(messages) or f"`{subject}` was {change['kind']}."
    return f"{change['path']}: {reason}"


def _breaking_without_rule(change: dict[str, Any]) -> str | None:
    """Name a breaking change for which Redocly 2.77 has no rule."""
    match change:
        case {
            "typeName": "RequestBody",
            "kind": "added",
            "revision": {"value": {"required": True}},
        }:
            return "a required request body was added"
        case {"typeName": "Header", "property": "required", "base": {"value": True}, "path": path}:
            # Problem types that are new for a status need not have the header. Clients expect them.
            is_client_error = re.search(r"/responses/4\d\d/headers/", path)
            return None if is_client_error else "a response header became optional"
        case {"typeName": "Link" | "LinksMap", "kind": "removed"}:
            return "a link was removed"
        case {"typeName": "Link", "property": "key"}:
            return "a link was renamed"
        case _:
            return None
