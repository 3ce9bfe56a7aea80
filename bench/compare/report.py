"""The table, the chart and the files of a run."""

from __future__ import annotations

import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from bench.compare.catalogue import BARE, OURS, PEERS, USUAL, VENV
from bench.compare.measure import Figures
from bench.compare.operations import OPERATIONS
from tests.support.process import ROOT

FOLDER = ROOT / "reports" / "bench"
LIBRARIES = ("litestar", "advanced-alchemy", "sqlalchemy", "asyncpg", "msgspec", "uvicorn")
MICRO, MILLI, MIB = 1e6, 1e3, 1 / 2**20


def circumstances(rounds: int) -> dict[str, Any]:
    """When, where and with what a run was made."""
    words = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit.stdout.strip(),
        "rounds": rounds,
        "python": platform.python_version(),
        "machine": f"{machine()}, Linux {platform.release().partition('-')[0]}",
        "libraries": {name: version(name) for name in LIBRARIES},
    }


def machine() -> str:
    """How many processors of which kind (Linux). A virtual machine's names leave out the model."""
    number, kind = 0, dict[str, str]()
    for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
        name, _, value = map(str.strip, line.partition(":"))
        number += name == "processor"
        kind[name] = value
    names = ("model name", "cpu family", "model", "stepping")
    return " ".join([f"{number} x", *(kind[name] for name in names if name in kind)])


def write(figures: Figures, about: dict[str, Any]) -> Path:
    """Write the file, the table and the chart; where the table is."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    raw = msgspec.json.encode({**about, "samples": figures.samples})
    (FOLDER / "bench.json").write_bytes(raw)
    table = FOLDER / "bench.md"
    table.write_text(text(figures, about), "utf-8")
    draw(FOLDER / "speed.json", chart_data(figures, about))
    return table


def chart_data(figures: Figures, about: dict[str, Any]) -> dict[str, Any]:
    """Return what the chart of CPU time shows: the median of each service and operation."""
    return {
        "title": "CPU time of the service per request",
        "date": about["date"],
        "machine": about["machine"],
        "processor": {
            peer: {
                operation: round(figures.middle(peer, operation, "processor") * MICRO, 1)
                for operation in OPERATIONS
            }
            for peer in figures.peers()
        },
    }


def draw(path: Path, data: dict[str, Any]) -> None:
    """Write the data of a chart, and the chart beside it as SVG."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(data)))
    subprocess.run(
        [str(VENV / "bin" / "python"), str(PEERS.parent / "chart.py"), str(path)], check=True
    )


def text(figures: Figures, about: dict[str, Any]) -> str:
    """The tables, in Markdown."""
    libraries = ", ".join(f"{name} {number}" for name, number in about["libraries"].items())
    head = (
        f"{about['date']}, commit {about['commit']}, Python {about['python']}, {libraries}; "
        f"{about['machine']}; medians of {about['rounds']} rounds, in brackets half the distance "
        f"of their quarters."
    )
    parts = [head, "## Processor time of the service, microseconds per request", _costs(figures)]
    parts += ["## Processor time of PostgreSQL, microseconds per request"]
    parts += [_table(figures, "database", MICRO, OPERATIONS)]
    if "rate of 1" in figures.by_operation()["mix"]:
        parts += ["## Requests per second at saturation, one process"]
        parts += [_table(figures, "rate of 1", 1, OPERATIONS)]
        parts += ["## Requests per second at saturation, two processes"]
        parts += [_table(figures, "rate of 2", 1, OPERATIONS)]
        for share in (50, 95, 99):
            parts += [f"## p{share} in ms at 70% of the saturation of one process"]
            parts += [_table(figures, f"p{share}", MILLI, OPERATIONS)]
        parts += ["## Seconds from start to first answer, and MiB of memory after all loads"]
        parts += [_table(figures, "seconds", 1, ["start"]), _table(figures, "memory", MIB, ["mix"])]
    return "\n\n".join(parts) + "\n"


def _costs(figures: Figures) -> str:
    peers = figures.peers()
    names = [*peers, f"{OURS} / {BARE}"]
    if USUAL in peers:
        names.append(f"{USUAL} / {OURS}")
    rows = []
    for operation in figures.by_operation():
        if operation not in OPERATIONS:
            continue
        cells = [_cell(figures, peer, operation, "processor", MICRO) for peer in peers]
        cells.append(f"**{figures.ratio(OURS, BARE, operation):.2f}**")
        if USUAL in peers:
            cells.append(f"**{figures.ratio(USUAL, OURS, operation):.2f}**")
        rows.append([operation, *cells])
    return _lines(["operation", *names], rows)


def _table(figures: Figures, figure: str, unit: float, operations: Any) -> str:
    peers = figures.peers()
    measured = figures.by_operation()
    rows = [
        [operation, *(_cell(figures, peer, operation, figure, unit) for peer in peers)]
        for operation in operations
        if figure in measured.get(operation, ())
    ]
    return _lines(["operation", *peers], rows)


def _cell(figures: Figures, peer: str, operation: str, figure: str, unit: float) -> str:
    middle = figures.middle(peer, operation, figure) * unit
    spread = figures.spread(peer, operation, figure)
    return f"{middle:.{0 if middle >= 20 else 2}f} (±{spread:.0%})"


def _lines(head: list[str], rows: list[list[str]]) -> str:
    rule = ["---", *("---:" for _ in head[1:])]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, rule, *rows])
