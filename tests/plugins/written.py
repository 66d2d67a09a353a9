"""Packages written by ``mx-plugin new``, importable in processes of their own without an installer."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from mx_plugin.scaffold import PluginNames, write_package


def write(kind: str, name: str, folder: Path) -> Path:
    """Write a package of ``kind``, and beside its module the metadata that an installer would leave; return it."""
    names = PluginNames.of(name)
    package = write_package(kind, names, folder)
    info = package / "src" / f"{names.module}-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {names.distribution}\nVersion: 0.1.0\n", "utf-8")
    (info / "entry_points.txt").write_text(f"[mx_plugin]\n{name} = {names.module}.plugin\n", "utf-8")
    return package


def python(package: Path, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run Python with the package on its path."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MX_PLUGIN_", "PYTEST_"))}
    env = inherited | {"PYTHONPATH": str(package / "src"), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, *arguments], env=env, cwd=cwd or package, capture_output=True, text=True, check=False
    )


def own_tests(package: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the package's own tests, as its author does."""
    return python(package, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments)
