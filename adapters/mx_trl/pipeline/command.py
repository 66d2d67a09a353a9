"""``mx-plugin pipeline``: reads the file, runs the stages, prints the table."""

from __future__ import annotations

import argparse

from ..errors import StageError
from .plan import read_plan
from .record import locked
from .run import run_pipeline


def run(arguments: argparse.Namespace) -> int:
    """Exit status 0: all stages done, or one stopped by the time limit or an alert (``pipeline.json`` tells).

    Raises:
        StageError: a file that does not fit, or a stage that failed.
    """
    if arguments.max_minutes is not None and arguments.max_minutes <= 0:
        raise StageError(f"--max_minutes {arguments.max_minutes:g}: give a number above 0")
    plan = read_plan(arguments.config, arguments.output_dir)
    with locked(plan.output_dir):
        run_pipeline(plan, max_minutes=arguments.max_minutes, restart=arguments.restart)
    return 0
