"""Draws a run: `python chart.py FOLDER` reads bench.json there and writes bench.svg.

A script of its own, as its library is the benchmark's and not the project's.
"""

import json
import sys
from collections import defaultdict
from pathlib import Path
from statistics import median

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot as plt

folder = Path(sys.argv[1])
run = json.loads((folder / "bench.json").read_text("utf-8"))
values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
for sample in run["samples"]:
    if sample["figure"] == "processor":
        values[sample["peer"]][sample["operation"]].append(sample["value"] * 1e6)

operations = list(next(iter(values.values())))
height = 0.8 / len(values)
figure, axes = plt.subplots(figsize=(9, 1.5 + 0.6 * len(operations)))
for number, (peer, costs) in enumerate(values.items()):
    places = [place + number * height for place in range(len(operations))]
    axes.barh(places, [median(costs[each]) for each in operations], height, label=peer)
axes.set_yticks([place + 0.4 - height / 2 for place in range(len(operations))], operations)
axes.invert_yaxis()
axes.set_xscale("log")
axes.set_xlabel("microseconds of processor time per request (logarithmic)")
axes.set_title(f"Processor time of the service, {run['date']}, {run['machine']}", fontsize=9)
axes.legend()
figure.tight_layout()
figure.savefig(folder / "bench.svg", metadata={"Date": None})
