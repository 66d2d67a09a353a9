"""``mx-plugin evaluate``: evaluates what is not evaluated yet, compares, and prints the verdicts."""

from __future__ import annotations

import argparse

from mx_plugin.experiments.words import comparison_lines

from .arguments import OPTIONS
from .results import evaluate_results


def run(arguments: argparse.Namespace) -> int:
    """Evaluate, compare, print.

    Raises:
        ExperimentError, StageError: what does not fit, with the remedy.
    """
    overrides = {name: value for name in OPTIONS if (value := getattr(arguments, name)) is not None}
    found = evaluate_results(arguments.results, again=arguments.again, **overrides)
    for line in comparison_lines(found):
        print(line)
    return 0
