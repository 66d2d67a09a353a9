"""The hook reference in the docs is the hooks' own docstrings, word for word."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from mx_plugin import hookspecs

PAGE = (Path(__file__).parents[2] / "docs" / "plugins.md").read_text(encoding="utf-8")
HOOKS = {name: hook for name, hook in vars(hookspecs).items() if name.startswith("mx_register")}


@pytest.mark.parametrize("name", HOOKS)
def test_every_hook_is_documented_with_its_arguments_and_docstring(name: str) -> None:
    arguments = ", ".join(inspect.signature(HOOKS[name]).parameters)
    assert f"### `{name}({arguments})`\n\n{inspect.getdoc(HOOKS[name])}\n" in PAGE


def test_no_hook_is_documented_that_does_not_exist() -> None:
    documented = [line.split("`")[1].split("(")[0] for line in PAGE.splitlines() if line.startswith("### `mx_")]
    assert sorted(documented) == sorted(HOOKS)
