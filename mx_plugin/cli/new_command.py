"""``mx-plugin new``: write a package with a plugin that works, for its author to make theirs."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..scaffold import KINDS, PluginNames, check_free, write_package
from ..scaffold.write import to_fill_in

SUMMARY = "write a package with a new plugin: a backend, board, provider or meter"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    kinds = "; ".join(f"{kind}: {what}" for kind, what in KINDS.items())
    parser.add_argument("kind", choices=list(KINDS), help=kinds)
    parser.add_argument("name", metavar="NAME", help="what users will choose it by, e.g. acme; the package is acme-mx")
    parser.add_argument("--output", type=Path, default=Path("."), metavar="DIR", help="write there (default: here)")


def run(arguments: argparse.Namespace) -> int:
    """Write it and say what comes next.

    Raises:
        PluginError: a name that cannot be or is taken; a folder that exists or cannot be written.
    """
    kind: str = arguments.kind
    names = PluginNames.of(arguments.name)
    check_free(kind, names)
    folder = write_package(kind, names, arguments.output)
    print(f"{folder}: a {kind} named {names.name}. It works as it is; next:")
    print(f"  pip install -e {folder} && pytest {folder}/tests")
    print(f"  make {to_fill_in(kind, names)} yours: {folder}/src/{names.module}/{kind}.py")
    print("  docs/plugins.md in mx-plugin's repository is the tutorial")
    return 0
