"""Factories of the judges that mx_trl registers. Imports neither torch nor a framework until one is made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .evaluation.judges import Judge


def gsm8k(dataset: str, split: str = "train") -> Judge:
    """See :class:`mx_trl.evaluation.rules.Gsm8kJudge`."""
    from .evaluation.rules import Gsm8kJudge

    return Gsm8kJudge(dataset, split)


def reading_ease() -> Judge:
    """See :class:`mx_trl.evaluation.rules.ReadingEaseJudge`."""
    from .evaluation.rules import ReadingEaseJudge

    return ReadingEaseJudge()


def rule(name: str) -> Judge:
    """See :class:`mx_trl.evaluation.rules.RuleJudge`."""
    from .evaluation.rules import RuleJudge

    return RuleJudge(name)


def preference(
    pairs: str,
    start: str,
    folder: Path,
    used_prompts: Sequence[Any],
    model: str = "",
    num_pairs: str = "800",
    max_length: str = "256",
    seed: str = "1",
) -> Judge:
    """See :class:`mx_trl.evaluation.preference.PreferenceJudge`."""
    from .evaluation.preference import PreferenceJudge

    numbers = {"num_pairs": num_pairs, "max_length": max_length, "seed": seed}
    wrong = [f"{name}={value}" for name, value in numbers.items() if not str(value).isdigit()]
    if wrong:
        from .errors import StageError

        raise StageError(f"judge preference: {', '.join(wrong)}: whole numbers are expected")
    return PreferenceJudge(
        pairs, model or start, int(num_pairs), int(max_length), int(seed), folder=folder, used_prompts=used_prompts
    )


def likelihood(model: str, start: str) -> Judge:
    """See :class:`mx_trl.evaluation.likelihood.LikelihoodJudge`."""
    from .evaluation.likelihood import LikelihoodJudge

    return LikelihoodJudge(model, start)
