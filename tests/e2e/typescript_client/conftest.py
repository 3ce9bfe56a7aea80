"""Fixtures: a project with the installed package, in Node and in a browser."""

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
TIMEOUT = 60
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
CALL = """async ([name, places]) => {
  const answer = await (await import('/usage.js'))[name](places);
  document.querySelector('pre').textContent = `${name} ${JSON.stringify(answer, null, 2)}`;
  return answer;
}"""

URLs = dict[str, str]
Use = Callable[[str], Any]


def run(*argv: str | Path, folder: Path) -> str:
    """Run a program with the environment's Node and return its output."""
    path = f"{NODE.parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        argv,
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def compile_project(folder: Path, *options: str) -> str:
    """Compile the project's files and return the output of the compiler."""
    files = sorted(path.name for path in folder.glob("*.ts"))
    compiler = PACKAGE / "node_modules/typescript/bin/tsc"
    return run(NODE, compiler, "--strict", "--target", "es2023", *options, *files, folder=folder)


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a project with the package, and compile the TypeScript files of this folder."""
    [package] = PACKAGE.glob("*.tgz")
    folder = tmp_path_factory.mktemp("project")
    (folder / "package.json").write_text('{"private": true, "type": "module"}', "utf-8")
    run("npm", "install", "--offline", "--no-audit", "--no-fund", package, folder=folder)
    for source in HERE.glob("*.ts"):
        shutil.copy(source, folder)
    compile_project(folder, "--module", "nodenext")
    (folder / "run.js").write_text(RUN, "utf-8")
    (folder / "index.html").write_text(PAGE, "utf-8")
    return folder


@pytest.fixture(scope="session")
def origin(project: Path) -> Iterator[str]:
    """Serve the project's page and the simulated proxies, and yield their origin."""
    with site(project) as address:
        yield address


@pytest.fixture(scope="session")
def foreign_origin(project: Path) -> Iterator[str]:
    """Serve the page on an origin that the service does not allow."""
    with site(project) as address:
        yield address


@pytest.fixture(scope="session")
def places(origin: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[URLs]:
    """Yield the URLs of the services and proxies by name."""
    unreachable = "postgresql://tasks@127.0.0.1:1/tasks"
    data, other_data = (tmp_path_factory.mktemp("service") / "data" for _ in range(2))
    with (
        serving(DATA_DIR=data, CORS_ORIGINS=origin) as service,
        serving(DATABASE_URL=unreachable, CORS_ORIGINS=origin) as down,
        serving(DATA_DIR=other_data, CORS_ORIGINS=origin, MAX_CONCURRENT_REQUESTS=1) as narrow,
        socket.socket() as unused,
    ):
        unused.bind(("127.0.0.1", 0))  # bound, but not listening
        yield {
            "service": service.url,
            "down": down.url,
            "narrow": narrow.url,
            "proxy": f"{origin}/proxy",
            "nobody": f"http://127.0.0.1:{unused.getsockname()[1]}",
        }


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Start one browser for all pages."""
    with chromium() as started:
        yield started


@pytest.fixture(scope="session")
def page(browser: Browser, origin: str) -> Iterator[Page]:
    """Open the project's page."""
    context = browser.new_context()
    opened = context.new_page()
    opened.goto(origin)
    yield opened
    context.close()


def in_page(page: Page, name: str, places: URLs) -> Any:
    """Call a function of the project in a page and return its result."""
    return page.evaluate(CALL, [name, places])


@pytest.fixture(params=["node", "chromium"])
def use(request: pytest.FixtureRequest, project: Path, places: URLs) -> Use:
    """Return a caller for the project's functions, in Node or on a page on another origin."""
    if request.param == "node":
        return lambda name: json.loads(
            run(NODE, "run.js", name, json.dumps(places), folder=project)
        )
    page: Page = request.getfixturevalue("page")
    return lambda name: in_page(page, name, places)
