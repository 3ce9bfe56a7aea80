"""A project that has installed the package, and the places where it runs."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from tests.e2e.docs_page.chromium import chromium
from tests.e2e.typescript_client.site import site
from tests.support.process import ROOT, serving

HERE = Path(__file__).parent
PACKAGE = ROOT / "clients/typescript"
NODE = Path(sys.executable).parent / "node"
SECONDS = 60
RUN = """
import * as usage from './usage.js';
const [name, places] = process.argv.slice(2);
console.log(JSON.stringify(await usage[name](JSON.parse(places))));
"""
PAGE = """<!doctype html>
<title>A project</title>
<link rel="icon" href="data:,">
<script type="importmap">
  {"imports": {"tasks-api-client": "/node_modules/tasks-api-client/dist/index.js"}}
</script>
<h1>A project that uses tasks-api-client</h1>
<pre></pre>
"""
ASK = """async ([name, places]) => {
  const answer = await (await import('/usage.js'))[name](places);
  document.querySelector('pre').textContent = `${name} ${JSON.stringify(answer, null, 2)}`;
  return answer;
}"""

Places = dict[str, str]
Use = Callable[[str], Any]


def run(*words: str | Path, folder: Path) -> str:
    """Run a program of the development environment; its output, also where it fails."""
    path = f"{NODE.parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        words,
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def compiled(folder: Path, *options: str) -> str:
    """What the compiler says of a project's files."""
    files = sorted(path.name for path in folder.glob("*.ts"))
    compiler = PACKAGE / "node_modules/typescript/bin/tsc"
    return run(NODE, compiler, "--strict", "--target", "es2023", *options, *files, folder=folder)


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty project with the package in it, offline, and the files here compiled."""
    [package] = PACKAGE.glob("*.tgz")
    folder = tmp_path_factory.mktemp("project")
    (folder / "package.json").write_text('{"private": true, "type": "module"}', "utf-8")
    run("npm", "install", "--offline", "--no-audit", "--no-fund", package, folder=folder)
    for source in HERE.glob("*.ts"):
        shutil.copy(source, folder)
    compiled(folder, "--module", "nodenext")
    (folder / "run.js").write_text(RUN, "utf-8")
    (folder / "index.html").write_text(PAGE, "utf-8")
    return folder


@pytest.fixture(scope="session")
def origin(project: Path) -> Iterator[str]:
    """Where the project's page is, and the proxies."""
    with site(project) as address:
        yield address


@pytest.fixture(scope="session")
def foreign_origin(project: Path) -> Iterator[str]:
    """Where the same page is as well, but the service does not allow it."""
    with site(project) as address:
        yield address


@pytest.fixture(scope="session")
def places(origin: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    """The services and other addresses that the project is told of."""
    nowhere = "postgresql://tasks@127.0.0.1:1/tasks"
    data, apart = (tmp_path_factory.mktemp("service") / "data" for _ in range(2))
    with (
        serving(DATA_DIR=data, CORS_ORIGINS=origin) as service,
        serving(DATABASE_URL=nowhere, CORS_ORIGINS=origin) as down,
        serving(DATA_DIR=apart, CORS_ORIGINS=origin, MAX_CONCURRENT_REQUESTS=1) as narrow,
        socket.socket() as unheard,
    ):
        unheard.bind(("127.0.0.1", 0))  # and does not listen
        yield {
            "service": service.url,
            "down": down.url,
            "narrow": narrow.url,
            "proxy": f"{origin}/proxy",
            "nobody": f"http://127.0.0.1:{unheard.getsockname()[1]}",
        }


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One browser for all pages."""
    with chromium() as started:
        yield started


@pytest.fixture(scope="session")
def page(browser: Browser, origin: str) -> Iterator[Page]:
    """The project's page."""
    context = browser.new_context()
    opened = context.new_page()
    opened.goto(origin)
    yield opened
    context.close()


def in_page(page: Page, name: str, places: Places) -> Any:
    """The answer of a function of the project, called in a page."""
    return page.evaluate(ASK, [name, places])


@pytest.fixture(params=["node", "chromium"])
def use(request: pytest.FixtureRequest, project: Path, places: Places) -> Use:
    """Call a function of the project, in Node or on its page, which is on another origin."""
    if request.param == "node":
        return lambda name: json.loads(
            run(NODE, "run.js", name, json.dumps(places), folder=project)
        )
    page: Page = request.getfixturevalue("page")
    return lambda name: in_page(page, name, places)
