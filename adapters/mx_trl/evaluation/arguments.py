"""The command line of ``mx-plugin evaluate``. Imports neither torch nor a framework."""

from __future__ import annotations

import argparse
from typing import Any

_OPTIONS: dict[str, dict[str, Any]] = {
    "--judge": {
        "metavar": "JUDGE",
        "help": "gsm8k, reading_ease, rule:name=RULE, preference:pairs=FILE[,model=FOLDER], likelihood:model=FOLDER, "
        "or a plugin's (default: the plan's)",
    },
    "--num_prompts": {"type": int, "metavar": "N", "help": "held-out prompts (default: the plan's, else 128)"},
    "--response_length": {"type": int, "metavar": "N", "help": "tokens of an answer (default: as trained)"},
    "--temperature": {"type": float, "metavar": "T", "help": "of sampling; 0 is greedy (default: as trained)"},
    "--text": {"metavar": "FILE", "help": "measure perplexity on this .txt or .jsonl file (or .gz)"},
    "--text_tokens": {"type": int, "metavar": "N", "help": "tokens of that text (default: 8192)"},
    "--batch_size": {"type": int, "metavar": "N", "help": "prompts answered at a time (default: 32)"},
    "--backend": {"metavar": "NAME", "help": "executes the deployed form (default: the run's own)"},
}

OPTIONS = tuple(name.removeprefix("--") for name in _OPTIONS)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Fill the parser."""
    parser.add_argument("results", metavar="RESULTS", help="folder that mx-plugin experiment wrote")
    parser.add_argument(
        "--again",
        action="store_true",
        help="evaluate anew what was evaluated before; without it only what is missing. All models of a comparison "
        "need the same options",
    )
    for name, settings in _OPTIONS.items():
        parser.add_argument(name, **settings)
