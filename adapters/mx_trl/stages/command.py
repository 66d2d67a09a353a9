"""The command line of the examples: four dataclasses, a YAML file, and errors without a traceback."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers.utils import logging as transformers_logging
from trl import ModelConfig, TrlParser

from mx_plugin.config import MXConfig
from mx_plugin.errors import MXError

from ..errors import StageError
from .arguments import CommonArguments
from .compare import Stage, run_policies
from .summary import StageSummary


def run_example(
    stage: Stage,
    script_class: type[CommonArguments],
    training_class: Callable[[], type[Any]],
    *,
    embedded_config: Path,
    arguments: list[str] | None = None,
) -> list[StageSummary]:
    """Parse, run, print. Without ``--config`` and ``--model_name_or_path`` the embedded default's YAML is read.

    ``--policy`` or ``--no_mx`` on the command line win over ``policies`` in the YAML.

    Args:
        training_class: gives the class of TRL's training arguments; called late, so that its absence is one
            clear message too.
        embedded_config: that YAML file.
        arguments: the command line; None takes ``sys.argv``.

    Raises:
        SystemExit: status 2 and one clear message for every :class:`MXError`.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not _names(given, "--config", "--model_name_or_path", "-h", "--help"):
        given = ["--config", str(embedded_config), *given]
    transformers_logging.disable_progress_bar()
    # TRL 1.12 uses names that transformers 5 renames; nobody who runs an example can do anything about that.
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    try:
        chosen, training_args, model_args, mx_config = _parse(given, script_class, training_class())
        if chosen.no_mx or (_names(given, "--policy") and not _names(given, "--policies")):
            chosen.policies = None
        return run_policies(stage, chosen, training_args, model_args, mx_config)
    except MXError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from error


def _parse(words: list[str], script_class: type[CommonArguments], training_class: type[Any]) -> tuple[Any, ...]:
    parser = TrlParser((script_class, training_class, ModelConfig, MXConfig))
    try:
        return tuple(parser.parse_args_and_config(words))
    except MXError:
        raise
    except (ValueError, TypeError, OSError) as error:  # what TRL's and transformers' own checks raise
        raise StageError(f"these arguments are refused: {error}") from error


def _names(words: list[str], *options: str) -> bool:
    return any(word.split("=")[0] in options for word in words)
