"""Draw a chart of benchmark results: `python chart.py FILE.json` writes FILE.svg.

This is a script, because matplotlib is installed for the benchmarks only.
"""

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot as plt

# Keep text as text, and make the file reproducible.
mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "tasks-api", "font.size": 9})

SCALING_OPERATIONS = (
    "get",
    "list, first page",
    "list, middle page",
    "search, rare word",
    "search, word of medium frequency",
    "create",
    "update",
    "delete",
)


def draw_speed(axes: Any, run: dict[str, Any]) -> None:
    """Draw CPU time per request as a group of bars for each operation."""
    services = run["processor"]
    operations = list(next(iter(services.values())))
    height = 0.8 / len(services)
    for number, (service, times) in enumerate(services.items()):
        positions = [row + number * height for row in range(len(operations))]
        axes.barh(positions, [times[each] for each in operations], height, label=service)
    axes.set_yticks([row + 0.4 - height / 2 for row in range(len(operations))], operations)
    axes.invert_yaxis()
    axes.set_xlabel("CPU time per request, microseconds")


def draw_scaling(axes: Any, run: dict[str, Any]) -> None:
    """Draw the median time of each operation against the size of the table."""
    for name in SCALING_OPERATIONS:
        points = [
            (rows, p50) for rows, p50 in zip(run["rows"], run["p50"][name], strict=True) if p50
        ]
        axes.plot(*zip(*points, strict=True), marker="o", label=name)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("tasks in the table (logarithmic)")
    axes.set_ylabel("median time per call, milliseconds (logarithmic)")


path = Path(sys.argv[1])
run = json.loads(path.read_text("utf-8"))
is_speed = "processor" in run
rows = len(next(iter(run["processor"].values()))) if is_speed else 7
figure, axes = plt.subplots(figsize=(8, 1.5 + 0.5 * rows))
(draw_speed if is_speed else draw_scaling)(axes, run)
axes.set_title(f"{run['title']}\n{run['date']}, {run['machine']}", fontsize=9)
axes.legend(fontsize=8)
figure.tight_layout()
figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
