"""Read the record of a run. `hooks.py` writes one exchange per line."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

JSON = "application/json"
PROBLEM = "application/problem+json"
# The request was valid, but a task or list does not exist, has another ETag, or has a conflict.
VALID_REQUEST_STATUSES = {404, 409, 412}
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
        """Return the request without the test case ID of Schemathesis."""
        headers = {name: self.headers[name] for name in self.headers if name != CASE}
        return self.method, self.target, tuple(sorted(headers.items())), self.body

    @cached_property
    def document(self) -> Any:
        """Return the response body; None if it is not JSON or too long for the record."""
        is_json = self.media_type in {JSON, PROBLEM}
        return json.loads(self.answer) if self.answer and is_json else None

    @property
    def problem(self) -> dict[str, Any]:
        """Return the problem in the response, or an empty dict."""
        return self.document or {} if self.media_type == PROBLEM else {}

    @property
    def accepted(self) -> bool:
        """Return whether the service accepted the request as valid."""
        return self.status < 400 or self.status in VALID_REQUEST_STATUSES

    @cached_property
    def named(self) -> set[str]:
        """Return the parameters and headers for which the response lists an error."""
        return {error["parameter"] for error in self.problem.get("errors", [])} - {None}

    @cached_property
    def pointed(self) -> set[str]:
        """Return the JSON Pointers for which the response lists an error."""
        return {error["pointer"] for error in self.problem.get("errors", [])} - {None}

    def sent(self, location: str, name: str) -> list[str]:
        """Return the values of a query parameter or header."""
        if location == "header":
            headers = {field.lower(): value for field, value in self.headers.items()}
            return [headers[name.lower()].strip(" \t")] if name.lower() in headers else []
        return [value for key, value in self.query if key == name]

    @cached_property
    def query(self) -> list[tuple[str, str]]:
        """Return the decoded query; empty if it is not UTF-8."""
        try:
            return parse_qsl(urlsplit(self.target).query, keep_blank_values=True, errors="strict")
        except ValueError:
            return []

    def read_body(self) -> Any:
        """Parse the request body. Raise ValueError if it is not JSON."""
        value = json.loads((self.body or "").encode(), parse_constant=int)
        # A lone surrogate cannot be encoded.
        json.dumps(value, ensure_ascii=False).encode()
        return value


def recorded(path: Path) -> Iterator[Exchange]:
    """Yield the exchanges of a record."""
    with gzip.open(path, "rt", encoding="ascii") as lines:
        for line in lines:
            yield Exchange(**json.loads(line))
