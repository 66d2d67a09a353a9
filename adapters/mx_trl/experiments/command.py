"""``mx-plugin experiment``: plan, run what is not finished, evaluate. The models live in processes of their own."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from mx_plugin.experiments.evaluated import is_evaluated
from mx_plugin.experiments.executor import Executor, Job, LocalExecutor
from mx_plugin.experiments.folder import DONE, MODEL, ResultsFolder
from mx_plugin.experiments.plan import Plan, PlannedRun, settle
from mx_plugin.experiments.policies import needs_matrix
from mx_plugin.experiments.progress import ProgressLines
from mx_plugin.experiments.runner import run_all, tail_of, terminable

from ..errors import StageError
from .own_matrix import own_matrix
from .planning import plan_of
from .processes import environment
from .recipe import Recipe, embedded_words, installed_stage
from .request import read_request

FAILED = 1
"""Exit status when a run failed."""


def run(arguments: argparse.Namespace) -> int:
    """Plan, run, evaluate; 1 when a run failed.

    Raises:
        MXError: a plan that cannot be; what the recipe refuses; a folder that holds another experiment.
    """
    request = read_request(arguments)
    folder = ResultsFolder(arguments.output)
    with folder.locked(), terminable():
        there = folder.plan()
        recipe = _recipe(arguments, folder)
        print("examining the recipe ...", file=sys.stderr, flush=True)
        start = examine(recipe, folder)
        matrix = arguments.matrix
        if matrix is None and needs_matrix(request.policies):
            matrix = own_matrix(folder, start, request.threads)
        asked = plan_of(arguments, request, recipe, start, folder, there, matrix)
        plan = settle(there, asked.plan, add=arguments.add or not request.policies)
        folder.write_plan(plan, asked.policies)
        try:
            return _carry_out(arguments, folder, plan, asked.plan.runs, recipe)
        except KeyboardInterrupt:
            print("\ninterrupted; the same command continues where this stopped", file=sys.stderr)
            raise


def _recipe(arguments: argparse.Namespace, folder: ResultsFolder) -> Recipe:
    stage = installed_stage(arguments.stage)
    words = ("--config", arguments.config) if arguments.config else embedded_words(stage)
    return Recipe(stage, (*words, *arguments.overrides), str(folder.start / "embedded"), arguments.num_steps)


def examine(recipe: Recipe, folder: ResultsFolder) -> dict[str, Any]:
    """Build the recipe once, in a process of its own: what it starts from, in ``start/start.json``.

    Raises:
        StageError: what does not fit, before any run.
    """
    folder.start.mkdir(parents=True, exist_ok=True)
    asked, answer, log = (folder.start / name for name in ("recipe.json", "start.json", "examine.log"))
    asked.write_text(json.dumps(recipe.to_dict(), indent=2) + "\n", encoding="utf-8")
    answer.unlink(missing_ok=True)
    log.unlink(missing_ok=True)
    command = [sys.executable, "-m", "mx_trl.experiments.examine", str(asked), str(answer)]
    for outcome in LocalExecutor().execute([Job("examine", command, log, environment(1))], lambda running: None):
        if outcome.status:
            tail = "\n".join(tail_of(log))
            raise StageError(f"the recipe cannot be built (exit status {outcome.status}); the end of {log}:\n{tail}")
    found: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
    if "error" in found:
        raise StageError(found["error"])
    return found


# ---------------------------------------------------------------------------- the runs


def _carry_out(
    arguments: argparse.Namespace, folder: ResultsFolder, plan: Plan, asked: Sequence[PlannedRun], recipe: Recipe
) -> int:
    done = [run for run in asked if folder.is_done(run)]
    waiting = [run for run in asked if run not in done]
    seconds = [json.loads((folder.run(run) / DONE).read_text(encoding="utf-8"))["seconds"] for run in done]
    progress = ProgressLines(sys.stderr, len(waiting), plan.num_steps, seconds)
    progress.say(f"{len(asked)} runs of {plan.num_steps} steps in {folder.path}; {len(done)} are finished")
    fixed = replace(recipe, num_steps=plan.num_steps)

    def make_job(run: PlannedRun, part: Path) -> Job:
        job = {
            "name": run.name, "control": run.control, "seed": run.seed, "sampling_seed": run.sampling_seed,
            "policy": str(folder.policy_file(run.policy)), "options": dict(run.options),
            "recipe": fixed.to_dict(), "start": dict(plan.start),
        }  # fmt: skip
        (part / "job.json").write_text(json.dumps(job, indent=2) + "\n", encoding="utf-8")
        command = [sys.executable, "-m", "mx_trl.experiments.run", str(part)]
        return Job(str(run), command, part / "run.log", environment(plan.threads))

    with executor_of(arguments, plan.threads) as executor:
        failures = run_all(folder, waiting, executor, make_job, progress)
    if failures:
        names = ", ".join(str(failure.run) for failure in failures)
        progress.say(f"{len(failures)} of {len(asked)} runs failed: {names}; the same command tries them again")
    judged = arguments.no_evaluate or evaluate(folder, plan.threads)
    if arguments.keep_models == "none" and not arguments.no_evaluate:
        remove_models(folder, plan)
    return FAILED if failures or not judged else 0


@contextmanager
def executor_of(arguments: argparse.Namespace, threads: int) -> Iterator[Executor]:
    """The executor that ``--executor`` names; a run takes ``threads`` processors.

    Raises:
        StageError: no Ray, no cluster, or no room in it for a run.
    """
    if arguments.executor == "local":
        yield LocalExecutor(arguments.jobs or 1)
        return
    from .ray_executor import RayExecutor

    with RayExecutor(threads, arguments.gpus_per_run, arguments.jobs, arguments.ray_address) as executor:
        yield executor


def evaluate(folder: ResultsFolder, threads: int) -> bool:
    """``mx-plugin evaluate`` in a process of its own, which shows what it says; whether it went well."""
    # As many threads as a run had: on a machine that others use too, more of them wait for each other.
    command = [sys.executable, "-m", "mx_trl.experiments.evaluate", str(folder.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, env=os.environ | environment(threads)) as process:
        try:
            status = process.wait()
        except BaseException:
            process.terminate()
            raise
    if status:
        print(f"the evaluation ended with status {status}; mx-plugin evaluate {folder.path} tries again",
              file=sys.stderr)  # fmt: skip
    return status == 0


def remove_models(folder: ResultsFolder, plan: Plan) -> None:
    """Final models of the runs that are evaluated."""
    for run in plan.runs:
        if is_evaluated(folder.run(run)):
            shutil.rmtree(folder.run(run) / MODEL, ignore_errors=True)
