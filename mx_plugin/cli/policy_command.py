"""``mx-plugin policy``: show a precision policy as YAML, search for one, or draw what one is searched in."""

from __future__ import annotations

import argparse

from . import search_command

SUMMARY = "show a precision policy, search for one, or draw a sensitivity matrix"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="show|search|heatmap")
    show = verbs.add_parser("show", help="print a policy as YAML")
    show.add_argument("policy", metavar="NAME|FILE", help="a built-in policy (A, B, C, C8, D) or a YAML file")
    show.add_argument("--sensitivity-matrix", metavar="CSV", help="costs of each format (for policies such as D)")
    show.add_argument("--max-cost", type=float, metavar="COST", help="take the narrowest format of at most this cost")
    search = verbs.add_parser("search", help=search_command.HELP, description=search_command.HELP)
    search_command.add_arguments(search)
    heatmap = verbs.add_parser("heatmap", help="draw a sensitivity matrix, layer x phase")
    heatmap.add_argument(
        "matrices", nargs="+", metavar="CSV", help="from mx-plugin profile; several, where phases were profiled apart"
    )
    heatmap.add_argument("picture", metavar="FILE", help="a .svg, or an .html page")
    heatmap.add_argument(
        "--metric", nargs="+", action="extend", default=[], metavar="[PHASE[.ROLE]=]METRIC",
        help="which of the matrix's metrics (default: the cost of quantising a layer alone)",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """Print the policy, search, or draw.

    Raises:
        PolicyError: no such policy, or one that cannot be read.
        MatrixError: the matrix cannot be read.
        MXError: what a search raises; a picture that cannot be written.
    """
    if arguments.verb == "search":
        return search_command.run(arguments)
    if arguments.verb == "heatmap":
        return _draw(arguments)
    from ..precision import load_policy

    policy = load_policy(arguments.policy, sensitivity_matrix=arguments.sensitivity_matrix, max_cost=arguments.max_cost)
    print(policy.to_yaml(), end="")
    return 0


def _draw(arguments: argparse.Namespace) -> int:
    from ..precision import SensitivityMatrix
    from ..report.heatmap import write_heatmap

    metrics = search_command.chosen_metrics(arguments.metric)
    rows = [row for path in arguments.matrices for row in SensitivityMatrix.read(path, metrics).rows]
    print(write_heatmap(arguments.picture, SensitivityMatrix(tuple(rows), ", ".join(arguments.matrices))))
    return 0
