"""``python -m mx_trl.experiments.examine``: builds the recipe once, before any run, and says what it starts from."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

from mx_plugin.atomic import write_atomically
from mx_plugin.errors import MXError
from mx_plugin.execution.adoption import select
from mx_plugin.experiments.child import end_with_parent
from mx_plugin.plugins import layer_types

from ..errors import StageError
from ..models import context_length
from ..roles import find_roles
from ..session import backend_name
from ..stages.built import BuiltStage
from .options import Options, build, parse, versions
from .recipe import Recipe
from .weights import weights_sha256


def examine(recipe: Recipe, scratch: Path) -> dict[str, Any]:
    """Resolved options, what identifies the start, the layers of every role: plain data.

    Raises:
        StageError: model, reward, prompts and settings that do not fit; see the message.
    """
    options = parse(recipe, scratch)
    options.mx = replace(options.mx, policy="A", sensitivity_matrix=None, max_cost=None)
    described = options.described()
    stage = build(recipe, options, scratch)
    roles = find_roles(stage.trainer)
    layers, left_out = select(roles.models, layer_types())
    start = {"model": stage.model_path, "sha256": weights_sha256(stage.policy)}
    if "reward" in roles.models:
        start["reward_sha256"] = weights_sha256(roles.models["reward"])
    return {
        "options": described,
        "mx": {
            "backend": backend_name(options.mx, stage.trainer),
            "backends": options.mx.backend_patterns(),
            "release_frozen": options.mx.release_frozen,
            "rollout_correction": options.mx.rollout_correction,
        },
        "start": start,
        "num_steps": _steps(stage, options),
        "held_out": options.script.num_eval_prompts,
        "prompts": _prompts(stage, options, recipe),
        "layers": [
            {
                "name": layer.name,
                "role": layer.role,
                "in_features": layer.in_features,
                "out_features": layer.out_features,
                "is_lm_head": layer.is_lm_head,
                "dtype": str(layer.weight.dtype).removeprefix("torch."),
            }
            for layer in layers
        ],
        "left_out": sorted({f"{x.role}: {x.reason}" for x in left_out}),
        "versions": versions(),
    }


def _prompts(stage: BuiltStage, options: Options, recipe: Recipe) -> dict[str, Any]:
    """Where the prompts come from, how long answers are: in the words of ``mx-plugin profile``."""
    script, training = options.script, options.training
    embedded = str(Path(recipe.embedded_dir) / "prompts.jsonl")
    return {
        "dataset": script.dataset_name or embedded,
        "dataset_split": script.dataset_train_split,
        "dataset_config": script.dataset_config,
        "prompt_from": script.prompt_from,
        "prompt_words": script.prompt_words,
        "generate": getattr(training, "response_length", None) or training.max_completion_length,
        "max_length": context_length(stage.policy),
        "dtype": str(stage.policy.dtype).removeprefix("torch."),
        "trust_remote_code": bool(getattr(options.model, "trust_remote_code", False)),
    }


def _steps(stage: BuiltStage, options: Options) -> int:
    steps = getattr(stage.trainer.args, "num_total_batches", None) or stage.trainer.args.max_steps
    if not steps or steps < 1:
        raise StageError(f"the recipe makes {steps} steps: give --num_steps, or max_steps in the recipe")
    return int(steps)


def main(words: list[str]) -> int:
    """``examine.py <recipe.json> <answer.json>``; an expected error becomes ``{"error": message}``."""
    end_with_parent()
    recipe = Recipe.from_dict(json.loads(Path(words[0]).read_text(encoding="utf-8")))
    with TemporaryDirectory() as scratch:
        try:
            answer = examine(recipe, Path(scratch))
        except MXError as error:
            answer = {"error": str(error)}
    write_atomically(Path(words[1]), json.dumps(answer, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
