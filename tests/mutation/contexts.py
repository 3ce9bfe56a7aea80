"""A pytest plugin that notes which tests run which lines of `app`, how long, and in which process.

coverage's own contexts would count what a session's fixture does for the first test that asks for
it, and what a process of the service does for nobody.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import coverage
import pytest

SHARED_SECONDS = 2.0
FOLDER = Path(os.environ["MUTATION_MAP"])
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "main")

seconds: dict[str, float] = {}
starters: set[str] = set()
failed: set[str] = set()
shared: dict[pytest.FixtureDef[Any], tuple[float, str]] = {}
current = ""
recorder = coverage.Coverage(
    data_file=FOLDER / f"lines.{WORKER}",
    source=["app"],
    config_file=False,
    concurrency=["greenlet", "thread"],
)


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if event == "subprocess.Popen" and current and sys.executable in map(str, args[1]):
        starters.add(current)


def _switch(test: str) -> None:
    global current  # noqa: PLW0603 - the hooks of a plugin share what they know
    current = test
    recorder.switch_context(test)


# Here, as a conftest imports the service before plugins are told of anything.
recorder.start()
sys.addaudithook(_audit)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """What runs from here on runs for this test."""
    _switch(item.nodeid)
    try:
        return (yield)
    finally:
        seconds[item.nodeid] += sum(_of_others(item))
        _switch("")


def _of_others(item: pytest.Item) -> Generator[float]:
    """The seconds of what was made for a whole module when another test asked: alone it asks.

    What takes less than `SHARED_SECONDS` counts for nobody: many tests will ask together.
    """
    information: Any = getattr(item, "_fixtureinfo", None)
    for definitions in information.name2fixturedefs.values() if information else ():
        took, asked = shared.get(definitions[-1], (0.0, item.nodeid))
        if asked != item.nodeid and took > SHARED_SECONDS:
            yield took


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[Any],
) -> Generator[None, object, object]:
    """What a session's fixture does it does for all; what a module's takes is noted."""
    before, started = current, time.monotonic()
    if fixturedef.scope == "session":
        _switch("session")
    try:
        return (yield)
    finally:
        if fixturedef.scope not in {"session", "function"}:
            shared[fixturedef] = (time.monotonic() - started, before)
        _switch(before)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Add up the phases of a test; one that fails as it is can notice nothing."""
    seconds[report.nodeid] = seconds.get(report.nodeid, 0.0) + report.duration
    if report.failed:
        failed.add(report.nodeid)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Write it down; the process that only hands out the work has run nothing."""
    recorder.stop()
    if WORKER != "main" or not config.getoption("numprocesses", None):
        recorder.save()
        passed = {test: took for test, took in seconds.items() if test not in failed}
        noted = {"seconds": passed, "starters": sorted(starters)}
        (FOLDER / f"tests.{WORKER}.json").write_text(json.dumps(noted), "utf-8")
