"""``mx-plugin plugins``: what is installed, what each plugin registered, and which do not work."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import redirect_stdout

from .. import plugins
from .._version import __version__
from ..hookspecs import INTERFACE_VERSION
from ..plugin_record import BROKEN, PluginRecord

SUMMARY = "list installed plugins, what they registered and which are broken"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--traceback", action="store_true", help="print the traceback of each broken plugin")


def run(arguments: argparse.Namespace) -> int:
    """Print the report; status 0 also when a plugin is broken (``doctor`` judges)."""
    with redirect_stdout(sys.stderr):
        report = plugins.plugin_report()
    if arguments.json:
        plain = [record.as_dict() for record in report]
        print(json.dumps({"version": __version__, "interface": INTERFACE_VERSION, "plugins": plain}, indent=2))
        return 0
    for record in report:
        print("\n".join(_lines(record, arguments.traceback)))
    return 0


def _lines(record: PluginRecord, traceback: bool) -> list[str]:
    lines = [f"{record.name}  [{record.status}]  {record.distribution} {record.version}".rstrip()]
    lines += [f"    {kind}: {', '.join(names)}" for kind, names in record.registered.items() if names]
    lines += [f"    {record.error}"] if record.error else []
    lines += [f"    note: {note}" for note in record.notes]
    if traceback and record.traceback:
        lines += [f"    | {line}" for line in record.traceback.rstrip().splitlines()]
    elif record.status == BROKEN:
        lines += ["    (`mx-plugin plugins --traceback` shows where)"]
    return lines
