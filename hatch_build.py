"""The build hook: compiles mx_cpu's kernels into the wheel, for standard and editable builds; puts the sources of the
simulated board into it.

Without a compiler the wheel stays pure Python: the backend ``cpu`` is then the reference, and
``mx-plugin doctor`` says so. MX_BUILD_NATIVE=0 leaves the kernels out, =1 makes a failure an error.
"""

from __future__ import annotations

import importlib.util
import os
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

VARIABLE = "MX_BUILD_NATIVE"
SIMULATED_BOARD = {"hardware/rtl": "mx_fpga/hardware/rtl", "hardware/sim": "mx_fpga/hardware/sim"}
"""Folder of the repository: where mx_fpga.simulator finds it in an installation. Editable ones use the repository's."""


class NativeBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """``[tool.hatch.build.targets.wheel.hooks.custom]``."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and say that the wheel holds a library of this platform."""
        if version == "standard":
            build_data["force_include"].update(SIMULATED_BOARD)
        wanted = os.environ.get(VARIABLE, "")
        if wanted == "0":
            self.app.display_warning(f"{VARIABLE}=0: no native kernels")
            return
        build = _build_module(Path(self.root))
        try:
            library: Path = build.compile_library()
        except build.BuildError as error:
            if wanted == "1":
                raise
            self.app.display_warning(f"no native kernels, the backend cpu will be the slow reference: {error}")
            build.LIBRARY.unlink(missing_ok=True)
            return
        # Ignored by git, so named, or the wheel silently lacks it.
        build_data["artifacts"].append(library.relative_to(self.root).as_posix())
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"


def _build_module(root: Path) -> Any:
    path = root / "hardware" / "mx_cpu" / "build.py"
    spec = importlib.util.spec_from_file_location("_mx_cpu_build", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
