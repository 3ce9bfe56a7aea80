"""The content of the log, and values that must never be logged."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest
import structlog
from litestar import get

from app.asgi import create_app
from app.logging import LogFormat, LogLevel, configure_logging, log
from app.settings import Settings
from tests.support.client import ContractClient, assert_problem, tasks_of
from tests.support.lifespan import running
from tests.support.live import request, serve_in_thread
from tests.support.logs import LogFile, log_file, restore

ALICE = tasks_of("alice")
ID = "0198c5a2-7e1f-7b3a-9d55-2f6f0c1e8a44"
TASK = f"{ALICE}/{ID}"
COLLECTION_ROUTE = "/api/v1/users/{user_id}/tasks"
TASK_ROUTE = COLLECTION_ROUTE + "/{task_id}"
SECRET = "Verschwiegenheit"  # noqa: S105 - a unique word
MILK = {"title": SECRET, "description": SECRET, "completed": False}
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"

ConfigureLogging = Callable[..., LogFile]


@pytest.fixture
def configured() -> Iterator[ConfigureLogging]:
    """Redirects the log to a file, and restores the configuration after the test."""
    root = logging.getLogger()
    loggers = [
        root,
        *(logging.getLogger(name) for name in ("sqlalchemy", "alembic.runtime.plugins", "httpx")),
    ]
    handlers, levels, config = (
        root.handlers[:],
        [entry.level for entry in loggers],
        structlog.get_config(),
    )

    def to_stream(
        log_format: LogFormat = LogFormat.JSON, level: LogLevel = LogLevel.INFO
    ) -> LogFile:
        # configure_logging would close the handlers of pytest.
        root.handlers[:] = []
        stream = files.enter_context(log_file())
        configure_logging(level, log_format, stream.descriptor)
        # The test client runs in the same process and would log its requests.
        logging.getLogger("httpx").setLevel(logging.WARNING)
        return stream

    with ExitStack() as files:
        yield to_stream
        root.handlers[:] = handlers
        for entry, level in zip(loggers, levels, strict=True):
            entry.setLevel(level)
        restore(config)


@pytest.fixture
def stream(configured: ConfigureLogging) -> LogFile:
    return configured()


def lines(stream: LogFile) -> list[dict[str, Any]]:
    return [json.loads(entry) for entry in stream.getvalue().splitlines()]


def only(stream: LogFile, event: str = "request") -> dict[str, Any]:
    (entry,) = [entry for entry in lines(stream) if entry["event"] == event]
    return entry


# --- access log ----------------------------------------------------------------------------------


@pytest.mark.requirement("FR-041")
async def test_access_log_entry_has_exactly_these_fields(
    client: ContractClient, stream: LogFile
) -> None:
    before = datetime.now(UTC)
    response = await client.get("/livez")
    (entry,) = lines(stream)
    duration = entry.pop("duration_ms")
    at = datetime.fromisoformat(entry.pop("timestamp"))
    assert entry == {
        "event": "request",
        "level": "info",
        "method": "GET",
        "route": "/livez",
        "status": 200,
        "request_id": response.headers["x-request-id"],
        "trace_id": None,
    }
    assert 0 < duration < 60_000
    assert before <= at <= datetime.now(UTC) + timedelta(seconds=1)


@pytest.mark.requirement("FR-041")
@pytest.mark.parametrize(
    ("sent", "route", "status"),
    [
        (("GET", ALICE, {}), COLLECTION_ROUTE, 200),
        (("HEAD", ALICE, {}), COLLECTION_ROUTE, 200),
        (("POST", ALICE, {"json": MILK}), COLLECTION_ROUTE, 201),
        (("PUT", TASK, {"json": MILK}), TASK_ROUTE, 201),
        (("GET", TASK, {}), TASK_ROUTE, 404),
        (("PATCH", TASK, {"json": {}}), TASK_ROUTE, 404),
        (("DELETE", TASK, {}), TASK_ROUTE, 404),
        (("GET", f"{ALICE}?x=1", {}), COLLECTION_ROUTE, 400),
        (("POST", ALICE, {"json": {}}), COLLECTION_ROUTE, 422),
        (("DELETE", ALICE, {}), COLLECTION_ROUTE, 405),
        (("OPTIONS", ALICE, {}), COLLECTION_ROUTE, 204),
        (("OPTIONS", TASK, {}), TASK_ROUTE, 204),
        (("OPTIONS", "/nope", {}), None, 404),
        (("GET", "/nope", {}), None, 404),
        (("GET", "/livez/", {}), None, 404),
        (("GET", "/openapi.yaml", {}), "/openapi.yaml", 200),
    ],
)
@pytest.mark.usefixtures("database")
async def test_access_log_has_the_route_instead_of_the_path(
    client: ContractClient,
    stream: LogFile,
    sent: tuple[str, str, dict[str, Any]],
    route: str | None,
    status: int,
) -> None:
    method, path, options = sent
    response = await client.request(method, path, **options)
    entry = only(stream)
    assert (entry["method"], entry["route"], entry["status"]) == (method, route, status)
    assert entry["request_id"] == response.headers["x-request-id"]


@pytest.mark.requirement("FR-041")
async def test_access_log_has_the_request_id_of_the_client(
    client: ContractClient, stream: LogFile
) -> None:
    await client.get("/livez", headers={"X-Request-ID": "mine"})
    assert only(stream)["request_id"] == "mine"


@pytest.mark.requirement("FR-041")
@pytest.mark.parametrize("beginning", ["00", "01", "cc"])
async def test_trace_id_comes_from_traceparent(
    client: ContractClient, stream: LogFile, beginning: str
) -> None:
    traceparent = f"{beginning}-{TRACE}-00f067aa0ba902b7-01"
    await client.get("/livez", headers={"traceparent": traceparent})
    assert only(stream)["trace_id"] == TRACE


@pytest.mark.requirement("FR-041")
@pytest.mark.parametrize(
    "traceparent",
    [
        "",
        "x",
        TRACE,
        f"00-{TRACE.upper()}-00f067aa0ba902b7-01",
        f"00-{TRACE[1:]}-00f067aa0ba902b7-01",
        f"00-{TRACE}-00f067aa0ba902b7",
        f"00-{TRACE}-00f067aa0ba902b7-0x",
        f"00-{'0' * 32}-00f067aa0ba902b7-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-00f067aa0ba902b7-01",
    ],
)
async def test_invalid_traceparent_is_omitted(
    client: ContractClient, stream: LogFile, traceparent: str
) -> None:
    response = await client.get("/livez", headers={"traceparent": traceparent})
    assert response.status_code == 200
    assert only(stream)["trace_id"] is None


@pytest.mark.requirement("FR-041")
@pytest.mark.parametrize("level", [LogLevel.WARNING, LogLevel.ERROR])
async def test_level_above_info_omits_access_log(
    client: ContractClient, configured: ConfigureLogging, level: LogLevel
) -> None:
    stream = configured(level=level)
    await client.get("/livez")
    assert lines(stream) == []


@pytest.mark.requirement("FR-041")
@pytest.mark.usefixtures("database")
def test_every_request_of_a_server_is_one_line(
    settings: Settings, configured: ConfigureLogging
) -> None:
    stream = configured()
    with serve_in_thread(settings) as live:
        live.call("GET", "/livez")
        live.call("GET", "/nope")
    requests = [entry["status"] for entry in lines(stream) if entry["event"] == "request"]
    assert requests == [200, 404]


@pytest.mark.requirement("FR-029", "FR-041")
@pytest.mark.parametrize(
    "sent",
    [b"garbage\r\n\r\n", request("GET", "/livez", "X: " + "x" * 40_000)],
    ids=["400", "431"],
)
def test_protocol_rejection_is_logged_with_its_request_id(
    settings: Settings, configured: ConfigureLogging, sent: bytes
) -> None:
    stream = configured()
    with serve_in_thread(settings) as live:
        response = live.exchange(sent)
    entry = only(stream)
    assert entry["request_id"] == response.headers["x-request-id"]
    assert entry["status"] == response.status_code


# --- values that are not logged ------------------------------------------------------------------


@pytest.mark.requirement("FR-041")
@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("log_format", [LogFormat.JSON, LogFormat.TEXT])
async def test_log_has_no_task_texts_and_no_request_values(
    settings: Settings, configured: ConfigureLogging, log_format: LogFormat
) -> None:
    stream = configured(log_format, LogLevel.DEBUG)
    app = create_app(settings)
    async with running(app), ContractClient(app) as client:
        user = tasks_of(f"{SECRET}@example.com")
        created = await client.post(user, json=MILK)
        location = created.headers["location"]
        await client.get(location, headers={"Authorization": f"Bearer {SECRET}"})
        await client.get(location, headers={"Cookie": SECRET, "If-None-Match": f'"{SECRET}"'})
        await client.patch(location, json={"title": SECRET}, headers={"If-Match": f'"{SECRET}"'})
        await client.get(user, params={"q": SECRET, SECRET: SECRET})
        await client.get(user, params={"q": SECRET})
        await client.post(user, json={SECRET: SECRET, "title": 1})
        await client.post(user, content=SECRET, headers={"Content-Type": SECRET})
        await client.post(user, content=SECRET, headers={"Content-Type": "application/json"})
        await client.get(f"/{SECRET}?{SECRET}")
        await client.options(user)
        await client.delete(location)
    assert stream.getvalue().count("request_id") >= 12
    assert SECRET not in stream.getvalue()
    assert SECRET.lower() not in stream.getvalue()


@pytest.fixture
async def rejecting_table(database: asyncpg.Connection) -> AsyncIterator[None]:
    """Make the table reject each row with an error that has the row in its DETAIL."""
    await database.execute("ALTER TABLE tasks ADD CONSTRAINT refuses_all CHECK (title = '')")
    yield
    await database.execute("ALTER TABLE tasks DROP CONSTRAINT refuses_all")


@pytest.mark.requirement("FR-028", "FR-036", "FR-041")
@pytest.mark.usefixtures("rejecting_table")
@pytest.mark.parametrize("log_format", [LogFormat.JSON, LogFormat.TEXT])
@pytest.mark.parametrize("level", [LogLevel.DEBUG, LogLevel.ERROR])
async def test_rejected_row_is_neither_logged_nor_returned(
    client: ContractClient, configured: ConfigureLogging, log_format: LogFormat, level: LogLevel
) -> None:
    stream = configured(log_format, level)
    response = await client.post(tasks_of("verborgen"), json=MILK)
    assert_problem(response, 500, "internal-error")
    assert SECRET not in response.text + stream.getvalue()
    assert "verborgen" not in response.text + stream.getvalue()
    assert "DETAIL" not in stream.getvalue()
    assert "INSERT INTO" not in response.text + stream.getvalue()
    assert "refuses_all" in stream.getvalue()
    assert "refuses_all" not in response.text


# --- exceptions ----------------------------------------------------------------------------------


@get("/faulty")
async def failing_handler() -> str:
    local = SECRET
    raise ZeroDivisionError(len(local))


@pytest.fixture
async def failing_client(settings: Settings) -> AsyncIterator[ContractClient]:
    """A client of an application with a exception_entry handler."""
    app = create_app(settings, route_handlers=[failing_handler])
    async with running(app), ContractClient(app) as client:
        yield client


@pytest.mark.requirement("FR-036", "FR-041", "FR-050")
async def test_exception_is_logged_with_stack_and_request_id(
    failing_client: ContractClient, configured: ConfigureLogging
) -> None:
    stream = configured()
    headers = {"X-Request-ID": "mine", "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
    response = await failing_client.get("/faulty", headers=headers)
    problem = assert_problem(response, 500, "internal-error")
    exception_entry, entry = only(stream, "unhandled exception"), only(stream)
    assert exception_entry["request_id"] == entry["request_id"] == problem["instance"] == "mine"
    assert exception_entry["trace_id"] == entry["trace_id"] == problem["trace_id"] == TRACE
    assert exception_entry["level"] == "error"
    assert "Traceback (most recent call last)" in exception_entry["exception"]
    assert "test_logging.py" in exception_entry["exception"]
    assert exception_entry["exception"].rstrip().endswith(f"ZeroDivisionError: {len(SECRET)}")
    assert (entry["status"], entry["route"]) == (500, "/faulty")


@pytest.mark.requirement("FR-036", "FR-041")
@pytest.mark.parametrize("log_format", [LogFormat.JSON, LogFormat.TEXT])
async def test_logged_stack_has_no_variable_values(
    failing_client: ContractClient, configured: ConfigureLogging, log_format: LogFormat
) -> None:
    stream = configured(log_format)
    await failing_client.get("/faulty")
    assert "ZeroDivisionError" in stream.getvalue()
    assert SECRET not in stream.getvalue()


@pytest.mark.requirement("FR-028", "FR-036")
async def test_exception_details_are_not_returned(
    failing_client: ContractClient, configured: ConfigureLogging
) -> None:
    configured()
    response = await failing_client.get("/faulty")
    problem = assert_problem(response, 500, "internal-error")
    assert problem["detail"] == "An unexpected error occurred; it was logged with this request ID."
    assert "ZeroDivision" not in response.text


@pytest.mark.requirement("FR-041")
async def test_exception_is_one_line_with_a_long_stack(
    failing_client: ContractClient, configured: ConfigureLogging
) -> None:
    stream = configured()
    await failing_client.get("/faulty")
    assert [entry["event"] for entry in lines(stream)] == ["unhandled exception", "request"]


# --- log format ----------------------------------------------------------------------------------


@pytest.mark.requirement("FR-041")
@pytest.mark.usefixtures("database")
async def test_text_format_has_the_same_fields(
    client: ContractClient, configured: ConfigureLogging
) -> None:
    stream = configured(LogFormat.TEXT)
    await client.get("/nope", headers={"X-Request-ID": "mine"})
    (entry,) = stream.getvalue().splitlines()
    keys = dict(part.split("=") for part in entry.split("request ")[1].split())
    assert float(keys.pop("duration_ms")) > 0
    assert keys == {
        "method": "GET",
        "request_id": "mine",
        "route": "None",
        "status": "404",
        "trace_id": "None",
    }


@pytest.mark.requirement("FR-041")
def test_library_log_entries_have_the_same_format(stream: LogFile) -> None:
    logging.getLogger("uvicorn.error").warning("Disk %s is full", "C:")
    entry = only(stream, "Disk C: is full")
    assert set(entry) == {"event", "level", "timestamp"}
    assert entry["level"] == "warning"


@pytest.mark.requirement("FR-041")
def test_values_without_json_form_are_logged_as_text(stream: LogFile) -> None:
    log.info("odd", value=UUID(ID), path=object)
    assert only(stream, "odd")["value"] == ID
