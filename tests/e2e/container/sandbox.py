"""A program in the image's root as an engine would run it, with what util-linux has.

Its user and environment are the image's, the root is read-only, and the program is process 1 of a
namespace of its own. The network is the machine's, so addresses are given: loopback alone.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.process import Service, eventually, launch_service

# Where the folder of the database's socket is seen inside.
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
SECONDS = 60


@dataclass(frozen=True)
class Cell:
    """Where programs of an image run."""

    root: Path
    sockets: Path
    config: Mapping[str, Any]

    def words(self, *command: str, **settings: object) -> list[str]:
        """The words that run a command with these settings beside the image's own."""
        own = [f"{name}={value}" for name, value in settings.items()]
        return [
            *("unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-ec", ENTER, "enter"),
            *(str(self.root), str(self.sockets)),
            *(f"--userspec={self.config['User']}", "--groups=", str(self.root)),
            *("env", "-i", "-C", self.config["WorkingDir"], *self.config["Env"], *own),
            *command,
        ]

    def service(self, *command: str) -> list[str]:
        """The image's own command line, with another command than its own where one is given."""
        return [*self.config["Entrypoint"], *(command or self.config["Cmd"])]

    def run(self, *command: str, **settings: object) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            self.words(*command, **settings),
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
        )

    @contextmanager
    def started(self, *command: str, **settings: object) -> Iterator[tuple[Service, int]]:
        """A program, with its number outside; do not use the one that it tells, which is 1."""
        with launch_service(self.words(*command, **settings), {}) as service:
            number = process_1(service.process.pid)
            eventually(lambda: name(number) == command[0])
            yield service, number

    @contextmanager
    def serving(self, **settings: object) -> Iterator[tuple[Service, int]]:
        """The image's own command, answering on a free port of loopback."""
        own = {"HOST": "127.0.0.1", "PORT": 0, **settings}
        with self.started(*self.service(), **own) as (service, number):
            service.await_alive()
            yield service, number


def process_1(entered: int) -> int:
    """The number, outside, of the process 1 that `unshare` with this number starts."""
    children = Path(f"/proc/{entered}/task/{entered}/children")
    eventually(lambda: children.read_text("ascii"))
    [child] = children.read_text("ascii").split()
    return int(child)


def name(number: int) -> str:
    """The name of the program that a process runs now."""
    return Path(f"/proc/{number}/comm").read_text("ascii").strip()
