"""``mx-plugin new``: what it writes works and passes its own tests; what it refuses, it refuses with the remedy."""

from __future__ import annotations

import tomllib
from pathlib import Path
from xml.etree import ElementTree

import pytest

from mx_plugin.cli import main
from mx_plugin.hookspecs import INTERFACE_VERSION
from mx_plugin.scaffold import KINDS
from tests.plugins.written import own_tests, python, write

pytestmark = pytest.mark.usefixtures("fresh_plugins")

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def of_each_kind(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("new")
    return [write(kind, f"acme-{kind}", folder) for kind in KINDS]


def test_what_it_writes_passes_its_own_tests(of_each_kind: list[Path], tmp_path: Path) -> None:
    done = own_tests(*of_each_kind, options=[f"--junitxml={tmp_path / 'report.xml'}"])
    assert done.returncode == 0, done.stdout + done.stderr
    cases = ElementTree.parse(tmp_path / "report.xml").iter("testcase")
    passed = [f"{case.get('classname')} {case.get('name')}" for case in cases if not list(case)]
    for kind in KINDS:
        kit = [place for place in passed if f"acme-{kind}-mx" in place and "test_conforms[loads-" in place]
        assert kit, f"no test of the kit passed for the {kind}: {passed}"


def test_what_it_writes_is_found_and_works(of_each_kind: list[Path]) -> None:
    listed = python("-m", "mx_plugin", "plugins", path=of_each_kind, cwd=of_each_kind[0]).stdout
    for kind in KINDS:
        assert f"acme-{kind}  [ok]  acme-{kind}-mx 0.1.0\n    {kind}s: acme-{kind}\n" in listed


@pytest.mark.parametrize("kind", KINDS)
def test_the_project_names_its_entry_point_and_dependency_and_the_plugin_its_interface(
    kind: str, tmp_path: Path, capsys: Capture
) -> None:
    assert main(["new", kind, "Acme_2", "--output", str(tmp_path / "some" / "where")]) == 0
    folder = tmp_path / "some" / "where" / "acme-2-mx"
    assert f"{folder}: a {kind} named Acme_2" in capsys.readouterr().out
    project = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["name"] == "acme-2-mx"
    assert project["dependencies"] == ["mx-plugin"]
    assert project["entry-points"]["mx_plugin"] == {"Acme_2": "acme_2_mx.plugin"}
    plugin = (folder / "src" / "acme_2_mx" / "plugin.py").read_text("utf-8")
    assert f"MX_PLUGIN_INTERFACE = {INTERFACE_VERSION}\n" in plugin
    for file in folder.rglob("*"):
        assert "$" not in (file.read_text("utf-8") if file.is_file() else ""), f"{file} has a word left to fill in"


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["backend", "ac me"], "can be no project's name: write letters, digits"),
        (["backend", "-acme-"], "expected one argument|the following arguments are required|no project's name"),
        (["backend", "acmé"], "can be no project's name"),
        (["backend", "a.b"], "can be no project's name"),
        (["backend", "3com"], "begin it with a letter, e.g. x3com"),
        (["backend", "cpu"], "is taken by the backend of plugin mx_cpu of mx-plugin"),
        (["board", "sim"], "is taken by the board of plugin mx_fpga"),
        (["meter", "zeus"], "is taken by the meter of plugin core"),
        (["provider", "c8"], "would hide the built-in policy"),
        (["engine", "acme"], "invalid choice: 'engine'"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_a_name_that_cannot_be_is_refused_and_nothing_is_written(
    arguments: list[str], why: str, tmp_path: Path, capsys: Capture
) -> None:
    assert main(["new", *arguments, "--output", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert any(part in err for part in why.split("|")), err
    assert list(tmp_path.iterdir()) == []


def test_a_name_whose_module_exists_is_refused(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "acme_mx.py").write_text("", "utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main(["new", "meter", "acme", "--output", str(tmp_path / "new")]) == 2
    assert "a module 'acme_mx' exists already" in capsys.readouterr().err


def test_a_name_whose_distribution_is_installed_is_refused(tmp_path: Path) -> None:
    package = write("meter", "acme", tmp_path)
    command = ["-m", "mx_plugin", "new", "backend", "acme", "--output", str(tmp_path / "new")]
    done = python(*command, path=[package], cwd=tmp_path)
    assert done.returncode == 2
    assert "acme-mx 0.1.0 is installed already: choose another name, or pip uninstall acme-mx" in done.stderr


def test_an_existing_folder_is_left_as_it_is(tmp_path: Path, capsys: Capture) -> None:
    kept = tmp_path / "acme-mx" / "mine.txt"
    kept.parent.mkdir()
    kept.write_text("mine", "utf-8")
    assert main(["new", "backend", "acme", "--output", str(tmp_path)]) == 2
    assert "exists and is left as it is: move it away, or choose --output DIR" in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("*")] == ["acme-mx", "mine.txt"]


def test_a_folder_that_cannot_be_written_is_one_message(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "file").write_text("", "utf-8")
    assert main(["new", "backend", "acme", "--output", str(tmp_path / "file" / "below")]) == 2
    assert "cannot be written" in capsys.readouterr().err
