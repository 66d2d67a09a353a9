"""From the command line to what is asked for: policies, seeds, limits. Imports no framework."""

from __future__ import annotations

import argparse
import importlib.util
import os
from dataclasses import dataclass
from typing import Any

from mx_plugin.experiments.errors import ExperimentError
from mx_plugin.experiments.verdict import Margin
from mx_plugin.precision.search import parse_budgets

NONE = "none"


@dataclass(frozen=True)
class Request:
    """The words of a command line, checked for themselves. ``seeds`` is empty where none was named."""

    policies: tuple[str, ...]
    seeds: tuple[int, ...]
    max_cost: float | dict[str, float] | None
    budget: dict[str, float] | None
    threads: int | None
    margin: dict[str, Any]
    evaluation: dict[str, Any]


def read_request(arguments: argparse.Namespace) -> Request:
    """Check what can be checked without a model.

    Raises:
        ExperimentError: two ways of saying the same thing, or numbers that cannot be.
    """
    policies = _either(arguments, "policies", "policy") or ["A", "C"]
    if NONE in policies:
        if len(policies) > 1:
            raise ExperimentError(f"--policies {' '.join(policies)}: none stands alone")
        policies = []
    seeds = _either(arguments, "seeds", "seed")
    if len(set(seeds)) < len(seeds) or any(not 0 <= seed < 2**31 for seed in seeds):
        raise ExperimentError(f"--seeds {' '.join(map(str, seeds))}: give different whole numbers of 0 or more")
    for name in ("num_steps", "jobs", "threads", "eval_prompts"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise ExperimentError(f"--{name} {value}: give 1 or more")
    if arguments.max_cost is not None and arguments.budget is not None:
        raise ExperimentError("--max_cost limits each layer, --budget their sum: give one of them")
    _check_executor(arguments)
    evaluation = {"num_prompts": arguments.eval_prompts, "text": arguments.eval_text}
    return Request(
        policies=tuple(policies),
        seeds=tuple(seeds),
        max_cost=_max_cost(arguments.max_cost),
        budget=None if arguments.budget is None else parse_budgets(arguments.budget),
        threads=arguments.threads,
        margin=_margin(arguments.margin),
        evaluation={name: value for name, value in evaluation.items() if value is not None},
    )


def _check_executor(arguments: argparse.Namespace) -> None:
    """Said before the recipe is examined, which takes a while."""
    if arguments.executor == "ray":
        if importlib.util.find_spec("ray") is None:
            raise ExperimentError("--executor ray needs Ray, which is not installed: pip install 'mx-plugin[ray]'")
        if arguments.gpus_per_run < 0:
            raise ExperimentError(f"--gpus_per_run {arguments.gpus_per_run}: give 0 or more")
        return
    for name in ("ray_address", "gpus_per_run"):
        if getattr(arguments, name):
            raise ExperimentError(
                f"--{name} {getattr(arguments, name)} is for --executor ray: name that, or leave it out"
            )


def default_threads(jobs: int, embedded: bool) -> int:
    """Cores for each run. The embedded model's layers are so small that a second thread makes them slower."""
    if embedded:
        return 1
    return max(1, len(os.sched_getaffinity(0)) // jobs) if hasattr(os, "sched_getaffinity") else 1


def _either(arguments: argparse.Namespace, many: str, one: str) -> list[Any]:
    several, single = getattr(arguments, many), getattr(arguments, one)
    if several is not None and single is not None:
        raise ExperimentError(f"--{many} and --{one} say the same thing: give one of them")
    return list(several) if several is not None else [] if single is None else [single]


def _margin(text: str) -> dict[str, Any]:
    metric, _, value = text.partition("=")
    try:
        margin = Margin(metric, float(value))
    except ValueError as error:
        if isinstance(error, ExperimentError):
            raise
        raise ExperimentError(f"--margin {text}: give METRIC=NUMBER, e.g. win_rate=0.05") from error
    return {"metric": margin.metric, "value": margin.value}


def _max_cost(texts: list[str] | None) -> float | dict[str, float] | None:
    if texts is None:
        return None
    try:
        if len(texts) == 1 and "=" not in texts[0]:
            return float(texts[0])
        return {scope: float(cost) for scope, cost in (text.split("=") for text in texts)}
    except ValueError as error:
        raise ExperimentError(
            f"--max_cost {' '.join(texts)}: give one number, or PHASE=NUMBER ..., e.g. rollout=0.02 gradient=0.1"
        ) from error
