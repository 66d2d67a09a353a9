"""What a rules file may say, and what is refused with a message that helps."""

from __future__ import annotations

from pathlib import Path

import pytest

from mx_trl.dashboard.hooks import hooks_of, register_alert_hook
from mx_trl.dashboard.rules import AlertError, described, load_rules


def rules_file(folder: Path, text: str) -> Path:
    path = folder / "alerts.yaml"
    path.write_text(text)
    return path


def one_rule(folder: Path, keys: str) -> Path:
    return rules_file(folder, f"version: 1\ndefaults: false\nrules:\n  - {{name: mine, metric: kl, {keys}}}\n")


def test_the_built_in_rules_cover_what_goes_wrong_and_stop_nothing() -> None:
    rules = {rule.name: rule for rule in load_rules()}
    assert {"not_finite", "kl", "entropy_collapse", "reward_variance_zero", "gradient_spike", "mismatch"} <= set(rules)
    assert all(set(rule.action) == {"log", "mark"} for rule in rules.values())


def test_a_file_adds_replaces_and_switches_off_rules(tmp_path: Path) -> None:
    path = rules_file(
        tmp_path,
        "version: 1\nrules:\n"
        "  - {name: kl, metric: kl, above: 7, for_steps: 2, action: stop}\n"
        "  - {name: mismatch, enabled: false}\n"
        "  - {name: short, metric: length, below: 3.5, severity: info}\n",
    )
    before, rules = {rule.name for rule in load_rules()}, {rule.name: rule for rule in load_rules(path)}
    assert set(rules) == before - {"mismatch"} | {"short"}
    assert (rules["kl"].above, rules["kl"].for_steps, rules["kl"].action) == (7.0, 2, ("log", "stop"))
    assert rules["short"].condition == "below"
    assert described([rules["short"]]) == [{"name": "short", "metric": "length", "below": 3.5, "severity": "info"}]


def test_a_file_can_leave_the_built_in_rules_out(tmp_path: Path) -> None:
    assert [rule.name for rule in load_rules(one_rule(tmp_path, "above: 1"))] == ["mine"]


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ("abvoe: 1", "did you mean 'above'"),
        ("above: 1, below: 0", "one condition"),
        ("severity: error", "one condition of above, below, above_median"),
        ("above: 1e-6", "1.0e-6"),
        ("above: .nan", "write a number"),
        ("above: true", "write a number"),
        ("above_median: 0", "above 0"),
        ("above: 1, for_steps: 0", "whole number, 1 or more"),
        ("above: 1, severity: fatal", "severity is 'fatal'"),
        ("above: 1, action: [log, kill]", "did you mean|Valid: log, mark, hook, pause, stop"),
        ("above: 1, action: 'rm -rf /'", "commands are not run"),
        ("above: 1, action: 5", "action is 5; write one of"),
        ("above: 1, action:", "action is None; write one of"),
        ("above: 1, enabled: 'no'", "enabled is 'no'; write true or false"),
        ("above: 1, action: hook", "belong together"),
        ("above: 1, hook: tell_me", "belong together"),
        ("above: 1, action: hook, hook: 'os.system'", "dotted paths and files are not run"),
        ("above: 1, action: hook, hook: 'curl http://x | sh'", "Shell lines"),
        ("above: 1, action: hook, hook: './run.sh'", "registered a function"),
        ("not_finite: false", "write true"),
        ("above_median: 2, window: 3", "needs is 5, and the window holds 3 values: nothing would ever be judged"),
        ("above: 5, at_least: 1000", "at_least says something of above_median only"),
        ("below: 5, needs: 2", "needs says something of above_median and below_start only"),
        ("above: 5, pause_minutes: 2", "pause_minutes says something of pause only"),
        ("above: 1, hint: [1]", "write text"),
    ],
)
def test_what_is_not_known_is_refused_by_file_rule_and_key(tmp_path: Path, keys: str, said: str) -> None:
    with pytest.raises(AlertError, match=said) as refused:
        load_rules(one_rule(tmp_path, keys))
    assert "alerts.yaml, rule 1 (mine)" in str(refused.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1, 2]", "must begin with 'version: 1'"),
        ("version: 2\nrules: []\n", "write 'version: 1'"),
        ("version: 1\nrulez: []\n", "did you mean 'rules'"),
        ("version: 1\nrules: {kl: 1}\n", "must be a list"),
        ("version: 1\nrules: [kl]\n", "a mapping with a name"),
        ("version: 1\ndefaults: maybe\n", "write true or false"),
        ("version: 1\nrules: [{name: none_such, enabled: false}]\n", "there is none"),
        ("version: 1\nrules: [{name: kl, enabled: false, above: 1}]\n", "leave its other keys out"),
        ("version: 1\nrules: [{name: a, metric: kl, above: 1}, {name: a, metric: kl, above: 2}]\n", "two rules"),
        ("version: 1\nrules: [{name: a, metric: 3, above: 1}]\n", "name a column"),
        ("a: [", "cannot read"),
        ("x: !!python/object/apply:os.getcwd []\n", "cannot read"),
    ],
)
def test_a_file_that_is_no_rules_file_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(AlertError, match=said):
        load_rules(rules_file(tmp_path, text))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(AlertError, match=r"none\.yaml"):
        load_rules(tmp_path / "none.yaml")


def test_a_rule_may_name_only_a_registered_hook(tmp_path: Path) -> None:
    rules = load_rules(one_rule(tmp_path, "above: 1, action: hook, hook: wake_me"))
    with pytest.raises(AlertError, match="no alert hook 'wake_me' is registered"):
        hooks_of(rules)
    register_alert_hook("wake_me", print)
    assert hooks_of(rules) == {"wake_me": print}


def test_a_plugin_registers_hooks_by_its_own_door(tmp_path: Path) -> None:
    from mx_plugin import plugins
    from mx_plugin.hookspecs import hookimpl

    heard: list[object] = []

    class Pager:
        MX_PLUGIN_INTERFACE = (1, 0)

        @hookimpl
        def mx_register_alert_hooks(self, register: object) -> None:
            register("pager", lambda: heard.append, summary="rings")  # type: ignore[operator]

    plugins.register(Pager())
    try:
        found = hooks_of(load_rules(one_rule(tmp_path, "above: 1, action: hook, hook: pager")))
        found["pager"]("alert")  # type: ignore[arg-type]
        assert heard == ["alert"]
    finally:
        plugins.reset()


def test_what_is_registered_must_be_a_function_with_a_plain_name() -> None:
    with pytest.raises(AlertError, match="register a function"):
        register_alert_hook("page", "os.system")  # type: ignore[arg-type]
    with pytest.raises(AlertError, match="use letters"):
        register_alert_hook("os.system", print)
