"""``mx-plugin conformance NAME``: what it prints, its JSON, and its exit status."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from mx_plugin import hookimpl, plugins
from mx_plugin.cli import main
from mx_plugin.testing import BACKEND, Level, Suite
from tests.conformance.broken.meters import Measuring, Nameless
from tests.conformance.broken.sound import Multiplying

Capture = pytest.CaptureFixture[str]


class Installed:
    """A plugin with meters ``sound`` and ``nameless``, a backend ``sound`` too, and a meter that prints."""

    @hookimpl
    def mx_register_meters(self, register: Any) -> None:
        register("sound", Measuring)
        register("nameless", Nameless)
        register("talking", _talking)
        register("fussy", _fussy)

    @hookimpl
    def mx_register_backends(self, register: Any) -> None:
        register("sound", Multiplying)


def _talking() -> Measuring:
    print("hello from the plugin")
    return Measuring()


def _fussy(*, watts: int) -> Measuring:
    return Measuring()


@pytest.fixture(autouse=True)
def installed() -> Iterator[None]:
    plugins.reset()
    plugins.register(Installed())
    yield
    plugins.reset()


def test_a_plugin_that_conforms_gives_status_0_and_a_line_for_each_check(capsys: Capture) -> None:
    assert main(["conformance", "sound", "--kind", "meter", "--level", "loads"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "loads"
    assert lines[1].split(maxsplit=2) == ["ok", "is_a_meter", "make() returns a mx_plugin.interfaces.Meter."]
    assert lines[-1] == "meter sound: 5 passed"


def test_a_broken_plugin_gives_status_1_and_its_level_is_named(capsys: Capture) -> None:
    assert main(["conformance", "nameless", "--level", "loads"]) == 1
    lines = capsys.readouterr().out.splitlines()
    (failed,) = [line for line in lines if "FAILED" in line]
    assert failed.split()[:2] == ["FAILED", "says_its_name"]
    assert "level loads, check says_its_name: its name is '?'" in failed
    assert lines[-1] == "meter nameless: 4 passed, 1 failed"


def test_every_level_of_the_kind_is_run_lowest_first_and_adapters_come_last(capsys: Capture) -> None:
    assert main(["conformance", "sound", "--kind", "meter"]) == 0
    out = capsys.readouterr().out
    levels = [line for line in out.splitlines() if line and not line.startswith((" ", "meter sound"))]
    assert levels == ["loads", "reads", "windows", "estimates", "closes", "trl"]


def test_json_holds_every_check_with_its_level_and_nothing_else_is_on_stdout(capsys: Capture) -> None:
    assert main(["conformance", "nameless", "--level", "loads", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert {key: told[key] for key in ("name", "kind", "ok")} == {"name": "nameless", "kind": "meter", "ok": False}
    assert {frozenset(check) for check in told["checks"]} == {
        frozenset({"level", "check", "demand", "status", "message", "seconds"})
    }
    status = {check["check"]: check["status"] for check in told["checks"]}
    assert status == {
        "is_a_meter": "passed",
        "interface_version": "passed",
        "says_its_name": "failed",
        "describes_itself": "passed",
        "declares_its_scope": "passed",
    }
    (message,) = [check["message"] for check in told["checks"] if check["status"] == "failed"]
    assert message.startswith("level loads, check says_its_name: ")


def test_what_a_plugin_prints_does_not_spoil_the_json(capsys: Capture) -> None:
    assert main(["conformance", "talking", "--level", "loads", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["ok"] is True
    assert "hello from the plugin" in captured.err


def test_a_check_that_does_not_apply_fails_nothing_and_says_why(capsys: Capture) -> None:
    assert main(["conformance", "sound", "--kind", "meter", "--level", "estimates", "--json"]) == 0
    checks = json.loads(capsys.readouterr().out)["checks"]
    assert {check["status"] for check in checks} == {"does not apply"}
    assert {check["message"] for check in checks} == {"this meter only measures: estimate returned None"}


@pytest.mark.parametrize("kind", ["backend", "meter", "provider"])
def test_without_trl_its_level_is_skipped_with_the_remedy(
    kind: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Narrow:
        @hookimpl
        def mx_register_providers(self, register: Any) -> None:
            from tests.conformance.broken.providers import Sound

            register("sound", Sound)

    plugins.register(Narrow())
    monkeypatch.setitem(sys.modules, "trl", None)
    assert main(["conformance", "sound", "--kind", kind, "--level", "trl", "--json"]) == 0
    checks = json.loads(capsys.readouterr().out)["checks"]
    assert {(check["level"], check["status"]) for check in checks} == {("trl", "does not apply")}
    assert all("trl is not installed: pip install" in check["message"] for check in checks)


def test_an_unknown_name_gives_status_2_and_the_nearest(capsys: Capture) -> None:
    assert main(["conformance", "sond"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "is named 'sond': did you mean 'sound'?" in captured.err


def test_a_name_of_two_kinds_asks_for_one(capsys: Capture) -> None:
    assert main(["conformance", "sound"]) == 2
    assert "'sound' is the name of a backend and of a meter: choose by --kind backend" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["sound", "--kind", "metre"], "unknown kind 'metre': did you mean 'meter'?"),
        (["nameless", "--level", "readz"], "no level 'readz': did you mean 'reads'?"),
        (["fussy"], "watts"),
        (["fussy", "watts"], "'watts' is not OPTION=VALUE"),
    ],
)
def test_a_wrong_command_gives_status_2_and_runs_nothing(words: list[str], told: str, capsys: Capture) -> None:
    assert main(["conformance", *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert told in captured.err


def test_options_reach_the_plugin(capsys: Capture) -> None:
    assert main(["conformance", "fussy", "watts=3", "--level", "loads"]) == 0
    assert "meter fussy: 5 passed" in capsys.readouterr().out


def test_a_level_that_a_plugin_adds_is_run_after_the_others(capsys: Capture) -> None:
    extra = Level("meter", "extra", "one more", BACKEND.levels[0].trial.__mro__[1])

    @extra.check
    def is_there(trial: Any) -> None:
        """It can be made."""
        assert trial.plugin

    class Adding:
        @hookimpl
        def mx_register_conformance(self, register: Any) -> None:
            register("meter-extra", lambda: Suite("meter", (extra,), plugins.meters, plugins.get_meter))

    plugins.register(Adding())
    assert main(["conformance", "nameless", "--level", "extra"]) == 0
    assert "is_there" in capsys.readouterr().out
