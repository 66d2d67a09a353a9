"""Evaluation of finished runs: held-out prompts, a judge that is not the training reward, always in full precision."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .results import ResultsEvaluation, evaluate_results, evaluate_run, evaluate_start
    from .settings import EvaluationSettings, default_judge, settings_of

__all__ = [
    "EvaluationSettings",
    "ResultsEvaluation",
    "default_judge",
    "evaluate_results",
    "evaluate_run",
    "evaluate_start",
    "settings_of",
]


def __getattr__(name: str) -> Any:
    """Loaded when asked for: the command line needs neither torch nor a framework to show its help."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import results, settings

    return getattr(results, name, None) or getattr(settings, name)
