"""The installed distribution: what it declares exists, and each fact is stated once."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import distribution, entry_points
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

import mx_plugin

NAME = "mx-plugin"


@pytest.fixture(scope="module")
def pyproject(repository: Path) -> dict[str, Any]:
    return tomllib.loads((repository / "pyproject.toml").read_text())


def package_names(pyproject: dict[str, Any]) -> list[str]:
    """Import names of the packages that the wheel carries."""
    return [Path(path).name for path in pyproject["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]]


def python_files(repository: Path) -> list[Path]:
    """Every Python file of the project."""
    folders = ("mx_plugin", "adapters", "hardware", "examples", "tests", ".ci")
    return [path for folder in folders for path in sorted((repository / folder).rglob("*.py"))]


def test_every_entry_point_can_be_loaded() -> None:
    points = list(distribution(NAME).entry_points)
    assert {"mx_plugin", "console_scripts"} <= {point.group for point in points}
    for point in points:
        assert point.load() is not None


def test_all_of_ours_register_through_the_public_group(pyproject: dict[str, Any]) -> None:
    modules = {point.value.split(".")[0] for point in entry_points(group="mx_plugin") if point.dist.name == NAME}
    shared = {"mx_vllm"}  # between adapters: it has nothing to register
    assert modules == set(package_names(pyproject)) - shared


def test_the_installed_entry_points_are_those_of_pyproject(pyproject: dict[str, Any]) -> None:
    installed = {point.name: point.value for point in entry_points(group="mx_plugin") if point.dist.name == NAME}
    assert installed == pyproject["project"]["entry-points"]["mx_plugin"], "run `make env`: the metadata are old"


def test_the_version_is_stated_once(pyproject: dict[str, Any], repository: Path) -> None:
    assert distribution(NAME).version == mx_plugin.__version__
    assert "version" in pyproject["project"]["dynamic"] and "version" not in pyproject["project"]
    statements = [p for p in python_files(repository) if re.search(r"^__version__\s*=", p.read_text(), re.M)]
    assert [p.relative_to(repository).as_posix() for p in statements] == ["mx_plugin/_version.py"]


def test_every_package_is_marked_as_typed(pyproject: dict[str, Any]) -> None:
    for package in package_names(pyproject):
        assert (files(package) / "py.typed").is_file(), package


def test_every_package_of_a_source_root_is_shipped_and_checked(pyproject: dict[str, Any], repository: Path) -> None:
    roots = [p.parent.name for p in sorted(repository.glob("adapters/*/__init__.py"))]
    roots += [p.parent.name for p in sorted(repository.glob("hardware/*/__init__.py"))]
    assert set(package_names(pyproject)) == {"mx_plugin", *roots}
    assert set(pyproject["tool"]["importlinter"]["root_packages"]) == {"mx_plugin", *roots}


def test_source_roots_are_no_packages_themselves(repository: Path) -> None:
    assert not (repository / "adapters" / "__init__.py").exists()
    assert not (repository / "hardware" / "__init__.py").exists()


def test_both_lines_of_trl_are_pinned_within_their_extras(repository: Path, pyproject: dict[str, Any]) -> None:
    from packaging.requirements import Requirement

    extras = pyproject["project"]["optional-dependencies"]
    for line in ("ppo", "trl"):
        pin = re.search(r"^trl==(\S+)$", (repository / "requirements" / f"{line}.txt").read_text(), re.M)
        assert pin is not None
        wanted = next(r for r in map(Requirement, extras[line]) if r.name == "trl")
        assert pin[1] in wanted.specifier


def test_no_file_has_grown_past_450_lines(repository: Path) -> None:
    lengths = {p.relative_to(repository): len(p.read_text().splitlines()) for p in python_files(repository)}
    assert len(lengths) > 20
    assert {path: n for path, n in lengths.items() if n > 450} == {}


def test_the_changelog_has_a_place_for_what_is_not_released(repository: Path) -> None:
    headings = re.findall(r"^## (.+)$", (repository / "CHANGELOG.md").read_text(), re.M)
    assert headings[0] == "[Unreleased]"


def test_the_wheel_carries_the_licence(repository: Path) -> None:
    metadata = distribution(NAME).metadata
    assert metadata["License-Expression"] == "MIT"
    assert metadata.get_all("License-File") == ["LICENSE"]
    assert (repository / "LICENSE").read_text().startswith("MIT License")
