"""Patches are applied once, right after a module was first imported, and nothing is imported for their sake."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from mx_openrlhf.import_patch import ImportPatcher


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A package with two modules; the second reads a name of the first."""
    name = "patched_package"
    folder = tmp_path / name
    folder.mkdir()
    (folder / "__init__.py").write_text("imported = []")
    (folder / "first.py").write_text("value = 1\ndef late():\n    return value\n")
    (folder / "second.py").write_text(f"from {name}.first import value\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield name
    for module in [m for m in sys.modules if m.partition(".")[0] == name]:
        del sys.modules[module]


@pytest.fixture
def patcher(package: str) -> Iterator[ImportPatcher]:
    def double(module: ModuleType) -> None:
        module.value *= 2  # type: ignore[attr-defined]

    made = ImportPatcher({f"{package}.first": double, f"{package}.never": double})
    yield made
    made.uninstall()


def test_importers_see_the_patched_name(package: str, patcher: ImportPatcher) -> None:
    patcher.install()
    assert f"{package}.first" not in sys.modules
    second = importlib.import_module(f"{package}.second")
    assert second.value == 2
    assert patcher.applied == [f"{package}.first"] and patcher.pending == [f"{package}.never"]


def test_a_module_that_is_there_already_is_patched_once(package: str, patcher: ImportPatcher) -> None:
    first = importlib.import_module(f"{package}.first")
    patcher.install().install()
    importlib.import_module(f"{package}.second")
    assert first.value == 2 and sys.meta_path.count(patcher) == 1


def test_what_a_patch_raises_reaches_the_import_statement(package: str) -> None:
    def fail(module: ModuleType) -> None:
        raise LookupError("not what was expected")

    patcher = ImportPatcher({f"{package}.first": fail}).install()
    try:
        with pytest.raises(LookupError, match="not what was expected"):
            importlib.import_module(f"{package}.second")
    finally:
        patcher.uninstall()


def test_nothing_is_patched_after_uninstall(package: str, patcher: ImportPatcher) -> None:
    patcher.install()
    patcher.uninstall()
    assert importlib.import_module(f"{package}.first").value == 1
    assert patcher not in sys.meta_path


def test_source_and_spec_are_those_of_the_module(package: str, patcher: ImportPatcher) -> None:
    patcher.install()
    first = importlib.import_module(f"{package}.first")
    assert "return value" in inspect.getsource(first.late)
    assert first.__spec__ is not None and first.__spec__.name == f"{package}.first"


def test_a_module_that_does_not_exist_stays_missing(package: str, patcher: ImportPatcher) -> None:
    patcher.install()
    with pytest.raises(ModuleNotFoundError, match="never"):
        importlib.import_module(f"{package}.never")
