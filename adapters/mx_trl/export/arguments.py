"""The command line of ``mx-plugin export``. Imports neither torch nor a framework."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Fill the parser."""
    parser.add_argument(
        "run", metavar="RUN", help="a run's folder, its policy_<name>/, one checkpoint, or a model folder"
    )
    parser.add_argument("folder", metavar="DIR", help="where to write the model")
    parser.add_argument(
        "--packed",
        action="store_true",
        help="pack the layers in the formats of the run's rollouts (a reward model: of its scoring); mx_trl.load_model "
        "reads that",
    )
    parser.add_argument(
        "--policy", metavar="NAME", help="with --packed: a precision policy in the place of the run's own"
    )
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), help="convert to it first (default: as saved)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace DIR if it holds a model")
    parser.add_argument(
        "--trust-remote-code", action="store_true", help="run the model's own code, as transformers means it"
    )
