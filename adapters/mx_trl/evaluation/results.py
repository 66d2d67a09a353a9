"""From a results folder to its evaluations: one run, the start, or all that are not evaluated yet."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from mx_plugin.experiments.comparison import compare_results
from mx_plugin.experiments.errors import ExperimentError
from mx_plugin.experiments.evaluated import DEPLOYED, UNQUANTISED, is_evaluated
from mx_plugin.experiments.folder import MODEL, ResultsFolder
from mx_plugin.experiments.plan import Plan, PlannedRun

from .deployed import provider_of, run_config
from .evaluator import Evaluator
from .settings import EvaluationSettings, settings_of

Say = Callable[[str], None]


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class ResultsEvaluation:
    """Evaluates the runs of one results folder; the evaluator is made when the first is due."""

    def __init__(self, results: str | Path, plan: Plan | None = None, say: Say = _to_stderr, **overrides: Any) -> None:
        self.folder = ResultsFolder(results)
        found = plan or self.folder.plan()
        if found is None:
            raise ExperimentError(f"{self.folder.path} holds no plan.json: not the results of an experiment")
        self.plan, self.say = found, say
        self.settings: EvaluationSettings = settings_of(found, self.folder.path, **overrides)

    @cached_property
    def evaluator(self) -> Evaluator:
        return Evaluator(self.settings, self.folder.path / "judge")

    def start(self) -> dict[str, Any]:
        """The model before training; deployed: in the baseline's rollout formats."""
        policy = self.folder.policy_file(self._baseline().policy)
        config = run_config(None, self._baseline().options)
        found = self.evaluator.evaluate(None, provider_of(policy, config), config, self.folder.start)
        self.say(f"start: {_line(found)}")
        return found

    def run(self, run: PlannedRun) -> dict[str, Any]:
        """One finished run."""
        folder = self.folder.run(run)
        model = folder / MODEL
        if not model.is_dir():
            raise ExperimentError(
                f"{model} is not there: the run has not finished, or its weights were removed (--keep_models none), so "
                f"{run} cannot be evaluated again"
            )
        config = run_config(folder, run.options)
        provider = provider_of(self.folder.policy_file(run.policy), config)
        found = self.evaluator.evaluate(str(model), provider, config, folder, run.seed)
        self.say(f"{run}: {_line(found)}")
        return found

    def _baseline(self) -> PlannedRun:
        runs = self.plan.named(self.plan.baseline)
        if not runs:
            raise ExperimentError(f"the plan's baseline {self.plan.baseline} is none of its runs")
        return runs[0]


def _line(found: dict[str, Any]) -> str:
    parts = []
    for form in (UNQUANTISED, DEPLOYED):
        numbers = found[form]
        words = [f"judge {numbers['judge_mean']:.4g}"]
        if numbers["reward_mean"] is not None:
            words.append(f"reward {numbers['reward_mean']:.4g}")
        words.append(f"KL {numbers['kl_reference']:.4g}")
        if numbers["perplexity"] is not None:
            words.append(f"perplexity {numbers['perplexity']:.4g}")
        parts.append(f"{form} {', '.join(words)}")
    return "; ".join(parts) + f" ({found['seconds']:.0f} s)"


def evaluate_run(run_folder: str | Path, plan: Plan, **overrides: Any) -> dict[str, Any]:
    """Evaluate ``results/runs/<name>/seed_<n>``: writes ``evaluation.json`` and ``evaluation_prompts.jsonl`` there.

    Raises:
        ExperimentError: a folder that is no run of the plan, or that holds no model.
        StageError: what does not fit, with the remedy.
    """
    path = Path(run_folder).resolve()
    seed = path.name.removeprefix("seed_")
    wanted = (path.parent.name, int(seed) if seed.isdigit() else None)
    for run in plan.runs:
        if run.key == wanted:
            return ResultsEvaluation(path.parents[2], plan, **overrides).run(run)
    raise ExperimentError(f"{path} is no run of the plan, which holds {', '.join(map(str, plan.runs))}")


def evaluate_start(results: str | Path, plan: Plan, **overrides: Any) -> dict[str, Any]:
    """Evaluate the model before training: writes to ``results/start``. Errors as for :func:`evaluate_run`."""
    return ResultsEvaluation(results, plan, **overrides).start()


def evaluate_results(
    results: str | Path, *, again: bool = False, say: Say = _to_stderr, **overrides: Any
) -> dict[str, Any]:
    """Evaluate the start and every finished run that is not evaluated yet, then compare; returns comparison.json.

    Args:
        again: evaluate those anew that still have their weights.
        overrides: fields of :class:`EvaluationSettings`; all models of a comparison must share them.

    Raises:
        ExperimentError, StageError: what does not fit, with the remedy.
    """
    work = ResultsEvaluation(results, say=say, **overrides)
    if again or not is_evaluated(work.folder.start):
        work.start()
    for run in work.plan.runs:
        folder = work.folder.run(run)
        if not work.folder.is_done(run):
            say(f"{run}: not finished, left out")
        elif is_evaluated(folder) and not (again and (folder / MODEL).is_dir()):
            if again:
                say(f"{run}: its weights were removed, its evaluation stays as it is")
        else:
            work.run(run)
    return compare_results(results)
