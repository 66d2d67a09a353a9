"""``mx-plugin conformance NAME``: does an installed plugin do what its interface demands? Needs no pytest."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext, redirect_stdout, suppress
from typing import TYPE_CHECKING, Any

from .. import plugins
from ..errors import PluginError, nearest

if TYPE_CHECKING:
    from ..testing.check import ConformanceCheck, Suite
    from ..testing.run import Outcome

SUMMARY = "does a backend, meter, provider or board do what its interface demands? exit status 1 if not"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="of the plugin, as `mx-plugin plugins` lists it; or a board's URL")
    parser.add_argument("options", nargs="*", metavar="OPTION=VALUE", help="what it is made with, e.g. mode=emulate")
    parser.add_argument("--kind", help="backend, meter, provider or board, where several have that name")
    parser.add_argument("--level", metavar="LEVEL", help="only the checks of this level")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Run every check, lowest level first; status 1 if one failed.

    Raises:
        PluginError: no such plugin, several kinds have that name, no such level, an option that is not OPTION=VALUE,
            or it cannot be made with these options.
    """
    from ..testing.run import FAILED, PASSED, SKIPPED, run_checks

    options = _options(arguments.options)
    # What a plugin prints must not spoil --json.
    with redirect_stdout(sys.stderr) if arguments.json else nullcontext():
        suites = _suites_of(arguments.name, arguments.kind)
        kind, make = suites[0].kind, suites[0].open
        checks = _of_level([check for suite in suites for check in suite.checks], arguments.level)
        _make_once(make, arguments.name, options)
        outcomes, level = [], ""
        for outcome in run_checks(checks, lambda: make(arguments.name, **options)):
            outcomes.append(outcome)
            if not arguments.json:
                _print(outcome, level)
            level = outcome.check.level
    count = Counter(outcome.status for outcome in outcomes)
    if arguments.json:
        told = {"name": arguments.name, "kind": kind, "ok": not count[FAILED], "checks": _plain(outcomes)}
        print(json.dumps(told, indent=2))
    else:
        summary = ", ".join(f"{count[status]} {status}" for status in (PASSED, FAILED, SKIPPED) if count[status])
        print(f"{kind} {arguments.name}: {summary}")
    return 1 if count[FAILED] else 0


def _make_once(make: Callable[..., Any], name: str, options: dict[str, Any]) -> None:
    """A plugin that cannot be made with these options is a wrong command, not a failed check."""
    made = make(name, **options)
    if hasattr(made, "close"):  # providers have none
        with suppress(Exception):  # whether it closes well is a check's business
            made.close()


def _suites_of(name: str, kind: str | None) -> list[Suite]:
    """The suites of the one kind that has a plugin of that name."""
    suites = [registered.factory() for registered in plugins.conformance().values()]
    kinds = list(dict.fromkeys(suite.kind for suite in suites))
    if kind is not None and kind not in kinds:
        raise PluginError(f"unknown kind {kind!r}: {nearest(kind, kinds)}")
    first = {each: next(suite for suite in suites if suite.kind == each) for each in kinds}
    known = {each: list(suite.names()) for each, suite in first.items()}
    having = [each for each in kinds if kind in (None, each) and (name in known[each] or _takes(first[each], name))]
    if not having:
        asked = [kind] if kind else kinds
        names = sorted({one for each in asked for one in known[each]})
        raise PluginError(f"no {' or '.join(asked)} is named {name!r}: {nearest(name, names)}")
    if len(having) > 1:
        raise PluginError(f"{name!r} is the name of a {' and of a '.join(having)}: choose by --kind {having[0]}")
    return [suite for suite in suites if suite.kind == having[0]]


def _takes(suite: Suite, name: str) -> bool:
    """Whether a name that is not installed can be opened all the same, such as a board's URL."""
    return suite.takes is not None and suite.takes(name)


def _of_level(checks: Sequence[ConformanceCheck], level: str | None) -> Sequence[ConformanceCheck]:
    levels = dict.fromkeys(check.level for check in checks)
    if level is not None and level not in levels:
        raise PluginError(f"no level {level!r}: {nearest(level, levels)}")
    return [check for check in checks if level in (None, check.level)]


def _options(entries: Sequence[str]) -> dict[str, Any]:
    from ..config import typed_option  # it imports torch

    options = {}
    for entry in entries:
        name, separator, value = entry.partition("=")
        if not separator or not name:
            raise PluginError(f"{entry!r} is not OPTION=VALUE, e.g. mode=emulate")
        options[name] = typed_option(value)
    return options


def _print(outcome: Outcome, level: str) -> None:
    from ..testing.run import FAILED, PASSED

    check = outcome.check
    if check.level != level:
        print(check.level)
    mark = {PASSED: "ok", FAILED: "FAILED"}.get(outcome.status, "-")
    print(f"  {mark:<7} {check.name:<34} {outcome.message or check.demand}", flush=True)


def _plain(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    return [
        {
            "level": outcome.check.level,
            "check": outcome.check.name,
            "demand": outcome.check.demand,
            "status": outcome.status,
            "message": outcome.message,
            "seconds": round(outcome.seconds, 3),
        }
        for outcome in outcomes
    ]
