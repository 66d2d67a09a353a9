"""An experiment of real processes without models: ``driver.py RESULTS [fail] [ray]``; each run takes half a second.

``driver.py --child FOLDER [fail]`` is one of its runs: rows of metrics, a file of what it was told, done.json.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mx_plugin.experiments.child import end_with_parent
from mx_plugin.experiments.executor import Executor, Job, LocalExecutor
from mx_plugin.experiments.folder import ResultsFolder, write_done
from mx_plugin.experiments.plan import Plan, PlannedRun, settle
from mx_plugin.experiments.progress import ProgressLines
from mx_plugin.experiments.runner import run_all, terminable

STEPS = 5


def plan() -> Plan:
    runs = tuple(PlannedRun(name, name, seed) for seed in (1, 2) for name in ("A", "D"))
    return Plan("ppo", {"options": {"lr": 1}}, runs, (1, 2), STEPS, "A", {"sha256": "0"}, 1)


@contextmanager
def executor(name: str) -> Iterator[Executor]:
    if name != "ray":
        yield LocalExecutor(2)
        return
    from mx_trl.experiments.ray_executor import RayExecutor

    with RayExecutor(cpus=1, slots=2) as made:
        yield made


def drive(results: Path, failing: str, where: str = "local") -> int:
    folder = ResultsFolder(results)
    with folder.locked(), terminable():
        settled = settle(folder.plan(), plan(), add=False)
        folder.write_plan(settled, {"A": "a\n", "D": "d\n"})
        waiting = [run for run in settled.runs if not folder.is_done(run)]

        def job(run: PlannedRun, part: Path) -> Job:
            command = [sys.executable, __file__, "--child", str(part), "fail" if run.name == failing else ""]
            return Job(str(run), command, part / "run.log", {"OMP_NUM_THREADS": "1"})

        progress = ProgressLines(sys.stderr, len(waiting), STEPS)
        with executor(where) as chosen:
            return 1 if run_all(folder, waiting, chosen, job, progress) else 0


def child(part: Path, failing: str) -> None:
    end_with_parent()
    with (part / "metrics.csv").open("w", encoding="utf-8") as metrics:
        metrics.write("step,reward\n")
        for step in range(STEPS):
            time.sleep(0.1)
            metrics.write(f"{step},{step * 0.5}\n")
            metrics.flush()
            if failing and step == 2:
                raise RuntimeError("the reward model exploded")
    write_done(part, seconds=0.5, steps=STEPS)


if __name__ == "__main__":
    if sys.argv[1] == "--child":
        child(Path(sys.argv[2]), sys.argv[3])
    else:
        sys.exit(drive(Path(sys.argv[1]), *sys.argv[2:] or [""]))
