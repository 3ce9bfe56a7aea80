"""Run Buildah with a separate store, and build a base image from Debian's packages.

No image is pulled. The isolation is a chroot, which also works without an OCI runtime, such as in a
container.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.process import ROOT

STORE = ROOT / ".task/container"
BASE = os.environ.get("CONTAINER_BASE") or "localhost/tasks-api-base"
IMAGE = "localhost/tasks-api"
SUITE = "bookworm"
CERTIFICATES = "/run/certificates.pem"
TIMEOUT = 900  # seconds; the base image takes three minutes on two busy cores
# pip's options for its index, from the lowest precedence to the highest.
SOURCES = ("global", "user", "site", ":env:")
OPTIONS = ("index-url", "proxy", "trusted-host", "cert")


def run(*argv: str | Path) -> str:
    """Run a program and return its output. Raise AssertionError with the output if it fails."""
    done = subprocess.run(
        argv, cwd=ROOT, capture_output=True, text=True, check=False, timeout=TIMEOUT
    )
    assert done.returncode == 0, f"{argv}\n{done.stdout}{done.stderr}"
    return done.stdout.strip()


def buildah(*argv: str | Path) -> str:
    """Run a Buildah command and return its output."""
    assert shutil.which("buildah"), "buildah is not installed"
    return run("buildah", "--root", STORE / "store", "--runroot", STORE / "run", *argv)


@contextmanager
def working_container(image: str) -> Iterator[str]:
    """Create a container from an image, yield its name, and remove it."""
    name = buildah("from", "--pull-never", image)
    try:
        yield name
    finally:
        buildah("rm", name)


def build_base() -> None:
    """Import a minimal Debian with its Python, unless it is in the store."""
    if buildah("images", "--quiet", "--filter", f"reference={BASE}"):
        return
    assert BASE.startswith("localhost/"), f"{BASE} is not in {STORE}"
    assert shutil.which("debootstrap"), "debootstrap is not installed"
    with tempfile.TemporaryDirectory() as root, working_container("scratch") as name:
        run("debootstrap", "--variant=minbase", "--include=python3-venv", SUITE, root)
        buildah("add", "--quiet", name, root, "/")
        buildah("commit", "--quiet", name, BASE)


def pip_options() -> dict[str, str]:
    """Return the options of the local pip for its index; empty with pip's defaults."""
    configuration = run("pip", "config", "list")
    return {
        option: value
        for source in SOURCES
        for option, value in re.findall(
            rf"^{source}\.([\w-]+)='(.*)'$", configuration, re.MULTILINE
        )
        if option in OPTIONS
    }


def build() -> None:
    """Build the image from the Containerfile. pip's options are mounted, not copied."""
    options = pip_options()
    volumes: list[str] = []
    if "cert" in options:
        volumes = ["--volume", f"{options['cert']}:{CERTIFICATES}:ro"]
        options["cert"] = CERTIFICATES
    with tempfile.NamedTemporaryFile("w", encoding="utf-8") as pip_conf:
        pip_conf.writelines(
            ["[global]\n", *(f"{name} = {value}\n" for name, value in options.items())]
        )
        pip_conf.flush()
        buildah(
            *("bud", "--isolation", "chroot", "--layers", "--file", "Containerfile"),
            *("--format", "docker"),  # the format with health checks
            *("--build-arg", f"BASE={BASE}", "--secret", f"id=pip.conf,src={pip_conf.name}"),
            *(*volumes, "--tag", IMAGE, "."),
        )


def inspect(image: str) -> dict[str, Any]:
    """Return the metadata of an image."""
    metadata: dict[str, Any] = json.loads(buildah("inspect", "--type", "image", image))
    return metadata
