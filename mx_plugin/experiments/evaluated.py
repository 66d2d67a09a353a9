"""What evaluations left in a results folder: scores per prompt and means per run, read and checked."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .errors import ExperimentError
from .statistics import Scores
from .verdict import HIGHER_IS_BETTER

SUMMARY, PROMPTS = "evaluation.json", "evaluation_prompts.jsonl"
UNQUANTISED, DEPLOYED = "unquantised", "deployed"
FORMS = (UNQUANTISED, DEPLOYED)
"""How a model is evaluated: as it was trained, and in its rollout formats."""

PER_PROMPT = tuple(HIGHER_IS_BETTER)

_MAY_DIFFER = ("model", "dataset", "reward_model", "text", "backend")
"""Settings that are paths, which change when a results folder is moved, or that change no number."""


@dataclass
class Evaluated:
    """One model's evaluation. ``scores``: form -> metric -> prompt id -> number; ``summaries``: form -> means;
    ``settings``: how it was made."""

    where: Path
    settings: dict[str, Any] = field(default_factory=dict)
    summaries: dict[str, dict[str, Any]] = field(default_factory=dict)
    scores: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)

    def column(self, form: str, metric: str, ids: Iterable[str]) -> Scores:
        """(prompts,) scores in the order of ``ids``."""
        of_prompt = self.scores[form][metric]
        return np.array([of_prompt[prompt] for prompt in ids], dtype=np.float64)


def is_evaluated(folder: Path) -> bool:
    """Whether both files of an evaluation are there; the summary is written last."""
    return (folder / SUMMARY).is_file() and (folder / PROMPTS).is_file()


def read_evaluated(folder: Path) -> Evaluated:
    """Read ``evaluation.json`` and ``evaluation_prompts.jsonl`` of a run's folder.

    Raises:
        ExperimentError: a file that cannot be read; a metric that only some prompts have.
    """
    remedy = "make it again: mx-plugin evaluate RESULTS --again"
    found = Evaluated(folder)
    rows: dict[str, dict[str, Mapping[str, Any]]] = {}
    try:
        summaries = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        found.settings = dict(summaries.get("settings") or {})
        found.summaries = {form: dict(summaries[form]) for form in FORMS if summaries.get(form)}
        with (folder / PROMPTS).open(encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line)
                rows.setdefault(str(row["form"]), {})[str(row["prompt_id"])] = row
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ExperimentError(f"cannot read the evaluation in {folder} ({error}); {remedy}") from error
    for form, by_prompt in rows.items():
        found.scores[form] = {}
        for metric in PER_PROMPT:
            known = {prompt: row[metric] for prompt, row in by_prompt.items() if row.get(metric) is not None}
            if known and len(known) < len(by_prompt):
                lacking = next(prompt for prompt in by_prompt if prompt not in known)
                raise ExperimentError(f"{folder / PROMPTS}: {form} prompt {lacking} has no {metric}; {remedy}")
            if known:
                found.scores[form][metric] = {prompt: float(value) for prompt, value in known.items()}
    return found


def prompt_ids(models: Iterable[Evaluated], form: str) -> list[str]:
    """The prompts that every model answered, which must be the same.

    Raises:
        ExperimentError: two models were evaluated on different prompts.
    """
    first: Evaluated | None = None
    ids: list[str] = []
    for model in models:
        theirs = list(model.scores.get(form, {}).get("judge", {}))
        if first is None:
            first, ids = model, theirs
        elif set(theirs) != set(ids):
            raise ExperimentError(
                f"{model.where} and {first.where} were evaluated on different prompts ({len(theirs)} and {len(ids)}, "
                f"{len(set(theirs) & set(ids))} in common): mx-plugin evaluate RESULTS --again"
            )
    return ids


def common_settings(models: Iterable[Evaluated]) -> Mapping[str, Any]:
    """How every model was evaluated, which must be the same.

    Raises:
        ExperimentError: two models were evaluated differently; names the settings.
    """
    first: Evaluated | None = None
    for model in models:
        if first is None:
            first = model
        keys = (first.settings | model.settings).keys() - set(_MAY_DIFFER)
        differing = sorted(key for key in keys if first.settings.get(key) != model.settings.get(key))
        if differing:
            words = ", ".join(f"{k} {first.settings.get(k)!r} and {model.settings.get(k)!r}" for k in differing)
            raise ExperimentError(
                f"{first.where} and {model.where} were evaluated differently ({words}): "
                "mx-plugin evaluate RESULTS --again"
            )
    return {} if first is None else first.settings
