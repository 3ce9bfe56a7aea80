"""The running service against the contract: a short run of what `task fuzz` does at length."""

from __future__ import annotations

import re
import socket
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch
from uuid import uuid4

import pytest
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from app import cli
from app.asgi import create_app
from app.openapi.document import OpenAPIDocument
from tools.fuzz.__main__ import (
    RECORD,
    USERS,
    ServiceError,
    UnfinishedError,
    fuzz,
    judge,
    main,
    serving,
)
from tools.fuzz.coverage import measure, report
from tools.fuzz.exchanges import Exchange, recorded
from tools.fuzz.exercised import NEGATIVE, PARAMETERS, POSITIVE, RESPONSES, Item, Reader

SEED = 20261123
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
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
    "exit_code": 0,
}
# One of each kind; without its witnesses in the record it must be named as never reached.
LACKING = {
    Item("listTasks", PARAMETERS, "query limit given twice"),
    Item("listTasks", POSITIVE, "query limit maximum 200"),
    Item("createTask", POSITIVE, "body /title maxLength 500"),
    Item("createTask", NEGATIVE, "body /title maxLength 500"),
    Item("replaceTask", NEGATIVE, "body required completed"),
    Item("updateTask", RESPONSES, "412 application/problem+json"),
    Item("getTask", RESPONSES, "200 /description null"),
}


@pytest.mark.requirement("NFR-003", "NFR-013")
def test_the_service_keeps_the_contract(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    environ = {"FUZZ_EXAMPLES": "10", "FUZZ_SEED": str(SEED), "FUZZ_CASES": "500"}
    outcome = main([str(tmp_path)], environ)
    record_property("figure", outcome.summary)
    assert outcome.exit_code == 0, outcome
    assert (tmp_path / "round-0" / "junit.xml").exists()
    assert "## Never reached\n" in (tmp_path / "coverage.md").read_text("utf-8")
    exchanges = list(recorded(tmp_path / "round-0" / RECORD))
    # The hooks do their work: without them no cursor and no tag would ever hold.
    reached = {(exchange.status, name) for exchange in exchanges for name in _sent(exchange)}
    assert reached >= {
        (200, "cursor"),
        (304, "if-none-match"),
        (200, "if-match"),
        (412, "if-match"),
    }
    _assert_that_what_lacks_is_missed(exchanges)


def _sent(exchange: Exchange) -> set[str]:
    """The names of the parameters and header fields of a request."""
    pairs = [*exchange.query, *exchange.headers.items()]
    return {name.lower() for name, value in pairs if value != "*"}


def _assert_that_what_lacks_is_missed(exchanges: list[Exchange]) -> None:
    reader = Reader(OpenAPIDocument.load().document)
    without = [exchange for exchange in exchanges if not reader.shown(exchange) & LACKING]
    assert 0 < len(without) < len(exchanges)
    coverage = measure(without, reader)
    assert coverage.missing >= LACKING
    for item in LACKING:
        assert f"\n- {item.operation}, {item.column}: {item.what}\n" in report(coverage)
    # The boundaries come from one phase: without it too little is reached.
    without = [exchange for exchange in exchanges if exchange.phase != "coverage"]
    assert measure(without, reader).shortcomings()


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


def without_memory(app: ASGIApp) -> ASGIApp:
    """A fault of the store: it does not find what it was given."""

    async def faulty(scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("method") == "GET" and UUID.fullmatch(scope["path_params"].get("task_id", "")):
            scope["path_params"]["task_id"] = str(uuid4())
        await app(scope, receive, send)

    return faulty


def serve_wrongly() -> None:
    """Serve as `python -m app serve` does, but with the faults above; in a process of its own."""
    faulty = partial(create_app, middleware=[without_etag, without_query, without_memory])
    with patch.object(cli, "create_app", faulty), patch.object(sys, "argv", ["faulty", "serve"]):
        cli.main()


@pytest.mark.requirement("NFR-003", "FR-045")
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
        "Custom check failed: `refused_as_expected`",
        "Custom check failed: `tasks_are_where_they_were_put`",
    }
    # It might have been anybody's service: no user was touched but those of the fuzz.
    targets = {each.target for each in recorded(tmp_path / "round-0" / RECORD) if each.accepted}
    users = {target.split("/")[4] for target in targets if target.startswith("/api/")}
    assert len(users) > 5
    assert {user for user in users if not user.startswith(USERS)} <= {"tasks"}  # no user at all


def test_a_run_that_tested_nothing_proves_nothing() -> None:
    coverage = measure([], Reader(OpenAPIDocument.load().document))
    outcome = judge([REPORT], coverage, least=20000)
    assert outcome.exit_code == 1
    assert [shortcoming.split()[0] for shortcoming in outcome.shortcomings] == [
        "only",
        "warnings:",
        "phases",
        "never",
        *["coverage:"] * 4,
        "only",
    ]


def test_a_service_that_does_not_start_says_why(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit('no database')"]
    with pytest.raises(ServiceError, match="no database"), serving(tmp_path, command=command):
        pass  # pragma: no cover - not reached


def test_a_run_that_does_not_end_says_where_it_stands(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts and never answers
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(UnfinishedError, match="no report in 2 attempts, seed 7"):
            fuzz(url, examples=1, seed=7, users=USERS, folder=tmp_path, seconds=4)
    written = capfd.readouterr().err
    assert written.count("Timeout (0:00:04)!") == 2
    assert written.count("(most recent call first):") >= 2  # of each thread
