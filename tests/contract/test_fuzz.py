"""A short fuzz run against the contract. `task fuzz` does a long one."""

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
# One item of each kind of coverage. Without its exchanges it must be reported as never reached.
REMOVED_ITEMS = {
    Item("listTasks", PARAMETERS, "query limit given twice"),
    Item("listTasks", POSITIVE, "query limit maximum 200"),
    Item("createTask", POSITIVE, "body /title maxLength 500"),
    Item("createTask", NEGATIVE, "body /title maxLength 500"),
    Item("replaceTask", NEGATIVE, "body required completed"),
    Item("updateTask", RESPONSES, "412 application/problem+json"),
    Item("getTask", RESPONSES, "200 /description null"),
}


@pytest.mark.requirement("NFR-003", "NFR-013")
def test_service_conforms_to_the_contract(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    environ = {"FUZZ_EXAMPLES": "10", "FUZZ_SEED": str(SEED), "FUZZ_CASES": "500"}
    outcome = main([str(tmp_path)], environ)
    record_property("figure", outcome.summary)
    assert outcome.exit_code == 0, outcome
    assert (tmp_path / "round-0" / "junit.xml").exists()
    assert "## Never reached\n" in (tmp_path / "coverage.md").read_text("utf-8")
    exchanges = list(recorded(tmp_path / "round-0" / RECORD))
    # Only the hooks send valid cursors and current ETags.
    reached = {
        (exchange.status, name) for exchange in exchanges for name in _parameter_names(exchange)
    }
    assert reached >= {
        (200, "cursor"),
        (304, "if-none-match"),
        (200, "if-match"),
        (412, "if-match"),
    }
    _assert_removed_items_are_reported(exchanges)


def _parameter_names(exchange: Exchange) -> set[str]:
    pairs = [*exchange.query, *exchange.headers.items()]
    return {name.lower() for name, value in pairs if value != "*"}


def _assert_removed_items_are_reported(exchanges: list[Exchange]) -> None:
    reader = Reader(OpenAPIDocument.load().document)
    without = [exchange for exchange in exchanges if not reader.shown(exchange) & REMOVED_ITEMS]
    assert 0 < len(without) < len(exchanges)
    coverage = measure(without, reader)
    assert coverage.missing >= REMOVED_ITEMS
    for item in REMOVED_ITEMS:
        assert f"\n- {item.operation}, {item.column}: {item.what}\n" in report(coverage)
    # Only the coverage phase tests limits, so without it the coverage is too low.
    without = [exchange for exchange in exchanges if exchange.phase != "coverage"]
    assert measure(without, reader).shortcomings()


def without_etag(app: ASGIApp) -> ASGIApp:
    """Inject a fault: remove a required response header."""

    async def faulty(scope: Scope, receive: Receive, send: Send) -> None:
        async def strip(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [pair for pair in message["headers"] if pair[0] != b"etag"]
            await send(message)

        await app(scope, receive, strip)

    return faulty


def without_query(app: ASGIApp) -> ASGIApp:
    """Inject a fault: ignore query parameters."""

    async def faulty(scope: Scope, receive: Receive, send: Send) -> None:
        scope["query_string"] = b""
        await app(scope, receive, send)

    return faulty


def without_stored_tasks(app: ASGIApp) -> ASGIApp:
    """Inject a fault: do not find stored tasks."""

    async def faulty(scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("method") == "GET" and UUID.fullmatch(scope["path_params"].get("task_id", "")):
            scope["path_params"]["task_id"] = str(uuid4())
        await app(scope, receive, send)

    return faulty


def serve_with_faults() -> None:
    """Run `python -m app serve` with the faults above. Call it in a separate process."""
    faulty = partial(create_app, middleware=[without_etag, without_query, without_stored_tasks])
    with patch.object(cli, "create_app", faulty), patch.object(sys, "argv", ["faulty", "serve"]):
        cli.main()


@pytest.mark.requirement("NFR-003", "FR-045")
@pytest.mark.usefixtures("database")  # it truncates the database afterwards
def test_injected_faults_are_found(database_url: str, tmp_path: Path) -> None:
    program = "from tests.contract import test_fuzz; test_fuzz.serve_with_faults()"
    command = [sys.executable, "-c", program]
    with serving(tmp_path, database_url=database_url, command=command) as url:
        environ = {"FUZZ_URL": url, "FUZZ_EXAMPLES": "1", "FUZZ_SEED": str(SEED)}
        outcome = main([str(tmp_path)], environ)
    assert outcome.exit_code == 1
    assert set(outcome.failures) == {
        "Missing required response headers",
        "Schema-violating request accepted",
        "Custom check failed: `invalid_request_is_rejected`",
        "Custom check failed: `resource_exists_until_deletion`",
    }
    # A deployed service has other users: only users of the fuzz run may be changed.
    targets = {each.target for each in recorded(tmp_path / "round-0" / RECORD) if each.accepted}
    users = {target.split("/")[4] for target in targets if target.startswith("/api/")}
    assert len(users) > 5
    others = {user for user in users if not user.startswith(USERS)}
    assert others <= {"", "labels", "lists", "tasks"}  # an empty user


def test_run_without_tests_fails() -> None:
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


def test_startup_error_of_the_service_is_reported(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit('no database')"]
    with pytest.raises(ServiceError, match="no database"), serving(tmp_path, command=command):
        pass  # pragma: no cover - not reached


def test_hanging_run_prints_its_stacks(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, never responds
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(UnfinishedError, match="no report in 2 attempts, seed 7"):
            fuzz(url, examples=1, seed=7, users=USERS, folder=tmp_path, seconds=4)
    written = capfd.readouterr().err
    assert written.count("Timeout (0:00:04)!") == 2
    assert written.count("(most recent call first):") >= 2  # of each thread
