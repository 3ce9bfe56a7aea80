"""Fixtures for the image of `task build:container`, a sandbox and a test database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from sqlalchemy.engine import make_url

from tests.e2e.container.engine import IMAGE, buildah, inspect, working_container
from tests.e2e.container.sandbox import SOCKETS, Sandbox
from tests.support.process import scratch_database


@pytest.fixture(scope="session")
def image() -> dict[str, Any]:
    """Return the metadata of the image."""
    return inspect(IMAGE)


@pytest.fixture(scope="session")
def container(image: dict[str, Any]) -> Iterator[str]:
    """Yield a working container of the image."""
    assert image
    with working_container(IMAGE) as name:
        yield name


@pytest.fixture(scope="session")
def root(container: str) -> Iterator[Path]:
    """Yield the root folder of the image."""
    yield Path(buildah("mount", container))
    buildah("umount", container)


@pytest.fixture(scope="session")
def sockets(server_url: str) -> Path:
    """Return the folder of the database's socket, accessible to the image's user."""
    folder = Path(str(make_url(server_url).query["host"]))
    folder.chmod(0o711)
    (folder / ".s.PGSQL.5432").chmod(0o666)
    return folder


@pytest.fixture(scope="session")
def sandbox(root: Path, sockets: Path, image: dict[str, Any]) -> Sandbox:
    """Return the sandbox for the image's programs."""
    return Sandbox(root, sockets, image["Docker"]["config"])


@pytest.fixture
def url(server_url: str, sockets: Path) -> Iterator[str]:
    """Yield the URL of an empty database in the sandbox."""
    with scratch_database(server_url) as scratch:
        yield scratch.replace(quote(str(sockets), safe=""), quote(SOCKETS, safe=""))
