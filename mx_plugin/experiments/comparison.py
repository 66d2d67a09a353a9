"""``comparison.json``: every run against the baseline, with intervals, the noise floor and a verdict per form."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..ledger.writers import json_record, write_atomically
from .controls import AA
from .errors import ExperimentError
from .evaluated import FORMS, PER_PROMPT, Evaluated, common_settings, is_evaluated, prompt_ids, read_evaluated
from .folder import ResultsFolder
from .plan import Plan
from .statistics import (
    CONFIDENCE,
    DRAWS,
    POWER,
    Interval,
    Noise,
    Scores,
    bootstrap_interval,
    noise_of_means,
    noise_of_pairs,
    noise_of_wins,
    student_interval,
    wins,
)
from .verdict import HIGHER_IS_BETTER, WIN_RATE, Improvement, Margin, decide, improvement

COMPARISON = "comparison.json"
PER_RUN = ("perplexity",)
"""Metrics with one value a run: their intervals are Student's, over seeds."""


@dataclass(frozen=True)
class Models:
    """What was evaluated: run name -> seed -> evaluation, and the start."""

    runs: Mapping[str, Mapping[int, Evaluated]]
    start: Evaluated | None

    def everything(self) -> list[Evaluated]:
        found = [model for seeds in self.runs.values() for model in seeds.values()]
        return found if self.start is None else [self.start, *found]


def compare_results(results: str | Path) -> dict[str, Any]:
    """Compare what was evaluated so far and write ``comparison.json``; returns its content.

    Raises:
        ExperimentError: no plan, no baseline that was evaluated, or evaluations that do not belong together.
    """
    folder = ResultsFolder(results)
    plan = folder.plan()
    if plan is None:
        raise ExperimentError(f"{folder.path} holds no plan.json: not the results of an experiment")
    found = comparison(plan, read_models(folder, plan))
    text = json.dumps(json.loads(json_record(found)), indent=2, ensure_ascii=False) + "\n"
    write_atomically(folder.path / COMPARISON, text)
    return found


def read_models(folder: ResultsFolder, plan: Plan) -> Models:
    """The evaluations that are there."""
    runs: dict[str, dict[int, Evaluated]] = {}
    for run in plan.runs:
        if is_evaluated(folder.run(run)):
            runs.setdefault(run.name, {})[run.seed] = read_evaluated(folder.run(run))
    return Models(runs, read_evaluated(folder.start) if is_evaluated(folder.start) else None)


def comparison(plan: Plan, models: Models) -> dict[str, Any]:
    """The content of ``comparison.json``: plain data, the same for the same evaluations."""
    if plan.baseline not in models.runs:
        known = ", ".join(models.runs) or "none"
        raise ExperimentError(
            f"the baseline {plan.baseline} has not been evaluated (evaluated: {known}): mx-plugin evaluate RESULTS"
        )
    margin = Margin.read(plan.margin)
    judge = common_settings(models.everything()).get("judge", plan.judge)
    forms = {form: _Form(plan, models, form, margin) for form in FORMS if _has(models, form)}
    planned = list(dict.fromkeys(run.name for run in plan.runs))
    return {
        "version": 1,
        "baseline": plan.baseline,
        "judge": judge,
        "judge_declared": plan.judge,
        "margin": None if margin is None else asdict(margin),
        "confidence": CONFIDENCE,
        "power": POWER,
        "bootstrap_draws": DRAWS,
        "prompts": {form: len(each.ids) for form, each in forms.items()},
        "baseline_over_start": {form: each.baseline_over_start() for form, each in forms.items()},
        "noise": {form: each.noise() for form, each in forms.items()},
        "runs": {
            name: {form: each.run(name) for form, each in forms.items()} for name in planned if name in models.runs
        },
        "controls": {
            f"{name} against {of}": {form: each.contrast(name, of) for form, each in forms.items()}
            for name, of in control_pairs(plan)
            if name in models.runs and of in models.runs
        },
        "not_evaluated": [str(run) for run in plan.runs if run.seed not in models.runs.get(run.name, {})],
    }


def control_pairs(plan: Plan) -> list[tuple[str, str]]:
    """(control, the run that it controls), for controls that belong to another run than the baseline."""
    names = {run.name for run in plan.runs}
    pairs = []
    for run in plan.runs:
        of = str(run.about.get("of", ""))
        if run.control and of in names - {plan.baseline, run.name} and (run.name, of) not in pairs:
            pairs.append((run.name, of))
    return pairs


def _has(models: Models, form: str) -> bool:
    return all("judge" in model.scores.get(form, {}) for model in models.everything())


class _Form:
    """All comparisons of one form; every model answered the same prompts."""

    def __init__(self, plan: Plan, models: Models, form: str, margin: Margin | None) -> None:
        self.plan, self.models, self.form, self.margin = plan, models, form, margin
        self.ids = prompt_ids(models.everything(), form)
        self.over_start = self._over_start()

    # ------------------------------------------------------------------ tables

    def table(self, name: str, metric: str, seeds: Sequence[int] | None = None) -> Scores | None:
        """(seeds, prompts), or None where the metric was not measured."""
        models = self.models.runs[name]
        chosen = list(models) if seeds is None else list(seeds)
        if any(metric not in models[seed].scores[self.form] for seed in chosen):
            return None
        return np.stack([models[seed].column(self.form, metric, self.ids) for seed in chosen])

    def per_run(self, name: str, metric: str, seeds: Sequence[int]) -> Scores | None:
        """(seeds,), or None where it was not measured."""
        values = [self.models.runs[name][seed].summaries[self.form].get(metric) for seed in seeds]
        known = [float(value) for value in values if value is not None]
        return np.array(known) if len(known) == len(values) else None

    # ------------------------------------------------------------------ the baseline

    def _over_start(self) -> Improvement:
        name = self.plan.baseline
        table = self.table(name, "judge")
        assert table is not None
        if self.models.start is None:
            unknown = Interval(float("nan"), float("-inf"), float("inf"), len(table))
            return Improvement(unknown, self._noise("judge"), False, "the model before training was not evaluated")
        start = self.models.start.column(self.form, "judge", self.ids)
        return improvement(bootstrap_interval(table - start), self._noise("judge"), name)

    def baseline_over_start(self) -> dict[str, Any]:
        found = self.over_start
        return {"judge": found.interval.to_dict(), "beyond_noise": found.counts, "why": found.why}

    def noise(self) -> dict[str, Any]:
        """Floor and minimum detectable effect of each metric, from the baseline against itself."""
        answer: dict[str, Any] = {}
        for metric in PER_PROMPT:
            if self.table(self.plan.baseline, metric) is not None:
                answer[metric] = self._described(self._noise(metric))
                if metric == "judge":
                    answer[WIN_RATE] = self._described(self._noise_of_wins())
        return answer

    def _described(self, noise: Noise) -> dict[str, Any]:
        return {
            "floor": noise.floor,
            "minimum_detectable_effect": noise.detectable,
            "largest_difference": noise.largest,
            "from": f"{AA} against {self.plan.baseline}" if self._twice() else f"the seeds of {self.plan.baseline}",
        }

    def _twice(self) -> list[int]:
        """Seeds under which the baseline was trained twice; empty for fewer than two."""
        seeds = [seed for seed in self.models.runs[self.plan.baseline] if seed in self.models.runs.get(AA, {})]
        return seeds if len(seeds) > 1 else []

    def _pair(self, metric: str) -> tuple[Scores, Scores] | None:
        seeds = self._twice()
        first, second = (self.table(name, metric, seeds) if seeds else None for name in (AA, self.plan.baseline))
        return None if first is None or second is None else (first, second)

    def _noise(self, metric: str) -> Noise:
        pair = self._pair(metric)
        if pair is not None:
            return noise_of_pairs(pair[0].mean(1) - pair[1].mean(1))
        table = self.table(self.plan.baseline, metric)
        assert table is not None
        return noise_of_means(table.mean(1))

    def _noise_of_wins(self) -> Noise:
        pair = self._pair("judge")
        if pair is not None:
            return noise_of_pairs(wins(*pair).mean(1) - 0.5)
        table = self.table(self.plan.baseline, "judge")
        assert table is not None
        return noise_of_wins(table)

    # ------------------------------------------------------------------ runs

    def run(self, name: str) -> dict[str, Any]:
        """Means with intervals; for others than the baseline the contrast, and the verdict."""
        seeds = list(self.models.runs[name])
        answer: dict[str, Any] = {"seeds": seeds, "means": self._means(name, seeds)}
        if name == self.plan.baseline:
            return answer
        answer |= self.contrast(name, self.plan.baseline)
        found = decide(self._oriented(name), self.margin, self.over_start, (name, self.plan.baseline))
        return {**answer, "verdict": found.word, "why": found.why}

    def _means(self, name: str, seeds: list[int]) -> dict[str, Any]:
        answer: dict[str, Any] = {}
        for metric in PER_PROMPT:
            table = self.table(name, metric)
            if table is not None:
                answer[metric] = bootstrap_interval(table).to_dict()
        for metric in PER_RUN:
            values = self.per_run(name, metric, seeds)
            if values is not None:
                answer[metric] = student_interval(values).to_dict()
        return answer

    def contrast(self, name: str, other: str) -> dict[str, Any]:
        """Win rate and differences of two runs over the seeds that both have, paired by seed and prompt."""
        seeds = self._common(name, other)
        mine, theirs = self.table(name, "judge", seeds), self.table(other, "judge", seeds)
        assert mine is not None and theirs is not None
        won = wins(mine, theirs)
        rate = bootstrap_interval(won).clipped(0.0, 1.0)
        counts = {"wins": int((won == 1).sum()), "ties": int((won == 0.5).sum()), "losses": int((won == 0).sum())}
        deltas: dict[str, Any] = {}
        for metric in PER_PROMPT:
            first, second = self.table(name, metric, seeds), self.table(other, metric, seeds)
            if first is not None and second is not None:
                deltas[metric] = bootstrap_interval(first - second).to_dict()
        for metric in PER_RUN:
            first, second = self.per_run(name, metric, seeds), self.per_run(other, metric, seeds)
            if first is not None and second is not None:
                deltas[metric] = student_interval(first - second).to_dict()
        return {"seeds_in_common": seeds, WIN_RATE: {**rate.to_dict(), **counts}, "deltas": deltas}

    def _oriented(self, name: str) -> Interval:
        """The margin's metric against the baseline, positive where ``name`` is better."""
        seeds, metric = self._common(name, self.plan.baseline), self.margin.metric if self.margin else "judge"
        column = "judge" if metric == WIN_RATE else metric
        mine, theirs = self.table(name, column, seeds), self.table(self.plan.baseline, column, seeds)
        if mine is None or theirs is None:
            raise ExperimentError(f"the margin is declared in {metric}, which the evaluation of {name} does not hold")
        if metric == WIN_RATE:
            return bootstrap_interval(wins(mine, theirs) - 0.5).clipped(-0.5, 0.5)
        sign = 1.0 if HIGHER_IS_BETTER[metric] else -1.0
        return bootstrap_interval(sign * (mine - theirs))

    def _common(self, name: str, other: str) -> list[int]:
        seeds = [seed for seed in self.models.runs[name] if seed in self.models.runs[other]]
        if not seeds:
            raise ExperimentError(f"{name} and {other} have no seed in common, so their runs cannot be paired")
        return seeds
