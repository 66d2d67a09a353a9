"""Runs one stage under several precision policies, one after the other, and sets the results side by side."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from trl import ModelConfig

from mx_plugin.config import MXConfig

from ..checkpoints.files import AUTO
from ..checkpoints.reporters import check_reporters
from ..errors import StageError
from .arguments import CommonArguments
from .summary import StageSummary

Stage = Callable[..., StageSummary]
"""``stage(script_args, training_args, model_args, mx_config, *, run_dir)``: run_ppo or run_grpo."""


def run_policies(
    stage: Stage, script: CommonArguments, training_args: Any, model_args: ModelConfig, mx_config: MXConfig
) -> list[StageSummary]:
    """Run ``stage`` once per name in ``script.policies`` (else once), each from the same seed and start.

    With several, the trainer's own files go to ``<output_dir>/trainer_<policy>``; run folders stay
    in ``<output_dir>``. Every summary is printed as its run ends.

    Raises:
        StageError: the same policy twice; one checkpoint for several of them; a tracker that is not installed.
    """
    named = script.policies or [mx_config.policy]
    names = [named] if isinstance(named, str) else named  # as YAML gives a single one
    if len(set(names)) < len(names):
        raise StageError(f"policies {names}: each may be named once, its run folder is named after it")
    asked = training_args.resume_from_checkpoint
    if len(names) > 1 and asked not in (None, AUTO):
        raise StageError(
            f"--resume_from_checkpoint {asked} is of one run, and there are {len(names)} policies: give {AUTO}, with "
            "which each goes on from its own newest, or one --policy"
        )
    check_reporters(training_args)
    summaries = []
    for name in names:
        arguments = copy.deepcopy(training_args)
        if len(names) > 1:
            arguments.output_dir = str(Path(training_args.output_dir) / f"trainer_{name}")
        config = replace(mx_config, policy=name)
        summary = stage(copy.deepcopy(script), arguments, model_args, config, run_dir=training_args.output_dir)
        print(summary, flush=True)
        summaries.append(summary)
    if len(summaries) > 1:
        print(comparison(summaries), flush=True)
    return summaries


def comparison(summaries: list[StageSummary]) -> str:
    """One line per run, under a title."""
    return "\n".join(["", "Side by side:", *(summary.line() for summary in summaries)])
