"""Third-party plugins for tests: real distributions in a folder of their own, seen by real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from mx_plugin import plugins

GOOD = """
    from mx_plugin import hookimpl

    MX_PLUGIN_INTERFACE = (1, 0)

    @hookimpl
    def mx_register_backends(register):
        register("{name}", make, summary="a third party's backend")

    def make(**options):
        from mx_cpu.reference import ReferenceBackend
        return ReferenceBackend(**options)
"""


@dataclass
class Site:
    """A folder like site-packages; each plugin module leaves a marker file there when it is imported."""

    folder: Path

    def install(self, name: str, source: str = GOOD, *, distribution: str = "", entry: str = "") -> None:
        """Install module ``name`` with a dist-info whose entry point is ``name`` too."""
        marker = f"open({str(self.folder / (name + '.imported'))!r}, 'w').close()\n"
        (self.folder / f"{name}.py").write_text(marker + dedent(source.replace("{name}", name)), "utf-8")
        self.dist_info(distribution or f"{name}-dist", f"[mx_plugin]\n{name} = {entry or name}\n")

    def dist_info(self, distribution: str, entry_points: str) -> None:
        """Write the metadata of a distribution, as an installer would."""
        info = self.folder / f"{distribution.replace('-', '_')}-2.5.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 2.5\n", "utf-8")
        (info / "entry_points.txt").write_text(entry_points, "utf-8")

    def imported(self, name: str) -> bool:
        """Whether any process has imported the plugin module of that name."""
        return (self.folder / f"{name}.imported").exists()

    def python(self, *args: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run Python with this folder on its path."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("MX_PLUGIN_")}
        env = inherited | {"PYTHONPATH": str(self.folder), "OMP_NUM_THREADS": "1"} | environment
        return subprocess.run([sys.executable, *args], env=env, capture_output=True, text=True, check=False)

    def mx_plugin(self, *args: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run ``mx-plugin`` with this folder on its path."""
        return self.python("-m", "mx_plugin", *args, **environment)

    def report(self, **environment: str) -> dict[str, dict[str, Any]]:
        """What ``mx-plugin plugins --json`` says, by plugin."""
        done = self.mx_plugin("plugins", "--json", **environment)
        assert done.returncode == 0, done.stderr
        return {record["name"]: record for record in json.loads(done.stdout)["plugins"]}


@pytest.fixture
def site(tmp_path: Path) -> Site:
    folder = tmp_path / "site"
    folder.mkdir()
    return Site(folder)


@pytest.fixture
def fresh_plugins() -> Iterator[None]:
    """Plugins loaded anew, and whatever a test registers forgotten afterwards."""
    plugins.reset()
    yield
    plugins.reset()
