"""The running service against the contract: a short run of what `task fuzz` does at length."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from app import server
from app.main import create_app
from tests.contract.fuzz import ServiceError, judge, main, serving

SEED = 20261123
REPORT: dict[str, Any] = {
    "seed": SEED,
    "operations": {"tested": 0},
    "phases": {"fuzzing": {"status": "skip"}},
    "test_cases": {"generated": 0, "unique_failures": 0},
    "failures": [],
    "errors": [],
    "warnings": {"missing_test_data": ["GET /livez"], "rate_limited": []},
    "valid_rates": {"GET /livez": {"fuzzing": {"accepted": 0}}},
    "filtered": 0,
    "baseline": None,
}


@pytest.mark.requirement("NFR-003")
def test_the_service_keeps_the_contract(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    environ = {"FUZZ_EXAMPLES": "10", "FUZZ_SEED": str(SEED)}
    outcome = main([str(tmp_path)], environ)
    record_property("figure", outcome.summary)
    assert outcome.exit_code == 0, outcome
    assert (tmp_path / "junit.xml").exists()
    exchanges = json.loads((tmp_path / "har.json").read_bytes())["log"]["entries"]
    # The hooks do their work: without them no cursor and no tag would ever hold.
    reached = {
        (exchange["response"]["status"], name)
        for exchange in exchanges
        for name in _sent(exchange["request"])
    }
    assert reached >= {
        (200, "cursor"),
        (304, "if-none-match"),
        (200, "if-match"),
        (412, "if-match"),
    }


def _sent(request: dict[str, Any]) -> set[str]:
    """The names of the parameters and header fields in a request of a HAR file."""
    pairs = [*request["queryString"], *request["headers"]]
    return {pair["name"].lower() for pair in pairs if pair["value"] != "*"}


def without_etag(app: ASGIApp) -> ASGIApp:
    """A fault of a response: a header field that the contract requires is left out."""

    async def faulty(scope: Scope, receive: Receive, send: Send) -> None:
        async def strip(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [pair for pair in message["headers"] if pair[0] != b"etag"]
            await send(message)

        await app(scope, receive, strip)

    return faulty


def without_query(app: ASGIApp) -> ASGIApp:
    """A fault of reading: query parameters are not looked at, whatever they are."""

    async def faulty(scope: Scope, receive: Receive, send: Send) -> None:
        scope["query_string"] = b""
        await app(scope, receive, send)

    return faulty


def serve_wrongly() -> None:
    """Serve as `python -m app serve` does, but with the faults above; in a process of its own."""
    faulty = partial(create_app, middleware=[without_etag, without_query])
    with patch.object(server, "create_app", faulty), patch.object(sys, "argv", ["faulty", "serve"]):
        server.main()


@pytest.mark.requirement("NFR-003")
@pytest.mark.usefixtures("database")  # for what it does afterwards: it empties the database
def test_faults_are_found(database_url: str, tmp_path: Path) -> None:
    program = "from tests.contract import test_fuzz; test_fuzz.serve_wrongly()"
    command = [sys.executable, "-c", program]
    with serving(tmp_path, database_url=database_url, command=command) as url:
        environ = {"FUZZ_URL": url, "FUZZ_EXAMPLES": "1", "FUZZ_SEED": str(SEED)}
        outcome = main([str(tmp_path)], environ)
    assert outcome.exit_code == 1
    assert set(outcome.failures) == {
        "Missing required response headers",
        "Schema-violating request accepted",
    }


def test_a_run_that_tested_nothing_proves_nothing() -> None:
    outcome = judge(REPORT, 0)
    assert outcome.exit_code == 1
    assert [shortcoming.split()[0] for shortcoming in outcome.shortcomings] == [
        "only",
        "there",
        "warnings:",
        "phases",
        "never",
    ]


def test_a_service_that_does_not_start_says_why(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit('no database')"]
    with pytest.raises(ServiceError, match="no database"), serving(tmp_path, command=command):
        pass  # pragma: no cover - not reached
