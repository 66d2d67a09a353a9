"""Which plugins are found, in which order, and what the environment keeps out before it is imported."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest


def test_our_own_plugins_come_through_the_entry_points(site: Any) -> None:
    report = site.report()
    assert {"core", "mx_cpu", "mx_trl"} <= set(report)
    assert all(record["status"] == "ok" for record in report.values())
    assert report["core"]["distribution"] == "mx-plugin"
    assert report["core"]["registered"]["meters"] == ["modelled", "zeus"]
    assert report["mx_cpu"]["registered"]["backends"] == ["cpu", "reference"]


def test_a_third_partys_backend_stands_beside_ours(site: Any) -> None:
    site.install("third")
    record = site.report()["third"]
    assert (record["status"], record["distribution"], record["version"]) == ("ok", "third-dist", "2.5")
    assert record["registered"] == {"backends": ["third"]}
    done = site.python("-c", "import mx_plugin; print(mx_plugin.get_backend('third').capabilities.formats[0])")
    assert done.stdout.strip() == "MXFP8", done.stderr


def test_importing_mx_plugin_loads_no_plugin_and_no_torch(site: Any) -> None:
    site.install("third")
    done = site.python("-c", "import sys, mx_plugin; print('torch' in sys.modules, 'pluggy' in sys.modules)")
    assert done.stdout.split()[0] == "False", done.stderr
    assert not site.imported("third")


def test_loading_every_plugin_imports_no_torch_and_no_framework(site: Any) -> None:
    site.install("third")
    code = (
        "import sys; from mx_plugin import plugins\n"
        "report = plugins.plugin_report()\n"
        "assert len(report) >= 4 and all(r.status == 'ok' for r in report), report\n"
        "heavy = {'torch', 'numpy', 'transformers', 'trl', 'accelerate', 'zeus', 'serial'} & set(sys.modules)\n"
        "print('heavy:', sorted(heavy))"
    )
    done = site.python("-c", code)
    assert done.stdout.strip() == "heavy: []", done.stderr
    assert site.imported("third")


def test_the_allow_list_acts_before_import_and_lets_the_core_in(site: Any) -> None:
    site.install("wanted")
    site.install("unwanted")
    report = site.report(MX_PLUGIN_LOAD="wanted, mx_cpu")
    statuses = {name: record["status"] for name, record in report.items()}
    assert statuses == {
        "core": "ok",
        "mx_cpu": "ok",
        "mx_cuda": "disabled",
        "mx_trl": "disabled",
        "mx_fpga": "disabled",
        "mx_openrlhf": "disabled",
        "wanted": "ok",
        "unwanted": "disabled",
    }
    assert "MX_PLUGIN_LOAD" in report["unwanted"]["error"]
    assert site.imported("wanted")
    assert not site.imported("unwanted")


def test_the_deny_list_acts_before_import_and_wins(site: Any) -> None:
    site.install("unwanted")
    report = site.report(MX_PLUGIN_LOAD="unwanted", MX_PLUGIN_DISABLE="unwanted")
    assert report["unwanted"]["status"] == "disabled"
    assert "MX_PLUGIN_DISABLE" in report["unwanted"]["error"]
    assert not site.imported("unwanted")


def test_an_empty_list_is_no_list(site: Any) -> None:
    site.install("third")
    assert site.report(MX_PLUGIN_LOAD="", MX_PLUGIN_DISABLE=" , ")["third"]["status"] == "ok"


def test_a_name_in_the_lists_that_is_not_installed_is_pointed_out(site: Any) -> None:
    done = site.mx_plugin("plugins", MX_PLUGIN_DISABLE="mx_cpuu")
    assert "MX_PLUGIN_DISABLE names 'mx_cpuu', which is not installed: did you mean 'mx_cpu'?" in done.stderr


def test_a_disabled_plugin_is_named_when_its_backend_is_asked_for(site: Any) -> None:
    done = site.python("-c", "import mx_plugin; mx_plugin.get_backend('cpu')", MX_PLUGIN_DISABLE="mx_cpu")
    assert "Valid: cuda, fpga, noise. Disabled: mx_cpu (named in MX_PLUGIN_DISABLE)." in done.stderr


def test_even_the_core_can_be_disabled(site: Any) -> None:
    done = site.mx_plugin("doctor", MX_PLUGIN_DISABLE="core")
    assert done.returncode == 2
    assert "unknown command 'doctor'" in done.stderr
    assert "Disabled: core" in done.stderr


def test_trace_prints_each_import_and_each_hook_call(site: Any) -> None:
    site.install("third")
    done = site.mx_plugin("plugins", MX_PLUGIN_TRACE="1")
    assert "mx_plugin trace: import third (third)" in done.stderr
    assert "mx_plugin trace: mx_register_backends of third" in done.stderr
    assert "trace" not in site.mx_plugin("plugins", MX_PLUGIN_TRACE="0").stderr


@pytest.mark.parametrize("text", ["[mx_plugin]\nno equals sign\n", "[mx_plugin\n"], ids=["no_value", "no_bracket"])
def test_malformed_metadata_of_one_distribution_hides_no_other(site: Any, text: str) -> None:
    site.install("third")
    site.dist_info("malformed", text)
    report = site.report()
    assert report["third"]["status"] == "ok"
    assert report["core"]["status"] == "ok"


def test_a_distribution_without_its_metadata_file_still_works(site: Any) -> None:
    site.install("third")
    next(site.folder.glob("*.dist-info/METADATA")).unlink()
    record = site.report()["third"]
    assert record["status"] == "ok"
    assert record["distribution"].startswith("unnamed distribution")


def test_a_second_copy_of_a_distribution_on_the_path_is_shadowed(site: Any, tmp_path: Path) -> None:
    site.install("third")
    second = tmp_path / "second"
    second.mkdir()
    (second / "third_dist-2.5.dist-info").mkdir()
    for name in ("METADATA", "entry_points.txt"):
        text = (site.folder / "third_dist-2.5.dist-info" / name).read_text("utf-8")
        (second / "third_dist-2.5.dist-info" / name).write_text(text, "utf-8")
    done = site.mx_plugin("plugins", PYTHONPATH=os.pathsep.join([str(site.folder), str(second)]))
    assert done.stdout.count("third  [ok]") == 1
    assert done.stderr == ""
