"""The session in README.md prints the documented output in a shell."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import httpx
import pytest

from tests.support.process import ROOT, environment, serving

README = (ROOT / "README.md").read_text("utf-8")
SESSION = re.compile(r"^<!-- session -->\n```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
OUTPUT = re.compile(r"^<!-- output -->\n```text\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ADDRESS = "http://127.0.0.1:8000"
# Values that differ in each run; longer patterns first.
VARIABLE_VALUES = {
    r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b": "<uuid>",
    r"\b[0-9a-f]{32}\b": "<etag>",
    r'(?<="position":")[0-9A-Za-z]+': "<position>",
    r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z": "<instant>",
}


def single_match(block: re.Pattern[str], text: str = README) -> str:
    [match] = block.findall(text)
    return str(match)


def without_variable_values(text: str) -> str:
    for pattern, name in VARIABLE_VALUES.items():
        text = re.sub(pattern, name, text)
    return text


@pytest.mark.requirement("FR-001", "FR-004", "FR-010", "FR-015")
def test_readme_session_prints_the_documented_output(tmp_path: Path) -> None:
    session = single_match(SESSION)
    assert session.count(ADDRESS) == 1
    with serving(DATA_DIR=tmp_path / "data") as service:
        result = subprocess.run(
            ["/bin/bash", "-c", session.replace(ADDRESS, service.url)],
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        )
        assert service.stop() == 0
    assert result.stderr == ""
    assert without_variable_values(result.stdout) == without_variable_values(single_match(OUTPUT))


@pytest.mark.requirement("FR-001")
def test_readme_session_uses_the_default_address() -> None:
    assert str(
        httpx.URL(single_match(re.compile(r"TASKS=(\S+)"), single_match(SESSION)))
    ).startswith(f"{ADDRESS}/api/v1/users/")


@pytest.mark.parametrize(
    ("text", "output"),
    [
        ('"id":"01a207a0-9744-733c-8e79-c7718a698392"', '"id":"<uuid>"'),
        (r'"etag":"\"e5594bc92819455e8cc36bc7ae224e0e\""', r'"etag":"\"<etag>\""'),
        ('"position":"0639310210947341698a698392"', '"position":"<position>"'),
        ('"2026-11-23T08:58:14.734169Z","2026-11-23T08:58:14Z"', '"<instant>","<instant>"'),
        ('"title":"Buy milk","status":412', '"title":"Buy milk","status":412'),
    ],
    ids=["id", "tag", "position", "instants", "nothing"],
)
def test_readme_session_omits_only_variable_values(text: str, output: str) -> None:
    assert without_variable_values(text) == output


def test_readme_session_needs_only_curl_and_the_shell() -> None:
    programs = {"curl", "printf", "sed"}
    arguments = re.findall(r"(?:^|\$\(|\| )([a-z]+)\b", single_match(SESSION), re.MULTILINE)
    assert set(arguments) == programs
    assert os.access("/bin/bash", os.X_OK)
