"""The record of a run: an exchange for each line that `fuzz_hooks.py` wrote."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

PROBLEM = "application/problem+json"
# The service got as far as the task: every parameter and the body were acceptable to it.
PASSED = {404, 412}
CASE = "X-Schemathesis-TestCaseId"


@dataclass(frozen=True)
class Exchange:
    """A line of the record."""

    phase: str | None
    method: str
    target: str
    headers: dict[str, str]
    body: str | None
    status: int
    media_type: str
    answer: str | None

    @property
    def request(self) -> tuple[object, ...]:
        """What was sent, but for the id that Schemathesis gives each case."""
        fields = {name: self.headers[name] for name in self.headers if name != CASE}
        return self.method, self.target, tuple(sorted(fields.items())), self.body

    @cached_property
    def document(self) -> Any:
        """The body of the answer; None where it is no JSON, or was too long to be recorded."""
        return json.loads(self.answer) if self.answer and "json" in self.media_type else None

    @property
    def problem(self) -> dict[str, Any]:
        """The problem that was answered; empty where it was none."""
        return self.document or {} if self.media_type == PROBLEM else {}

    @property
    def accepted(self) -> bool:
        """Whether the service acted upon the request."""
        return self.status < 400 or self.status in PASSED

    @cached_property
    def named(self) -> set[str]:
        """The parameters and header fields that the answer found at fault."""
        return {error["parameter"] for error in self.problem.get("errors", [])} - {None}

    @cached_property
    def pointed(self) -> set[str]:
        """The members of the body that the answer found at fault."""
        return {error["pointer"] for error in self.problem.get("errors", [])} - {None}

    def sent(self, place: str, name: str) -> list[str]:
        """The values of a query parameter or header field."""
        if place == "header":
            fields = {field.lower(): value for field, value in self.headers.items()}
            return [fields[name.lower()].strip(" \t")] if name.lower() in fields else []
        return [value for key, value in self.query if key == name]

    @cached_property
    def query(self) -> list[tuple[str, str]]:
        """The query, decoded; empty where it is no text."""
        try:
            return parse_qsl(urlsplit(self.target).query, keep_blank_values=True, errors="strict")
        except ValueError:
            return []

    def read_body(self) -> Any:
        """The JSON that was sent. Raises ValueError where it is none."""
        value = json.loads((self.body or "").encode(), parse_constant=int)
        # Half of a surrogate pair is no text.
        json.dumps(value, ensure_ascii=False).encode()
        return value


def recorded(path: Path) -> Iterator[Exchange]:
    """The exchanges of a record."""
    with gzip.open(path, "rt", encoding="ascii") as lines:
        for line in lines:
            yield Exchange(**json.loads(line))
