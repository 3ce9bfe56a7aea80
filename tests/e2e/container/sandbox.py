"""Run a program in the image's root as a container engine would, with util-linux.

It has the image's user and environment, a read-only root, and is process 1 of its PID namespace. It
shares the host's network, so services must listen only on loopback.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.process import Service, eventually, launch_service

# The folder of the database's socket in the sandbox.
SOCKETS = "/mnt"
ENTER = """
root=$1 sockets=$2; shift 2
mount --bind "$root" "$root"
mount -o remount,bind,ro "$root"
mount --bind "$sockets" "$root/mnt"
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
exec chroot "$@"
"""
TIMEOUT = 60


@dataclass(frozen=True)
class Sandbox:
    """Runs programs of an image."""

    root: Path
    sockets: Path
    config: Mapping[str, Any]

    def argv(self, *command: str, **settings: object) -> list[str]:
        """Return the command line for a command with these environment variables added."""
        variables = [f"{name}={value}" for name, value in settings.items()]
        return [
            *("unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-ec", ENTER, "enter"),
            *(str(self.root), str(self.sockets)),
            *(f"--userspec={self.config['User']}", "--groups=", str(self.root)),
            *("env", "-i", "-C", self.config["WorkingDir"], *self.config["Env"], *variables),
            *command,
        ]

    def service(self, *command: str) -> list[str]:
        """Return the image's command line, with another command if one is given."""
        return [*self.config["Entrypoint"], *(command or self.config["Cmd"])]

    def run(self, *command: str, **settings: object) -> subprocess.CompletedProcess[str]:
        """Run a command and return its result."""
        return subprocess.run(
            self.argv(*command, **settings),
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT,
        )

    @contextmanager
    def started(self, *command: str, **settings: object) -> Iterator[tuple[Service, int]]:
        """Start a program and yield it with its PID on the host (inside, the PID is 1)."""
        with launch_service(self.argv(*command, **settings), {}) as service:
            pid = find_process_1(service.process.pid)
            eventually(lambda: program_of(pid) == command[0])
            yield service, pid

    @contextmanager
    def serving(self, **settings: object) -> Iterator[tuple[Service, int]]:
        """Start the image's command on a free port of loopback, and wait until it responds."""
        variables = {"HOST": "127.0.0.1", "PORT": 0, **settings}
        with self.started(*self.service(), **variables) as (service, pid):
            service.await_alive()
            yield service, pid


def find_process_1(unshare_pid: int) -> int:
    """Return the host PID of process 1 in the namespace of an `unshare` process."""
    children = Path(f"/proc/{unshare_pid}/task/{unshare_pid}/children")
    eventually(lambda: children.read_text("ascii"))
    [child] = children.read_text("ascii").split()
    return int(child)


def program_of(pid: int) -> str:
    """Return the name of the program that a process runs."""
    return Path(f"/proc/{pid}/comm").read_text("ascii").strip()
