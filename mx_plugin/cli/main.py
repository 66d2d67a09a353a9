"""From the command line to the subcommand that a plugin registered, and from errors to messages."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout

from .. import plugins
from .._version import __version__
from ..errors import MXError, PluginError
from ..plugins import Command

FAILED = 2
"""Exit status of an expected error, as argparse has it for wrong usage."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``mx-plugin`` with ``argv`` (default: the process's arguments); return its exit status.

    Errors that mx-plugin raises on purpose (:class:`mx_plugin.errors.MXError`) become one message on
    stderr and status 2; anything else is a defect and shows its traceback.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        status = _run(args)
        sys.stdout.flush()
        return status
    except MXError as error:
        print(f"mx-plugin: error: {error}", file=sys.stderr)
        return FAILED
    except BrokenPipeError:
        # The reader went away (`| head`): nothing more to say, and nothing for the interpreter to flush at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130


def _run(args: list[str]) -> int:
    if args[:1] == ["--version"]:  # answered without loading a plugin
        print(f"mx-plugin {__version__}")
        return 0
    with redirect_stdout(sys.stderr):  # a plugin that prints while it loads must not spoil --json
        commands = plugins.commands()
    try:
        if not args or args[0].startswith("-"):
            overview = _overview(commands)
            overview.parse_args(args)
            overview.print_help(sys.stderr)
            return FAILED
        command = commands.get(args[0])
        if command is None:
            raise PluginError(plugins.unknown("command", args[0], commands))
        parser = argparse.ArgumentParser(prog=f"mx-plugin {command.name}", description=command.summary)
        command.add_arguments(parser)
        chosen = parser.parse_args(args[1:])
    except SystemExit as stop:  # how argparse answers --help and wrong usage
        return stop.code if isinstance(stop.code, int) else FAILED
    return command.run(chosen)


def _overview(commands: Mapping[str, Command]) -> argparse.ArgumentParser:
    """What `mx-plugin --help` shows; a command's own arguments are asked for only when it is chosen."""
    width = max((len(name) for name in commands), default=0)
    lines = [f"  {name:<{width}}  {commands[name].summary}" for name in sorted(commands)]
    parser = argparse.ArgumentParser(
        prog="mx-plugin",
        usage="mx-plugin [--help] [--version] COMMAND ...",
        description="MX precision by layer and phase for RLHF frameworks.",
        epilog="\n".join(["commands (each has its own --help):", *lines]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"mx-plugin {__version__}")
    return parser
