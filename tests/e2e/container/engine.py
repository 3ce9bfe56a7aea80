"""Buildah with a store of its own, and a base made from Debian's packages: neither pulls anything.

Isolation is a chroot, which works where the kernel refuses an OCI runtime, such as in a container.
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
SECONDS = 900  # a base from Debian's packages takes three minutes on two busy cores
# What the machine's pip may have been told of the way to its index; from the weakest place on.
PLACES = ("global", "user", "site", ":env:")
OPTIONS = ("index-url", "proxy", "trusted-host", "cert")


def run(*words: str | Path) -> str:
    """What a program prints; AssertionError with all that it said when it fails."""
    done = subprocess.run(
        words, cwd=ROOT, capture_output=True, text=True, check=False, timeout=SECONDS
    )
    assert done.returncode == 0, f"{words}\n{done.stdout}{done.stderr}"
    return done.stdout.strip()


def buildah(*words: str | Path) -> str:
    """The output of a Buildah command."""
    assert shutil.which("buildah"), "buildah is not installed"
    return run("buildah", "--root", STORE / "store", "--runroot", STORE / "run", *words)


@contextmanager
def working_container(image: str) -> Iterator[str]:
    """The name of a container made from an image, removed at the end."""
    name = buildah("from", "--pull-never", image)
    try:
        yield name
    finally:
        buildah("rm", name)


def make_base() -> None:
    """Import a minimal Debian with its Python, unless the store has it."""
    if buildah("images", "--quiet", "--filter", f"reference={BASE}"):
        return
    assert BASE.startswith("localhost/"), f"{BASE} is not in {STORE}"
    assert shutil.which("debootstrap"), "debootstrap is not installed"
    with tempfile.TemporaryDirectory() as root, working_container("scratch") as name:
        run("debootstrap", "--variant=minbase", "--include=python3-venv", SUITE, root)
        buildah("add", "--quiet", name, root, "/")
        buildah("commit", "--quiet", name, BASE)


def pip_options() -> dict[str, str]:
    """What the machine's pip knows of the way to its index; without any, pip's defaults hold."""
    said = run("pip", "config", "list")
    return {
        option: value
        for place in PLACES
        for option, value in re.findall(rf"^{place}\.([\w-]+)='(.*)'$", said, re.MULTILINE)
        if option in OPTIONS
    }


def build() -> None:
    """Build the image from the Containerfile; the way to the index is lent, not copied."""
    options = pip_options()
    lent: list[str] = []
    if "cert" in options:
        lent = ["--volume", f"{options['cert']}:{CERTIFICATES}:ro"]
        options["cert"] = CERTIFICATES
    with tempfile.NamedTemporaryFile("w", encoding="utf-8") as pip_conf:
        pip_conf.writelines(
            ["[global]\n", *(f"{name} = {value}\n" for name, value in options.items())]
        )
        pip_conf.flush()
        buildah(
            *("bud", "--isolation", "chroot", "--layers", "--file", "Containerfile"),
            *("--format", "docker"),  # the one that has health checks
            *("--build-arg", f"BASE={BASE}", "--secret", f"id=pip.conf,src={pip_conf.name}"),
            *(*lent, "--tag", IMAGE, "."),
        )


def inspect(image: str) -> dict[str, Any]:
    """All that is recorded of an image."""
    found: dict[str, Any] = json.loads(buildah("inspect", "--type", "image", image))
    return found
