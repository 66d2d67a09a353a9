"""The command line of ``mx-plugin experiment``. Imports neither torch nor a framework."""

from __future__ import annotations

import argparse
from typing import Any

EPILOG = """\
Anything after -- overrides the recipe, e.g.  -- --learning_rate 1e-5 --response_length 32
Start the same command again to continue: finished runs are not made again.
"""

_WHAT: dict[str, dict[str, Any]] = {
    "--policies": {
        "nargs": "+",
        "metavar": "P",
        "help": "built-in names, YAML files, or NAME=FILE; none: controls alone (default: A C)",
    },
    "--policy": {"metavar": "P", "help": "one policy; the same as --policies P"},
    "--controls": {
        "nargs": "+",
        "metavar": "C",
        "help": "aa random-D inverted-D bf16+noise-D matched-D correction_off-D correction_on-D "
        "(any policy for D; none named: D, "
        "else the last). With --policies none they are added to the results that are there",
    },
    "--seeds": {"nargs": "+", "type": int, "metavar": "N", "help": "every policy under each (default: 1)"},
    "--seed": {"type": int, "metavar": "N", "help": "one seed; the same as --seeds N"},
    "--num_steps": {"type": int, "metavar": "N", "help": "training steps of each run (default: the recipe's)"},
    "--matrix": {"metavar": "CSV", "help": "sensitivity matrix for D, from mx-plugin profile (default: measured now)"},
    "--budget": {
        "nargs": "+",
        "metavar": "PHASE=COST",
        "help": "for D: least bytes within this predicted cost of all layers together (default: rollout=0.02)",
    },
    "--max_cost": {
        "nargs": "+",
        "metavar": "COST",
        "help": "for D, instead: the narrowest format of at most this cost, layer by layer; one number, or PHASE=COST "
        "or PHASE/ROLE=COST ...",
    },
}

_RECIPE: dict[str, dict[str, Any]] = {
    "--config": {"metavar": "YAML", "help": "the stage's recipe (default: the embedded small model, no network)"},
    "--stage": {"choices": ("ppo", "grpo"), "help": "default: ppo where the installed TRL has it"},
}

_JUDGED: dict[str, dict[str, Any]] = {
    "--baseline": {"default": "A", "metavar": "NAME", "help": "what the others are compared with (default: A)"},
    "--judge": {"help": "of the evaluation, see mx-plugin evaluate --help (default: what fits the prompts)"},
    "--margin": {
        "default": "win_rate=0.05",
        "metavar": "METRIC=VALUE",
        "help": "how much worse than the baseline still counts as no worse, declared now (default: win_rate=0.05)",
    },
    "--eval_prompts": {"type": int, "metavar": "N", "help": "held-out prompts that are answered"},
    "--eval_text": {"metavar": "FILE", "help": "text whose perplexity is measured"},
}

_RUN: dict[str, dict[str, Any]] = {
    "--output": {"required": True, "metavar": "FOLDER", "help": "results folder, new or to be continued"},
    "--add": {"action": "store_true", "help": "add these runs to the plan that the folder holds"},
    "--jobs": {
        "type": int,
        "metavar": "N",
        "help": "runs at a time (default: 1; with ray: as many as it has room for)",
    },
    "--executor": {
        "choices": ("local", "ray"),
        "default": "local",
        "help": "ray: each run is a task of a Ray cluster, tried again when its worker dies (default: this machine)",
    },
    "--ray_address": {"metavar": "A", "help": "of a running cluster (default: RAY_ADDRESS, else one on this machine)"},
    "--gpus_per_run": {
        "type": float,
        "default": 0.0,
        "metavar": "G",
        "help": "ray: GPUs that a run takes (default: 0)",
    },
    "--threads": {"type": int, "metavar": "N", "help": "of each run (default: the cores, divided by --jobs)"},
    "--keep_models": {
        "choices": ("all", "none"),
        "default": "all",
        "help": "none removes final models once they are evaluated (default: all)",
    },
    "--no_evaluate": {"action": "store_true", "help": "train only"},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Fill the parser."""
    parser.epilog = EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    groups = {
        "what is compared": _WHAT,
        "on which recipe": _RECIPE,
        "how it is judged": _JUDGED,
        "how, and where to": _RUN,
    }
    for title, options in groups.items():
        group = parser.add_argument_group(title)
        for name, settings in options.items():
            group.add_argument(name, **settings)
    parser.add_argument("overrides", nargs="*", metavar="-- OPTION", help="options of the stage")
