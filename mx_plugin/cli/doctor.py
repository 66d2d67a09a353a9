"""``mx-plugin doctor``: everything that can be missing, why, and what to do about it."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections import Counter
from contextlib import redirect_stdout
from dataclasses import asdict

from .. import plugins
from .._version import __version__
from ..check import Check
from ..errors import MXError
from ..hookspecs import INTERFACE_VERSION
from ..plugin_record import BROKEN, DISABLED, REFUSED, PluginRecord

SUMMARY = "check plugins, libraries, backends and meters; exit status 1 if something required is missing"

STATUSES = ("ok", "missing", "warn")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print all checks; status 1 if one is ``missing``."""
    with redirect_stdout(sys.stderr):
        checks = examine()
    healthy = all(check.status != "missing" for check in checks)
    if arguments.json:
        plain = [asdict(check) for check in checks]
        print(
            json.dumps(
                {"version": __version__, "interface": INTERFACE_VERSION, "ok": healthy, "checks": plain}, indent=2
            )
        )
        return 0 if healthy else 1
    width = max((len(check.name) for check in checks), default=0)
    for check in checks:
        print(f"{check.status:<8} {check.name:<{width}}  {check.detail}".rstrip())
        if check.remedy and check.status != "ok":
            print(f"{'':<8} {'':<{width}}  remedy: {check.remedy}")
    count = Counter(check.status for check in checks)
    print(", ".join(f"{count[status]} {status}" for status in STATUSES))
    return 0 if healthy else 1


def examine() -> list[Check]:
    """All checks: those that plugins registered, then every backend and meter, then the plugins.

    The plugins come last because the others may be what shows that one is broken.
    """
    plugins.layer_types()
    plugins.plugin_report()
    lines = [line for registered in plugins.checks() for line in _ask(registered)]
    try:
        importlib.import_module("mx_plugin.interfaces")
    except Exception as error:  # without torch nothing can be made, and no plugin is to blame
        why = f"none can be made: {type(error).__name__}: {error}"
        lines.append(Check("backends, meters", "missing", why, "mend the required libraries above"))
    else:
        lines += [_backend(registration) for registration in plugins.backends().values()]
        lines += [_meter(registration) for registration in plugins.meters().values()]
    return lines + [_plugin(record) for record in plugins.plugin_report()]


def _ask(registered: plugins.RegisteredCheck) -> list[Check]:
    try:
        found = list(registered.function())
        for line in found:
            if not isinstance(line, Check) or line.status not in STATUSES:
                raise TypeError(f"returned {line!r}, not a Check whose status is one of {', '.join(STATUSES)}")
        return found
    except Exception as error:
        registered.plugin.broke(f"check {registered.name}", error)
        return []


def _backend(registration: plugins.Registration) -> Check:
    name = f"backend {registration.name}"
    try:
        backend = plugins.get_backend(registration.name)
        try:
            can = backend.capabilities
            exactness = "bit-exact" if can.exactness.bit_exact else f"within {can.exactness.bound:g} of sum |x||w|"
            return Check(name, "ok", f"{len(can.formats)} formats on {', '.join(can.devices)}, {exactness}")
        finally:
            backend.close()
    except Exception as error:
        return _not_made(name, registration, error)


def _meter(registration: plugins.Registration) -> Check:
    name = f"meter {registration.name}"
    try:
        meter = plugins.get_meter(registration.name)
        try:
            meter.begin_window("doctor")
            found = meter.end_window("doctor")
        finally:
            meter.close()
        if found.estimated:
            return Check(name, "ok", f"{found.source}: estimates")
        # A counter that did not tick in this short window is there all the same.
        if found.joules is None and found.updates is None:
            return Check(name, "warn", f"{found.source}: cannot measure here: {found.why}", "leave it out of meters")
        return Check(name, "ok", f"{found.source}: measures")
    except Exception as error:
        return _not_made(name, registration, error)


def _not_made(name: str, registration: plugins.Registration, error: Exception) -> Check:
    """An error raised on purpose says what is absent here, and that is optional; any other is a defect."""
    if isinstance(error.__cause__, MXError):
        return Check(name, "warn", str(error.__cause__), f"do not choose {registration.name!r} here")
    registration.plugin.broke(name, error)
    return Check(name, "missing", str(error), _replace(registration.plugin))


def _plugin(record: PluginRecord) -> Check:
    name = f"plugin {record.name}"
    origin = f"{record.distribution} {record.version}".strip()
    if record.status in (BROKEN, REFUSED):
        return Check(name, "missing", f"{origin}: {record.status}: {record.error}", _replace(record))
    if record.status == DISABLED:
        return Check(name, "ok", f"{origin}: disabled, {record.error}")
    if record.notes:
        notes = "; ".join(record.notes)
        return Check(name, "warn", f"{origin}: {notes}", f"mend it, or set MX_PLUGIN_DISABLE={record.name}")
    return Check(name, "ok", origin)


def _replace(record: PluginRecord) -> str:
    return f"upgrade or uninstall {record.distribution or record.name}, or set MX_PLUGIN_DISABLE={record.name}"
