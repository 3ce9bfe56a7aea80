"""The commands in the documentation run, and the example of a guard does what its page says."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.support.documents import DOCUMENTS, ROOT, blocks, name_of
from tests.support.process import environment, eventually, serving

ADDRESS = "http://127.0.0.1:8000"
PAGES = {
    name_of(path): path.read_text("utf-8")
    for path in DOCUMENTS
    if name_of(path) == "README.md" or name_of(path).startswith("docs/")
}
COMMANDS = {
    name: code
    for name, text in PAGES.items()
    if (
        code := "".join(
            each.code for each in blocks(text) if each.language == "sh" and not each.mark
        )
    )
}
# The status of each response to the commands of a page.
STATUSES = {
    "docs/getting-started.md": ["201", "201", "201", "201", "200", "200", "200", "204"],
    "docs/reference/errors.md": ["400"],
}
# Pages that show the output of their commands in `text` blocks.
OUTPUTS = {
    page: "".join(each.code for each in blocks(PAGES[page]) if each.language == "text")
    for page in ["docs/guides/offline-first.md", "docs/guides/todo-app.md"]
}
USER_DATA = "docs/guides/user-data.md"
NOT_RUN = "not run here: "
TASKS: dict[str, Any] = yaml.safe_load((ROOT / "Taskfile.yml").read_text("utf-8"))["tasks"]


def output_of(page: str, folder: Path, **variables: object) -> str:
    """Run the commands of a page against a new service, and return what they print."""
    assert ADDRESS in COMMANDS[page]
    with serving(DATA_DIR=folder / "data") as service:
        completed = subprocess.run(
            ["/bin/bash", "-euc", COMMANDS[page].replace(ADDRESS, service.url)],
            cwd=folder,
            env=environment(**variables),
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        assert service.stop() == 0
    assert completed.stderr == ""
    return completed.stdout


@pytest.mark.parametrize("page", STATUSES)
def test_page_commands_run(page: str, tmp_path: Path) -> None:
    (tmp_path / ".curlrc").write_text('write-out = "\\n%{http_code}\\n"', "utf-8")
    output = output_of(page, tmp_path, CURL_HOME=tmp_path)
    assert re.findall(r"^\d{3}$", output, re.MULTILINE) == STATUSES[page]


@pytest.mark.requirement("NFR-110", "NFR-213")
@pytest.mark.parametrize("page", OUTPUTS)
def test_page_commands_print_the_documented_output(page: str, tmp_path: Path) -> None:
    output = output_of(page, tmp_path)
    assert output.splitlines() == OUTPUTS[page].splitlines()
    assert len(output.splitlines()) > 30


@pytest.mark.requirement("FR-236")
def test_user_data_commands_move_a_user(url: str, tmp_path: Path) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with serving(DATABASE_URL=url) as service:
        api = f"{service.url}/api/v1/users"
        task = httpx.post(f"{api}/alice/tasks", json={"title": "a"}).raise_for_status().json()
        completed = subprocess.run(
            ["/bin/bash", "-euc", COMMANDS[USER_DATA].replace(ADDRESS, service.url)],
            cwd=tmp_path,
            env=environment(DATABASE_URL=url, PATH=path, PYTHONPATH=ROOT),
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        stored = [
            httpx.get(f"{api}/{user}/tasks/{task['id']}").raise_for_status().json()
            for user in ("alice", "alice2")
        ]
    assert stored == [task, {**task, "user_id": "alice2"}]
    end, status, *imports = completed.stdout.splitlines()
    assert (end, status) == ('{"kind":"end","lines":1}', "204")
    assert [line.partition(":")[0] for line in imports] == [
        "Stored 1 of 1 tasks and lists, 0 existed, 0 existed with other content"
    ] * 2


def test_every_page_with_commands_is_run() -> None:
    assert set(COMMANDS) == STATUSES.keys() | OUTPUTS.keys() | {USER_DATA}


@pytest.mark.parametrize("page", PAGES)
def test_skipped_command_has_a_reason(page: str) -> None:
    marks = {each.mark for each in blocks(PAGES[page]) if each.language == "sh" and each.mark}
    reasons = [mark.removeprefix(NOT_RUN) for mark in marks - {"session"}]
    assert [mark for mark in marks - {"session"} if not mark.startswith(NOT_RUN)] == []
    named = {name for reason in reasons for name in re.findall(r"\btask ([a-z:-]+)", reason)}
    assert named <= set(TASKS)


@pytest.mark.requirement("FR-042", "FR-020")
def test_guard_example_authenticates(database_url: str) -> None:
    page = (ROOT / "docs/guides/extensions.md").read_text("utf-8")
    [program] = [each.code for each in blocks(page) if each.language == "python"]
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"

    def get_status(user: str = "alice", **headers: str) -> int:
        response = httpx.get(f"{address}/api/v1/users/{user}/tasks", headers=headers)
        if response.is_error:
            assert response.headers["content-type"] == "application/problem+json"
        return response.status_code

    def is_live() -> bool:
        with suppress(httpx.ConnectError):
            return httpx.get(f"{address}/livez").is_success
        return False

    process = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=environment(PORT=port, DATABASE_URL=database_url),
        stdout=subprocess.DEVNULL,
    )
    try:
        eventually(is_live, 30)
        assert get_status() == 401
        assert get_status(authorization="Bearer token-of-alice") == 200
        assert get_status("bob", authorization="Bearer token-of-alice") == 403
    finally:
        process.terminate()
        process.wait(20)
