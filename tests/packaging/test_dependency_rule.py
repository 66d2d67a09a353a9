"""The dependency rule holds, and the contracts that guard it can fail."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import grimp
import pytest

LIBRARIES = {"torch", "numpy", "pluggy", "yaml"}
"""What the core may import anywhere."""

ROOM_LIBRARIES = {"safetensors", "zeus", "plotly", "scipy", "pytest", "hypothesis"}
"""What one room of the core may import; which room, the import contracts say."""

LINT_IMPORTS = Path(sys.executable).with_name("lint-imports")

VIOLATIONS = {
    "a framework": ("mx_plugin/execution/stray.py", "import transformers", "no framework"),
    "a framework, lazily": ("mx_plugin/execution/stray.py", "def f():\n    import trl", "no framework"),
    "an adapter": ("mx_plugin/stray.py", "from mx_trl import roles", "no adapter"),
    "a hardware package, for types only": (
        "mx_plugin/stray.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import mx_cpu",
        "no adapter",
    ),
    "hardware by an adapter": ("adapters/mx_trl/stray.py", "import mx_cpu", "never import each other"),
    "an adapter by an adapter": ("adapters/mx_openrlhf/stray.py", "import mx_trl", "never import each other"),
    "an adapter by hardware": ("hardware/mx_cpu/stray.py", "import mx_trl", "never import each other"),
    "safetensors outside its room": ("mx_plugin/ledger/stray.py", "import safetensors.torch", "safetensors"),
    "zeus outside its room": ("mx_plugin/ledger/stray.py", "import zeus.monitor", "zeus"),
    "plotly outside its room": ("mx_plugin/cli/stray.py", "import plotly", "plotly"),
    "scipy outside its room": ("mx_plugin/precision/stray.py", "import scipy.stats", "scipy"),
    "pytest outside its room": ("mx_plugin/formats/stray.py", "import pytest", "pytest"),
}


def broken_contracts(tree: Path) -> list[str]:
    """Names of the contracts that import-linter finds broken in a tree; its other failures raise."""
    path = os.pathsep.join(str(tree / root) for root in ("", "adapters", "hardware"))
    run = subprocess.run(
        [str(LINT_IMPORTS), "--no-cache"],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    broken = re.findall(r"^(.+) BROKEN\b", run.stdout, re.MULTILINE)
    assert bool(broken) == bool(run.returncode), run.stdout + run.stderr
    return broken


@pytest.fixture(scope="module")
def copy_of_the_sources(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    tree = tmp_path_factory.mktemp("sources")
    for part in ("mx_plugin", "adapters", "hardware"):
        shutil.copytree(repository / part, tree / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(repository / "pyproject.toml", tree)
    return tree


def test_the_contracts_are_kept(copy_of_the_sources: Path) -> None:
    assert broken_contracts(copy_of_the_sources) == []


@pytest.mark.parametrize(("path", "source", "contract"), VIOLATIONS.values(), ids=VIOLATIONS.keys())
def test_importing_what_the_rule_forbids_breaks_a_contract(
    copy_of_the_sources: Path, path: str, source: str, contract: str
) -> None:
    stray = copy_of_the_sources / path
    stray.write_text(source + "\n")
    try:
        broken = broken_contracts(copy_of_the_sources)
    finally:
        stray.unlink()
    assert any(contract in name for name in broken), f"broken: {broken}"


def test_the_core_imports_no_library_beyond_those_it_may() -> None:
    graph = grimp.build_graph("mx_plugin", include_external_packages=True, cache_dir=None)
    outside = {module for module in graph.modules if graph.is_module_squashed(module)}
    assert "torch" in outside
    assert outside - set(sys.stdlib_module_names) <= LIBRARIES | ROOM_LIBRARIES
