"""Run Prism on a free port."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from tests.support.process import eventually
from tools.openapi.node import CONTRACT, ENVIRONMENT, ROOT, command

HOST = "127.0.0.1"
TIMEOUT = 20


@contextmanager
def proxy_for(upstream: int) -> Iterator[httpx.Client]:
    """Yield a client that reaches the service on this port through Prism."""
    port = free_port()
    options = [f"--host={HOST}", f"--port={port}", "--verboseLevel=error"]
    argv = command("prism", "proxy", *options, str(CONTRACT), f"http://{HOST}:{upstream}")
    with running(argv, port) as client:
        yield client


@contextmanager
def running(argv: list[str], port: int, **variables: str) -> Iterator[httpx.Client]:
    """Start a program that is_listening on this port, and yield its client."""

    def is_ready() -> bool:
        assert process.poll() is None
        return is_listening(port)

    process = subprocess.Popen(argv, cwd=ROOT, env={**ENVIRONMENT, **variables})
    try:
        eventually(is_ready)
        with httpx.Client(base_url=f"http://{HOST}:{port}", timeout=TIMEOUT) as client:
            yield client
    finally:
        process.terminate()
        process.wait(TIMEOUT)


def free_port() -> int:
    """Return a free port."""
    with socket.create_server((HOST, 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def is_listening(port: int) -> bool:
    """Return whether a program is_listening on a port."""
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0
