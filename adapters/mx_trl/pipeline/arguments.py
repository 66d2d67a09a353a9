"""The command line of ``mx-plugin pipeline``. Imports neither torch nor a framework."""

from __future__ import annotations

import argparse

EPILOG = """\
Start the same command again to continue: finished stages are not done again, unless their options, or the stages whose
models they read, have changed. docs/stages.md describes the file.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add them to ``parser``."""
    parser.epilog = EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("config", metavar="YAML", help="the stages in their order; see examples/configs/pipeline.yaml")
    parser.add_argument("--output_dir", metavar="FOLDER", help="a folder per stage goes here (default: the file's)")
    parser.add_argument("--max_minutes", type=float, metavar="M", help="stop within about M minutes, with a checkpoint")
    parser.add_argument("--restart", action="store_true", help="do every stage again, finished or not")
