"""The command ``mx-plugin``: what it prints, on which stream, and its exit status."""

from __future__ import annotations

import argparse
import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from mx_plugin import __version__, hookimpl, plugins
from mx_plugin.cli import main
from mx_plugin.cli.core_checks import EXTRAS
from mx_plugin.errors import PolicyError

pytestmark = pytest.mark.usefixtures("fresh_plugins")

Capture = pytest.CaptureFixture[str]


class Commands:
    """A plugin with one command, ``echo TEXT``, whose run does what the test wants."""

    def __init__(self, run: Any) -> None:
        self.run = run

    @hookimpl
    def mx_register_commands(self, register: Any) -> None:
        register("echo", lambda parser: parser.add_argument("text"), self.run, summary="say it again")


def test_version_needs_no_plugin(capsys: Capture) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"mx-plugin {__version__}\n"


def test_help_lists_the_commands_of_every_plugin(capsys: Capture) -> None:
    plugins.register(Commands(lambda arguments: 0))
    assert main(["--help"]) == 0
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert ["echo", "say it again"] in lines
    assert {"doctor", "plugins", "policy", "report"} <= {line[0] for line in lines if line}


def test_no_command_prints_help_to_stderr_and_fails(capsys: Capture) -> None:
    assert main([]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "usage: mx-plugin" in captured.err


def test_an_unknown_command_names_the_nearest(capsys: Capture) -> None:
    assert main(["docter"]) == 2
    err = capsys.readouterr().err
    assert "unknown command 'docter': did you mean 'doctor'? Valid: bench, conformance, dashboard, doctor, " in err
    assert "policy" in err  # adapters and boards bring commands of their own


def test_an_unknown_option_fails_as_argparse_has_it(capsys: Capture) -> None:
    assert main(["plugins", "--jsn"]) == 2
    assert "usage: mx-plugin plugins" in capsys.readouterr().err


def test_a_plugins_command_gets_its_arguments_and_gives_the_status(capsys: Capture) -> None:
    def run(arguments: argparse.Namespace) -> int:
        print(arguments.text)
        return 7

    plugins.register(Commands(run))
    assert main(["echo", "again"]) == 7
    assert capsys.readouterr().out == "again\n"


def test_an_expected_error_is_one_message_without_traceback(capsys: Capture) -> None:
    def run(arguments: argparse.Namespace) -> int:
        raise PolicyError("no such phase")

    plugins.register(Commands(run))
    assert main(["echo", "x"]) == 2
    assert capsys.readouterr().err == "mx-plugin: error: no such phase\n"


def test_a_defect_keeps_its_traceback() -> None:
    def run(arguments: argparse.Namespace) -> int:
        raise KeyError("defect")

    plugins.register(Commands(run))
    with pytest.raises(KeyError):
        main(["echo", "x"])


def test_a_reader_that_goes_away_is_no_error(site: Any) -> None:
    code = "import sys; from mx_plugin.cli import main; sys.stdin.readline(); sys.exit(main(['plugins']))"
    done = site.python(
        "-c",
        f"import subprocess, sys\n"
        f"p = subprocess.Popen([sys.executable, '-c', {code!r}], stdin=-1, stdout=-1, stderr=-1)\n"
        "p.stdout.close(); p.stdin.write(b'go\\n'); p.stdin.close()\n"
        "print(p.stderr.read().decode() or 'quiet', p.wait())",
    )
    assert done.stdout.split() == ["quiet", "1"], done.stdout + done.stderr


# ---------------------------------------------------------------------------- plugins, doctor


def test_plugins_as_json_is_only_json_whatever_plugins_print(site: Any) -> None:
    site.install("chatty", "print('hello from a plugin')\n")
    done = site.mx_plugin("plugins", "--json")
    report = json.loads(done.stdout)
    assert report["version"] == __version__
    assert report["interface"] == [1, 0]
    assert {"name", "distribution", "version", "status", "error", "traceback", "notes", "registered"} == set(
        report["plugins"][0]
    )
    assert "hello from a plugin" in done.stderr


def test_plugins_shows_each_with_status_and_what_it_registered(capsys: Capture) -> None:
    assert main(["plugins"]) == 0
    out = capsys.readouterr().out
    assert f"mx_cpu  [ok]  mx-plugin {__version__}\n    commands: bench\n    backends: cpu, reference" in out


def test_doctor_is_content_here_and_covers_every_backend_and_meter(capsys: Capture) -> None:
    assert main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    checks = {check["name"]: check for check in report["checks"]}
    assert report["ok"] is True
    for name in ("python", "torch", "numpy", "pluggy", "pyyaml", "mx_cpu implementation", "mx_cpu threads"):
        assert checks[name]["status"] == "ok", checks[name]
    assert {f"backend {name}" for name in plugins.backends()} <= set(checks)
    assert {f"meter {name}" for name in plugins.meters()} <= set(checks)
    assert {f"extra {name}" for name in EXTRAS} <= set(checks)
    assert all(check["remedy"] for check in report["checks"] if check["status"] != "ok")


def test_doctor_as_text_aligns_and_sums_up(capsys: Capture) -> None:
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(line.split()[0] in ("ok", "warn", "remedy:") for line in lines[:-1])
    assert "0 missing" in lines[-1]


def test_an_extra_that_is_not_installed_is_a_warning_with_its_pip_line(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setitem(EXTRAS, "energy", ("no-such-distribution", "no joules"))
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "no-such-distribution is not installed: no joules" in out
    assert "remedy: pip install 'mx-plugin[energy]'" in out


def test_the_extras_that_doctor_knows_are_those_of_pyproject(repository: Path) -> None:
    declared = tomllib.loads((repository / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    for extra, (distribution, _) in EXTRAS.items():
        assert distribution in declared[extra]


# ---------------------------------------------------------------------------- policy show


@pytest.mark.parametrize("name", ["A", "B", "C", "C8", "c8"])
def test_policy_show_prints_yaml_that_reads_back_as_the_policy(name: str, capsys: Capture, tmp_path: Path) -> None:
    assert main(["policy", "show", name]) == 0
    shown = capsys.readouterr().out
    assert yaml.safe_load(shown)["name"] == name.upper()
    copy = tmp_path / "copy.yaml"
    copy.write_text(shown, "utf-8")
    assert main(["policy", "show", str(copy)]) == 0
    assert capsys.readouterr().out == shown


def test_policy_d_takes_its_matrix_and_limit(tmp_path: Path, capsys: Capture) -> None:
    matrix = tmp_path / "matrix.csv"
    matrix.write_text(
        "layer,phase,role,format,cost,metric,unit\n"
        "model.layers.0.mlp.up_proj,rollout,policy,MXFP4,0.5,kl,nats\n"
        "model.layers.0.mlp.up_proj,rollout,policy,MXFP8,0.01,kl,nats\n",
        "utf-8",
    )
    assert main(["policy", "show", "D", "--sensitivity-matrix", str(matrix), "--max-cost", "0.1"]) == 0
    assert "MXFP8" in str(yaml.safe_load(capsys.readouterr().out)["rules"])


@pytest.mark.parametrize("arguments", [["E"], ["no/such/file.yaml"], ["D"]], ids=["name", "file", "no_matrix"])
def test_a_policy_that_cannot_be_shown_is_one_message(arguments: list[str], capsys: Capture) -> None:
    assert main(["policy", "show", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("mx-plugin: error: ")
    assert "Traceback" not in captured.err
