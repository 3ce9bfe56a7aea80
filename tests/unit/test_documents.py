"""The documents agree with settings, tasks, files, versions, the contract and recorded figures."""

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
from tests.support.documents import (
    COMPONENTS,
    DOCUMENTS,
    ROOT,
    SPECS,
    anchors,
    block,
    blocks,
    broken_links,
    links,
    name_of,
)

README = ROOT / "README.md"
DOCS = ROOT / "docs"
CHARTS = DOCS / "explanation/charts"
TASKS: dict[str, Any] = yaml.safe_load((ROOT / "Taskfile.yml").read_text("utf-8"))["tasks"]
IGNORED = (ROOT / ".gitignore").read_text("utf-8").split()
# Files that the reader of a guide creates.
CREATED_BY_READERS = {"authenticated.py"}

FENCE = re.compile(r"^ *```\w*\n.*?^ *```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")
SETTING = re.compile(r"^\| `([A-Z_]+)` \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)
TASK_ROW = re.compile(r"^\| `task ([a-z:-]+)` \|[^|]+\|[^|]+\|$", re.MULTILINE)
PROBLEM_ROW = re.compile(r"^ *\| `([\w/:-]+)` \| (\d\d\d|4xx) \|", re.MULTILINE)
TASK = re.compile(r"(?<![\w-])task ([a-z][a-z:-]*)")
FILE = re.compile(r"[\w.*-]+(/[\w.*-]+)*(\.(html|mako|md|py|toml|txt|yaml|yml)|/)")
COMMANDS = re.compile(r"(?:^|[|(]) ?(?:[A-Z]+=\$\()?([a-z]+) ", re.MULTILINE)


def shown(value: object) -> str:
    """Return the value of a setting as the table shows it."""
    if value is None or value == ():
        return "none"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def tasks_named(text: str) -> set[str]:
    """Return the tasks in the shell blocks and code spans of a document."""
    commands = [each.code for each in blocks(text) if each.language == "sh"]
    spans = SPAN.findall(FENCE.sub("", text))
    return {name for code in commands + spans for name in TASK.findall(code)}


def files_named(text: str) -> set[str]:
    """Return the files and folders in code spans, except those that git ignores."""
    spans = SPAN.findall(FENCE.sub("", text))
    return {span for span in spans if FILE.fullmatch(span)} - set(IGNORED) - CREATED_BY_READERS


def missing(names: set[str], *folders: Path) -> Iterator[str]:
    """Return the names that exist in no folder."""
    return (
        name
        for name in sorted(names)
        if not any((folder / name).exists() or any(folder.glob(name)) for folder in folders)
    )


# --- settings ----------------------------------------------------------------------------------

SETTINGS = SETTING.findall((DOCS / "configuration.md").read_text("utf-8"))


@pytest.mark.requirement("FR-037")
def test_configuration_tables_agree_with_the_settings() -> None:
    settings = Settings()
    expected = [
        (name.upper(), shown(getattr(settings, name))) for name in Settings.__struct_fields__
    ]
    assert sorted((name, default) for name, default, _ in SETTINGS) == sorted(expected)


@pytest.mark.requirement("FR-037")
def test_documented_defaults_are_the_defaults() -> None:
    environ = {name: default.strip("`") for name, default, _ in SETTINGS}
    variables = {name: value for name, value in environ.items() if value != "none"}
    assert len(variables) > 5
    assert Settings.from_env(variables) == Settings()


def test_readme_settings_agree_with_the_configuration_tables() -> None:
    rows = SETTING.findall(README.read_text("utf-8"))
    assert len(rows) == 6
    without_links = [(*row[:2], row[2].partition(";")[0]) for row in SETTINGS]
    assert [row for row in rows if (*row[:2], row[2].partition(";")[0]) not in without_links] == []


# --- tasks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_named_tasks_exist(document: Path) -> None:
    public = {name for name, task in TASKS.items() if not task.get("internal")}
    assert tasks_named(document.read_text("utf-8")) - public == set()


def test_table_of_tasks_is_complete() -> None:
    public = {name for name, task in TASKS.items() if not task.get("internal")}
    table = (DOCS / "development/setup.md").read_text("utf-8")
    assert sorted(TASK_ROW.findall(table)) == sorted(public - {"default"})


def test_public_tasks_have_a_description() -> None:
    assert [
        name for name, task in TASKS.items() if not (task.get("desc") or task.get("internal"))
    ] == []


# --- files -------------------------------------------------------------------------------------


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_named_files_exist(document: Path) -> None:
    named = files_named(document.read_text("utf-8"))
    folders = (ROOT, document.parent, ROOT / "app", ROOT / "app/domain/tasks", *COMPONENTS)
    assert list(missing(named, *folders)) == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_links_and_anchors_exist(document: Path) -> None:
    assert broken_links(document) == []


def test_readme_is_short() -> None:
    assert len(README.read_text("utf-8").splitlines()) <= 150


def test_readme_lists_every_operation() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \| `([A-Z]+) (\S+)` \|", README.read_text("utf-8"), re.MULTILINE
    )
    assert {
        (path, method, name) for name, method, path in rows
    } == OpenAPIDocument.load().operations()


def test_index_links_to_every_page() -> None:
    index = DOCS / "index.md"
    linked = {(DOCS / link.partition("#")[0]).resolve() for link in links(index.read_text("utf-8"))}
    assert {path for path in DOCS.rglob("*.md") if path != index} - linked == set()


# --- errors and figures --------------------------------------------------------------------------


def test_table_of_problem_types_agrees_with_the_contract() -> None:
    contract = PROBLEM_ROW.findall((ROOT / "openapi.yaml").read_text("utf-8"))
    assert len(contract) > 15
    page = (DOCS / "reference/errors.md").read_text("utf-8")
    assert PROBLEM_ROW.findall(page) == contract


def table(path: Path, heading: str) -> dict[str, list[str]]:
    """Return the cells of the first table after a heading, by the name of the row."""
    text = path.read_text("utf-8").partition(f"\n## {heading}\n")[2]
    found = re.search(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert found
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in found[0].splitlines()]
    return {name.replace("`", ""): cells for name, *cells in rows[:1] + rows[2:]}


def test_speed_chart_and_table_have_the_same_figures() -> None:
    services = json.loads((CHARTS / "speed.json").read_text("utf-8"))["processor"]
    rows = table(DOCS / "explanation/performance.md", "CPU time per request")
    assert rows.pop("operation")[: len(services)] == list(services)
    assert {name: cells[: len(services)] for name, cells in rows.items()} == {
        name: [f"{times[name]:.0f}" for times in services.values()]
        for name in next(iter(services.values()))
    }


def test_scaling_chart_and_table_have_the_same_figures() -> None:
    figures = json.loads((CHARTS / "scaling.json").read_text("utf-8"))
    rows = table(SPECS / "data-model.md", "Scaling")
    assert rows.pop("operation")[:-1] == [f"{rows_:,}" for rows_ in figures["rows"]]
    assert {
        name: [cell.partition(" / ")[0] for cell in cells[:-1]] for name, cells in rows.items()
    } == {
        name: ["-" if p50 is None else f"{p50:.2f}" for p50 in medians]
        for name, medians in figures["p50"].items()
    }


@pytest.mark.parametrize("name", ["speed", "scaling"])
def test_chart_names_its_date_and_machine(name: str) -> None:
    figures = json.loads((CHARTS / f"{name}.json").read_text("utf-8"))
    chart = (CHARTS / f"{name}.svg").read_text("utf-8")
    assert f"{figures['date']}, {figures['machine']}" in chart


# --- versions ----------------------------------------------------------------------------------


def test_contract_project_client_and_changelog_versions_agree() -> None:
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


# --- the session -------------------------------------------------------------------------------


def test_session_needs_only_a_shell_curl_and_sed() -> None:
    assert set(COMMANDS.findall(block(README, "session"))) == {"curl", "printf", "sed"}


def test_session_prints_one_status_for_each_request() -> None:
    statuses = re.findall(r"^\d{3}$", block(README, "output"), re.MULTILINE)
    assert statuses == ["201", "200", "200", "412"]
    assert block(README, "session").count("curl ") == len(statuses)


# --- the checks find errors ----------------------------------------------------------------------

TEXT = """
Run `task serve`, then `PYTHON=3.13 task nonsense`; see `app/asgi.py`, `app/gone.py`, `.data/`,
`tests/*/test_documents.py`, `application/json`, `/api/v1` and [this](gone.md) or [that](https://x/y).

```sh
task test -- -k words
multitask no
```
```text
task nothing
```
"""


def test_tasks_of_a_text_are_found() -> None:
    assert tasks_named(TEXT) == {"serve", "nonsense", "test"}


def test_files_of_a_text_are_found() -> None:
    assert files_named(TEXT) == {"app/asgi.py", "app/gone.py", "tests/*/test_documents.py"}
    assert list(missing(files_named(TEXT), ROOT)) == ["app/gone.py"]


LINKS = """
# A `code` heading, twice

[this](gone.md#x) [that](https://x/y) ![image](a%20b.svg) `[code](no.md)`

## A code heading twice
- [here](#a-code-heading-twice-1)
- [gone](#a-code-heading-twice-2)
"""


def test_links_and_anchors_of_a_text_are_found(tmp_path: Path) -> None:
    (tmp_path / "a b.svg").touch()
    (tmp_path / "page.md").write_text(LINKS, "utf-8")
    assert anchors(LINKS) == {"a-code-heading-twice", "a-code-heading-twice-1"}
    assert broken_links(tmp_path / "page.md") == ["#a-code-heading-twice-2", "gone.md#x"]


def test_mark_of_a_block_is_the_comment_before_it() -> None:
    text = "<!-- one -->\n```sh\na\n```\n<!-- two -->\n\nwords\n\n```sh\nb\n```\n"
    assert [(each.code, each.mark) for each in blocks(text)] == [("a\n", "one"), ("b\n", "")]
