"""`task bench:profile`: where the processor time of get and create goes; reports/bench/profile-*.

A piece of the service's own is a function below app/, counted without what it calls; calls of the
system and of extensions stand for themselves.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from bench.compare.catalogue import OURS, VENV, peer
from bench.compare.data import database
from bench.compare.measure import Stand, stands
from bench.compare.report import FOLDER
from tests.support.long_task import progress, run

OPERATIONS = ("get", "create")
SECONDS = 15
PER_SECOND = 500  # samples
LOAD = 500  # requests between two looks at the sampler
MOST = 0.05
SHOWN = 12


def sampled(stand: Stand, operation: str, form: str, path: Path) -> None:
    """Sample the process under load, into a file of one of py-spy's forms."""
    words = [str(VENV / "bin" / "py-spy"), "record", "--pid", str(stand.pid)]
    words += ["--duration", str(SECONDS), "--rate", str(PER_SECOND)]
    words += ["--native", "--format", form, "--output", str(path)]
    stand.cost(operation)
    progress(f"{operation}, {form}")
    sampler = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 3 * SECONDS
    while sampler.poll() is None:
        assert time.monotonic() < deadline, "py-spy does not end"
        stand.cost(operation, LOAD)
    assert sampler.returncode == 0, "py-spy failed; it may need root"


def shares(stacks: str) -> dict[str, float]:
    """The share of each function that was found at the top of a stack while a request ran."""
    own = Counter[str]()
    for line in stacks.splitlines():
        stack, _, count = line.rpartition(" ")
        if "RequestResponseCycle.run_asgi" in stack or "data_received" in stack:
            # A frame of Python's is "name (file:line)", one of a library's "name (library)".
            own[re.sub(r":\d+\)$", ")", stack.rpartition(";")[2])] += int(count)
    total = own.total()
    return {function: count / total for function, count in own.most_common()}


def main() -> int:
    """Profile, print, and judge the pieces of our own."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    heavy: list[str] = []
    with database() as server, ExitStack() as stack:
        (stand,) = stands(stack, [peer(OURS)], server, workers=1)
        for operation in OPERATIONS:
            raw = FOLDER / f"profile-{operation}.txt"
            sampled(stand, operation, "flamegraph", raw.with_suffix(".svg"))
            sampled(stand, operation, "raw", raw)
            found = shares(raw.read_text("utf-8"))
            print(f"{operation}: a share of a request's time, without what is called")
            for function, share in list(found.items())[:SHOWN]:
                print(f"{share:7.1%}  {function}")
            ours = {name: share for name, share in found.items() if "(app/" in name}
            print(f"{sum(ours.values()):7.1%}  all of our own")
            above = {name: share for name, share in ours.items() if share > MOST}
            heavy += [f"{operation}: {name} {share:.1%}" for name, share in above.items()]
    print(*heavy, f"{len(heavy)} pieces of our own above {MOST:.0%}", sep="\n")
    return 1 if heavy else 0


if __name__ == "__main__":
    run(main)
