"""The documents agree with the settings, tasks, files and versions."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.openapi.document import OpenAPIDocument
from app.settings import Settings

ROOT = Path(__file__).parents[3]
SPECS = ROOT / "specs/phase-II/001-core-backend"
README = (ROOT / "README.md").read_text("utf-8")
DOCUMENTS = [*ROOT.glob("*.md"), *SPECS.rglob("*.md")]
TASKS: dict[str, Any] = yaml.safe_load((ROOT / "Taskfile.yml").read_text("utf-8"))["tasks"]
IGNORED = (ROOT / ".gitignore").read_text("utf-8").split()

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")
SETTING = re.compile(r"^\| `([A-Z_]+)` \| ([^|]+) \| [^|]+ \|$", re.MULTILINE)
TASK_ROW = re.compile(r"^\| `task ([a-z:]+)` \|", re.MULTILINE)
TASK = re.compile(r"(?<![\w-])task ([a-z][a-z:]*)")
FILE = re.compile(r"[\w.*-]+(/[\w.*-]+)*(\.(html|mako|md|py|toml|txt|yaml|yml)|/)")
COMMANDS = re.compile(r"(?:^|[|(]) ?(?:[A-Z]+=\$\()?([a-z]+) ", re.MULTILINE)


def document_name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def table_value(value: object) -> str:
    """Format the value of a setting as in the table."""
    if value is None or value == ():
        return "none"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def tasks_named(text: str) -> set[str]:
    """Return the tasks in `sh` blocks and between backticks."""
    blocks = [body for language, body in FENCE.findall(text) if language == "sh"]
    spans = SPAN.findall(FENCE.sub("", text))
    return {name for code in blocks + spans for name in TASK.findall(code)}


def files_named(text: str) -> set[str]:
    """Return the files and folders between backticks that git does not ignore."""
    spans = SPAN.findall(FENCE.sub("", text))
    return {span for span in spans if FILE.fullmatch(span)} - set(IGNORED)


def block(comment: str, language: str) -> str:
    """Return the only block of the README after this comment."""
    pattern = rf"^<!-- {comment} -->\n```{language}\n(.*?)^```$"
    blocks: list[str] = re.findall(pattern, README, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 1
    return blocks[0]


def missing(names: set[str], *folders: Path) -> Iterator[str]:
    """Yield the names that no folder contains."""
    return (
        name
        for name in sorted(names)
        if not any((folder / name).exists() or any(folder.glob(name)) for folder in folders)
    )


# --- settings ----------------------------------------------------------------------------------


@pytest.mark.requirement("FR-037")
def test_configuration_table_matches_the_settings() -> None:
    settings = Settings()
    expected = [
        (name.upper(), table_value(getattr(settings, name))) for name in Settings.__struct_fields__
    ]
    assert SETTING.findall(README) == expected


@pytest.mark.requirement("FR-037")
def test_documented_defaults_are_the_defaults() -> None:
    environ = {name: default.strip("`") for name, default in SETTING.findall(README)}
    variables = {name: value for name, value in environ.items() if value != "none"}
    assert len(variables) > 5
    assert Settings.from_env(variables) == Settings()


# --- tasks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("document", DOCUMENTS, ids=document_name)
def test_every_named_task_exists(document: Path) -> None:
    public = {name for name, task in TASKS.items() if not task.get("internal")}
    assert tasks_named(document.read_text("utf-8")) - public == set()


def test_table_of_tasks_is_complete() -> None:
    public = {name for name, task in TASKS.items() if not task.get("internal")}
    assert sorted(TASK_ROW.findall(README)) == sorted(public - {"default"})


def test_every_public_task_has_a_description() -> None:
    assert [
        name for name, task in TASKS.items() if not (task.get("desc") or task.get("internal"))
    ] == []


# --- files -------------------------------------------------------------------------------------


@pytest.mark.parametrize("document", DOCUMENTS, ids=document_name)
def test_every_named_file_exists(document: Path) -> None:
    files = files_named(document.read_text("utf-8"))
    assert list(missing(files, ROOT, document.parent, ROOT / "app", SPECS)) == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=document_name)
def test_every_link_has_a_target(document: Path) -> None:
    links = set(LINK.findall(document.read_text("utf-8")))
    assert list(missing(links, document.parent)) == []


# --- versions ----------------------------------------------------------------------------------


def test_contract_project_client_and_changelog_have_one_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    latest = re.search(r"^## (\d+\.\d+\.\d+) - \d{4}-\d\d-\d\d$", changelog, re.MULTILINE)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    client = [
        json.loads((ROOT / "clients/typescript" / name).read_text("utf-8"))["version"]
        for name in ("package.json", "package-lock.json")
    ]
    assert latest
    assert latest[1] == project["version"] == OpenAPIDocument.load().document["info"]["version"]
    assert client == [latest[1], latest[1]]


# --- example session ---------------------------------------------------------------------------


def test_session_uses_only_curl_printf_and_sed() -> None:
    assert set(COMMANDS.findall(block("session", "sh"))) == {"curl", "printf", "sed"}


def test_session_prints_one_status_per_request() -> None:
    statuses = re.findall(r"^\d{3}$", block("output", "text"), re.MULTILINE)
    assert statuses == ["201", "200", "200", "412"]
    assert block("session", "sh").count("curl ") == len(statuses)


# --- helpers -----------------------------------------------------------------------------------

TEXT = """
Run `task serve`, then `PYTHON=3.13 task nonsense`; see `app/asgi.py`, `app/gone.py`, `.data/`,
`tests/*/test_settings.py`, `application/json`, `/api/v1` and [this](gone.md) or [that](https://x/y).

```sh
task test -- -k words
multitask no
```
```text
task nothing
```
"""


def test_tasks_in_a_text_are_found() -> None:
    assert tasks_named(TEXT) == {"serve", "nonsense", "test"}


def test_files_in_a_text_are_found() -> None:
    assert files_named(TEXT) == {"app/asgi.py", "app/gone.py", "tests/*/test_settings.py"}
    assert list(missing(files_named(TEXT), ROOT)) == ["app/gone.py"]


def test_links_in_a_text_are_found() -> None:
    assert LINK.findall(TEXT) == ["gone.md"]
