"""Commands of the docs, read by the parsers that would read them: what is too dear to run is at least well-formed."""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from mx_plugin import plugins
from mx_plugin.errors import MXError

from .blocks import ROOT

VARIABLES = {"MX_TEST_DATA": "data", "N": "0", "HOST": "localhost"}
"""What stands for the reader's own."""

_REDIRECTION = re.compile(r"\s>>?\s*\S+$")
_COMMENT = re.compile(r"\s+#.*$")
_ASSIGNMENT = re.compile(r"^(\w+)=(.*)$", re.S)


class Unreadable(AssertionError):
    """A command that its program would refuse, or a program that is none of ours."""


def check(commands: Sequence[str], known: Mapping[str, str] = VARIABLES) -> int:
    """Read the commands of one block in order; shell variables hold from one to the next.

    Args:
        known: what is set before the first.

    Returns:
        How many were read, assignments among them.

    Raises:
        Unreadable: one is refused: the command, and why.
    """
    variables = dict(known)
    count = 0
    for command in commands:
        name, value = assignment(command)
        try:
            if name:
                variables[name] = value
            else:
                _check(expand(command, variables))
        except (Unreadable, MXError, SystemExit) as error:
            raise Unreadable(f"{command!r}: {error}") from error
        count += 1
    return count


def assignment(command: str) -> tuple[str, str]:
    """``("NAME", "value")`` of ``NAME="value"``; two empty texts for any other command."""
    found = _ASSIGNMENT.match(command)
    if found is None or len(words := shlex.split(found[2])) != 1:
        return "", ""
    return found[1], re.sub(r"\$(\w+)", lambda name: VARIABLES.get(name[1], name[0]), words[0])


def expand(command: str, variables: Mapping[str, str] = VARIABLES) -> list[str]:
    """Words as the shell gives them to the program: no comment, no redirection, variables put in.

    Raises:
        Unreadable: a variable that nobody set.
    """

    def value(found: re.Match[str]) -> str:
        if found[1] not in variables:
            raise Unreadable(f"{command!r}: ${found[1]} is not set")
        return variables[found[1]]

    bare = _REDIRECTION.sub("", _COMMENT.sub("", command))
    return shlex.split(re.sub(r"\$(\w+)", value, bare))


def _check(words: list[str]) -> None:
    program, *rest = words
    program = Path(program).name
    known = PROGRAMS.get(program)
    if known is None:
        raise Unreadable(f"nobody here knows how to read {program!r}: add it to PROGRAMS in tests/docs/commands.py")
    known(rest)


# ---------------------------------------------------------------------------- programs


def _mx_plugin(words: list[str]) -> None:
    name, *rest = words
    command = plugins.commands().get(name)
    if command is None:
        raise Unreadable(f"mx-plugin has no command {name!r}")
    parser = argparse.ArgumentParser(prog=f"mx-plugin {name}")
    command.add_arguments(parser)
    rest = [word for word in rest if word != "..."]  # options that an earlier line showed
    chosen = _parsed(parser, rest)
    for value in vars(chosen).values():
        _our_files_exist(value if isinstance(value, list) else [value])
    if name == "experiment":
        _recipe(chosen)


def _recipe(chosen: argparse.Namespace) -> None:
    """What stands behind ``--`` is read by the stage."""
    config = ["--config", chosen.config] if chosen.config else []
    script(ROOT / "examples" / f"{chosen.stage or 'ppo'}_mx.py", [*config, *chosen.overrides])


def _our_files_exist(values: Sequence[Any]) -> None:
    for value in values:
        path = str(value).rpartition("=")[2]
        if path.startswith(("examples/", "docs/")) and not (ROOT / path).exists():
            raise Unreadable(f"there is no {path}")


def _accelerate(words: list[str]) -> None:
    from accelerate.commands.launch import launch_command_parser

    if words[:1] != ["launch"]:
        raise Unreadable("of accelerate only launch is used here")
    chosen = _parsed(launch_command_parser(), words[1:])
    script(ROOT / chosen.training_script, chosen.training_script_args)


def _torchrun(words: list[str]) -> None:
    from torch.distributed.run import get_args_parser

    chosen = _parsed(get_args_parser(), words)
    script(ROOT / chosen.training_script, chosen.training_script_args)


def script(path: Path, words: list[str]) -> list[Any]:
    """Run an example up to where training would begin; what it would train with."""
    if not path.is_file():
        raise Unreadable(f"there is no {path.relative_to(ROOT)}")
    seen: list[Any] = []
    words = [word for word in words if word != "..."]
    with (
        mock.patch("mx_trl.stages.command.run_policies", lambda *given: seen.extend(given) or []),
        mock.patch.object(sys, "argv", [str(path), *words]),
        contextlib.chdir(ROOT),
        _stderr_in_the_error(),
    ):
        runpy.run_path(str(path), run_name="__main__")
    if not seen:
        raise Unreadable(f"{path.name} never came to its training")
    return seen


def _python(words: list[str]) -> None:
    if words[:2] == ["-m", "mx_openrlhf"]:
        from mx_openrlhf.arguments import parse

        parse(words[2:])
        return
    if words[:2] == ["-m", "pytest"]:
        _pytest(words[2:])
        return
    path = ROOT / words[0]
    if path.name.endswith("_mx.py"):
        script(path, words[1:])
        return
    if not path.is_file():
        raise Unreadable(f"there is no {words[0]}")
    if path.parent.name == "examples":
        with (
            mock.patch("mx_trl.gguf.convert_gguf", lambda *given: 0),
            mock.patch.object(sys, "argv", words),
            contextlib.redirect_stdout(io.StringIO()),
            _stderr_in_the_error(),
        ):
            runpy.run_path(str(path), run_name="__main__")
        return
    _our_files_exist(words[1:])


def _make(words: list[str]) -> None:
    """By make itself, which says what it would do."""
    made = subprocess.run(["make", "-n", *words], cwd=ROOT, capture_output=True, text=True)
    if made.returncode:
        raise Unreadable(made.stderr.strip())


def _pip(words: list[str]) -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        extras = tomllib.load(file)["project"]["optional-dependencies"]
    if words[:1] != ["install"]:
        raise Unreadable("of pip only install is used here")
    for word in words[1:]:
        asked = re.fullmatch(r"mx-plugin(\[([\w,]+)\])?", word)
        if word.startswith("-") or word in (".", "build/wheels/*.whl"):
            continue
        if asked is None:
            raise Unreadable(f"{word!r} is not this package with its extras")
        missing = set((asked[2] or "").split(",")) - {""} - set(extras)
        if missing:
            raise Unreadable(f"pyproject.toml has no extra {', '.join(missing)}")


def _pytest(words: list[str]) -> None:
    for word in words:
        if not word.startswith("-") and not (ROOT / word.partition("::")[0]).exists():
            raise Unreadable(f"there is no {word}")


def _pre_commit(words: list[str]) -> None:
    from pre_commit.main import main

    with _stderr_in_the_error(), contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        if main([*words, "--help"]):
            raise Unreadable(f"pre-commit has no {words}")


def _file_of_a_run(words: list[str]) -> None:
    """``cat`` and its like: what they read is made by an earlier command, and a session runs them for real."""
    if not [word for word in words if not word.startswith("-")]:
        raise Unreadable("it names no file")


PROGRAMS: dict[str, Callable[[list[str]], None]] = {
    "mx-plugin": _mx_plugin,
    "accelerate": _accelerate,
    "torchrun": _torchrun,
    "python": _python,
    "pytest": _pytest,
    "make": _make,
    "pip": _pip,
    "pre-commit": _pre_commit,
    "cat": _file_of_a_run,
    "head": _file_of_a_run,
    "ls": _file_of_a_run,
}


def _parsed(parser: argparse.ArgumentParser, words: list[str]) -> argparse.Namespace:
    with _stderr_in_the_error():
        return parser.parse_args(words)


@contextlib.contextmanager
def _stderr_in_the_error() -> Iterator[None]:
    """argparse says what is wrong on stderr and raises a number."""
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told):
            yield
    except SystemExit as stop:
        if stop.code not in (0, None):
            raise Unreadable(told.getvalue().strip().splitlines()[-1] if told.getvalue() else str(stop.code)) from stop
