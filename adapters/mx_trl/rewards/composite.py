"""Several rules as one reward: a weighted sum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import StageError
from .rules import Rule, columns_of, rule_name


class Composite:
    """``sum of weight * rule``; each rule gets the same prompts, completions and columns.

    Under GRPO the mean of every part goes to the log, as ``reward/<rule>``, unweighted.

    Args:
        terms: (weight, rule) pairs, at least one.
    """

    def __init__(self, terms: Sequence[tuple[float, Rule]]) -> None:
        self.terms = list(terms)
        names = [
            name if weight == 1 else f"{weight:g}*{name}" for weight, name in ((w, rule_name(r)) for w, r in terms)
        ]
        self.__name__ = "+".join(names)
        self.columns = tuple(dict.fromkeys(column for _, rule in self.terms for column in columns_of(rule)))

    def __call__(self, completions: Sequence[Any], **given: Any) -> list[float]:
        total = [0.0] * len(completions)
        parts: dict[str, float] = {}
        for weight, rule in self.terms:
            scores = list(rule(completions=completions, **given))
            if len(scores) != len(completions):
                raise StageError(
                    f"reward rule {rule_name(rule)} gave {len(scores)} scores for {len(completions)} completions"
                )
            total = [sum_ + weight * score for sum_, score in zip(total, scores, strict=True)]
            parts[rule_name(rule)] = sum(scores) / max(len(scores), 1)
        self._log(parts, given)
        return total

    def _log(self, parts: Mapping[str, float], given: Mapping[str, Any]) -> None:
        log_metric = given.get("log_metric")  # GRPOTrainer offers it to reward functions
        if callable(log_metric):
            for name, mean in parts.items():
                log_metric(f"reward/{name}", mean)
