"""``mx-plugin report``: one HTML file about an experiment or a run."""

from __future__ import annotations

import argparse

SUMMARY = "one self-contained HTML page about an experiment or a run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Fill the parser."""
    parser.add_argument("folder", help="results folder of mx-plugin experiment, an output folder, or one run folder")
    parser.add_argument("--output", metavar="HTML", help="where to write it (default: FOLDER/report.html)")


def run(arguments: argparse.Namespace) -> int:
    """Write the page and say where it is.

    Raises:
        MXError: nothing to report; plotly is not installed; the file cannot be written.
    """
    from ..report.write import write_report

    print(write_report(arguments.folder, arguments.output))
    return 0
