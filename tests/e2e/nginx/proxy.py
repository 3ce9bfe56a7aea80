"""Run nginx with `deploy/nginx.conf` on a free port, in front of two replicas."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

from tests.support.live import LiveServer, PageContractCheck
from tests.support.process import ROOT, STOP_TIMEOUT, eventually

CONFIGURATION = ROOT / "deploy" / "nginx.conf"
PROGRAM = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


class BehindNginx(PageContractCheck):
    """Checks the contract, and allows nginx's header `Server`."""

    def check(self, method: str, raw_path: str, response: httpx.Response) -> str | None:
        headers = [(name, value) for name, value in response.headers.items() if name != "server"]
        bare = httpx.Response(response.status_code, headers=headers, content=response.content)
        return super().check(method, raw_path, bare)


class Front(LiveServer):
    """A running nginx."""

    contract = BehindNginx()


@contextmanager
def nginx(folder: Path, replicas: tuple[int, int], origin: str) -> Iterator[LiveServer]:
    """Start nginx in front of two ports, with one allowed CORS origin."""
    assert PROGRAM, "nginx is not installed"
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    text = CONFIGURATION.read_text("utf-8")
    for original, actual in zip((8080, 8001, 8002), (port, *replicas), strict=True):
        assert text.count(f"127.0.0.1:{original}") == 1
        text = text.replace(f"127.0.0.1:{original}", f"127.0.0.1:{actual}")
    before = "map $http_origin $cors_origin {\n"
    assert text.count(before) == 1
    text = text.replace(before, f'{before}"{origin}" $http_origin;\n')
    (folder / "nginx.conf").write_text(text, "utf-8")
    argv = [PROGRAM, "-p", str(folder), "-c", "nginx.conf", "-e", "stderr"]
    user = "user root; " if os.geteuid() == 0 else ""  # only root can read the folder
    process = subprocess.Popen(
        [*argv, "-g", f"{user}daemon off;"], cwd=folder, stdin=subprocess.DEVNULL
    )

    def is_listening() -> bool:
        assert process.poll() is None
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
        return False

    try:
        eventually(is_listening)
        yield Front(port)
    finally:
        process.terminate()
        process.wait(STOP_TIMEOUT)
