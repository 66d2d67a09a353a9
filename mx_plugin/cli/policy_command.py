"""``mx-plugin policy``: show a precision policy as YAML, or search for one."""

from __future__ import annotations

import argparse

from . import search_command

SUMMARY = "show a precision policy, or search for one"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="show|search")
    show = verbs.add_parser("show", help="print a policy as YAML")
    show.add_argument("policy", metavar="NAME|FILE", help="a built-in policy (A, B, C, C8, D) or a YAML file")
    show.add_argument("--sensitivity-matrix", metavar="CSV", help="costs of each format (for policies such as D)")
    show.add_argument("--max-cost", type=float, metavar="COST", help="take the narrowest format of at most this cost")
    search = verbs.add_parser("search", help=search_command.HELP, description=search_command.HELP)
    search_command.add_arguments(search)


def run(arguments: argparse.Namespace) -> int:
    """Print the policy, or search.

    Raises:
        PolicyError: no such policy, or one that cannot be read.
        MatrixError: the matrix cannot be read.
        MXError: what a search raises.
    """
    if arguments.verb == "search":
        return search_command.run(arguments)
    from ..precision import load_policy

    policy = load_policy(arguments.policy, sensitivity_matrix=arguments.sensitivity_matrix, max_cost=arguments.max_cost)
    print(policy.to_yaml(), end="")
    return 0
