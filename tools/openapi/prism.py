"""Prism as a process, on a free port, for the length of a block."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from tests.support.process import eventually
from tools.openapi.node import CONTRACT, ENVIRONMENT, ROOT, command

HOST = "127.0.0.1"
SECONDS = 20


@contextmanager
def proxy_before(upstream: int) -> Iterator[httpx.Client]:
    """A client whose exchanges with the service on this port pass through Prism."""
    port = free_port()
    options = [f"--host={HOST}", f"--port={port}", "--verboseLevel=error"]
    words = command("prism", "proxy", *options, str(CONTRACT), f"http://{HOST}:{upstream}")
    with running(words, port) as client:
        yield client


@contextmanager
def running(words: list[str], port: int, **variables: str) -> Iterator[httpx.Client]:
    """A client of a program that listens on this port; the program ends with the block."""

    def answers() -> bool:
        assert process.poll() is None
        return listens(port)

    process = subprocess.Popen(words, cwd=ROOT, env={**ENVIRONMENT, **variables})
    try:
        eventually(answers)
        with httpx.Client(base_url=f"http://{HOST}:{port}", timeout=SECONDS) as client:
            yield client
    finally:
        process.terminate()
        process.wait(SECONDS)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server((HOST, 0)) as chosen:
        port: int = chosen.getsockname()[1]
        return port


def listens(port: int) -> bool:
    """Whether somebody listens on a port."""
    with socket.socket() as tried:
        return tried.connect_ex((HOST, port)) == 0
