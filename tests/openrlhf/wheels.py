"""The source of OpenRLHF's releases, from their wheels, without installing them: they are read, never imported."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest


def wheel_of(version: str, cache: Path) -> Path:
    """The wheel of a release, fetched once by pip into ``cache``; in CI a failure to fetch it is a failure."""
    found = sorted(cache.glob(f"openrlhf-{version}-*.whl"))
    if found:
        return found[0]
    cache.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    target = ["--python-version", "3.11", "--platform", "manylinux1_x86_64", "--dest", str(cache)]
    ran = subprocess.run([*command, *target, f"openrlhf=={version}"], capture_output=True, text=True, check=False)
    if ran.returncode:
        reason = f"the wheel of openrlhf {version} cannot be fetched: {ran.stderr.strip()[-300:]}"
        if "CI" in os.environ:
            pytest.fail(reason)
        pytest.skip(reason)
    return sorted(cache.glob(f"openrlhf-{version}-*.whl"))[0]


class Source:
    """A release's modules as syntax trees."""

    def __init__(self, wheel: Path) -> None:
        self._archive = zipfile.ZipFile(wheel)
        self._names = {name.partition("purelib/")[2] or name: name for name in self._archive.namelist()}

    def tree(self, module: str) -> ast.Module:
        """The syntax tree of a module by its dotted name."""
        return ast.parse(self._archive.read(self._names[module.replace(".", "/") + ".py"]))

    def classes(self, module: str) -> dict[str, ast.ClassDef]:
        """Classes at a module's top level."""
        return {node.name: node for node in self.tree(module).body if isinstance(node, ast.ClassDef)}

    def methods(self, module: str, cls: str) -> dict[str, tuple[str, ...]]:
        """Method -> parameters, those inherited within the module included."""
        known = self.classes(module)
        node = known[cls]
        found: dict[str, tuple[str, ...]] = {}
        for base in node.bases:
            if isinstance(base, ast.Name) and base.id in known:
                found |= self.methods(module, base.id)
        for item in node.body:
            if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef):
                found[item.name] = tuple(argument.arg for argument in item.args.args)
        return found

    def flags(self, module: str) -> Iterator[str]:
        """Names of the command line's flags: the first argument of each ``add_argument``."""
        for node in ast.walk(self.tree(module)):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "add_argument" and node.args:
                if isinstance(node.args[0], ast.Constant):
                    yield str(node.args[0].value)
