"""Alert rules: what a YAML file may say, checked key by key."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml

from mx_plugin.errors import MXError, nearest

DEFAULTS = Path(__file__).with_name("default_rules.yaml")

CONDITIONS = ("above", "below", "above_median", "below_start", "not_finite")
SEVERITIES = ("info", "warning", "error")
ACTIONS = ("log", "mark", "hook", "pause", "stop")
AFTER_PAUSE = ("stop", "go_on")
_TOP = ("version", "defaults", "rules")


class AlertError(MXError, ValueError):
    """Alert rules that cannot be used; names the file, the rule and the key."""


@dataclass(frozen=True)
class Rule:
    """One rule. Exactly one of the conditions is set; ``docs/dashboard.md`` says what each key means."""

    name: str
    metric: str
    above: float | None = None
    below: float | None = None
    above_median: float | None = None
    below_start: float | None = None
    not_finite: bool = False
    at_least: float | None = None
    window: int = 20
    needs: int = 5
    for_steps: int = 1
    after_step: int = 0
    silent_for: int = 20
    severity: str = "warning"
    action: tuple[str, ...] = ("log", "mark")
    hook: str | None = None
    pause_minutes: float = 720.0
    after_pause: str = "stop"
    hint: str = ""

    @property
    def condition(self) -> str:
        """Which of CONDITIONS it is."""
        return conditions_of(self)[0]


def conditions_of(rule: Rule) -> list[str]:
    """Which of CONDITIONS are set; a bound of 0 is one."""
    return [name for name in CONDITIONS if getattr(rule, name) is not None and getattr(rule, name) is not False]


def load_rules(path: str | Path | None = None) -> list[Rule]:
    """The built-in rules, or those of a YAML file, with the built-in ones unless it says ``defaults: false``.

    A rule of the same name replaces a built-in one; ``enabled: false`` switches it off.

    Raises:
        AlertError: the file cannot be read, or says something that is not known.
    """
    if path is None:
        return list(_read(DEFAULTS)[1].values())
    defaults, own = _read(Path(path))
    rules = {rule.name: rule for rule in load_rules()} if defaults else {}
    for name, rule in own.items():
        if rule is None:
            if name not in rules:
                raise AlertError(f"{path}: rule {name!r} has enabled: false, but there is none: {nearest(name, rules)}")
            del rules[name]
        else:
            rules[name] = rule
    return list(rules.values())


def _read(path: Path) -> tuple[bool, dict[str, Any]]:
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise AlertError(f"cannot read the alert rules {path}: {error}") from error
    if not isinstance(data, dict):
        raise AlertError(f"{path} holds no alert rules: it must begin with 'version: 1' and 'rules:'")
    for key in data:
        if key not in _TOP:
            raise AlertError(f"{path}: unknown key {key!r}; {nearest(str(key), _TOP)}")
    if data.get("version") != 1:
        raise AlertError(f"{path}: version is {data.get('version')!r}; write 'version: 1'")
    if not isinstance(data.get("defaults", True), bool):
        raise AlertError(f"{path}: defaults is {data['defaults']!r}; write true or false")
    if not isinstance(data.get("rules", []), list):
        raise AlertError(f"{path}: rules must be a list, each with '- name: ...'")
    found: dict[str, Any] = {}
    for number, entry in enumerate(data.get("rules") or [], start=1):
        name, rule = _rule(entry, f"{path}, rule {number}")
        if name in found:
            raise AlertError(f"{path}: two rules are called {name!r}; give each its own name")
        found[name] = rule
    return data.get("defaults", True), found


def _rule(entry: Any, where: str) -> tuple[str, Rule | None]:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str) or not entry["name"]:
        raise AlertError(f"{where}: a rule is a mapping with a name, not {entry!r}")
    given = dict(entry)
    where = f"{where} ({given['name']})"
    enabled = given.pop("enabled", True)
    if not isinstance(enabled, bool):
        raise AlertError(f"{where}: enabled is {enabled!r}; write true or false")
    if not enabled:
        if set(given) != {"name"}:
            raise AlertError(f"{where}: enabled: false switches a built-in rule off; leave its other keys out")
        return given["name"], None
    known = [field.name for field in fields(Rule)]
    for key in given:
        if key not in known:
            raise AlertError(f"{where}: unknown key {key!r}; {nearest(str(key), [*known, 'enabled'])}")
    if not isinstance(given.get("metric"), str):
        raise AlertError(f"{where}: metric is {given.get('metric')!r}; name a column of stability.jsonl, * allowed")
    actions = given.get("action", ("log", "mark"))
    if not isinstance(actions, str | list | tuple):
        raise AlertError(f"{where}: action is {actions!r}; write one of {', '.join(ACTIONS)}, or a list of them")
    given["action"] = tuple([actions] if isinstance(actions, str) else actions)
    rule = Rule(**{key: _checked(key, value, where) for key, value in given.items()})
    _check_whole(rule, where)
    _check_effects(rule, set(given), where)
    # Whoever wants more than a line in alerts.jsonl also wants it said.
    return rule.name, replace(rule, action=tuple(dict.fromkeys(("log", *rule.action))))


def _check_whole(rule: Rule, where: str) -> None:
    given = conditions_of(rule)
    if len(given) != 1:
        raise AlertError(
            f"{where}: give one condition of {', '.join(CONDITIONS)}; it has {', '.join(given) if given else 'none'}"
        )
    if ("hook" in rule.action) != (rule.hook is not None):
        raise AlertError(f"{where}: 'action: hook' and 'hook: NAME' belong together; one of them is missing")


_ONLY_WITH = {
    "at_least": ("above_median",),
    "window": ("above_median",),
    "needs": ("above_median", "below_start"),
    "pause_minutes": ("pause",),
    "after_pause": ("pause",),
}
"""Keys that say something of these conditions or actions, and nothing of others."""


def _check_effects(rule: Rule, given: set[str], where: str) -> None:
    """A rule that would never be judged, or of which a part would do nothing, is a safety net that is not there."""
    has = {*conditions_of(rule), *rule.action}
    for key, of in _ONLY_WITH.items():
        if key in given and not has & set(of):
            raise AlertError(f"{where}: {key} says something of {' and '.join(of)} only, which this rule does not have")
    if rule.above_median is not None and rule.needs > rule.window:
        raise AlertError(
            f"{where}: needs is {rule.needs}, and the window holds {rule.window} values: nothing would ever be judged; "
            "give a larger window, or needs"
        )


_NUMBERS = ("above", "below", "above_median", "below_start", "at_least", "pause_minutes")
_COUNTS = {"window": 1, "needs": 1, "for_steps": 1, "after_step": 0, "silent_for": 0}
_WORDS: dict[str, tuple[str, ...]] = {"severity": SEVERITIES, "after_pause": AFTER_PAUSE}


def _checked(key: str, value: Any, where: str) -> Any:
    def refuse(wanted: str) -> AlertError:
        return AlertError(f"{where}: {key} is {value!r}; {wanted}")

    if key in _NUMBERS:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise refuse("write a number (YAML reads 1e-6 as text: write 1.0e-6)")
        if key in ("above_median", "below_start", "pause_minutes") and value <= 0:
            raise refuse("write a number above 0")
        return float(value)
    if key in _COUNTS:
        if isinstance(value, bool) or not isinstance(value, int) or value < _COUNTS[key]:
            raise refuse(f"write a whole number, {_COUNTS[key]} or more")
    elif key in _WORDS:
        if value not in _WORDS[key]:
            raise refuse(nearest(str(value), _WORDS[key]))
    elif key == "action":
        wrong = next((one for one in value if one not in ACTIONS), None)
        if wrong is not None:
            raise refuse(_no_action(str(wrong)))
    elif key == "not_finite":
        if value is not True:
            raise refuse("write true")
    elif key == "hook":
        _check_hook_name(value, refuse)
    elif not isinstance(value, str):
        raise refuse("write text")
    return value


def _check_hook_name(value: Any, refuse: Callable[[str], AlertError]) -> None:
    """A registered name and nothing else: what a rules file says is never executed or imported."""
    if not isinstance(value, str) or not value.replace("_", "").replace("-", "").isalnum():
        raise refuse(
            "a hook is the name under which Python code registered a function (register_alert_hook, or a plugin's "
            "mx_register_alert_hooks): letters, digits, _ and -. Shell lines, dotted paths and files are not run"
        )


def _no_action(word: str) -> str:
    return nearest(word, ACTIONS) + "; commands are not run from rules: register a hook, and name it"


def described(rules: Mapping[str, Rule] | list[Rule]) -> list[dict[str, Any]]:
    """Plain data of rules, without what is at its default; for the run's own record of them."""
    every = list(rules.values()) if isinstance(rules, Mapping) else rules
    defaults = Rule(name="", metric="")
    return [
        {f.name: getattr(rule, f.name) for f in fields(Rule) if getattr(rule, f.name) != getattr(defaults, f.name)}
        for rule in every
    ]
