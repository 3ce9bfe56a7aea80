"""The published schemathesis.toml has no hooks, explains each setting and finds no failures."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import pytest

from app.openapi.document import OpenAPIDocument
from tools.fuzz import plain
from tools.fuzz.__main__ import ROOT

TEXT = (ROOT / "schemathesis.toml").read_text("utf-8")
PUBLISHED: dict[str, Any] = tomllib.loads(TEXT)
CASES = re.compile(r"^ +(\d+) generated, \1 passed$", re.MULTILINE)


@pytest.mark.requirement("FR-045")
def test_configuration_has_no_hooks_and_disables_nothing() -> None:
    assert set(PUBLISHED) == {"request-timeout", "checks", "operations"}
    settings = [PUBLISHED["checks"], *(each["checks"] for each in PUBLISHED["operations"])]
    assert [set(each) for each in settings] == [{"positive_data_acceptance"}] * len(settings)


@pytest.mark.requirement("FR-045")
def test_settings_have_a_comment_with_the_reason() -> None:
    groups = TEXT.strip().split("\n\n")[1:]
    assert len(groups) == 2 + len(PUBLISHED["operations"])
    assert [group.startswith("# ") for group in groups] == [True] * len(groups)


@pytest.mark.requirement("FR-045")
def test_expected_statuses_are_documented() -> None:
    documented = {
        operation["operationId"]: set(operation["responses"])
        for item in OpenAPIDocument.load().document["paths"].values()
        for operation in item.values()
    }
    for each in PUBLISHED["operations"]:
        names = each["include-operation-id"]
        names = [names] if isinstance(names, str) else names
        known: set[str] = set().union(*(documented[name] for name in names))
        assert set(each["checks"]["positive_data_acceptance"]["expected-statuses"]) <= known


@pytest.mark.requirement("FR-045")
def test_run_without_hooks_has_no_failures(capfd: pytest.CaptureFixture[str]) -> None:
    code = plain.main(["--seed=1", "--max-examples=1", "--phases=examples,coverage"])
    printed = capfd.readouterr().out
    assert code == 0, printed
    [cases] = CASES.findall(printed)
    assert int(cases) > 200
