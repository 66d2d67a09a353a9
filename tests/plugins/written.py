"""Packages written by ``mx-plugin new``, importable in processes of their own without an installer."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
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


def python(*arguments: str, path: Sequence[Path], cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run Python with the packages of ``path`` importable, and found as plugins."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MX_PLUGIN_", "PYTEST_"))}
    sources = os.pathsep.join(str(package / "src") for package in path)
    env = inherited | {"PYTHONPATH": sources, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run([sys.executable, *arguments], env=env, cwd=cwd, capture_output=True, text=True, check=False)


def own_tests(*packages: Path, options: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """Run the packages' own tests, as their authors do; in one process, since most of its time is torch's import."""
    root = packages[0].parent
    command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib", f"--rootdir={root}", *options]
    return python(*command, *(f"{package.name}/tests" for package in packages), path=packages, cwd=root)
