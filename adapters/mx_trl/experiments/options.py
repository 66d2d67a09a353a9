"""From a recipe's words to the options of its stage, parsed as the stage's own script parses them, and to a trainer."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

from transformers.utils import logging as transformers_logging
from trl import ModelConfig, TrlParser

from mx_plugin.config import MXConfig
from mx_plugin.errors import MXError

from ..errors import StageError
from ..stages.arguments import GRPOScriptArguments, PPOScriptArguments, StageArguments
from ..stages.built import BuiltStage
from .recipe import Recipe

DEFAULT_HELD_OUT = 32
"""Prompts kept out of training for evaluation when the recipe would train on all of them."""

_NOT_THE_RECIPE = {
    "output_dir", "logging_dir", "run_name", "policy", "policies", "no_mx", "report_to", "seed", "local_rank",
    "disable_tqdm", "save_strategy", "num_sample_generations", "world_size", "max_steps", "total_episodes",
    "num_total_batches", "sensitivity_matrix", "max_cost",
}  # fmt: skip


@dataclass
class Options:
    """The four parsed sets of options of a stage."""

    script: StageArguments
    training: Any
    model: ModelConfig
    mx: MXConfig

    def described(self) -> dict[str, Any]:
        """Every option of the recipe that is not at its default; what each run sets for itself is left out.

        Ask before the stage is built: building settles some of them.
        """
        answer: dict[str, Any] = {}
        for part in (self.script, self.training, self.model, self.mx):
            for known in fields(part):
                value = getattr(part, known.name, None)
                if known.name in _NOT_THE_RECIPE or value == _default(known) or not _plain(value):
                    continue
                answer[known.name] = value
        return answer


def parse(recipe: Recipe, output_dir: Path, hold_out: int = DEFAULT_HELD_OUT) -> Options:
    """The options of a run that writes to ``output_dir``; reporting, saving and sampling are switched off.

    ``hold_out``: prompts to keep out of training where the recipe would train on all of them.

    Raises:
        StageError: what TRL, transformers or MXConfig refuse.
    """
    transformers_logging.disable_progress_bar()
    # TRL 1.12 uses names that transformers 5 renames; nobody who runs an experiment can do anything about that.
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    script_class, training_class, _ = _stage(recipe.stage)
    words = [*recipe.words, "--output_dir", str(output_dir), "--report_to", "none", "--save_strategy", "no"]
    try:
        parsed = TrlParser((script_class, training_class, ModelConfig, MXConfig)).parse_args_and_config(words)
    except MXError:
        raise
    except (ValueError, TypeError, OSError) as error:  # what TRL's and transformers' own checks raise
        raise StageError(f"these arguments are refused: {error}") from error
    options = Options(*parsed)
    options.script.no_mx, options.script.policies = False, None
    if options.script.num_eval_prompts < 1 and options.script.num_prompts is None:
        options.script.num_eval_prompts = hold_out
    if hasattr(options.training, "num_sample_generations"):
        options.training.num_sample_generations = 0
    if recipe.num_steps is not None:
        options.training.max_steps = recipe.num_steps
        if hasattr(options.training, "total_episodes"):
            options.training.total_episodes = None
    elif options.training.max_steps < 1 and getattr(options.training, "total_episodes", None) is None:
        raise StageError("how many steps is not said: give --num_steps, or max_steps in the recipe")
    return options


def build(recipe: Recipe, options: Options, run_dir: Path) -> BuiltStage:
    """The stage, ready to train.

    Raises:
        StageError: model, reward, prompts and settings that do not fit; see the message.
    """
    builder = _stage(recipe.stage)[2]
    return builder(
        options.script, options.training, options.model, options.mx,
        run_dir=str(run_dir), embedded_dir=recipe.embedded_dir,
    )  # fmt: skip


def _stage(name: str) -> tuple[type[StageArguments], type[Any], Callable[..., BuiltStage]]:
    if name == "ppo":
        from ..stages.ppo import build_ppo, load_ppo

        return PPOScriptArguments, load_ppo()[0], build_ppo
    from trl import GRPOConfig

    from ..stages.grpo import build_grpo

    return GRPOScriptArguments, GRPOConfig, build_grpo


def _default(known: Field[Any]) -> Any:
    if known.default is not MISSING:
        return known.default
    return known.default_factory() if known.default_factory is not MISSING else None


def _plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_plain, value))
    return value is None or isinstance(value, str | int | float | bool)


def versions() -> dict[str, str]:
    """Of what computes: recorded with the plan."""
    return {name: version(name) for name in ("mx-plugin", "torch", "transformers", "trl")}
