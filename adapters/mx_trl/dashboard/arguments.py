"""Options of ``mx-plugin dashboard``. Imports nothing."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Fill the parser."""
    parser.add_argument("folder", metavar="RUN", help="a run's folder, or one that holds several")
    parser.add_argument("--port", type=int, help="on 127.0.0.1 (default: the first free one from 7860; 0: any)")
    parser.add_argument("--html", metavar="FILE", help="write the panels as one page instead of serving them")
    parser.add_argument("--resume", action="store_true", help="let a run go on that an alert has paused")
    parser.add_argument("--poll", type=float, default=1.0, metavar="S", help="look for news every S seconds (1)")
