"""Alert hooks: functions that Python code has registered under a name, which is all that a rules file may say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mx_plugin import plugins
from mx_plugin.errors import nearest

from .rules import AlertError, Rule
from .watch import Alert

AlertHook = Callable[[Alert], Any]

_REGISTERED: dict[str, AlertHook] = {}


def register_alert_hook(name: str, hook: AlertHook) -> None:
    """Make ``hook(alert)`` known to rules with ``action: hook`` and ``hook: name``; the same name again replaces it.

    It is called in the training process between two steps; what it raises is logged and does not stop training.

    Raises:
        AlertError: not a function, or a name of other characters than letters, digits, ``_`` and ``-``.
    """
    if not callable(hook):
        raise AlertError(f"alert hook {name!r} is {hook!r}; register a function that takes the alert")
    if not name.replace("_", "").replace("-", "").isalnum():
        raise AlertError(f"alert hook {name!r}: use letters, digits, _ and -")
    _REGISTERED[name] = hook


def hooks_of(rules: list[Rule]) -> dict[str, AlertHook]:
    """The functions that the rules name: registered here, or by a plugin's ``mx_register_alert_hooks``.

    Raises:
        AlertError: a name that nobody registered.
    """
    found: dict[str, AlertHook] = {}
    for rule in rules:
        if rule.hook is None or rule.hook in found:
            continue
        if rule.hook in _REGISTERED:
            found[rule.hook] = _REGISTERED[rule.hook]
            continue
        known = plugins.alert_hooks()
        if rule.hook not in known:
            names = sorted({*_REGISTERED, *known})
            raise AlertError(
                f"rule {rule.name!r}: no alert hook {rule.hook!r} is registered; "
                + (nearest(rule.hook, names) if names else "register one by mx_trl.dashboard.register_alert_hook")
            )
        found[rule.hook] = known[rule.hook].factory()
    return found
