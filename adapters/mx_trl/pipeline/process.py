"""``python -m mx_trl.pipeline.process REQUEST``: one stage in a process of its own."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import yaml

from mx_plugin.atomic import write_atomically
from mx_plugin.experiments.child import end_with_parent

RECIPE, RESULT = "recipe.yaml", "result.json"
_LEAST_MINUTES = 1e-4
_DATA = {"sft": "dialogues", "reward": "pairs", "dpo": "pairs", "ppo": "prompts", "grpo": "prompts"}


def run_stage(request: Mapping[str, Any]) -> dict[str, Any]:
    """Run a stage as its example script would, from a recipe that is left in its folder.

    Args:
        request: ``kind``, ``options``, ``output_dir``, ``embedded`` (the folder of embedded models, or None),
            ``resume`` and ``deadline`` (seconds since the epoch, or None).

    Returns:
        what the stage came to, for the pipeline's table.

    Raises:
        SystemExit: status 2 and a message, as every stage's script.
    """
    from ..stages.command import run_example
    from ..stages.table import stage_of

    folder = Path(request["output_dir"])
    options = {**request["options"], "output_dir": str(folder)}
    if request["embedded"] is not None:
        options = {**_embedded(request["kind"], Path(request["embedded"]), options), **options}
    if request["resume"]:
        options["resume_from_checkpoint"] = "auto"
    folder.mkdir(parents=True, exist_ok=True)
    recipe = folder / RECIPE
    write_atomically(recipe, yaml.safe_dump(options, sort_keys=False))
    words = ["--config", str(recipe)]
    if request["deadline"] is not None:
        words += ["--max_minutes", str(max(_LEAST_MINUTES, (request["deadline"] - time.time()) / 60))]
    stage = stage_of(request["kind"])
    [summary] = run_example(
        stage.run, stage.script_class, stage.training_class, embedded_config=recipe, arguments=words
    )  # fmt: skip
    return described(summary)


def described(summary: Any) -> dict[str, Any]:
    """A summary as plain data."""
    held = summary.held_out
    return {
        "policy": summary.policy,
        "steps": summary.steps,
        "stopped_by": summary.stopped_by,
        "measure": summary.measure,
        "first": summary.reward_first,
        "last": summary.reward_last,
        "held_out": None if held is None else {
            "name": held.name, "count": held.count, "before": held.before.value, "after": held.after.value,
            "interval": held.after.interval,
        },
    }  # fmt: skip


def _embedded(kind: str, folder: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """The embedded model and data for what the options leave open."""
    from ..stages.preparation import embedded_folder

    made = embedded_folder(folder)
    data = "scores" if options.get("form") == "scores" else _DATA[kind]
    found = {"dataset_name": str(getattr(made, data))}
    if "sft_model_path" not in options:
        found["model_name_or_path"] = str(made.policy)
    if kind in ("ppo", "grpo") and options.get("reward", "model") == "model":
        found |= {"reward": "model", "reward_model_path": str(made.reward)}
    return found


def main(words: list[str]) -> int:
    """Read the request, run the stage, leave its result beside it (only the first process of several does)."""
    end_with_parent()
    request = json.loads(Path(words[0]).read_text(encoding="utf-8"))
    result = run_stage(request)
    if os.environ.get("RANK", "0") == "0":
        write_atomically(Path(request["output_dir"]) / RESULT, json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
