"""The command line of ``mx-plugin profile``. Imports neither torch nor a framework."""

from __future__ import annotations

import argparse
from typing import Any

_WHAT: dict[str, dict[str, Any]] = {
    "--model": {"required": True, "help": "the policy: folder or hub id"},
    "--reward_model": {
        "help": "profile the phase reward too: a sequence classifier with one label, or a causal model with TRL's "
        "value head (v_head); folder or hub id"
    },
    "--value_model": {
        "help": "profile the critic in phase reward: such a model too, but every position is scored; folder or hub id"
    },
    "--reference_model": {"help": "profile the reference in phase reward: a causal model; folder or hub id"},
    "--formats": {
        "nargs": "+",
        "default": ["MXFP4", "MXFP6", "MXFP8"],
        "metavar": "F",
        "help": "names (activations MXFP8) or pairs such as MXFP4/MXFP4 (default: MXFP4 MXFP6 MXFP8)",
    },
    "--phases": {"nargs": "+", "metavar": "PHASE", "help": "rollout, reward, gradient (default: all there are)"},
    "--exclude": {"nargs": "+", "default": [], "metavar": "LAYERS", "help": "patterns left unquantised throughout"},
    "--engine": {"default": "exact", "help": "exact (with the fast estimate beside it) or fast"},
    "--scale_rule": {"default": "rceil", "help": "of all casts: rceil (default), floor or even"},
}

_DATA: dict[str, dict[str, Any]] = {
    "--dataset": {"required": True, "help": "prompts: .jsonl, .jsonl.gz, folder or hub id"},
    "--prompt_from": {
        "default": "auto",
        "help": "a column (text or messages), hh, hh_chat, story (first words), or auto: prompt, question, chosen as "
        "hh, text as story",
    },
    "--prompt_words": {"type": int, "default": 12, "help": "words of a story that make its prompt (default: 12)"},
    "--dataset_split": {"default": "train", "help": "split of a hub or saved dataset"},
    "--dataset_config": {"help": "configuration of a hub dataset"},
    "--num_prompts": {"type": int, "default": 16, "help": "distinct prompts (default: 16)"},
    "--generate": {
        "type": int,
        "default": 32,
        "metavar": "N",
        "help": "continue each prompt by at most N tokens of the model's own (default: 32; 0: prompts alone)",
    },
    "--max_length": {
        "type": int,
        "default": 128,
        "help": "tokens of a prompt with its continuation; longer prompts are left out (default: 128)",
    },
    "--pairs": {
        "help": "preferences (chosen, rejected) for the reward model; default: the dataset, where it has them, else "
        "the prompts with their continuations are scored"
    },
    "--num_pairs": {"type": int, "default": 32, "help": "preferences to compare on (default: 32)"},
}

_RUN: dict[str, dict[str, Any]] = {
    "--output": {"default": "sensitivity_matrix.csv", "help": "CSV; a JSON file is written beside it"},
    "--heatmap": {"metavar": "FILE", "help": "draw layer x phase too: a .svg, or an .html page"},
    "--resume": {"action": "store_true", "help": "continue where a killed run stopped"},
    "--batch_size": {"type": int, "default": 8, "help": "sequences in a pass (default: 8)"},
    "--dtype": {"default": "float32", "help": "of the models: float32 (default), bfloat16 or float16"},
    "--device": {"default": "auto", "help": "auto: cuda where there is one, else cpu"},
    "--backend": {"default": "auto", "help": "what executes the layers; auto: cpu, elsewhere reference"},
    "--seed": {"type": int, "default": 0, "help": "of sampling, of stochastic rounding and of the estimate"},
    "--top": {"type": int, "default": 8, "help": "layers that the printed tables show (default: 8)"},
    "--trust_remote_code": {"action": "store_true", "help": "run code that a hub model brings along"},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Fill the parser."""
    groups = {"what is profiled": _WHAT, "on what data": _DATA, "how, and where to": _RUN}
    for title, options in groups.items():
        group = parser.add_argument_group(title)
        for name, settings in options.items():
            group.add_argument(name, **settings)


def add_measure_arguments(group: argparse._ActionsContainer) -> None:
    """The data options, for ``mx-plugin policy search --verify``; the models are named by its ``--model``."""
    for name, settings in _DATA.items():
        group.add_argument(name, **{**settings, "required": False})
    for name in ("--batch_size", "--device", "--trust_remote_code"):
        group.add_argument(name, **_RUN[name])


def as_profile(arguments: argparse.Namespace) -> argparse.Namespace:
    """What ``mx-plugin policy search`` was told, in the words of ``mx-plugin profile``: so the data are the same."""
    models = dict(_named(text) for text in arguments.model)
    settings = {name.removeprefix("--"): options.get("default") for name, options in (_WHAT | _DATA | _RUN).items()}
    given = {name: value for name, value in vars(arguments).items() if name in settings and value is not None}
    told = {"model": models.get("policy"), "phases": None}
    told |= {f"{role}_model": models.get(role) for role in ("reward", "value", "reference")}
    return argparse.Namespace(**{**settings, **given, **told})


def _named(text: str) -> tuple[str, str]:
    """(role, folder or hub id); without a role it is the policy's."""
    role, equals, source = text.partition("=")
    return (role, source) if equals and role in ("policy", "reward", "value", "reference") else ("policy", text)
