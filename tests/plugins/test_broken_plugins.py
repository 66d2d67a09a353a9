"""Plugins broken on purpose: each is reported with its cause, and all others still work."""

from __future__ import annotations

import json
from typing import Any

import pytest

RAISES_ON_IMPORT = "raise ImportError('libboard.so: cannot open')\n"

EXITS_ON_IMPORT = "import sys\nsys.exit('this plugin gives up')\n"

RAISES_IN_HOOK = """
    from mx_plugin import hookimpl

    @hookimpl
    def mx_register_backends(register):
        register("half", dict)
        raise ValueError("no board on the bus")

    @hookimpl
    def mx_register_meters(register):
        register("its_meter", dict)
"""

OTHER_MAJOR = """
    from mx_plugin import hookimpl

    MX_PLUGIN_INTERFACE = (9, 0)

    @hookimpl
    def mx_register_backends(register):
        register("future", dict)
"""

UNKNOWN_HOOK = """
    from mx_plugin import hookimpl

    @hookimpl
    def mx_register_backend(register):
        register("typo", dict)
"""

WRONG_ARGUMENT = """
    from mx_plugin import hookimpl

    @hookimpl
    def mx_register_backends(registry):
        registry("x", dict)
"""

CASES = {
    "raises_on_import": (RAISES_ON_IMPORT, "broken", "import: ImportError: libboard.so: cannot open"),
    "exits_on_import": (EXITS_ON_IMPORT, "broken", "import: SystemExit: this plugin gives up"),
    "syntax": ("def :\n", "broken", "import: SyntaxError"),
    "raises_in_hook": (RAISES_IN_HOOK, "broken", "mx_register_backends: ValueError: no board on the bus"),
    "other_major": (OTHER_MAJOR, "refused", "written for interface 9.0, this mx-plugin has 1.0: upgrade mx-plugin"),
    "unknown_hook": (UNKNOWN_HOOK, "broken", "'mx_register_backend': did you mean 'mx_register_backends'?"),
    "wrong_argument": (WRONG_ARGUMENT, "broken", "registry"),
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_reported_and_the_others_work(site: Any, case: str) -> None:
    source, status, error = CASES[case]
    site.install("aaa_bad", source)
    site.install("zzz_good")
    report = site.report()
    assert report["aaa_bad"]["status"] == status
    assert error in report["aaa_bad"]["error"]
    assert {name for name, record in report.items() if record["status"] == "ok"} >= {"core", "mx_cpu", "zzz_good"}
    assert report["zzz_good"]["registered"] == {"backends": ["zzz_good"]}


def test_a_plugin_whose_module_does_not_exist_is_broken(site: Any) -> None:
    site.install("gone", entry="no_such_module_here")
    assert "No module named 'no_such_module_here'" in site.report()["gone"]["error"]


def test_a_plugin_whose_object_does_not_exist_is_broken(site: Any) -> None:
    site.install("gone", entry="gone:Plugin")
    assert "has no attribute 'Plugin'" in site.report()["gone"]["error"]


def test_the_traceback_is_kept_and_shown_on_request(site: Any) -> None:
    site.install("bad", RAISES_ON_IMPORT)
    assert "bad.py" in site.report()["bad"]["traceback"]
    done = site.mx_plugin("plugins", "--traceback")
    assert "| ImportError: libboard.so: cannot open" in done.stdout


def test_a_hook_that_raises_leaves_nothing_half_registered_but_other_hooks_count(site: Any) -> None:
    site.install("bad", RAISES_IN_HOOK)
    assert site.report()["bad"]["registered"] == {"meters": ["its_meter"]}


def test_asking_for_what_a_broken_plugin_would_provide_names_it(site: Any) -> None:
    site.install("bad", RAISES_IN_HOOK)
    done = site.python("-c", "import mx_plugin; mx_plugin.get_backend('half')")
    assert "unknown backend 'half'" in done.stderr
    assert "plugin bad of bad-dist 2.5 (broken: mx_register_backends: ValueError: no board on the bus)" in done.stderr


def test_a_broken_plugin_is_logged_once_when_it_is_met(site: Any) -> None:
    site.install("bad", RAISES_ON_IMPORT)
    done = site.python("-c", "import mx_plugin; [mx_plugin.get_backend('cpu') for _ in range(2)]")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("plugin bad of bad-dist 2.5 is broken, others still work") == 1


FAULTY = """
    from mx_plugin import hookimpl

    @hookimpl
    def mx_register_backends(register):
        register("faulty", make)
        register("absent", absent)

    @hookimpl
    def mx_register_checks(register):
        register(check)

    def make():
        raise KeyError("a defect")

    def absent():
        from mx_plugin.errors import PluginError
        raise PluginError("no accelerator on this machine: plug one in")

    def check():
        print("a plugin that prints")
        return ["not a check"]
"""


def test_doctor_names_what_is_broken_and_exits_1(site: Any) -> None:
    site.install("bad_import", RAISES_ON_IMPORT)
    site.install("bad_version", OTHER_MAJOR)
    site.install("bad_factory", FAULTY)
    done = site.mx_plugin("doctor", "--json")
    assert done.returncode == 1
    report = json.loads(done.stdout)
    checks = {check["name"]: check for check in report["checks"]}
    assert report["ok"] is False
    missing = {name for name, check in checks.items() if check["status"] == "missing"}
    assert missing == {"plugin bad_import", "plugin bad_version", "plugin bad_factory", "backend faulty"}
    assert all(checks[name]["remedy"] and checks[name]["detail"] for name in missing)
    assert "KeyError: 'a defect'" in checks["backend faulty"]["detail"]
    assert "MX_PLUGIN_DISABLE=bad_import" in checks["plugin bad_import"]["remedy"]
    assert checks["backend cpu"]["status"] == checks["plugin core"]["status"] == "ok"
    assert "a plugin that prints" in done.stderr


def test_what_a_factory_says_is_absent_is_a_warning_not_a_fault(site: Any) -> None:
    site.install(
        "optional", FAULTY.replace('register("faulty", make)', "").replace('return ["not a check"]', "return []")
    )
    done = site.mx_plugin("doctor")
    assert done.returncode == 0, done.stdout
    line = next(line for line in done.stdout.splitlines() if "backend absent" in line)
    assert line.startswith("warn")
    assert "no accelerator on this machine: plug one in" in line


def test_without_torch_doctor_says_so_instead_of_failing(site: Any) -> None:
    (site.folder / "torch.py").write_text("raise ImportError('libtorch.so is gone')\n", "utf-8")
    done = site.mx_plugin("doctor", "--json")
    assert done.returncode == 1
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert checks["torch"]["status"] == "missing"
    assert "libtorch.so is gone" in checks["torch"]["detail"]
    assert "pip install" in checks["torch"]["remedy"]
    assert checks["backends, meters"]["status"] == "missing"
