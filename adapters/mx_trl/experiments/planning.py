"""From a request and an examined recipe to the plan: policies, controls, seeds, what is declared beforehand."""

from __future__ import annotations

import argparse
import hashlib
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mx_plugin.experiments.controls import CORRECTION_OFF, CORRECTION_ON, NOISE, ControlPlanner, parse_controls
from mx_plugin.experiments.errors import ExperimentError
from mx_plugin.experiments.folder import ResultsFolder
from mx_plugin.experiments.plan import Plan, PlannedRun
from mx_plugin.experiments.policies import Layer, load_policies, read_layers
from mx_plugin.precision import PrecisionPolicy, SensitivityMatrix

from .recipe import Recipe
from .request import Request, default_threads


@dataclass(frozen=True)
class Asked:
    """The plan that the command line asks for, and the text of every policy file that it names."""

    plan: Plan
    policies: Mapping[str, str]


def plan_of(
    arguments: argparse.Namespace,
    request: Request,
    recipe: Recipe,
    start: Mapping[str, Any],
    folder: ResultsFolder,
    there: Plan | None,
    matrix: str | Path | None,
) -> Asked:
    """What is asked for, with the sensitivity matrix for what is drawn from one.

    Seeds and threads that were not named are those of the plan that is ``there``.

    Raises:
        ExperimentError: a control that does not fit, a policy twice.
        PolicyError, MatrixError: a policy or matrix that does not fit the model.
    """
    layers = read_layers(start["layers"])
    seeds = request.seeds or (there.seeds if there else (1,))
    main = load_policies(request.policies, layers, matrix, request.max_cost, request.budget)
    known = {**_planned(folder, there, layers), **main}
    controls = parse_controls(arguments.controls or (), list(known), arguments.baseline)
    read = None if matrix is None else SensitivityMatrix.read(matrix)
    planner = ControlPlanner(known, layers, _options(start["mx"], recipe.stage), read)
    digests = {name: _sha256(policy) for name, policy in main.items()}
    runs = []
    for seed in seeds:
        runs += [PlannedRun(name, name, seed, digest) for name, digest in digests.items()]
        runs += [planner.run(control, seed) for control in controls]
    if not runs:
        raise ExperimentError("nothing to run: give --policies, or --controls with --policies none")
    threads = request.threads or (there.threads if there else None)
    plan = Plan(
        stage=recipe.stage,
        recipe={"config": arguments.config, **recipe.to_dict(), "options": start["options"]},
        runs=tuple(runs),
        seeds=tuple(seeds),
        num_steps=start["num_steps"],
        baseline=arguments.baseline,
        start=start["start"],
        threads=threads or default_threads(arguments.jobs or 1, embedded=arguments.config is None),
        margin=request.margin,
        judge=arguments.judge,
        evaluation={"held_out": start["held_out"], **request.evaluation},
        command=shlex.join(["mx-plugin", "experiment", *_words(sys.argv)]),
        versions=start["versions"],
    )
    texts = {name: policy.to_yaml() for name, policy in {**main, **planner.made}.items()}
    return Asked(plan, texts)


def _planned(folder: ResultsFolder, there: Plan | None, layers: tuple[Layer, ...]) -> dict[str, PrecisionPolicy]:
    """The main set that the folder holds: controls may be controls of it."""
    names = dict.fromkeys(run.policy for run in there.runs if run.control is None) if there else {}
    return load_policies([f"{name}={folder.policy_file(name)}" for name in names], layers)


def _sha256(policy: PrecisionPolicy) -> str:
    return hashlib.sha256(policy.to_yaml().encode()).hexdigest()


def _words(argv: list[str]) -> list[str]:
    return argv[2:] if argv[1:2] == ["experiment"] else argv[1:]


# ---------------------------------------------------------------------------- what controls set


def _options(mx: Mapping[str, Any], stage: str) -> dict[str, Callable[[int], Mapping[str, Any]]]:
    return {
        NOISE: partial(_noise, mx),
        CORRECTION_OFF: partial(_correction, mx, stage, "off"),
        CORRECTION_ON: partial(_correction, mx, stage, "token"),
    }


def _noise(mx: Mapping[str, Any], seed: int) -> Mapping[str, Any]:
    for what in ("backends", "release_frozen"):
        if mx[what]:
            raise ExperimentError(
                f"control bf16+noise replaces the backend that rounds, which does not go together with {what}: leave "
                f"{what} out of the recipe"
            )
    return {"backend": "noise", "backend_options": [f"noise.inner={mx['backend']}", f"noise.seed={seed}"]}


def _correction(mx: Mapping[str, Any], stage: str, wanted: str, seed: int) -> Mapping[str, Any]:
    """``wanted``: off, or the kind of correction; the recipe must have it otherwise."""
    if stage == "ppo":
        raise ExperimentError(
            "controls correction_off and correction_on: PPO corrects nothing, its ratio takes the sampler's own "
            "log-probs; use --stage grpo"
        )
    now = mx["rollout_correction"]
    if (now == "off") == (wanted == "off"):
        other = "correction_on" if wanted == "off" else "correction_off"
        raise ExperimentError(f"the recipe's rollout_correction is {now!r} already: the control is {other}")
    return {"rollout_correction": wanted}
