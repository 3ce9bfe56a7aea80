"""Fixtures: a project with the installed package, in Node and in a browser."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page

from tests.e2e.docs_page.chromium import chromium
from tests.e2e.typescript_client.site import site
from tests.support.documents import blocks
from tests.support.process import ROOT, serving
from tests.support.process import run as run_command

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


def examples_in_the_guide(mark: str) -> list[str]:
    """Return the code blocks of the guide with this mark."""
    text = (ROOT / "docs/guides/typescript-client.md").read_text("utf-8")
    return [each.code for each in blocks(text) if each.mark == mark]


def compile_example(folder: Path, source: str, service_url: str) -> None:
    """Compile an example to `example.js`, for a service at this URL."""
    assert source.count("http://127.0.0.1:8000") == 1
    source = source.replace("http://127.0.0.1:8000", service_url)
    (folder / "example.ts").write_text(source, "utf-8")
    compile_project(folder, "--module", "nodenext")


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


class RestartedService:
    """A service on a fixed port that can be stopped and started, and its database restored."""

    def __init__(self) -> None:
        self.actions = {
            "start": self._start,
            "stop": self._stop,
            "backup": self._backup,
            "restore": self._restore,
        }
        self._settings: dict[str, object] = {}
        self._stack = ExitStack()

    @contextmanager
    def running(self, **settings: object) -> Iterator[str]:
        """Start the service, yield its URL, and end it if it runs."""
        self._settings = settings
        self._start()
        with self._stack:
            yield self._service.url

    def _start(self) -> None:
        self._service = self._stack.enter_context(serving(**self._settings))
        self._settings["PORT"] = httpx.URL(self._service.url).port

    def _stop(self) -> None:
        assert self._service.stop() == 0

    def _backup(self) -> None:
        self._stop()
        data = self._settings["DATA_DIR"]
        copy = ["cp", "-a", f"{data}", f"{data}.backup"]  # keeps the owner of the files
        subprocess.run(copy, check=True)
        self._start()

    def _restore(self) -> None:
        self._stop()
        data = self._settings["DATA_DIR"]
        shutil.rmtree(f"{data}")
        Path(f"{data}.backup").rename(f"{data}")
        assert run_command("new-epoch", DATA_DIR=data).returncode == 0
        self._start()


@pytest.fixture(scope="session")
def restarted() -> RestartedService:
    """Return a service that `places` starts."""
    return RestartedService()


@pytest.fixture(scope="session")
def origin(project: Path, restarted: RestartedService) -> Iterator[str]:
    """Serve the project's page and the simulated proxies, and yield their origin."""
    with site(project, restarted.actions) as address:
        yield address


@pytest.fixture(scope="session")
def foreign_origin(project: Path) -> Iterator[str]:
    """Serve the page on an origin that the service does not allow."""
    with site(project, {}) as address:
        yield address


@pytest.fixture(scope="session")
def places(
    origin: str, restarted: RestartedService, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[URLs]:
    """Yield the URLs of the services and proxies by name."""
    unreachable = "postgresql://tasks@127.0.0.1:1/tasks"
    data, other_data, third = (tmp_path_factory.mktemp("service") / "data" for _ in range(3))
    with (
        serving(DATA_DIR=data, CORS_ORIGINS=origin) as service,
        serving(DATABASE_URL=unreachable, CORS_ORIGINS=origin) as down,
        serving(DATA_DIR=other_data, CORS_ORIGINS=origin, MAX_CONCURRENT_REQUESTS=1) as narrow,
        restarted.running(DATA_DIR=third, CORS_ORIGINS=origin) as restarted_url,
        socket.socket() as unused,
    ):
        unused.bind(("127.0.0.1", 0))  # bound, but not listening
        yield {
            "service": service.url,
            "down": down.url,
            "narrow": narrow.url,
            "restarted": restarted_url,
            "control": f"{origin}/control",
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
