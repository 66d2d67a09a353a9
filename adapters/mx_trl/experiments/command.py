"""``mx-plugin experiment``: plan, run what is not finished, evaluate. The models live in processes of their own."""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mx_plugin.experiments.executor import Job, LocalExecutor
from mx_plugin.experiments.folder import DONE, ResultsFolder
from mx_plugin.experiments.plan import Plan, PlannedRun, settle
from mx_plugin.experiments.policies import load_policies, read_layers
from mx_plugin.experiments.progress import ProgressLines
from mx_plugin.experiments.runner import run_all, tail_of, terminable
from mx_plugin.precision import PrecisionPolicy

from ..errors import StageError
from .recipe import Recipe, embedded_words, installed_stage
from .request import Request, default_threads, read_request

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
        layers = read_layers(start["layers"])
        policies = load_policies(request.policies, layers, arguments.matrix, request.max_cost)
        asked = _plan(arguments, request, recipe, start, policies, there)
        plan = settle(there, asked, add=arguments.add or not request.policies)
        folder.write_plan(plan, {name: policy.to_yaml() for name, policy in policies.items()})
        try:
            return _carry_out(arguments, folder, plan, asked.runs, recipe)
        except KeyboardInterrupt:
            print("\ninterrupted; the same command continues where this stopped", file=sys.stderr)
            raise


# ---------------------------------------------------------------------------- the plan


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
    for outcome in LocalExecutor().execute([Job("examine", command, log, _environment(1))], lambda running: None):
        if outcome.status:
            tail = "\n".join(tail_of(log))
            raise StageError(f"the recipe cannot be built (exit status {outcome.status}); the end of {log}:\n{tail}")
    found: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
    if "error" in found:
        raise StageError(found["error"])
    return found


def _plan(
    arguments: argparse.Namespace,
    request: Request,
    recipe: Recipe,
    start: Mapping[str, Any],
    policies: Mapping[str, PrecisionPolicy],
    there: Plan | None,
) -> Plan:
    seeds = request.seeds or (there.seeds if there else (1,))
    threads = request.threads or (there.threads if there else None)
    runs = [
        PlannedRun(name, name, seed, policy_sha256=_sha256(policy))
        for seed in seeds
        for name, policy in policies.items()
    ]
    return Plan(
        stage=recipe.stage,
        recipe={"config": arguments.config, **recipe.to_dict(), "options": start["options"]},
        runs=tuple(runs),
        seeds=tuple(seeds),
        num_steps=start["num_steps"],
        baseline=arguments.baseline,
        start=start["start"],
        threads=threads or default_threads(arguments.jobs, embedded=arguments.config is None),
        evaluation={"held_out": start["held_out"]},
        command=shlex.join(["mx-plugin", "experiment", *sys.argv[2:]]),
        versions=start["versions"],
    )


def _sha256(policy: PrecisionPolicy) -> str:
    return hashlib.sha256(policy.to_yaml().encode()).hexdigest()


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
        return Job(str(run), command, part / "run.log", _environment(plan.threads))

    failures = run_all(folder, waiting, LocalExecutor(arguments.jobs), make_job, progress)
    if failures:
        names = ", ".join(str(failure.run) for failure in failures)
        progress.say(f"{len(failures)} of {len(asked)} runs failed: {names}; the same command tries them again")
    return FAILED if failures else 0


def _environment(threads: int) -> dict[str, str]:
    return {
        "OMP_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        "TRL_EXPERIMENTAL_SILENCE": "1",
        "PYTHONUNBUFFERED": "1",
    }
