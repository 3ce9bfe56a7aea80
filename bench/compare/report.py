"""The tables, the chart and the data file of a run."""

from __future__ import annotations

import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from bench.compare.measure import Results
from bench.compare.operations import OPERATIONS
from bench.compare.targets import BARE_ASGI, BASELINES, BENCH_VENV, FASTAPI, TASKS_API
from tests.support.process import ROOT

REPORT_DIR = ROOT / "reports" / "bench"
LIBRARIES = ("litestar", "advanced-alchemy", "sqlalchemy", "asyncpg", "msgspec", "uvicorn")
MICRO, MILLI, MIB = 1e6, 1e3, 1 / 2**20


def describe_run(rounds: int) -> dict[str, Any]:
    """Return the date, commit, machine and versions of a run."""
    argv = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True)
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit.stdout.strip(),
        "rounds": rounds,
        "python": platform.python_version(),
        "machine": f"{describe_machine()}, Linux {platform.release().partition('-')[0]}",
        "libraries": {name: version(name) for name in LIBRARIES},
    }


def describe_machine() -> str:
    """Return the number and type of the CPUs (Linux). A virtual machine may omit the model."""
    count, properties = 0, dict[str, str]()
    for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
        name, _, value = map(str.strip, line.partition(":"))
        count += name == "processor"
        properties[name] = value
    names = ("model name", "cpu family", "model", "stepping")
    return " ".join([f"{count} x", *(properties[name] for name in names if name in properties)])


def write(results: Results, about: dict[str, Any]) -> Path:
    """Write the data, the tables and the chart. Return the path of the tables."""
    REPORT_DIR.mkdir(parents=True, exist_ok=True)
    raw = msgspec.json.encode({**about, "samples": results.samples})
    (REPORT_DIR / "bench.json").write_bytes(raw)
    table = REPORT_DIR / "bench.md"
    table.write_text(render(results, about), "utf-8")
    draw(REPORT_DIR / "speed.json", chart_data(results, about))
    return table


def chart_data(results: Results, about: dict[str, Any]) -> dict[str, Any]:
    """Return the data of the CPU time chart: the median of each service and operation."""
    return {
        "title": "CPU time of the service per request",
        "date": about["date"],
        "machine": about["machine"],
        "processor": {
            target: {
                operation: round(results.median(target, operation, "processor") * MICRO, 1)
                for operation in OPERATIONS
            }
            for target in results.targets()
        },
    }


def draw(path: Path, data: dict[str, Any]) -> None:
    """Write the data of a chart, and the chart as SVG in the same directory."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(data)))
    subprocess.run(
        [str(BENCH_VENV / "bin" / "python"), str(BASELINES.parent / "chart.py"), str(path)],
        check=True,
    )


def render(results: Results, about: dict[str, Any]) -> str:
    """Return the tables in Markdown."""
    libraries = ", ".join(f"{name} {number}" for name, number in about["libraries"].items())
    summary = (
        f"{about['date']}, commit {about['commit']}, Python {about['python']}, {libraries}; "
        f"{about['machine']}; medians of {about['rounds']} rounds, in brackets half of "
        f"their interquartile range."
    )
    parts = [
        summary,
        "## CPU time of the service, microseconds per request",
        _cpu_time_table(results, "processor"),
        "## CPU time of PostgreSQL, microseconds per request",
        _cpu_time_table(results, "database"),
    ]
    if "rate of 1" in results.metrics_by_operation()["mix"]:
        parts += ["## Requests per second at saturation, one process"]
        parts += [_table(results, "rate of 1", 1, OPERATIONS)]
        parts += ["## Requests per second at saturation, two processes"]
        parts += [_table(results, "rate of 2", 1, OPERATIONS)]
        for percent in (50, 95, 99):
            parts += [f"## p{percent} in ms at 70% of the saturation of one process"]
            parts += [_table(results, f"p{percent}", MILLI, OPERATIONS)]
        parts += ["## Seconds from start to first response, and MiB of memory after all loads"]
        parts += [_table(results, "seconds", 1, ["start"]), _table(results, "memory", MIB, ["mix"])]
    return "\n\n".join(parts) + "\n"


def _cpu_time_table(results: Results, metric: str) -> str:
    targets = results.targets()
    names = [*targets, f"{TASKS_API} / {BARE_ASGI}"]
    if FASTAPI in targets:
        names.append(f"{FASTAPI} / {TASKS_API}")
    rows = []
    for operation in results.metrics_by_operation():
        if operation not in OPERATIONS:
            continue
        cells = [_cell(results, target, operation, metric, MICRO) for target in targets]
        cells.append(f"**{results.ratio(TASKS_API, BARE_ASGI, operation, metric):.2f}**")
        if FASTAPI in targets:
            cells.append(f"**{results.ratio(FASTAPI, TASKS_API, operation, metric):.2f}**")
        rows.append([operation, *cells])
    return _markdown(["operation", *names], rows)


def _table(results: Results, metric: str, unit: float, operations: Any) -> str:
    targets = results.targets()
    metrics = results.metrics_by_operation()
    rows = [
        [operation, *(_cell(results, target, operation, metric, unit) for target in targets)]
        for operation in operations
        if metric in metrics.get(operation, ())
    ]
    return _markdown(["operation", *targets], rows)


def _cell(results: Results, target: str, operation: str, metric: str, unit: float) -> str:
    value = results.median(target, operation, metric) * unit
    spread = results.spread(target, operation, metric)
    return f"{value:.{0 if value >= 20 else 2}f} (±{spread:.0%})"


def _markdown(header: list[str], rows: list[list[str]]) -> str:
    rule = ["---", *("---:" for _ in header[1:])]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [header, rule, *rows])
